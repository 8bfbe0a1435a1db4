"""Batches that are cut from memory are the DataLoader's: bit for bit, in its order, drawing what it draws."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)

from deepepochs_like.data import BatchSource
from deepepochs_like.data.stream import groups


def columns(count: int, width: int = 5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(count * 31 + width)
    return torch.randn(count, width, generator=draw), torch.randint(0, 9, (count,), generator=draw)


def tensors(count: int) -> Any:
    return TensorDataset(*columns(count))


def wide(count: int) -> Any:
    return TensorDataset(*columns(count, 16))


def images(count: int) -> Any:
    return TensorDataset(torch.arange(count * 24.0).view(count, 2, 3, 4), torch.arange(count).half(), columns(count)[1])


def bare(count: int) -> Any:
    return columns(count)[0]


def stacked(count: int) -> Any:
    return StackDataset(*columns(count))


def array(count: int) -> Any:
    return columns(count)[0].double().numpy()


def pairs(count: int) -> Any:
    return [(x, int(y), float(y)) for x, y in zip(*columns(count), strict=True)]


def rows(count: int) -> Any:
    return list(columns(count)[0])


def half_of(count: int) -> Any:
    return Subset(tensors(2 * count), range(1, 2 * count, 2))


def picked(count: int) -> Any:
    return Subset(wide(count), np.arange(count)[::-1].copy())  # type: ignore[arg-type]  # any sequence of numbers does


def split_off(count: int) -> Any:
    return random_split(wide(count + 3), [count, 3], generator=torch.Generator().manual_seed(1))[0]


def joined(count: int) -> Any:
    return ConcatDataset([tensors(1 + count // 3), Subset(tensors(count), list(range(count - count // 3 - 1)))])


DATASETS = [tensors, wide, images, bare, stacked, array, pairs, rows, half_of, picked, split_off, joined]

ORDERS: list[Callable[[Any, int, torch.Generator | None], Any]] = [
    lambda data, size, own: SequentialSampler(data),
    lambda data, size, own: RandomSampler(data, generator=own),
    lambda data, size, own: RandomSampler(data, True, generator=own),
    lambda data, size, own: RandomSampler(data, False, 2 * len(data) + 3, generator=own),
    lambda data, size, own: RandomSampler(data, True, len(data) + 41, generator=own),
    lambda data, size, own: SubsetRandomSampler(range(0, len(data), 2), generator=own),
    lambda data, size, own: WeightedRandomSampler([1.0 + i for i in range(len(data))], len(data) + 5, generator=own),
]


class Drawn(Sampler[int]):
    """A sampler of the user's own, which draws on its way."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.count):
            yield int(torch.randint(0, self.count, ()))

    def __len__(self) -> int:
        return self.count


def generators() -> list[Any]:
    state = np.random.get_state(legacy=False)
    return [torch.get_rng_state().tolist(), random.getstate(), state["state"]["pos"]]  # type: ignore[index]


def seen(batches: Any, own: torch.Generator | None, passes: int, seed: int) -> list[Any]:
    """What a loop sees: every batch, and the generators behind it."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    found: list[Any] = []
    for _ in range(passes):
        for batch in batches():
            found.append((batch, generators(), None if own is None else own.get_state().tolist()))
        found.append(generators())
    return found


def through_source(source: BatchSource) -> Iterator[Any]:
    for batch in source.stream():
        source.position += 1
        yield batch
    if source.position:
        source.finish()


def assert_same(mine: Any, theirs: Any) -> None:
    assert type(mine) is type(theirs)
    if isinstance(theirs, dict):
        assert_same(list(mine.items()), list(theirs.items()))
    elif isinstance(theirs, (list, tuple)):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(theirs, Tensor):
        assert (mine.dtype, mine.shape, mine.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
        assert torch.equal(mine, theirs)
        assert mine.is_contiguous()
        assert not mine._is_view()
        assert not mine.requires_grad
    else:
        assert mine == theirs


def compared(make: Callable[[torch.Generator | None], DataLoader[Any]], with_own: bool, seed: int) -> str:
    """Compare two passes with the plain DataLoader's; return the way the batches took."""
    runs, path = [], ""
    for mine in (True, False):
        own = torch.Generator().manual_seed(seed) if with_own else None
        loader = make(own)
        source = BatchSource(loader, "train_dl")
        runs.append(seen(partial(through_source, source) if mine else partial(iter, loader), own, 2, seed))
        path = source.path or path
        source.release()
        assume(len(loader) > 0)
    assert_same(*runs)
    return path


