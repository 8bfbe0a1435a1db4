"""`LRFinder`: which learning rate to train with, found by a short training that leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch.optim.lr_scheduler import OneCycleLR

from ..checks import check_count
from ..errors import ArgumentError, ArgumentTypeError, StepError, a_kind, refuse_unknown
from ..idle import SAID
from ..probe import as_request, data_of, rest, set_rate, train, untouched
from .base import Callback
from .finder import Finder
from .lr_finding import Average, LRFinding, finding_of

#: After so many batches without an update of the weights a sweep gives up.
_PATIENCE = 1000


class Sweep(Callback):
    """Raise the learning rate with every update, and note the losses: one run of it is a sweep.

    Of a step with several losses and optimizers it is the loss of the first of those swept that counts: the one that
    was back-propagated last before its update was asked for, in every batch of an accumulation window. A batch without
    that is none: the rate stays until it comes.

    Args:
        options: what is tried.
        optimizers: whose rates are raised.
    """

    part_of_training = True

    def __init__(self, options: SweepOptions, optimizers: Sequence[Any]) -> None:
        super().__init__(priority=math.inf)  # the last to set the rates
        self.options = options
        self.watched = optimizers[0] if optimizers else None
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.ratios = _ratios(optimizers)
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.stopped = f"up to {options.high:g}"
        self._average, self._first, self._best = Average(options.smoothing), math.nan, math.inf
        self._rate, self._step, self._fruitless = 0.0, -1, 0
        #: Since the rate was set: the losses, and whether the watched optimizer has made its update.
        self._window: list[Any] = []
        self._made = False
        #: Of the batch in progress: the losses back-propagated, that of the watched optimizer, and whether the updates
        #: asked for are its own, even where a window makes them later.
        self._heard: list[Any] = []
        self._own: Any = None
        self._asked: set[bool] = set()

    def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
        """Set the next rate, once for all batches of an update."""
        self._heard, self._own, self._asked = [], None, set()
        if trainer.progress.step == self._step:  # within an accumulation window
            return
        self._look(trainer)
        self._step, self._rate = trainer.progress.step, self.options.rate(len(self.lrs))
        self._window, self._made = [], False
        for group, ratio in zip(self.groups, self.ratios, strict=True):
            set_rate(group, self._rate * ratio)

    def on_before_backward(self, trainer: Any, loss: Any) -> None:
        self._heard.append(loss)

    def on_before_optimize(self, trainer: Any, optimize_index: Any) -> None:
        self._made = self._made or self._is_watched(trainer, optimize_index)

    def _is_watched(self, trainer: Any, index: Any) -> bool:
        return index is None or trainer.opt[index] is self.watched

    def listening(self, trainer: Any) -> Callable[..., None]:
        """Return ``trainer.optimize``, telling the loss that an update is asked for by from those of other optimizers.

        Within an accumulation window no hook is called, and where it closes it is too late: then all are updated.
        """
        optimize = trainer.optimize

        def asked(index: Any = None, *args: Any, **kwargs: Any) -> None:
            window = trainer.execution.window
            if window is None or not window.closing:  # else a pass is over, and no batch asks
                watched = self._is_watched(trainer, index)
                self._asked.add(watched)
                if watched and self._heard:
                    self._own = self._heard[-1]
            optimize(index, *args, **kwargs)

        return asked

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        """Note the loss, and refuse steps of which no loss, or no update, ever comes."""
        loss, others = self._loss_of_batch(trainer)
        if loss is None and not others:
            raise StepError("the step gives no loss to sweep over: use trainer.loss(...), or trainer.backward(loss)")
        if loss is not None:
            self._window.append(loss)
        self._fruitless += 1
        if self._fruitless >= max(_PATIENCE, 2 * trainer.accumulate):
            names = [repr(name) for name, one in trainer.opt.items() if one is self.watched and len(trainer.opt) > 1]
            of = f" of optimizer {names[0]}" if names else ""
            raise StepError(f"after {self._fruitless} batches no weight{of} has been updated: does the step optimize?")
        self._look(trainer)

    def _loss_of_batch(self, trainer: Any) -> tuple[Any, bool]:
        """The loss that counts, and whether it is none because the batch was for other optimizers."""
        if len(trainer.opt) > 1 and self._asked:
            return self._own, True not in self._asked
        if len(trainer.opt) > 1 and len(self._heard) > 1 and trainer.execution.window is not None:
            return None, True  # nobody asks for an update yet, which would tell whose each of them is
        loss = trainer.current_task.figures.loss
        return (self._heard[-1] if self._heard else None) if loss is None else loss[0], False

    def on_after_train_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
        self._look(trainer)  # the end of a pass has closed a window that was not full

    def _look(self, trainer: Any) -> None:
        """Note the loss where an update has been made since the rate was set."""
        made = self._made or len(trainer.opt) == 1
        if made and self._window and trainer.progress.step > self._step:
            window, self._window, self._fruitless = self._window, [], 0
            self._take(trainer, float(torch.stack([one.detach().float().mean() for one in window]).mean()))

    def _take(self, trainer: Any, loss: float) -> None:
        if len(self.lrs) == self.options.steps:  # it has been asked to stop
            return None
        if not math.isfinite(loss):
            self.stopped = f"at {self._rate:.2e} the loss was {loss}"
            return trainer.stop(self.stopped)  # type: ignore[no-any-return]
        self.lrs.append(self._rate)
        self.losses.append(loss)
        smoothed = self._average.add(loss)
        if len(self.losses) == 1:
            self._first = smoothed
        elif smoothed > self._limit():
            self.stopped = f"at {self._rate:.2e} the loss had diverged"
            trainer.stop(self.stopped)
        elif len(self.lrs) == self.options.steps:
            trainer.stop(self.stopped)
        self._best = min(self._best, smoothed)

    def _limit(self) -> float:
        """The loss from which on it has diverged; of one that may be negative, by how far it had fallen."""
        if self._best > 0:
            return self.options.diverge * self._best
        return self._first + (self.options.diverge - 1) * max(self._first - self._best, abs(self._first))


def _ratios(optimizers: Sequence[Any]) -> list[float]:
    """What the rates that the groups' schedules start from or rise to are to that of the first that is trained."""
    peaks = [peak for optimizer in optimizers for peak in _peaks(optimizer)]
    first = _first(peaks)
    return [rate / first if first else 1.0 for rate in peaks]


