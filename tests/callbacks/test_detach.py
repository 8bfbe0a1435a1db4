"""Callbacks that are taken out of `trainer.callbacks` between two runs are without effect from then on."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepepochs_like import AMP, EMA, SWA, Callback, Checkpoint, EngineWarning, GradientAccumulation, Trainer
from deepepochs_like.errors import ArgumentError, ArgumentTypeError

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


@pytest.mark.parametrize(
    ("callback", "accumulate"), [(lambda: GradientAccumulation({0: 4}), 1), (lambda: AMP("fp16"), 4)]
)
def test_a_state_has_nothing_of_what_was_taken_out_before(callback: Any, accumulate: int) -> None:
    trainer = interrupted(callback(), accumulate=accumulate)
    trainer.callbacks.clear()
    with pytest.warns(EngineWarning, match="an open accumulation window is dropped, with the gradients of 3 batches"):
        state = deepcopy(trainer.state_dict())
    other = trainer_with(accumulate=accumulate)
    other.load_state_dict(state)
    other.fit(DATA, epochs=1)
    trainer.fit(DATA, epochs=1)
    assert all(map(torch.equal, weights(trainer), weights(other)))
    assert all(parameter.abs().max() < 2 for parameter in weights(other)), "no gradients that are scaled"


def test_what_was_taken_out_leaves_a_state_alone_that_is_loaded_then() -> None:
    kept = interrupted(accumulate=4)
    state = deepcopy(kept.state_dict())
    trainer = trainer_with(AMP("fp16"), accumulate=4)
    trainer.fit(DATA[:4], epochs=1)
    trainer.callbacks.clear()
    trainer.load_state_dict(state)
    for one in (trainer, kept):
        one.callbacks.clear()
        one.fit(DATA, epochs=1)
    assert all(map(torch.equal, weights(trainer), weights(kept)))


def test_an_average_that_has_just_come_takes_its_state() -> None:
    trainer = trainer_with(EMA(0.9))
    trainer.fit(DATA, epochs=1)
    other = trainer_with()
    other.callbacks.append(EMA(0.9))
    other.load_state_dict(deepcopy(trainer.state_dict()))
    assert other.test(DATA) == trainer.test(DATA)
    other.callbacks.append(EMA)
    with pytest.raises(ArgumentTypeError, match="EMA is a class"):
        other.load_state_dict(trainer.state_dict())


def test_an_average_that_comes_back_is_looked_at_again() -> None:
    ema = EMA(0.9)
    trainer = trainer_with(ema)
    trainer.fit(DATA, epochs=2)
    averaged = trainer.test(DATA)
    trainer.callbacks.remove(ema)
    assert trainer.test(DATA) != averaged
    trainer.callbacks.append(ema)
    assert trainer.test(DATA) == averaged


def test_an_average_that_comes_back_does_not_hide_that_of_the_best(tmp_path: Path) -> None:
    ema = EMA(0.9)
    trainer = trainer_with(ema, Checkpoint("val/loss", mode="max"), folder=tmp_path)
    history = trainer.fit(DATA, DATA)
    trainer.callbacks.remove(ema)
    trainer.test(DATA)
    trainer.callbacks.insert(0, ema)
    worst = max(history["val"]["loss"])
    assert worst > 1.01 * history["val"]["loss"][-1]
    found = [trainer.test(DATA, weights="best"), trainer.test(DATA)]  # they stay there
    assert [figures["loss"] for figures in found] == pytest.approx([worst, worst], rel=1e-6)
    trainer.fit(DATA, DATA, epochs=1)
    assert trainer.test(DATA)["loss"] == pytest.approx(trainer.history["val"]["loss"][-1], rel=1e-6)


@pytest.mark.parametrize("back_in", ["validate", "fit", "look"])
def test_an_average_that_comes_back_to_weights_that_have_moved_on_says_so(back_in: str, tmp_path: Path) -> None:
    ema = EMA(0.9)
    trainer = trainer_with(ema, Checkpoint("train/loss"), folder=tmp_path)
    trainer.fit(DATA, DATA, epochs=1)
    trainer.callbacks.remove(ema)
    trainer.fit(DATA, epochs=2)
    trainer.callbacks.insert(0, ema)
    if back_in == "look":  # at a checkpoint's, of which there is nothing to say
        trainer.test(DATA, weights=next(tmp_path.rglob("*.ckpt")))
    with pytest.warns(EngineWarning, match=r"EMA: its average is of update 5, and the weights are of update 15"):
        trainer.validate(DATA) if back_in == "validate" else trainer.fit(DATA, epochs=1)
    trainer.validate(DATA)  # it is said once


def test_an_average_that_a_state_brings_back_is_of_its_weights() -> None:
    ema = EMA(0.9)
    trainer = trainer_with(ema)
    trainer.fit(DATA, epochs=1)
    state, averaged = deepcopy(trainer.state_dict()), trainer.test(DATA)
    trainer.callbacks.remove(ema)
    trainer.fit(DATA, epochs=2)
    trainer.callbacks.append(ema)
    trainer.load_state_dict(state)
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
