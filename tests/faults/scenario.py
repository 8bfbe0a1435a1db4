"""Runs that are worth interrupting, in forks of this process that tell on a shared page of memory what they do.

A fork begins with torch imported and costs some milliseconds. What is rare is slowed down in the forks by a
millisecond here and there, so that a blow aimed at it lands there: saving (which writes 4 KiB at a time, as a full disk
might), pruning, validation and loading. Nothing else is changed: the code that runs is the package's own.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

import deepepochs_like.trainer as trainer_module
from deepepochs_like import (
    AMP,
    EMA,
    SWA,
    Callback,
    CheckCallback,
    Checkpoint,
    CheckpointStore,
    EarlyStopping,
    EpochTask,
    GradClip,
    GradientAccumulation,
    Optimizer,
    Trainer,
    metrics,
    storage,
)
from deepepochs_like.errors import EngineWarning
from deepepochs_like.rng import rng_state, set_seed
from deepepochs_like.state import keyed
from support.digits import CLASSES, digits, mlp

RUN = Path("logs/a")
CHECKPOINTS = RUN / "checkpoints"
BATCH, TRAIN, ALL = 16, 192, 240
#: The longest that a run may take, in seconds, before it counts as hanging.
LIMIT = 120.0
SEED = 7

# ------------------------------------------------------------------------------------------------------------- the page

PHASES = ("start", "other", "train", "val", "save", "prune", "load", "over")


class Page:
    """What a fork is doing, in memory that its parent sees, also after the fork's death."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._numbers = memoryview(self._memory).cast("d")

    def clear(self) -> None:
        self._memory[:] = bytes(len(self._memory))

    @property
    def phase(self) -> str:
        return PHASES[int(self._numbers[0])]

    @property
    def written(self) -> int:
        """Bytes of the file that is, or was last, being saved."""
        return int(self._numbers[1])

    @written.setter
    def written(self, count: int) -> None:
        self._numbers[1] = count

    @property
    def updates(self) -> int:
        return int(self._numbers[2])

    @updates.setter
    def updates(self, count: int) -> None:
        self._numbers[2] = count

    def entered(self, phase: str) -> int:
        """How often a phase was begun."""
        return int(self._numbers[8 + PHASES.index(phase)])

    def seconds(self, phase: str) -> float:
        """How long a phase took in all, as far as it has ended."""
        return self._numbers[32 + PHASES.index(phase)]

    def enter(self, phase: str) -> None:
        number = PHASES.index(phase)
        self._numbers[8 + number] += 1
        self._numbers[0] = number

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        before, began = int(self._numbers[0]), time.monotonic()
        self.enter(phase)
        try:
            yield
        finally:
            self._numbers[32 + PHASES.index(phase)] += time.monotonic() - began
            self._numbers[0] = before


class Telling(Callback):
    """Tell on the page which stage runs; every batch takes `nap` seconds longer, one of validation a bit more."""

    def __init__(self, page: Page, nap: float) -> None:
        super().__init__()
        self.page, self.nap, self.began = page, nap, 0.0

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self.page.enter("other")

    def on_before_train_epochs(self, trainer: Any, tasks: Any, epoch_idx: int) -> None:
        self.page.enter("train")

    def on_before_val_epochs(self, trainer: Any, tasks: Any, epoch_idx: int) -> None:
        self.began = time.monotonic()
        self.page.enter("val")

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.page.updates = trainer.progress.step
        time.sleep(self.nap)

    def on_after_val_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        time.sleep(self.nap + 0.001)

    def on_after_train_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int) -> None:
        self.page.enter("other")

    def on_after_val_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int) -> None:
        self.page._numbers[32 + PHASES.index("val")] += time.monotonic() - self.began
        self.page.enter("other")


class SlowOs:
    """`os` as the storage sees it in a fork: writes are short, and counted; deleting takes a millisecond."""

    def __init__(self, page: Page, nap: float) -> None:
        self.page, self.nap = page, nap

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, handle: int, data: Any) -> int:
        written = os.write(handle, data[:4096])
        self.page.written += written
        time.sleep(self.nap / 4)
        return written

    def rename(self, old: Any, new: Any) -> None:
        time.sleep(self.nap)
        os.rename(old, new)
        time.sleep(self.nap)

    def unlink(self, path: Any) -> None:
        time.sleep(self.nap)
        os.unlink(path)
        time.sleep(self.nap)


