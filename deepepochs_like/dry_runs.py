"""Runs that are only rehearsed: a few batches through everything, and one batch until it is known by heart."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import storage
from .callbacks.base import Callback
from .callbacks.default import DefaultCallback
from .callbacks.fine_tune import FineTune
from .checks import check_count
from .errors import ArgumentError, EngineError, LoaderError, StepError
from .idle import FIX, SAID, fingerprints, moved
from .probe import (
    First,
    as_request,
    data_of,
    first_batches,
    on_data,
    raise_interruption,
    rest,
    set_rate,
    train,
    untouched,
)
from .state import parameters
from .tensors import map_tensors
from .utils.textchart import line_chart

#: What of its first value a loss has to fall to for a batch to be learned, and what it has to fall by to count at all.
LEARNED, LITTLE = 0.1, 0.1
#: After how many batches without an update nothing is going to be learned, as the steps are what is counted.
ENDLESS = 500


@dataclass(frozen=True)
class DevRun:
    """What a rehearsal of a run came to; printed it says what worked.

    Attributes:
        train: the figures of training, by name.
        val: those of validation; empty without.
        batches: how many batches each stage ran.
        updates: updates of the weights.
        seconds: how long it took.
        ran: the callbacks that took part, by class name.
        stayed_out: those that did not, as they would write files or show something.
        unsaved: why a checkpoint of the run could not be written; empty where it could.
        changed: whether the weights have changed although no update was counted: by an optimizer that is a step's own.

    Example:
        >>> print(DevRun({'loss': 0.5}, {}, {'train': 2}, 2, 0.1, ['GradClip'], ['Checkpoint']))
        training works: 2 batches, 2 updates of the weights; loss 0.5
        callbacks that took part: GradClip; that stayed out: Checkpoint
        a checkpoint could be saved
        nothing has been changed (0.1 s)
    """

    train: dict[str, Any]
    val: dict[str, Any]
    batches: dict[str, int]
    updates: int
    seconds: float
    ran: list[str]
    stayed_out: list[str]
    unsaved: str = ""
    changed: bool = False

    def __str__(self) -> str:
        counted = {stage: f"{n} batch{'es' * (n != 1)}" for stage, n in self.batches.items()}
        updates = f"{self.updates} update{'s' * (self.updates != 1)} of the weights"
        lines = [f"training works: {counted.get('train', 'no batch')}, {updates}; {_figures(self.train)}"]
        if "val" in self.batches:
            lines.append(f"validation works: {counted['val']}; {_figures(self.val)}")
        stayed = f"; that stayed out: {', '.join(self.stayed_out)}" if self.stayed_out else ""
        lines.append(f"callbacks that took part: {', '.join(self.ran) or 'none'}{stayed}")
        lines.append(f"NO checkpoint could be saved: {self.unsaved}" if self.unsaved else "a checkpoint could be saved")
        lines += [f"ATTENTION: {warning}" for warning in self.warnings()]
        return "\n".join([*lines, f"nothing has been changed ({self.seconds:.1f} s)"])

    def warnings(self) -> list[str]:
        """What worked, but cannot be meant."""
        found = [f"train {name} is {value}" for name, value in self.train.items() if _is_bad(value)]
        found += [f"val {name} is {value}" for name, value in self.val.items() if _is_bad(value)]
        trained = self.updates or self.changed
        return found if trained else [*found, f"no weight was updated: does the step optimize? {FIX}"]


def _is_bad(value: Any) -> bool:
    try:
        return not math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _figures(figures: dict[str, Any]) -> str:
    scalars = {name: value for name, value in figures.items() if getattr(value, "ndim", 0) == 0}
    return ", ".join(f"{name} {float(value):.4g}" for name, value in scalars.items()) or "no figures"


class Count(Callback):
    """Count the batches of each stage."""

    part_of_training = True

    def __init__(self) -> None:
        super().__init__()
        self.batches: dict[str, int] = {}

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        stage = trainer.current_task.stage
        self.batches[stage] = self.batches.get(stage, 0) + 1

    on_after_val_batch = on_after_train_batch


def rehearsing(callbacks: list[Any]) -> list[Any]:
    """The callbacks that take part in a rehearsal: all but those that write files, show things, or try things out."""
    out = ("keeps_files", "keeps_checkpoints", "log_figures", "tries_out")
    return [c for c in callbacks if not isinstance(c, DefaultCallback) and not any(getattr(c, n, False) for n in out)]


def fast_dev_run(trainer: Any, train_dl: Any, val_dl: Any = None, batches: int = 2, step: Any = None) -> DevRun:
    """Rehearse a run with a few batches, without a trace; see `Trainer.fast_dev_run`."""
    check_count("batches", batches)
    given, began = list(trainer.callbacks), time.perf_counter()
    part, count = rehearsing(given), Count()
    stages = {"train": train_dl} if val_dl is None else {"train": train_dl, "val": val_dl}
    seen = [one for loader in stages.values() for one in (loader, data_of(loader))]
    with untouched(trainer, *seen, callbacks=part):
        trainer.callbacks.append(count)
        options: dict[str, Any] = {}
        for stage, loader in stages.items():
            options |= as_request(stage, on_data(loader, first_batches(data_of(loader), batches)))
        start, before = trainer.progress.step, fingerprints(trainer)
        trainer.said.add(SAID)  # the report says it
        history = trainer.fit(**options, epochs=1, step=step)
        raise_interruption(trainer)
        figures = {stage: {name: values[-1] for name, values in history.get(stage, {}).items()} for stage in stages}
        updates, unsaved = trainer.progress.step - start, _unsaved(trainer)
        changed = not updates and moved(trainer, before)
    ran, out = ([type(c).__name__ for c in given if any(c is p for p in part) is here] for here in (True, False))
    seconds = time.perf_counter() - began
    return DevRun(figures["train"], figures.get("val", {}), count.batches, updates, seconds, ran, out, unsaved, changed)


def _unsaved(trainer: Any) -> str:
    """Why the state could not be saved; empty where it could."""
    try:
        storage.storable(trainer.state_dict(), "the state")
    except EngineError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Overfit:
    """What came of learning one batch by heart; printed it says plainly whether the model can.

    Attributes:
        losses: the loss before each update.
        threshold: the share of the first loss that the last has to fall to.
        stopped: why it ended early; empty where it did not.
        frozen: what of the model was not trained, in words; empty where all of it was.

    Example:
        >>> print(Overfit([2.0, 0.5, 0.1]))
        the model can learn a batch: in 3 steps the loss fell from 2 to 0.1 (5 % of it)
    """

    losses: list[float]
    threshold: float = LEARNED
    stopped: str = ""
    frozen: str = ""

    @property
    def first(self) -> float:
        """The loss at the beginning."""
        return self.losses[0] if self.losses else math.nan

    @property
    def last(self) -> float:
        """The loss at the end: the median of the last steps, as dropout makes single ones uncertain."""
        if not self.losses:
            return math.nan
        tail = sorted(self.losses[-max(1, min(5, len(self.losses) // 10)) :])
        return tail[len(tail) // 2]

    @property
    def learned(self) -> bool:
        """Whether the batch was learned: the loss fell to the threshold, and did not become NaN."""
        return not self.stopped and self.last <= self.threshold * self.first

    def chart(self, width: int | None = None, height: int = 8) -> str:
        """Draw the losses with characters, at most `width` columns wide."""
        return line_chart({"loss": self.losses}, title="loss of one batch over steps", width=width, height=height)

    def __str__(self) -> str:
        if not self.losses:
            return f"the model CANNOT learn a batch: {self.stopped}"
        fell = f"in {len(self.losses)} steps the loss "
        share = f" ({self.last / self.first:.0%} of it)".replace("%", " %") if self.first > 0 else ""
        change = f"{'fell' if self.last < self.first else 'went'} from {self.first:.4g} to {self.last:.4g}{share}"
        if self.learned:
            return f"the model can learn a batch: {fell}{change}"
        frozen = f". {self.frozen}" if self.frozen else ""
        if self.stopped:
            return f"the model CANNOT learn a batch: {self.stopped}; a lower learning rate may help ({fell}{change})"
        if self.last <= (1 - LITTLE) * self.first:
            return (
                f"the model learns a batch, but not by heart: {fell}{change}. More steps or another learning rate may "
                f"help; a loss that cannot reach 0 stays above{frozen}"
            )
        return (
            f"the model CANNOT learn a batch: {fell}{change}. Look at the learning rate (trainer.find_lr), at whether "
            f"gradients reach the weights, and at whether targets and loss fit the output{frozen}"
        )


class Again:
    """One batch, again and again, each time a copy, as steps may change it."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Any]:
        yield map_tensors(self.batch, lambda tensor: tensor.clone())

    def __len__(self) -> int:
        return 1


