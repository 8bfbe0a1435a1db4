"""`Timer`: every phase gets its own time, all of them are the epoch, and measuring costs next to nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepepochs_like import Callback, Checkpoint, Trainer
from deepepochs_like.callbacks import timer as module
from deepepochs_like.callbacks.timer import PHASES, DeviceClock, Timer
from deepepochs_like.errors import ArgumentError, ArgumentTypeError
from support.digits import loader, mlp, same, weights
from support.loop import batches, net

BATCHES, EPOCHS = 3, 2


class Clock:
    """A clock that stands still but for what is waited for: figures are exact, and nobody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    return clock


def slow_parts(clock: Clock) -> dict[str, Any]:
    """Everything a trainer is made of, each part with a time of its own."""

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            for batch in batches(BATCHES):
                clock.wait(1)
                yield batch

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            clock.wait(100)
            return gradient

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = net()

        def forward(self, x: Tensor) -> Any:
            clock.wait(10)
            return Backward.apply(self.layer(x))  # type: ignore[no-untyped-call]

    class Opt(torch.optim.SGD):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            clock.wait(1000)
            return super().step(*args, **kwargs)

    class Slow(Callback):
        def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
            clock.wait(10_000)

        def on_after_backward(self, trainer: Any, loss: Any) -> None:
            clock.wait(20_000)

        def on_after_epoch(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            clock.wait(300_000)

        def on_checkpoint(self, trainer: Any) -> None:
            clock.wait(400_000)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        clock.wait(5)
        return nn.functional.mse_loss(out, y)

    model = Model()
    return {
        "model": model,
        "loss": loss,
        "opt": Opt(model.parameters(), lr=0.01),
        "data": Loader(),
        "callbacks": [Slow()],
        "epochs": EPOCHS,
    }


def fit(clock: Clock, timer: Timer, val: bool = True, **options: Any) -> Trainer:
    parts = slow_parts(clock) | {"verbose": 0} | options
    data, callbacks, said = parts.pop("data"), parts.pop("callbacks"), parts.pop("said", [])
    trainer = Trainer(**parts, callbacks=[timer, *callbacks], device="cpu")
    trainer.print = lambda text: said.extend(text.splitlines())
    trainer.fit(data, data if val else None)
    return trainer


EXPECTED = {
    "data": 1.0 * BATCHES,
    "forward": 10.0 * BATCHES,
    "loss": 5.0 * BATCHES,
    "backward": 100.0 * BATCHES,
    "update": 1000.0 * BATCHES,
    "callbacks": 30_000.0 * BATCHES + 700_000,
    "other": 0.0,
    "validation": BATCHES * (1.0 + 10 + 5),
}


def test_every_phase_gets_its_own_time(clock: Clock) -> None:
    timer = Timer(show=None)
    fit(clock, timer)
    assert timer.epochs == [EXPECTED] * EPOCHS
    assert timer.seconds == {phase: EPOCHS * seconds for phase, seconds in EXPECTED.items()}


@pytest.mark.parametrize("priority", [-5.0, 1.0, 100.0])
def test_its_place_among_the_callbacks_changes_nothing(clock: Clock, priority: float) -> None:
    timer = Timer(show=None, priority=priority)
    fit(clock, timer)
    assert timer.epochs == [EXPECTED] * EPOCHS


def test_all_phases_together_are_the_epoch(clock: Clock) -> None:
    timer = Timer(show=None)
    fit(clock, timer)
    assert sum(timer.seconds.values()) == clock.now


def test_on_a_real_clock_too() -> None:
    class Waiting:
        def __iter__(self) -> Iterator[Any]:
            for batch in batches(4):
                time.sleep(0.02)
                yield batch

    timer, begun = Timer(show=None), time.perf_counter()
    model = net()
    Trainer(model, nn.functional.mse_loss, epochs=1, callbacks=timer, verbose=0, device="cpu").fit(Waiting())
    seconds, passed = timer.seconds, time.perf_counter() - begun
    assert 0.08 <= seconds["data"] <= sum(seconds.values()) <= passed
    assert all(seconds[phase] > 0 for phase in PHASES if phase not in ("validation", "callbacks"))


def test_accumulation_and_several_tasks(clock: Clock) -> None:
    timer = Timer(show=None)
    fit(clock, timer, val=False, accumulate=2)
    assert timer.epochs[0] == EXPECTED | {"update": 2 * 1000.0, "validation": 0.0}  # 3 batches in windows of 2


def test_the_work_at_the_end_of_a_pass_is_no_waiting_for_data(clock: Clock) -> None:
    def metric(preds: Tensor, targets: Tensor) -> Tensor:
        clock.wait(7.0 if len(preds) == 2 * BATCHES else 0.0)  # over all outputs, when the epoch is read
        return preds.mean()

    timer = Timer(show=None)
    parts = slow_parts(clock)
    trainer = Trainer(
        parts["model"], parts["loss"], parts["opt"], epochs=1, callbacks=timer, metrics=metric, verbose=0, device="cpu"
    )
    trainer.fit(parts["data"])
    assert timer.seconds["data"] == 1.0 * BATCHES
    assert timer.seconds["other"] == 7.0


def test_a_checkpoint_in_mid_epoch_is_a_callback(clock: Clock, tmp_path: Path) -> None:
    class Slow(Callback):
        def on_checkpoint(self, trainer: Any) -> None:
            clock.wait(50)

    timer = Timer(show=None)
    keep = Checkpoint(every_steps=1, every_minutes=None)
    fit(clock, timer, val=False, callbacks=[Slow(), keep], folder=tmp_path)
    assert timer.epochs[0]["callbacks"] == 50.0 * (BATCHES + 1)
    assert timer.epochs[0]["data"] == 1.0 * BATCHES


def test_a_fit_with_it_ends_at_the_same_bits() -> None:
    def run(callbacks: Any) -> list[Tensor]:
        model = mlp(dropout=0.3)
        trainer = Trainer(model, nn.functional.cross_entropy, epochs=2, callbacks=callbacks, verbose=0, device="cpu")
        trainer.fit(loader(shuffle=True))
        return weights(model)

    assert same(run([]), run([Timer(show=None, figures=True)]))


def test_history_has_its_figures_only_where_they_are_asked_for(clock: Clock) -> None:
    without = fit(clock, Timer(show=None))
    assert list(without.history["train"]) == ["loss"]
    with_figures = fit(clock, Timer(show=None, figures=True)).history["train"]
    assert {name for name in with_figures if name.startswith("time.")} == {f"time.{p}" for p in PHASES[:-1]}
    assert with_figures["time.forward"] == [10.0] * EPOCHS
    assert with_figures["time.data"] == [1.0] * EPOCHS


def test_it_listens_to_no_event_of_a_batch() -> None:
    from deepepochs_like.events import EVENTS, listens

    heard = [event for event in EVENTS if listens(Timer(), event)]
    assert heard == ["before_fit", "after_epoch", "after_fit", "on_cleanup"]


def test_an_event_that_nobody_listens_to_stays_so() -> None:
    class Look(Callback):
        def on_before_train_batch(self, trainer: Any, **kwargs: Any) -> None:
            assert trainer.hooks.train_metrics == ()
            assert trainer.hooks.stages["train"].metrics == ()
            assert trainer.hooks.stages["val"].before_batch == ()

    trainer = Trainer(net(), nn.functional.mse_loss, epochs=1, callbacks=[Timer(), Look()], verbose=0, device="cpu")
    trainer.fit(batches())


# --------------------------------------------------------------------------------------------------------- resume


@pytest.mark.filterwarnings("ignore:train_dl .* cannot be positioned")
@pytest.mark.parametrize("cut", range(1, EPOCHS * BATCHES))
def test_a_resumed_run_goes_on_with_the_seconds(clock: Clock, cut: int) -> None:
    class StopAt(Callback):
        def __init__(self) -> None:
            super().__init__()
            self.left = cut

        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            self.left -= 1
            if not self.left:
                trainer.stop("cut")

    def build(timer: Timer, callbacks: Any) -> tuple[Trainer, Any]:
        parts = slow_parts(clock)
        trainer = Trainer(
            parts["model"],
            parts["loss"],
            parts["opt"],
            epochs=EPOCHS,
            callbacks=[timer, *callbacks],
            device="cpu",
            verbose=0,
        )
        return trainer, parts["data"]

    whole, first, second = (Timer(show=None) for _ in range(3))
    uncut, data = build(whole, [])
    uncut.fit(data)
    begun, data = build(first, [StopAt()])
    begun.fit(data)
    state = begun.state_dict()
    resumed, data = build(second, [])
    resumed.load_state_dict(state)
    resumed.fit(data)
    assert len(second.epochs) == EPOCHS
    found, expected = second.seconds, whole.seconds
    # What the loader could not skip is read again: between two batches, or behind the last one.
    again = (found.pop("data") + found.pop("other")) - (expected.pop("data") + expected.pop("other"))
    assert again == (cut % BATCHES or BATCHES)
    assert found == expected


# -------------------------------------------------------------------------------------------------------- what it says


def test_the_table(clock: Clock) -> None:
    timer, said = Timer(), list[str]()
    fit(clock, timer, callbacks=[], said=said, verbose=1)
    assert said == timer.table().splitlines()
    assert said[0].split("  ")[-2:] == ["epoch 1", "epoch 2"]
    assert said[0].split()[:4] == ["phase", "share", "sum", "mean"]
    assert [line.split()[0] for line in said[1:]] == [*PHASES, "all"]
    assert said[5].split() == ["update", "88.3%", "1:40:00", "50:00", "50:00", "50:00"]
    assert said[-1].split() == ["all", "100%", "1:53:12", "56:36", "56:36", "56:36"]
    assert len({len(line) for line in said}) == 1


@pytest.mark.parametrize("width", [40, 59, 79, 200])
def test_the_table_fits_whatever_the_run_was(width: int) -> None:
    timer = Timer(show=None)
    timer.epochs = [dict.fromkeys(PHASES, 40_000.0)] * 10_000
    said = timer.table(width).splitlines()
    assert len(said) == 10
    assert len(said[0]) <= max(width, 50)
    assert (said[0].endswith("epoch 10000")) == (width > 40)


def test_a_line_per_epoch(clock: Clock) -> None:
    said: list[str] = []
    fit(clock, Timer(show="epoch"), callbacks=[], said=said, verbose=1)
    assert said[0] == ("epoch 1: data 3.0 s, forward 30 s, loss 15 s, backward 5:00, update 50:00, validation 48 s")
    assert len(said) == EPOCHS


def test_what_listens_in_validation_counts_as_callbacks(clock: Clock) -> None:
    class Slow(Callback):
        def on_before_val_epochs(self, trainer: Any, tasks: Any, epoch_idx: int) -> None:
            clock.wait(10_000)

        def on_before_val_epoch(self, trainer: Any, task: Any) -> None:
            clock.wait(20_000)

        def on_after_val_forward(self, trainer: Any, model_out: Any) -> None:
            clock.wait(30_000)

        def on_after_val_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            clock.wait(40_000)

        def on_after_val_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int) -> None:
            clock.wait(50_000)

    timer = Timer(show=None)
    fit(clock, timer, callbacks=[Slow()])
    assert timer.epochs == [EXPECTED | {"callbacks": 80_000.0 + 70_000 * BATCHES}] * EPOCHS


