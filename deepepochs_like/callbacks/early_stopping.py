"""`EarlyStopping`: end a run that gets no better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, NoReturn

import torch

from ..errors import ArgumentError, refuse_unknown
from ..fits import interrupted
from ..monitor import Monitor
from ..state import keyed
from ..types import StateDict
from ..utils.warn import warn
from .asked import forget_pending
from .base import Callback


class EarlyStopping(Callback):
    """End the run when the monitored figure has not become better for `patience` looks at it.

    Epochs without validation are no look at a figure of validation. NaN is never better.

    Another call of `fit` begins with fresh patience, and goes on with the best figure (and the best weights) so far. A
    run that is resumed goes on with the count, too: one that was ended stays ended, unless it is resumed with more
    patience. With other weights (`trainer.load_weights`, another trainer, or, with `restore_best`, whatever else has
    changed the model behind a fit) everything begins anew: what was best belongs to the weights before.

    Args:
        monitor: ``'val/loss'``, or a function of the epoch's figures ``{'train/loss': ..., 'val/loss': ...}``.
        patience: how many looks without improvement end the run.
        mode: ``'min'`` or ``'max'``; by default what the figure's name says.
        min_delta: an improvement is a change by more than this.
        warmup: so many looks at the beginning are not counted against the patience.
        threshold: end the run as soon as the figure is as good as this.
        baseline: only what is better than this counts as an improvement.
        restore_best: when the fit is over, put the weights of the best look into the model; a copy is kept of them, on
            the CPU and in checkpoints. A signal, or a stop within an epoch, leaves the weights as they are.
        priority: its place among the callbacks.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.
        UnknownFigureError: before a fit that can never have the figure; or at the end of an epoch that should, and has
            not.

    Example:
        >>> from deepepochs_like import Trainer
        >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> loss, still = torch.nn.functional.mse_loss, torch.optim.SGD(net.parameters(), lr=0.0)  # it gets no better
        >>> trainer = Trainer(net, loss, still, callbacks=[EarlyStopping(patience=3)], verbose=0)
        >>> len(trainer.fit(data, data)['val']['loss'])
        4
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
        baseline: float | None = None,
        restore_best: bool = False,
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
            ("baseline", 0.0 if baseline is None else baseline, -math.inf),
        )
        for name, number, lowest in numbers:
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not number >= lowest:
                raise ArgumentError(f"{name}={number!r}: a number{' from 0 on' if lowest == 0 else ''} is needed")
        self.monitor = Monitor(monitor, mode)
        self.patience, self.min_delta, self.warmup, self.threshold = patience, min_delta, warmup, threshold
        self.baseline, self.restore_best = baseline, restore_best
        self._trainer: Any = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._weights: StateDict = {}
        #: Whether a fit has ended with these weights in the model.
        self._restored = False
        #: The best value so far, looks in all, and looks since the best (or since the baseline was beaten).
        self.best, self.looks, self.since = math.nan, 0, 0
        self.reached = False

    def begin_anew(self, trainer: Any) -> None:
        """Forget what was best, as the model was given other weights: `trainer.load_weights` calls it.

        Args:
            trainer: whose weights they are; a state that it is still to go on with is forgotten, too.
        """
        self._begin_anew()
        forget_pending(trainer, self)

    def state_key(self) -> str:
        return f"{type(self).__name__}({self.monitor.name})"

    def state_dict(self) -> StateDict:
        numbers: StateDict = {"best": self.best, "looks": self.looks, "since": self.since, "reached": self.reached}
        numbers["threshold"] = self.threshold
        return {**numbers, "weights": self._weights} if self._weights else numbers

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.best, self.looks = float(state_dict["best"]), int(state_dict["looks"])
        same = state_dict.get("threshold", self.threshold) == self.threshold
        self.since, self.reached = int(state_dict["since"]), bool(state_dict["reached"]) and same
        self._weights = state_dict.get("weights", {})

    def ended(self) -> str:
        """Why the run is over: also asked of a run that is resumed, which is not trained on then."""
        if self.reached and self.threshold is not None:
            return f"{self.monitor.name} has reached {self.threshold:g}"
        if self.since >= self.patience:
            best = "never a number" if math.isnan(self.best) else f"no better than {self.best:.6g}"
            by = f" by more than min_delta={self.min_delta:g}" if self.min_delta and not math.isnan(self.best) else ""
            return f"{self.monitor.name} was {best}{by} for {self.since} epoch{'s' * (self.since != 1)}"
        return ""

    def attach(self, trainer: Any) -> None:
        if self._trainer is not None and self._trainer is not trainer:
            self._begin_anew()  # what was best belongs to another trainer's model
        self._trainer = trainer

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        """Begin with fresh patience; where a run is gone on with, its count is restored behind this."""
        self.monitor.begin(trainer)
        if self._restored and not _holds(trainer, self._weights):
            warn(
                "EarlyStopping: the model has other weights than the last fit put into it, so what was best before is "
                "forgotten, and looked for anew"
            )
            self._begin_anew()
        self.since, self.reached, self._restored = 0, False, False

    def on_after_epoch(
        self, trainer: Any, train_tasks: Any, val_tasks: Any, train_metrics: Any, val_metrics: Any, epoch_idx: int
    ) -> None:
        """Look at the figure, keep the weights where it is the best so far, and stop where patience has run out."""
        value = self.monitor.value(trainer)
        if value is None:
            return
        self.looks += 1
        better, limit = self.monitor.better(value, self.best, self.min_delta), self.baseline
        if better:
            self.best = value
            if self.restore_best:
                self._weights = _weights_of(trainer)
        if better and (limit is None or self.monitor.better(value, limit, self.min_delta)):
            self.since = 0
        elif self.looks > self.warmup:
            self.since += 1
        limit = self.threshold
        if limit is not None and (value <= limit if self.monitor.mode == "min" else value >= limit):
            self.reached = True
        if reason := self.ended():
            trainer.stop(reason)

    def on_after_fit(self, trainer: Any) -> None:
        """Put the best weights into the model, unless the run is only interrupted and will be gone on with."""
        if not self._weights or trainer.progress.stage or interrupted(trainer):
            return
        for name, handle in trainer.models.items():
            handle.trained_module.load_state_dict(self._weights["models"][name])
        if "loss" in self._weights:
            trainer.loss.function.load_state_dict(self._weights["loss"])
        for key, callback in keyed(trainer.callbacks).items():
            if key in self._weights["averages"]:
                callback.load_state_dict(self._weights["averages"][key])
        self._restored = True


