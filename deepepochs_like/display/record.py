"""What the console knows of a run: where it is, how fast it goes, and the best it has come to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.nn.parameter import is_lazy

from .words import Words, direction, pace, plural, rough, scalars


@dataclass
class Row:
    """A bar and what stands around it; `fraction` is None where nobody knows the end."""

    stage: str
    label: str
    count: str
    fraction: float | None
    pace: str = ""
    left: str = ""


class Best:
    """The best of every figure whose name says what is better, and the epoch (counted from 0) it is of."""

    def __init__(self, history: Any) -> None:
        self.stages: dict[str, dict[str, tuple[float, int]]] = {}
        for stage, figures in history.items():
            for name, values in figures.items():
                # A figure that some epochs lack is aligned at the end, as in the history's own rows.
                for epoch, value in zip(history.epochs[stage][-len(values) :], values, strict=True):
                    self.take(stage, epoch, {name: value})

    def take(self, stage: str, epoch: int, figures: Mapping[str, Any]) -> set[str]:
        """Take in an epoch's figures; return the names of those that are the best so far."""
        best, names = self.stages.setdefault(stage, {}), set()
        for name, value in scalars(figures).items():
            former = best.get(name)
            if math.isnan(value) or not direction(name) or (former is not None and not _better(name, value, former[0])):
                continue
            best[name] = (value, epoch)
            names.add(name)
        return names

    @property
    def judge(self) -> str:
        """The stage that counts: validation, where there has been one."""
        return "val" if self.stages.get("val") else "train"

    def of(self, name: str) -> tuple[float, int] | None:
        """A figure's best value and its epoch: in validation, where it is computed there."""
        return self.stages.get(self.judge, {}).get(name) or self.stages.get("train", {}).get(name)


def _better(name: str, value: float, former: float) -> bool:
    return value < former if direction(name) < 0 else value > former


@dataclass
class Pass:
    """One task's way through its loader."""

    stage: str
    index: int
    label: str
    task: Any
    figures: Any
    began: float
    first: int


