"""`EarlyStopping`: end a run that gets no better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

from ..errors import ArgumentError, refuse_unknown
from ..monitor import Monitor
from ..types import StateDict
from .base import Callback


class EarlyStopping(Callback):
    """End the run when the monitored figure has not become better for `patience` looks at it.

    Epochs without validation are no look at a figure of validation. NaN is never better. A run that was ended stays
    ended when it is resumed, unless it is resumed with more patience.

    Args:
        monitor: ``'val/loss'``, or a function of the epoch's figures ``{'train/loss': ..., 'val/loss': ...}``.
        patience: how many looks without improvement end the run.
        mode: ``'min'`` or ``'max'``; by default what the figure's name says.
        min_delta: an improvement is a change by more than this.
        warmup: so many looks at the beginning are not counted against the patience.
        threshold: end the run as soon as the figure is as good as this.
        priority: its place among the callbacks.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.
        UnknownFigureError: at the end of an epoch that should have the figure, and has not.
    """

    def __init__(
        self,
        monitor: str | Callable[[dict[str, float]], Any] = "val/loss",
        patience: int = 5,
        mode: str | None = None,
        *,
        min_delta: float = 0.0,
        warmup: int = 0,
        threshold: float | None = None,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("EarlyStopping", unknown, EarlyStopping.__init__)
        super().__init__(priority)
        for name, count, least in (("patience", patience, 1), ("warmup", warmup, 0)):
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise ArgumentError(f"{name}={count!r}: an int from {least} on is needed")
        numbers: tuple[tuple[str, Any, float], ...] = (
            ("min_delta", min_delta, 0.0),
            ("threshold", 0.0 if threshold is None else threshold, -math.inf),
        )
        for name, number, lowest in numbers:
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not number >= lowest:
                raise ArgumentError(f"{name}={number!r}: a number{' from 0 on' if lowest == 0 else ''} is needed")
        self.monitor = Monitor(monitor, mode)
        self.patience, self.min_delta, self.warmup, self.threshold = patience, min_delta, warmup, threshold
        #: The best value so far, looks in all, and looks since the best.
        self.best, self.looks, self.since = math.nan, 0, 0
        self.reached = False

    def state_key(self) -> str:
        return f"{type(self).__name__}({self.monitor.name})"

    def state_dict(self) -> StateDict:
        return {"best": self.best, "looks": self.looks, "since": self.since, "reached": self.reached}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.best, self.looks = float(state_dict["best"]), int(state_dict["looks"])
        self.since, self.reached = int(state_dict["since"]), bool(state_dict["reached"])

    def ended(self) -> str:
        if self.reached and self.threshold is not None:
            return f"{self.monitor.name} has reached {self.threshold:g}"
        if self.since >= self.patience:
            best = "never a number" if math.isnan(self.best) else f"no better than {self.best:.6g}"
            return f"{self.monitor.name} was {best} for {self.since} epochs"
        return ""

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self.monitor.begin(trainer)

    def on_after_epoch(
        self, trainer: Any, train_tasks: Any, val_tasks: Any, train_metrics: Any, val_metrics: Any, epoch_idx: int
    ) -> None:
        value = self.monitor.value(trainer)
        if value is None:
            return
        self.looks += 1
        if self.monitor.better(value, self.best, self.min_delta):
            self.best, self.since = value, 0
        elif self.looks > self.warmup:
            self.since += 1
        limit = self.threshold
        if limit is not None and (value <= limit if self.monitor.mode == "min" else value >= limit):
            self.reached = True
        if reason := self.ended():
            trainer.stop(reason)
