"""All callbacks in one run: what they cost a step on which none of them has anything to do, and that they get along."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import (
    AMP,
    EMA,
    SWA,
    Analyze,
    Callback,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    FineTune,
    GradClip,
    GradientAccumulation,
    Interpret,
    JSONLLogger,
    LogCallback,
    OnOOM,
    Profile,
    Report,
    ResourceMonitor,
    Scheduled,
    StopOnNaN,
    TensorBoard,
    Timer,
    Trainer,
    cosine,
)
from support.calls import calls
from support.digits import digits, mlp
from support.repo import PACKAGE


def losses(scores: Any, labels: Any) -> Any:
    return F.cross_entropy(scores, labels, reduction="none")


def idle() -> list[Callback]:
    """Those that have something to do at times, set so that the steps of a short epoch are none of them."""
    rarely = 10**9
    return [
        Checkpoint("val/loss", every_steps=rarely),
        EarlyStopping("val/loss", patience=rarely),
        SWA(start=rarely),
        Scheduled(cosine(10)),
        FineTune({0: "*"}),
        TensorBoard(every=rarely),
        JSONLLogger(every=rarely),
        CSVLogger(every=rarely),
        Analyze(every=rarely),
        Analyze("gradients", every=rarely),
        Interpret(losses, stages="test"),
        Profile((rarely, rarely + 1)),
        StopOnNaN(every=rarely),
        OnOOM("skip"),
        ResourceMonitor(),
        Report(),
    ]


def batches(count: int) -> list[Any]:
    x, y = digits(count * 32)
    return list(zip(x.split(32), y.split(32), strict=True))


def by_hand(count: int) -> int:
    """Calls of an epoch in the loop that one writes by hand, which adds up its loss and does nothing else."""
    model, data = mlp(), batches(count)
    opt = torch.optim.Adam(model.parameters())

    def epoch() -> None:
        model.train()
        total = torch.zeros((), dtype=torch.float64)
        for x, y in data:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            total += loss.detach() * len(y)

    return calls(epoch)


def slope(folder: Path, make: Callable[[], list[Callback]]) -> float:
    """Calls of one more batch in an epoch."""

    def run(count: int, name: str) -> int:
        model, data = mlp(), batches(count)
        opt = torch.optim.Adam(model.parameters())
        options: Any = {"verbose": 0, "folder": folder, "running_id": name}
        trainer = Trainer(model, F.cross_entropy, opt, 1, "cpu", make(), **options)
        return calls(lambda: trainer.fit(data, data[:1]))

    run(3, "warm")
    few, many = run(10, "few"), run(50, "many")
    return (many - few) / 40


@pytest.mark.filterwarnings("ignore:.* does nothing in this fit", "ignore:Profile.* traced nothing")
def test_a_step_on_which_none_has_anything_to_do_stays_within_the_loops_own_budget(tmp_path: Path) -> None:
    by_hand(3)
    hand = (by_hand(50) - by_hand(10)) / 40
    alone, together = slope(tmp_path / "alone", list), slope(tmp_path / "together", idle)
    names = [type(callback).__name__ for callback in idle()]
    print(
        f"calls per batch: by hand {hand:.1f}, the loop alone {alone:.1f}, with {len(names)} callbacks {together:.1f}"
    )
    assert together <= hand + 12, "what the loop itself may cost"
    assert together - alone <= 2 * len(names), "each looks at a number, and no more"


@pytest.mark.slow
def test_all_of_them_get_along(tmp_path: Path) -> None:
    x, y = digits(300)
    train, val = TensorDataset(x[:200], y[:200]), TensorDataset(x[200:], y[200:])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    everything = [
        *(AMP("fp16"), GradientAccumulation({0: 2}), GradClip(1.0), EMA(0.9), FineTune({0: "3", 1: "*"})),
        *(TensorBoard(every=2), LogCallback(str(tmp_path)), JSONLLogger(every=2), CSVLogger(every=2)),
        *(Analyze(every=3), Analyze("gradients", every=3), Interpret(losses, k=5, stages=("train", "val"))),
        *(Timer(show=None), Profile((3, 5), show=False), StopOnNaN(), OnOOM("skip"), ResourceMonitor()),
        *(EarlyStopping("val/loss", patience=9), Checkpoint("val/loss"), Report()),
    ]
    opt = torch.optim.SGD(model.parameters(), 0.1)
    options: Any = {"verbose": 0, "folder": tmp_path, "running_id": "a", "hyper_params": {"lr": 0.1}}
    trainer = Trainer(model, F.cross_entropy, opt, 3, "cpu", everything, **options)
    history = trainer.fit(DataLoader(train, 20, shuffle=True), DataLoader(val, 50))
    assert len(history["val"]["loss"]) == 3
    written = {path.name for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert {"metrics.jsonl", "metrics.csv", "report.html", "hyper_params.json"} <= written
    assert not [handle for module in model.modules() for handle in module._forward_hooks]


def test_hooks_of_some_length_say_why() -> None:
    """What a hook does is in its name; why it is done there is not."""
    silent = []
    for path in (PACKAGE / "callbacks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (node.name.startswith("on_") or node.name in ("attach", "detach")):
                assert node.end_lineno is not None
                if node.end_lineno - node.body[0].lineno >= 6 and ast.get_docstring(node) is None:
                    silent.append(f"{path.name}: {node.name}")
    assert silent == []
