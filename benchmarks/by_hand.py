"""The loops written by hand, as contenders."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .contender import Contender, Job
from .loops import Rows, adam, best, naive, totals_its_loss
from .workloads import Plain


def _by_hand(loop: Callable[..., Rows], job: Job) -> Rows:
    return loop(
        job.net,
        job.train_dl,
        job.val_dl,
        heavy=job.report == "macro",
        epochs=job.epochs,
        per_sample=job.per_sample,
        after_step=None if job.save_every is None else partial(_save, job, [0]),
    )


def _save(job: Job, steps: list[int], opt: torch.optim.Optimizer) -> None:
    """Keep weights and the optimizer's state, as most do by hand: written beside the old file, then in its place."""
    steps[0] += 1
    if job.folder is not None and job.save_every is not None and steps[0] % job.save_every == 0:
        new = job.folder / "new.pt"
        torch.save({"net": job.net.state_dict(), "opt": opt.state_dict(), "step": steps[0]}, new)
        os.replace(new, job.folder / "last.pt")


def _totals(job: Job) -> Any:
    totals_its_loss(job.net, adam(job.net, job.fused), job.train_dl, job.epochs)


BEST = Contender("best", partial(_by_hand, best), saves=True)
#: What calls per step are counted from; it reports nothing, so it is no contender for time.
TOTALS = Contender("totals its loss", _totals, reports=("loss",))

NAIVE = Contender("naive", partial(_by_hand, naive), tolerance=1e-2, fused=False, saves=True)

BY_HAND = [
    BEST,
    Contender("best again", partial(_by_hand, best), saves=True),
    Contender("best (any dataset)", partial(_by_hand, best), holder=Plain, only=("w1", "w3")),
    NAIVE,
]