@given(
    dataset=st.sampled_from(DATASETS),
    count=st.integers(3, 90),
    order=st.sampled_from(ORDERS),
    size=st.sampled_from([1, 2, 3, 4, 7, 8, 16, 32, 64]),
    drop_last=st.booleans(),
    with_own=st.booleans(),
    loaders_own=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_batches_from_memory_are_the_dataloaders(
    dataset: Any, count: int, order: Any, size: int, drop_last: bool, with_own: bool, loaders_own: bool, seed: int
) -> None:
    def make(own: torch.Generator | None) -> DataLoader[Any]:
        data = dataset(count)
        sampler = order(data, size, own)
        return DataLoader(data, size, sampler=sampler, drop_last=drop_last, generator=own if loaders_own else None)

    # A sampler and a loader that share one generator draw from it in an order of their own, which is kept, too.
    assert compared(make, with_own, seed).startswith("cut from memory")


@given(dataset=st.sampled_from(DATASETS), count=st.integers(3, 40), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_orders_of_the_users_own_are_kept(dataset: Any, count: int, size: int, seed: int) -> None:
    def lists(own: Any) -> DataLoader[Any]:
        batches = [[i % count for i in range(n, n + size)] for n in range(7)]
        return DataLoader(dataset(count), batch_sampler=batches)

    def drawn(own: Any) -> DataLoader[Any]:
        return DataLoader(dataset(count), size, sampler=Drawn(count))

    def nested(own: Any) -> DataLoader[Any]:
        return DataLoader(dataset(count), batch_sampler=BatchSampler(Drawn(count), size, True))

    for make in (lists, drawn, nested):
        assert compared(make, False, seed).startswith("cut from memory")


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("with_own", [False, True])
def test_workers_that_would_load_from_memory_are_not_started(workers: int, persistent: bool, with_own: bool) -> None:
    def make(own: torch.Generator | None) -> DataLoader[Any]:
        options: dict[str, Any] = {"num_workers": workers, "persistent_workers": persistent and workers > 0}
        return DataLoader(tensors(20), 8, shuffle=True, generator=own, **options)

    runs = []
    for mine in (True, False):
        own = torch.Generator().manual_seed(3) if with_own else None
        loader, batches = make(own), []
        source = BatchSource(loader, "train_dl")
        torch.manual_seed(5)
        for _ in range(2):
            batches += list(through_source(source) if mine else loader)
        runs.append([batches, torch.get_rng_state().tolist(), None if own is None else own.get_state().tolist()])
        if mine:
            assert loader._iterator is None
            assert (f"its {workers} workers are not needed" in source.path) == (workers > 0)
    assert_same(*runs)


class Own(TensorDataset):
    """A subclass: it may do anything with a sample."""


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(columns(6)[0])


class Kept(DataLoader[Any]):
    pass


class Indexed(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return columns(6)[0][index]

    def __getitems__(self, indices: list[int]) -> Any:
        return [self[index] for index in indices]

    def __len__(self) -> int:
        return 6


def strange(tensor: Tensor) -> Any:
    return TensorDataset(tensor, torch.arange(len(tensor)))


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (DataLoader(Streamed(), 2), "iterated, not indexed"),
        (DataLoader(tensors(6), None), "does not batch"),
        (DataLoader(tensors(6), 2, num_workers=1, worker_init_fn=print), "worker_init_fn"),
        (
            DataLoader(Own(*columns(6)), 2, num_workers=1),
            "Own makes its samples by code of its own; those of a TensorDataset",
        ),
        (Kept(tensors(6), 2), "Kept is a DataLoader of its own kind"),
        ([columns(4)], "a list is iterated as it is"),
    ],
)
def test_what_is_not_sure_goes_through_the_loader_untouched(loader: Any, why: str) -> None:
    source = BatchSource(loader, "train_dl")
    assert not source.look()
    assert source.path.startswith("as it is: ")
    assert why in source.path


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (DataLoader(Own(*columns(6)), 2), "Own makes its samples by code of its own; those of a TensorDataset"),
        (DataLoader(Indexed(), 2), "Indexed makes its samples by code of its own"),
        (DataLoader(tensors(6), 2, collate_fn=lambda samples: default_collate(samples)), "collate_fn is <lambda>"),
        (DataLoader(strange(torch.ones(6, 4, requires_grad=True)), 2), "part of a computation"),
        (DataLoader(strange(torch.ones(6, 4).t().contiguous().t()), 2), "not contiguous"),
        (DataLoader(strange(torch.ones(6, 4).to_sparse()), 2), "not an ordinary one"),
        (DataLoader(strange(torch.nn.Parameter(torch.ones(6, 4), False)), 2), "holds a Parameter"),
        (DataLoader(strange(torch.ones(1, 4).expand(6, 4)), 2), "not contiguous"),
        (DataLoader(["a", "b"], 2), "neither tensors nor tuples"),  # type: ignore[arg-type]
        (DataLoader([(torch.ones(2), "a")], 2), "other things than tensors and numbers"),  # type: ignore[arg-type]
        (DataLoader([{"a": torch.ones(2)}], 2), "neither tensors nor tuples"),  # type: ignore[arg-type]
        (DataLoader(ConcatDataset([tensors(6), wide(6)]), 2), "of different kinds"),
    ],
)
def test_samples_that_cannot_be_taken_at_once_are_fetched_as_the_loader_fetches_them(loader: Any, why: str) -> None:
    source = BatchSource(loader, "train_dl")
    assert not source.is_held
    assert source.path.startswith("fetched by index, sample by sample: ")
    assert why in source.path


