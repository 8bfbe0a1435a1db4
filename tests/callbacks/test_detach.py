"""Callbacks that are taken out of `trainer.callbacks` between two runs are without effect from then on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepepochs_like import AMP, EMA, SWA, Callback, EngineWarning, GradientAccumulation, Trainer
from deepepochs_like.errors import ArgumentError

DATA = [(torch.randn(6, 3, generator=torch.Generator().manual_seed(n)), torch.ones(6, 1)) for n in range(5)]


def trainer_with(*callbacks: Any, **options: Any) -> Trainer:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return Trainer(
        net, F.mse_loss, torch.optim.SGD(net.parameters(), lr=0.1), 2, "cpu", [*callbacks], verbose=0, **options
    )


def weights(trainer: Trainer) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def goes_on_as_without(trainer: Trainer, **options: Any) -> None:
    """Assert that a trainer trains and evaluates like one that starts where it stands and has no callbacks."""
    plain = trainer_with(**options)
    plain.model.model.load_state_dict(trainer.model.model.state_dict())
    trainer.callbacks.clear()
    seen = trainer.fit(DATA, DATA, epochs=2)
    expected = plain.fit(DATA, DATA, epochs=2)
    assert all(map(torch.equal, weights(trainer), weights(plain)))
    assert {stage: dict(figures) for stage, figures in seen.items()} == {
        stage: dict(figures) for stage, figures in expected.items()
    }
    assert trainer.test(DATA) == plain.test(DATA)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_amp_taken_out_trains_in_full_precision(precision: Any) -> None:
    trainer = trainer_with(AMP(precision))
    trainer.fit(DATA, DATA, epochs=2)
    goes_on_as_without(trainer)


@pytest.mark.parametrize("kind", [lambda: EMA(0.5), lambda: SWA(0)])
def test_an_average_taken_out_is_no_longer_evaluated(kind: Any) -> None:
    trainer = trainer_with(kind())
    trainer.fit(DATA, DATA, epochs=2)
    goes_on_as_without(trainer)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_accumulation_schedule_taken_out_leaves_the_trainers_own_number(accumulate: int) -> None:
    trainer = trainer_with(GradientAccumulation({0 if accumulate == 1 else 1: 3}), accumulate=accumulate)
    trainer.fit(DATA, DATA, epochs=2)
    assert trainer.accumulate == 3
    goes_on_as_without(trainer, accumulate=accumulate)
    assert trainer.accumulate == accumulate


def test_amp_and_accumulation_taken_out_one_after_the_other() -> None:
    amp, accumulation = AMP("fp16"), GradientAccumulation({0: 2})
    trainer = trainer_with(amp, accumulation)
    trainer.fit(DATA, epochs=2)
    trainer.callbacks.remove(accumulation)
    other = trainer_with(AMP("fp16"))
    other.model.model.load_state_dict(trainer.model.model.state_dict())
    trainer.fit(DATA, epochs=2)
    other.fit(DATA, epochs=2)
    assert all(map(torch.equal, weights(trainer), weights(other)))
    goes_on_as_without(trainer)


def test_one_precision_can_be_put_in_the_place_of_another() -> None:
    trainer = trainer_with(AMP("fp16"))
    trainer.fit(DATA, epochs=2)
    trainer.callbacks[:] = [AMP("bf16")]
    plain = trainer_with(AMP("bf16"))
    plain.model.model.load_state_dict(trainer.model.model.state_dict())
    trainer.fit(DATA, epochs=2)
    plain.fit(DATA, epochs=2)
    assert all(map(torch.equal, weights(trainer), weights(plain)))


def test_an_evaluation_alone_is_without_it_too() -> None:
    trainer = trainer_with(EMA(0.9))
    trainer.fit(DATA, epochs=2)
    averaged = trainer.test(DATA)["loss"]
    trainer.callbacks.clear()
    assert trainer.test(DATA)["loss"] != averaged


def test_a_callback_that_comes_back_acts_again() -> None:
    ema = EMA(0.9)
    trainer = trainer_with(ema)
    trainer.fit(DATA, epochs=2)
    trainer.callbacks.clear()
    trainer.test(DATA)
    trainer.callbacks.append(ema)
    updates = ema.updates
    trainer.fit(DATA, epochs=1)
    assert ema.updates == updates + 5


def test_two_accumulation_schedules_are_refused() -> None:
    with pytest.raises(ArgumentError, match="two GradientAccumulation; put both schedules into one"):
        trainer_with(GradientAccumulation({0: 2}), GradientAccumulation({1: 3}))


def test_a_probe_leaves_callbacks_that_do_not_take_part_attached() -> None:
    told: list[str] = []

    class Listener(Callback):
        def detach(self, trainer: Any) -> None:
            told.append("detached")

    trainer = trainer_with(AMP("bf16"), Listener())
    trainer.fit(DATA, epochs=1)
    trainer.overfit_batch(DATA)
    trainer.fit(DATA, epochs=1)
    assert told == []
    trainer.callbacks[:] = trainer.callbacks[:1]
    trainer.fit(DATA, epochs=1)
    assert told == ["detached"]


def interrupted(*callbacks: Any, **options: Any) -> Trainer:
    """A trainer whose fit was interrupted with an accumulation window open, in a session that goes on."""

    class Press(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                trainer.stop("SIGINT")  # what the handler of Ctrl-C does

    trainer = trainer_with(*callbacks, Press(), **options)
    trainer.fit(DATA, epochs=1)
    return trainer


@pytest.mark.parametrize(
    ("callback", "options"), [(lambda: GradientAccumulation({0: 4}), {}), (lambda: AMP("fp16"), {"accumulate": 4})]
)
def test_gradients_that_nobody_would_divide_or_unscale_go_with_who_would_have(callback: Any, options: Any) -> None:
    trainer = interrupted(callback(), **options)
    trainer.callbacks.clear()
    with pytest.warns(EngineWarning, match="an open accumulation window is dropped, with the gradients of 3 batches"):
        trainer.fit(DATA, epochs=1)
    largest = max(float(weight.abs().max()) for weight in weights(trainer))
    assert largest < 2, "no update of a sum, or of scaled gradients"


def test_an_average_that_comes_back_is_looked_at_again() -> None:
    ema = EMA(0.9)
    trainer = trainer_with(ema)
    trainer.fit(DATA, epochs=2)
    averaged = trainer.test(DATA)
    trainer.callbacks.remove(ema)
    assert trainer.test(DATA) != averaged
    trainer.callbacks.append(ema)
    assert trainer.test(DATA) == averaged


def test_what_is_tried_out_is_tried_without_what_was_taken_out() -> None:
    precise: set[bool] = set()

    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            precise.add(not torch.is_autocast_enabled("cpu"))
            return super().forward(x)

    amp, accumulation = AMP("bf16"), GradientAccumulation({0: 4})
    trainer = Trainer(Net(3, 1), F.mse_loss, device="cpu", callbacks=[amp, accumulation], verbose=0)
    trainer.fit(DATA, epochs=1)
    trainer.callbacks.clear()
    precise.clear()
    trainer.overfit_batch(DATA, 2)
    assert (precise, trainer.accumulate) == ({True}, 1)
