"""Look into loaders without a trace: the first batches, the order, which samples, and the targets in memory."""

from __future__ import annotations

import itertools
import random
import sys
import time
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from types import CellType
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ..data import BatchSource
from ..data.resume import length_of
from ..errors import LoaderError
from ..rng import rng_state, set_rng_state
from ..tensors import map_tensors
from ..types import Stateful

#: The names under which datasets keep their targets.
TARGETS = ("targets", "labels", "target", "label", "y")
#: For how many seconds a dataset is walked through, and from how many samples on it is not tried.
WALK, MOST_ITEMS = 0.15, 20_000
#: From how many items on a list is not walked through.
MANY = 200_000
#: How many objects of a loader are kept as they are, up to which length their containers, and what is none of them.
_MOST_OWNERS, _SHORT = 200, 1000
_NO_OWNERS = (torch.Tensor, np.ndarray, type, types.ModuleType, types.FunctionType, torch.nn.Module)


@dataclass
class Seen:
    """A loader that was looked into."""

    loader: Any
    name: str
    task: Any = None
    batches: list[Any] = field(default_factory=list)
    #: The indices in the dataset of each batch's samples, where they are known.
    indices: list[list[int]] = field(default_factory=list)
    #: Why nothing could be looked at; and what is wrong with it, where it cannot be used at all.
    why: str = ""
    error: str = ""

    @cached_property
    def order(self) -> str:
        """In what order samples come: 'sequential', 'shuffled', or '' where that is not known."""
        if isinstance(self.loader, (list, tuple)):
            return "sequential"
        sampler = _sampler(self.loader)
        if type(sampler) is SequentialSampler:
            return "sequential"
        known = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
        return "shuffled" if isinstance(sampler, known) else ""

    @cached_property
    def members(self) -> tuple[Any, torch.Tensor] | None:
        """The dataset at the bottom of all Subsets, and the indices of the samples in it; None where not known."""
        loader = self.loader
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or not self.order:
            return None
        sampler, dataset = _sampler(loader), loader.dataset
        if isinstance(sampler, SubsetRandomSampler):
            indices = torch.as_tensor(list(sampler.indices), dtype=torch.long)
        else:
            count = length_of(dataset)
            if count is None:
                return None
            indices = torch.arange(count)
        while isinstance(dataset, Subset):
            indices, dataset = torch.as_tensor(dataset.indices, dtype=torch.long)[indices], dataset.dataset
        return dataset, indices

    @cached_property
    def targets(self) -> torch.Tensor | None:
        """The targets of all samples in order, where the dataset has them in memory, or is walked through at once."""
        if self.members is None:
            return None
        dataset, indices = self.members
        whole = _targets_of(dataset)
        if whole is not None and self._confirmed(whole):
            return whole[indices]
        items = self.items or []
        found = [item[-1] for item in items if isinstance(item, (list, tuple)) and len(item) > 1]
        return as_numbers(found) if found and len(found) == len(items) else None

    @cached_property
    def items(self) -> list[Any] | None:
        """All samples in order, where it takes no time to speak of to fetch them; else None."""
        if self.members is None:
            return None
        (dataset, indices), until = self.members, time.perf_counter() + WALK
        if len(indices) > MOST_ITEMS:
            return None
        items = []
        for index in indices.tolist():
            try:
                items.append(dataset[index])
            except Exception:  # a run may never ask for it
                return None
            if time.perf_counter() > until:
                return None
        return items

    def more(self, count: int, seconds: float = 0.15) -> list[Any]:
        """Take some further batches, as far as there is time; the first ones again are not among them."""
        if not isinstance(self.loader, (DataLoader, list, tuple)) or not self.batches or self.why:
            return []
        until, found, known = time.perf_counter() + seconds, list[Any](), len(self.batches)
        with generators_kept(self.loader):
            try:
                for _, batch in itertools.islice(_batches(self.loader), known, known + count):
                    found.append(map_tensors(batch, torch.clone))
                    if time.perf_counter() > until:
                        break
            except Exception:  # a run may come there, or not
                return found
        return found

    def _confirmed(self, whole: torch.Tensor) -> bool:
        """Whether the targets in memory are those that the batches have."""
        place = self.members[1] if self.members else torch.arange(0)
        for batch, indices in zip(self.batches, self.indices, strict=True):
            given = batch[-1] if isinstance(batch, (list, tuple)) and len(batch) > 1 else None
            held = isinstance(self.loader.sampler, SubsetRandomSampler)
            at = _through(self.loader.dataset, indices) if held else place[torch.as_tensor(indices)]
            if not isinstance(given, torch.Tensor) or given.shape != whole[at].shape:
                return False
            if not torch.equal(given.to(whole.dtype).cpu(), whole[at].cpu()):
                return False
        return bool(self.indices)