def instrument(page: Page, nap: float = 0.001) -> None:
    """Make this process, a fork, tell when it saves, prunes and loads."""
    names: Any = storage
    names.os = SlowOs(page, nap)
    _wrap(page, storage, "write_sealed", "save")
    _wrap(page, storage, "remove", "prune")  # also what clears away the rest of a save that was killed
    _wrap(page, CheckpointStore, "prune", "prune")
    _wrap(page, CheckpointStore, "newest_content", "load", lambda store: any(store.entries()))
    _wrap(page, trainer_module, "restore_run", "load", lambda trainer: trainer.resuming is not None)


def _wrap(page: Page, owner: Any, name: str, phase: str, when: Callable[..., bool] = lambda *given: True) -> None:
    function = getattr(owner, name)

    def wrapped(*given: Any) -> Any:
        if page.phase == phase or not when(*given):
            return function(*given)
        with page.within(phase):
            if phase == "save":
                page.written = 0
            time.sleep(0.001)
            result = function(*given)
            time.sleep(0.001)
        return result

    setattr(owner, name, wrapped)


# ------------------------------------------------------------------------------------------------------------- the runs


class Noisy(Dataset[Any]):
    """Digits with augmentation drawn from all three global generators."""

    def __init__(self) -> None:
        self.x, self.y = (part[:TRAIN] for part in digits(ALL))

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.rand(64) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return self.x[index] + noise, self.y[index]


class Walk:
    """An order drawn from a generator of its own, that can be left anywhere and taken up again."""

    def __init__(self, length: int) -> None:
        self.length, self.at = length, 0
        self.generator = torch.Generator().manual_seed(3)
        self.order: list[int] = []

    def __iter__(self) -> Iterator[int]:
        if not self.order:
            self.order = torch.randperm(self.length, generator=self.generator).tolist()
        while self.at < self.length:
            self.at += 1
            yield self.order[self.at - 1]
        self.at, self.order = 0, []

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "order": list(self.order), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.at, self.order = state["at"], list(state["order"])
        self.generator.set_state(state["generator"])


class Stream:
    """An iterable of batches that has a state, and no length."""

    def __init__(self) -> None:
        x, y = digits(ALL)
        self.batches = list(zip(x[:TRAIN].split(BATCH), y[:TRAIN].split(BATCH), strict=True))
        self.walk = Walk(len(self.batches))
        self.state_dict, self.load_state_dict = self.walk.state_dict, self.walk.load_state_dict

    def __iter__(self) -> Iterator[Any]:
        return (self.batches[index] for index in self.walk)


class Samples(IterableDataset[Any]):
    """A stream of samples that has a state."""

    def __init__(self) -> None:
        self.x, self.y = digits(ALL)
        self.walk = Walk(TRAIN - 5)  # the last batch is short: the dataset ends with it, which nobody sees

    def __iter__(self) -> Iterator[Any]:
        return ((self.x[index], self.y[index]) for index in self.walk)

    def state_dict(self) -> dict[str, Any]:
        return self.walk.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.walk.load_state_dict(state)


def part(first: int, last: int) -> TensorDataset:
    x, y = digits(ALL)
    return TensorDataset(x[first:last], y[first:last])


def shuffled(data: Any = None, **options: Any) -> DataLoader[Any]:
    return DataLoader(part(0, TRAIN) if data is None else data, BATCH, **{"shuffle": True, **options})


def validation(first: int = TRAIN, last: int = ALL) -> DataLoader[Any]:
    return DataLoader(part(first, last), BATCH)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def per_step(model: nn.Module) -> Optimizer:
    opt = adam(model)
    return Optimizer(opt, StepLR(opt, 5, 0.8), "step")


def per_epoch(model: nn.Module) -> Optimizer:
    opt = adam(model)
    return Optimizer(opt, StepLR(opt, 1, 0.5), "epoch")


def plateau(model: nn.Module) -> Optimizer:
    opt = adam(model)
    return Optimizer(opt, ReduceLROnPlateau(opt, patience=0, threshold=0.5), sched_with_loss=True)


def one_cycle(model: nn.Module) -> Optimizer:
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Optimizer(opt, OneCycleLR(opt, 0.2, total_steps=100), "step")


def two_optimizers(model: Any) -> list[Any]:
    return [adam(model[0]), torch.optim.SGD(model[-1].parameters(), lr=0.05, momentum=0.9)]


def two_scheduled(model: Any) -> dict[str, Any]:
    return {"first": per_step(model[0]), "last": plateau(model[-1])}


def two_models() -> dict[str, nn.Module]:
    body, head = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3)), nn.Linear(16, CLASSES)
    return {"body": body, "head": head}


