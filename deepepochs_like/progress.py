"""Where a run is, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .types import StateDict


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        epoch: epochs completed; the index of the one in progress.
        step: updates of the weights, whatever the number of optimizers.
        began: the update at which the epoch in progress began.
        stage: ``'train'`` or ``'val'`` in an epoch, ``'end'`` while it is being closed, else ``''``.
        task: index of the stage's task.
        batch: batches of the task completed in this epoch.
        begun: whether the task has figures of this epoch.
        updated: whether an optimizer has stepped since the batch began.
        opened: the epoch in progress, as it was in the state that it goes on from.
        left: the epoch that a fit left open, for the next one.
        fits: the fits of the run, the last being the one in progress: where each began and what it was asked for.
    """

    epoch: int = 0
    step: int = 0
    began: int = 0
    stage: str = ""
    task: int = 0
    batch: int = 0
    begun: bool = False
    updated: bool = False
    opened: StateDict | None = field(default=None, repr=False, compare=False)
    left: StateDict | None = field(default=None, repr=False, compare=False)
    fits: list[StateDict] = field(default_factory=list, repr=False)

    @property
    def epochs_done(self) -> int:
        """Epochs that have trained; one that was stopped behind its training is over, and in the history."""
        return self.epoch + (self.stage in ("val", "end"))

    def start(self, fresh: bool) -> None:
        """Begin a fit: a fresh one begins an epoch, whatever the last one left open."""
        if fresh:
            self.epoch, self.began = self.epochs_done, self.step
        self.stage, self.begun, self.updated, self.opened = "", False, False, None

    def count(self, *ignored: Any) -> None:
        """Note that an optimizer has really stepped, whoever called it: every optimizer of a run calls this."""
        self.updated = True
