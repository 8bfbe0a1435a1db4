"""A pass over samples that are reached by index: batches cut from rows that were taken together, or fetched."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .columns import Columns, Leaf, Unsure


class Stream:
    """The batches of a pass, bit for bit those of the DataLoader; each is a copy of its own.

    Args:
        columns: the data in memory; None where every batch has to be fetched.
        order: the indices of the batches: a tensor for one batch, or for several that may be taken at once; or a
            `Foreign`.
        size: samples per batch, where a tensor holds several.
        fetch: makes a batch as the DataLoader does.
    """

    def __init__(self, columns: Columns | None, order: Iterable[Any], size: int, fetch: Callable[[Any], Any]) -> None:
        self.columns, self.order, self.size, self.fetch = columns, order, size, fetch
        #: The indices of the batch that was handed out last (int64), or None where they are not plain numbers.
        self.indices: Tensor | None = None

    def __iter__(self) -> Iterator[Any]:
        columns, size = self.columns, self.size
        structure = None if columns is None else columns.structure()
        for group in self._groups():
            taken, leaves = None, []
            if columns is not None and type(group) is Tensor and is_alike(structure, columns.structure()):
                leaves = columns.leaves()
                with suppress(Unsure):  # what is wrong with a batch is to show when it is its turn
                    taken = columns.take(group)
            if columns is None or taken is None:
                if (yield from self._one_by_one(group)):
                    return
            elif not size or len(group) <= size:
                self.indices = group
                yield taken[0] if columns.single else taken
            else:
                # Not `split`: its parts count changes made to any of them as made to all, which autograd would refuse.
                parts = [column.unsafe_split(size) for column in (group, *taken)]
                for number, (self.indices, *batch) in enumerate(zip(*parts, strict=True)):
                    if number and is_changed(leaves):
                        if (yield from self._one_by_one(group[number * size :])):
                            return
                        break
                    yield batch[0] if columns.single else batch

    def _groups(self) -> Iterator[Any]:
        """The order; batches of several are taken apart where a change of the data would no longer be seen."""
        columns, size = self.columns, self.size
        for group in self.order:
            if columns is not None and type(group) is Tensor and 0 < size < len(group) and not columns.watched:
                yield from group.split(size)
            else:
                yield group

    def _one_by_one(self, group: Any) -> Generator[Any, None, bool]:
        """Fetch the batches of a group as the DataLoader does, and return whether the dataset ended the pass."""
        foreign = type(group) is Foreign
        for indices in [group.indices] if foreign else group.split(self.size or len(group)):
            self.indices = None if foreign else indices
            try:
                batch = self.fetch(indices if foreign else indices.tolist())
            except StopIteration:  # which ends a loop over the DataLoader, too
                return True
            yield batch
        return False


@dataclass
class Foreign:
    """What a batch sampler gave that is no list of plain numbers."""

    indices: Any


def is_alike(one: list[Any] | None, other: list[Any]) -> bool:
    """Tell whether two lists are of the same objects."""
    return one is not None and len(one) == len(other) and all(map(operator.is_, one, other))


def is_changed(leaves: list[Leaf]) -> bool:
    """Tell whether data is no longer what it was: changed in place, or replaced."""
    for held, owner, name, tensors, versions in leaves:
        if owner is not None and getattr(owner, name) is not held:
            return True
        if versions and [tensor._version for tensor in tensors] != versions:
            return True
    return False


def groups(pieces: Iterable[Tensor], size: int, most: int, drop_last: bool) -> Iterator[Tensor]:
    """Cut an order that comes in pieces into groups of whole batches, the last maybe short.

    A piece is asked for when the batch that needs it is.

    Args:
        pieces: the order.
        size: indices per batch.
        most: batches per group.
        drop_last: whether a last batch that is short is left out.
    """
    left = torch.empty(0, dtype=torch.int64)
    for piece in pieces:
        left = torch.cat([left, piece]) if len(left) else piece
        whole = len(left) - len(left) % size
        for first in range(0, whole, most * size):
            yield left[first : min(first + most * size, whole)]
        left = left[whole:]
    if len(left) and not drop_last:
        yield left
