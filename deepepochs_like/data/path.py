"""Which way a loader's batches take: cut from memory here, or through the DataLoader as it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, default_collate

from .columns import Columns, Fetched, Unsure, as_indices, columns_of
from .rest import Rest, is_plain_batching, pieces_of
from .stream import Stream, groups, is_changed

#: Batches, and bytes, that are taken from memory at once: enough to share the cost, few enough to stay in the cache.
MOST_BATCHES, MOST_BYTES = 64, 1 << 19
#: Where torch lays out new tensors. A batch that began elsewhere might be rounded differently by vectorised kernels.
ALIGNMENT = 64


def choose(loader: Any, former: tuple[Columns, Any] | None = None) -> Columns:
    """The columns of a loader whose batches can be made here: cut from memory, or fetched by index.

    Args:
        loader: any loader.
        former: its columns in the pass before, with their leaves then; while those are the same, nothing is looked at.

    Raises:
        Unsure: it is left as it is; the message says why.
    """
    if not isinstance(loader, DataLoader):
        raise Unsure(f"a {type(loader).__name__} is iterated as it is")
    if type(loader) is not DataLoader or "__iter__" in vars(loader):
        raise Unsure(f"{type(loader).__name__} is a DataLoader of its own kind")
    if isinstance(loader.dataset, IterableDataset):
        raise Unsure("its dataset is iterated, not indexed")
    if loader.batch_sampler is None:
        raise Unsure("it does not batch (batch_size=None)")
    if loader.pin_memory and torch.accelerator.is_available():
        raise Unsure("its batches are pinned")
    if torch._C._autograd._profiler_enabled():
        raise Unsure("a profiler is at work, which has a label for it")
    try:
        return _columns(loader, former)
    except Unsure as reason:
        if loader.num_workers:
            raise
        return Fetched(reason)


def _columns(loader: Any, former: tuple[Columns, Any] | None) -> Columns:
    """The columns of a loader's dataset, where the default collate makes batches of its samples."""
    if loader.collate_fn is not default_collate:
        raise Unsure(f"its collate_fn is {getattr(loader.collate_fn, '__name__', loader.collate_fn)}")
    if loader.worker_init_fn is not None and loader.num_workers:
        raise Unsure("its workers have a worker_init_fn")
    if loader.num_workers and loader.persistent_workers and loader._iterator is not None:
        raise Unsure("its workers are running already")
    if former is not None and former[0].watched and not is_changed(former[1]):
        return former[0]
    try:
        return columns_of(loader.dataset)
    except Unsure:
        raise
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise Unsure(f"its dataset ({type(loader.dataset).__name__}) is not in order: {error}") from error


def stream_of(
    loader: Any, columns: Columns, first: bool, skip: int = 0, caught_up: Callable[[], bool] | None = None
) -> Stream:
    """Open a pass, drawing what the DataLoader draws when its pass is opened.

    Args:
        loader: whose batches they are.
        columns: its dataset.
        first: whether it is the first pass over the loader.
        skip: how many batches were seen before.
        caught_up: given where a pass is opened again, and all that was drawn for those batches is to be drawn now:
            tells whether the loader's generators have come to where they were; else the next batch is drawn as well.
    """
    batching: Any = loader.batch_sampler
    known = is_plain_batching(batching)
    rest = None if known else Rest(batching, skip)
    if rest is not None:
        iter(rest)
    if first or not (loader.num_workers and loader.persistent_workers):  # the seed of workers, had there been any
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
    order = _order_of(batching, columns, skip, caught_up) if rest is None else _listed(rest)
    if rest is not None and caught_up is not None:  # now, while the generators are those of the pass's start
        rest.skip()
        if not caught_up():
            rest.draw_next()
    return Stream(columns, order, batching.batch_size if known else 0, partial(_fetch, loader))


def _order_of(batching: Any, columns: Columns, skip: int, caught_up: Callable[[], bool] | None) -> Iterator[Tensor]:
    """The rest of the order of a batch sampler of torch's, as tensors."""
    size, most = batching.batch_size, _together(columns, batching.batch_size)
    if caught_up is None:  # drawn when the first batch is asked for
        lazy = (piece for _ in (0,) for piece in _pieces(batching.sampler, skip * size))
        return groups(lazy, size, most, batching.drop_last)
    order = groups(_pieces(batching.sampler, skip * size), size, most, batching.drop_last)
    if skip and caught_up():
        return order
    return itertools.chain(list(itertools.islice(order, 1)), order)


def _pieces(sampler: Any, skip: int) -> Iterator[Tensor]:
    pieces = pieces_of(sampler, skip)
    if type(sampler) is not SubsetRandomSampler:
        return pieces
    listed = as_indices(sampler.indices)
    return (listed[piece] for piece in pieces)


def _listed(rest: Rest) -> Iterator[Any]:
    """The rest of the order of any other batch sampler: a tensor where it gives a list of plain numbers."""
    for indices in rest:
        plain = type(indices) is list and set(map(type, indices)) == {int}
        yield torch.tensor(indices) if plain else indices


def _fetch(loader: Any, indices: Any) -> Any:
    """Make a batch as the DataLoader does."""
    dataset = loader.dataset
    fetch = getattr(dataset, "__getitems__", None)  # as torch's fetcher has it
    return loader.collate_fn(fetch(indices) if fetch else [dataset[index] for index in indices])


def _together(columns: Columns, size: int) -> int:
    """How many batches may be taken from the columns at once."""
    if not columns.watched:
        return 1
    likes = columns.likes()
    if any(like.is_floating_point() and like.nbytes * size % ALIGNMENT for like in likes):
        return 1
    return max(1, min(MOST_BATCHES, MOST_BYTES // max(1, sum(like.nbytes for like in likes) * size)))
