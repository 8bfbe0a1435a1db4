"""Python and C calls per training step: counted, so that they do not wobble."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from .by_hand import TOTALS
from .contender import Contender
from .workloads import Workload

#: Two lengths of a run: their difference leaves out what is done once per run.
SHORT, LONG = 1, 3


def calls(run: Callable[[], Any]) -> int:
    """Python and C calls that `run` makes in this thread."""
    count = 0

    def profiler(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.disable()  # finalizers would be counted wherever they happen to run
    sys.setprofile(profiler)
    try:
        run()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def calls_per_step(contender: Contender, work: Workload, report: str) -> float:
    """Calls per training step, without validation; what is done once per epoch has its share in it."""

    def run(epochs: int) -> int:
        with tempfile.TemporaryDirectory() as folder, contender.around():
            job = replace(contender.job(work, Path(folder)), val_dl=None, epochs=epochs, report=report)
            return calls(lambda: contender.run(job))

    run(1)  # what is imported or cached the first time is no part of a step
    return (run(LONG) - run(SHORT)) / ((LONG - SHORT) * len(work.loaders(contender.holder)[0]))


@cache
def baseline(work: Workload, fused: bool) -> float:
    """Calls per step of the loop that adds up its loss and does nothing else."""
    return calls_per_step(replace(TOTALS, fused=fused), work, "loss")


def calls_over_baseline(contender: Contender, work: Workload, report: str) -> float | None:
    """Calls per step beyond those of the baseline with the same optimizer; None where it cannot report so little."""
    if report not in contender.reports:
        return None
    return calls_per_step(contender, work, report) - baseline(work, contender.fused)
