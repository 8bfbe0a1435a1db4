"""Checks of schedules: whether they are stepped in the unit that their lengths are given in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch.optim import lr_scheduler as torch_schedules

from .case import CannotTell, Case, Found

#: Of a schedule for so few steps per epoch its unit cannot be told.
FEWEST = 3


@dataclass
class Shape:
    """What is known of a schedule.

    Args:
        kind: ``'anneal'`` goes through once, and should end with the run; ``'warmup'`` rises and stays; ``'decay'``
            falls again and again; ``'drop'`` falls at given places.
        length: how many of its steps it is made for; of a decay those between two falls, of drops those to the last.
        words: how the length was given.
        factor: what is left of the rate after so many of its steps, where that can be told.
    """

    kind: str
    length: float
    words: str
    factor: Any = None
    first: float = 0.0


def scheduler_of_another(case: Case) -> Iterator[Found]:
    """A schedule of another torch optimizer than the one it is given with."""
    for which, optimizer in case.trainer.opt.items():
        other = getattr(optimizer.scheduler, "optimizer", None)
        if other is not None and other is not optimizer.opt and not hasattr(optimizer.opt, "optimizer"):
            message = (
                f"The {type(optimizer.scheduler).__name__} of optimizer {which!r} was built for another optimizer, so "
                "the learning rate that it sets is not the one that is used."
            )
            yield (
                "error",
                message,
                "Build the scheduler from the same torch optimizer: Optimizer(opt, Scheduler(opt)).",
                {},
            )


def scheduler_unit(case: Case) -> Iterator[Found]:
    """A schedule whose length fits updates and that is stepped by epochs, or the reverse."""
    for which, optimizer in case.trainer.opt.items():
        if optimizer.scheduler is None or isinstance(optimizer.scheduler, torch_schedules.ReduceLROnPlateau):
            continue
        shape = shape_of(optimizer.scheduler, case)
        if shape is None:
            continue
        epochs, per_epoch = case.epochs, case.steps_per_epoch
        if per_epoch is None and case.max_steps is not None and optimizer.sched_on == "step":
            yield from _on_a_stream(which, case, shape, case.max_steps)
            continue
        if case.max_steps is not None and per_epoch:
            epochs = -(-case.max_steps // per_epoch)
        if epochs is None or per_epoch is None:
            raise CannotTell("the number of epochs, or of batches, is not known: pass epochs=, as to fit")
        steps = case.max_steps or epochs * per_epoch
        by_step = optimizer.sched_on == "step"
        exactly = shape.kind == "anneal" and shape.length == (epochs if by_step else steps) and epochs > 2
        if per_epoch < 2 or (per_epoch < FEWEST and not exactly):
            continue
        judge = _too_fast if by_step else _too_slow
        wrong = judge(shape, epochs, steps, per_epoch) or (
            "Its length is exactly that of the other." if exactly else ""
        )
        if wrong:
            yield _unit(which, optimizer, shape, epochs, steps, wrong)
        elif by_step and case.trainer.accumulate > 1 and shape.kind == "anneal":
            yield from _in_batches(which, case, shape, steps)


def _unit(which: str, optimizer: Any, shape: Shape, epochs: int, steps: int, wrong: str) -> Found:
    name, other = type(optimizer.scheduler).__name__, "epoch" if optimizer.sched_on == "step" else "step"
    message = (
        f"{name} of optimizer {which!r} is stepped by {optimizer.sched_on}s, and {shape.words} looks like a number of "
        f"{other}s: the run has {epochs} epochs and {steps} updates. {wrong}"
    )
    fix = f"Pass Optimizer(opt, scheduler, sched_on={other!r}), or give {shape.words.partition('=')[0]} in "
    fix += f"{optimizer.sched_on}s."
    found = {"length": shape.length, "epochs": epochs, "steps": steps, "sched_on": optimizer.sched_on}
    return "error", message, fix, found


def _nearer(length: float, other: float, own: float) -> bool:
    """Whether a length is nearer to one number than to another, by their ratios."""
    return abs(math.log(length / other)) < abs(math.log(length / own))


def _too_slow(shape: Shape, epochs: int, steps: int, per_epoch: int) -> str:
    """What goes wrong where a schedule in updates is stepped by epochs; nothing where it does not seem so."""
    if shape.kind == "decay" and shape.factor is not None:
        after_epochs, after_steps = shape.factor(epochs), shape.factor(steps)
        if after_epochs > 0.97 and after_steps < 0.8 * after_epochs and after_steps > 1e-4:
            return f"In {epochs} steps it would change the learning rate by less than 3 %."
    length = shape.first or shape.length
    if shape.kind == "decay" and (shape.length <= 1 or length <= epochs):
        return ""
    whole = per_epoch >= 4 and length % per_epoch == 0 and length > epochs and length <= steps
    if length <= epochs or length > 1.25 * steps:
        return ""
    if whole or (length > 2 * epochs and (_nearer(length, steps, epochs) or _in_round_steps(shape, epochs, per_epoch))):
        return f"It would come {epochs / length:.1%} of its way."
    return ""


def _in_round_steps(shape: Shape, epochs: int, per_epoch: int) -> bool:
    """A warm-up is over long before the run is, so that one that outlasts it by far was meant in updates."""
    return shape.length >= 3 * epochs and (
        shape.kind == "warmup" or (shape.kind in ("decay", "drop") and shape.length >= per_epoch)
    )


def _too_fast(shape: Shape, epochs: int, steps: int, per_epoch: int) -> str:
    """What goes wrong where a schedule in epochs is stepped by updates; nothing where it does not seem so."""
    length = shape.length
    if shape.kind == "decay":
        if shape.factor is not None and shape.factor(steps) < 1e-5 and shape.factor(epochs) >= 1e-4:
            return f"The learning rate would be a {shape.factor(steps):.0e} of itself at the end."
        if shape.factor is not None and shape.factor(steps) < 0.05 and shape.factor(steps) < 0.1 * shape.factor(epochs):
            often = (1 < shape.length <= epochs and steps > 5 * shape.length) or (
                shape.length == 1 and shape.factor(1) <= 0.96
            )
            return (
                f"It would fall {steps / shape.length:.0f} times, {per_epoch / shape.length:.1f} an epoch."
                if often
                else ""
            )
        return ""
    if shape.kind == "warmup":
        short = length <= min(epochs, 10) and length * 40 <= steps
        return f"It would be over after {length:g} updates, {length / steps:.1%} of the run." if short else ""
    if length * 3 > steps or (length % per_epoch == 0 and length > epochs):
        return ""
    if length <= 2 * epochs:
        passed = f"It would be through after {length:g} of {steps} updates"
        return f"{passed}, within epoch {math.ceil(length / per_epoch)}."
    return ""


def _on_a_stream(which: str, case: Case, shape: Shape, steps: int) -> Iterator[Found]:
    """A schedule that is over long before the run is, of which no more is known than its number of updates."""
    scheduler, wrong = case.trainer.opt[which].scheduler, ""
    again = isinstance(scheduler, (torch_schedules.CyclicLR, torch_schedules.CosineAnnealingWarmRestarts))
    short = {"anneal": 3, "drop": 10}.get(shape.kind)
    if short is not None and shape.length * short <= steps and not again:
        wrong = f"It is through after {shape.length:g} of {steps} updates."
    elif shape.kind == "decay" and shape.factor is not None and shape.factor(steps) < 1e-8:
        wrong = f"The learning rate is a {shape.factor(steps):.0e} of itself at the end."
    if wrong:
        message = f"{type(scheduler).__name__} of optimizer {which!r} is stepped by steps, with {shape.words}. {wrong}"
        fix = f"Give {shape.words.partition('=')[0]} in updates, of which there are {steps}."
        yield "warning", message, fix, {"length": shape.length, "steps": steps, "sched_on": "step"}
    elif case.trainer.accumulate > 1 and shape.kind == "anneal":
        yield from _in_batches(which, case, shape, steps)


def _in_batches(which: str, case: Case, shape: Shape, steps: int) -> Iterator[Found]:
    """A schedule made for as many batches as there are, while several make an update."""
    window = case.trainer.accumulate
    if shape.length >= steps * (window - 0.5) and shape.length <= steps * (window + 0.5):
        message = (
            f"The schedule of optimizer {which!r} has {shape.words}, the number of batches of the run; with "
            f"accumulate={window} there are {steps} updates, so it would come {steps / shape.length:.0%} of its way."
        )
        yield "error", message, f"Make it for {steps} steps.", {"length": shape.length, "steps": steps}


def scheduler_length(case: Case) -> Iterator[Found]:
    """A schedule that is asked for more steps than it has."""
    for which, optimizer in case.trainer.opt.items():
        scheduler = optimizer.scheduler
        if not isinstance(scheduler, torch_schedules.OneCycleLR):
            continue
        by_step = optimizer.sched_on == "step"
        calls = case.max_steps if by_step else case.epochs
        if calls is None and case.epochs is not None and case.steps_per_epoch is not None:
            calls = case.epochs * case.steps_per_epoch
        if calls is None:
            raise CannotTell("the number of epochs, or of batches, is not known: pass epochs=, as to fit")
        if scheduler.total_steps < calls:
            message = (
                f"OneCycleLR of optimizer {which!r} is made for {scheduler.total_steps} steps and will be stepped "
                f"{calls} times: it raises an error when they are used up."
            )
            found = {"total_steps": scheduler.total_steps, "calls": calls}
            yield "error", message, f"Make it with total_steps={calls}.", found


def shape_of(scheduler: Any, case: Case) -> Shape | None:
    """What is known of a schedule; None where that is too little to judge it by."""
    kind = next((k.__name__ for k in type(scheduler).__mro__ if k.__module__ == torch_schedules.__name__), "")
    if kind == "OneCycleLR":
        return Shape("anneal", scheduler.total_steps, f"total_steps={scheduler.total_steps}")
    if kind == "CosineAnnealingLR":
        return Shape("anneal", scheduler.T_max, f"T_max={scheduler.T_max}")
    if kind == "CosineAnnealingWarmRestarts":
        return Shape("anneal", scheduler.T_0, f"T_0={scheduler.T_0}") if scheduler.T_mult == 1 else None
    if kind == "PolynomialLR":
        return Shape("anneal", scheduler.total_iters, f"total_iters={scheduler.total_iters}")
    if kind == "CyclicLR":
        return Shape("anneal", scheduler.total_size, f"step_size_up+step_size_down={scheduler.total_size:g}")
    if kind == "LinearLR":
        rises = scheduler.start_factor < scheduler.end_factor
        return Shape("warmup" if rises else "anneal", scheduler.total_iters, f"total_iters={scheduler.total_iters}")
    if kind == "ConstantLR":
        return Shape("warmup", scheduler.total_iters, f"total_iters={scheduler.total_iters}")
    return _of_falls(scheduler, kind) or _of_several(scheduler, kind, case) or _of_lambda(scheduler, kind, case)


def _of_falls(scheduler: Any, kind: str) -> Shape | None:
    if kind == "StepLR":
        size, gamma = scheduler.step_size, scheduler.gamma
        return Shape("decay", size, f"step_size={size}", lambda n: gamma ** (n // size), size)
    if kind == "ExponentialLR":
        gamma = scheduler.gamma
        return Shape("decay", 1, f"gamma={gamma:g}", lambda n: gamma**n)
    if kind == "MultiStepLR":
        places = sorted(scheduler.milestones.elements())
        return Shape("drop", places[-1], f"milestones={places}", None, places[0]) if places else None
    return None


def _of_several(scheduler: Any, kind: str, case: Case) -> Shape | None:
    parts = getattr(scheduler, "_schedulers", None)
    if kind == "ChainedScheduler" and parts:
        shapes = [shape for part in parts if (shape := shape_of(part, case)) is not None]
        return max(shapes, key=lambda shape: shape.length, default=None)
    if kind == "SequentialLR" and parts:
        begins = scheduler._milestones[-1]
        last = shape_of(parts[-1], case)
        if last is None:
            return None
        length = begins + (last.length if last.kind != "decay" else 0)
        return Shape("anneal" if last.kind == "anneal" else "warmup", length, f"milestones and lengths={length:g}")
    return None


def _of_lambda(scheduler: Any, kind: str, case: Case) -> Shape | None:
    """Tell from its values where a function of the step comes to rest."""
    functions = getattr(scheduler, "lr_lambdas", None)
    if kind != "LambdaLR" or not functions:
        return None
    length = getattr(getattr(scheduler, "schedule", None), "length", None)
    if isinstance(length, (int, float)) and length > 0:
        low, high = float(functions[0](0)), float(functions[0](length))
        return Shape("warmup" if low < high else "anneal", length, f"a length of {length:g}")
    epochs, per_epoch = case.epochs or 1, case.steps_per_epoch or 1
    last = 2 * max(epochs * per_epoch, case.max_steps or 0, 50)
    try:
        grid = sorted({round(last ** (i / 400)) for i in range(401)} | {0, *range(min(64, last)), last})
        values = [float(functions[0](step)) for step in grid]
    except Exception:  # a function that knows no more than the steps it is made for
        return None
    low, high = min(values), max(values)
    if high - low <= 1e-3 * max(abs(high), 1e-12):
        return None
    moved = [i for i, value in enumerate(values) if abs(value - values[-1]) > 0.01 * (high - low)]
    rest = grid[moved[-1] + 1] if moved and moved[-1] + 1 < len(grid) - 2 else None
    rises = all(b >= a - 1e-9 for a, b in pairwise(values))
    if rest is None:
        falls = all(b <= a + 1e-9 for a, b in pairwise(values)) and values[0] > 0
        if falls:
            return Shape("decay", 1, "its function", lambda n: float(functions[0](n)) / values[0])
        bottom = next(i for i, value in enumerate(values) if value - low <= 0.005 * (high - low))
        through = values.index(high) < bottom < len(grid) - 2 and low < 0.1 * high  # once down, of a cosine
        return Shape("anneal", grid[bottom], f"the length of its function={grid[bottom]}") if through else None
    return Shape("warmup" if rises else "anneal", rest, f"the length of its function={rest}")
