"""Loggers: what they are given, what their files hold, and that a resumed run continues them without overlap or gap."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepepochs_like import (
    Callback,
    Checkpoint,
    CSVLogger,
    EngineWarning,
    EpochTask,
    JSONLLogger,
    LogCallback,
    Logger,
    MLflowLogger,
    TensorBoard,
    Timer,
)
from deepepochs_like.callbacks import mlflow_logger
from deepepochs_like.callbacks.line_logger import LineLogger
from deepepochs_like.callbacks.tensorboard import scalars
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, CheckpointError, RunLockedError
from deepepochs_like.events import listens
from deepepochs_like.lock import FolderLock
from support.logged import (
    PER_EPOCH,
    KillAt,
    Killed,
    KillInEpochEnd,
    build,
    fit,
    killed_and_resumed,
    per_class,
    train_dl,
    val_dl,
)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


class Noisy(Callback):
    """Log something of one's own now and then, from the second epoch on."""

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.progress.epoch and batch_idx == 2:
            trainer.log({"own/noise": torch.tensor(0.5), "own/index": batch_idx})


class Notes(Logger):
    """A logger in memory."""

    def __init__(self, every: int | None = None) -> None:
        super().__init__(every)
        self.said: list[Any] = []

    def open(self, trainer: Any) -> None:
        self.said.append("open")

    def write(self, figures: dict[str, float], step: int) -> None:
        self.said.append((step, dict(figures)))

    def write_hyper_params(self, values: dict[str, Any]) -> None:
        self.said.append(values)

    def close(self) -> None:
        self.said.append("close")

    @property
    def written(self) -> list[tuple[int, dict[str, float]]]:
        return [item for item in self.said if isinstance(item, tuple)]


# --------------------------------------------------------------------------------------------------- the protocol


def test_a_logger_is_opened_written_to_by_epoch_and_closed(tmp_path: Path) -> None:
    notes = Notes()
    history = fit(tmp_path, notes, epochs=3).history
    assert notes.said[0] == "open"
    assert notes.said[-1] == "close"
    assert notes.said.count("open") == notes.said.count("close") == 1
    assert [step for step, _ in notes.written] == [5, 10, 15]
    for epoch, (_, figures) in enumerate(notes.written):
        assert figures.pop("epoch") == epoch + 1
        assert figures.pop("lr/0") == 0.02
        assert figures.pop("lr/head") == 0.01
        assert figures == {f"{s}/{n}": history[s][n][epoch] for s in ("train", "val") for n in ("loss", "accuracy")}


