"""The batch-size finder: doubles, then closes the gap, and leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from deepepochs_like import BatchSizeFinder, Callback, Checkpoint, EpochTask, Optimizer, Trainer
from deepepochs_like.callbacks.batch_size_finder import Endless
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, LoaderError
from deepepochs_like.metrics import accuracy
from support.digits import digits, loader
from support.traces import account, differences

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError("Unable to allocate"),
]


class Narrow(nn.Module):
    """A model in whose memory so many samples fit."""

    def __init__(self, room: int, error: BaseException | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
        self.room, self.error, self.sizes = room, error or OUT_OF_MEMORY[0], []  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.room:
            raise self.error
        output: Tensor = self.body(x)
        return output


def made(model: nn.Module, callbacks: Any = None, **options: Any) -> Trainer:
    opt = torch.optim.Adam(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=20)
    opts = Optimizer(opt, schedule, "step")
    return Trainer(model, F.cross_entropy, opts, 1, "cpu", callbacks, accuracy, verbose=0, **options)


def data(count: int = 300) -> TensorDataset:
    return TensorDataset(*digits(count))


@pytest.mark.parametrize("room", [2, 3, 37, 64, 100, 255, 256])
def test_it_finds_the_largest_that_fits(room: int) -> None:
    finding = made(Narrow(room)).find_batch_size(data())
    assert finding.suggestion == room
    tried = {trial.batch_size: trial.fits for trial in finding.tried}
    assert all(fits == (size <= room) for size, fits in tried.items())
    assert len(tried) == len(finding.tried), "one size was tried twice"
    assert len(tried) <= 18
    assert finding.stopped == f"{room + 1} do not fit"


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["torch", "mps", "cpu", "python"])
def test_all_ways_to_say_that_there_is_no_memory_are_known(error: BaseException) -> None:
    assert made(Narrow(20, error)).find_batch_size(data()).suggestion == 20


def test_other_errors_leave_it_and_nothing_has_changed() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    model = Narrow(20, error)
    trainer, dataset = made(model), data()
    before = account(trainer=trainer, data=dataset)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trainer.find_batch_size(dataset)
    assert differences(before, account(trainer=trainer, data=dataset)) == {}


def test_an_error_says_with_how_many_samples_it_came_up() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel") as raised:
        made(Narrow(20)).find_batch_size(data(), start=1)
    assert "in find_batch_size, with 1 of the dataset's samples in a batch" in raised.value.__notes__


def test_it_doubles_and_then_halves_the_gap() -> None:
    finding = made(Narrow(11)).find_batch_size(data(), start=2)
    assert [trial.batch_size for trial in finding.tried] == [2, 4, 8, 16, 12, 10, 11]
    finding = made(Narrow(11)).find_batch_size(data(), start=64)
    assert [trial.batch_size for trial in finding.tried] == [64, 32, 16, 8, 12, 10, 11]


def test_it_asks_for_no_more_than_there_is() -> None:
    finding = made(Narrow(10**6)).find_batch_size(data(300))
    assert finding.suggestion == 300
    assert finding.stopped == "more than 300 were not asked for"
    assert made(Narrow(10**6)).find_batch_size(data(300), most=50).suggestion == 50
    assert made(Narrow(10**6)).find_batch_size(data(300), most=700, start=700).suggestion == 700


def test_nothing_may_fit() -> None:
    finding = made(Narrow(0)).find_batch_size(data())
    assert finding.suggestion is None
    assert "no batch size fits; one sample does not fit" in str(finding)


@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained"])
@pytest.mark.parametrize("workers", [0, 1])
def test_it_leaves_no_trace(workers: int, trained: bool, tmp_path: Path) -> None:
    trainer = made(Narrow(50), [Checkpoint()], folder=tmp_path)
    train_dl = DataLoader(data(), 32, shuffle=True, num_workers=workers)
    if trained:
        trainer.fit(train_dl)
    before = account(tmp_path, trainer=trainer, train=train_dl)
    finding = trainer.find_batch_size(train_dl)
    after = account(tmp_path, trainer=trainer, train=train_dl)
    assert finding.suggestion == 50
    assert differences(before, after) == {}


def test_every_size_is_trained_for_several_updates_with_the_samples_in_turn() -> None:
    seen = []

    def collate(samples: Any) -> Any:
        seen.append([index for index, _, _ in samples])
        return torch.stack([x for _, x, _ in samples]), torch.stack([y for _, _, y in samples])

    class Numbered(Dataset[Any]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> Any:
            x, y = digits(10)
            return index, x[index], y[index]

    loader = DataLoader(Numbered(), 2, shuffle=True, collate_fn=collate)
    made(Narrow(100)).find_batch_size(loader, start=4, most=4, steps=4)
    assert seen[:4] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1], [2, 3, 4, 5]]
    assert next(iter(Endless(2, 5))) == [0, 1, 0, 1, 0]


def test_a_stream_needs_a_limit() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            x, y = digits(200)
            yield from zip(x, y, strict=True)

    with pytest.raises(ArgumentError, match="pass most="):
        made(Narrow(40)).find_batch_size(Stream())
    assert made(Narrow(40)).find_batch_size(Stream(), most=100).suggestion == 40
    assert made(Narrow(40)).find_batch_size(DataLoader(Stream(), 4), most=30).suggestion == 30
    assert made(Narrow(400)).find_batch_size(Stream(), most=300).suggestion == 300  # of 200 samples, again and again


def test_a_stream_without_a_sample_is_an_error() -> None:
    class Nothing(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(LoaderError, match="yields no batch"):
        made(Narrow(40)).find_batch_size(Nothing(), most=8)


class OwnTask(EpochTask):
    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        for _ in range(step_args["times"]):
            self.loss(self.model(batch_x), batch_y)


def test_steps_of_tasks_are_run() -> None:
    model = Narrow(30)
    task = OwnTask(loader(0, 200), times=2)
    assert made(model).find_batch_size(task, steps=2).suggestion == 30
    assert model.sizes == []  # as everything else


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        (5, {}, ArgumentTypeError, "dataset=5"),
        (TensorDataset(torch.empty(0, 2)), {}, ArgumentError, "empty"),
        (data(8), {"start": 0}, ArgumentError, "start=0"),
        (data(8), {"steps": 2.0}, ArgumentTypeError, "steps=2.0"),
        (data(8), {"most": 0}, ArgumentError, "most=0"),
        ({1, 2}, {}, ArgumentTypeError, "a dataset or a DataLoader is needed"),
    ],
)
def test_arguments_are_checked(given: Any, options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        made(Narrow(4)).find_batch_size(given, **options)


def test_the_callback_tells_and_the_run_is_as_it_would_have_been() -> None:
    results, finder = [], BatchSizeFinder()
    for callbacks in ([], [finder]):
        trainer = made(Narrow(70), callbacks)
        torch.manual_seed(1)
        trainer.fit(loader(0, 96, shuffle=True))
        results.append([value.clone() for value in trainer.model.state_dict().values()])
    assert finder.finding is not None
    assert finder.finding.suggestion == 70
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    with pytest.raises(ArgumentTypeError, match="has to be a DataLoader"):
        made(Narrow(70), [BatchSizeFinder()]).fit(list(loader(0, 96)))


def test_what_was_tried_is_shown() -> None:
    said = str(made(Narrow(5)).find_batch_size(data()))
    assert said.splitlines()[0].split() == ["samples", "ms/update", "samples/s"]
    assert "      8  out of memory" in said
    assert said.endswith("suggested batch size 5; 6 do not fit")


def test_callbacks_that_are_no_part_of_training_stay_out() -> None:
    class Out(Callback):
        def on_before_fit(self, trainer: Any, epochs: int) -> None:
            raise ValueError("called")

    assert made(Narrow(5), [Out()]).find_batch_size(data()).suggestion == 5


REAL = """
import resource
import torch
from torch import nn
from deepepochs_like import Trainer

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 65_536), nn.Linear(65_536, 1)

    def forward(self, x):
        return self.down(self.up(x).relu())

model = Wide()
trainer = Trainer(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), 0.1), 1, 'cpu', verbose=0)
data = torch.utils.data.TensorDataset(torch.rand(4096, 4), torch.rand(4096, 1))
trainer.find_batch_size(data, most=2)
taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (96 << 20), resource.RLIM_INFINITY))
finding = trainer.find_batch_size(data, start=64, steps=1)
print(finding.suggestion, any(not trial.fits for trial in finding.tried), trainer.progress.step)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a process can be limited on Linux")
def test_memory_that_really_runs_out_is_noticed() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", REAL], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    suggestion, failed, step = done.stdout.split()
    assert 16 <= int(suggestion) < 512
    assert (failed, step) == ("True", "0")
