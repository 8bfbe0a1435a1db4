"""What a fit costs whatever it trains: once per fit, and once per epoch."""

from __future__ import annotations

import time
from dataclasses import replace

from .by_hand import BEST
from .contender import Contender
from .ours import OURS
from .statistics import Spread, spread
from .workloads import WORKLOADS

#: Epochs of the long run; what it takes beyond one of 1 epoch is that of the epochs between.
MANY = 21


def seconds(contender: Contender, epochs: int) -> float:
    """CPU time of a fit on one batch, validation on one batch included."""
    work = WORKLOADS["w1"]
    batch = [next(iter(work.loaders()[0]))]
    job = replace(contender.job(work), train_dl=batch, val_dl=batch, epochs=epochs)
    began = time.process_time()
    contender.run(job)
    return time.process_time() - began


def fixed_costs(rounds: int) -> dict[str, Spread]:
    """Milliseconds that this library's fit takes beyond the best loop: with one batch, and for each further epoch."""
    lean = next(contender for contender in OURS if contender.name == "lean")
    once: list[float] = []
    each: list[float] = []
    for number in range(rounds + 1):
        found = {(c.name, epochs): seconds(c, epochs) for c in (BEST, lean) for epochs in (1, MANY)}
        if number == 0:
            continue  # imports and caches
        once.append(1e3 * (found[lean.name, 1] - found[BEST.name, 1]))
        ours, theirs = (found[c.name, MANY] - found[c.name, 1] for c in (lean, BEST))
        each.append(1e3 * (ours - theirs) / (MANY - 1))
    return {"a fit of one batch": spread(once), "each further epoch": spread(each)}
