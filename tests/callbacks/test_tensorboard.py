"""`TensorBoard`: what its event files hold, read back with TensorBoard's own reader."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from deepepochs_like import Callback, Checkpoint, EngineWarning, LogCallback, TensorBoard, Trainer
from deepepochs_like.callbacks import board_server
from deepepochs_like.callbacks.board_layout import layouts
from deepepochs_like.callbacks.board_server import BoardServer
from deepepochs_like.callbacks.event_files import (
    PREFIX,
    _steps,
    cut_off,
    event_files,
    last_step,
    make_room,
    put_value,
    records,
    scalar_places,
)
from deepepochs_like.callbacks.tensorboard import scalars
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, CheckpointError, EngineError
from deepepochs_like.events import listens
from support.digits import loader, same, weights
from support.logged import KillAt, Killed, KillInEpochEnd, build, fit, killed_and_resumed, train_dl, val_dl

LOSSES = ("loss/train", "loss/val", "accuracy/train", "accuracy/val")


def events(folder: Path) -> EventAccumulator:
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    read.Reload()
    return read


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar as it lies in the files, in the order in which it is read."""
    read = events(folder)
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def to_float32(values: Any) -> list[float]:
    return [float(np.float32(value)) for value in values]


def check_curves(folder: Path, trainer: Trainer, every: int | None = None) -> None:
    """Each step occurs once, in order, with the history's value."""
    drawn = curves(folder)
    epochs = trainer.progress.epoch
    ends = [5 * (epoch + 1) for epoch in range(epochs)]
    for stage in ("train", "val"):
        for name, values in trainer.history[stage].items():
            assert drawn[f"{name}/{stage}"] == list(zip(ends, to_float32(values), strict=True))
    batches = list(range(every, 5 * epochs + 1, every)) if every else []
    assert [step for step, _ in drawn.get("loss/train_batch", [])] == batches
    for rate in ("lr/0", "lr/head"):
        assert [step for step, _ in drawn[rate]] == sorted({*batches, *ends})


def test_curves_equal_the_history_to_float32(tmp_path: Path) -> None:
    trainer = fit(tmp_path, TensorBoard())
    assert set(curves(tmp_path / "a" / "tensorboard")) == {*LOSSES, "lr/0", "lr/head"}
    check_curves(tmp_path / "a" / "tensorboard", trainer)
    rates = {n: [v for _, v in c] for n, c in curves(tmp_path / "a" / "tensorboard").items() if n.startswith("lr")}
    assert rates == {name: to_float32(values) for name, values in trainer.history.learning_rates.items()}
    assert list(scalars(tmp_path / "a" / "tensorboard")["loss/val"]) == [5, 10, 15, 20]


