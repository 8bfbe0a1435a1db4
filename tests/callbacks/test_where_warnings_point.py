"""Every warning points at the line of the script that led to it, from however deep in the library it comes."""

from __future__ import annotations

import linecache
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from deepepochs_like import (
    EMA,
    SWA,
    Callback,
    CheckCallback,
    Checkpoint,
    CSVLogger,
    EpochTask,
    FineTune,
    JSONLLogger,
    LogCallback,
    OnOOM,
    Optimizer,
    Profile,
    Report,
    Trainer,
    ValuePatch,
    constant,
    cosine,
)
from deepepochs_like.errors import EngineWarning
from deepepochs_like.utils.warn import warn
from support.loop import batches, net
from support.repo import PACKAGE

mse = nn.functional.mse_loss


def made(*callbacks: Any, model: Any = None, lr: float = 0.01, **options: Any) -> Trainer:
    model = net() if model is None else model
    options = {"loss": mse, "opt": torch.optim.SGD(model.parameters(), lr), "epochs": 2, "verbose": 0, **options}
    return Trainer(model, device="cpu", callbacks=list(callbacks), **options)


def scheduled(schedule: Any, **options: Any) -> Trainer:
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    return made(model=model, opt=Optimizer(opt, schedule.scheduler(opt)), **options)


