"""What a part of a fit costs: the CPU time within its hooks, by that of the rest. ``python -m benchmarks.shares``.

Two fits differ by more than a display or a checkpoint takes; one fit with a clock in it does not.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from deepepochs_like import Callback, Checkpoint, DefaultCallback

from . import by_hand, ours
from .by_hand import BEST
from .consoles import to_pipe, to_terminal
from .contender import Contender
from .report import table
from .statistics import Spread, spread
from .steady import steady
from .workloads import WORKLOADS, Workload

#: Of the fits with a display: long enough for what happens once per fit not to matter.
EPOCHS = 10


@dataclass
class Clock:
    """Seconds of CPU time within the functions that it is put around, and of those the ones within batches' hooks."""

    seconds: float = 0.0
    of_steps: float = 0.0
    _within: bool = False

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with this clock around it; what it calls is not counted twice."""

        @wraps(function)
        def timed(*given: Any, **arguments: Any) -> Any:
            if self._within:
                return function(*given, **arguments)
            self._within, began = True, time.process_time()
            try:
                return function(*given, **arguments)
            finally:
                spent = time.process_time() - began
                self._within = False
                self.seconds += spent
                self.of_steps += spent * function.__name__.endswith("_batch")

        return timed

    def hooks_of(self, kind: type[Callback]) -> type[Callback]:
        """The same callback, with this clock around each of its hooks."""
        own = {name: hook for name, hook in vars(kind).items() if name.startswith("on_")}
        return type(kind.__name__, (kind,), {name: self.around(hook) for name, hook in own.items()})


def share(contender: Contender, work: Workload, patch: Callable[[Clock], Any]) -> tuple[float, float]:
    """What `patch` puts the clock around, in per cent of the rest of a fit: in the hooks of batches, and in all."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contender.around(), patch(clock):
        job = contender.job(work, Path(folder))
        began = time.process_time()
        contender.run(job)
        rest = (time.process_time() - began - clock.seconds) / 100
    return clock.of_steps / rest, clock.seconds / rest


def displays(rounds: int) -> dict[str, tuple[Spread, Spread]]:
    """What the console costs on a pipe and on a terminal."""

    def patch(clock: Clock) -> Any:
        return mock.patch("deepepochs_like.trainer.DefaultCallback", clock.hooks_of(DefaultCallback))

    work, found = replace(WORKLOADS["w2"], epochs=EPOCHS), {}
    for name, place in {"pipe": to_pipe, "terminal": to_terminal}.items():
        shown = Contender(name, lambda job: ours.train(job, verbose=1), around=place)
        found[name] = _spreads(share(shown, work, patch) for _ in range(rounds + 1))
    return found


def saves(rounds: int) -> dict[str, tuple[Spread, Spread]]:
    """What a checkpoint every 100 steps costs, by hand and here."""
    patches: dict[str, tuple[Contender, Callable[[Clock], Any]]] = {
        "best": (BEST, lambda clock: mock.patch.object(by_hand, "_save", clock.around(by_hand._save))),
        "lean": (ours.OURS[0], lambda clock: mock.patch.object(ours, "Checkpoint", clock.hooks_of(Checkpoint))),
    }
    work, found = WORKLOADS["w6"], {}
    for name, (contender, patch) in patches.items():
        found[name] = _spreads(share(contender, work, patch) for _ in range(rounds + 1))
    return found


def _spreads(pairs: Iterable[tuple[float, float]]) -> tuple[Spread, Spread]:
    """Those of both figures; the first fit warms up."""
    steps, whole = zip(*list(pairs)[1:], strict=True)
    return spread(steps), spread(whole)


def shares_report(rounds: int) -> str:
    """Both as tables."""

    def cell(s: Spread) -> str:
        return f"{s.median:.2f} ({s.low:.2f}–{s.high:.2f})"

    display = [[name, "", *map(cell, both)] for name, both in displays(rounds).items()]
    saved = [[name, "", cell(whole)] for name, (_, whole) in saves(rounds).items()]
    return "\n\n".join(
        [
            "## The display, in % of the rest of a fit",
            table((f"w2, {EPOCHS} epochs", "", "in steps", "epochs and fit included"), display),
            "## Checkpoints, in % of the rest of a fit",
            table(("w6, CPU time", "", "all that saves"), saved),
        ]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    steady()
    print(shares_report(int(sys.argv[1]) if sys.argv[1:] else 5))