def _holds(trainer: Any, weights: StateDict) -> bool:
    """Whether the models have exactly these weights."""
    for name, handle in trainer.models.items():
        # Buffers say nothing: a model may count, or keep, what it is called with in an evaluation.
        own, kept = dict(handle.trained_module.named_parameters()), weights["models"].get(name, {})
        if not all(_same(parameter, kept[key]) for key, parameter in own.items() if key in kept):
            return False
    return True


def _same(own: torch.Tensor, kept: torch.Tensor) -> bool:
    if own.shape != kept.shape or own.dtype != kept.dtype:
        return False
    here = own.detach().cpu()
    # NaN is the same as itself here.
    return bool(((here == kept) | ((here != here) & (kept != kept))).all())


def _weights_of(trainer: Any) -> StateDict:
    """Copies of all that evaluation looks at, on the CPU: models, a loss that is a module, averages."""
    callbacks = keyed(trainer.callbacks).items()
    found: StateDict = {
        "models": {name: handle.trained_module.state_dict() for name, handle in trainer.models.items()},
        "averages": {key: callback.state_dict() for key, callback in callbacks if hasattr(callback, "look_at")},
    }
    if isinstance(trainer.loss.function, torch.nn.Module):
        found["loss"] = trainer.loss.function.state_dict()
    copied: StateDict = _copied(found)
    return copied


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    return {name: _copied(item) for name, item in value.items()} if isinstance(value, Mapping) else deepcopy(value)