def opt_of_two_models(models: Any) -> dict[str, Any]:
    return {"body": per_epoch(models["body"]), "head": torch.optim.SGD(models["head"].parameters(), 0.05, 0.9)}


def step_of_two_models(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> None:
    trainer.loss(trainer.models["head"](trainer.models["body"](*batch_x)), batch_y)


def two_tasks() -> dict[str, Any]:
    return {
        "train_tasks": [EpochTask(shuffled(part(0, 90))), EpochTask(shuffled(part(90, TRAIN)), name="b.")],
        "val_tasks": [EpochTask(validation(TRAIN, 210)), EpochTask(validation(210, ALL), name="b.")],
    }


def two_loaders(train: Callable[[], Any] = shuffled) -> Callable[[], dict[str, Any]]:
    return lambda: {"train_dl": train(), "val_dl": validation()}


def keep(**options: Any) -> Callable[[], list[Callback]]:
    return lambda: [Checkpoint("val/loss", **{"every_steps": 3, "keep_last": 2, **options})]


@dataclass(frozen=True)
class Scenario:
    """A run: what it trains, with what, on what."""

    name: str
    data: Callable[[], dict[str, Any]] = field(default_factory=two_loaders)
    opt: Callable[[Any], Any] = adam
    callbacks: Callable[[], list[Callback]] = field(default_factory=keep)
    model: Callable[[], Any] = lambda: mlp(torch.initial_seed() % 1000, dropout=0.3)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    workers: bool = False
    #: How many kills in the whole battery, where that is more than the others get.
    kills: int = 0

    def train(self, *others: Callback) -> Trainer:
        """Begin the run in the current folder, or go on with it, and end it."""
        # A run that goes on must not owe anything to how its process was seeded.
        set_seed(os.getpid() if any(CHECKPOINTS.glob("*.ckpt")) else SEED)
        model = self.model()
        options = {"epochs": 4, "metrics": [metrics.accuracy], "device": "cpu", "verbose": 0, **self.trainer}
        callbacks = [*others, *self.callbacks()]
        opt = self.opt(model)
        trainer = Trainer(model, F.cross_entropy, opt, resume="auto", running_id="a", callbacks=callbacks, **options)
        trainer.fit(**self.data(), **self.fit)
        return trainer


def _noisy(**options: Any) -> Callable[[], dict[str, Any]]:
    return two_loaders(lambda: shuffled(Noisy(), **options))


def _sampled(make: Callable[[Any], Any]) -> Callable[[], dict[str, Any]]:
    def train() -> DataLoader[Any]:
        data = part(0, TRAIN)
        return DataLoader(data, BATCH, sampler=make(data))

    return two_loaders(train)


def _weighted(data: Any) -> WeightedRandomSampler:
    return WeightedRandomSampler(torch.arange(1.0, TRAIN + 1), TRAIN)


def _own_generator(data: Any) -> RandomSampler:
    return RandomSampler(data, generator=torch.Generator().manual_seed(5))


def _stopping_early() -> list[Callback]:
    return [EarlyStopping("val/loss", patience=1, min_delta=0.2), *keep()()]


def _checking() -> list[Callback]:
    return [CheckCallback("loss", patience=2)]


def _everything() -> list[Callback]:
    """Precision, accumulation, clipping, averages, schedule and checkpoints in one run."""
    amp = AMP("fp16", init_scale=2.0**20, growth_interval=4)  # overflows at first, and now and then
    return [amp, GradientAccumulation({0: 3, 2: 2}), GradClip(0.5), EMA(0.9), *keep()()]


def _many_on_bf16() -> list[Callback]:
    return [AMP("bf16"), GradientAccumulation({0: 3, 2: 2}), GradClip(0.5), EMA(0.9), *keep(every_steps=1)()]


def _mean_of_the_last() -> list[Callback]:
    return [SWA(start=1), *keep()()]


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES))


BY_STEPS = {"max_steps": 40, "val_every_steps": 9}
TWO_WORKERS: dict[str, Any] = {"num_workers": 2}
SHORT = {"epochs": 2}

