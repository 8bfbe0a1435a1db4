"""A pass over data in memory: batches cut from rows that were taken together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .columns import Columns, Leaf, Unsure


class Stream:
    """The batches of a pass, bit for bit those of the DataLoader; each is a copy of its own.

    Args:
        columns: the data.
        order: the indices of the batches: a tensor for one batch, or for several that may be taken at once; what is no
            list of indices at all is handed on to `fetch`.
        size: samples per batch, where a tensor holds several.
        fetch: makes a batch as the DataLoader does.
    """

    def __init__(self, columns: Columns, order: Iterable[Any], size: int, fetch: Callable[[Any], Any]) -> None:
        self.columns, self.order, self.size, self.fetch = columns, order, size, fetch
        #: The indices of the batch that was handed out last (int64), or None where they are not numbers.
        self.indices: Tensor | None = None

    def __iter__(self) -> Iterator[Any]:
        columns, single, size = self.columns, self.columns.single, self.size
        for group in self.order:
            leaves = columns.leaves()
            try:
                taken = columns.take(group) if isinstance(group, Tensor) and not columns.lacking else None
            except Unsure:
                taken = None
            if taken is None:  # what is wrong with a batch is to show when it is its turn
                yield from self._one_by_one(group)
            elif not size or len(group) <= size:
                self.indices = group
                yield taken[0] if single else taken
            else:
                # Not `split`: its parts count changes made to any of them as made to all, which autograd would refuse.
                parts = [column.unsafe_split(size) for column in (group, *taken)]
                for number, (self.indices, *batch) in enumerate(zip(*parts, strict=True)):
                    if number and is_changed(leaves):
                        yield from self._one_by_one(group[number * size :])
                        break
                    yield batch[0] if single else batch

    def _one_by_one(self, group: Any) -> Iterator[Any]:
        """Fetch the batches of a group as the DataLoader does."""
        for indices in group.split(self.size or len(group)) if isinstance(group, Tensor) else [group]:
            self.indices = indices if isinstance(indices, Tensor) else None
            yield self.fetch(indices.tolist() if isinstance(indices, Tensor) else indices)


def is_changed(leaves: list[Leaf]) -> bool:
    """Tell whether data is no longer what it was: changed in place, or replaced."""
    for tensors, versions, owner, name in leaves:
        if owner is not None and getattr(owner, name) is not tensors:
            return True
        if [tensor._version for tensor in tensors] != versions:
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
        if whole:
            yield from left[:whole].split(most * size)
            left = left[whole:]
    if len(left) and not drop_last:
        yield left
