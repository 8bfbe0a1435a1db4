"""What one call of `fit` is going to do, worked out and checked before anything is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .binding import bind_tasks, resolve_step
from .checks import check_count
from .errors import ArgumentError, ArgumentTypeError, a_kind
from .events import detach_removed
from .fits import begin, passed_over, take_up
from .history import History
from .progress import Progress
from .resume import close_run, open_run
from .task import EpochTask, Steps, listify
from .types import Stage
from .utils.warn import warn


@dataclass
class Plan:
    """The tasks of a `fit` and when it validates and ends."""

    train: list[EpochTask]
    val: list[EpochTask]
    val_freq: int
    until_epoch: float
    until_step: float = math.inf
    val_every_steps: int | None = None
    epochs: int = 0
    #: How much history there was before.
    before: dict[str, dict[str, int]] = field(default_factory=dict)
    #: The run's history, where this fit had ended before the checkpoint was taken, and there is nothing to do.
    passed: History | None = None

    @property
    def stages(self) -> dict[str, list[EpochTask]]:
        """The tasks by stage."""
        return {"train": self.train, "val": self.val}

    @property
    def restarts(self) -> bool:
        """Whether an epoch goes on with another pass where the loader ends."""
        return self.val_every_steps is not None

    def done(self, progress: Progress) -> bool:
        """Whether nothing is left to train; with an epoch open, whether that was not asked for."""
        enough = progress.step > self.until_step if progress.opened else progress.step >= self.until_step
        return progress.epoch >= self.until_epoch or enough

    def limit(self, progress: Progress) -> float:
        """The update of the weights at which the training part of this epoch ends."""
        if self.val_every_steps is None:
            return self.until_step
        return min(self.until_step, (progress.began // self.val_every_steps + 1) * self.val_every_steps)

    def val_due(self, progress: Progress) -> bool:
        """Whether this epoch is followed by validation."""
        return bool(self.val) and (not math.isinf(self.until_step) or (progress.epoch + 1) % self.val_freq == 0)


def tasks_of(
    trainer: Any,
    stage: Stage,
    loader: Any,
    tasks: Any,
    metrics: Sequence[Any],
    do_loss: bool,
    batch_size: Any,
    function: Any,
) -> list[EpochTask]:
    """Make a stage's tasks from its loader and its tasks, and bind them."""
    given = listify(tasks)
    for task in given:
        if not isinstance(task, EpochTask):
            raise ArgumentTypeError(
                f"{stage}_tasks holds {task!r}: an EpochTask is needed, not {a_kind(task)}; EpochTask(loader) makes one"
            )
    if isinstance(loader, EpochTask):
        raise ArgumentTypeError(
            f"{stage}_dl is an EpochTask; pass it as {'tasks' if stage == 'test' else stage + '_tasks'}="
        )
    own = [] if loader is None else [EpochTask(loader, do_loss=do_loss, batch_size=batch_size)]
    names = [f"{stage}_dl"] * len(own) + [f"{stage}_tasks[{i}]" for i in range(len(given))]
    wanted = [*(m for part in metrics for m in listify(part)), *trainer.metrics] if stage != "predict" else []
    bind_tasks(trainer, stage, [*own, *given], wanted, names, function)
    for task in [*own, *given]:
        _check_default_step(trainer, task, stage, function)
    return [*own, *given]


def _check_default_step(trainer: Any, task: EpochTask, stage: Stage, function: Any) -> None:
    """With several models, or optimizers that need a closure, only the user can say what a step is."""
    step = resolve_step(task, trainer, stage, function)
    if getattr(step, "__func__", None) not in (Steps.train_step, Steps.evaluate_step, Steps.predict_step):
        return
    if len(trainer.models) > 1:
        raise ArgumentError(
            f"with several models ({', '.join(trainer.models)}) there is no default {stage} step; write one in a "
            "Trainer or EpochTask subclass, or pass step=function"
        )


@dataclass
class Request:
    """What the user asked of one stage of a `fit`."""

    loader: Any
    tasks: Any
    metrics: Sequence[Any]
    do_loss: bool = True