def test_batches_are_written_every_n_updates(tmp_path: Path) -> None:
    seen = {}

    class Seen(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            seen[trainer.progress.step] = float(metrics["loss"])

    trainer = fit(tmp_path, TensorBoard(every=3), Seen())
    check_curves(tmp_path / "a" / "tensorboard", trainer, every=3)
    drawn = curves(tmp_path / "a" / "tensorboard")["loss/train_batch"]
    assert drawn == [(step, to_float32([seen[step]])[0]) for step in range(3, 21, 3)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The curves of a run that nobody has cut."""
    folder = tmp_path_factory.mktemp("whole")
    fit(folder, TensorBoard(every=2))
    return curves(folder / "a" / "tensorboard")


@pytest.mark.parametrize(
    "kills",
    [
        [KillAt(2)],
        [KillAt(5)],
        [KillAt(8), KillAt(3), KillAt(9)],
        [KillInEpochEnd(1)],
        [KillInEpochEnd(3), KillAt(1)],
    ],
    ids=lambda kills: "+".join(f"{type(k).__name__}{getattr(k, 'left', getattr(k, 'epoch', 0))}" for k in kills),
)
def test_a_killed_and_resumed_run_has_every_step_once(tmp_path: Path, whole: Any, kills: list[Any]) -> None:
    trainer = killed_and_resumed(tmp_path, lambda: TensorBoard(every=2), *kills)
    check_curves(tmp_path / "a" / "tensorboard", trainer, every=2)
    assert curves(tmp_path / "a" / "tensorboard") == whole


def test_what_a_reader_has_read_before_the_cut_is_void(tmp_path: Path) -> None:
    """A page that was open all the while: it has read steps that the resumed run takes again."""
    with pytest.raises(Killed):
        fit(tmp_path, Checkpoint(), TensorBoard(every=1), KillAt(8), resume="auto")
    (file,) = event_files(tmp_path / "a" / "tensorboard")
    file.rename(file.with_name(f"{PREFIX}{int(time.time()) - 60:010d}.host.1.0"))  # so long ago was it killed
    page = events(tmp_path / "a" / "tensorboard")
    assert [e.step for e in page.Scalars("loss/train_batch")][-1] > 5
    trainer = fit(tmp_path, Checkpoint(), TensorBoard(every=1), epochs=3, resume="auto")
    page.Reload()
    drawn = [(e.step, e.value) for e in page.Scalars("loss/train_batch")]
    assert drawn == curves(tmp_path / "a" / "tensorboard")["loss/train_batch"]
    assert [step for step, _ in drawn] == list(range(1, 16))
    assert trainer.progress.step == 15


def test_an_x_of_ones_own_survives_a_resume_and_a_second_fit(tmp_path: Path) -> None:
    class Samples(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            trainer.log({"by/samples": 1.0}, step=16 * trainer.progress.step)

    options: dict[str, Any] = {"resume": "auto", "epochs": 2}
    with pytest.raises(Killed):
        fit(tmp_path, Checkpoint(every_steps=3), TensorBoard(), Samples(), KillAt(8), **options)
    trainer = fit(tmp_path, Checkpoint(every_steps=3), TensorBoard(), Samples(), **options)
    trainer.fit(train_dl(), val_dl(), epochs=1)
    steps = [step for step, _ in curves(tmp_path / "a" / "tensorboard")["by/samples"]]
    assert steps == list(range(16, 16 * 15 + 1, 16))
    check_curves(tmp_path / "a" / "tensorboard", trainer)


def test_fit_test_and_fit_again_are_one_curve_each(tmp_path: Path) -> None:
    trainer = fit(tmp_path, TensorBoard(), epochs=2)
    first = trainer.test(val_dl())
    trainer.fit(train_dl(), val_dl(), epochs=1)
    second = trainer.test(val_dl())
    drawn = curves(tmp_path / "a" / "tensorboard")
    assert [step for step, _ in drawn["loss/val"]] == [5, 10, 15]
    assert drawn["loss/test"] == [(10, to_float32([first["loss"]])[0]), (15, to_float32([second["loss"]])[0])]


def test_another_run_of_the_same_name_sets_the_old_events_aside(tmp_path: Path) -> None:
    fit(tmp_path, TensorBoard(), epochs=3)
    with pytest.warns(EngineWarning, match="of another run; it is tensorboard-1 now"):
        trainer = fit(tmp_path, TensorBoard(), epochs=2)
    check_curves(tmp_path / "a" / "tensorboard", trainer)
    assert len(curves(tmp_path / "a" / "tensorboard-1")["loss/val"]) == 3


def test_both_boards_in_one_run_keep_apart_and_two_of_a_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="there are two TensorBoard callbacks"):
        fit(tmp_path, TensorBoard(), TensorBoard(every=3))

    def boards() -> list[Callback]:
        return [Checkpoint(every_steps=3), TensorBoard(every=2), LogCallback()]

    with pytest.raises(Killed):
        fit(tmp_path, *boards(), KillAt(8), resume="auto")
    trainer = fit(tmp_path, *boards(), resume="auto")
    check_curves(tmp_path / "a" / "tensorboard", trainer, every=2)
    assert [step for step, _ in curves(tmp_path / "a" / "log")["loss/batch/train"]] == list(range(1, 21))


def test_events_that_were_lost_are_told_of(tmp_path: Path) -> None:
    fit(tmp_path, Checkpoint(), TensorBoard(), epochs=2, resume="auto")
    (file,) = event_files(tmp_path / "a" / "tensorboard")
    os.truncate(file, 200)
    with pytest.warns(EngineWarning, match="is shorter than it was"):
        fit(tmp_path, Checkpoint(), TensorBoard(), epochs=3, resume="auto")


def test_the_writer_is_there_in_a_run_for_images_text_and_figures(tmp_path: Path) -> None:
    mpl.use("Agg")
    from matplotlib.figure import Figure

    class Show(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            step = trainer.progress.step
            trainer.writer.add_image("digit", torch.rand(1, 8, 8), step)
            trainer.writer.add_text("note", f"epoch {epoch_idx}", step)
            figure = Figure((1, 1))
            figure.subplots().plot([1, 2])
            trainer.writer.add_figure("plot", figure, step)
            trainer.log({"own/epoch": epoch_idx})

    board = TensorBoard()
    trainer = killed_and_resumed_with(tmp_path, board, Show())
    tags = events(tmp_path / "a" / "tensorboard").Tags()
    assert set(tags["images"]) == {"digit", "plot"}
    assert "note/text_summary" in tags["tensors"]
    assert curves(tmp_path / "a" / "tensorboard")["own/epoch"] == [(0, 0.0), (5, 1.0), (10, 2.0)]
    assert [e.step for e in events(tmp_path / "a" / "tensorboard").Images("digit")] == [0, 5, 10]
    assert board.writer is None
    with pytest.raises(ArgumentError, match=r"has one from a fit.s first on_before_epoch"):
        _ = trainer.writer


def test_the_writer_is_there_in_on_before_epoch_wherever_the_board_stands(tmp_path: Path) -> None:
    class Show(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            trainer.writer.add_scalar("own", epoch_idx, trainer.progress.step)

    class Early(Callback):
        def on_before_fit(self, trainer: Any, epochs: int) -> None:
            with pytest.raises(ArgumentError, match="first on_before_epoch"):
                _ = trainer.writer

    for callbacks in ([Show(), TensorBoard()], [TensorBoard(), Show()]):
        fit(tmp_path, Early(), *callbacks, Checkpoint(), epochs=len(callbacks), resume="auto")
    state = fit(tmp_path, running_id="plain", epochs=1).state_dict()
    trainer = build(tmp_path, Early(), Show(), TensorBoard(), epochs=2, running_id="b")
    trainer.load_state_dict(state)
    trainer.fit(train_dl(), val_dl())
    assert curves(tmp_path / "a" / "tensorboard")["own"] == [(0, 0.0), (5, 1.0)]
    assert curves(tmp_path / "b" / "tensorboard")["own"] == [(5, 1.0)]


def killed_and_resumed_with(folder: Path, board: TensorBoard, *others: Callback) -> Trainer:
    with pytest.raises(Killed):
        fit(folder, Checkpoint(), TensorBoard(), *others, KillAt(8), resume="auto", epochs=3)
    return fit(folder, Checkpoint(), board, *others, resume="auto", epochs=3)


# ------------------------------------------------------------------------------------- charts, pictures, odd things


BOTH = {name: [f"^{name}/train$", f"^{name}/val$"] for name in ("loss", "accuracy")}


def told_layouts(folder: Path) -> int:
    """How often a layout was written."""
    return len(events(folder).Tensors("custom_scalars__config__"))


@pytest.mark.parametrize("kills", [[], [KillAt(2)], [KillAt(8), KillAt(3)]], ids=["whole", "2", "8+3"])
def test_one_chart_has_both_stages_and_one_all_learning_rates(tmp_path: Path, kills: list[Any]) -> None:
    killed_and_resumed(tmp_path, lambda: TensorBoard(every=2), *kills)
    folder = tmp_path / "a" / "tensorboard"
    assert layouts(folder) == {**BOTH, "lr": ["^lr/"]}
    assert told_layouts(folder) == 1
    drawn = set(curves(folder))
    for tags in BOTH.values():
        assert [[tag for tag in drawn if re.match(expression, tag)] for expression in tags] == [[t[1:-1]] for t in tags]


def test_a_figure_that_comes_later_gets_a_chart_and_odd_names_are_taken_literally(tmp_path: Path) -> None:
    class Late(Callback):
        def on_train_metrics(self, trainer: Any, **given: Any) -> None:
            if trainer.progress.epoch >= 2:
                trainer.add_figure("f(x)+1 [é]", 1.0)

        on_val_metrics = on_train_metrics

    def callbacks() -> list[Any]:
        return [TensorBoard(), Late()]

    killed_and_resumed(tmp_path, callbacks, KillAt(13))
    folder = tmp_path / "a" / "tensorboard"
    (train, val) = layouts(folder)["f(x)+1 [é]"]
    assert [tag for tag in curves(folder) if re.match(train, tag)] == ["f(x)+1 [é]/train"]
    assert [tag for tag in curves(folder) if re.match(val, tag)] == ["f(x)+1 [é]/val"]
    assert set(layouts(folder)) == {*BOTH, "f(x)+1 [é]", "lr"}
    assert told_layouts(folder) == 2


def test_without_validation_there_is_nothing_to_lay_side_by_side(tmp_path: Path) -> None:
    model = nn.Linear(64, 10)
    options: dict[str, Any] = {"folder": tmp_path, "running_id": "a", "verbose": 0, "epochs": 1, "device": "cpu"}
    Trainer(model, nn.functional.cross_entropy, callbacks=TensorBoard(), **options).fit(train_dl())
    assert layouts(tmp_path / "a" / "tensorboard") == {}


def test_a_layout_of_ones_own_is_left_alone(tmp_path: Path) -> None:
    class Own(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            if not epoch_idx:
                trainer.writer.add_custom_scalars({"mine": {"losses": ["Multiline", ["loss"]]}})

    killed_and_resumed(tmp_path, lambda: [TensorBoard(), Own()], KillAt(8))
    assert layouts(tmp_path / "a" / "tensorboard") == {"losses": ["loss"]}


def test_a_picture_is_shown_at_its_step_and_stays_as_it_is(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((2, 1), dpi=50)
    figure.subplots().plot([1, 2])
    canvas = figure.canvas

    class Draw(Callback):
        def on_after_epoch(self, trainer: Any, **given: Any) -> None:
            trainer.add_figure("curve", figure)

    trainer = killed_and_resumed_with(tmp_path, TensorBoard(), Draw())
    trainer.add_figure("at the end", figure)
    read = events(tmp_path / "a" / "tensorboard")
    assert [(image.step, image.width, image.height) for image in read.Images("curve")] == [
        (5, 100, 50),
        (10, 100, 50),
        (15, 100, 50),
    ]
    (last,) = read.Images("at the end")
    assert last.encoded_image_string.startswith(b"\x89PNG")
    assert last.step == 15
    assert figure.canvas is canvas
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_picture_from_before_a_resumed_fit_is_not_drawn_again(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    fit(tmp_path, Checkpoint(), TensorBoard(), epochs=1, resume="auto")
    trainer = build(tmp_path, Checkpoint(), TensorBoard(), epochs=2, resume="auto")
    with pytest.warns(EngineWarning, match="figures of update 0"):
        trainer.add_figure("before", Figure((1, 1)))
    trainer.fit(train_dl(), val_dl())
    assert events(tmp_path / "a" / "tensorboard").Tags()["images"] == []


def test_names_of_all_kinds_are_tags(tmp_path: Path) -> None:
    odd = ["a,b", "two\nlines", "a//b", "../up", "准确率", "😀", "lone \ud800"]
    trainer = fit(tmp_path, TensorBoard(), epochs=1)
    trainer.log(dict.fromkeys(odd, 2.0))
    drawn = curves(tmp_path / "a" / "tensorboard")
    for name in odd:
        assert drawn[name.encode("utf-8", "backslashreplace").decode()] == [(5, 2.0)]


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    class Fill(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            if epoch_idx:
                (file,) = event_files(trainer.run_folder.path / "tensorboard")
                file.unlink()
                file.symlink_to("/dev/full")

    threads: list[Any] = []
    hook, threading.excepthook = threading.excepthook, threads.append  # TensorBoard writes in a thread, which fails
    try:
        with pytest.raises(CheckpointError, match="tensorboard cannot be written: No space left"):
            fit(tmp_path, TensorBoard(), Fill(), epochs=3)
    finally:
        threading.excepthook = hook
    assert threads


def test_a_run_that_went_on_without_it_for_a_while_has_no_step_twice(tmp_path: Path) -> None:
    board = {"hyper_params": {"lr": 1}, "resume": "auto"}
    with pytest.raises(Killed):
        fit(tmp_path, Checkpoint(), TensorBoard(every=1), KillAt(9), epochs=3, **board)
    with pytest.warns(EngineWarning, match="holds the state of TensorBoard"), pytest.raises(Killed):
        fit(tmp_path, Checkpoint(every_steps=2), KillAt(2), epochs=3, **board)
    trainer = fit(tmp_path, Checkpoint(), TensorBoard(every=1), epochs=3, **board)
    check_curves(tmp_path / "a" / "tensorboard", trainer, every=1)
    assert len(sessions(tmp_path / "a" / "tensorboard")) == 2
    assert layouts(tmp_path / "a" / "tensorboard").keys() == {*BOTH, "lr"}


def test_deepepochs_curves_are_set_aside_where_the_run_went_on_without_them(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, Checkpoint(), LogCallback(tmp_path), KillAt(9), epochs=3, resume="auto")
    with pytest.warns(EngineWarning, match="holds the state of LogCallback"), pytest.raises(Killed):
        fit(tmp_path, Checkpoint(every_steps=2), KillAt(2), epochs=3, resume="auto")
    with pytest.warns(EngineWarning, match="part of the run alone, .* it is log-1 now"):
        fit(tmp_path, Checkpoint(), LogCallback(tmp_path), epochs=3, resume="auto")
    assert [step for step, _ in curves(tmp_path / "a" / "log")["loss/epoch/val"]] == [2, 3]


def test_the_highest_step_is_found_whatever_a_record_is(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step in (0, 127, 128, 1 << 40, 5):
            writer.add_scalar("a", 1.0, step)
        writer.add_text("b", "c" * 300, 7)
    (file,) = event_files(tmp_path)
    with file.open("ab") as behind:
        behind.write(b"\x40\0\0\0\0\0\0\0half")
    assert list(_steps(file.read_bytes())) == [event.step for _, _, event in records(file)]
    assert last_step(tmp_path) == 1 << 40


# ---------------------------------------------------------------------------------- hyper-parameters and the graph


def sessions(folder: Path) -> list[Any]:
    """What the HPARAMS tab is told, in order."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    told = []
    for path in event_files(folder):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    told.append(HParamsPluginData.FromString(value.metadata.plugin_data.content))
    return told


def test_hyper_parameters_are_written_once_whatever_the_resumes(tmp_path: Path) -> None:
    values = {"net": {"width": 16}, "lr": 0.02, "name": "mlp", "flip": True}
    killed_and_resumed(tmp_path, TensorBoard, KillAt(2), KillAt(8), hyper_params=values)
    begin, end = sessions(tmp_path / "a" / "tensorboard")
    read = {name: value.WhichOneof("kind") for name, value in begin.session_start_info.hparams.items()}
    assert read == {"net.width": "number_value", "lr": "number_value", "name": "string_value", "flip": "number_value"}
    assert begin.session_start_info.hparams["net.width"].number_value == 16
    assert end.session_end_info.status == 1  # success


class Twofold(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)

    def forward(self, x: Any, scale: Any = None) -> Any:
        hidden = self.drop(self.norm(self.first(x)))
        return hidden if scale is None else hidden * scale


@pytest.mark.parametrize(
    "example", [None, torch.rand(4, 64), (torch.rand(4, 64), torch.ones(1)), {"x": torch.ones(2, 64)}]
)
def test_the_graph_is_written_and_leaves_no_trace(tmp_path: Path, example: Any) -> None:
    def run(name: str, *callbacks: Any) -> Any:
        torch.manual_seed(0)
        model = Twofold()
        options: dict[str, Any] = {"folder": tmp_path, "running_id": name, "verbose": 0, "epochs": 2, "device": "cpu"}
        trainer = Trainer(model, nn.functional.cross_entropy, callbacks=list(callbacks), **options)
        trainer.fit([(x, y % 8) for x, y in loader(0, 64)])
        return weights(model)

    assert same(run("with", TensorBoard(log_graph=True, example_input=example)), run("without", TensorBoard()))
    nodes = {node.name for node in _graph(tmp_path / "with" / "tensorboard").node}
    assert any("Linear[first]" in name for name in nodes)
    assert not events(tmp_path / "without" / "tensorboard").Tags()["graph"]


def _graph(folder: Path) -> Any:
    return events(folder).Graph()


def test_the_graph_is_written_once_whatever_the_resumes(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, lambda: TensorBoard(log_graph=True), KillAt(8))
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = event_files(tmp_path / "a" / "tensorboard")
    assert sum(bool(e.graph_def) for path in files for e in EventFileLoader(str(path)).Load()) == 1


def test_a_model_that_cannot_be_traced_is_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(EngineWarning, match="the model's graph is not written, as it cannot be traced: RuntimeError"):
        trainer = fit(tmp_path, TensorBoard(log_graph=True, example_input=torch.rand(2, 3)), epochs=1)
    assert trainer.progress.epoch == 1
    assert capfd.readouterr() == ("", "")


def test_a_compiled_model_and_outputs_by_name_are_traced(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, x: Any, y: Any) -> Any:
            scores = self.head(x)
            return {"scores": scores, "loss": nn.functional.cross_entropy(scores, y)}

    for name, compile in (("plain", None), ("compiled", {"what": "model", "backend": "eager"})):
        options: dict[str, Any] = {"folder": tmp_path, "running_id": name, "verbose": 0, "epochs": 1, "device": "cpu"}
        board = TensorBoard(log_graph=True)
        trainer = Trainer(Named(), callbacks=board, compile=compile, **options)
        trainer.fit([{"x": x, "y": y} for x, y in loader(0, 64)])
        assert any("Linear[head]" in node.name for node in _graph(tmp_path / name / "tensorboard").node)


def test_no_batch_is_listened_to_unless_it_is_asked_for() -> None:
    for board in (TensorBoard(), TensorBoard(log_graph=True, example_input=torch.rand(1, 64))):
        assert not [e for e in ("before_train_batch", "after_train_batch", "train_metrics") if listens(board, e)]


def test_arguments_are_checked_when_it_is_made() -> None:
    with pytest.raises(ArgumentTypeError, match="log_graph='yes'"):
        TensorBoard(log_graph="yes")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="pass log_graph=True"):
        TensorBoard(example_input=torch.rand(1, 64))
    with pytest.raises(ArgumentTypeError, match="did you mean 'log_graph'"):
        TensorBoard(graph=True)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------- event files


def test_names_keep_their_order_when_a_run_goes_on_at_once(tmp_path: Path) -> None:
    now = int(time.time())
    for name, content in ((f"{PREFIX}{now - 9:010d}.host.2.0", b"a"), (f"{PREFIX}{now + 5:010d}.host.10.1", b"b")):
        (tmp_path / name).write_bytes(content)
    make_room(tmp_path)
    (tmp_path / f"{PREFIX}{int(time.time()):010d}.host.1.0").write_bytes(b"c")
    assert [path.read_bytes() for path in event_files(tmp_path)] == [b"a", b"b", b"c"]
    names = [path.name for path in event_files(tmp_path)]
    (tmp_path / names[-1]).unlink()
    make_room(tmp_path)
    assert [path.name for path in event_files(tmp_path)] == names[:2]


def test_cutting_off_takes_what_came_later(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{PREFIX}{number}").write_bytes(b"x" * 10)
    assert cut_off(tmp_path, [10, 4]) == []
    assert [path.stat().st_size for path in event_files(tmp_path)] == [10, 4]
    assert cut_off(tmp_path, [11, 4]) == [f"{PREFIX}0"]


def test_a_number_is_replaced_in_its_place_and_the_file_keeps_its_size(tmp_path: Path) -> None:
    fit(tmp_path, TensorBoard(), epochs=2)
    folder = tmp_path / "a" / "tensorboard"
    (file,), before, size = event_files(folder), curves(folder), event_files(folder)[0].stat().st_size
    put_value(*scalar_places(folder)["loss/val", 10], 0.0)
    assert file.stat().st_size == size
    assert curves(folder) == before | {"loss/val": [before["loss/val"][0], (10, 0.0)]}


def test_tests_before_a_fit_are_in_deepepochs_curves_once_whatever_the_reruns(tmp_path: Path) -> None:
    def script() -> dict[str, list[int]]:
        board = LogCallback(str(tmp_path))
        options: dict[str, Any] = {"resume": "auto", "epochs": 1, "folder": None, "hyper_params": {"lr": 1}}
        trainer = build(tmp_path, Checkpoint(), board, **options)
        trainer.test(val_dl())
        trainer.fit(train_dl(), val_dl())
        trainer.test(val_dl())
        return {tag: [step for step, _ in points] for tag, points in curves(tmp_path / "a" / "log").items()}

    first = script()
    assert first["loss/epoch/test"] == [0, 1]
    assert first["loss/batch/test"] == [1, 2, 3, 4, 5, 6]
    assert script() == first
    assert len(sessions(tmp_path / "a" / "log")) == 2


# ---------------------------------------------------------------------------------------------------- the page


def answers(url: str) -> bool:
    host, port = url.removeprefix("http://").strip("/").split(":")
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, int(port))) == 0