def _through(dataset: Any, indices: list[int]) -> torch.Tensor:
    at = torch.as_tensor(indices)
    while isinstance(dataset, Subset):
        at, dataset = torch.as_tensor(dataset.indices, dtype=torch.long)[at], dataset.dataset
    return at


def _sampler(loader: Any) -> Any:
    """What orders the samples of a DataLoader; None where something of the user's own does."""
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return None
    batching = loader.batch_sampler
    if batching is None:
        return loader.sampler
    return batching.sampler if type(batching) is BatchSampler else None


def _targets_of(dataset: Any) -> torch.Tensor | None:
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1] if len(dataset.tensors) > 1 else None
    count = length_of(dataset)
    if count is None or count > MANY:
        return None
    if isinstance(dataset, (list, tuple)):
        items = [item[-1] for item in dataset if isinstance(item, (list, tuple)) and len(item) > 1]
        return as_numbers(items) if len(items) == count else None
    for name in TARGETS:
        found = getattr(dataset, name, None)
        if found is not None and length_of(found) == count and (numbers := as_numbers(found)) is not None:
            return numbers
    return None


def as_numbers(values: Any) -> torch.Tensor | None:
    """A tensor of what is numbers, else None."""
    if isinstance(values, torch.Tensor):
        return values
    try:
        if isinstance(values, (list, tuple)) and values and isinstance(values[0], torch.Tensor):
            return torch.stack(list(values))
        array = np.asarray(values)
        return torch.from_numpy(array) if array.dtype.kind in "iufb" else None
    except (ValueError, TypeError, RuntimeError):
        return None


def look_into(loader: Any, name: str, task: Any, count: int) -> Seen:
    """Take the first batches of a loader, and leave it as it was."""
    seen = Seen(loader, name, task)
    try:
        BatchSource(loader, name).check()
    except (LoaderError, TypeError) as error:
        seen.error = seen.why = str(error)
        return seen
    if hasattr(loader, "__next__"):
        seen.why = f"{name} is an iterator, which can be read once only"
        return seen
    with generators_kept(loader):
        try:
            for indices, batch in itertools.islice(_batches(loader), count):
                seen.batches.append(map_tensors(batch, torch.clone))
                seen.indices += [] if indices is None else [indices]
        except Exception as error:
            seen.error = seen.why = f"{name} fails on its first batches: {type(error).__name__}: {error}"
    if not seen.batches and not seen.why:
        seen.error = seen.why = f"{name} yields no batch"
    return seen


def _batches(loader: Any) -> Iterator[tuple[list[int] | None, Any]]:
    """The batches as they would come, made in this process, with the indices of their samples where they are known."""
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        yield from ((None, batch) for batch in loader)
        return
    dataset, collate = loader.dataset, loader.collate_fn
    if isinstance(dataset, IterableDataset):
        if hasattr(dataset, "__next__"):
            raise TypeError("its dataset is an iterator, which can be read once only")
        alike = DataLoader(dataset, loader.batch_size, collate_fn=collate, drop_last=loader.drop_last)
        yield from ((None, batch) for batch in alike)
    elif loader.batch_sampler is None:
        for index in _copied(loader.sampler, dataset):
            yield None, collate(dataset[index])
    else:
        for indices in _copied(loader.batch_sampler, dataset):
            several = getattr(dataset, "__getitems__", None)
            yield list(indices), collate(several(indices) if several else [dataset[index] for index in indices])


def _copied(sampler: Any, dataset: Any) -> Any:
    """A copy of a sampler of the user's own, which may count its passes; torch's have nothing but generators."""
    inner = getattr(sampler, "sampler", sampler)
    if all(type(one).__module__.startswith("torch.") for one in (sampler, inner)):
        return sampler
    try:
        return deepcopy(sampler, {id(dataset): dataset})
    except Exception:
        return sampler


