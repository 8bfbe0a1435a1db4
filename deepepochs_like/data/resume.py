"""Going on in the middle of a pass: whether the data is still the same, and how to reach the position in it.

Nothing here runs before a state is saved or loaded.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Subset

from ..errors import StateError
from ..types import StateDict, Stateful
from ..utils.warn import warn
from .rest import Rest, is_known
from .samplers import Watched
from .workers import SeededDataset, SeededOrder, base_seed, in_likeness, is_plain, iterate, order_of, seedable

#: How many indices of a Subset are looked at, about, to tell it from another.
LOOKED_AT = 2000


def length_of(data: Any) -> int | None:
    """The length of a loader or dataset, or None where it does not know."""
    try:
        return len(data)
    except TypeError:  # no __len__, or one that says it does not know (a DataLoader over an IterableDataset)
        return None


def figures_of(loader: Any, drawing: str | None = None) -> StateDict:
    """What tells a loader's data from other data, as far as it can be known.

    Args:
        loader: whose data it is.
        drawing: where its dataset draws random numbers; see `drawing`.
    """
    figures: StateDict = {"batches": length_of(loader), "samples": None, "batch_size": None, "sampler": None}
    if isinstance(loader, DataLoader):
        batching = loader.batch_sampler
        size = loader.batch_size if loader.batch_size is not None else getattr(batching, "batch_size", None)
        sampler = loader.sampler if batching is None or type(batching) is BatchSampler else batching
        figures["samples"], figures["sampler"] = length_of(loader.dataset), type(sampler).__name__
        figures["batch_size"] = size if isinstance(size, int) else None
        figures["subset"] = _sign_of(loader.dataset)
    return {**figures, "drawing": drawing}


def drawing(loader: Any) -> str | None:
    """Where a dataset draws its random numbers, which are not the same there and there; None where it is not known."""
    if not is_plain(loader) or isinstance(loader.dataset, IterableDataset):
        return None
    return "worker processes" if loader.num_workers else "the main process"


def _sign_of(dataset: Any) -> str | None:
    """A sign of which samples a Subset holds, and in what order; of many some are looked at."""
    signs = []
    while type(dataset) is Subset:
        count = len(dataset.indices)
        looked_at = [int(dataset.indices[i]) for i in range(0, count, max(1, count // LOOKED_AT))]
        signs.append(zlib.crc32(repr((count, looked_at)).encode()))
        dataset = dataset.dataset
    return "-".join(f"{sign:08x}" for sign in signs) or None


def _changes(was: StateDict, now: StateDict) -> str:
    """In words, what of a loader's figures has changed."""
    words = []
    for key, value in now.items():
        before = was.get(key)
        if before == value or key not in was:
            continue
        if key == "drawing":
            if before is not None and value is not None:
                words.append(f"what the dataset draws (augmentation) was drawn in {before}, now in {value}")
        elif key == "subset":
            words.append("its Subset holds other samples, or in another order")
        else:
            words.append(f"{key} {_known(before)}, now {_known(value)}")
    return ", ".join(words)


def _known(value: Any) -> Any:
    return "unknown" if value is None else value


def check_data(name: str, loader: Any, state: StateDict, drawing: str | None = None) -> None:
    """Warn where the data is not what a state was taken with.

    Raises:
        StateError: a pass is open in the state at a position behind the end of the data there is now.
    """
    if "data" not in state:
        return
    now = figures_of(loader, drawing)
    changed = _changes(state["data"], now)
    if changed and state["start"] and now["batches"] is not None and state["position"] > now["batches"]:
        raise StateError(
            f"{name}: the state was taken {state['position']} batches into a pass; now there are but "
            f"{now['batches']} in it ({changed}). Resume with the data the state was taken with"
        )
    if changed:
        message = (
            f"{name} is not what it was when the state was taken: {changed}. The run goes on, but not as it would have "
            "with the data it began with"
        )
        warn(message)


def check_position(name: str, loader: Any, batches: int, held: bool = False) -> None:
    """Warn where a pass can be gone on with only by reading again what was seen, or without knowing what that was.

    Args:
        name: how messages call the loader.
        loader: whose pass it is.
        batches: how many were seen.
        held: whether its batches are cut from memory, by no workers.
    """
    if not getattr(loader, "in_order", True) and seedable(loader) and loader.num_workers > 1 and not held:
        warn(
            f"{name} has in_order=False: its batches came in the order in which its workers were ready, and which "
            f"{batches} have been seen is not known; the run goes on behind the first {batches}, so that some may be "
            "seen twice and others not at all. Load with in_order=True to resume it exactly"
        )
    if isinstance(loader, Sequence) or (is_plain(loader) and not isinstance(loader.dataset, IterableDataset)):
        return
    fix = "give it state_dict/load_state_dict"
    if is_plain(loader):
        kind = type(loader.dataset).__name__
        fix = f"give its dataset ({kind}) state_dict/load_state_dict and load it with num_workers=0"
    warn(
        f"{name} ({type(loader).__name__}) cannot be positioned: the {batches} batches already seen are read "
        f"again and dropped; {fix} to resume it exactly"
    )


def stateful_dataset(loader: Any) -> Stateful | None:
    """The dataset of a loader where the dataset's own state says how far the pass is, else None.

    That is an IterableDataset with a `state_dict`, read without worker processes: it is then never read ahead.
    """
    if not is_plain(loader) or loader.num_workers or not isinstance(loader.dataset, IterableDataset):
        return None
    return loader.dataset if isinstance(loader.dataset, Stateful) else None


def position(
    loader: Any,
    name: str,
    batches: int,
    begin: Callable[[], Iterator[Any]],
    caught_up: Callable[[], bool],
    first: bool,
) -> Iterator[Any]:
    """Open a pass again behind the batches already seen; the generators are as they were at the pass's start.

    Args:
        loader: whose pass it is.
        name: how messages call it.
        batches: how many were seen.
        begin: opens the pass at its first batch.
        caught_up: tells whether the loader's generators have come to where the saved ones are.
        first: whether it is the first pass over the loader.
    """
    if is_plain(loader) and not isinstance(loader.dataset, IterableDataset):
        return _cut(loader, name, batches, caught_up, first)
    if isinstance(loader, Sequence):
        if type(loader).__iter__ is Sequence.__iter__:  # it loads what it is asked for, and is not to be asked
            return map(loader.__getitem__, range(batches, len(loader)))
        return itertools.islice(loader, batches, None)
    iterator = begin()
    for _ in itertools.islice(iterator, batches):
        pass
    return iterator


def _cut(loader: DataLoader[Any], name: str, batches: int, caught_up: Callable[[], bool], first: bool) -> Iterator[Any]:
    """The rest of a pass of a DataLoader over samples that are loaded by index."""
    rest = Rest(order_of(loader), batches)
    if seedable(loader):
        watched = rest if is_known(order_of(loader)) else Watched(rest, name, type(loader.sampler).__name__)
        order = SeededOrder(watched, batches)
        order.seed = base_seed(loader)
        return iterate(in_likeness(loader, order, SeededDataset(loader.dataset), first), name)
    rows = iterate(in_likeness(loader, rest), name)
    rest.skip()
    if not caught_up():  # the state was taken within a batch: one that is still to come, but has been drawn
        rest.draw_next()
    return rows


def same_states(generators: list[torch.Generator], states: list[torch.Tensor]) -> bool:
    """Tell whether generators are in the states given."""
    return all(torch.equal(g.get_state(), s) for g, s in zip(generators, states, strict=True))
