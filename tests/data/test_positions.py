"""Going on in a pass: datasets with a state of their own, data that has changed, loaders that cannot be positioned."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Sampler, Subset, TensorDataset

from deepepochs_like.data import BatchSource
from deepepochs_like.errors import EngineWarning, StateError


class Numbers(IterableDataset[int]):
    """Counts, with a random number added; how many it was asked for is seen."""

    def __init__(self, count: int = 12) -> None:
        self.count, self.asked = count, 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.asked += 1
            yield number


class Remembering(Numbers):
    def __init__(self, count: int = 12) -> None:
        super().__init__(count)
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        while self.at < self.count:
            self.asked, self.at = self.asked + 1, self.at + 1
            yield self.at - 1 + int(torch.randint(1000, ())) * 1000
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def taken(source: BatchSource, count: int) -> Iterator[Any]:
    stream = source.stream()
    for _ in range(count):
        next(stream)
        source.position += 1
    return stream


def saved(source: BatchSource) -> Any:
    """A source's state, having been a file."""
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def rows(batches: Any) -> list[Any]:
    return [batch.tolist() for batch in batches]


def plain(count: int = 20, batch_size: int = 4, **options: Any) -> BatchSource:
    return BatchSource(DataLoader(TensorDataset(torch.arange(count)), batch_size, **options), "train_dl")


def test_an_iterable_dataset_with_a_state_goes_on_without_reading_again() -> None:
    whole = BatchSource(DataLoader(Remembering(), 3), "train_dl")
    stream = taken(whole, 2)
    state, at = saved(whole), torch.get_rng_state()
    expected = rows(stream)

    data = Remembering()
    resumed = BatchSource(DataLoader(data, 3), "train_dl")
    before = torch.get_rng_state()
    resumed.load_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(at)
    assert rows(resumed.stream()) == expected
    assert data.asked == 6
    resumed.position = 4
    resumed.finish()
    assert len(rows(resumed.stream())) == 4


@pytest.mark.parametrize(("dataset", "workers"), [(Numbers, 0), (Remembering, 1)])
def test_an_iterable_dataset_that_cannot_be_positioned_is_read_again_and_says_so(dataset: Any, workers: int) -> None:
    torch.manual_seed(1)
    whole = BatchSource(DataLoader(dataset(), 3, num_workers=workers), "val_dl")
    stream = taken(whole, 2)
    state, expected = saved(whole), rows(stream)
    resumed = BatchSource(DataLoader(dataset(), 3, num_workers=workers), "val_dl")
    with pytest.warns(EngineWarning, match=rf"val_dl .*read again.*its dataset \({dataset.__name__}\).*num_workers=0"):
        resumed.load_state_dict(state)
    assert rows(resumed.stream()) == expected


class Slow(Sequence[int]):
    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < 5:
            raise IndexError(index)
        self.asked.append(index)
        return index * 10


def test_a_sequence_that_loads_is_not_asked_for_what_was_seen() -> None:
    first, second = Slow(), Slow()
    whole, resumed = BatchSource(first, "train_dl"), BatchSource(second, "train_dl")
    taken(whole, 3)
    resumed.load_state_dict(saved(whole))
    assert list(resumed.stream()) == [30, 40]
    assert second.asked == [3, 4]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"count": 24}, "batches 5, now 6, samples 20, now 24$"),
        ({"batch_size": 2}, "batches 5, now 10, batch_size 4, now 2$"),
        ({"shuffle": True}, "sampler SequentialSampler, now RandomSampler$"),
    ],
)
def test_data_that_changed_is_told(other: Any, words: str) -> None:
    whole = plain()
    taken(whole, 2)
    with pytest.warns(EngineWarning) as caught:
        plain(**other).load_state_dict(saved(whole))
    said = str(caught[0].message)
    assert said.startswith("train_dl is not what it was")
    assert words.rstrip("$") + ". The run goes on" in said


def test_a_position_behind_the_end_is_an_error_and_changes_nothing() -> None:
    whole, small = plain(), plain(8)
    taken(whole, 3)
    with pytest.raises(
        StateError, match=r"train_dl: .* 3 batches into a pass; now there are but 2 .*samples 20, now 8"
    ):
        small.load_state_dict(saved(whole))
    assert (small.passes, small.position) == (0, 0)
    assert len(list(small.stream())) == 2


def test_between_passes_a_smaller_set_of_data_is_only_told() -> None:
    whole = plain()
    taken(whole, 5)
    whole.finish()
    with pytest.warns(EngineWarning, match="samples 20, now 8"):
        plain(8).load_state_dict(saved(whole))


def test_a_state_without_what_tells_the_data_still_loads() -> None:
    whole = plain()
    stream = taken(whole, 2)
    state = saved(whole)
    del state["data"]
    resumed = plain()
    resumed.load_state_dict(state)
    assert [b[0].tolist() for b in resumed.stream()] == [b[0].tolist() for b in stream]


