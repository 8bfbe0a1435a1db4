"""An Accelerator as device, in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepepochs_like import Callback, Trainer, metrics
from deepepochs_like.errors import ArgumentError
from support.digits import digits, loader, mlp, same, weights

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def _fresh_accelerator_state() -> Any:
    yield
    accelerate.state.AcceleratorState._reset_state(True)


class Updates(Callback):
    """Counts what is announced."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def on_before_optimize(self, trainer: Any, optimize_index: Any) -> None:
        self.count += 1


def test_an_accelerator_trains_to_the_same_bits_as_a_plain_device() -> None:
    results = []
    for accelerated in (False, True):
        model = mlp()
        opt: Any = torch.optim.Adam(model.parameters(), lr=0.01)
        train: Any = loader(0, 100)
        device: Any = "cpu"
        if accelerated:
            device = accelerate.Accelerator(cpu=True)
            model, opt, train = device.prepare(model, opt, train)
        trainer = Trainer(model, F.cross_entropy, opt, 2, device, metrics=[metrics.accuracy], verbose=0)
        history = trainer.fit(train, loader(100, 150))
        results.append((weights(model), history["val"], trainer.progress.step))
        assert trainer.model.model is model
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert results[0][2] == results[1][2] == 8


def test_accelerates_own_accumulation_updates_as_often_as_it_says() -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3)
    model, big = mlp(), mlp()
    x, y = digits(7 * 8)
    prepared, opt, train = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), lr=0.1), torch.utils.data.DataLoader(list(zip(x, y, strict=True)), 8)
    )

    class Accumulating(Trainer):
        def train_step(self, batch_x: Any, batch_y: Tensor, **step_args: Any) -> None:
            with self.accelerator.accumulate(self.model.model):
                self.loss(self.model(*batch_x), batch_y)

    updates = Updates()
    trainer = Accumulating(prepared, F.cross_entropy, opt, 1, accelerator, callbacks=[updates], verbose=0)
    trainer.fit(train)
    assert trainer.progress.step == updates.count == 3
    big_opt = torch.optim.SGD(big.parameters(), lr=0.1)
    for first in (0, 24):  # two full windows; accelerate divides the short last one by 3 all the same
        F.cross_entropy(big(x[first : first + 24]), y[first : first + 24]).backward()
        big_opt.step()
        big_opt.zero_grad()
    (F.cross_entropy(big(x[48:]), y[48:]) / 3).backward()
    big_opt.step()
    for mine, theirs in zip(weights(model), weights(big), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_our_accumulation_goes_through_an_accelerator_that_does_not_accumulate() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, plain = mlp(), mlp()
    prepared, opt = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    batches = list(loader(0, 100, 16))
    Trainer(prepared, F.cross_entropy, opt, 1, accelerator, accumulate=3, verbose=0).fit(batches)
    plain_opt = torch.optim.SGD(plain.parameters(), lr=0.1)
    Trainer(plain, F.cross_entropy, plain_opt, 1, "cpu", accumulate=3, verbose=0).fit(batches)
    assert same(weights(model), weights(plain))


def test_accumulating_twice_is_refused() -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    with pytest.raises(ArgumentError, match=r"accumulate=4 .*gradient_accumulation_steps=2"):
        Trainer(mlp(), F.cross_entropy, device=accelerator, accumulate=4, verbose=0)


def test_the_trainer_shows_what_custom_steps_use() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    trainer = Trainer(accelerator.prepare(mlp()), F.cross_entropy, device=accelerator, verbose=0)
    assert trainer.accelerator is accelerator
    assert trainer.device == accelerator.device
    assert trainer.main_process is True
