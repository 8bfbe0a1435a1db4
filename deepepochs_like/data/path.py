"""Which way a loader's batches take: cut from memory, fetched by index, or through the DataLoader as it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    default_collate,
)

from ..errors import a_kind
from .columns import Columns, Unsure, as_indices, columns_of
from .rest import Rest, is_plain_batching, pieces_of
from .stream import Foreign, Stream, groups, is_alike, is_changed

#: Batches, and bytes, that are taken from memory at once: enough to share the cost, few enough to stay in the cache.
MOST_BATCHES, MOST_BYTES = 64, 1 << 19
#: Where torch lays out new tensors. A batch that began elsewhere might be rounded differently by vectorised kernels.
ALIGNMENT = 64


#: The methods by which a DataLoader is iterated, as torch has them.
_METHODS = (DataLoader.__iter__, DataLoader._get_iterator)


def check_loader(loader: Any) -> None:
    """Raise `Unsure` unless a loader's batches are those that its batch sampler, dataset and collate_fn make."""
    if not isinstance(loader, DataLoader):
        raise Unsure(f"{a_kind(loader)} is iterated as it is")
    if type(loader) is not DataLoader or "_get_iterator" in vars(loader):
        raise Unsure(f"{type(loader).__name__} is a DataLoader of its own kind")
    if (DataLoader.__iter__, DataLoader._get_iterator) != _METHODS:
        raise Unsure("a method of DataLoader has been replaced")
    if isinstance(loader.dataset, IterableDataset):
        raise Unsure("its dataset is iterated, not indexed")
    if loader.batch_sampler is None:
        raise Unsure("it does not batch (batch_size=None)")
    if loader.pin_memory and torch.accelerator.is_available():
        raise Unsure("its batches are pinned")
    if torch._C._autograd._profiler_enabled():
        raise Unsure("a profiler is at work, which has a label for it")


def choose(loader: Any, former: Held | None = None) -> Columns:
    """The columns of a loader whose batches can be cut from memory.

    Args:
        loader: one that `check_loader` lets pass.
        former: its columns in the pass before; as long as the data is the same, so are they.

    Raises:
        Unsure: its batches have to be fetched, by its workers where it has some; the message says why.
    """
    if loader.collate_fn is not default_collate:
        raise Unsure(f"its collate_fn is {getattr(loader.collate_fn, '__name__', loader.collate_fn)}")
    if loader.num_workers:
        _check_workers(loader)
    if former is not None and former.is_fresh():
        return former.columns
    try:
        return columns_of(loader.dataset)
    except Unsure:
        raise
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise Unsure(f"its dataset ({type(loader.dataset).__name__}) is not in order: {error}") from error


def _check_workers(loader: Any) -> None:
    """Raise `Unsure` where it makes a difference that workers are not started: they read ahead of the order."""
    if loader.worker_init_fn is not None:
        raise Unsure("its workers have a worker_init_fn")
    if loader.persistent_workers and loader._iterator is not None:
        raise Unsure("its workers are running already")
    plain, sampler = is_plain_batching(loader.batch_sampler), getattr(loader.batch_sampler, "sampler", None)
    if not plain or (type(sampler) is RandomSampler and sampler.replacement):
        raise Unsure("its workers read ahead of an order that is drawn little by little")