class Noisy(Dataset[Any]):
    """A dataset that draws from every generator for each sample."""

    def __init__(self, own: torch.Generator | None) -> None:
        self.own = own

    def __getitem__(self, index: int) -> Any:
        drawn = [torch.rand(3), torch.rand(3, generator=self.own), random.random(), float(np.random.rand())]
        return {"index": index, "name": f"sample {index}", "drawn": drawn, "shape": np.ones(2, np.float32)}

    def __len__(self) -> int:
        return 37


@given(
    order=st.sampled_from(ORDERS),
    size=st.integers(1, 40),
    drop_last=st.booleans(),
    with_own=st.booleans(),
    seed=st.integers(0, 999),
)
def test_samples_that_draw_are_fetched_in_the_loaders_order(
    order: Any, size: int, drop_last: bool, with_own: bool, seed: int
) -> None:
    def make(own: torch.Generator | None) -> DataLoader[Any]:
        data = Noisy(own)
        return DataLoader(data, size, sampler=order(data, size, own), drop_last=drop_last, generator=own)

    assert compared(make, with_own, seed).startswith("fetched by index")


def test_a_profiler_finds_the_loaders_label() -> None:
    source = BatchSource(DataLoader(tensors(6), 2), "train_dl")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        assert len(list(through_source(source))) == 3
    assert any("DataLoader" in event.key for event in profile.key_averages())


def test_a_batch_has_memory_of_its_own() -> None:
    data = wide(64)
    before = data.tensors[0].clone()
    for x, _ in through_source(BatchSource(DataLoader(data, 4), "train_dl")):
        x.add_(1)
    assert torch.equal(data.tensors[0], before)


def test_a_batch_changed_in_place_is_no_change_of_another_for_autograd() -> None:
    weight = torch.ones(16, requires_grad=True)
    total: Any = 0
    for x, _ in through_source(BatchSource(DataLoader(wide(64), 4), "train_dl")):
        x.add_(1)
        total = total + (weight * x).sum()  # keeps x for the backward pass
    total.backward()
    assert weight.grad is not None


@pytest.mark.parametrize("replaced", [False, True])
def test_data_changed_within_a_pass_is_seen_at_once(replaced: bool) -> None:
    data = TensorDataset(torch.zeros(40, 16), torch.arange(40))
    loader, found = DataLoader(data, 4), []
    for x, _ in through_source(BatchSource(loader, "train_dl")):
        found.append(float(x[0, 0]))
        if replaced:
            data.tensors = (data.tensors[0] + 1, data.tensors[1])
        else:
            data.tensors[0].add_(1)
    assert found == [float(i) for i in range(10)]