def test_a_rehearsal_prints_no_table(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = fit(clock, timer := Timer(), verbose=1)
    trainer.print, epochs = print, timer.epochs
    capsys.readouterr()
    trainer.fast_dev_run(batches(3), batches(3))
    trainer.overfit_batch(batches(3), steps=2)
    assert capsys.readouterr().out == ""
    assert timer.epochs == epochs


def test_silence_and_wrong_arguments(clock: Clock) -> None:
    said: list[str] = []
    fit(clock, Timer(show=None), said=said, verbose=1)
    fit(clock, Timer(), said=said)
    assert said == []
    with pytest.raises(ArgumentError, match="show='always'"):
        Timer(show="always")
    with pytest.raises(ArgumentTypeError, match="did you mean 'figures'"):
        Timer(figure=True)  # type: ignore[arg-type]
    assert set(Timer().seconds.values()) == {0.0}
    assert len(Timer().table().splitlines()) == len(PHASES) + 1  # no validation


def test_an_error_leaves_the_time_so_far(clock: Clock) -> None:
    class Fail(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            raise ValueError("mine")

    timer = Timer(show=None)
    with pytest.raises(ValueError, match="mine"):
        fit(clock, timer, callbacks=[Fail()])
    assert timer.seconds["update"] == 1000.0


# --------------------------------------------------------------------------------------- a device with events, in play


class FakeEvent:
    """An event of a device whose clock ticks by one second at every event."""

    ticks = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Any) -> None:
        FakeEvent.ticks += 1
        self.at = FakeEvent.ticks

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: FakeEvent) -> float:
        return 1000.0 * (end.at - self.at)


def test_phases_of_a_device_are_measured_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(module, "_MOST_PAIRS", 4)
    clock = DeviceClock(torch.device("cuda"))
    for _ in range(10):
        for phase in ("forward", "loss", "backward", "other", "update", "other"):
            clock.mark(phase)
        assert len(clock._pairs) < 4
    assert clock.read() == {"forward": 10.0, "backward": 10.0, "update": 10.0}
    assert clock.read() == {}
