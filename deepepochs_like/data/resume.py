"""Going on in the middle of a pass: whether the data is still the same, and how to reach the position in it.

Nothing here runs before a state is saved or loaded.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from ..errors import EngineWarning, StateError
from ..types import StateDict, Stateful
from .rest import Rest
from .workers import SeededDataset, SeededOrder, base_seed, in_likeness, is_plain, iterate, order_of, seedable


def length_of(data: Any) -> int | None:
    """The length of a loader or dataset, or None where it does not know."""
    try:
        return len(data)
    except TypeError:  # no __len__, or one that says it does not know (a DataLoader over an IterableDataset)
        return None


def figures_of(loader: Any) -> StateDict:
    """What tells a loader's data from other data, as far as it can be known: counts and the type of its sampler."""
    figures: StateDict = {"batches": length_of(loader), "samples": None, "batch_size": None, "sampler": None}
    if isinstance(loader, DataLoader):
        batching = loader.batch_sampler
        size = loader.batch_size if loader.batch_size is not None else getattr(batching, "batch_size", None)
        sampler = loader.sampler if batching is None or type(batching) is BatchSampler else batching
        figures["samples"], figures["sampler"] = length_of(loader.dataset), type(sampler).__name__
        figures["batch_size"] = size if isinstance(size, int) else None
    return figures


def _known(value: Any) -> Any:
    return "unknown" if value is None else value


def check_data(name: str, loader: Any, state: StateDict) -> None:
    """Warn where the data is not what a state was taken with.

    Raises:
        StateError: a pass is open in the state at a position behind the end of the data there is now.
    """
    if "data" not in state:
        return
    was, now = state["data"], figures_of(loader)
    changed = ", ".join(
        f"{key} {_known(was.get(key))}, now {_known(value)}" for key, value in now.items() if was.get(key) != value
    )
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
        warnings.warn(message, EngineWarning, stacklevel=4)


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
    fix = "give it state_dict/load_state_dict"
    if is_plain(loader):
        kind = type(loader.dataset).__name__
        fix = f"give its dataset ({kind}) state_dict/load_state_dict and load it with num_workers=0"
    warnings.warn(
        f"{name} ({type(loader).__name__}) cannot be positioned: the {batches} batches already seen are read "
        f"again and dropped; {fix} to resume it exactly",
        EngineWarning,
        stacklevel=4,
    )
    iterator = begin()
    for _ in itertools.islice(iterator, batches):
        pass
    return iterator


def _cut(loader: DataLoader[Any], name: str, batches: int, caught_up: Callable[[], bool], first: bool) -> Iterator[Any]:
    """The rest of a pass of a DataLoader over samples that are loaded by index."""
    rest = Rest(order_of(loader), batches)
    if seedable(loader):
        order = SeededOrder(rest, batches)
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