def both(make: Callable[[], tuple[Any, Callable[[], Any]]], at: int, passes: int = 1) -> tuple[list[Any], list[Any]]:
    """The passes of a loader, and of one like it through a source, where something is done behind the batch `at`."""
    runs = []
    for mine in (True, False):
        loader, change = make()
        source, found = BatchSource(loader, "train_dl"), []
        torch.manual_seed(2)
        for batch in itertools.chain.from_iterable(through_source(source) if mine else loader for _ in range(passes)):
            found.append(batch)
            if len(found) == at:
                change()
        runs.append(found)
    return runs[0], runs[1]


@pytest.mark.parametrize("indices", [list(range(40)), torch.arange(40)])
@pytest.mark.parametrize("what", ["indices", "dataset", "in place"])
def test_a_subset_changed_within_a_pass_is_seen_at_once(indices: Any, what: str) -> None:
    def make() -> tuple[Any, Callable[[], Any]]:
        part: Any = Subset(wide(80), deepcopy(indices))
        changes = {
            "indices": partial(setattr, part, "indices", range(40, 80)),
            "dataset": partial(setattr, part, "dataset", wide(90)),
            "in place": lambda: part.indices.add_(7) if isinstance(part.indices, Tensor) else None,
        }
        return DataLoader(part, 4, shuffle=True), changes[what]

    assert_same(*both(make, 3))


def test_a_tensor_put_into_a_list_of_tensors_within_a_pass_is_seen_at_once() -> None:
    def make() -> tuple[Any, Callable[[], Any]]:
        data: Any = wide(40)
        data.tensors = list(data.tensors)
        return DataLoader(data, 4), lambda: data.tensors.__setitem__(0, data.tensors[0] + 1)

    assert_same(*both(make, 3))


@pytest.mark.parametrize("listed", [list(range(300, 700)), list(np.arange(300, 700))])
def test_another_list_of_a_subset_sampler_is_seen_where_batches_are_next_taken(listed: Any) -> None:
    def make() -> tuple[Any, Callable[[], Any]]:
        sampler = SubsetRandomSampler(range(400))
        return DataLoader(wide(700), 2, sampler=sampler), partial(setattr, sampler, "indices", listed)

    assert_same(*both(make, 64))


def test_data_that_numpy_gets_hold_of_within_a_pass_is_taken_batch_by_batch_from_the_next_group_on() -> None:
    data, found = TensorDataset(torch.zeros(400, 16), torch.arange(400)), []
    array = np.zeros(0)
    for number, (x, _) in enumerate(through_source(BatchSource(DataLoader(data, 4), "train_dl"))):
        found.append(float(x[0, 0]))
        if number == 10:
            array = data.tensors[0].numpy()
        elif number >= 70:
            array += 1
    assert found == [0.0] * 71 + [float(at) for at in range(1, 30)]


def test_data_that_numpy_got_hold_of_is_taken_batch_by_batch_in_the_next_pass() -> None:
    data = TensorDataset(torch.zeros(40, 16), torch.arange(40))
    source = BatchSource(DataLoader(data, 4), "train_dl")
    list(through_source(source))
    array, found = data.tensors[0].numpy(), []
    for x, _ in through_source(source):
        array += 1
        found.append(float(x[0, 0]))
    assert found == [float(at) for at in range(10)]


def test_data_that_comes_to_require_gradients_is_fetched_so_that_each_batch_has_a_backward_pass() -> None:
    data = wide(40)
    source = BatchSource(DataLoader(data, 4), "train_dl")
    list(through_source(source))
    data.tensors[0].requires_grad_(True)
    for x, _ in through_source(source):
        x.sum().backward()
    assert torch.equal(data.tensors[0].grad, torch.ones(40, 16))  # type: ignore[arg-type]
    assert "part of a computation" in source.path


def test_data_that_numpy_can_change_is_taken_batch_by_batch() -> None:
    array = np.zeros((40, 16), np.float32)
    data = TensorDataset(torch.from_numpy(array), torch.arange(40))
    found = []
    for x, _ in through_source(BatchSource(DataLoader(data, 4), "train_dl")):
        found.append(float(x[0, 0]))
        array += 1
    assert found == [float(i) for i in range(10)]