def _first(peaks: Sequence[float]) -> float:
    """That of the first group that is trained; 0 where none is."""
    return next((rate for rate in peaks if rate > 0), 0.0)


def _peaks(optimizer: Any) -> list[float]:
    """The groups' rates as they were before any schedule, or what a schedule that rises from there rises to."""
    groups, schedulers = optimizer.param_groups, _schedulers(optimizer.scheduler)
    rises = [getattr(scheduler, "max_lrs", None) for scheduler in schedulers]  # CyclicLR
    if any(isinstance(scheduler, OneCycleLR) for scheduler in schedulers):  # of a former one it means nothing
        rises.append([group.get("max_lr", 0.0) for group in groups])
    peaks = [float(group.get("initial_lr", group["lr"])) for group in groups]
    for rise in rises:
        if isinstance(rise, list) and len(rise) == len(peaks):
            peaks = [max(peak, float(top)) for peak, top in zip(peaks, rise, strict=True)]
    return peaks


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep tries: `steps` rates from `low` to `high`, each so many times the one before it.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed; the message names it.

    Example:
        >>> [round(SweepOptions(low=1e-3, high=1.0, steps=4).rate(i), 6) for i in range(4)]
        [0.001, 0.01, 0.1, 1.0]
    """

    low: float = 1e-7
    high: float = 10.0
    steps: int = 100
    smoothing: float = 0.9
    diverge: float = 4.0
    #: Index or name of the optimizer whose rates are swept; None for all.
    opt: Any = None
    names: tuple[str, str, str, str] = ("low", "high", "steps", "opt")

    def __post_init__(self) -> None:
        low, high, steps, _ = self.names
        numbers = {low: self.low, high: self.high, "smoothing": self.smoothing, "diverge": self.diverge}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ArgumentTypeError(f"{name}={value!r}: a number is needed, not {a_kind(value)}")
        if not 0 < self.low < self.high:
            raise ArgumentError(f"{low}={self.low}, {high}={self.high}: learning rates 0 < {low} < {high} are needed")
        check_count(steps, self.steps, 2)
        if not 0 <= self.smoothing < 1:
            raise ArgumentError(f"smoothing={self.smoothing}: 0 <= smoothing < 1 is needed")
        if not self.diverge > 1:
            raise ArgumentError(f"diverge={self.diverge}: a number above 1 is needed, times the best loss")

    def rate(self, index: int) -> float:
        """The learning rate of the update with this number."""
        return float(self.low * (self.high / self.low) ** (index / (self.steps - 1)))

    def optimizers(self, trainer: Any) -> list[Any]:
        """Those whose rates are swept."""
        if self.opt is None:
            return list(trainer.opt)
        known = range(len(trainer.opt)) if isinstance(self.opt, int) else trainer.opt.names
        if isinstance(self.opt, bool) or self.opt not in known:
            names = ", ".join(map(repr, trainer.opt.names))
            raise ArgumentError(
                f"{self.names[3]}={self.opt!r}: one of the optimizers is needed, by index or name: {names}"
            )
        return [trainer.opt[self.opt]]


def sweep(
    trainer: Any, train_dl: Any, options: SweepOptions, step: Any = None, batch_size: Any = None, average: float = 0.9
) -> LRFinding:
    """Sweep over learning rates without a trace; see `Trainer.find_lr`.

    Args:
        trainer: the trainer.
        train_dl: batches, or a task.
        options: what is tried.
        step: as in `Trainer.fit`.
        batch_size: as in `Trainer.fit`.
        average: what the average that suggestions go by keeps of itself.
    """
    found = Sweep(options, options.optimizers(trainer))
    with untouched(trainer, train_dl, data_of(train_dl)):
        rest(trainer)
        # Figures are not wanted: they cost, and one that is not finite would be an error.
        trainer.callbacks.append(found)
        trainer.metrics, trainer.check_finite = [], False
        request = as_request("train", train_dl, metrics=False)
        trainer.said.add(SAID)  # a step without an update is told of here
        # Of several optimizers the others' updates count, too: it stops itself when it has tried all.
        updates = options.steps * (_PATIENCE if len(trainer.opt) > 1 else 1)
        with _replaced(trainer, "optimize", found.listening(trainer)):
            train(trainer, request, updates, step=step, batch_size=batch_size)
    return finding_of(found.lrs, found.losses, average, found.stopped)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object an attribute of its own for a while."""
    own = vars(owner)
    before = {name: own[name]} if name in own else {}
    own[name] = value
    try:
        yield
    finally:
        del own[name]
        own.update(before)