@contextmanager
def generators_kept(*loaders: Any) -> Iterator[None]:
    """Leave every generator as it is: the global ones, those of loaders, samplers and datasets; and their states."""
    before = rng_state()
    owners = {id(owner): owner for loader in loaders for owner in _owners(loader)}.values()
    drawn = [(generator, _state_of(generator)) for owner in owners for generator in _generators(owner)]
    states = [(owner, deepcopy(owner.state_dict())) for owner in owners if isinstance(owner, Stateful)]
    counted = [(vars(owner), _plain_parts(vars(owner))) for owner in owners if _whose(owner) == "user"]
    try:
        yield
    finally:
        for held, plain in counted:
            _put_back(held, plain)
        for owner, state in states:
            owner.load_state_dict(state)
        for generator, state in drawn:
            _give_back(generator, state)
        set_rng_state(before)


def _owners(loader: Any) -> Iterator[Any]:
    """Whatever takes part in making batches, and may keep something: a loader, and all objects within it."""
    pending, seen = [loader], set[int]()
    while pending and len(seen) < _MOST_OWNERS:
        owner = pending.pop(0)
        if id(owner) in seen or not hasattr(owner, "__dict__") or isinstance(owner, _NO_OWNERS):
            continue
        seen.add(id(owner))
        yield owner
        if _whose(owner) == "others":  # images, tables and files keep what is theirs alone to change
            continue
        for value in vars(owner).values():
            pending += value[:50] if isinstance(value, (list, tuple)) else [value]


def _whose(owner: Any) -> str:
    """Whose class this is an object of: 'torch', the 'user', or 'others', which are installed libraries."""
    top = type(owner).__module__.partition(".")[0]
    if top in ("torch", "torchvision", "deepepochs_like"):
        return "torch"
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return "others" if top in sys.stdlib_module_names or "site-packages" in file or "dist-packages" in file else "user"


def _plain_parts(held: dict[str, Any]) -> dict[str, Any]:
    """The numbers, words and short containers that an object keeps, such as a count of its passes."""
    plain = {k: v for k, v in held.items() if type(v) in (int, float, bool, str, type(None))}
    short = {k: v.copy() for k, v in held.items() if type(v) in (list, dict, set) and len(v) <= _SHORT}
    return plain | short


@contextmanager
def remembered(function: Any) -> Iterator[None]:
    """Leave what a function of the user's own keeps: variables of the function around it, or its object's parts."""
    owner = getattr(function, "__self__", None)
    parts = vars(owner) if hasattr(owner, "__dict__") and owner is not None and _whose(owner) == "user" else {}
    cells = {str(i): cell for i, cell in enumerate(getattr(function, "__closure__", None) or ())}
    filled = {key: cell.cell_contents for key, cell in cells.items() if cell != CellType()}
    before, around = _plain_parts(parts), _plain_parts(filled)
    try:
        yield
    finally:
        _put_back(parts, before)
        now = {key: cells[key].cell_contents for key in around}
        _put_back(now, around)
        for key, value in now.items():
            cells[key].cell_contents = value


def _put_back(held: dict[str, Any], plain: dict[str, Any]) -> None:
    for key, value in plain.items():
        now: Any = held.get(key)
        if type(value) not in (list, dict, set):
            if now is not value:
                held[key] = value
        elif type(now) is type(value) and not _same_items(now, value):
            now.clear()
            now.extend(value) if isinstance(now, list) else now.update(value)


def _same_items(one: Any, other: Any) -> bool:
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(key in other and one[key] is other[key] for key in one)
    return one == other if isinstance(one, set) else all(a is b for a, b in zip(one, other, strict=True))


def _generators(owner: Any) -> Iterator[Any]:
    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
    for value in getattr(owner, "__dict__", {}).values():
        if isinstance(value, kinds):
            yield value


def _state_of(generator: Any) -> Any:
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        return generator.get_state()
    return generator.getstate() if isinstance(generator, random.Random) else generator.bit_generator.state


def _give_back(generator: Any, state: Any) -> None:
    if isinstance(generator, (torch.Generator, np.random.RandomState)):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep warnings back: what is wrong is said in findings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