class Lengthless(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


def test_what_is_not_known_is_no_change() -> None:
    whole, resumed = (BatchSource(DataLoader(Lengthless(), 2, sampler=range(6)), "dl") for _ in range(2))
    taken(whole, 1)
    resumed.load_state_dict(saved(whole))
    assert rows(resumed.stream()) == [[2, 3], [4, 5]]


@pytest.mark.parametrize("skip", [2, 8])
def test_a_state_taken_within_a_batch_takes_that_batch_again(skip: int) -> None:
    def source() -> BatchSource:
        own = torch.Generator().manual_seed(1)
        sampler = torch.utils.data.RandomSampler(range(50), True, 200, own)
        return BatchSource(DataLoader(torch.arange(50), 4, sampler=sampler), "train_dl")  # type: ignore[arg-type]

    whole = source()
    stream = taken(whole, skip)
    batch = next(stream)  # taken, but not done with
    state, expected = saved(whole), rows([batch, *stream])
    resumed = source()
    resumed.load_state_dict(state)
    assert rows(resumed.stream()) == expected


class AtStart(Remembering):
    """Begins anew when it is iterated behind its end, not at the end itself."""

    def __iter__(self) -> Iterator[int]:
        if self.at >= self.count:
            self.at = 0
        while self.at < self.count:
            self.asked, self.at = self.asked + 1, self.at + 1
            yield self.at - 1

    def __len__(self) -> int:
        return self.count


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("count", [10, 11, 12])
@pytest.mark.parametrize("dataset", [Remembering, AtStart])
def test_behind_the_last_batch_nothing_is_left_and_the_next_pass_is_whole(
    dataset: Any, count: int, released: bool
) -> None:
    whole = BatchSource(DataLoader(dataset(count), 3), "train_dl")
    taken(whole, 4)
    if released:
        whole.release()
    resumed = BatchSource(DataLoader(dataset(count), 3), "train_dl")
    resumed.load_state_dict(saved(whole))
    assert rows(resumed.stream()) == []
    resumed.finish()
    assert len(rows(resumed.stream())) == 4


def test_a_state_saved_again_before_it_is_gone_on_from_is_the_same() -> None:
    whole = BatchSource(DataLoader(Remembering(10), 3), "train_dl")
    taken(whole, 4)
    first, second = (BatchSource(DataLoader(Remembering(10), 3), "train_dl") for _ in range(2))
    first.load_state_dict(saved(whole))
    second.load_state_dict(saved(first))
    assert rows(second.stream()) == []


def distributed() -> tuple[BatchSource, Any]:
    data = TensorDataset(torch.arange(20))
    sampler: Any = DistributedSampler(data, num_replicas=1, rank=0, shuffle=True)
    return BatchSource(DataLoader(data, 4, sampler=sampler), "train_dl"), sampler


@pytest.mark.parametrize("late", [True, False])
def test_the_order_of_a_sampler_with_epochs_is_that_of_the_epoch_of_the_pass(late: bool) -> None:
    whole, sampler = distributed()
    sampler.set_epoch(7)
    stream = taken(whole, 2)
    if not late:
        sampler.set_epoch(8)  # of an epoch that goes on with the pass
    state, expected = saved(whole), [b[0].tolist() for b in stream]
    resumed, sampler = distributed()
    resumed.load_state_dict(state)
    if late:
        sampler.set_epoch(7)  # as hooks do, behind the resume
    assert [b[0].tolist() for b in resumed.stream()] == expected
    assert sampler.epoch == (7 if late else 8)


class Own(Sampler[int]):
    """Draws from a generator of its own."""

    def __init__(self, count: int) -> None:
        self.count, self.rng = count, np.random.default_rng(1)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(self.rng.permutation(self.count).tolist())


class OwnWithState(Own):
    def state_dict(self) -> Any:
        return self.rng.bit_generator.state

    def load_state_dict(self, state: Any) -> None:
        self.rng.bit_generator.state = state


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("batches", [0, 2, 5])
def test_a_sampler_with_a_state_is_asked_for_its_order_as_at_the_start_of_the_pass(
    batches: int, before: int, in_memory: bool
) -> None:
    def source() -> BatchSource:
        data: Any = TensorDataset(torch.arange(20)) if in_memory else Ints(20)
        return BatchSource(DataLoader(data, 4, sampler=OwnWithState(20)), "train_dl")

    def ints(batches: Any) -> list[Any]:
        return [(b[0] if in_memory else b).tolist() for b in batches]

    whole = source()
    for _ in range(before):
        taken(whole, 5)
        whole.finish()
    stream = taken(whole, batches)
    begun = [next(stream)] if not batches else []  # a pass is open from its first batch on, which is still to come
    state = saved(whole)
    expected = ints([*begun, *stream])
    whole.position = 5
    whole.finish()
    resumed = source()
    resumed.load_state_dict(state)
    assert ints(resumed.stream()) == expected
    resumed.position = 5
    resumed.finish()
    assert ints(resumed.stream()) == ints(whole.stream())


class Ints(Dataset[int]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


class Counting(Own):
    def __init__(self, count: int) -> None:
        self.count, self.turn = count, 0

    def __iter__(self) -> Iterator[int]:
        self.turn += 1
        return iter(torch.randperm(self.count, generator=torch.Generator().manual_seed(self.turn)).tolist())


@pytest.mark.parametrize(("sampler", "words"), [(Own, "draws from rng"), (Counting, "another value of turn")])
@pytest.mark.parametrize("batches", [2, 0])
def test_a_sampler_with_a_state_nobody_knows_is_named(sampler: Any, words: str, batches: int) -> None:
    whole, resumed = (BatchSource(DataLoader(Ints(20), 4, sampler=sampler(20)), "dl") for _ in range(2))
    taken(whole, 5)
    whole.finish()
    if batches:
        taken(whole, batches)
    with pytest.warns(EngineWarning, match=rf"dl: .* an? {sampler.__name__}, which .*{words}.*state_dict"):
        resumed.load_state_dict(saved(whole))


def test_a_loader_of_another_kind_with_a_state_nobody_knows_is_named() -> None:
    class Batches:
        def __init__(self) -> None:
            self.rng = random.Random(1)

        def __iter__(self) -> Iterator[float]:
            return iter([self.rng.random()])

    whole, resumed = BatchSource(Batches(), "dl"), BatchSource(Batches(), "dl")
    taken(whole, 1)
    whole.finish()
    with pytest.warns(EngineWarning, match="a Batches, which draws from rng"):
        resumed.load_state_dict(saved(whole))


@pytest.mark.parametrize("sampler", [list(range(20)), range(20), torch.arange(20)])
def test_plain_orders_are_nothing_to_name(sampler: Any) -> None:
    whole, resumed = (BatchSource(DataLoader(Ints(20), 4, sampler=sampler), "dl") for _ in range(2))
    taken(whole, 2)
    resumed.load_state_dict(saved(whole))
    assert len(list(resumed.stream())) == 3


class Lazy(Own):
    def __iter__(self) -> Iterator[int]:
        return (random.randrange(self.count) for _ in range(self.count))


class Eager(Own):
    def __iter__(self) -> Iterator[int]:
        return iter(random.sample(range(self.count), self.count))


@pytest.mark.parametrize("lazy", [True, False])
def test_an_order_drawn_little_by_little_ahead_of_which_workers_read_is_named(lazy: bool) -> None:
    def source() -> BatchSource:
        sampler = (Lazy if lazy else Eager)(20)
        del sampler.rng
        return BatchSource(DataLoader(Ints(20), 4, sampler=sampler, num_workers=1), "dl")

    whole, resumed = source(), source()
    taken(whole, 2)
    resumed.load_state_dict(saved(whole))
    if lazy:
        with pytest.warns(EngineWarning, match="dl: .*Lazy.* little by little.*num_workers=0"):
            list(resumed.stream())
    else:
        assert len(list(resumed.stream())) == 3
    whole.release()


def test_an_unknown_sampler_over_data_in_memory_draws_its_order_as_it_did() -> None:
    def source() -> BatchSource:
        sampler = Lazy(20)
        del sampler.rng
        return BatchSource(DataLoader(TensorDataset(torch.arange(20)), 4, sampler=sampler), "dl")

    whole, resumed = source(), source()
    stream = taken(whole, 2)
    state, at = saved(whole), random.getstate()
    expected = [b[0].tolist() for b in stream]
    resumed.load_state_dict(state)
    random.setstate(at)
    assert [b[0].tolist() for b in resumed.stream()] == expected


def test_another_split_of_the_same_size_is_told() -> None:
    def source(*order: int) -> BatchSource:
        return BatchSource(DataLoader(Subset(TensorDataset(torch.arange(20)), order), 2), "val_dl")

    whole = source(3, 1, 2, 9)
    taken(whole, 1)
    source(3, 1, 2, 9).load_state_dict(saved(whole))
    with pytest.warns(EngineWarning, match="val_dl is not .*Subset holds other samples, or in another order"):
        source(3, 1, 9, 2).load_state_dict(saved(whole))


def test_that_augmentation_is_drawn_elsewhere_is_told() -> None:
    whole = BatchSource(DataLoader(Ints(20), 4), "train_dl")
    taken(whole, 2)
    resumed = BatchSource(DataLoader(Ints(20), 4, num_workers=1), "train_dl")
    with pytest.warns(EngineWarning, match="was drawn in the main process, now in worker processes"):
        resumed.load_state_dict(saved(whole))


def test_where_the_data_lies_in_memory_workers_make_no_difference() -> None:
    whole = plain()
    taken(whole, 2)
    resumed = plain(num_workers=1)
    resumed.load_state_dict(saved(whole))
    assert len(list(resumed.stream())) == 3
