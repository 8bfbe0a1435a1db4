"""Callbacks that a state has something of, and the trainer that it is loaded into has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from deepepochs_like import Callback, Checkpoint, CSVLogger, EarlyStopping, EngineWarning, JSONLLogger, TensorBoard
from deepepochs_like.callbacks.tensorboard import scalars
from deepepochs_like.errors import StateError
from support.digits import same, weights
from support.logged import KillAt, Killed, build, fit, train_dl, val_dl


class Counting(Callback):
    """A callback of one's own with a state, which training may depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


class Watching(Counting):
    """One that only watches, and says so."""

    optional_state = True


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "a" / "metrics.jsonl").read_text().splitlines()]


def test_a_logger_can_be_left_out_of_a_resumed_run_which_is_said(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, Checkpoint(every_steps=2), JSONLLogger(every=1), KillAt(8), epochs=3, resume="auto")
    with pytest.warns(EngineWarning) as told:
        trainer = fit(tmp_path, Checkpoint(every_steps=2), epochs=3, resume="auto")
    (message,) = [str(warning.message) for warning in told]
    assert message.startswith(
        "the checkpoint holds the state of JSONLLogger(metrics.jsonl), which this trainer has not"
    )
    assert "stops at update 6" in message
    assert same(weights(trainer.model.trained_module), weights(fit(tmp_path / "b", epochs=3).model.trained_module))
    assert steps(tmp_path)[-1] == 8  # nobody has touched it, and what lies behind the checkpoint is the run's, too


def test_one_that_comes_back_goes_on_without_an_overlap(tmp_path: Path) -> None:
    fit(tmp_path, Checkpoint(), JSONLLogger(), TensorBoard(), epochs=1, resume="auto")
    with pytest.warns(EngineWarning) as told:
        fit(tmp_path, Checkpoint(), epochs=2, resume="auto")
    assert sorted(str(warning.message).split(",")[0].rsplit(" ", 1)[1] for warning in told) == [
        "JSONLLogger(metrics.jsonl)",
        "TensorBoard",
    ]
    fit(tmp_path, Checkpoint(), JSONLLogger(), TensorBoard(), epochs=3, resume="auto")
    assert steps(tmp_path) == [5, 15]
    assert list(scalars(tmp_path / "a" / "tensorboard")["loss/val"]) == [5, 15]


def test_another_logger_may_take_its_place(tmp_path: Path) -> None:
    fit(tmp_path, Checkpoint(), JSONLLogger(), epochs=1, resume="auto")
    with pytest.warns(EngineWarning, match=r"holds the state of JSONLLogger\(metrics.jsonl\)"):
        fit(tmp_path, Checkpoint(), CSVLogger(), epochs=2, resume="auto")
    assert len((tmp_path / "a" / "metrics.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("callback", [Counting, lambda: EarlyStopping("val/loss")], ids=["own", "EarlyStopping"])
def test_one_that_training_may_depend_on_cannot_be_left_out(tmp_path: Path, callback: Any) -> None:
    fit(tmp_path, Checkpoint(), JSONLLogger(), callback(), epochs=1, resume="auto")
    trainer = build(tmp_path, Checkpoint(), epochs=2, resume="auto")
    before = weights(trainer.model.trained_module)
    with pytest.raises(
        StateError, match=r"the state has callbacks \['(Counting|EarlyStopping)[^,]*'\], which the trainer"
    ):
        trainer.fit(train_dl(), val_dl())
    assert same(before, weights(trainer.model.trained_module))


def test_a_callback_of_ones_own_can_say_that_it_only_watches(tmp_path: Path) -> None:
    state = fit(tmp_path, Watching(), epochs=1).state_dict()
    torch.save(state, tmp_path / "state.pt")
    trainer = build(tmp_path, epochs=2)
    with pytest.warns(EngineWarning, match="holds the state of Watching"):
        trainer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert trainer.progress.epoch == 1


def test_a_state_that_does_not_tell_which_are_optional_needs_all(tmp_path: Path) -> None:
    state = fit(tmp_path, JSONLLogger(), epochs=1).state_dict()
    del state["optional"]
    with pytest.raises(StateError, match="JSONLLogger"):
        build(tmp_path, epochs=2).load_state_dict(state)
    build(tmp_path, JSONLLogger(), epochs=2).load_state_dict(state)