class Record:
    """Where a run is, and how long it will take.

    Args:
        trainer: whose run it is.
        last: the epoch a fit goes to, as far as that is known; None where it is no fit.
        now: the time at which it begins.
    """

    def __init__(self, trainer: Any, last: int | None, now: float) -> None:
        self.fitting, self.last = last is not None, last or 0
        self.first: int = trainer.progress.epoch
        self.first_step: int = trainer.progress.step
        self.began = self.epoch_began = now
        self.epoch: int = -1
        self.best = Best({})
        #: The latest figures by stage.
        self.figures: dict[str, dict[str, float]] = {}
        self._passes: dict[str, Pass] = {}
        self._trained: Any = None
        self._part: float | None = 0.0  # of the epoch in progress that is done, where that can be told
        self._closed = self._looked = False
        #: Epochs that came to their end here; what was done of the run before its first batch here (it is resumed).
        self.ended, self._before = 0, 0.0
        self._counts: dict[tuple[str, int], int] = {}

    def begin(self, trainer: Any, task: Any, now: float) -> None:
        """A task begins a pass, in this run or in one inside it."""
        progress, tasks, resumed = trainer.progress, trainer.stage_tasks[task.stage], False
        if trainer.running == "fit":
            self._finish_pass()
            self._closed = self._looked = False
            self._trained = task if task.stage == "train" else self._trained
            if task.stage == "val" and "train" in self.figures:  # by now they are those of all batches
                self.figures["train"] = scalars(trainer.train_metrics)
            if progress.epoch != self.epoch:
                if self.epoch < 0:  # by now a resumed run has its history back
                    self.best, resumed = Best(trainer.history), True
                self.epoch, self.epoch_began = progress.epoch, now
        label = task.stage if len(tasks) == 1 else f"{task.stage} {task.name or f'{progress.task + 1}/{len(tasks)}'}"
        self._passes[trainer.running] = Pass(task.stage, progress.task, label, task, task.figures, now, progress.batch)
        if resumed:
            done = (self.epoch - self.first) / max(self.last - self.first, 1)
            self._before = done if (part := self._fraction(trainer)) is None else part

    def look(self, trainer: Any) -> None:
        """Read the figures of the epoch in progress back from the device: those that cost nothing to compute."""
        if self.fitting and trainer.running != "fit":  # a run inside this one is none of its figures
            return
        figures: dict[str, Any] = {}
        for results in [*trainer.stage_results, trainer.current_task.figures.glance()]:
            figures.update(results)
        self.figures[trainer.current_task.stage], self._looked = scalars(figures), True

    def forget_unseen(self) -> None:
        """Forget the figures of the stage in progress where they are still those of the last epoch."""
        if not (self._looked or self._closed) and "fit" in self._passes:
            self.figures.pop(self._passes["fit"].stage, None)

    def end_epoch(self, train: Mapping[str, Any], val: Mapping[str, Any], epoch: int) -> dict[str, set[str]]:
        """An epoch is over; return, by stage, the names of the figures that are the best so far."""
        self._finish_pass()
        self._part, self._closed, self.ended = 1.0, True, self.ended + 1
        self.figures |= {stage: scalars(new) for stage, new in (("train", train), ("val", val)) if new}
        return {stage: self.best.take(stage, epoch, new) for stage, new in (("train", train), ("val", val)) if new}

    def _finish_pass(self) -> None:
        done = self._passes.get("fit")
        if done is not None:
            self._counts[done.stage, done.index] = done.figures.batches

    def epoch_name(self, epoch: int) -> str:
        """How an epoch is called: ``3/50``, or ``3`` where the end is not known."""
        known = epoch < self.last and not math.isfinite(self._last_step)
        return f"{epoch + 1:>{len(str(self.last))}}/{self.last}" if known else str(epoch + 1)

    def pass_row(self, trainer: Any, now: float) -> Row | None:
        """The pass in progress, where one has begun."""
        here = self._passes.get(trainer.running)
        if here is None:
            return None
        batch: int = trainer.progress.batch
        if self._closed and trainer.running == "fit":
            batch = here.figures.batches
        total, new, seconds = self._total(trainer, here, batch), batch - here.first, now - here.began
        left = rough(seconds / new * (total - batch)) if total and new > 0 else ""
        return Row(
            here.stage,
            here.label,
            f"{batch}/{total}" if total else f"{batch}",
            min(batch / total, 1) if total else None,
            pace(new, seconds),
            f"{left} left" if left else "",
        )

    def run_row(self, trainer: Any, now: float) -> Row:
        """The run as a whole."""
        fraction, seconds = self._fraction(trainer), now - self.began
        here = 0.0 if fraction is None else fraction - self._before
        left = f"{rough(seconds / here * (1 - fraction))} left" if fraction and here > 0 and seconds > 1 else ""
        label, count = "epoch", self.epoch_name(max(self.epoch, self.first)).strip()
        if math.isfinite(last := self._last_step):
            label, count = "step", f"{trainer.progress.step}/{last:.0f}"
        return Row("", label, count, fraction, rough(seconds), left)

    @property
    def _last_step(self) -> float:
        """The update the run ends at, where it is one round of updates and its epochs are not known beforehand."""
        return _limit(self._trained) if self._trained is not None and self.last - self.first <= 1 else math.inf

    def _fraction(self, trainer: Any) -> float | None:
        """How much of the run is done: of its updates where those are what it is measured in, else of its epochs."""
        if math.isfinite(last := self._last_step):
            step: int = trainer.progress.step
            return min((step - self.first_step) / max(last - self.first_step, 1), 1.0)
        if not self.first <= self.epoch < self.last or (part := self._epoch_fraction(trainer)) is None:
            return None
        return (self.epoch - self.first + part) / (self.last - self.first)

    def _epoch_fraction(self, trainer: Any) -> float | None:
        """How much of the epoch's batches is done, where it can be told; a run inside this one leaves it as it was."""
        here = self._passes.get("fit")
        if here is None or self._closed or trainer.running != "fit":
            return self._part
        done = whole = 0
        for stage in ("train", "val"):
            for index, task in enumerate(trainer.stage_tasks.get(stage, ())):
                total = self._expected(stage, index, task)
                if total is None:
                    self._part = None
                    return None
                whole += total
                if (stage, index) < (here.stage, here.index):  # in this order train comes before val
                    done += total
                elif (stage, index) == (here.stage, here.index):
                    done += min(trainer.progress.batch, total)
        self._part = done / whole if whole else 0.0
        return self._part

    def _expected(self, stage: str, index: int, task: Any) -> int | None:
        """Batches of a pass: as the loader says, or as many as last time where it does not, or was begun again."""
        length: int | None = task.source_of(stage).length
        known = self._counts.get((stage, index))
        again = known is not None and length is not None and known > length and math.isfinite(_limit(task))
        return known if length is None or again else length

    def _total(self, trainer: Any, here: Pass, batch: int) -> int | None:
        """Batches of the pass in progress, where they can be told."""
        if trainer.running == "fit":
            total = self._expected(here.stage, here.index, here.task)
        else:
            total = here.task.source_of(here.stage).length
        if here.stage == "train" and math.isfinite(limit := _limit(here.task)):
            ahead = int(limit - trainer.progress.step) * trainer.accumulate + batch
            total = ahead if total is None or batch > total else min(total, ahead)
        return total if total is not None and batch <= total else None


def _limit(task: Any) -> float:
    """The update at which a task's training ends."""
    return float(getattr(task, "step_limit", math.inf))


def describe_run(trainer: Any, words: Words) -> str:
    """Describe model, device and data in a line."""
    return words.dot.join(about_run(trainer, words))


def about_run(trainer: Any, words: Words) -> list[str]:
    """What there is to say about model, device and data."""
    handles = trainer.models.values()
    parameters = [p for handle in handles for p in handle.model.parameters()]
    if any(is_lazy(p) for p in parameters):  # layers that get their size from the first batch
        size = "parameters not known yet"
    else:
        count = sum(p.numel() for p in parameters)
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        size = plural(count, "parameter") + (f" ({trained:,} trained)" if trained < count else "")
    counts = [_batches(trainer, "train"), _batches(trainer, "val")]
    data = "batches/epoch not known" if counts[0] is None else f"{plural(counts[0], 'batch')}/epoch"
    data += f", {counts[1]:,} for validation" if counts[1] else ""
    models = " + ".join(type(handle.model).__name__ for handle in handles)
    return [words.clean(part) for part in (models, size, str(trainer.device), data)]


def epochs_done(trainer: Any) -> int:
    """The epochs that a fit which begins finds done, also where its state is yet to be loaded."""
    state = trainer.resuming
    return int(trainer.progress.epoch if state is None else state["progress"]["epoch"])


def _batches(trainer: Any, stage: str) -> int | None:
    counts = [task.source_of(stage).length for task in trainer.stage_tasks.get(stage, ())]
    return None if None in counts else sum(counts)
