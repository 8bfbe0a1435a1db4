"""A stop that comes between any two lines of the loop, as a signal may, loses nothing and does nothing twice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Checkpoint, Trainer
from support.repo import PACKAGE

#: The functions of the loop between whose lines it comes; what a step calls is within a batch, which is finished.
LOOP = ("fit", "_run_stage", "run", "finish", "close_window", "_close_epoch", "_end_fit")


def made(folder: Path, name: str, accumulate: int) -> Trainer:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 2))
    options: Any = {"folder": folder, "running_id": name, "resume": "auto", "accumulate": accumulate, "verbose": 0}
    return Trainer(net, F.cross_entropy, torch.optim.Adam(net.parameters()), 2, "cpu", [Checkpoint()], **options)


def run(trainer: Trainer) -> None:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(14, 4, generator=generator), torch.randint(2, (14,), generator=generator))
    trainer.fit(DataLoader(data, 6, shuffle=True), DataLoader(data, 10, shuffle=True))


def came_to(trainer: Trainer) -> tuple[Any, ...]:
    figures = {stage: {name: list(map(float, v)) for name, v in of.items()} for stage, of in trainer.history.items()}
    return [p.tolist() for p in trainer.model.parameters()], figures, torch.get_rng_state().tolist()


def stopped_at(number: int, trainer: Trainer) -> bool:
    """Run, and ask for a stop at the line of the loop with this number; False where there are fewer."""
    lines = 0

    def in_loop(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        nonlocal lines
        lines += event == "line"
        if lines == number and event == "line":
            trainer.stop("a signal")
        return in_loop

    def trace(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        within = frame.f_code.co_name in LOOP and Path(frame.f_code.co_filename).parent == PACKAGE
        return in_loop if within or frame.f_code.co_name == "finish" else None

    former = sys.gettrace()
    sys.settrace(trace)
    try:
        run(trainer)
    finally:
        sys.settrace(former)
    return lines >= number


@pytest.mark.parametrize(("accumulate", "first"), [(1, 1), (2, 3)])
def test_a_stop_at_any_line_of_the_loop_is_resumed_to_the_same_bits(
    accumulate: int, first: int, tmp_path: Path
) -> None:
    whole = made(tmp_path, "whole", accumulate)
    run(whole)
    expected, number = came_to(whole), first
    while stopped_at(number, made(tmp_path, str(number), accumulate)):
        resumed = made(tmp_path, str(number), accumulate)
        run(resumed)
        assert came_to(resumed) == expected, f"stopped at line {number} of those that the loop runs"
        number += 4
    assert number > 200
