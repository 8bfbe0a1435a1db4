"""The rest of a sampler's order: what plain iteration would still yield, having drawn what it would have drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from deepepochs_like.data import BatchSource
from deepepochs_like.data.rest import Rest, is_known, rest_of


class Counted:
    """A dataset of its indices that counts what it is asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        self.asked += 1
        return index


def make(kind: str, count: int, samples: int, generator: torch.Generator | None) -> Any:
    if kind == "sequential":
        return SequentialSampler(range(count))
    if kind == "shuffled":
        return RandomSampler(range(count), generator=generator)
    if kind == "shuffled, some":
        return RandomSampler(range(count), num_samples=samples, generator=generator)
    if kind == "replacement":
        return RandomSampler(range(count), True, samples, generator)
    if kind == "subset":
        return SubsetRandomSampler([7 * i for i in range(count)], generator)
    if kind == "subset, tensor":
        return SubsetRandomSampler(torch.arange(count) * 3, generator)  # type: ignore[arg-type]
    replacement = kind == "weighted"
    return WeightedRandomSampler(
        [1.0 + i for i in range(count)], samples if replacement else count, replacement, generator
    )


KINDS = (
    *("sequential", "shuffled", "shuffled, some", "replacement", "subset", "subset, tensor", "weighted"),
    "weighted, without",
)
cases = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS),
        "count": st.integers(1, 40),
        "samples": st.integers(1, 120),
        "batch_size": st.none() | st.integers(1, 9),
        "nested": st.booleans(),
        "drop_last": st.booleans(),
        "own": st.booleans(),
        "skip": st.integers(0, 130),
    }
)


def build(case: dict[str, Any]) -> tuple[Any, torch.Generator | None]:
    own = torch.Generator().manual_seed(3) if case["own"] else None
    sampler = make(case["kind"], case["count"], case["samples"], own)
    if case["batch_size"]:
        sampler = BatchSampler(sampler, case["batch_size"], case["drop_last"])
        if case["nested"]:
            sampler = BatchSampler(sampler, 2, case["drop_last"])
    torch.manual_seed(5)
    return sampler, own


def states(own: torch.Generator | None) -> tuple[bytes, ...]:
    return tuple(bytes(s.numpy()) for s in [torch.get_rng_state(), *([own.get_state()] if own else [])])


def read(entries: Iterator[Any], own: torch.Generator | None) -> list[Any]:
    """Entries, each with the generators' states behind it; and the states behind the last."""
    found: list[Any] = []
    for entry in entries:
        found.append((entry, states(own)))
    return [*found, states(own)]


@settings(max_examples=400, deadline=None)
@given(cases)
def test_the_rest_and_what_is_drawn_are_those_of_plain_iteration(case: dict[str, Any]) -> None:
    sampler, own = build(case)
    entries = iter(sampler)
    for _ in range(case["skip"]):
        next(entries, None)
    at, expected = states(own), read(entries, own)

    sampler, own = build(case)
    assert is_known(sampler)
    entries = rest_of(sampler, case["skip"])
    assert states(own) == at
    assert read(entries, own) == expected


@settings(max_examples=200, deadline=None)
@given(cases, st.data())
def test_a_loader_is_resumed_as_it_would_have_gone_on(case: dict[str, Any], data: st.DataObject) -> None:
    def source() -> tuple[BatchSource, torch.Generator | None, Counted]:
        own = torch.Generator().manual_seed(3) if case["own"] else None
        sampler = make(case["kind"], case["count"], case["samples"], own)
        dataset = Counted(10**6)
        options: dict[str, Any] = {"batch_size": case["batch_size"], "sampler": sampler, "generator": own}
        if case["batch_size"]:
            options["drop_last"] = case["drop_last"]
        loader: Any = DataLoader(dataset, collate_fn=lambda x: x, **options)  # type: ignore[arg-type]
        torch.manual_seed(5)
        return BatchSource(loader, "train_dl"), own, dataset

    whole, own, _ = source()
    assume(len(whole.loader))
    skip = data.draw(st.integers(0, len(whole.loader)))
    stream = whole.stream()
    for _ in range(skip):
        next(stream)
        whole.position += 1
    state, at = whole.state_dict(), torch.get_rng_state()
    if not skip:  # a pass is open from its first batch on, which is still to come
        stream = itertools.chain([next(stream)], stream)
        state, at = whole.state_dict(), torch.get_rng_state()
    expected = read(stream, own)

    resumed, own, dataset = source()
    resumed.load_state_dict(state)
    assert not dataset.asked
    torch.set_rng_state(at)
    assert read(resumed.stream(), own) == expected


@pytest.mark.parametrize("count", [31, 32, 33, 3_000_000])
@pytest.mark.parametrize("high", [1, 10, 2**31, 2**40])
def test_indices_drawn_in_bulk_leave_the_generator_as_those_drawn_bit_by_bit(count: int, high: int) -> None:
    one, two = (torch.Generator().manual_seed(9) for _ in range(2))
    sampler = RandomSampler(range(high), True, count + 50, one)
    skip = min(count, 40_000)
    expected = list(itertools.islice(iter(sampler), skip, skip + 40))
    rest = rest_of(RandomSampler(range(high), True, count + 50, two), skip)
    assert list(itertools.islice(rest, 40)) == expected
    assert torch.equal(one.get_state(), two.get_state())


class Backwards(RandomSampler):
    def __iter__(self) -> Iterator[int]:
        return reversed(list(super().__iter__()))


class Eager(Sampler[int]):
    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(20, generator=self.generator).tolist())

    def __len__(self) -> int:
        return 20


@pytest.mark.parametrize("sampler", [Backwards(range(20)), Eager(), list(range(20)), BatchSampler(Eager(), 3, False)])
def test_other_samplers_are_iterated(sampler: Any) -> None:
    assert not is_known(sampler)
    torch.manual_seed(2)
    expected = list(sampler)
    torch.manual_seed(2)
    assert list(rest_of(sampler, 4)) == expected[4:]
    torch.manual_seed(2)
    assert list(Rest(sampler, 4)) == expected[4:]
    torch.manual_seed(2)
    assert list(Rest(sampler, 0)) == expected


@pytest.mark.parametrize("sampler", [Backwards(range(20)), Eager()])
def test_a_loader_with_another_sampler_is_resumed(sampler: Any) -> None:
    torch.manual_seed(2)
    source = BatchSource(DataLoader(Counted(20), 3, sampler=sampler), "train_dl")  # type: ignore[arg-type]
    stream = source.stream()
    for _ in range(3):
        next(stream)
        source.position += 1
    state, expected = source.state_dict(), [batch.tolist() for batch in stream]
    data = Counted(20)
    resumed = BatchSource(DataLoader(data, 3, sampler=sampler), "train_dl")  # type: ignore[arg-type]
    resumed.load_state_dict(state)
    assert not data.asked
    assert [batch.tolist() for batch in resumed.stream()] == expected