def test_batches_are_written_every_n_updates_whatever_the_epochs(tmp_path: Path) -> None:
    notes, last = Notes(every=4), {}

    class Last(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            last[trainer.progress.step] = {name: float(value) for name, value in metrics.items()}

    fit(tmp_path, notes, Last(), epochs=3)
    batches = {step: f for step, f in notes.written if "epoch" not in f}
    assert list(batches) == [4, 8, 12]
    for step, figures in batches.items():
        assert figures == {f"train_batch/{n}": v for n, v in last[step].items()} | {"lr/0": 0.02, "lr/head": 0.01}


def test_updates_are_counted_under_accumulation_and_written_once(tmp_path: Path) -> None:
    notes = Notes(every=1)
    fit(tmp_path, notes, epochs=2, accumulate=2)
    assert [step for step, f in notes.written if "epoch" not in f] == [1, 2, 4, 5]  # 3 and 6 close windows cut short
    assert [step for step, f in notes.written if "epoch" in f] == [3, 6]


def test_the_last_short_window_of_a_task_is_no_other_tasks_row(tmp_path: Path) -> None:
    notes, first = Notes(every=1), {}

    class First(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            name = next(iter(metrics))
            first.setdefault(name, trainer.progress.step)

    trainer = build(tmp_path, notes, First(), epochs=1, accumulate=2, metrics=None)
    trainer.fit(train_tasks=[EpochTask(train_dl(), name="a."), EpochTask(train_dl(), name="b.")])
    assert first == {"a.loss": 0, "b.loss": 3}
    written = [(step, name[-6]) for step, figures in notes.written for name in figures if "train_batch" in name]
    assert written == [(1, "a"), (2, "a"), (4, "b"), (5, "b")]


def test_without_every_no_batch_is_listened_to() -> None:
    for logger in (Notes(), JSONLLogger(), CSVLogger()):
        assert not [e for e in ("before_train_batch", "after_train_batch", "train_metrics") if listens(logger, e)]
    assert listens(Notes(every=3), "after_train_batch")


def test_a_subclass_need_not_call_the_constructor_of_its_base(tmp_path: Path) -> None:
    class Short(Logger):
        def __init__(self) -> None:
            self.steps: list[int] = []

        def write(self, figures: dict[str, float], step: int) -> None:
            self.steps.append(step)

    short = Short()
    fit(tmp_path, short, epochs=2)
    assert short.steps == [5, 10]


def test_it_is_closed_when_the_run_fails(tmp_path: Path) -> None:
    notes = Notes()

    class Fail(Callback):
        def on_before_val_epochs(self, trainer: Any, tasks: Any, epoch_idx: int) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, notes, Fail())
    assert notes.said == ["open", "close"]


def test_hyper_parameters_are_flat_and_plain(tmp_path: Path) -> None:
    notes = Notes()
    values = {"net": {"width": 16, "drop": torch.tensor(0.25)}, "aug": ["flip", 2], "none": None, "on": True}
    fit(tmp_path, notes, epochs=1, hyper_params=values)
    assert notes.said[1] == {"net.width": 16, "net.drop": 0.25, "aug": "['flip', 2]", "none": "None", "on": True}


def test_a_test_and_trainer_log_are_written_also_behind_the_run(tmp_path: Path) -> None:
    notes = Notes()
    trainer = fit(tmp_path, notes, epochs=2)
    notes.said.clear()
    result = trainer.test(val_dl())
    trainer.log({"size": np.int64(7)}, step=3)
    test = {"test/loss": result["loss"], "test/accuracy": result["accuracy"]}
    assert notes.said == ["open", (10, test), "close", "open", (3, {"size": 7.0}), "close"]


def test_what_is_logged_before_a_resumed_run_knows_its_place_is_not_written_again(tmp_path: Path) -> None:
    class First(Callback):
        def on_before_fit(self, trainer: Any, epochs: int) -> None:
            trainer.log({"parameters": 1210})

    killed_and_resumed(tmp_path, lambda: JSONLLogger(), KillAt(7), epochs=2, resume="auto")
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    trainer = build(tmp_path, Checkpoint(every_steps=3), JSONLLogger(), First(), epochs=3, resume="auto")
    trainer.fit(train_dl(), val_dl())
    assert "parameters" not in (tmp_path / "a" / "metrics.jsonl").read_text()[len(before) :]


def test_figures_with_elements_are_written_by_element_and_large_ones_left_out_with_a_warning(tmp_path: Path) -> None:
    def matrix(outputs: Any, targets: Any) -> Any:
        return torch.eye(11)

    notes = Notes()
    with pytest.warns(EngineWarning, match=r"'matrix' has the shape \(11, 11\), and is left out") as warned:
        trainer = fit(tmp_path, notes, metrics=[per_class, matrix], epochs=2)
    assert len(warned) == 1
    last = notes.written[-1][1]
    assert [last["val/per_class.0"], last["val/per_class.1"]] == list(trainer.history["val"]["per_class"][-1])
    assert not [name for name in last if "matrix" in name]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    notes, lines = Notes(every=1), JSONLLogger(every=1)
    trainer = build(tmp_path, notes, lines, epochs=1)
    trainer.main_process = False
    trainer.fit(train_dl(), val_dl())
    trainer.test(val_dl())
    trainer.log({"a": 1})
    assert notes.said == []
    assert not list(tmp_path.iterdir())
    assert lines.state_dict() == {"rows": None}


WRONG: list[tuple[Any, Any, str]] = [
    ({"a": "much"}, None, "'a' is 'much': numbers are needed"),
    ({"a": "3"}, None, "numbers are needed"),
    ({"a": {"b": 1}}, None, "numbers are needed"),
    ({"a": [None]}, None, "numbers are needed"),
    ({"a": None}, None, "'a' is None: numbers are needed"),
    ({"b": 1, "a": [[1], [1, 2]]}, None, "numbers are needed"),
    ({"a": torch.tensor(1j)}, None, "numbers are needed"),
    ({"a": 1j}, None, "numbers are needed"),
    ([("a", 1)], None, "a dict is needed"),
    ({"a": 1}, 2.5, r"step=2\.5\): an int is needed"),
    ({"a": 1}, "3", r"step='3'\): an int is needed"),
    ({"a": 1}, True, r"step=True\): an int is needed"),
]


@pytest.mark.parametrize("loggers", [[], [Notes]], ids=["without a logger", "with one"])
@pytest.mark.parametrize(("figures", "step", "message"), WRONG, ids=[str(w[:2]) for w in WRONG])
def test_what_is_no_number_is_refused_with_and_without_a_logger(
    tmp_path: Path, loggers: Any, figures: Any, step: Any, message: str
) -> None:
    notes = [kind() for kind in loggers]
    trainer = build(tmp_path, *notes, epochs=1)
    with pytest.raises(ArgumentTypeError, match=message):
        trainer.log(figures, step)
    assert not [note for note in notes if note.written]


@pytest.mark.parametrize("loggers", [[], [Notes]], ids=["without a logger", "with one"])
@pytest.mark.parametrize("name", ["step", "epoch", " step ", "", " "])
def test_names_that_cannot_be_are_refused_with_and_without_a_logger(tmp_path: Path, loggers: Any, name: str) -> None:
    trainer = build(tmp_path, *(kind() for kind in loggers), epochs=1)
    with pytest.raises(ArgumentError, match="name"):
        trainer.log({name: 5})


def test_figures_that_nobody_keeps_are_said_to_be_dropped_once(tmp_path: Path) -> None:
    trainer = build(tmp_path, epochs=1)
    trainer.log({})
    with pytest.warns(EngineWarning, match=r"no callback keeps figures.*add JSONLLogger\(\) or TensorBoard\(\)"):
        trainer.log({"a": 1})
    trainer.log({"a": 1})  # where warnings are errors


def test_numbers_of_all_kinds_are_taken(tmp_path: Path) -> None:
    notes = Notes()
    trainer = build(tmp_path, notes)
    kinds = [
        np.float32(1),
        np.array(1),
        torch.tensor(True),
        torch.ones((), requires_grad=True),
        Fraction(1),
        Decimal(1),
    ]
    trainer.log({str(index): kind for index, kind in enumerate(kinds)}, step=np.int64(3))
    trainer.log({"list": [1, 2.0], "several": torch.ones(2, dtype=torch.bfloat16)}, step=torch.tensor(4))
    trainer.log({})
    assert notes.written == [
        (3, {str(index): 1.0 for index in range(len(kinds))}),
        (4, {"list.0": 1.0, "list.1": 2.0, "several.0": 1.0, "several.1": 1.0}),
    ]


def picture(value: float = 1.0) -> Any:
    figure = pytest.importorskip("matplotlib.figure").Figure((2, 1), dpi=50)
    figure.subplots().plot([0, value])
    return figure


def test_a_picture_that_nobody_keeps_is_said_to_be_dropped_once(tmp_path: Path) -> None:
    trainer = build(tmp_path, JSONLLogger())
    with pytest.warns(EngineWarning, match=r"add TensorBoard\(\), or write it yourself: figure\.savefig"):
        trainer.add_figure("curve", picture())
    trainer.add_figure("curve", picture())  # where warnings are errors


@pytest.mark.parametrize("value", ["0.5", None, [1.0], object()])
def test_what_is_neither_a_number_nor_a_picture_is_no_figure(tmp_path: Path, value: Any) -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"a number or a matplotlib Figure .* is needed, not a .*trainer\.writer"
    ):
        build(tmp_path).add_figure("x", value)


def test_a_figure_does_not_take_the_name_of_a_metric(tmp_path: Path) -> None:
    class Takes(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            trainer.add_figure("accuracy", 42.0)

    with pytest.raises(ArgumentError, match=r"add_figure\('accuracy'\): a metric of this train task has this name"):
        fit(tmp_path, Takes())
    history = fit(tmp_path, Takes(), metrics=None, epochs=1).history
    assert history["train"]["accuracy"] == [42.0]


def test_axes_are_told_where_their_figure_is(tmp_path: Path) -> None:
    with pytest.raises(ArgumentTypeError, match=r"Figure \(of axes: axes\.figure\) is needed, not a Axes"):
        build(tmp_path).add_figure("x", picture().axes[0])


def test_arguments_are_checked_when_it_is_made() -> None:
    for every in (0, -1, 2.0, True, "3"):
        with pytest.raises(ArgumentError, match="every="):
            JSONLLogger(every=every)  # type: ignore[arg-type]
    for file in ("", "a/b.csv", "..", ".hidden", 3):
        with pytest.raises(ArgumentError, match="plain name"):
            CSVLogger(file)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="did you mean 'every'"):
        CSVLogger(evry=3)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------- the files


def test_lines_of_json_equal_the_history_exactly(tmp_path: Path) -> None:
    trainer = fit(tmp_path, JSONLLogger(every=2))
    written = [row for row in rows(tmp_path / "a" / "metrics.jsonl") if "epoch" in row]
    assert [row["step"] for row in written] == [5, 10, 15, 20]
    for stage in ("train", "val"):
        for name, values in trainer.history[stage].items():
            assert [row[f"{stage}/{name}"] for row in written] == values


