"""Runs that end at the seams of an epoch: one that is over is closed for everybody, one that is open stays open."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from deepepochs_like import Callback, EarlyStopping, StopLoopException, Trainer
from deepepochs_like.rng import set_seed
from support.digits import loader, mlp, same, weights


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Count(Callback):
    """Count the epochs that were closed; its state is that number."""

    def __init__(self) -> None:
        super().__init__(priority=-1)
        self.closed = 0

    def on_after_epoch(self, trainer: Any, **figures: Any) -> None:
        assert figures["val_metrics"]["loss"] == trainer.val_metrics["loss"]
        self.closed += 1

    def state_dict(self) -> dict[str, Any]:
        return {"closed": self.closed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.closed = state_dict["closed"]


class At(Callback):
    """Do something at an event, in the second epoch."""

    def __init__(self, event: str, action: Any) -> None:
        super().__init__(priority=5)
        self.action = action
        setattr(self, f"on_{event}", self.act)

    def act(self, trainer: Any, **given: Any) -> None:
        if trainer.progress.epoch == 1:
            self.action(trainer)

    def on_exception(self, trainer: Any, exception: BaseException) -> str | None:
        return "stop" if isinstance(exception, ZeroDivisionError) else None


def fit(*callbacks: Callback, **options: Any) -> tuple[Trainer, Count, EarlyStopping]:
    set_seed(0)
    model, count, stopper = mlp(dropout=0.3), Count(), EarlyStopping("val/loss", 3, min_delta=10.0)
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    every: Any = {"callbacks": [stopper, count, *callbacks], "resume": "auto", "running_id": "a"}
    trainer = Trainer(model, F.cross_entropy, opt, 10, "cpu", verbose=0, **every, **options)
    trainer.fit(loader(0, 60, batch_size=16, shuffle=True), loader(60, 100, batch_size=16))
    return trainer, count, stopper


def stop(trainer: Any) -> None:
    trainer.stop("cut")


def raise_stop(trainer: Any) -> None:
    raise StopLoopException


def fail(trainer: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("event", ["after_val_epoch", "after_val_epochs", "after_epoch"])
@pytest.mark.parametrize("action", [stop, raise_stop, fail])
def test_an_epoch_that_is_over_is_closed_for_everybody_however_the_run_ends(event: str, action: Any) -> None:
    if event == "after_val_epoch" and action is not stop:
        pytest.skip("the stage is not over then; the epoch stays open")
    cut, count, stopper = fit(At(event, action))
    assert (cut.progress.epoch, cut.progress.stage) == (2, "")
    assert count.closed == 2
    assert stopper.looks == 2
    resumed, count, stopper = fit()
    assert count.closed == resumed.progress.epoch == stopper.looks == 4
    for path in Path("logs/a/checkpoints").iterdir():
        path.unlink()
    whole, count, _ = fit()
    assert count.closed == 4
    assert same(weights(whole.model.model), weights(resumed.model.model))
    assert whole.history == resumed.history


@pytest.mark.parametrize("event", ["after_train_epochs", "before_val_batch", "after_val_epoch"])
def test_an_epoch_that_is_open_is_not_closed_before_it_is_over(event: str) -> None:
    cut, count, stopper = fit(At(event, raise_stop))
    assert cut.progress.epoch == count.closed == stopper.looks == 1
    resumed, count, _ = fit()
    assert resumed.progress.epoch == count.closed == 4


def test_a_signal_while_the_figures_of_validation_are_read_closes_the_epoch() -> None:
    asked: list[int] = []

    def slow(outputs: Any, targets: Any) -> Any:
        asked.append(len(asked))
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        return (outputs.argmax(1) == targets).float().mean()

    def run() -> Count:
        set_seed(0)
        model, count = mlp(), Count()
        trainer = Trainer(model, F.cross_entropy, epochs=3, callbacks=[count], resume="auto", running_id="a", verbose=0)
        trainer.fit(loader(0, 60, batch_size=16), loader(60, 100, batch_size=16), val_metrics=slow)
        return count

    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 143
    assert run().closed == 3


def test_who_wants_to_end_the_run_does_not_keep_the_epoch_from_the_others() -> None:
    class Late(Callback):
        heard = 0

        def on_after_epoch(self, trainer: Any, **figures: Any) -> None:
            self.heard += 1

    late = Late(priority=-5)
    cut, count, _ = fit(At("after_epoch", raise_stop), late)
    assert late.heard == count.closed == cut.progress.epoch == 2
    assert cut.stop_reason == "StopLoopException"


def test_an_error_at_the_end_of_an_epoch_that_nobody_answers_leaves() -> None:
    def boom(trainer: Any) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fit(At("after_epoch", boom))
