"""Loading in worker processes: the plain loader's order, and contents that depend on nothing but the batch."""

from __future__ import annotations

import io
import os
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info

from deepepochs_like import Callback, Trainer
from deepepochs_like.data import BatchSource
from deepepochs_like.data.resume import check_position
from support.digits import digits, mlp, same, weights

quiet: Any = partial(Trainer, device="cpu", verbose=0)


class Augmented(Dataset[Any]):
    """Digits with noise from all three global generators."""

    def __init__(self, count: int = 40) -> None:
        self.x, self.y = digits(count)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + torch.rand(64) + random.random() + float(np.random.rand()), self.y[index]


class Pids(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(os.getpid())


def read(loader: Any, passes: int = 1) -> list[Any]:
    torch.manual_seed(4)
    source, batches = BatchSource(loader, "train_dl"), []
    for _ in range(passes):
        for batch in source.stream():
            source.position += 1
            batches.append(batch)
        source.finish()
    return batches


def flat(batches: list[Any]) -> list[Tensor]:
    return [part for batch in batches for part in batch]


@pytest.mark.parametrize("options", [{"batch_size": 8, "drop_last": True}, {"batch_size": None}])
def test_where_workers_draw_nothing_the_batches_are_the_plain_loaders(options: Any) -> None:
    data = TensorDataset(*digits(20))
    plain, seen = DataLoader(data, shuffle=True, num_workers=2, **options), []
    torch.manual_seed(4)
    expected = [batch for _ in range(2) for batch in plain]
    after = torch.get_rng_state()
    seen = read(DataLoader(data, shuffle=True, num_workers=2, **options), 2)
    assert same(flat(seen), flat(expected))
    assert torch.equal(torch.get_rng_state(), after)


def test_what_workers_draw_does_not_depend_on_how_many_they_are() -> None:
    one, two, again = (read(DataLoader(Augmented(), 8, shuffle=True, num_workers=n)) for n in (1, 2, 2))
    assert same(flat(one), flat(two))
    assert same(flat(two), flat(again))
    assert not torch.equal(two[0][0][0] - digits(40)[0][0], two[1][0][0] - digits(40)[0][0])


def test_every_pass_draws_anew() -> None:
    first, second = (
        flat(read(DataLoader(Augmented(8), 8, num_workers=1), 2)[:1]),
        flat(read(DataLoader(Augmented(8), 8, num_workers=1), 2)[1:]),
    )
    assert not same(first, second)


def test_persistent_workers_persist() -> None:
    pids = {int(p) for batch in read(DataLoader(Pids(), 2, num_workers=2, persistent_workers=True), 3) for p in batch}
    assert len(pids) == 2


class Opened(Dataset[Any]):
    """What its worker has opened, as a number."""

    handle = 0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        assert get_worker_info().dataset is self
        return torch.tensor(self.handle)


def open_the_dataset(worker: int) -> None:
    dataset = get_worker_info().dataset
    assert isinstance(dataset, Opened)
    dataset.handle = 7


@pytest.mark.parametrize(("method", "size"), [("fork", 2), ("fork", None), ("spawn", 2)])
def test_workers_have_the_loaders_own_dataset_to_change(method: str, size: int | None) -> None:
    options: Any = {"multiprocessing_context": method, "worker_init_fn": open_the_dataset}
    handles = read(DataLoader(Opened(), size, num_workers=1, **options))
    assert {int(handle) for batch in handles for handle in batch.view(-1)} == {7}


def in_thousands(samples: list[Tensor]) -> Tensor:
    return torch.stack(samples) + 1000


@pytest.mark.parametrize("persistent", [False, True])
def test_what_is_set_on_a_loader_between_passes_is_heeded_as_by_the_plain_loader(persistent: bool) -> None:
    def passes(begin: Any, loader: Any) -> list[list[int]]:
        found = []
        for change in ({"collate_fn": in_thousands}, {"worker_init_fn": open_the_dataset}, {"num_workers": 2}, {}):
            found.append([int(handle) for batch in begin() for handle in batch])
            for name, value in change.items():
                setattr(loader, name, value)
        return found

    plain, mine = (DataLoader(Opened(), 2, num_workers=1, persistent_workers=persistent) for _ in range(2))
    source = BatchSource(mine, "train_dl")

    def through_source() -> Iterator[Any]:
        for batch in source.stream():
            source.position += 1
            yield batch
        source.finish()

    seen = passes(through_source, mine)
    source.release()
    assert seen == passes(partial(iter, plain), plain)
    assert (seen[-1] == [1007] * 4) is not persistent


class Slow(Dataset[Any]):
    """Whose first sample is the last to be ready."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if not index:
            time.sleep(0.6)
        return index


def test_batches_that_need_not_be_in_order_come_as_they_are_ready() -> None:
    def loader(in_order: bool) -> Any:
        return DataLoader(Slow(), 1, num_workers=2, in_order=in_order)

    batches = [int(batch) for batch in read(loader(False))]
    assert sorted(batches) == [0, 1, 2, 3]
    assert batches[0] == 1
    for in_order in (True, False):
        source = BatchSource(loader(in_order), "train_dl")
        next(source.stream())
        source.position += 1
        state = source.state_dict()
        source.release()
        with nullcontext() if in_order else pytest.warns(UserWarning, match="in_order=False: .* not known"):
            BatchSource(loader(in_order), "train_dl").load_state_dict(state)


def test_one_worker_leaves_batches_in_order_whatever_it_is_allowed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_position("train_dl", DataLoader(Slow(), 1, num_workers=1, in_order=False), 2)


class Cut(Callback):
    def __init__(self, batches: int) -> None:
        super().__init__(priority=-1)
        self.left, self.state = batches, b""

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.left -= 1
        if not self.left:
            buffer = io.BytesIO()
            torch.save(trainer.state_dict(), buffer)
            self.state = buffer.getvalue()
            trainer.stop("cut")


def test_a_run_cut_in_mid_epoch_goes_on_with_another_number_of_workers_to_the_same_bits() -> None:
    def run(workers: int, state: bytes = b"", *callbacks: Callback) -> Trainer:
        torch.manual_seed(0)
        trainer: Trainer = quiet(mlp(dropout=0.2), F.cross_entropy, callbacks=list(callbacks))
        torch.manual_seed(1)
        if state:
            trainer.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        trainer.fit(DataLoader(Augmented(), 8, shuffle=True, num_workers=workers), epochs=2)
        return trainer

    whole, knife = run(2), Cut(7)
    run(2, b"", knife)
    resumed = run(1, knife.state)
    assert same(weights(whole.model.model), weights(resumed.model.model))
    assert whole.history.state_dict() == resumed.history.state_dict()


@pytest.mark.parametrize("batches", [3, 4, 6])
def test_a_run_with_persistent_workers_cut_anywhere_goes_on_to_the_same_bits(batches: int) -> None:
    def run(state: bytes = b"", *callbacks: Callback) -> Trainer:
        torch.manual_seed(0)
        trainer: Trainer = quiet(mlp(dropout=0.2), F.cross_entropy, callbacks=list(callbacks))
        if state:
            trainer.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        trainer.fit(DataLoader(Augmented(32), 8, shuffle=True, num_workers=1, persistent_workers=True), epochs=3)
        return trainer

    whole, knife = run(), Cut(batches)
    run(b"", knife)
    assert same(weights(whole.model.model), weights(run(knife.state).model.model))
