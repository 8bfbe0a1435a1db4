"""What the display costs: the CPU time within its hooks, as a share of the fit's. ``python -m benchmarks.shown``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from deepepochs_like import DefaultCallback, Trainer
from deepepochs_like.metrics import accuracy

from .consoles import to_pipe, to_terminal
from .loops import adam
from .report import table
from .statistics import Spread, spread
from .workloads import WORKLOADS

#: Long enough for what happens once per fit not to matter.
EPOCHS = 10


class Clocked(DefaultCallback):
    """The console, with a clock around each of its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = self.of_steps = 0.0
        for name in dir(DefaultCallback):
            if name.startswith("on_") and name in vars(DefaultCallback):
                setattr(self, name, self._timed(getattr(self, name)))

    def _timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **arguments: Any) -> Any:
            began = time.process_time()
            try:
                return hook(*given, **arguments)
            finally:
                spent = time.process_time() - began
                self.seconds += spent
                self.of_steps += spent * hook.__name__.endswith("_batch")

        return timed


def share(workload: str, around: Callable[[], Any]) -> tuple[float, float]:
    """The display's share of a fit, in per cent: in the hooks of batches alone, and in all."""
    work = WORKLOADS[workload]
    net, (train_dl, val_dl), shown = work.model(), work.loaders(), Clocked()
    trainer = Trainer(net, F.cross_entropy, adam(net, True), EPOCHS, "cpu", [shown], [accuracy])
    with around():
        began = time.process_time()
        trainer.fit(train_dl, val_dl)
        whole = (time.process_time() - began) / 100
    return shown.of_steps / whole, shown.seconds / whole


def shares(rounds: int, workload: str = "w2") -> dict[str, tuple[Spread, Spread]]:
    """The same on a pipe and on a terminal, over several fits."""
    found = {}
    for name, place in {"pipe": to_pipe, "terminal": to_terminal}.items():
        steps, whole = zip(*[share(workload, place) for _ in range(rounds + 1)][1:], strict=True)
        found[name] = spread(steps), spread(whole)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = shares(int(sys.argv[1]) if sys.argv[1:] else 5)
    rows = [[name, *(f"{s.median:.2f} ({s.low:.2f}–{s.high:.2f})" for s in both)] for name, both in found.items()]
    print(table(("w2, display on", "% of CPU time in steps", "epochs and fit included"), rows))
