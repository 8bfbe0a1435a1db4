"""What is shown, and when, by a clock that only the tests move."""

from __future__ import annotations

import io
import itertools
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from torch import nn

from deepepochs_like import Callback, DefaultCallback, EpochTask, StopLoopException, Trainer
from deepepochs_like.callbacks import default
from deepepochs_like.display import Display, takes_control
from deepepochs_like.display.terminal import Bars, Drawn, Terminal
from deepepochs_like.display.words import percent
from deepepochs_like.figures import Figures
from support.loop import batches, net
from support.terminal import Screen

Lines = Callable[[], list[str]]


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stream(list[Any]):
    """A loader of so many batches, each of which takes so many seconds; of a known length or not."""

    def __init__(self, clock: Clock, count: int, seconds: float) -> None:
        super().__init__(batches(1) * count)
        self.clock, self.seconds = clock, seconds

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            self.clock.now += self.seconds
            yield batch


class Lengthless:
    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def score(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (preds - targets).abs().mean()


def trainer(*callbacks: Any, model: Any = None, **options: Any) -> Trainer:
    model = net() if model is None else model
    options = {"epochs": 2, "metrics": score, "metric_patch": "mean", **options}
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    return Trainer(model, nn.functional.mse_loss, opt, device="cpu", callbacks=list(callbacks), **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(time, "thread_time", clock)
    return clock


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What was printed since the last call."""
    for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return lambda: capsys.readouterr().out.splitlines()


class Live:
    """A terminal in memory that DefaultCallbacks open, and what is counted on it."""

    def __init__(self, width: int, height: int, encoding: str = "utf-8") -> None:
        self.bytes = io.BytesIO()
        self.file = io.TextIOWrapper(self.bytes, encoding=encoding)
        environ = {"TERM": "xterm-256color"}
        self.console = Console(file=self.file, force_terminal=True, width=width, height=height, _environ=environ)
        self.draws = 0

    def open(self, trainer: Any, log_long: bool, log_batch: bool, log_tqdm: bool) -> Display:
        display = (Bars if log_tqdm else Terminal)(trainer, self.console, 7 if log_long else 4, log_batch)
        draw = display.draw

        def counted(trainer: Any) -> None:
            self.draws += 1
            draw(trainer)

        display.draw = counted  # type: ignore[method-assign]
        return display

    @property
    def screen(self) -> Screen:
        self.file.flush()
        return Screen(self.console.width, self.bytes.getvalue().decode(self.file.encoding))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Live]:
    def make(width: int = 80, height: int = 24, encoding: str = "utf-8") -> Live:
        live = Live(width, height, encoding)
        monkeypatch.setattr(default, "open_display", live.open)
        return live

    return make


# When


@pytest.mark.parametrize("count", [10, 1000])
def test_refreshes_go_by_the_clock_and_only_they_read_figures(
    count: int, clock: Clock, terminal: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    glances = []
    glance = Figures.glance
    monkeypatch.setattr(Figures, "glance", lambda self: glances.append(clock.now) or glance(self))
    live = terminal()
    trainer(epochs=1).fit(Stream(clock, count, 2.0 / count))
    assert 2.0 / 0.2 - 1 <= len(glances) <= 2.0 / 0.15 + 1
    assert min(b - a for a, b in itertools.pairwise(glances)) >= 0.15
    assert live.draws <= len(glances) + 2  # one at the start of the run, one at the end of the epoch


def test_between_refreshes_a_batch_costs_one_look_at_the_clock() -> None:
    callback, calls = DefaultCallback(), []
    sys.setprofile(lambda frame, event, argument: calls.append((event, argument)))
    callback.on_after_train_batch(None, None, 0)
    callback.on_after_val_batch(None, None, 0)
    callback.on_after_test_batch(None, None, 0)
    sys.setprofile(None)
    names = [getattr(argument, "__name__", "") for event, argument in calls if event == "c_call"]
    assert names == ["monotonic"] * 3 + ["setprofile"]
    assert sum(event == "call" for event, _ in calls) == 3


def test_a_dear_refresh_is_done_more_rarely(clock: Clock, terminal: Callable[..., Live]) -> None:
    live = terminal()
    display = live.open(trainer(verbose=0), False, True, False)
    assert display.pause(0.0005) == 0.15
    assert display.pause(0.002) == pytest.approx(0.5)
    assert display.pause(10) == 1.0


def test_plain_lines_tell_of_long_epochs_every_ten_seconds(clock: Clock, lines: Lines) -> None:
    trainer(epochs=1).fit(Stream(clock, 40, 1.0), Stream(clock, 3, 1.0))
    progress = [line for line in lines() if "%" in line]
    assert [line.split("  ")[:3] for line in progress] == [
        ["epoch 1/1", f"train  {n}/40"[:5], f"{n}/40"] for n in (10, 20, 30, 40)
    ]
    assert progress[0].endswith("1.0 batches/s  30 s left  (run: 33 s left)")
    assert " loss " in progress[0]
    assert " score " in progress[0]


def test_without_log_batch_no_figures_of_an_epoch_in_progress(
    clock: Clock, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Figures, "glance", lambda self: pytest.fail("figures were read"))
    trainer(epochs=1, log_batch=False).fit(Stream(clock, 40, 1.0))
    progress = [line for line in lines() if "%" in line]
    assert len(progress) == 4
    assert "loss" not in "".join(progress)


# What


def test_a_fit_in_plain_lines(clock: Clock, lines: Lines) -> None:
    run = trainer()
    run.fit(Stream(clock, 4, 0.1), Stream(clock, 2, 0.1))
    header, *epochs, end = lines()
    assert header == "Linear · 3 parameters · cpu · 4 batches/epoch, 2 for validation"
    figures = [float(run.history[stage][name][0]) for stage in ("train", "val") for name in ("loss", "score")]
    first = "epoch 1/2  train  loss {:.4f}  score {:.4f}  val  loss {:.4f}  score {:.4f}  (0.6 s)"
    assert epochs[0] == first.format(*figures)
    assert len(epochs) == 2
    best = run.history["val"]
    assert end.startswith(f"2 epochs in 1.2 s  best val  loss {min(best['loss']):.4f} (epoch 2)  score ")
    assert f"score {max(best['score']):.4f} (epoch 1)" in end


def test_a_second_fit_goes_on_counting(clock: Clock, lines: Lines) -> None:
    run = trainer(show_info=False)
    run.fit(Stream(clock, 4, 0.1))
    lines()
    run.fit(Stream(clock, 4, 0.1), epochs=1)
    epoch, end = lines()
    assert epoch.startswith("epoch 3/3  train  loss ")
    assert end.startswith("1 epoch in 0.4 s  best train  loss ")
    assert "score" in end
    assert "(epoch 1)" in end  # the best of all its epochs


def test_a_resumed_run_knows_its_best(clock: Clock, lines: Lines) -> None:
    first = trainer(show_info=False)
    first.fit(Stream(clock, 4, 0.1))
    second = trainer(show_info=False, epochs=3)
    second.load_state_dict(first.state_dict())
    lines()
    second.fit(Stream(clock, 4, 0.1))
    epoch, end = lines()
    assert epoch.startswith("epoch 3/3")
    assert f"score {max(second.history['train']['score']):.4f} (epoch 1)" in end


def test_evaluations_are_one_line(clock: Clock, lines: Lines) -> None:
    run = trainer()
    tested, validated = run.test(Stream(clock, 2, 0.05)), run.validate(Stream(clock, 2, 1.0), metrics=None)
    assert lines() == [
        f"test  loss {tested['loss']:.4f}  score {tested['score']:.4f}  (0.1 s)",
        f"val  loss {validated['loss']:.4f}  score {validated['score']:.4f}  (2.0 s)",
    ]
    run.predict(batches())
    assert lines() == []


def test_why_and_where_a_run_was_stopped(clock: Clock, lines: Lines) -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.step == 6:
                trainer.stop("enough\nis enough")

        def on_after_epoch(self, trainer: Any, **rest: Any) -> None:
            if trainer.progress.step == 14:
                raise StopLoopException("no better")

    run = trainer(Stop(), show_info=False, epochs=5)
    run.fit(Stream(clock, 4, 0.1))
    assert lines()[-1].startswith("stopped in epoch 2/5, train batch 2, 0.6 s: enough  best train  loss ")
    run.fit(Stream(clock, 4, 0.1))
    assert lines()[-1].startswith("stopped after epoch 3/5, 0.8 s: no better  best train")


def test_nothing_is_said_with_verbose_0_or_beside_the_main_process(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(verbose=0).fit(batches(), batches())
    other = trainer()
    other.main_process = False
    other.fit(batches(), batches())
    other.test(batches())
    assert capsys.readouterr() == ("", "")


def test_several_tasks_and_loaders_without_length(clock: Clock, lines: Lines) -> None:
    tasks = [EpochTask(Lengthless(Stream(clock, 12, 1.0)), name="a_"), EpochTask(Stream(clock, 11, 1.0))]
    trainer().fit(train_tasks=tasks, val_dl=Lengthless(Stream(clock, 2, 1.0)))
    said = lines()
    assert said[0].endswith("cpu · batches/epoch not known")
    assert "a_loss" in said[2]
    progress = [line.split("  ")[:4] for line in said if "left" in line or "batches/s" in line]
    assert progress[0][:3] == ["epoch 1/2", "train a_", "10"]
    assert progress[1][:3] == ["epoch 1/2", "train 2/2", "8/11"]
    assert progress[2][:4] == ["epoch 2/2", "train a_", "5/12", "42%"]  # as long as last time


def test_a_loader_without_length_is_expected_to_be_as_long_as_last_time(clock: Clock, lines: Lines) -> None:
    trainer(show_info=False).fit(Lengthless(Stream(clock, 24, 1.0)))
    progress = [line.split("  ")[:4] for line in lines() if "batches/s" in line]
    assert progress[0][:3] == ["epoch 1/2", "train", "10"]
    assert progress[2][:4] == ["epoch 2/2", "train", "6/24", "25%"]


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ({"max_steps": 10}, ["epoch 1/3", "epoch 2/3", "epoch 3/3"]),
        ({"max_steps": 10, "val_every_steps": 5}, ["epoch 1/2", "epoch 2/2"]),
    ],
)
def test_runs_measured_in_steps(options: dict[str, int], ends: list[str], clock: Clock, lines: Lines) -> None:
    trainer(show_info=False).fit(Stream(clock, 4, 0.1), Stream(clock, 2, 0.1), **options)
    assert [line.split("  ")[0] for line in lines()[:-1]] == ends


def test_a_run_measured_in_steps_over_a_stream(clock: Clock, terminal: Callable[..., Live]) -> None:
    live, seen = terminal(), []

    class Look(Callback):
        def on_before_val_epoch(self, trainer: Any, task: Any) -> None:
            seen.append(live.screen.text())

    stream = Lengthless(Stream(clock, 40, 0.1))
    trainer(Look(priority=-1)).fit(stream, batches(), max_steps=100)
    assert "step   40/100  " in seen[0]
    assert " 40%  10.0 batches/s    6 s left" in seen[0]
    assert "step   80/100  " in seen[1]


def test_a_figure_that_is_nan_is_never_the_best(clock: Clock, lines: Lines) -> None:
    values = iter([float("nan"), 0.5, float("nan"), 0.25])

    def odd_score(preds: torch.Tensor, targets: torch.Tensor) -> float:
        return next(values)

    trainer(metrics=odd_score, show_info=False, epochs=4).fit(Stream(clock, 1, 0.1))
    said = lines()
    assert "odd_score nan" in said[0]
    assert "odd_score 0.5000 (epoch 2)" in said[-1]


# The live view


def test_the_live_view_fits_any_terminal(clock: Clock, terminal: Callable[..., Live]) -> None:
    def named(i: int) -> Callable[..., Any]:
        def metric(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return score(preds, targets) * 10 ** (i - 10)

        metric.__name__ = f"{i:02}_{'long_' * 11}end" if i % 2 else f"metric_{i}"
        return metric

    for width, height in ((60, 20), (80, 24), (200, 50)):
        live, shown = terminal(width, height), []

        class Look(Callback):
            def __init__(self, live: Live, shown: list[Screen]) -> None:
                super().__init__(priority=-1)
                self.live, self.shown = live, shown

            def on_after_train_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
                self.shown.append(self.live.screen)

        trainer(Look(live, shown), metrics=[named(i) for i in range(30)]).fit(
            Stream(clock, 9, 0.2), Stream(clock, 9, 0.2)
        )
        view = shown[-1].text().split("\n\n")[-1].splitlines()
        assert len(view) <= height - 4
        assert view[0].startswith("epoch  2/2  ━")
        assert view[1].startswith("train  9/9  ━")
        assert view[3].startswith("loss ")
        assert (view[-1].startswith("+")) == (height < 50)
        final = live.screen
        assert final.wrapped == 0
        assert final.cursor_shown
        assert "━" not in final.text()
        assert max(map(len, final.rows)) < width


def test_the_live_view_follows_its_terminal(clock: Clock, terminal: Callable[..., Live]) -> None:
    live = terminal(100, 30)

    class Resize(Callback):
        def on_after_train_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
            live.console.size = (60, 20) if trainer.progress.epoch == 0 else (120, 40)

    trainer(Resize(), epochs=3).fit(Stream(clock, 9, 0.2), Stream(clock, 9, 0.2))
    live.file.flush()
    assert "3 epochs in" in live.bytes.getvalue().decode()


def test_rows_that_a_narrower_terminal_makes_of_lines() -> None:
    from rich.segment import Segment

    drawn = Drawn([[Segment("")], [Segment("x" * 40), Segment("y" * 39), Segment("   ")], [Segment("z" * 60)]])
    assert [drawn.rows(width) for width in (100, 79, 78, 60, 30)] == [3, 3, 4, 4, 6]


def test_prints_and_runs_inside_a_run_come_out_above_the_view(clock: Clock, terminal: Callable[..., Live]) -> None:
    live = terminal()

    class Busy(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                trainer.print("said by trainer.print")
                sys.stdout.write("said by sys.stdout\n")

        def on_after_train_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
            trainer.test(Stream(clock, 5, 0.2))

    run = trainer(Busy(), show_info=False)
    run.fit(Stream(clock, 9, 0.2), Stream(clock, 9, 0.2))
    rows = live.screen.text().splitlines()
    assert [row for row in rows if row.startswith("said")] == ["said by trainer.print", "said by sys.stdout"] * 2
    assert sum(row.startswith("test  loss") for row in rows) == 2
    assert [row.split()[0] for row in rows if "/2 " in row] == ["1/2", "2/2"]
    assert rows[-1].startswith("2 epochs in")
    assert live.screen.cursor_shown


def test_an_error_leaves_the_view_as_it_was(clock: Clock, terminal: Callable[..., Live]) -> None:
    live = terminal()

    class Fail(Callback):
        def on_after_val_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.epoch == 1:
                raise RuntimeError("broken")

    run, stdout = trainer(Fail()), sys.stdout
    with pytest.raises(RuntimeError, match="broken"):
        run.fit(Stream(clock, 9, 0.2), Stream(clock, 9, 0.2))
    assert sys.stdout is stdout
    assert live.screen.cursor_shown
    view = live.screen.text().split("\n\n")[-1].splitlines()
    assert view[1].startswith("val    1/9  ")
    run.callbacks.pop(0)
    run.test(batches())  # the callback is as good as new
    assert live.screen.text().splitlines()[-1].startswith("test  loss")


def test_an_error_of_drawing_is_raised(clock: Clock, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(text: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys.stdout, "write", full)
    with pytest.raises(OSError, match="No space left"):
        trainer().fit(batches())


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_a_run_goes_on_when_nobody_reads_any_more(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(text: str) -> int:
        raise error

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys.stdout, "write", gone)
    assert len(trainer().fit(batches())["train"]["loss"]) == 2


def test_log_tqdm_leaves_one_bar_per_epoch(clock: Clock, terminal: Callable[..., Live]) -> None:
    live = terminal()
    trainer(epochs=3, log_tqdm=True).fit(Stream(clock, 9, 0.2), Stream(clock, 9, 0.2))
    screen = live.screen
    bars = [row for row in screen.text().splitlines() if "━" in row]
    assert [bar[:5] for bar in bars] == ["1/3  ", "2/3  ", "3/3  "]
    assert all(" loss " in bar and " val " in bar and bar.rstrip().endswith(" s") for bar in bars)
    assert len({bar.index("loss") for bar in bars}) == 1
    assert screen.wrapped == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("log_tqdm", [False, True])
def test_a_terminal_without_unicode(encoding: str, log_tqdm: bool, clock: Clock, terminal: Callable[..., Live]) -> None:
    def metric(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return score(preds, targets)

    metric.__name__ = "σ名" * 20
    live = terminal(60, 20, encoding)
    trainer(metrics=metric, log_tqdm=log_tqdm).fit(Stream(clock, 9, 0.2), Stream(clock, 9, 0.2))
    assert live.screen.text().isascii()
    assert " | cpu\n" in live.screen.text()
    assert live.screen.wrapped == 0


class Terminalish(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({"TERM": "xterm"}, True),
        ({"CI": "true"}, False),
        ({"CI": "1", "FORCE_COLOR": "1"}, False),
        ({"CI": ""}, True),
        ({"CI": "false"}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_what_is_taken_for_a_terminal(environ: dict[str, str], expected: bool) -> None:
    assert takes_control(Terminalish(), environ) is expected
    assert not takes_control(io.StringIO(), environ)
    assert not takes_control(None, environ)


def test_force_color_makes_a_terminal_as_rich_has_it() -> None:
    assert takes_control(io.StringIO(), {"FORCE_COLOR": "1"})
    assert not takes_control(io.StringIO(), {"FORCE_COLOR": ""})


def test_within_somebody_elses_live_view_lines_are_plain(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.progress import Progress

    live = Live(80, 24)
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(console=live.console, auto_refresh=False) as progress:
        progress.add_task("folds", total=5)
        trainer().fit(Stream(clock, 9, 0.2))
    rows = live.screen.text().splitlines()
    assert rows[1].startswith("epoch 1/2  train  loss")
    assert rows[-1].startswith("folds")


def test_what_is_said_of_models(clock: Clock, lines: Lines) -> None:
    model = nn.Sequential(nn.Linear(2, 700), nn.Linear(700, 1))
    model[0].requires_grad_(False)
    trainer(model=model).fit(batches(1), epochs=0)
    assert lines() == [
        "Sequential · 2,801 parameters (701 trained) · cpu · 1 batch/epoch",
        "0 epochs in 0 ms",
    ]


# What is said is so


def test_the_running_figures_are_the_means_so_far(clock: Clock, lines: Lines) -> None:
    losses: list[float] = []

    class Note(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            losses.append(float(metrics["loss"]))

    trainer(Note(priority=5), epochs=1, show_info=False).fit(Stream(clock, 30, 1.0))
    shown = [line.split("  ") for line in lines() if "batches/s" in line]
    assert [line[2] for line in shown] == ["10/30", "20/30", "30/30"]
    for line, count in zip(shown, (10, 20, 30), strict=True):
        assert f"loss {sum(losses[:count]) / count:.4f}" in line


def test_in_validation_the_figures_of_training_are_those_of_all_batches(
    clock: Clock, terminal: Callable[..., Live]
) -> None:
    live, seen = terminal(), []

    class Look(Callback):
        def on_after_val_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
            seen.append(next(r for r in live.screen.text().split("\n\n")[-1].splitlines() if r.startswith("loss ")))

    run = trainer(Look(priority=-1))
    run.fit(Stream(clock, 25, 0.1), Stream(clock, 5, 0.2))
    assert [row.split()[1] for row in seen] == [f"{loss:.4f}" for loss in run.history["train"]["loss"]]


def test_times_left_of_a_resumed_run_are_those_of_what_is_left(clock: Clock, lines: Lines, tmp_path: Any) -> None:
    options = {"running_id": "a", "folder": tmp_path, "resume": "auto", "show_info": False}
    trainer(epochs=8, **options).fit(Stream(clock, 20, 1.0))
    lines()
    trainer(epochs=10, **options).fit(Stream(clock, 20, 1.0))
    said = [line for line in lines() if not line.startswith("going on")]
    assert said[0].startswith("epoch  9/10  train  10/20  50%  loss")
    assert said[0].endswith("1.0 batches/s  10 s left  (run: 30 s left)")
    assert said[-1].startswith("2 epochs in 40 s  best train")


def test_where_all_is_done_only_that_is_said(clock: Clock, lines: Lines, tmp_path: Any) -> None:
    options = {"running_id": "a", "folder": tmp_path, "resume": "auto"}
    trainer(**options).fit(Stream(clock, 4, 0.1))
    lines()
    trainer(**options).fit(Stream(clock, 4, 0.1))
    _, said = lines()
    assert said == "nothing to do: 2 epochs are done, and 2 were asked for; ask for more epochs to train on"
    by_steps = {**options, "running_id": "b"}
    trainer(**by_steps).fit(Stream(clock, 4, 0.1), max_steps=6)
    lines()
    trainer(**by_steps).fit(Stream(clock, 4, 0.1), max_steps=6)
    _, said = lines()
    assert said == "nothing to do: 6 updates are done, and 6 were asked for; ask for more max_steps to train on"


def test_what_is_not_known_is_not_said(clock: Clock, terminal: Callable[..., Live]) -> None:
    live, seen = terminal(), []

    class Look(Callback):
        def on_before_val_epoch(self, trainer: Any, task: Any) -> None:
            seen.append(live.screen.text().split("\n\n")[-1].splitlines()[:2])

    trainer(Look(priority=-1)).fit(Lengthless(Stream(clock, 20, 0.1)), Stream(clock, 5, 0.1))
    assert "%" not in "".join(seen[0])
    assert "left" not in "".join(seen[0])
    assert "left" in seen[1][0]
    assert "90%" in seen[1][0]  # an epoch has 25 batches, as the first one had


def test_nothing_is_all_done_before_its_end() -> None:
    assert [percent(x) for x in (0.0, 0.004, 0.5, 0.994, 0.996, 0.9999, 1.0)] == [
        "0%", "0%", "50%", "99%", "99%", "99%", "100%",
    ]  # fmt: skip


def test_epochs_of_hours(clock: Clock, lines: Lines) -> None:
    trainer(epochs=2, show_info=False).fit(Stream(clock, 4, 9000.0), Stream(clock, 2, 4500.0))
    said = lines()
    assert said[0].startswith("epoch 1/2  train  1/4  25%  loss ")
    assert said[0].endswith("2:30:00/batch  7:30:00 left  (run: 27:30:00 left)")
    ends = [line for line in said if line.endswith("(12:30:00)")]
    assert [line[:9] for line in ends] == ["epoch 1/2", "epoch 2/2"]
    assert said[-1].startswith("2 epochs in 25:00:00  ")  # as long as its epochs together


def test_figures_of_the_last_epoch_are_not_left_as_those_of_one_that_fails(
    clock: Clock, terminal: Callable[..., Live]
) -> None:
    class Fail(Callback):
        def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
            if trainer.progress.epoch == 1:
                raise RuntimeError("broken")

    live = terminal()
    with pytest.raises(RuntimeError, match="broken"):
        trainer(Fail()).fit(Stream(clock, 9, 0.2), Stream(clock, 9, 0.2))
    view = live.screen.text().split("\n\n")[-1].splitlines()
    assert view[1].startswith("train  0/9")
    assert view[2].split() == ["val", "best"]


# Room


@pytest.mark.parametrize("width", [30, 40, 50, 60])
@pytest.mark.parametrize("log_tqdm", [False, True])
def test_on_a_narrow_terminal_things_are_left_out_and_none_is_cut(
    width: int, log_tqdm: bool, clock: Clock, terminal: Callable[..., Live]
) -> None:
    live, seen = terminal(width, 20), set[str]()

    class Look(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            seen.update(row.rstrip() for row in live.screen.text().splitlines() if "━" in row)

    trainer(Look(priority=-1), log_tqdm=log_tqdm).fit(Stream(clock, 40, 0.2), Stream(clock, 9, 0.2))
    bar, count = "[━╸╺]{3,}", r"\d+/\d+"
    behind = r"( +\d+%)?( +[\d.]+ batches/s| +[\d.]+ s)?( +\d+ s left)?"
    figures = r"(  loss [\d.]+)?(  score [\d.]+)?"
    if log_tqdm:
        one = rf"{count}  ((train|val)  {count}  )?{bar}{figures}(  val{figures})?(  \+\d)?{behind}"
    else:
        one = rf"(epoch|train|val) +{count}  {bar}{behind}"
    assert len(seen) > 10
    assert [row for row in seen if not re.fullmatch(one, row)] == []
    assert live.screen.wrapped == 0


def test_what_the_run_is_of_goes_into_as_many_lines_as_it_takes(clock: Clock, terminal: Callable[..., Live]) -> None:
    parts = ["Linear", "3 parameters", "cpu", "12 batches/epoch, 5 for validation"]
    for width, lines in ((200, [4]), (60, [3, 1]), (40, [3, 1]), (20, [1, 2, 1])):
        live = terminal(width, 20)
        trainer().fit(batches(12), batches(5))
        rows, rest = live.screen.text().splitlines(), list(parts)
        for row, count in zip(rows, lines, strict=False):
            assert row == " · ".join(rest[:count])[: len(row)]
            rest = rest[count:]


def test_ten_thousand_epochs_can_be_read(clock: Clock, terminal: Callable[..., Live]) -> None:
    class Stop(Callback):
        def on_after_epoch(self, trainer: Any, epoch_idx: int, **rest: Any) -> None:
            if epoch_idx == 110:
                trainer.stop("enough")

    class Slow(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            self.epoch = epoch_idx

        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            clock.now += 5.0 * (self.epoch == 46)

    live = terminal(80, 40)
    trainer(Stop(), Slow(), epochs=10_000).fit(Stream(clock, 1, 0.01))
    rows = live.screen.text().splitlines()
    assert rows[1] == "one epoch in 20 has a line, and every one of more than a second"
    told = [int(row.split("/")[0]) for row in rows if "/10000 " in row]
    assert told == [1, 20, 40, 47, 60, 80, 100, 111]
    assert rows[-1].startswith("best train") or rows[-1].startswith("stopped after epoch 111/10000")


def test_few_epochs_all_have_a_line(clock: Clock, terminal: Callable[..., Live]) -> None:
    live = terminal(80, 40)
    trainer(epochs=500).fit(Stream(clock, 1, 0.001))
    assert sum("/500 " in row for row in live.screen.text().splitlines()) == 500


def test_names_of_double_width_take_the_room_that_they_take(clock: Clock, terminal: Callable[..., Live]) -> None:
    def metric(preds: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            name: score(preds, targets) for name in ("准确率", "召回率_在验证集上按类别平均之后的结果", "损失 loss")
        }

    for width in (40, 60, 200):
        live, seen = terminal(width, 24), list[str]()

        class Look(Callback):
            def __init__(self, live: Live, seen: list[str]) -> None:
                super().__init__(priority=-1)
                self.live, self.seen = live, seen

            def on_after_train_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
                self.seen += self.live.screen.text().splitlines()

        trainer(Look(live, seen), metrics=metric).fit(Stream(clock, 9, 0.2), Stream(clock, 9, 0.2))
        seen += live.screen.text().splitlines()
        assert max(map(cell_len, seen)) < width
        heads = [row for row in seen if row.startswith("epoch ") and "loss" in row]
        rows = [row for row in seen if row.startswith("  1/2 ")]
        assert {cell_len(row) for row in heads} == {cell_len(row) for row in rows}