PLAIN = Scenario("shuffled, dropout, tensor patch")
SCENARIOS = [
    PLAIN,
    Scenario("two workers", two_loaders(lambda: shuffled(**TWO_WORKERS)), trainer=SHORT, workers=True),
    Scenario("augmentation in two workers", _noisy(**TWO_WORKERS), trainer=SHORT, workers=True),
    Scenario(
        "augmentation in persistent workers, accumulation",
        _noisy(**TWO_WORKERS, persistent_workers=True),
        trainer={**SHORT, "accumulate": 2},
        workers=True,
    ),
    Scenario("augmentation from three generators", _noisy()),
    Scenario("accumulation", trainer={"accumulate": 3}),
    Scenario(
        "accumulation, drop_last",
        two_loaders(lambda: shuffled(part(0, 190), drop_last=True)),
        trainer={"accumulate": 4},
        callbacks=keep(every_steps=1),
    ),
    Scenario("drop_last", two_loaders(lambda: shuffled(part(0, 190), drop_last=True))),
    Scenario("schedule per step", opt=per_step),
    Scenario("schedule per epoch", opt=per_epoch),
    Scenario("ReduceLROnPlateau", opt=plateau),
    Scenario("one cycle, accumulation", opt=one_cycle, trainer={"accumulate": 2}),
    Scenario("two optimizers", opt=two_optimizers),
    Scenario("two optimizers by name, two schedules", opt=two_scheduled),
    Scenario("two tasks", two_tasks),
    Scenario("iterable loader with a state", two_loaders(Stream)),
    Scenario("iterable dataset with a state", two_loaders(lambda: DataLoader(Samples(), BATCH))),
    Scenario("max_steps", fit={"max_steps": 40}),
    Scenario("max_steps, val_every_steps", fit=BY_STEPS),
    Scenario("val_every_steps, accumulation, schedule", opt=per_step, trainer={"accumulate": 2}, fit=BY_STEPS),
    Scenario("weighted sampler, confusion patch", _sampled(_weighted), trainer={"metric_patch": "confusion"}),
    Scenario(
        "sampler with a generator, mean patch, a save after every batch",
        _sampled(_own_generator),
        callbacks=keep(every_minutes=1e-9),
        trainer={"metric_patch": "mean", "epochs": 2},
    ),
    Scenario("EarlyStopping", callbacks=_stopping_early, trainer={"epochs": 12}),
    Scenario("everything at once", _noisy(), per_step, _everything, normed, kills=20),
    Scenario("SWA with BatchNorm", opt=per_step, callbacks=_mean_of_the_last, model=normed),
    Scenario("bfloat16, accumulation, clipping, EMA, schedule", opt=per_epoch, callbacks=_many_on_bf16, model=normed),
    Scenario(
        "CheckCallback, two models",
        opt=opt_of_two_models,
        callbacks=_checking,
        model=two_models,
        trainer={"epochs": 6, "metrics": []},
        fit={"step": step_of_two_models},
    ),
]


def digests(trainer: Trainer) -> dict[str, str]:
    """The SHA-256 of all that has to be equal in the end."""
    parts = {
        "weights": {name: handle.model.state_dict() for name, handle in trainer.models.items()},
        "optimizers": trainer.opt.state_dict(),
        "history": trainer.history.state_dict(),
        "callbacks": {key: state for key, one in keyed(trainer.callbacks).items() if (state := one.state_dict())},
        "generators": rng_state(),
        "progress": [trainer.progress.epoch, trainer.progress.step],
    }
    return {name: _sha256(value) for name, value in parts.items()}


def _sha256(value: Any) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(value):
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().numpy().tobytes()
    elif isinstance(value, Mapping):
        yield f"mapping of {len(value)}".encode()
        for key, item in value.items():
            yield repr(key).encode()
            yield from _pieces(item)
    elif isinstance(value, (list, tuple)):
        yield f"sequence of {len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    else:
        yield (value.hex() if isinstance(value, float) else repr(value)).encode()


# ------------------------------------------------------------------------------------------------------------ the forks


