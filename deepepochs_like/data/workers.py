"""Loading in worker processes, where what is drawn for a batch depends on nothing but the batch.

A plain DataLoader seeds each worker once; which worker gets a batch, and what it loaded before, then decide what an
augmentation draws. Here every batch seeds the generators of the worker that loads it from (base seed, batch number), so
that its contents depend neither on the number of workers nor on where a run was cut off. The indices, their order and
what is drawn in the main process are the plain DataLoader's.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset


class SeededOrder:
    """A batch sampler (or sampler) whose entries carry what their worker is to be seeded with.

    Args:
        order: the loader's own.
        first: the number of the first entry, behind those that were skipped.
    """

    def __init__(self, order: Iterable[Any], first: int = 0) -> None:
        self.order, self.first, self.seed = order, first, 0

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        for number, indices in enumerate(self.order, self.first):
            yield self.seed, number, indices

    def __len__(self) -> int:
        return len(self.order)  # type: ignore[arg-type]  # asked only where the loader's own order has a length


class SeededDataset(Dataset[Any]):
    """A dataset that seeds the generators before it fetches the entry of a `SeededOrder`; else the one it wraps."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, entry: tuple[int, int, list[Any]]) -> list[Any]:
        seed, number, indices = entry
        seed_all(seed, number)
        fetch = getattr(self.dataset, "__getitems__", None)
        return fetch(indices) if fetch else [self.dataset[index] for index in indices]

    def __getitem__(self, entry: tuple[int, int, Any]) -> Any:
        seed, number, index = entry
        seed_all(seed, number)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:  # copies and pickles ask before there is one
            raise AttributeError(name)
        return getattr(self.dataset, name)  # what a worker_init_fn looks for


def seed_all(seed: int, number: int) -> None:
    """Seed this process's generators from a pair of numbers (NumPy's SeedSequence mixes them)."""
    words = np.random.SeedSequence((seed, number)).generate_state(8, np.uint32)
    random.seed(words[:4].tobytes())
    np.random.seed(words[:4])
    torch.manual_seed(int(words[4]) | int(words[5]) << 32)


def seedable(loader: Any) -> bool:
    """Tell whether a loader is a plain DataLoader that loads samples by index in worker processes."""
    return is_plain(loader) and loader.num_workers > 0 and not isinstance(loader.dataset, IterableDataset)


def is_plain(loader: Any) -> bool:
    """Tell whether a loader is iterated as torch's DataLoader is, so that another in its likeness does the same."""
    return isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__


def base_seed(loader: DataLoader[Any]) -> int:
    """The seed that the loader is about to draw for its workers, without drawing it."""
    generator = torch.Generator()
    generator.set_state((torch.default_generator if loader.generator is None else loader.generator).get_state())
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def order_of(loader: DataLoader[Any]) -> Any:
    """The batch sampler of a loader, or its sampler where it does not batch."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def in_likeness(loader: DataLoader[Any], order: Any, dataset: Any = None) -> DataLoader[Any]:
    """A DataLoader like `loader`, in another order or over another dataset."""
    options: dict[str, Any] = {"batch_sampler": order}
    if loader.batch_sampler is None:
        options = {"sampler": order, "batch_size": None}
    if loader.num_workers:
        options["prefetch_factor"] = loader.prefetch_factor
        options["multiprocessing_context"] = loader.multiprocessing_context
        options["persistent_workers"] = loader.persistent_workers
    return DataLoader(
        loader.dataset if dataset is None else dataset,
        **options,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
    )
