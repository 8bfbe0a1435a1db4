"""`LogCallback`: DeepEpochs' tags, read back from the files, and what its users rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deepepochs_like import Callback, Checkpoint, LogCallback, TensorBoard, Trainer
from deepepochs_like.errors import ArgumentError, ArgumentTypeError
from deepepochs_like.events import listens
from support.logged import KillAt, KillInEpochEnd, build, fit, killed_and_resumed, train_dl, val_dl


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def to_float32(values: Any) -> list[float]:
    return [float(np.float32(value)) for value in values]


class Batches(Callback):
    """The figures of every batch, by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[float]] = {"train": [], "val": [], "test": []}

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.seen["train"].append(float(metrics["loss"]))

    def on_after_val_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.seen["val"].append(float(metrics["loss"]))

    def on_after_test_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.seen["test"].append(float(metrics["loss"]))


def log_of(folder: Path, name: str = "a") -> dict[str, list[tuple[int, float]]]:
    return curves(folder / name / "log")


def test_tags_name_figure_unit_and_stage(tmp_path: Path) -> None:
    batches = Batches()
    trainer = build(tmp_path, LogCallback(str(tmp_path)), batches, epochs=2, folder=None)
    trainer.fit(train_dl(), val_dl())
    result = trainer.test(val_dl())
    drawn = log_of(tmp_path)
    stages, units = ("train", "val", "test"), ("batch", "epoch")
    figures = {f"{n}/{u}/{s}" for n in ("loss", "accuracy") for u in units for s in stages}
    assert set(drawn) == {*figures, "lr/0", "lr/head"}
    for stage in ("train", "val"):
        for name in ("loss", "accuracy"):
            values = to_float32(trainer.history[stage][name])
            assert drawn[f"{name}/epoch/{stage}"] == list(enumerate(values, 1))
    for stage, seen in batches.seen.items():
        assert drawn[f"loss/batch/{stage}"] == list(enumerate(to_float32(seen), 1))
    assert drawn["loss/epoch/test"] == [(2, to_float32([result["loss"]])[0])]
    assert drawn["lr/head"] == [(1, to_float32([0.01])[0]), (2, to_float32([0.01])[0])]


@pytest.mark.parametrize("kills", [[KillAt(2)], [KillAt(8), KillAt(3)], [KillInEpochEnd(2)]], ids=["2", "8+3", "end"])
def test_a_killed_and_resumed_run_has_the_curves_of_an_uncut_one(tmp_path: Path, kills: list[Any]) -> None:
    options: dict[str, Any] = {"epochs": 3, "folder": None}
    killed_and_resumed(tmp_path, lambda: LogCallback(tmp_path), *kills, **options)
    fit(tmp_path, Checkpoint(every_steps=3), LogCallback(tmp_path), running_id="whole", **options)
    drawn = log_of(tmp_path)
    assert drawn == log_of(tmp_path, "whole")
    assert [step for step, _ in drawn["loss/batch/train"]] == list(range(1, 16))
    assert [step for step, _ in drawn["loss/batch/val"]] == list(range(1, 10))


def test_an_evaluation_by_itself_is_no_part_of_the_curve(tmp_path: Path) -> None:
    trainer = build(tmp_path, LogCallback(tmp_path), epochs=1)
    trainer.fit(train_dl(), val_dl())
    trainer.validate(val_dl())
    trainer.fit(train_dl(), val_dl(), epochs=1)
    drawn = log_of(tmp_path)
    assert [step for step, _ in drawn["loss/batch/val"]] == list(range(1, 7))
    assert [step for step, _ in drawn["loss/epoch/val"]] == [1, 2]


def test_batches_can_be_thinned_out_or_left_out(tmp_path: Path) -> None:
    fit(tmp_path, LogCallback(tmp_path, every=4), epochs=2)
    assert [step for step, _ in log_of(tmp_path)["loss/batch/train"]] == [4, 8]
    none = LogCallback(tmp_path, every=None)
    assert not [e for e in ("train", "val", "test") if listens(none, f"after_{e}_batch")]
    fit(tmp_path, none, epochs=1, running_id="none")
    assert not [tag for tag in log_of(tmp_path, "none") if "/batch/" in tag]


def test_one_callback_in_two_runs_counts_from_the_first_batch_of_each(tmp_path: Path) -> None:
    log = LogCallback(tmp_path)
    for name in ("a", "b"):
        fit(tmp_path, log, epochs=1, running_id=name)
    assert log_of(tmp_path) == log_of(tmp_path, "b")


def test_the_graph_and_the_hyper_parameters_are_written(tmp_path: Path) -> None:
    fit(tmp_path, LogCallback(tmp_path, log_graph=True), epochs=1, hyper_params={"lr": 0.02})
    read = EventAccumulator(str(tmp_path / "a" / "log"))
    read.Reload()
    assert read.Tags()["graph"]
    assert {"_hparams_/session_start_info", "_hparams_/session_end_info"} == set(
        read.PluginTagToContent("hparams")  # type: ignore[no-untyped-call]
    )


def test_it_is_a_tensorboard_with_a_writer(tmp_path: Path) -> None:
    class Write(Callback):
        def on_after_epoch(self, trainer: Trainer, epoch_idx: int, **given: Any) -> None:
            trainer.writer.add_scalar("own", epoch_idx, epoch_idx)
            trainer.log({"mine": 1})

    log = LogCallback(tmp_path)
    assert isinstance(log, TensorBoard)
    fit(tmp_path, log, Write(), epochs=2)
    assert log_of(tmp_path)["own"] == [(0, 0.0), (1, 1.0)]
    assert log_of(tmp_path)["mine"] == [(5, 1.0), (10, 1.0)]
    assert log.writer is None


def test_nothing_is_written_when_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build(tmp_path, LogCallback())
    assert not list(tmp_path.iterdir())


def test_its_folder_is_the_runs(tmp_path: Path) -> None:
    trainer = build(tmp_path, LogCallback(tmp_path / "one"), folder=tmp_path / "two")
    with pytest.raises(ArgumentError, match="a run lies in one folder"):
        trainer.fit(train_dl())


def test_arguments_are_checked_when_it_is_made() -> None:
    with pytest.raises(ArgumentTypeError, match="log_dir=3"):
        LogCallback(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="did you mean 'log_dir'"):
        LogCallback(logdir="x")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="every=0"):
        LogCallback(every=0)


@pytest.mark.slow
def test_run_tensorboard_shows_the_folder_and_leaves_nothing_running(tmp_path: Path) -> None:
    log = LogCallback(tmp_path)
    with log.run_tensorboard() as page:
        assert page.running
        assert page.url in repr(page)
        process = page._process
    assert process is not None
    assert process.poll() is not None
    assert repr(page) == "BoardServer(stopped)"
