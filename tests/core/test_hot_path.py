"""What a training step costs and how long its path is: counted, so that it cannot wobble."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import deepepochs_like
from deepepochs_like import Callback, Trainer, metrics
from support.calls import calls
from support.codelines import code_lines, function_code_lines
from support.digits import loader, mlp

PACKAGE = Path(deepepochs_like.__file__).parent


def totals_its_loss(net: nn.Module, opt: torch.optim.Optimizer, dl: Any, epochs: int) -> None:
    """The loop one writes by hand: it adds up its loss and does nothing else."""
    net.train()
    for _ in range(epochs):
        total, n = torch.zeros((), dtype=torch.float64), 0
        for x, y in dl:
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            total += loss.detach() * len(y)
            n += len(y)


class Nothing(Callback):
    """Overrides no hook."""


def per_step(run: Callable[[int], Callable[[], Any]], steps: int) -> float:
    """Calls per training step, epochs' own share included, those of the run as a whole left out."""
    return (calls(run(6)) - calls(run(2))) / (4 * steps)


def by_hand(epochs: int) -> Callable[[], Any]:
    net, dl = mlp(), loader(0, 1437)
    opt = torch.optim.Adam(net.parameters())
    return lambda: totals_its_loss(net, opt, dl, epochs)


def ours(epochs: int, **options: Any) -> Callable[[], Any]:
    net, dl = mlp(), loader(0, 1437)
    trainer = Trainer(
        net, F.cross_entropy, torch.optim.Adam(net.parameters()), epochs, device="cpu", **{"verbose": 0, **options}
    )
    return lambda: trainer.fit(dl)


def test_a_step_makes_at_most_twelve_calls_more_than_by_hand() -> None:
    steps = len(loader(0, 1437))
    calls(by_hand(1))
    calls(ours(1))
    base, mine = per_step(by_hand, steps), per_step(ours, steps)
    many = per_step(lambda e: ours(e, callbacks=[Nothing() for _ in range(50)]), steps)
    print(f"calls per step: by hand {base:.1f}, ours +{mine - base:.1f}, with 50 idle callbacks +{many - base:.1f}")
    assert mine - base <= 12
    assert many == mine


def test_the_display_and_an_accuracy_stay_within_forty_calls_more(capsys: pytest.CaptureFixture[str]) -> None:
    steps = len(loader(0, 1437))
    calls(ours(1, verbose=1))
    base = per_step(by_hand, steps)
    mine = per_step(lambda e: ours(e, verbose=1, metrics=[metrics.accuracy]), steps)
    capsys.readouterr()
    assert mine - base <= 40


def package_frames(stack: list[traceback.FrameSummary]) -> list[str]:
    return [frame.name for frame in stack if Path(frame.filename).is_relative_to(PACKAGE)]