def test_a_dataset_put_in_the_place_of_another_is_seen_in_the_next_pass() -> None:
    part, whole = Subset(wide(20), range(20)), ConcatDataset([wide(10), wide(10)])
    sources = [BatchSource(DataLoader(data, 4), "train_dl") for data in (part, whole)]
    for source in sources:
        list(through_source(source))
    part.dataset, whole.datasets[0] = wide(23), wide(11)
    for source, data in zip(sources, (part, whole), strict=True):
        assert_same(list(through_source(source)), list(DataLoader(data, 4)))


def test_what_was_changed_in_torchs_own_classes_or_objects_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    data: Any = tensors(6)
    data.__getitems__ = lambda indices: [torch.tensor(index) for index in indices]
    assert torch.equal(torch.cat(list(through_source(BatchSource(DataLoader(data, 2), "train_dl")))), torch.arange(6))
    source = BatchSource(DataLoader(tensors(6), 2), "train_dl")
    monkeypatch.setattr(TensorDataset, "__getitem__", lambda self, index: torch.tensor(index))
    assert torch.equal(torch.cat(list(through_source(source))), torch.arange(6))
    assert "TensorDataset.__getitem__ has been replaced" in source.path


@pytest.mark.parametrize(("kind", "make"), [(TensorDataset, tensors), (ConcatDataset, joined)])
def test_a_method_added_to_torchs_classes_is_honoured(kind: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = BatchSource(DataLoader(make(6), 2), "train_dl")
    monkeypatch.setattr(kind, "__getitems__", lambda self, indices: list(map(torch.tensor, indices)), raising=False)
    assert torch.equal(torch.cat(list(through_source(source))), torch.arange(len(source.loader.dataset)))


class Keyed(Dataset[Any]):
    """Samples by what its sampler lists, whatever that is."""

    def __getitem__(self, key: Any) -> Any:
        return torch.tensor(len(key) if isinstance(key, str) else key.item())

    def __len__(self) -> int:
        return 6


@pytest.mark.parametrize(
    ("data", "listed"),
    [
        (Keyed(), ["a", "bb", "ccc"]),
        (Keyed(), torch.arange(6)),
        (tensors(6), np.arange(6, dtype=np.uint32)),
        (tensors(6), torch.arange(6)),
        (tensors(6), []),
    ],
)
def test_a_subset_sampler_may_list_anything(data: Any, listed: Any) -> None:
    def make(own: Any) -> DataLoader[Any]:
        return DataLoader(data, 2, sampler=SubsetRandomSampler(listed))

    source = BatchSource(make(None), "train_dl")
    torch.manual_seed(1)
    mine = list(through_source(source))
    torch.manual_seed(1)
    assert_same(mine, list(make(None)))


@pytest.mark.parametrize("keys", [[2**63 + at for at in range(6)], [3, 2**70, 1, 2**63]])
def test_a_sampler_may_give_keys_of_any_size(keys: Any) -> None:
    data = {key: torch.tensor(at) for at, key in enumerate(keys)}
    loader: Any = DataLoader(data, 2, sampler=keys)  # type: ignore[arg-type]  # anything with indices does
    source = BatchSource(loader, "train_dl")
    assert_same(list(through_source(source)), list(loader))


class Batching:
    """A batch sampler that draws as soon as it is asked for its iterator."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter(torch.randperm(6).view(3, 2).tolist())

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize("data", [Indexed(), tensors(6)])
def test_a_batch_sampler_is_asked_for_one_order_a_pass(data: Any) -> None:
    loader = DataLoader(data, batch_sampler=Batching())
    source = BatchSource(loader, "train_dl")
    assert_same(seen(partial(through_source, source), None, 2, 3), seen(partial(iter, loader), None, 2, 3))


class Ending(Indexed):
    """Which says that there is no more before its length is reached."""

    def __getitem__(self, index: int) -> Any:
        if index == 4:
            raise StopIteration
        return super().__getitem__(index)


def test_a_dataset_that_stops_the_iteration_ends_the_pass_as_it_ends_the_loaders() -> None:
    for size in (1, 2, 6):
        loader = DataLoader(Ending(), size)
        assert_same(list(through_source(BatchSource(loader, "train_dl"))), list(loader))


@pytest.mark.parametrize("batches", [torch.arange(6).view(3, 2), [torch.tensor([1, 2]), torch.tensor([0])], [(1, 2)]])
def test_batch_samplers_may_give_other_things_than_lists(batches: Any) -> None:
    loader = DataLoader(tensors(6), batch_sampler=batches)
    assert_same(list(through_source(BatchSource(loader, "train_dl"))), list(loader))


def test_parts_that_are_lists_are_fetched() -> None:
    ragged: Any = ConcatDataset([[torch.ones(2), torch.ones(2)], [torch.zeros(2), torch.zeros(2)]])  # type: ignore[list-item]
    loader = DataLoader(ragged, 3)
    assert_same(list(through_source(BatchSource(loader, "train_dl"))), list(loader))


@pytest.mark.parametrize("kind", [torch.int16, torch.uint16, torch.uint32, torch.uint64, torch.float8_e5m2])
def test_parts_of_numbers_that_torch_cannot_put_into_their_places_are_fetched(kind: torch.dtype) -> None:
    def part(first: int) -> TensorDataset:
        return TensorDataset(torch.arange(first, first + 16).view(8, 2).to(kind), torch.arange(8))

    loader = DataLoader(ConcatDataset([part(0), part(8)]), 5)
    source = BatchSource(loader, "train_dl")
    assert source.is_held is (kind is torch.int16)
    mine, theirs = ([(x.float(), y) for x, y in batches] for batches in (through_source(source), loader))
    assert_same(mine, theirs)


@pytest.mark.parametrize("sampler", [Drawn(20), RandomSampler(range(20), replacement=True)])
def test_workers_stay_where_they_read_ahead_of_an_order_that_is_drawn_little_by_little(sampler: Any) -> None:
    source = BatchSource(DataLoader(tensors(20), 4, sampler=sampler, num_workers=1), "train_dl")
    assert not source.look()
    assert "drawn little by little" in source.path


def test_the_first_of_many_batches_does_not_wait_for_the_others() -> None:
    before = len(gc.get_objects())
    order = groups(iter([torch.arange(10**6)]), 1, 1, False)
    assert [int(next(order)) for _ in range(3)] == [0, 1, 2]
    assert len(gc.get_objects()) - before < 100


def test_an_index_out_of_range_is_the_datasets_own_error_in_its_turn() -> None:
    loader = DataLoader(wide(8), batch_sampler=[[0, 1], [2, 8], [3, 4]])
    batches = through_source(BatchSource(loader, "train_dl"))
    next(batches)
    with pytest.raises(IndexError):
        next(batches)
    many = DataLoader(wide(8), 2, sampler=SequentialSampler(range(9)))
    assert len(list(itertools.islice(through_source(BatchSource(many, "train_dl")), 4))) == 4
    with pytest.raises(IndexError):
        list(through_source(BatchSource(many, "train_dl")))


def test_negative_indices_count_from_the_end_as_in_the_dataset() -> None:
    loader = DataLoader(tensors(8), batch_sampler=[[-1, 0], [1, -2]])
    assert_same(list(through_source(BatchSource(loader, "train_dl"))), list(loader))


def test_a_batch_knows_the_indices_of_its_samples() -> None:
    data = tensors(20)
    source = BatchSource(DataLoader(Subset(data, range(19, -1, -1)), 8, shuffle=True), "train_dl")
    for x, _ in through_source(source):
        assert source.known is not None
        assert torch.equal(data.tensors[0][19 - source.known.indices], x)


def test_a_change_of_what_collates_is_noticed() -> None:
    from torch.utils.data._utils.collate import default_collate_fn_map

    kept = default_collate_fn_map[Tensor]
    source = BatchSource(DataLoader(tensors(6), 2), "train_dl")
    try:
        default_collate_fn_map[Tensor] = lambda batch, *, collate_fn_map=None: "mine"
        assert [x for x, _ in through_source(source)] == ["mine"] * 3
    finally:
        default_collate_fn_map[Tensor] = kept
    assert "default_collate_fn_map" in source.path