class LRFinder(Finder):
    """Find a learning rate when a run begins, and show it; with ``apply=True`` train with it.

    It does what ``trainer.find_lr`` does, with the first training task of the run, and leaves no trace. A run that goes
    on from a state is left as it is.

    Args:
        low: the lowest rate.
        high: the highest.
        steps: how many are tried.
        smoothing: what the running average of the losses keeps of itself.
        diverge: the sweep ends where that is so many times the best.
        opt: index or name of the optimizer whose rates are swept; None for all. Where a step has several losses, the
            one looked at is that of the first optimizer swept.
        apply: take the suggestion: all groups' rates, and those that their schedulers start from, rise to and fall to,
            are multiplied by one number, so that the first has it; of a schedule that rises from where it starts
            (OneCycleLR, CyclicLR) at its peak. Where nothing is suggested they stay as they are.
        priority: its place among the callbacks.

    Attributes:
        finding: the `LRFinding`, when a run has begun.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> from deepepochs_like import LRFinder, Trainer
        >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> finder = LRFinder(steps=20, apply=True)
        >>> trainer = Trainer(net, torch.nn.functional.mse_loss, epochs=1, verbose=0, callbacks=[finder])
        >>> _ = trainer.fit(data)
        >>> len(finder.finding.lrs) <= 20, trainer.opt[0].get_current_lr() == finder.finding.suggestion
        (True, True)
    """

    finding: LRFinding | None

    def __init__(
        self,
        low: float = 1e-7,
        high: float = 10.0,
        steps: int = 100,
        *,
        smoothing: float = 0.9,
        diverge: float = 4.0,
        opt: Any = None,
        apply: bool = False,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("LRFinder", unknown, LRFinder.__init__)
        super().__init__(priority)
        self.options, self.apply = SweepOptions(low, high, steps, smoothing, diverge, opt), apply

    def find(self, trainer: Any) -> LRFinding:
        return _sweep_of_run(trainer, self.options, self.options.smoothing)

    def look(self, trainer: Any) -> None:
        super().look(trainer)
        assert self.finding is not None
        if self.apply and self.finding.suggestion is not None:
            take_rate(self.options.optimizers(trainer), self.finding.suggestion)


class LRFindCallback(Finder):
    """Sweep over learning rates instead of training: `fit` returns when it is done, with everything as it was.

    The rate rises exponentially until the loss is ten times the best; the curve is shown in the terminal, and
    `finding.plot(path)` draws it. See `LRFinder` and ``trainer.find_lr``.

    Args:
        max_batch: how many rates are tried.
        min_lr: the lowest.
        max_lr: the highest.
        opt_id: index or name of the optimizer whose rates are swept; None for all.

    Attributes:
        lrs: the learning rates that were tried.
        losses: the loss at each.
        finding: the `LRFinding`, with suggestions.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> from deepepochs_like import LRFindCallback, Trainer
        >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> find = LRFindCallback(max_batch=20)
        >>> _ = Trainer(net, torch.nn.functional.mse_loss, verbose=0, callbacks=[find]).fit(data)
        >>> len(find.lrs) == len(find.losses) > 10
        True
    """

    finding: LRFinding | None

    def __init__(self, max_batch: int = 100, min_lr: float = 1e-6, max_lr: float = 5, opt_id: Any = None) -> None:
        super().__init__()
        names = ("min_lr", "max_lr", "max_batch", "opt_id")
        self.options = SweepOptions(min_lr, max_lr, max_batch, 0.0, 10.0, opt_id, names)
        self.lrs: list[float] = []
        self.losses: list[float] = []

    def find(self, trainer: Any) -> LRFinding:
        finding = _sweep_of_run(trainer, self.options, 0.9)
        self.lrs, self.losses = finding.lrs, finding.losses
        return finding

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self.look(trainer)  # of a run that goes on from a state, too: there is no training that it could disturb
        trainer.stop("LRFindCallback: the learning rates have been tried")


def _sweep_of_run(trainer: Any, options: SweepOptions, average: float) -> LRFinding:
    """Sweep over the data of the run that is about to begin."""
    task = trainer.stage_tasks["train"][0]
    return sweep(trainer, task, options, _given_step(task), None, average)


def _given_step(task: Any) -> Any:
    """The function that `fit` was given as its step; None where there is none."""
    step = task._bound["train"].step
    return step.func if isinstance(step, partial) else None


def take_rate(optimizers: Sequence[Any], rate: float) -> None:
    """Multiply all rates of optimizers, and those of their schedulers, so that the first's is `rate`, or its peak."""
    first = _first([peak for optimizer in optimizers for peak in _peaks(optimizer)])

    def scaled(value: Any) -> Any:
        return value * rate / first if first else rate

    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for name in ("initial_lr", "max_lr", "min_lr", "swa_lr"):
                if isinstance(group.get(name), (int, float, torch.Tensor)):
                    group[name] = scaled(group[name])
            set_rate(group, float(scaled(group["lr"])))
        for scheduler in _schedulers(optimizer.scheduler):
            for name in ("base_lrs", "max_lrs", "_last_lr"):
                if isinstance(former := getattr(scheduler, name, None), list):
                    setattr(scheduler, name, [float(scaled(one)) for one in former])
            if first:
                _scale_floors(scheduler, scaled)


def _scale_floors(scheduler: Any, scaled: Any) -> None:
    """Scale what CosineAnnealingLR and ReduceLROnPlateau fall to, or a lower rate would be raised to it."""
    for name in ("eta_min", "default_min_lr"):
        if isinstance(floor := getattr(scheduler, name, None), (int, float)):
            setattr(scheduler, name, scaled(floor))
    if isinstance(floors := getattr(scheduler, "min_lrs", None), list):
        scheduler.min_lrs = [scaled(one) for one in floors]


def _schedulers(scheduler: Any) -> list[Any]:
    """A scheduler, and those that it is made of."""
    if scheduler is None:
        return []
    return [scheduler, *(one for part in getattr(scheduler, "_schedulers", ()) for one in _schedulers(part))]