def test_at_most_five_frames_lie_between_fit_and_the_users_code() -> None:
    depth: dict[str, int] = {}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            depth["model"] = len(package_frames(traceback.extract_stack()))
            out: Tensor = self.net(x)
            return out

    def loss(out: Tensor, y: Tensor) -> Tensor:
        depth["loss"] = len(package_frames(traceback.extract_stack()))
        return F.cross_entropy(out, y)

    def step(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> None:
        depth["step"] = len(package_frames(traceback.extract_stack()))

    Trainer(Model(), loss, epochs=1, verbose=0, device="cpu").fit(loader(0, 40), loader(40, 60))
    Trainer(mlp(), loss, epochs=1, verbose=0, device="cpu").fit(loader(0, 40), step=step)
    assert set(depth) == {"model", "loss", "step"}
    assert max(depth.values()) <= 5, depth


class Watched(nn.Module):
    """A model that says when the first steps are over, and when enough of them are."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = mlp(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.net(x)
        return out


def modules_of_a_step(batches: Any, **options: Any) -> set[Path]:
    """The package's modules in which a function runs between one training step and the next, over 60 steps."""
    found: set[Path] = set()
    net = Watched()

    def profiler(frame: FrameType, event: str, argument: Any) -> None:
        if 2 < net.calls < 62 and event == "call" and Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            found.add(Path(frame.f_code.co_filename))

    trainer = Trainer(net, F.cross_entropy, epochs=1, device="cpu", **options)
    sys.setprofile(profiler)
    try:
        trainer.fit(batches)
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize(("verbose", "cut"), [(0, False), (0, True), (1, False)])
def test_the_hot_path_is_at_most_700_lines(verbose: int, cut: bool, capsys: pytest.CaptureFixture[str]) -> None:
    # Cut from memory, batches are taken 64 at a time: that is not in these steps, handing them out is.
    batches = loader(0, 1437, 8)
    modules = modules_of_a_step(batches if cut else list(batches), verbose=verbose)
    capsys.readouterr()
    lines = {module.name: code_lines(module) for module in sorted(modules)}
    print(sum(lines.values()), lines)
    assert {"trainer.py", "task.py", "handles.py", "batch.py", "running.py", "local.py"} <= set(lines)
    assert ("stream.py" in lines) == cut
    assert sum(lines.values()) <= 700, lines
    assert sum(code_lines(PACKAGE / name) for name in ("trainer.py", "task.py", "hooks.py")) <= 500


def test_the_loop_functions_are_at_most_40_lines() -> None:
    trainer, task = (function_code_lines(PACKAGE / name) for name in ("trainer.py", "task.py"))
    loop = {
        "fit": trainer["Trainer.fit"],
        "stage": trainer["Trainer._run_stage"],
        "epoch": task["EpochTask.run"],
        "step": function_code_lines(PACKAGE / "handles.py")["LossHandle.__call__"],
        "optimize": trainer["Trainer.optimize"],
    }
    print(loop)
    assert max(loop.values()) <= 40, loop


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)  # unlike Adam it reads nothing back by itself


@pytest.mark.parametrize("patch", ["tensor", "mean", "confusion"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_nothing_is_read_back_in_100_steps(patch: str, accumulate: int) -> None:
    net = mlp()
    trainer = Trainer(
        net,
        F.cross_entropy,
        sgd(net),
        metrics=[metrics.accuracy] if patch == "mean" else [metrics.accuracy, metrics.f1],
        metric_patch=patch,
        accumulate=accumulate,
        verbose=0,
        device="cpu",
    )
    batches = list(loader(0, 1760, 16))
    counted: list[Any] = []

    class Watch(Callback):
        def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
            if batch_idx == 5:
                self.profiler = profile(activities=[ProfilerActivity.CPU])
                self.profiler.__enter__()

        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if batch_idx == 104:
                self.profiler.__exit__(None, None, None)
                counted.extend(self.profiler.key_averages())

    trainer.callbacks.append(Watch())
    trainer.fit(batches, epochs=1)
    names = {event.key: event.count for event in counted}
    assert names["aten::linear"] == 200
    assert not {name for name in names if name in ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero")}


@pytest.mark.parametrize("patch", ["tensor", "mean", "confusion"])
def test_the_loop_runs_on_the_meta_device(patch: str) -> None:
    net = mlp().to("meta")
    trainer = Trainer(
        net, F.cross_entropy, sgd(net), 2, metrics=[metrics.accuracy], metric_patch=patch, accumulate=2, verbose=0
    )
    batches = [(x.to("meta"), y.to("meta")) for x, y in loader(0, 100, 16)]
    history = trainer.fit(batches, batches)
    assert trainer.device.type == "meta"
    assert len(history["val"]["accuracy"]) == 2
    assert str(history["train"]["loss"][0]) == "nan"


def test_memory_does_not_grow_with_steps() -> None:
    """100,000 steps; a quarter of them is enough to see a leak of one small object a step."""
    net = nn.Linear(1, 1)
    trainer = Trainer(net, F.mse_loss, sgd(net), metrics=[mean_error], metric_patch="mean", verbose=0, device="cpu")
    batch = (torch.zeros(1, 1), torch.zeros(1, 1))
    sizes: list[int] = []

    class Stream:
        def __iter__(self) -> Any:
            for i in range(100_000):
                if i in (20_000, 99_900):
                    gc.collect()
                    sizes.append(len(gc.get_objects()))
                yield batch

    trainer.fit(Stream(), max_steps=100_000)
    assert trainer.progress.step == 100_000
    assert sizes[1] - sizes[0] < 100, sizes


def mean_error(preds: Tensor, targets: Tensor) -> Tensor:
    return (preds - targets).abs().mean()