@dataclass
class Fork:
    """A process that was forked off to run `work` in a folder; it is ended with the context.

    What it prints goes to the file ``out`` in that folder.
    """

    work: Callable[[], None]
    folder: Path
    pid: int = 0
    began: float = 0.0
    code: int | None = None

    def __enter__(self) -> Fork:
        self.began = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            os._exit(self._run())
        return self

    def _run(self) -> int:
        """Do the work, and return what a script that does it would exit with."""
        code = 1
        try:
            os.setsid()  # so that its workers can be found
            os.chdir(self.folder)
            for stream in (1, 2):
                os.dup2(os.open("out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), stream)
            warnings.simplefilter("error", EngineWarning)  # nothing here is worth a warning
            self.work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        return code

    def has_ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self) -> int:
        """Wait for its end, and return its exit code; a signal's number is negative."""
        while not self.has_ended():
            self.check_time()
            time.sleep(0.0002)
        assert self.code is not None
        return self.code

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait until something is true of it; False when it ends before."""
        while not condition():
            if self.has_ended():
                return False
            self.check_time()
            time.sleep(0.00002)
        return True

    def check_time(self) -> None:
        assert time.monotonic() < self.began + LIMIT, f"a run hangs: {said(self.folder)}"

    def send(self, number: int) -> None:
        if self.code is None:  # else the number may be another process's by now
            os.kill(self.pid, number)

    def __exit__(self, *error: Any) -> None:
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def said(folder: Path) -> str:
    """What the forks in a folder printed: why they failed."""
    file = folder / "out"
    return file.read_text(errors="replace")[-3000:] if file.exists() else ""


def end_orphans(pids: list[int]) -> None:
    """End the worker processes whose parent was killed; by themselves they notice after some seconds."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


@contextmanager
def new_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # an orphan may be writing its last words


def training(scenario: Scenario, page: Page | None, nap: float = 0.0) -> Callable[[], None]:
    """The work of a fork: the run, and what it came to, in the file ``result``."""

    def work() -> None:
        telling = []
        if page is not None:
            instrument(page)
            telling = [Telling(page, nap)]
        trainer = scenario.train(*telling)
        if page is not None:
            page.enter("over")
        Path("result").write_text(json.dumps(digests(trainer)))

    return work


@dataclass
class Measured:
    """What a run comes to without interruption, and how long it and its phases take, from before_fit on."""

    result: dict[str, str]
    seconds: float
    updates: int
    entered: dict[str, int]
    lasting: dict[str, float]


def measure(scenario: Scenario, page: Page, nap: float = 0.0) -> Measured:
    """Run without interruption, with and without the page: both have to come to the same."""
    results = []
    for shown in (None, page):
        page.clear()
        with new_folder() as folder, Fork(training(scenario, shown, nap), folder) as fork:
            fork.wait_until(lambda: page.entered("other") > 0)
            began = time.monotonic()
            code, seconds = fork.wait(), time.monotonic() - began
            assert code == 0, f"{scenario.name}, not interrupted: exit code {code}: {said(folder)}"
            results.append(json.loads((folder / "result").read_text()))
    assert results[0] == results[1], f"{scenario.name}: two runs that were not interrupted differ"
    counts = {phase: page.entered(phase) for phase in PHASES}
    lasting = {phase: page.seconds(phase) / max(1, counts[phase]) for phase in PHASES}
    return Measured(results[0], seconds, page.updates, counts, lasting)


def finish(scenario: Scenario, page: Page, folder: Path, expected: dict[str, str], what: str) -> None:
    """Go on with an interrupted run to its end, and compare."""
    page.clear()
    with Fork(training(scenario, page), folder) as fork:
        code = fork.wait()
    assert code == 0, f"{what}: resumed, it ends with exit code {code}: {said(folder)}"
    check_result(folder, expected, what)


def check_result(folder: Path, expected: dict[str, str], what: str) -> None:
    result = json.loads((folder / "result").read_text())
    differing = [name for name in expected if result[name] != expected[name]]
    assert not differing, f"{what}: {', '.join(differing)} differ from the run that was not interrupted"
    left = [path.name for path in (folder / CHECKPOINTS).glob("*.partial")]
    assert not left, f"{what}: {left} are left"


def check_files(folder: Path, what: str, least: int = 0) -> int:
    """Verify every checkpoint that is there, and return the newest one's step, 0 without one.

    Args:
        folder: the run's working folder.
        what: how messages call the trial.
        least: the step of a checkpoint that was there before; it or a later one must be there.
    """
    entries, wrong = CheckpointStore(folder / CHECKPOINTS).survey()
    assert not wrong, f"{what}: {wrong}"
    for entry in entries:
        entry.read()
    newest = CheckpointStore(folder / CHECKPOINTS).newest()
    step = newest.step if newest else 0
    assert step >= least, f"{what}: a checkpoint of update {least} was there, now the newest is of update {step}"
    return step


def prepare() -> None:
    """Have this process import and set up what the forks would otherwise, each by itself."""
    torch.set_num_threads(1)
    with new_folder() as folder, Fork(lambda: None, folder) as fork:
        assert fork.wait() == 0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    data = [(torch.ones(2, 64), torch.zeros(2, dtype=torch.int64))]
    Trainer(mlp(dropout=0.1), F.cross_entropy, epochs=1, device="cpu", verbose=0).fit(data)


def run_script(file: str, full: bool) -> dict[str, Any]:
    """Run one of these scripts in a process of its own, and return what its last line says."""
    command = [sys.executable, file, *(["--full"] if full else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
