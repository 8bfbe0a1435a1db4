"""A loader as a positioned stream: started, counted, and resumed without loading what was already seen."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..errors import ArgumentTypeError, LoaderError, StateError, a_kind
from ..rng import rng_state, set_rng_state
from ..types import StateDict, Stateful
from . import resume, samplers
from .columns import Unsure
from .path import Held, check_loader, choose, stream_of
from .rest import is_plain_batching
from .stream import Stream, is_alike
from .workers import (
    SeededDataset,
    SeededOrder,
    base_seed,
    close,
    in_likeness,
    iterate,
    order_of,
    seedable,
    settings_of,
)


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
                f"{name}={loader!r}: {a_kind(loader)} cannot be iterated; a DataLoader or any iterable of "
                "batches is needed"
            )
        if isinstance(loader, (torch.Tensor, np.ndarray, torch.nn.Module)):
            raise ArgumentTypeError(
                f"{name} is {a_kind(loader)}; batches are needed: DataLoader(TensorDataset(x, y), batch_size=...)"
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
        #: Opens the rest of a pass that a state was taken in.
        self._rest: Callable[[], Iterator[Any]] | None = None
        #: What knows the `indices` of the batch in progress in the dataset (int64), where anything does.
        self.known: Stream | None = None
        #: Which way the batches take, and why; see `look`.
        self.path = ""
        self._held: Held | None = None
        #: What worker processes load from, and what it was made of.
        self._seeded: tuple[SeededOrder, DataLoader[Any]] | None = None
        self._settings: list[Any] = []

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
        if self._iterator is None and self._rest is not None:
            self._iterator, self._rest = self._rest(), None
        elif self._iterator is None:
            here = self.look()
            plain = self._held is not None and is_plain_batching(self.loader.batch_sampler)  # only torch is drawn from
            self._start = {"rng": rng_state(plain), "generators": [g.get_state() for g in self.generators()]}
            self._start["samplers"] = [] if plain else samplers.state_of(self.loader)
            self.passes, self.position = self.passes + 1, 0
            self._iterator = self._begin(here)
        return self._iterator

    @property
    def is_held(self) -> bool:
        """Whether batches are cut from memory, so that none is waited for."""
        self.look()
        return self._held is not None

    def look(self) -> bool:
        """Find out which way the batches take, and tell whether they are made here; `path` says it, and why."""
        former, self._held = self._held, None
        try:
            check_loader(self.loader)
        except Unsure as reason:
            self.path = f"as it is: {reason}"
            return False
        try:
            self._held = Held(choose(self.loader, former))
        except Unsure as reason:
            way = "as it is" if self.loader.num_workers else "fetched by index, sample by sample"
            self.path = f"{way}: {reason}"
            return not self.loader.num_workers
        self.path = f"cut from memory: {a_kind(self.loader.dataset)} with the default collate"
        if self.loader.num_workers:
            self.path += f"; its {self.loader.num_workers} workers are not needed"
        return True

    def _begin(self, here: bool = False, caught_up: Callable[[], bool] | None = None) -> Iterator[Any]:
        """Open a pass; where all that was drawn for the batches already seen is to be drawn now, behind those."""
        self.known = None
        if here:
            columns = None if self._held is None else self._held.columns
            skip = 0 if caught_up is None else self.position
            self.known = stream_of(self.loader, columns, self.passes <= 1, skip, caught_up)
            return iter(self.known)
        if caught_up is not None:
            return resume.position(self.loader, self.name, self.position, self._begin, caught_up, self.passes <= 1)
        if not seedable(self.loader):
            return iterate(self.loader, self.name)
        settings = settings_of(self.loader)
        # Workers that persist are as they were when they were started, as the loader's own would be.
        if self._seeded is None or not (self.loader.persistent_workers or is_alike(self._settings, settings)):
            order = SeededOrder(order_of(self.loader))
            dataset = SeededDataset(self.loader.dataset)
            self._settings = settings
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
        self._note_end()
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

    def _note_end(self) -> None:
        """Remember of an iterable dataset whether it has ended: behind a short last batch it has, unseen."""
        if getattr(getattr(self._iterator, "_dataset_fetcher", None), "ended", False):
            self._start["ended"] = True

    def state_dict(self) -> StateDict:
        """The open pass: what it drew from at its start, how far it is, and the loader's generators now."""
        self._note_end()
        state: StateDict = {"passes": self.passes, "position": self.position, "start": self._start}
        state["generators"] = [g.get_state() for g in self.generators()]
        state["samplers"] = samplers.state_of(self.loader)
        state["data"] = resume.figures_of(self.loader, self._drawing())
        if isinstance(self.loader, Stateful):
            state["loader"] = self.loader.state_dict()
        elif (dataset := resume.stateful_dataset(self.loader)) is not None:
            state["dataset"] = dataset.state_dict()
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the loader's generators and samplers; the next `stream` goes on in its pass, where one is open.

        The pass's order is drawn again and what was seen of it is skipped: without loading it for a list or a
        DataLoader over a map-style dataset. A sampler with a `state_dict` of its own gets the one of the pass's start
        before it is asked for the order again. A loader, or an IterableDataset read without workers, with a
        `state_dict` gets its own back, which has to mean the rest of the pass: nothing, where all has been handed out;
        and the next pass behind the end of its iterator. Anything else is read and dropped, and a warning says so. The
        global generators are left as they are.

        Raises:
            StateError: the loader has more or fewer generators than the state, or ends before the open pass's position.
        """
        mine = self.generators()
        if len(mine) != len(state["generators"]):
            raise StateError(
                f"{self.name} has {len(mine)} generators of its own; the state was taken with "
                f"{len(state['generators'])}: build the loader as in the run that is resumed"
            )
        resume.check_data(self.name, self.loader, state, self._drawing())
        self.passes, self.position, self._start = state["passes"], state["position"], state["start"]
        if not self._give_back(state):
            samplers.check(self.name, self.loader, state)
            if self._start:
                resume.check_position(self.name, self.loader, self.position, self._held is not None)
        samplers.load(self.loader, state.get("samplers"))
        for generator, saved in zip(mine, state["generators"], strict=True):
            generator.set_state(saved)
        self._iterator, self._rest = None, partial(self._reopen, state) if self._start else None

    def _drawing(self) -> str | None:
        """Where the dataset draws its random numbers; None where it draws none."""
        if not self.path:
            self.look()
        return None if self.path.startswith("cut from memory") else resume.drawing(self.loader)

    def _give_back(self, state: StateDict) -> bool:
        """Give the loader, or its dataset, the state it had, and tell whether there is one."""
        dataset = resume.stateful_dataset(self.loader)
        if "loader" in state and isinstance(self.loader, Stateful):
            self.loader.load_state_dict(state["loader"])
            return True
        if "dataset" in state and dataset is not None:
            dataset.load_state_dict(state["dataset"])
            return True
        return False

    def _reopen(self, state: StateDict) -> Iterator[Any]:
        """The rest of the pass that was open; generators and samplers are left as they are."""
        mine, now = self.generators(), rng_state()
        before, order = [g.get_state() for g in mine], samplers.state_of(self.loader)
        if self._is_own(state):
            rest = self._rest_of_own(state)
        else:
            set_rng_state(self._start["rng"])
            for generator, saved in zip(mine, self._start["generators"], strict=True):
                generator.set_state(saved)
            samplers.load(self.loader, self._start.get("samplers"))
            rest = self._begin(self.look(), partial(resume.same_states, mine, state["generators"]))
            samplers.load(self.loader, order)
        set_rng_state(now)
        for generator, saved in zip(mine, before, strict=True):
            generator.set_state(saved)
        return rest

    def _is_own(self, state: StateDict) -> bool:
        own = "loader" in state and isinstance(self.loader, Stateful)
        return own or ("dataset" in state and resume.stateful_dataset(self.loader) is not None)

    def _rest_of_own(self, state: StateDict) -> Iterator[Any]:
        """What a loader, or dataset, that was given its state back has left of the pass."""
        if self._start.get("ended"):
            return iter(())
        rest = self._begin()
        if self.length is None or self.position < self.length:
            return rest
        # All is seen. Some begin anew where they are asked for what is left of nothing.
        if any(True for _ in itertools.islice(rest, 1)):
            self._give_back(state)
        return iter(())