class StopAt(Callback):
    """End the run behind a batch."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.progress.step == self.step:
            trainer.stop()


def other_rate(tmp_path: Path) -> None:
    first = made()
    first.fit(batches())
    it = made(lr=0.5)
    it.load_state_dict(first.state_dict())
    it.fit(batches(), epochs=3)  # HERE


def other_rate_on_disk(tmp_path: Path) -> None:
    made(folder=tmp_path, running_id="a", resume="auto").fit(batches())
    made(folder=tmp_path, running_id="a", resume="auto", lr=0.5, epochs=3).fit(batches())  # HERE


def other_schedule(tmp_path: Path) -> None:
    first = scheduled(cosine(9))
    first.fit(batches())
    scheduled(constant(9)).load_state_dict(first.state_dict())  # HERE


def other_schedule_in_a_file(tmp_path: Path) -> None:
    first = scheduled(cosine(9))
    first.fit(batches())
    path = first.save_checkpoint(tmp_path / "a.ckpt")
    scheduled(constant(9)).load_checkpoint(path)  # HERE


def other_schedule_on_disk(tmp_path: Path) -> None:
    scheduled(cosine(9), folder=tmp_path, running_id="a", resume="auto").fit(batches())
    it = scheduled(constant(9), folder=tmp_path, running_id="a", resume="auto", epochs=3)
    it.fit(batches())  # HERE


def other_data(tmp_path: Path) -> None:
    first = made(StopAt(1))
    first.fit(batches(3))
    it = made(StopAt(99))
    it.load_state_dict(first.state_dict())
    it.fit(batches(4), epochs=3)  # HERE


def generators_of_another_machine(tmp_path: Path) -> None:
    state = made().state_dict()
    state["rng"]["cuda"] = [torch.zeros(16, dtype=torch.uint8)] * 99
    made().load_state_dict(state)  # HERE


class Stream:
    """Data that can be neither positioned nor counted."""

    def __iter__(self) -> Iterator[Any]:
        return iter(batches(3))


def data_read_again(tmp_path: Path) -> None:
    first = made(StopAt(1))
    first.fit(Stream())
    it = made(StopAt(99))
    it.load_state_dict(first.state_dict())
    it.fit(Stream(), epochs=2)  # HERE


class Turning(Sampler[int]):
    """An order that depends on how often it was asked for."""

    def __init__(self) -> None:
        self.turn = 0

    def __iter__(self) -> Iterator[int]:
        self.turn += 1
        return iter([(n + self.turn) % 6 for n in range(6)])

    def __len__(self) -> int:
        return 6


def turning() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.ones(6, 2), torch.ones(6, 1)), 2, sampler=Turning())


def order_of_ones_own(tmp_path: Path) -> None:
    first = made(StopAt(4))
    first.fit(turning())
    it = made(StopAt(99))
    it.load_state_dict(first.state_dict())
    it.fit(turning(), epochs=3)  # HERE


def nothing_to_do(tmp_path: Path) -> None:
    it = made()
    it.fit(batches())
    it.fit(batches())  # HERE


class Interrupt(Callback):
    """Send the process SIGINT, once."""

    sent = False

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.progress.step == 1 and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        made(Interrupt()).fit(batches(3))  # HERE


def other_loaders_for_an_open_epoch(tmp_path: Path) -> None:
    it = made(Interrupt(), Checkpoint(), folder=tmp_path)
    with pytest.raises(SystemExit):
        it.fit(batches(3))
    it.fit(batches(3))  # HERE


def parameters_left_out(tmp_path: Path) -> None:
    model = net()
    Trainer(model, mse, torch.optim.SGD([model.weight], 0.1), verbose=0)  # HERE


def metrics_of_one_name(tmp_path: Path) -> None:
    def score(preds: Tensor, targets: Tensor) -> Tensor:
        return (preds - targets).mean()

    def other(preds: Tensor, targets: Tensor) -> Tensor:
        return (preds + targets).mean()

    other.__name__ = "score"
    made().fit(batches(), metrics=[score, other])  # HERE


def tasks_of_one_name(tmp_path: Path) -> None:
    made().fit(train_tasks=[EpochTask(batches()), EpochTask(batches())])  # HERE


def metric_that_is_no_mean(tmp_path: Path) -> None:
    def worst(preds: Tensor, targets: Tensor) -> Tensor:
        return (preds - targets).abs().max()

    made(metrics=worst, metric_patch="mean").fit(batches(4))  # HERE


def metric_that_fails_on_a_batch(tmp_path: Path) -> None:
    def picky(preds: Tensor, targets: Tensor) -> Tensor:
        if len(preds) < 4:
            raise ValueError("too few")
        return preds.mean()

    made(metrics=picky).fit(batches(4))  # HERE


def absolute(preds: Tensor, targets: Tensor) -> Tensor:
    return (preds - targets).abs().mean()


def shapes(tmp_path: Path) -> None:
    made(loss=absolute).fit([(torch.ones(4, 2), torch.ones(4))])  # HERE


def shapes_in_a_step(tmp_path: Path) -> None:
    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        out = trainer.model(batch_x)
        trainer.loss(out, batch_y)  # HERE

    made(loss=absolute).fit([(torch.ones(4, 2), torch.ones(4))], step=step)


def shapes_in_a_trainer_of_ones_own(tmp_path: Path) -> None:
    class Mine(Trainer):
        def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
            self.loss(self.model(batch_x), batch_y)  # HERE

    Mine(net(), absolute, verbose=0, epochs=1).fit([(torch.ones(4, 2), torch.ones(4))])


def dropped_log(tmp_path: Path) -> None:
    made().log({"a": 1.0})  # HERE


def log_in_a_hook(tmp_path: Path) -> None:
    class Logs(Callback):
        def on_after_epoch(self, trainer: Any, **arguments: Any) -> None:
            trainer.log({"a": 1.0})  # HERE

    made(Logs()).fit(batches())


def outputs_that_do_not_go_together(tmp_path: Path) -> None:
    class Ragged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = net(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            out: Tensor = self.inner(x).repeat(1, self.calls)
            return out

    made(model=Ragged()).predict([torch.ones(2, 2)] * 2)  # HERE


def average_that_is_not_there(tmp_path: Path) -> None:
    first = made(EMA(0.5), Checkpoint("train/loss"), folder=tmp_path, running_id="a")
    first.fit(batches())
    it = made(EMA(0.9), Checkpoint("train/loss"), folder=tmp_path, running_id="a")
    it.test(batches(), weights="best")  # HERE


def damaged_checkpoint(tmp_path: Path) -> None:
    made(Checkpoint(), folder=tmp_path, running_id="a").fit(batches())
    newest = max((tmp_path / "a" / "checkpoints").glob("*.ckpt"))
    newest.write_bytes(newest.read_bytes()[:-9])
    made(Checkpoint(), folder=tmp_path, running_id="a", resume="auto", epochs=3).fit(batches())  # HERE


def average_that_never_begins(tmp_path: Path) -> None:
    made(SWA(9)).fit(batches())  # HERE


def part_that_is_never_trained(tmp_path: Path) -> None:
    made(FineTune({0: "weight", 9: "*"})).fit(batches())  # HERE


def out_of_memory(tmp_path: Path) -> None:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        if len(out) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mse(out, y)

    made(OnOOM("skip"), loss=loss).fit([*batches(2), *batches(1, 5)], epochs=1)  # HERE


def trace_that_never_begins(tmp_path: Path) -> None:
    made(Profile((90, 91)), folder=tmp_path).fit(batches())  # HERE


def rows_that_are_gone(tmp_path: Path, kind: Any = None) -> None:
    make = partial(made, folder=tmp_path, running_id="a", resume="auto")
    make(kind()).fit(batches())
    (path,) = (tmp_path / "a").glob("metrics*")
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    make(kind(), epochs=3).fit(batches())  # HERE


def another_runs_file(tmp_path: Path) -> None:
    made(CSVLogger(), folder=tmp_path, running_id="a").fit(batches())
    made(CSVLogger(), folder=tmp_path, running_id="a").fit(batches())  # HERE


def picture_of_the_epoch(tmp_path: Path) -> None:
    def odd(preds: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"grid": torch.ones(11, 11)}

    made(CSVLogger(), folder=tmp_path, metrics=odd).fit(batches())  # HERE


def graph_that_cannot_be_traced(tmp_path: Path) -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> Any:
            if torch.jit.is_tracing():
                raise RuntimeError("not now")
            return self.inner(x)

    example = torch.ones(1, 2)
    log = LogCallback(str(tmp_path), log_graph=True, example_input=example)
    made(log, model=Moody(), epochs=1).fit(batches())  # HERE


def part_of_a_report(tmp_path: Path) -> None:
    class Broken(Callback):
        def top_samples(self) -> Any:
            raise OSError("it is gone")

    made(Report(), Broken(), folder=tmp_path).fit(batches())  # HERE


def check_without_a_best(tmp_path: Path) -> None:
    it = made(CheckCallback("loss", ckpt_dir=str(tmp_path)), running_id="a")
    it.fit(batches(), batches(), val_freq=5)
    it.test(batches())  # HERE


def patch_that_is_missing(tmp_path: Path) -> None:
    def counting(trainer: Any, batch_x: Any, batch_y: Any) -> Any:
        trainer.loss(trainer.model(batch_x), batch_y)
        return {"seen": ValuePatch(1).load(1.0)} if trainer.progress.step < 2 else None

    first = made(StopAt(1))
    first.fit(batches(3), step=counting)
    it = made(StopAt(99))
    it.load_state_dict(first.state_dict())

    def plain(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.model(batch_x), batch_y)

    it.fit(batches(3), step=plain, epochs=1)  # HERE


def window_that_is_dropped(tmp_path: Path) -> None:
    it = made(StopAt(99), accumulate=4)

    class Leave(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            raise KeyError("left")

    it.callbacks.append(Leave())
    with pytest.raises(KeyError):
        it.fit(batches(3))
    it.callbacks.pop()
    it.fit(batches(3))  # HERE


CASES: list[Callable[..., None]] = [
    *(other_rate, other_rate_on_disk, other_schedule, other_schedule_in_a_file, other_schedule_on_disk, other_data),
    *(generators_of_another_machine, data_read_again, order_of_ones_own, nothing_to_do, interrupted),
    *(other_loaders_for_an_open_epoch, parameters_left_out, metrics_of_one_name, tasks_of_one_name),
    *(metric_that_is_no_mean, metric_that_fails_on_a_batch, shapes, shapes_in_a_step, shapes_in_a_trainer_of_ones_own),
    *(dropped_log, log_in_a_hook, outputs_that_do_not_go_together, average_that_is_not_there, damaged_checkpoint),
    *(average_that_never_begins, part_that_is_never_trained, out_of_memory, trace_that_never_begins),
    *(another_runs_file, picture_of_the_epoch, graph_that_cannot_be_traced, part_of_a_report, check_without_a_best),
    *(patch_that_is_missing, window_that_is_dropped),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_it_is_the_scripts_own_line(case: Callable[..., None], tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", EngineWarning)
        case(tmp_path)
    ours = [one for one in told if issubclass(one.category, EngineWarning)]
    assert ours, "it warns"
    for one in ours:
        assert one.filename == __file__, one.message
        assert "# HERE" in linecache.getline(one.filename, one.lineno), one.message


@pytest.mark.parametrize("kind", [CSVLogger, JSONLLogger], ids=lambda kind: kind.__name__)
def test_so_it_is_of_files_that_were_cut_off(kind: Any, tmp_path: Path) -> None:
    test_it_is_the_scripts_own_line(partial(rows_that_are_gone, kind=kind), tmp_path)


def test_nobody_counts_calls_by_hand() -> None:
    for path in PACKAGE.rglob("*.py"):
        calls = re.findall(r"warnings\.warn(?:_explicit)?\(|stacklevel", path.read_text(encoding="utf-8"))
        assert not calls or path.name == "warn.py", f"{path}: use utils.warn"


def test_where_nobody_else_is_on_the_stack_it_is_the_line_itself() -> None:
    # A thread whose frames are all Python's and torch's own, but for this one, which is made to look like one of them.
    told: list[Any] = []

    def run() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            eval(compile("warn('alone')", threading.__file__, "eval"), {"warn": warn, "__name__": "threading"})
        told.extend(caught)

    class Alone(threading.Thread):
        pass

    thread = Alone(target=partial(eval, compile("run()", threading.__file__, "eval"), {"run": run}))
    thread.start()
    thread.join()
    assert [str(one.message) for one in told] == ["alone"]
    assert told[0].filename == __file__, "the function above is the innermost line of somebody's own"


def test_a_warning_is_shown_once_for_a_line_as_pythons_own_are() -> None:
    shown: list[Any] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            warn("again")
        shown.extend(told)
    assert len(shown) == 1