class Held:
    """Columns as they were, to be known again.

    Args:
        columns: of a dataset.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns, self.leaves, self.structure = columns, columns.leaves(), columns.structure()

    def is_fresh(self) -> bool:
        """Whether they are still those of the data, which was neither changed nor replaced."""
        fresh = not is_changed(self.leaves) and self.columns.watched
        return fresh and is_alike(self.structure, self.columns.structure())


def stream_of(
    loader: Any, columns: Columns | None, first: bool, skip: int = 0, caught_up: Callable[[], bool] | None = None
) -> Stream:
    """Open a pass, drawing what the DataLoader draws when its pass is opened.

    Args:
        loader: whose batches they are.
        columns: its dataset; None where batches have to be fetched.
        first: whether it is the first pass over the loader.
        skip: how many batches were seen before.
        caught_up: given where a pass is opened again, and all that was drawn for those batches is to be drawn now:
            tells whether the loader's generators have come to where they were; else the next batch is drawn as well.
    """
    batching: Any = loader.batch_sampler
    listed = _list_of(batching, columns)
    pieces = _pieces_of(batching, listed, skip)
    rest = Rest(batching, skip) if pieces is None else None
    if rest is not None:
        iter(rest)
    if first or not (loader.num_workers and loader.persistent_workers):  # the seed of workers, had there been any
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
    size, fetch = 0 if pieces is None else batching.batch_size, partial(_fetch, loader)
    if rest is not None:
        if caught_up is not None:  # now, while the generators are those of the pass's start
            rest.skip()
            if not caught_up():
                rest.draw_next()
        return Stream(columns, _listed(rest), size, fetch)
    assert pieces is not None
    drawn = None if caught_up is None else pieces()
    order = groups(_drawn_late(pieces) if drawn is None else drawn, size, _together(columns, size), batching.drop_last)
    if caught_up is not None and not (skip and caught_up()):
        order = itertools.chain(list(itertools.islice(order, 1)), order)
    if listed is not None:
        order = _looked_up(order, listed, batching.sampler, batching.sampler.indices, size)
    return Stream(columns, order, size, fetch)


def _list_of(batching: Any, columns: Columns | None) -> Tensor | None:
    """What a SubsetRandomSampler lists, where that goes to columns and is numbers."""
    if columns is None or not is_plain_batching(batching) or type(batching.sampler) is not SubsetRandomSampler:
        return None
    try:
        return as_indices(batching.sampler.indices)
    except Unsure:
        return None


def _pieces_of(batching: Any, listed: Tensor | None, skip: int) -> Callable[[], Iterator[Tensor]] | None:
    """What draws the rest of an order of torch's, as tensors; None where it is another's, or lists no numbers."""
    if not is_plain_batching(batching) or (listed is None and type(batching.sampler) is SubsetRandomSampler):
        return None
    return partial(pieces_of, batching.sampler, skip * batching.batch_size)


def _looked_up(order: Iterator[Tensor], listed: Tensor, sampler: Any, held: Any, size: int) -> Iterator[Any]:
    """What a SubsetRandomSampler lists at the positions of an order; from another list, batch by batch."""
    for positions in order:
        if sampler.indices is held:
            yield listed[positions]
        else:
            yield from (_numbered([sampler.indices[at] for at in batch.tolist()]) for batch in positions.split(size))


def _drawn_late(pieces: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
    """An order that is drawn when the first batch is asked for."""
    yield from pieces()


def _listed(rest: Rest) -> Iterator[Any]:
    """The rest of the order of any other batch sampler: a tensor where it gives a list of plain numbers."""
    return map(_numbered, rest)


def _numbered(indices: Any) -> Any:
    """What a batch sampler gave: a tensor where it is a list of plain numbers."""
    if type(indices) is list and set(map(type, indices)) == {int}:
        with suppress(ValueError, RuntimeError):  # numbers of more than 64 bits
            return torch.tensor(indices)
    return Foreign(indices)


def _fetch(loader: Any, indices: Any) -> Any:
    """Make a batch as the DataLoader does."""
    dataset = loader.dataset
    fetch = getattr(dataset, "__getitems__", None)  # as torch's fetcher has it
    return loader.collate_fn(fetch(indices) if fetch else [dataset[index] for index in indices])


def _together(columns: Columns | None, size: int) -> int:
    """How many batches may be taken from the columns at once."""
    if columns is None or not columns.watched:
        return 1
    likes = columns.likes()
    if any(like.is_floating_point() and like.nbytes * size % ALIGNMENT for like in likes):
        return 1
    return max(1, min(MOST_BATCHES, MOST_BYTES // max(1, sum(like.nbytes for like in likes) * size)))
