"""A contender: somebody's way to do a workload, and a job: one run of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import TensorDataset

from .loops import Rows
from .workloads import Workload


@dataclass
class Job:
    """One run: fresh weights, the workload's loaders, and what is to be reported.

    Args:
        net: the model.
        train_dl: the loader of training.
        val_dl: the loader of validation; None where there is none.
        epochs: passes over the data.
        report: ``'loss'``, ``'accuracy'`` (with the loss) or ``'macro'`` (F1, precision, recall and the matrix, too).
        per_sample: targets per sample.
        save_every: updates between two checkpoints; None for none.
        folder: where checkpoints go.
        fused: whether the optimizer is the fused one.
        files: whether a library may write the files that it writes unasked.
    """

    net: nn.Module
    train_dl: Any
    val_dl: Any
    epochs: int
    report: str = "accuracy"
    per_sample: int = 1
    save_every: int | None = None
    folder: Path | None = None
    fused: bool = True
    files: bool = True


@dataclass(frozen=True)
class Contender:
    """Somebody's way to do a workload.

    Args:
        name: how it is listed; no commas, since it is chosen by name.
        run: do a job; this is what is timed.
        read: turn what `run` returned into figures; this is not.
        base: whose time its own is divided by.
        like: whose weights and figures it must end with; by default its base's.
        tolerance: how far its weights may be from those: 0 is equal to the bit.
        fused: whether it uses the fused optimizer.
        holder: the class that holds the data's tensors.
        around: a context that it runs in, which is not timed.
        reports: what it can be asked to report.
        saves: whether it can keep checkpoints.
        only: the workloads it is there for; None for all.
        module: what it imports beside torch; empty for nothing.
        unsaved: whether it leaves out the checkpoints that a workload asks for.
    """

    name: str
    run: Callable[[Job], Any]
    read: Callable[[Any], Rows] = lambda rows: rows
    base: str = "best"
    like: str = ""
    tolerance: float = 0.0
    fused: bool = True
    holder: Callable[..., TensorDataset] = TensorDataset
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    reports: tuple[str, ...] = ("accuracy", "macro")
    saves: bool = False
    only: tuple[str, ...] | None = None
    module: str = ""
    unsaved: bool = False

    def takes(self, work: Workload) -> bool:
        """Whether it does a workload."""
        report = "macro" if work.heavy else "accuracy"
        chosen = self.only is None or work.name in self.only
        return chosen and report in self.reports and (self.saves or work.save_every is None)

    @property
    def model(self) -> str:
        """Whose weights and figures it must end with."""
        return self.like or self.base

    def job(self, work: Workload, folder: Path | None = None) -> Job:
        """A fresh run of a workload."""
        return Job(
            work.model(),
            *work.loaders(self.holder),
            work.epochs,
            "macro" if work.heavy else "accuracy",
            work.per_sample,
            None if self.unsaved else work.save_every,
            folder,
            self.fused,
            not self.unsaved,
        )
