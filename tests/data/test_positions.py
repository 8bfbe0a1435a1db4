"""Going on in a pass: datasets with a state of their own, data that has changed, loaders that cannot be positioned."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

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
