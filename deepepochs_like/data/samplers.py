"""What decides the order of a loader's batches, and what of it a checkpoint can know.

Torch's samplers, and accelerate's, are functions of generators that are saved. A sampler with a `state_dict` of its own
is asked for it; of any other it can only be told whether it gives signs of a state that nobody knows.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..errors import a_kind
from ..rng import rng_state
from ..types import StateDict, Stateful
from ..utils.warn import warn

#: Whose orders depend on nothing but generators and the number of the epoch.
_KNOWN = ("torch", "torchdata", "accelerate", "builtins", "numpy", "_collections_abc")
_DRAWING = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)


def _owners(loader: Any) -> list[Any]:
    """The samplers of a loader, each once; of a loader of another kind, itself."""
    if isinstance(loader, DataLoader):
        batching = loader.batch_sampler
        found = [loader.sampler, batching, getattr(batching, "sampler", None)]
        return list({id(owner): owner for owner in found if owner is not None}.values())
    return [loader]


def _is_known(owner: Any) -> bool:
    iterate = getattr(type(owner), "__iter__", None)
    home = getattr(iterate, "__module__", None) or type(owner).__module__
    return home.partition(".")[0] in _KNOWN


def state_of(loader: Any) -> list[StateDict]:
    """The states of what decides the order: empty where nothing can be known, or nothing has to be."""
    return [] if isinstance(loader, Stateful) else [_state(owner) for owner in _owners(loader)]


def _state(owner: Any) -> StateDict:
    state: StateDict = {}
    if callable(getattr(owner, "set_epoch", None)) and type(getattr(owner, "epoch", None)) is int:
        state["epoch"] = owner.epoch
    if _is_known(owner):
        return state
    if isinstance(owner, Stateful):
        return {**state, "state": deepcopy(owner.state_dict())}
    named = getattr(owner, "__dict__", {}).items()
    numbers = {name: value for name, value in named if type(value) in (int, float) and name not in state}
    drawing = [name for name, value in named if isinstance(value, _DRAWING) and name != "generator"]
    return {**state, "numbers": numbers, "drawing": drawing}


def load(loader: Any, states: list[StateDict] | None) -> None:
    """Give samplers the states back that they have."""
    if not states or isinstance(loader, Stateful):
        return
    for owner, state in zip(_owners(loader), states, strict=False):
        if "state" in state and isinstance(owner, Stateful):
            owner.load_state_dict(deepcopy(state["state"]))
        if "epoch" in state and hasattr(owner, "set_epoch"):
            owner.set_epoch(state["epoch"])


def check(name: str, loader: Any, state: StateDict) -> None:
    """Warn of what decides the order, where it is not as it was and has no state that could be asked for."""
    then = (state["start"] or state).get("samplers")
    if not state["passes"] or not then or isinstance(loader, Stateful):
        return
    for owner, was in zip(_owners(loader), then, strict=False):
        now = _state(owner)
        drawing = now.get("drawing", [])
        before = was.get("numbers", {})
        counted = [key for key, value in now.get("numbers", {}).items() if before.get(key, value) != value]
        if drawing or counted:
            signs = [f"draws from {', '.join(drawing)}"] * bool(drawing)
            signs += [f"had another value of {', '.join(counted)}"] * bool(counted)
            message = (
                f"{name}: the order is decided by {a_kind(owner)}, which {' and '.join(signs)}; no checkpoint "
                "knows of that, so the run does not go on exactly. Give it state_dict/load_state_dict"
            )
            warn(message)


class Watched:
    """An order that workers read ahead of, which warns where it draws with each entry."""

    def __init__(self, order: Iterable[Any], name: str, kind: str) -> None:
        self.order, self.name, self.kind = order, name, kind

    def __iter__(self) -> Iterator[Any]:
        entries = iter(self.order)
        for entry in entries:
            yield entry
            break
        else:
            return
        before = rng_state()
        for entry in entries:
            if not _same(before, rng_state()):
                message = (
                    f"{self.name}: {self.kind} draws its order little by little, and worker processes read ahead: "
                    "what else draws random numbers meanwhile changes it, so the run does not go on exactly. Draw the "
                    "whole order in __iter__, from a generator of its own, or load with num_workers=0"
                )
                warn(message)
            yield entry
            break
        yield from entries


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return all(map(_same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)