def plan_fit(
    trainer: Any,
    train_part: Request,
    val_part: Request,
    batch_size: Any,
    function: Any,
    val_freq: int,
    epochs: int | None,
    max_steps: int | None,
    val_every_steps: int | None,
) -> Plan:
    """Check the arguments of `fit`, and make a plan.

    Raises:
        ArgumentError: there is nothing to train on, or two arguments contradict each other.
    """
    detach_removed(trainer)
    check_count("val_freq", val_freq)
    if train_part.loader is None and not listify(train_part.tasks):
        raise ArgumentError("fit has nothing to train on: pass train_dl, or train_tasks")
    if not trainer.opt:
        raise ArgumentError("the model has no parameter that requires a gradient, so there is nothing to train")
    if function is not None and not callable(function):
        raise ArgumentTypeError(f"step={function!r}: a function (trainer, batch_x, batch_y, **step_args) is needed")
    parts: list[tuple[Stage, Request]] = [("train", train_part), ("val", val_part)]
    train, val = (
        tasks_of(trainer, stage, part.loader, part.tasks, part.metrics, part.do_loss, batch_size, function)
        for stage, part in parts
    )
    _check_amounts(train, val_freq, epochs, max_steps, val_every_steps)
    before = trainer.run_folder
    try:
        open_run(trainer)  # the last that can fail, but for warnings that are errors; what follows only counts
        plan = Plan(train, val, val_freq, math.inf)
        asked = {"epochs": trainer.epochs if epochs is None and max_steps is None else epochs, "max_steps": max_steps}
        if (history := passed_over(trainer, asked)) is not None:
            close_run(trainer)
            plan.passed, trainer.passed = history, True
            return plan
        take_up(trainer, plan.stages)
        here = trainer.pending is not None and "here" in trainer.pending
        plan.before = {} if (trainer.pending and not here) or trainer.resuming else trainer.history.lengths()
        base = begin(trainer, asked)
        if max_steps is None:
            return _plan_epochs(trainer, plan, epochs, base)
        return _plan_steps(trainer, plan, max_steps, val_every_steps, base)
    except BaseException:
        if trainer.run_folder is not before:
            close_run(trainer)
        raise


def _check_amounts(
    train: list[EpochTask], val_freq: int, epochs: int | None, max_steps: int | None, val_every_steps: int | None
) -> None:
    """Check how much a `fit` is asked to do."""
    if max_steps is None:
        if val_every_steps is not None:
            raise ArgumentError("val_every_steps goes with max_steps; without it, val_freq counts epochs")
        if epochs is not None:
            check_count("epochs", epochs, 0)
        return
    if epochs is not None:
        raise ArgumentError(f"epochs={epochs} and max_steps={max_steps}: a run is measured in one or the other")
    if val_freq != 1:
        raise ArgumentError(f"val_freq={val_freq} counts epochs; with max_steps use val_every_steps")
    check_count("max_steps", max_steps)
    if val_every_steps is not None:
        check_count("val_every_steps", val_every_steps)
    if len(train) > 1:
        raise ArgumentError(
            f"max_steps takes one training task, got {len(train)}: steps of several would have no order"
        )


def _done(trainer: Any) -> tuple[int, int]:
    """The epochs and updates that are done."""
    if trainer.resuming is not None:
        done = trainer.resuming["progress"]
        return done["epoch"], done["step"]
    return trainer.progress.epochs_done, trainer.progress.step


def _plan_epochs(trainer: Any, plan: Plan, epochs: int | None, base: tuple[int, int] | None) -> Plan:
    """Plan so many more epochs, counted from where a fit that is gone on with began; or those of the run as a whole."""
    done, _ = _done(trainer)
    start = done if base is None else base[0]
    plan.until_epoch = plan.epochs = trainer.epochs if epochs is None else start + epochs
    if plan.epochs <= done > 0 and base is not None and trainer.verbose:
        message = f"nothing to do: {done} epochs are done, and {plan.epochs} were asked for"
        trainer.print(f"{message}; ask for more epochs to train on")
    elif epochs is None and base is None and plan.epochs <= done > 0:
        message = f"fit has nothing to do: {done} of {plan.epochs} epochs are done; fit(..., epochs=k) runs k more"
        warn(message)
    return plan


def _plan_steps(
    trainer: Any, plan: Plan, max_steps: int, val_every_steps: int | None, base: tuple[int, int] | None
) -> Plan:
    """Plan so many more updates of the weights, counted from where a fit that is gone on with began."""
    epochs_done, step = _done(trainer)
    plan.val_every_steps = val_every_steps
    plan.until_step = (step if base is None else base[1]) + max_steps
    length = plan.train[0].source_of("train").length
    per_round = val_every_steps or (math.ceil(length / trainer.accumulate) if length else None)
    opened = trainer.pending if trainer.resuming is None else trainer.resuming
    if base is not None and plan.until_step <= step and not (opened and opened["open"]) and trainer.verbose:
        message = f"nothing to do: {step} updates are done, and {plan.until_step} were asked for"
        trainer.print(f"{message}; ask for more max_steps to train on")
    began = opened["open"]["began"] if opened and opened["open"] else step  # an open epoch is one of those to come
    if val_every_steps is not None:  # they end at its multiples
        rounds = math.ceil(plan.until_step / val_every_steps) - began // val_every_steps
    else:
        rounds = math.ceil((plan.until_step - began) / per_round) if per_round else 1
    plan.epochs = epochs_done + rounds
    return plan


def trained_modules(trainer: Any) -> list[nn.Module]:
    """The modules whose mode, place and state are the run's: the models, and a loss that is one."""
    modules = [handle.trained_module for handle in trainer.models.values()]
    return [*modules, trainer.loss.function] if isinstance(trainer.loss.function, nn.Module) else modules


def trainable(trainer: Any) -> list[nn.Parameter]:
    """The parameters that the default optimizer holds."""
    return [p for module in trained_modules(trainer) for p in module.parameters() if p.requires_grad]