def gone(url: str) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if not answers(url):
            return True
        time.sleep(0.02)
    return False


def ask(url: str, path: str, **body: Any) -> Any:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url.rstrip("/") + path, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_the_page_serves_curves_and_hyper_parameters_with_final_figures_and_is_stopped(tmp_path: Path) -> None:
    board = TensorBoard()
    trainer = fit(tmp_path, board, hyper_params={"width": 16}, epochs=2)
    result = trainer.test(val_dl())
    with board.run_tensorboard() as page:
        assert page.url.startswith("http://127.0.0.1:")
        until = time.monotonic() + 15
        while not (runs := ask(page.url, "/data/runs")) and time.monotonic() < until:
            time.sleep(0.1)
        assert runs == ["a/tensorboard"]
        (group,) = ask(page.url, "/data/plugin/hparams/session_groups", **_all_sessions(page.url))["sessionGroups"]
        assert group["hparams"] == {"width": 16.0}
        shown = {m["name"]["tag"]: m["value"] for m in group["sessions"][0]["metricValues"]}
        assert shown["loss/val"] == to_float32([trainer.history["val"]["loss"][-1]])[0]
        assert shown["loss/test"] == to_float32([result["loss"]])[0]
    assert gone(page.url)
    assert not page.running
    page.stop()


