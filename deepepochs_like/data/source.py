"""A loader as a positioned stream: started, counted, and resumed without loading what was already seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..errors import ArgumentTypeError, LoaderError, StateError
from ..rng import rng_state, set_rng_state
from ..types import StateDict, Stateful
from . import resume
from .workers import SeededDataset, SeededOrder, base_seed, close, in_likeness, iterate, order_of, seedable


class BatchSource:
    """One loader, iterated once per pass.

    The plain DataLoader draws its own random numbers, in its own order; nothing is added to them. At the start of a
    pass the generators are captured, so that a later process can draw the same order again and skip what was seen.

    Args:
        loader: any iterable of batches.
        name: how messages call it, e.g. ``"train_dl"``.

    Raises:
        ArgumentTypeError: `loader` cannot be iterated.
    """

    def __init__(self, loader: Any, name: str) -> None:
        if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
            raise ArgumentTypeError(
                f"{name}={loader!r}: a {type(loader).__name__} cannot be iterated; a DataLoader or any iterable of "
                "batches is needed"
            )
        if isinstance(loader, (torch.Tensor, np.ndarray, torch.nn.Module)):
            raise ArgumentTypeError(
                f"{name} is a {type(loader).__name__}; batches are needed: "
                "DataLoader(TensorDataset(x, y), batch_size=...)"
            )
        if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
            raise ArgumentTypeError(
                f"{name} is a dataset ({type(loader).__name__}), which yields samples, not batches; pass "
                f"DataLoader({name}, batch_size=...)"
            )
        self.loader, self.name = loader, name
        self.passes = 0
        #: Batches taken from the pass that is open.
        self.position = 0
        self._start: StateDict = {}
        self._iterator: Iterator[Any] | None = None
        self._seeded: tuple[SeededOrder, DataLoader[Any]] | None = None

    @property
    def length(self) -> int | None:
        """Batches per pass, or None where the loader does not know."""
        return resume.length_of(self.loader)

    def check(self) -> None:
        """Raise `LoaderError` when it is known before the first batch that there is none."""
        if self.length == 0:
            raise LoaderError(f"{self.name} is empty: its length is 0{self._why_empty()}")

    def stream(self) -> Iterator[Any]:
        """The open pass, or a new one: the loader's own iterator, so that a batch costs nothing more."""
        if self._iterator is None:
            self._start = {"rng": rng_state(), "generators": [g.get_state() for g in self.generators()]}
            self.passes, self.position = self.passes + 1, 0
            self._iterator = self._begin()
        return self._iterator

    def _begin(self) -> Iterator[Any]:
        if not seedable(self.loader):
            return iterate(self.loader, self.name)
        if self._seeded is None:  # kept, so that persistent workers persist
            order = SeededOrder(order_of(self.loader))
            dataset = SeededDataset(self.loader.dataset)
            self._seeded = order, in_likeness(self.loader, order, dataset, self.passes <= 1)
        order, loader = self._seeded
        order.seed = base_seed(self.loader)
        return iterate(loader, self.name)

    def finish(self) -> None:
        """Close a pass that has ended.

        Raises:
            LoaderError: it had no batch: the loader is empty, or exhausted by an earlier pass.
        """
        empty, iterator = not self.position, self._iterator
        self.position, self._iterator, self._start = 0, None, {}
        if not empty:
            return
        if self.passes > 1 or iterator is self.loader:
            raise LoaderError(
                f"{self.name} is exhausted: pass {self.passes} over it yields no batch. An iterator or generator can "
                "be read once only; pass something that can be iterated again (a DataLoader, a list, an object with "
                "__iter__)"
            )
        raise LoaderError(f"{self.name} is empty: it yields no batch{self._why_empty()}")

    def release(self) -> None:
        """Let go of the pass's iterator and end its worker processes; position and generators stay known."""
        iterator, seeded = self._iterator, self._seeded
        self._iterator = self._seeded = None
        close(iterator, self.loader if seeded is None else seeded[1], self.name)

    def _why_empty(self) -> str:
        loader = self.loader
        if isinstance(loader, DataLoader) and loader.drop_last:
            samples = len(loader.dataset) if hasattr(loader.dataset, "__len__") else "few"
            return f" (drop_last=True leaves nothing of {samples} samples at batch_size={loader.batch_size})"
        return ""

    def generators(self) -> list[torch.Generator]:
        """The generators of the loader's own, each once: its own and its samplers'."""
        loader = self.loader
        sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
        owners = (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
        found = [g for owner in owners if isinstance(g := getattr(owner, "generator", None), torch.Generator)]
        return list({id(g): g for g in found}.values())

    def state_dict(self) -> StateDict:
        """The open pass: what it drew from at its start, how far it is, and the loader's generators now."""
        state: StateDict = {"passes": self.passes, "position": self.position, "start": self._start}
        state["generators"] = [g.get_state() for g in self.generators()]
        state["data"] = resume.figures_of(self.loader)
        if isinstance(self.loader, Stateful):
            state["loader"] = self.loader.state_dict()
        elif (dataset := resume.stateful_dataset(self.loader)) is not None:
            state["dataset"] = dataset.state_dict()
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the loader's generators and go on in the middle of its pass, where one is open.

        The pass's order is drawn again and what was seen of it is skipped: without loading it for a list or a
        DataLoader over a map-style dataset; a loader, or an IterableDataset read without workers, with a `state_dict`
        of its own is asked for it; anything else is read and dropped, and a warning says so. The global generators are
        left as they are.

        Raises:
            StateError: the loader has more or fewer generators than the state, or ends before the open pass's position.
        """
        mine = self.generators()
        if len(mine) != len(state["generators"]):
            raise StateError(
                f"{self.name} has {len(mine)} generators of its own; the state was taken with "
                f"{len(state['generators'])}: build the loader as in the run that is resumed"
            )
        resume.check_data(self.name, self.loader, state)
        self.passes, self.position, self._start = state["passes"], state["position"], state["start"]
        now = rng_state()
        self._iterator = self._reopen(mine, state)
        set_rng_state(now)
        for generator, saved in zip(mine, state["generators"], strict=True):
            generator.set_state(saved)

    def _reopen(self, mine: list[torch.Generator], state: StateDict) -> Iterator[Any] | None:
        own, dataset = "loader" in state and isinstance(self.loader, Stateful), resume.stateful_dataset(self.loader)
        if own:
            self.loader.load_state_dict(state["loader"])
        elif "dataset" in state and dataset is not None:
            own = True
            dataset.load_state_dict(state["dataset"])
        if not self._start:
            return None
        if own:
            return self._begin()
        set_rng_state(self._start["rng"])
        for generator, saved in zip(mine, self._start["generators"], strict=True):
            generator.set_state(saved)
        caught_up = partial(resume.same_states, mine, state["generators"])
        return resume.position(self.loader, self.name, self.position, self._begin, caught_up, self.passes <= 1)
