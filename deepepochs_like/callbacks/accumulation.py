"""`GradientAccumulation`: how many batches make an update, by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError, ArgumentTypeError
from ..execution.window import close_window, drop_gradients, open_window
from .base import Callback


class GradientAccumulation(Callback):
    """Change the number of batches per update from epoch to epoch: ``Trainer(accumulate=n)`` as a schedule.

    An update is that of the mean over all samples of its batches, as with ``accumulate=n``.

    Args:
        schedule: ``{epoch: batches per update}``, epochs counted from 0; each holds until the next. Before the first it
            is the trainer's own.

    Raises:
        ArgumentError, ArgumentTypeError: it is empty, or has other than such ints.

    Example:
        >>> GradientAccumulation({0: 8, 10: 2}).at(12)
        2
    """

    part_of_training = True

    def __init__(self, schedule: Mapping[int, int]) -> None:
        super().__init__()
        if not isinstance(schedule, Mapping):
            raise ArgumentTypeError(f"schedule={schedule!r}: a dict {{epoch: batches per update}} is needed")
        for epoch, batches in schedule.items():
            for name, number, least in (("epoch", epoch, 0), ("batches per update", batches, 1)):
                if isinstance(number, bool) or not isinstance(number, int) or number < least:
                    raise ArgumentError(f"schedule={schedule!r}: {name} {number!r}: an int from {least} on is needed")
        if not schedule:
            raise ArgumentError("schedule={}: at least one {epoch: batches per update} is needed")
        self.schedule = dict(sorted(schedule.items()))
        self._before = 1

    def at(self, epoch: int) -> int:
        """Batches per update in an epoch, counted from 0."""
        begun = [batches for first, batches in self.schedule.items() if first <= epoch]
        return begun[-1] if begun else self._before

    def attach(self, trainer: Any) -> None:
        """Give the execution a window in time: a state may be loaded into it before a fit begins."""
        execution = trainer.execution
        owner, before = getattr(execution, "accumulated_by", (None, 1))
        if owner is self:  # before another trainer's, maybe
            self._before = before
            return
        if owner is not None:
            raise ArgumentError(
                "callbacks: two GradientAccumulation; put both schedules into one: GradientAccumulation({0: 8, 10: 2})"
            )
        if getattr(trainer.accelerator, "gradient_accumulation_steps", 1) > 1:
            raise ArgumentError(
                "GradientAccumulation and Accelerator(gradient_accumulation_steps=...): let one of the two accumulate"
            )
        if trainer.accumulate > 1 and 0 in self.schedule:
            raise ArgumentError(
                f"accumulate={trainer.accumulate} and GradientAccumulation from epoch 0 on: leave one of the two out"
            )
        self._before = trainer.accumulate
        execution.accumulated_by = (self, self._before)
        if execution.window is None:
            open_window(execution)

    def detach(self, trainer: Any) -> None:
        """Give the trainer its own number of batches back: without the schedule nobody would set another."""
        execution = trainer.execution
        owner, before = getattr(execution, "accumulated_by", (None, 1))
        if owner is not self:  # it was refused
            return
        del execution.accumulated_by
        drop_gradients(trainer)  # a sum over a window that nobody would divide any more
        trainer.accumulate = before
        if before == 1:
            close_window(execution)
        else:
            execution.window.size = before

    def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
        trainer.accumulate = trainer.execution.window.size = self.at(epoch_idx)