@pytest.mark.slow
@pytest.mark.parametrize("fast", ["false", "true"])
def test_a_browser_shows_both_stages_in_one_chart(tmp_path: Path, fast: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    monkeypatch.setattr(board_server, "_SERVE", board_server._SERVE.replace('"false"', f'"{fast}"'))
    board = TensorBoard()
    fit(tmp_path, board, epochs=4)
    fit(tmp_path, TensorBoard(), epochs=4, lr=0.1, running_id="b")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", "--no-proxy-server"]
    options += ["--virtual-time-budget=15000", "--window-size=1400,1000", f"--user-data-dir={tmp_path / 'profile'}"]
    with board.run_tensorboard() as page:
        until = time.monotonic() + 15
        while not (layout := ask(page.url, "/data/plugin/custom_scalars/layout")) and time.monotonic() < until:
            time.sleep(0.1)
        assert [part["title"] for part in layout["category"]] == ["train and val", "learning rates"]
        assert [chart["title"] for chart in layout["category"][0]["chart"]] == ["loss", "accuracy"]
        command = [chromium, *options, f"--screenshot={tmp_path / 'shot.png'}", f"{page.url}#custom_scalars"]
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert (tmp_path / "shot.png").exists(), done.stderr.decode(errors="replace")[-2000:]
    image = pytest.importorskip("PIL.Image").open(tmp_path / "shot.png").convert("RGB")
    # The charts of the first row, each with two curves of two runs, in the colours of those.
    left, right = image.crop((400, 130, 730, 360)), image.crop((750, 130, 1080, 360))
    for chart in (left, right):
        colours = {colour for count, colour in chart.getcolors(1 << 24) if count > 100}
        assert {(255, 112, 67), (0, 119, 187)} <= colours


def _all_sessions(url: str) -> dict[str, Any]:
    told = ask(url, "/data/plugin/hparams/experiment", experimentName="")
    columns = [{"hparam": info["name"]} for info in told["hparamInfos"]]
    columns += [{"metric": info["name"]} for info in told["metricInfos"]]
    states = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
    return {"experimentName": "", "colParams": columns, "allowedStatuses": states, "startIndex": 0, "sliceSize": 10}


@pytest.mark.slow
def test_no_server_outlives_the_process_that_started_it_not_even_a_killed_one(tmp_path: Path) -> None:
    script = "from deepepochs_like.callbacks.board_server import BoardServer as B; import sys, time; "
    script += f"b = B({str(tmp_path)!r}); print(b.url, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert answers(url)
        parent.send_signal(signal.SIGKILL)
    assert gone(url)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="nothing has been written yet"):
        TensorBoard().run_tensorboard()
    with pytest.raises(EngineError, match=r"TensorBoard does not start: \w+: .*port"):
        BoardServer(tmp_path, 99999999)