def strict(text: str) -> Any:
    """Read JSON as every parser but Python's does: NaN and Infinity are none."""

    def refuse(name: str) -> Any:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_json_has_not_are_null_and_the_table_tells_which(tmp_path: Path) -> None:
    lines, cells = JSONLLogger(every=1), CSVLogger(every=1)
    trainer = fit(tmp_path, lines, cells, epochs=1, check_finite=False, lr=math.inf, hyper_params={"clip": math.inf})
    trainer.log({"nan": math.nan, "low": -math.inf, "high": 1.5})
    written = [strict(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert written[-1] == {"step": 5, "nan": None, "low": None, "high": 1.5}
    assert written[-2]["train/loss"] is None
    assert math.isnan(trainer.history["train"]["loss"][-1])
    last = table(tmp_path / "a" / "metrics.csv")[-1]
    assert (last["nan"], last["low"], last["high"]) == ("nan", "-inf", "1.5")
    assert strict((tmp_path / "a" / "hyper_params.json").read_text()) == {"clip": "inf"}
    trainer.log({"nan": 1.0, "low": 2.0, "high": 3.0})  # takes the place of that row
    assert rows(tmp_path / "a" / "metrics.jsonl")[-1] == {"step": 5, "nan": 1.0, "low": 2.0, "high": 3.0}
    assert len(rows(tmp_path / "a" / "metrics.jsonl")) == len(written)


ODD = [
    "a,b",
    'quoted "x"',
    "two\nlines",
    "tab\there",
    "ends\r",
    "a/b//c",
    "../up",
    "准确率",
    "é",
    "emoji 😀",
    "=1+1",
    "lone \ud800",
]


def test_names_of_all_kinds_leave_every_file_whole(tmp_path: Path) -> None:
    trainer = fit(tmp_path, JSONLLogger(), CSVLogger(), epochs=1)
    figures = {name: float(index) for index, name in enumerate(ODD)}
    trainer.log(figures)
    trainer.log({name: value + 1 for name, value in figures.items()})  # the same row again
    written = rows(tmp_path / "a" / "metrics.jsonl")
    assert len(written) == 2
    assert written[-1] == {"step": 5} | {name: value + 1 for name, value in figures.items()}
    read = table(tmp_path / "a" / "metrics.csv")
    assert len(read) == 2
    for name, value in figures.items():
        shown = " ".join(name.split()).encode("utf-8", "backslashreplace").decode()
        assert float(read[-1][shown]) == value + 1
    again = build(tmp_path, JSONLLogger(), CSVLogger())
    again.log(figures)
    assert table(tmp_path / "a" / "metrics.csv")[-1]["a,b"] == "0.0"
    assert len(table(tmp_path / "a" / "metrics.csv")) == 3


def test_a_table_that_a_spreadsheet_has_saved_is_continued(tmp_path: Path) -> None:
    trainer = fit(tmp_path, CSVLogger(), epochs=1)
    path = tmp_path / "a" / "metrics.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    trainer.log({"size": 3})
    first, last = table(path)
    assert (first["step"], first["size"], last["step"], last["size"]) == ("5", "", "5", "3.0")
    assert first["lr/0"] == "0.02"


def test_a_figure_that_appears_in_the_third_epoch_is_continued_behind_a_kill(tmp_path: Path) -> None:
    class Late(Callback):
        def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
            if trainer.progress.epoch >= 2:
                trainer.add_figure("late", 1.0)

    def callbacks() -> list[Any]:
        return [JSONLLogger(), CSVLogger(), TensorBoard(), Late()]

    killed_and_resumed(tmp_path, callbacks, KillAt(12), KillAt(4))
    fit(tmp_path, *callbacks(), running_id="whole")
    for file in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert [row["train/late"] for row in table(tmp_path / "a" / "metrics.csv")] == ["", "", "1.0", "1.0"]
    assert points(tmp_path / "a" / "tensorboard", "late/train") == [[15, 20]]


def test_two_trainers_at_once_do_not_write_to_one_run(tmp_path: Path) -> None:
    class Second(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            with pytest.raises(RunLockedError, match="in use by"):
                fit(tmp_path, JSONLLogger(), TensorBoard(), epochs=1)
            with pytest.warns(EngineWarning, match="nothing is written"):
                build(tmp_path, JSONLLogger()).test(val_dl())

    fit(tmp_path, JSONLLogger(), TensorBoard(), Second(), epochs=2)
    assert [row["step"] for row in rows(tmp_path / "a" / "metrics.jsonl")] == [5, 10]
    assert points(tmp_path / "a" / "tensorboard", "loss/val", "loss/test") == [[5, 10], []]


def test_ten_thousand_epochs_are_cut_in_a_moment(tmp_path: Path) -> None:
    """What a resume costs, but for the training."""
    fit(tmp_path, Checkpoint(), JSONLLogger(), CSVLogger(), epochs=1, resume="auto")
    for file in ("metrics.jsonl", "metrics.csv"):
        path = tmp_path / "a" / file
        *head, last = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(head) + last * 10_000)
    started = time.process_time()
    fit(tmp_path, Checkpoint(), JSONLLogger(), CSVLogger(), epochs=2, resume="auto")
    assert time.process_time() - started < 5
    assert [len(rows(tmp_path / "a" / "metrics.jsonl")), len(table(tmp_path / "a" / "metrics.csv"))] == [2, 2]


def test_columns_that_come_later_leave_the_table_whole(tmp_path: Path) -> None:
    trainer = fit(tmp_path, CSVLogger(every=2), Noisy(), epochs=3)
    trainer.test(val_dl())
    trainer.log({'odd, "name"\nof two lines': 1.5})
    read = table(tmp_path / "a" / "metrics.csv")
    with (tmp_path / "a" / "metrics.csv").open(newline="") as file:
        assert len({len(row) for row in csv.reader(file, strict=True)}) == 1
    assert next(iter(read[0])) == "step"
    epochs = [row for row in read if row["epoch"]]
    assert [float(row["val/loss"]) for row in epochs] == trainer.history["val"]["loss"]
    assert [row["own/noise"] for row in read if row["own/noise"]] == ["0.5", "0.5"]
    assert read[-2]["test/loss"]
    assert read[-1]['odd, "name" of two lines'] == "1.5"


def test_hyper_parameters_lie_beside_the_figures(tmp_path: Path) -> None:
    fit(tmp_path, CSVLogger(), epochs=1, hyper_params={"net": {"width": 16}, "lr": 0.02})
    assert json.loads((tmp_path / "a" / "hyper_params.json").read_text()) == {"net.width": 16, "lr": 0.02}


def of_lines() -> list[Logger]:
    return [JSONLLogger(every=2), CSVLogger(every=2)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody has cut."""
    folder = tmp_path_factory.mktemp("whole")
    fit(folder, *of_lines())
    return folder / "a"


@pytest.mark.parametrize(
    "kills",
    [
        [KillAt(2)],  # before the first checkpoint
        [KillAt(PER_EPOCH)],
        [KillAt(8), KillAt(3), KillAt(9)],
        [KillAt(2 * PER_EPOCH + 1)],
        [KillInEpochEnd(1)],
        [KillInEpochEnd(3), KillAt(1)],
    ],
    ids=lambda kills: "+".join(f"{type(k).__name__}{getattr(k, 'left', getattr(k, 'epoch', 0))}" for k in kills),
)
def test_a_killed_and_resumed_run_has_the_files_of_an_uncut_one(tmp_path: Path, whole: Path, kills: list[Any]) -> None:
    killed_and_resumed(tmp_path, of_lines, *kills)
    for file in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.parametrize("kind", [JSONLLogger, CSVLogger])
def test_a_half_line_and_rubbish_behind_the_checkpoint_are_removed(tmp_path: Path, kind: Any) -> None:
    whole = fit(tmp_path, kind(), epochs=3, running_id="whole")
    fit(tmp_path, Checkpoint(), kind(), epochs=2, resume="auto")
    path = tmp_path / "a" / kind().file
    with path.open("ab") as file:
        file.write(b"\x00\xff\x00\n" + b'{"step": 11, "tr')
    fit(tmp_path, Checkpoint(), kind(), epochs=3, resume="auto")
    assert path.read_bytes() == (tmp_path / "whole" / kind().file).read_bytes()
    assert whole.progress.step == 15


@pytest.mark.parametrize("kind", [JSONLLogger, CSVLogger])
def test_a_logger_that_the_state_does_not_know_keeps_what_came_before_its_step(tmp_path: Path, kind: Any) -> None:
    """A run that was checkpointed without it, beside a file that an earlier one has left."""
    fit(tmp_path, kind(every=1), epochs=3)
    path = tmp_path / "a" / kind().file
    with path.open("ab") as file:
        file.write(b'{"no step": 1}\n{"st')
    fit(tmp_path, Checkpoint(), epochs=2, resume="auto")
    fit(tmp_path, Checkpoint(), kind(every=1), epochs=3, resume="auto")
    fit(tmp_path, kind(every=1), epochs=3, running_id="whole")
    assert path.read_bytes() == (tmp_path / "whole" / kind().file).read_bytes()


def test_a_state_in_memory_rewinds_the_file(tmp_path: Path) -> None:
    trainer = build(tmp_path, JSONLLogger(every=2), epochs=2)
    trainer.fit(train_dl(), val_dl())
    state = torch.load(_saved(trainer.state_dict(), tmp_path), weights_only=True)
    path = tmp_path / "a" / "metrics.jsonl"
    trainer.fit(train_dl(), val_dl(), epochs=2)
    expected = path.read_bytes()
    trainer.load_state_dict(state)
    trainer.fit(train_dl(), val_dl(), epochs=4)
    assert path.read_bytes() == expected


def _saved(state: Any, folder: Path) -> Path:
    torch.save(state, folder / "state.pt")
    return folder / "state.pt"


def test_an_evaluation_of_an_earlier_state_takes_nothing_away(tmp_path: Path) -> None:
    trainer = build(tmp_path, JSONLLogger(), epochs=1)
    trainer.fit(train_dl(), val_dl())
    state = trainer.state_dict()
    trainer.fit(train_dl(), val_dl(), epochs=1)
    trainer.load_state_dict(state)
    trainer.test(val_dl())
    assert [row["step"] for row in rows(tmp_path / "a" / "metrics.jsonl")] == [5, 10, 5]
    trainer.fit(train_dl(), val_dl(), epochs=2)
    assert [row["step"] for row in rows(tmp_path / "a" / "metrics.jsonl")] == [5, 10]


def test_another_run_of_the_same_name_sets_the_old_file_aside(tmp_path: Path) -> None:
    fit(tmp_path, JSONLLogger(), epochs=2)
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    for count in (1, 2):
        with pytest.warns(EngineWarning, match=f"of another run; it is metrics-{count}.jsonl now"):
            fit(tmp_path, JSONLLogger(), epochs=2)
    assert (tmp_path / "a" / "metrics-1.jsonl").read_bytes() == before
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before


def test_a_second_fit_appends_and_a_file_that_lost_rows_is_told_of(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Checkpoint(), JSONLLogger(), epochs=2, resume="auto")
    trainer.fit(train_dl(), val_dl(), epochs=1)
    path = tmp_path / "a" / "metrics.jsonl"
    assert [row["step"] for row in rows(path)] == [5, 10, 15]
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.warns(EngineWarning, match="has 1 rows of the 3 that there were"):
        fit(tmp_path, Checkpoint(), JSONLLogger(), epochs=4, resume="auto")
    assert [row["step"] for row in rows(path)] == [5, 20]


def test_one_logger_in_two_runs_keeps_them_apart(tmp_path: Path) -> None:
    logger = JSONLLogger()
    for name, epochs in (("a", 2), ("b", 1)):
        fit(tmp_path, logger, epochs=epochs, running_id=name)
    assert [len(rows(tmp_path / name / "metrics.jsonl")) for name in "ab"] == [2, 1]


def test_a_run_that_is_stopped_in_mid_epoch_and_resumed_goes_on_within_it(tmp_path: Path, whole: Path) -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.step == 8:
                trainer.stop()

    def callbacks() -> list[Any]:
        return [Checkpoint(), *of_lines()]

    fit(tmp_path, *callbacks(), Stop(), resume="auto")
    fit(tmp_path, *callbacks(), resume="auto")
    for file in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (whole / file).read_bytes()


def test_a_disk_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = JSONLLogger()
    opened = LineLogger.open

    def onto_a_full_disk(self: LineLogger, trainer: Any) -> None:
        opened(self, trainer)
        self._written.close()
        self._written = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115

    monkeypatch.setattr(LineLogger, "open", onto_a_full_disk)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl cannot be written: No space left"):
        fit(tmp_path, logger, epochs=1)


def test_rows_are_on_the_disk_before_a_state_that_knows_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def noted(file: int) -> None:
        if os.readlink(f"/proc/self/fd/{file}").endswith("metrics.jsonl"):
            synced.append(os.fstat(file).st_size)
        real(file)

    monkeypatch.setattr(os, "fsync", noted)
    fit(tmp_path, Checkpoint(), JSONLLogger(), epochs=2)
    sizes = [len(line) for line in (tmp_path / "a" / "metrics.jsonl").read_bytes().splitlines(keepends=True)]
    assert synced == [sizes[0], sum(sizes)]


def test_a_figure_without_a_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = build(tmp_path, JSONLLogger(), running_id=None)
    with pytest.raises(ArgumentError, match="there is no run that figures could be written to"):
        trainer.log({"a": 1})
    assert not list(tmp_path.iterdir())


def test_a_test_without_a_run_is_not_written_which_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = build(tmp_path, JSONLLogger(), LogCallback(), running_id=None, folder=None)
    with pytest.warns(EngineWarning, match="the run has no folder") as warned:
        trainer.test(val_dl())
    trainer.test(val_dl())
    assert len(warned) == 1
    assert not list(tmp_path.iterdir())


def test_a_test_of_a_named_run_is_added_to_it(tmp_path: Path) -> None:
    fit(tmp_path, JSONLLogger(), epochs=1)
    result = build(tmp_path, JSONLLogger()).test(val_dl())
    assert rows(tmp_path / "a" / "metrics.jsonl")[-1]["test/loss"] == result["loss"]
    assert len(rows(tmp_path / "a" / "metrics.jsonl")) == 2


def test_nothing_is_written_to_a_run_that_another_process_is_training(tmp_path: Path) -> None:
    fit(tmp_path, CSVLogger(), TensorBoard(), epochs=1)
    lock = FolderLock(tmp_path / "a")
    lock.acquire()
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    trainer = build(tmp_path, CSVLogger(), TensorBoard())
    with pytest.warns(EngineWarning, match="nothing is written: .* is in use by process"):
        trainer.test(val_dl())
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()} == before
    lock.release()
    trainer.test(val_dl())
    assert len(table(tmp_path / "a" / "metrics.csv")) == 2


def test_two_loggers_do_not_share_a_file(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"two loggers write to 'metrics\.csv'"):
        build(tmp_path, CSVLogger(), JSONLLogger("metrics.csv"))
    fit(tmp_path, JSONLLogger(), JSONLLogger("batches.jsonl", every=1), epochs=1)
    assert [len(rows(tmp_path / "a" / name)) for name in ("metrics.jsonl", "batches.jsonl")] == [1, 6]


def test_a_branch_in_a_folder_of_its_own_begins_at_its_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path, Checkpoint(), JSONLLogger(), TensorBoard(), epochs=2, hyper_params={"lr": 1})
    trainer = build(tmp_path, JSONLLogger(), TensorBoard(), epochs=3, running_id="b", hyper_params={"lr": 2})
    trainer.load_checkpoint(tmp_path / "a")
    trainer.fit(train_dl(), val_dl())
    assert [row["step"] for row in rows(tmp_path / "b" / "metrics.jsonl")] == [15]
    assert list(scalars(tmp_path / "b" / "tensorboard")["loss/val"]) == [15]
    assert len(rows(tmp_path / "a" / "metrics.jsonl")) == 2


def test_weights_from_elsewhere_do_not_let_a_fit_cut_another_runs_file(tmp_path: Path) -> None:
    fit(tmp_path, Checkpoint(), epochs=1, running_id="other")
    fit(tmp_path, JSONLLogger(), TensorBoard(), epochs=3)
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    trainer = build(tmp_path, JSONLLogger(), TensorBoard(), epochs=2)
    trainer.load_checkpoint(tmp_path / "other")
    with pytest.warns(EngineWarning, match="of another run"):
        trainer.fit(train_dl(), val_dl())
    assert (tmp_path / "a" / "metrics-1.jsonl").read_bytes() == before
    assert list(scalars(tmp_path / "a" / "tensorboard-1")["loss/val"]) == [5, 10, 15]
    assert list(scalars(tmp_path / "a" / "tensorboard")["loss/val"]) == [10]


# ----------------------------------------------------------------------------------------------------- MLflow


def mlflow_client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    tracking = pytest.importorskip("mlflow.tracking")
    return tracking.MlflowClient(tracking_uri=(folder / "mlruns").as_uri())


@pytest.fixture
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")
    pytest.importorskip("mlflow.tracking")


@pytest.mark.usefixtures("_quiet")
def test_mlflow_has_every_step_once_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> MLflowLogger:
        return MLflowLogger("digits", every=2)

    options: dict[str, Any] = {"hyper_params": {"net": {"width": 16}}, "epochs": 3}
    trainer = killed_and_resumed(tmp_path, make, KillAt(2), KillAt(8), **options)
    result = trainer.test(val_dl())
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    client = mlflow_client(tmp_path, monkeypatch)
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a"
    assert run.data.params == {"net.width": "16"}

    def curve(name: str) -> list[tuple[int, float]]:
        return sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))

    for stage in ("train", "val"):
        assert curve(f"{stage}/loss") == list(zip([5, 10, 15], trainer.history[stage]["loss"], strict=True))
    assert [step for step, _ in curve("train_batch/loss")] == [2, 4, 6, 8, 10, 12, 14]
    assert curve("test/loss") == [(15, result["loss"])]
    assert {step for step, _ in curve("lr/head")} == {2, 4, 5, 6, 8, 10, 12, 14, 15}


def points_of(client: Any, experiment: str = "deepepochs_like") -> Any:
    """The points of every figure of the one run that there is, in the order of their steps."""
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    read = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: sorted((m.step, m.value) for m in history) for name, history in read.items()}


@pytest.mark.usefixtures("_quiet")
def test_mlflow_has_no_point_twice_whatever_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(*kills: Any) -> None:
        trainer = build(tmp_path, Checkpoint(), MLflowLogger(every=1), *kills, epochs=2, resume="auto")
        trainer.fit(train_dl(), val_dl())
        trainer.test(val_dl())
        trainer.log({"size": 5})

    for batch in (8, 4):
        with pytest.raises(Killed):
            script(KillAt(batch))
    for _ in range(3):
        script()
    whole = build(tmp_path / "other", MLflowLogger(every=1), epochs=2)
    whole.fit(train_dl(), val_dl())
    whole.test(val_dl())
    whole.log({"size": 5})
    drawn = points_of(mlflow_client(tmp_path, monkeypatch))
    assert drawn == points_of(mlflow_client(tmp_path / "other", monkeypatch))
    assert [step for step, _ in drawn["lr/head"]] == list(range(1, 11))
    assert [step for step, _ in drawn["val/loss"]] == [5, 10]


@pytest.mark.usefixtures("_quiet")
def test_a_run_that_comes_to_other_values_than_mlflow_has_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, Checkpoint(), MLflowLogger(every=1), KillAt(4), resume="auto")
    with pytest.warns(
        EngineWarning, match=r"train_batch/loss is .* at update 2; an earlier attempt.*another running_id"
    ):
        fit(tmp_path, Checkpoint(), MLflowLogger(every=1), lr=0.5, epochs=1, resume="auto")
    drawn = points_of(mlflow_client(tmp_path, monkeypatch))
    assert [step for step, _ in drawn["train_batch/loss"]] == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("_quiet")
def test_mlflow_takes_names_numbers_and_pictures_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_logger, "_MOST_FIGURES", 4)
    trainer = fit(tmp_path, MLflowLogger(), epochs=1, hyper_params={"long": "x" * 7000})
    trainer.log({name: float(index) for index, name in enumerate([*ODD, "x" * 300])})
    trainer.log({"low": -math.inf, "nan": math.nan})
    trainer.add_figure("a curve", picture())
    client = mlflow_client(tmp_path, monkeypatch)
    drawn = points_of(client)
    assert drawn["准确率"] == [(5, 7.0)]
    assert drawn["a_b"] == [(5, 0.0)]
    assert drawn["a/b/_/c"] == [(5, 5.0)]
    assert drawn["__/up"] == [(5, 6.0)]
    assert drawn["low"] == [(5, -math.inf)]
    assert drawn["x" * 250] == [(5, float(len(ODD)))]
    (run,) = client.search_runs([client.get_experiment_by_name("deepepochs_like").experiment_id])
    (path,) = [f.path for f in client.list_artifacts(run.info.run_id, "a curve")]
    content = Path(client.download_artifacts(run.info.run_id, path)).read_bytes()
    assert path == "a curve/00000005.png"
    assert content.startswith(b"\x89PNG")


@pytest.mark.usefixtures("_quiet")
def test_no_call_of_mlflow_is_larger_than_it_takes() -> None:
    limits = pytest.importorskip("mlflow.utils.validation")
    assert limits.MAX_METRICS_PER_BATCH == mlflow_logger._MOST_FIGURES
    assert limits.MAX_ENTITY_KEY_LENGTH == mlflow_logger._LONGEST_NAME
    assert limits.MAX_PARAM_VAL_LENGTH == mlflow_logger._LONGEST_PARAM


@pytest.mark.slow
def test_mlflow_tells_nobody_and_draws_no_random_number(tmp_path: Path) -> None:
    """In a process that no continuous integration shows in, as a user's is."""
    pytest.importorskip("mlflow.tracking")
    script = """
import pathlib, random, socket, sys, threading
asked = []
def refuse(self, address, *more):
    if self.family != socket.AF_UNIX:
        asked.append(address)
    raise OSError("no network")
socket.socket.connect = refuse
socket.getaddrinfo = lambda *where, **how: asked.append(where) or (_ for _ in ()).throw(OSError("no network"))
from support.logged import fit
from deepepochs_like import MLflowLogger
fit(pathlib.Path(sys.argv[1]), MLflowLogger(), epochs=1)
numbers = random.getstate()
from mlflow.telemetry.client import get_telemetry_client
import time; time.sleep(0.3)
assert get_telemetry_client() is None
assert not asked, asked
assert random.getstate() == numbers
assert not [t.name for t in threading.enumerate() if "elemetry" in t.name]
import os
assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ
print("silent")
"""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = {**kept, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.stdout == "silent\n", done.stderr
    assert not (tmp_path / ".config").exists()


@pytest.mark.usefixtures("_quiet")
def test_mlflow_is_told_how_a_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fail(Callback):
        def on_before_val_epochs(self, trainer: Any, tasks: Any, epoch_idx: int) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, MLflowLogger(), Fail(), hyper_params={"a b!": 1})
    client = mlflow_client(tmp_path, monkeypatch)
    (run,) = client.search_runs([client.get_experiment_by_name("deepepochs_like").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.params == {"a b_": "1"}


def test_mlflow_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "mlflow.tracking", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"deepepochs_like\[mlflow\]"):
        fit(tmp_path, MLflowLogger(), epochs=1)


# ------------------------------------------------------------------------------------------------- killed for good


def killed_for_good(folder: Path, batch: int) -> None:
    """Run in a fork of this process, which is killed without notice behind a batch."""

    class Kill(KillAt):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            fit(folder, Checkpoint(every_steps=3), *every_logger(), Kill(batch), resume="auto")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def every_logger() -> list[Logger]:
    return [JSONLLogger(every=1), CSVLogger(every=1), TensorBoard(every=1)]


def test_files_of_a_process_that_was_killed_without_notice_are_continued(tmp_path: Path) -> None:
    for batch in (2, 9, 4):
        killed_for_good(tmp_path, batch)
    fit(tmp_path, Checkpoint(every_steps=3), *every_logger(), resume="auto")
    fit(tmp_path, Checkpoint(every_steps=3), *every_logger(), running_id="whole")
    for file in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    drawn, whole = (scalars(tmp_path / name / "tensorboard") for name in ("a", "whole"))
    assert drawn == whole
    assert list(drawn["loss/train_batch"]) == list(range(1, 21))


@pytest.mark.usefixtures("_quiet")
def test_mlflow_has_a_run_for_each_run_also_for_a_branch_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path, Checkpoint(), MLflowLogger(), epochs=1)
    trainer = build(tmp_path, MLflowLogger(), epochs=2, running_id="b")
    trainer.load_checkpoint(tmp_path / "a")
    trainer.fit(train_dl(), val_dl())
    trainer.fit(train_dl(), val_dl(), epochs=1)
    client = mlflow_client(tmp_path, monkeypatch)
    found = client.search_runs([client.get_experiment_by_name("deepepochs_like").experiment_id])
    steps = {r.info.run_name: client.get_metric_history(r.info.run_id, "val/loss") for r in found}
    assert {name: [m.step for m in curve] for name, curve in steps.items() if curve} == {"a": [5], "b": [10, 15]}


@pytest.mark.usefixtures("_quiet")
def test_mlflow_has_what_a_trainer_tells_before_its_fit_in_the_run_of_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Again(Callback):
        def on_before_fit(self, trainer: Any, epochs: int) -> None:
            trainer.log({"size": 2})

    fit(tmp_path, MLflowLogger(), epochs=1, running_id="other")
    trainer = build(tmp_path, MLflowLogger(), Again(), epochs=1)
    trainer.test(val_dl())
    trainer.log({"size": 1})
    client = mlflow_client(tmp_path, monkeypatch)
    experiment = client.get_experiment_by_name("deepepochs_like").experiment_id
    assert {run.info.status for run in client.search_runs([experiment])} == {"FINISHED"}
    trainer.fit(train_dl(), val_dl())
    trainer.test(val_dl())
    (run,) = client.search_runs([experiment], "tags.running_id = 'a'")
    assert run.info.status == "FINISHED"
    curves = {name: client.get_metric_history(run.info.run_id, name) for name in ("test/loss", "train/loss", "size")}
    steps = {name: [metric.step for metric in curve] for name, curve in curves.items()}
    assert steps == {"test/loss": [0, 5], "train/loss": [5], "size": [0, 0]}
    assert run.data.metrics["size"] == 2
    trainer = build(tmp_path, MLflowLogger(), epochs=1)  # a run of the same name that is begun anew is another
    trainer.fit(train_dl(), val_dl())
    assert len(client.search_runs([experiment], "tags.running_id = 'a'")) == 2


@pytest.mark.usefixtures("_quiet")
def test_a_test_behind_a_failed_fit_does_not_make_it_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build(tmp_path, MLflowLogger(), KillAt(2))
    trainer.test(val_dl())
    with pytest.raises(Killed):
        trainer.fit(train_dl(), val_dl())
    trainer.test(val_dl())
    client = mlflow_client(tmp_path, monkeypatch)
    (run,) = client.search_runs([client.get_experiment_by_name("deepepochs_like").experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.usefixtures("_quiet")
def test_times_are_no_sign_that_a_run_came_to_other_values(tmp_path: Path) -> None:
    class Slow(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            time.sleep(0.005)

    def callbacks() -> list[Any]:
        return [Checkpoint(), MLflowLogger(), Timer(None, figures=True)]

    with pytest.raises(Killed):
        fit(tmp_path, *callbacks(), KillInEpochEnd(1), epochs=1, resume="auto")
    fit(tmp_path, *callbacks(), Slow(), epochs=1, resume="auto")


@pytest.mark.parametrize("make", [JSONLLogger, TensorBoard])
def test_a_test_of_another_runs_name_does_not_make_it_this_run(tmp_path: Path, make: Any) -> None:
    fit(tmp_path, make(), epochs=1)
    trainer = build(tmp_path, make(), epochs=1)
    trainer.test(val_dl())
    with pytest.warns(EngineWarning, match="of another run"):
        trainer.fit(train_dl(), val_dl())


# --------------------------------------------------------------------------------- what is logged outside of a fit


def before_and_after(folder: Path, *kills: Any, log: bool = True, test: bool = True, **options: Any) -> Any:
    """A script that tests before and behind its fit, as one runs it again and again."""
    trainer = build(folder, JSONLLogger(), CSVLogger(), TensorBoard(), *kills, epochs=2, **options)
    if test:
        trainer.test(val_dl())
    if log:
        trainer.log({"parameters": 1210})
    trainer.fit(train_dl(), val_dl())
    trainer.test(val_dl())
    return trainer


def steps_in(folder: Path) -> Any:
    """The steps of each file: of the rows, and of two curves."""
    found = [[row["step"] for row in rows(folder / "metrics.jsonl")]]
    found += [[int(row["step"]) for row in table(folder / "metrics.csv")]]
    return (*found, *points(folder / "tensorboard", "loss/test", "parameters"))


def points(folder: Path, *tags: str) -> list[list[int]]:
    """The steps of curves as they lie in the files, repeated ones too."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return [[e.step for e in read.Scalars(tag)] if tag in read.Tags()["scalars"] else [] for tag in tags]


WHOLE = ([0, 0, 5, 10, 10], [0, 0, 5, 10, 10], [0, 10], [0])


@pytest.mark.parametrize("resume", [False, "auto"])
def test_what_a_trainer_tells_before_its_fit_is_of_the_same_run(tmp_path: Path, resume: Any) -> None:
    before_and_after(tmp_path, resume=resume)
    assert steps_in(tmp_path / "a") == WHOLE
    assert not list((tmp_path / "a").glob("*-1*"))


def test_a_script_that_is_run_again_when_it_is_done_repeats_nothing(tmp_path: Path) -> None:
    before_and_after(tmp_path, Checkpoint(), resume="auto")
    files = {name: (tmp_path / "a" / name).read_bytes() for name in ("metrics.jsonl", "metrics.csv")}
    events = len(list((tmp_path / "a" / "tensorboard").iterdir()))
    for _ in range(2):
        before_and_after(tmp_path, Checkpoint(), resume="auto")
    assert {name: (tmp_path / "a" / name).read_bytes() for name in files} == files
    assert steps_in(tmp_path / "a") == WHOLE
    assert len(list((tmp_path / "a" / "tensorboard").iterdir())) == events


@pytest.mark.parametrize("batch", [3, 8], ids=["before the first checkpoint", "behind it"])
def test_a_killed_script_has_what_it_told_before_its_fit_once(tmp_path: Path, batch: int) -> None:
    with pytest.raises(Killed):
        before_and_after(tmp_path, Checkpoint(), KillAt(batch), resume="auto")
    before_and_after(tmp_path, Checkpoint(), resume="auto")
    assert steps_in(tmp_path / "a") == WHOLE
    before_and_after(tmp_path, Checkpoint(), running_id="whole", resume="auto")
    assert rows(tmp_path / "a" / "metrics.jsonl") == rows(tmp_path / "whole" / "metrics.jsonl")


def test_what_is_told_at_update_0_of_a_run_that_is_begun_anew_replaces_what_was(tmp_path: Path) -> None:
    class First(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            trainer.log({"own/index": epoch_idx})

    with pytest.raises(Killed):
        fit(tmp_path, Checkpoint(), *every_logger(), First(), KillAt(2), epochs=2, resume="auto")
    for name in ("a", "whole"):
        fit(tmp_path, Checkpoint(), *every_logger(), First(), epochs=2, resume="auto", running_id=name)
    for file in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert points(tmp_path / "a" / "tensorboard", "own/index") == [[0, 5]]


def test_figures_of_update_0_are_not_written_behind_those_of_a_run_that_is_to_be_resumed(tmp_path: Path) -> None:
    before_and_after(tmp_path, Checkpoint(), resume="auto", log=False, test=False)
    with pytest.warns(EngineWarning, match="goes on from update 10: figures of update 0 .* are not written"):
        before_and_after(tmp_path, Checkpoint(), resume="auto")
    assert steps_in(tmp_path / "a") == ([5, 10, 10], [5, 10, 10], [10], [])


@pytest.mark.usefixtures("_quiet")
def test_no_logger_takes_a_test_of_a_fit_that_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(notes: Notes, *kills: Any) -> None:
        checkpoint = Checkpoint(every_steps=3)
        trainer = build(tmp_path, checkpoint, JSONLLogger(), MLflowLogger(), notes, *kills, resume="auto")
        for _ in range(2):
            trainer.fit(train_dl(), val_dl(), epochs=1)
            trainer.test(val_dl())

    with pytest.raises(Killed):
        script(Notes(), KillAt(PER_EPOCH + 3))
    notes = Notes()
    with pytest.warns(EngineWarning, match="passed over"), pytest.warns(EngineWarning, match="figures of update 0"):
        script(notes)
    tests = [step for step, figures in notes.written if "test/loss" in figures]
    drawn = points_of(mlflow_client(tmp_path, monkeypatch))
    assert tests == [10]
    assert [step for step, _ in drawn["test/loss"]] == [5, 10]
    assert [row["step"] for row in rows(tmp_path / "a" / "metrics.jsonl") if "test/loss" in row] == [5, 10]


@pytest.mark.usefixtures("_quiet")
def test_a_test_that_mlflow_has_already_is_no_reason_to_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        trainer = build(tmp_path, Checkpoint(), MLflowLogger(), epochs=1, resume="auto")
        trainer.test(val_dl())
        trainer.fit(train_dl(), val_dl())
    drawn = points_of(mlflow_client(tmp_path, monkeypatch))
    assert [step for step, _ in drawn["test/loss"]] == [0]


@pytest.mark.usefixtures("_quiet")
def test_mlflow_has_a_later_test_of_weights_that_were_changed_a_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(tmp_path, MLflowLogger(), epochs=1)
    trainer.fit(train_dl(), val_dl())
    losses = [trainer.test(val_dl())["loss"]] * 2
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(0.9999)
    losses += [trainer.test(val_dl())["loss"] for _ in range(2)]
    assert losses[0] == pytest.approx(losses[2], rel=1e-3)
    drawn = points_of(mlflow_client(tmp_path, monkeypatch))
    assert sorted(value for _, value in drawn["test/loss"]) == pytest.approx(sorted({*losses}), rel=1e-9)


@pytest.mark.usefixtures("_quiet")
def test_a_test_of_a_checkpoint_before_the_fit_is_written_at_its_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script() -> Any:
        checkpoint, notes = Checkpoint("val/loss", mode="max"), Notes()
        loggers = [notes, JSONLLogger(), CSVLogger(), TensorBoard(), MLflowLogger()]
        return build(tmp_path, checkpoint, *loggers, epochs=2, resume="auto"), notes

    script()[0].fit(train_dl(), val_dl())
    trainer, notes = script()
    trainer.test(val_dl(), weights="best")
    trainer.log({"size": 7})
    best = 5  # of the largest loss
    assert [(step, [*figures]) for step, figures in notes.written] == [
        (best, ["test/loss", "test/accuracy"]),
        (best, ["size"]),
    ]
    of_rows = [[*rows(tmp_path / "a" / "metrics.jsonl")[2:]], table(tmp_path / "a" / "metrics.csv")[2:]]
    assert [[int(row["step"]) for row in found] for found in of_rows] == [[best] * 2] * 2
    assert points(tmp_path / "a" / "tensorboard", "loss/test", "size") == [[best], [best]]
    drawn = points_of(mlflow_client(tmp_path, monkeypatch))
    assert [step for step, _ in drawn["test/loss"]] == [best]
    trainer.fit(train_dl(), val_dl(), epochs=1)
    assert [row["step"] for row in rows(tmp_path / "a" / "metrics.jsonl") if "train/loss" in row] == [5, 10]


def test_a_test_of_other_weights_before_the_fit_is_told_where_it_would_be_written(tmp_path: Path) -> None:
    torch.save(fit(tmp_path, Checkpoint(), epochs=2).model.state_dict(), tmp_path / "other.pt")
    for weights in (None, tmp_path / "other.pt"):
        notes = Notes()
        with pytest.warns(EngineWarning, match=r"goes on from update 10.*test\(\.\.\., weights='last'\), or 'best'"):
            build(tmp_path, Checkpoint(), notes, resume="auto").test(val_dl(), weights=weights)
        assert notes.written == []


@pytest.mark.parametrize("every", [None, 2])
def test_a_loggers_own_hooks_are_called_whether_or_not_it_writes_batches(tmp_path: Path, every: Any) -> None:
    called: list[str] = []

    class Own(Notes):
        def on_before_train_epoch(self, trainer: Any, task: Any) -> None:
            super().on_before_train_epoch(trainer, task)
            called.append("epoch")

        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            super().on_after_train_batch(trainer, metrics, batch_idx)
            called.append("batch")

    own, plain = Own(every), Notes(every)
    fit(tmp_path, own, plain, epochs=1)
    assert called == ["epoch", *["batch"] * PER_EPOCH]
    assert own.written == plain.written


def test_an_update_at_the_end_of_a_pass_has_no_row_where_the_epoch_goes_on(tmp_path: Path) -> None:
    notes = Notes(every=3)
    trainer = build(tmp_path, notes, accumulate=2)
    trainer.fit(train_dl(), val_dl(), max_steps=9, val_every_steps=9)  # each third update ends a pass
    assert [step for step, figures in notes.written if "train_batch/loss" in figures] == []
    notes = Notes(every=2)
    build(tmp_path, notes, accumulate=2).fit(train_dl(), val_dl(), max_steps=9, val_every_steps=9)
    assert [step for step, figures in notes.written if "train_batch/loss" in figures] == [2, 4, 8]


@pytest.mark.parametrize("make", [JSONLLogger, TensorBoard])
def test_what_is_logged_before_a_loaded_state_is_restored_loses_no_row(tmp_path: Path, make: Any) -> None:
    class First(Callback):
        def on_before_fit(self, trainer: Any, epochs: int) -> None:
            trainer.log({"parameters": 1210})

    state = fit(tmp_path, make(), epochs=1).state_dict()
    logger = make()
    trainer = build(tmp_path, First(), logger, epochs=2)
    trainer.load_state_dict(state)
    trainer.fit(train_dl(), val_dl())
    known = logger.state_dict()
    if make is JSONLLogger:
        assert known["rows"] == len(rows(tmp_path / "a" / "metrics.jsonl")) == 2
    else:
        files = (tmp_path / "a" / "tensorboard").iterdir()
        assert sorted(known["sizes"]) == sorted(path.stat().st_size for path in files)


def test_what_an_epoch_logs_as_it_begins_is_not_written_again_where_it_is_gone_on_with(tmp_path: Path) -> None:
    mpl = pytest.importorskip("matplotlib.figure")

    class First(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            trainer.log({"own/index": epoch_idx})
            trainer.add_figure("picture", mpl.Figure((1, 1)))

    def callbacks() -> list[Any]:
        return [JSONLLogger(), TensorBoard(), First(), Checkpoint(every_steps=3)]

    for batch in (4, 3):  # within the first epoch, and within the second
        with pytest.raises(Killed):
            fit(tmp_path, *callbacks(), KillAt(batch + 1), epochs=3, resume="auto")
    fit(tmp_path, *callbacks(), epochs=3, resume="auto")
    found = [row["step"] for row in rows(tmp_path / "a" / "metrics.jsonl") if "own/index" in row]
    assert found == [0, 5, 10]
    assert points(tmp_path / "a" / "tensorboard", "own/index") == [[0, 5, 10]]


def test_a_figure_that_is_told_again_replaces_the_one_of_its_step(tmp_path: Path) -> None:
    trainer = fit(tmp_path, JSONLLogger(), CSVLogger(), TensorBoard(), epochs=1)
    for value in (1.0, 2.0):
        trainer.log({"note": value})
        trainer.log({"note": value}, step=3)
    trainer.log({"note": 5.0, "other": 1.0})  # other figures are another row
    assert [(r["step"], r["note"]) for r in rows(tmp_path / "a" / "metrics.jsonl")[1:]] == [(5, 2), (3, 2), (5, 5)]
    assert [(r["step"], r["note"]) for r in table(tmp_path / "a" / "metrics.csv")[1:]] == [
        ("5", "2.0"),
        ("3", "2.0"),
        ("5", "5.0"),
    ]
    assert scalars(tmp_path / "a" / "tensorboard")["note"] == {5: 5.0, 3: 2.0}
    assert points(tmp_path / "a" / "tensorboard", "note") == [[5, 3]]


def test_a_branch_keeps_what_it_told_before_its_fit(tmp_path: Path) -> None:
    fit(tmp_path, Checkpoint(), JSONLLogger(), CSVLogger(), TensorBoard(), epochs=2)
    trainer = build(tmp_path, JSONLLogger(), CSVLogger(), TensorBoard(), epochs=3, running_id="b")
    trainer.load_checkpoint(tmp_path / "a")
    trainer.test(val_dl())
    for name in ("one", "two"):
        trainer.log({name: 1})
    trainer.fit(train_dl(), val_dl())
    assert steps_in(tmp_path / "b") == ([10, 10, 10, 15], [10, 10, 10, 15], [10], [])


def test_a_refused_name_leaves_the_files_as_they_are(tmp_path: Path) -> None:
    trainer = fit(tmp_path, JSONLLogger(), TensorBoard(), epochs=1)
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    with pytest.raises(ArgumentError, match="'step' is what a row says of itself"):
        trainer.log({"fine": 1, "step": 5})
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before