class Losses(Callback):
    """Note the loss of every batch, and stop where it is not finite."""

    part_of_training = True

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.stopped = ""
        self._backward: Any = None
        self._start = 0

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self._start = trainer.progress.step

    def on_before_backward(self, trainer: Any, loss: Any) -> None:
        self._backward = loss

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        loss = trainer.current_task.figures.loss
        value = self._backward if loss is None else loss[0]
        if value is None:
            raise ArgumentError("the step gives no loss: use trainer.loss(...), or trainer.backward(loss)")
        number = float(value)
        if math.isfinite(number):
            self.losses.append(number)
        else:
            self.stopped = f"in step {len(self.losses) + 1} the loss was {number}"
            trainer.stop(self.stopped)
        if trainer.progress.step == self._start and len(self.losses) >= ENDLESS:
            raise StepError(f"no weight was updated in {ENDLESS} batches, so that this would never end; {FIX}")


def overfit_batch(
    trainer: Any, train_dl: Any, steps: int = 100, lr: float | None = None, threshold: float = LEARNED, step: Any = None
) -> Overfit:
    """Train on the first batch alone, without a trace; see `Trainer.overfit_batch`."""
    check_count("steps", steps)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold < 1:
        raise ArgumentError(f"threshold={threshold!r}: a number between 0 and 1 is needed, of the first loss")
    if lr is not None and (isinstance(lr, bool) or not isinstance(lr, (int, float)) or not lr > 0):
        raise ArgumentError(f"lr={lr!r}: a number above 0 is needed")
    losses = Losses()
    with untouched(trainer, train_dl, data_of(train_dl)):
        batch = list(First(data_of(train_dl), 1))
        if not batch:
            raise LoaderError("train_dl is empty: it yields no batch")
        rest(trainer)
        for group in trainer.opt.param_groups:
            full = max(float(group.get(name, 0.0) or 0.0) for name in ("lr", "initial_lr", "max_lr"))
            set_rate(group, full if lr is None else lr)
        trainer.callbacks.append(losses)
        trainer.metrics, trainer.check_finite = [], False
        request = as_request("train", on_data(train_dl, Again(batch[0])), metrics=False)
        epoch = trainer.progress.epoch
        train(trainer, request, steps, step=step)
        frozen = _frozen(trainer, epoch)
    return Overfit(losses.losses, float(threshold), losses.stopped, frozen)


def _frozen(trainer: Any, epoch: int, most: int = 6) -> str:
    """Which parameters are not trained as things stand, and who sees to that; empty where all are."""
    named = parameters(trainer)
    several = len(trainer.models) > 1
    lost = [name for name, p in named.items() if not p.requires_grad]
    if not lost:
        return ""
    shown = [name if several else name.removeprefix("model.") for name in lost]
    more = f" and {len(lost) - most} more" if len(lost) > most else ""
    share = 100 * sum(named[name].numel() for name in lost) / max(1, sum(p.numel() for p in named.values()))
    tuner = next((type(c).__name__ for c in trainer.callbacks if isinstance(c, FineTune)), None)
    who = f" by {tuner}'s schedule for epoch {epoch}" if tuner else ""
    return (
        f"{len(lost)} of {len(named)} parameters ({share:.0f} % of the numbers) are frozen{who}: "
        f"{', '.join(shown[:most])}{more}"
    )
