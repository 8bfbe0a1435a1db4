"""Loading in worker processes: the plain loader's order, and contents that depend on nothing but the batch."""

from __future__ import annotations

import functools
import io
import os
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info

from deepepochs_like import Callback, Trainer
from deepepochs_like.data import BatchSource
from support.digits import digits, mlp, same, weights

quiet: Any = functools.partial(Trainer, device="cpu", verbose=0)


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


def look_at_the_dataset(worker: int) -> None:
    assert get_worker_info().dataset.x.shape == (8, 64)


def test_a_worker_init_fn_sees_the_dataset() -> None:
    assert len(read(DataLoader(Augmented(8), 4, num_workers=1, worker_init_fn=look_at_the_dataset))) == 2


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
