"""The rest of a sampler's order: torch's own samplers are cut where a pass goes on, not iterated up to there.

What is left of an order, and what has been drawn for it, are the same as if the entries before had been taken one by
one. Samplers of other kinds, subclasses of torch's among them, are iterated; what was seen of them is dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

#: How many indices a RandomSampler with replacement draws at a time.
DRAWN_AT_ONCE = 32
#: How many indices become Python numbers at a time, so that the first batch need not wait for the last index.
PIECE = 1 << 16
#: How many indices are counted, and how many skipped ones are drawn, at a time, which bounds the memory it takes.
BULK = 1 << 20


class Rest:
    """A sampler without its first `skip` entries: an iterable that can be iterated once.

    Args:
        sampler: the whole order.
        skip: how many of its entries were taken before.
    """

    def __init__(self, sampler: Iterable[Any], skip: int) -> None:
        self.sampler, self.left = sampler, skip
        self._whole: Iterator[Any] | None = None
        self._rest: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._whole is None and not is_known(
            self.sampler
        ):  # it may draw as soon as it is asked for its iterator, as this is
            self._whole = iter(self.sampler)
        return self

    def skip(self) -> None:
        """Draw now what was drawn for the entries before, while the generators are those of the pass's start."""
        self._rest = rest_of(self.sampler, self.left) if self._whole is None else _dropped(self._whole, self.left)
        if not self.left:  # nothing to drop, but the order has to be drawn now: samplers draw with their first entry
            self.draw_next()

    def draw_next(self) -> None:
        """Draw one entry more, which stays the next."""
        assert self._rest is not None
        self._rest = itertools.chain(list(itertools.islice(self._rest, 1)), self._rest)

    def __next__(self) -> Any:
        if self._rest is None:
            self.skip()
        assert self._rest is not None
        return next(self._rest)


def is_known(sampler: Any) -> bool:
    """Tell whether a sampler is exactly one of torch's (a batch sampler: over one of them), whose order can be cut."""
    if type(sampler) is RandomSampler and not len(sampler.data_source):
        return False  # it divides by zero, in its own words
    return type(sampler) in _CUT or (type(sampler) is BatchSampler and is_known(sampler.sampler))


def is_plain_batching(batching: Any) -> bool:
    """Tell whether this is torch's own batch sampler over one of torch's samplers of single indices."""
    return type(batching) is BatchSampler and type(batching.sampler) in _CUT and is_known(batching.sampler)


def rest_of(sampler: Any, skip: int) -> Iterator[Any]:
    """What is left of a sampler of which `next` was called `skip` times, with the same drawn by now as then.

    Numbers that the sampler draws on its way are drawn on the way still.
    """
    if not skip or not is_known(sampler):
        return _dropped(iter(sampler), skip)
    if type(sampler) is BatchSampler:
        # Where the last batch is not full, taking it has asked its sampler for more than there is; so does this.
        rest: Any = rest_of(sampler.sampler, skip * sampler.batch_size)
        return iter(BatchSampler(rest, sampler.batch_size, sampler.drop_last))
    numbers = itertools.chain.from_iterable(map(_numbers, pieces_of(sampler, skip)))
    return map(sampler.indices.__getitem__, numbers) if type(sampler) is SubsetRandomSampler else numbers


def pieces_of(sampler: Any, skip: int = 0) -> Iterator[Tensor]:
    """The same as tensors, as many indices in each as the sampler draws at a time; the first is drawn now.

    Args:
        sampler: exactly one of torch's; the pieces of a SubsetRandomSampler are positions in its list.
        skip: how many of its entries were taken before.
    """
    return _CUT[type(sampler)](sampler, skip)


def _dropped(iterator: Iterator[Any], skip: int) -> Iterator[Any]:
    for _ in itertools.islice(iterator, skip):
        pass
    return iterator


def _numbers(indices: Tensor) -> Iterator[int]:
    return itertools.chain.from_iterable(map(Tensor.tolist, indices.split(PIECE)))


def _sequential(sampler: Any, skip: int) -> Iterator[Tensor]:
    count = len(sampler.data_source)
    return (torch.arange(first, min(first + BULK, count)) for first in range(skip, count, BULK))


def _random(sampler: Any, skip: int) -> Iterator[Tensor]:
    count, total, generator = len(sampler.data_source), sampler.num_samples, sampler.generator
    if generator is None:
        generator = torch.Generator()
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
    # A chunk is drawn when its first entry is asked for; behind the full ones there is a last one, maybe empty.
    size = DRAWN_AT_ONCE if sampler.replacement else count
    full = total // size
    at = full if skip > total else max(0, skip - 1) // size

    def chunk(number: int) -> Tensor:
        length = size if number < full else total % size
        if sampler.replacement:
            return torch.randint(high=count, size=(length,), dtype=torch.int64, generator=generator)
        return torch.randperm(count, generator=generator)[:length]

    if sampler.replacement:
        _draw_in_bulk(count, at * size, generator)
    else:
        for number in range(at):
            chunk(number)
    return itertools.chain([chunk(at)[skip - at * size :]], map(chunk, range(at + 1, full + 1)))


def _draw_in_bulk(high: int, count: int, generator: torch.Generator) -> None:
    """Draw and drop numbers; a CPU generator gives the same ones however many are asked for at a time."""
    for first in range(0, count, BULK):
        torch.randint(high=high, size=(min(BULK, count - first),), dtype=torch.int64, generator=generator)


def _subset(sampler: Any, skip: int) -> Iterator[Tensor]:
    return iter([torch.randperm(len(sampler.indices), generator=sampler.generator)[skip:]])


def _weighted(sampler: Any, skip: int) -> Iterator[Tensor]:
    order = torch.multinomial(sampler.weights, sampler.num_samples, sampler.replacement, generator=sampler.generator)
    return iter([order[skip:]])


_CUT: dict[type, Callable[[Any, int], Iterator[Tensor]]] = {
    SequentialSampler: _sequential,
    RandomSampler: _random,
    SubsetRandomSampler: _subset,
    WeightedRandomSampler: _weighted,
}
