"""Checks of what is measured in updates, beside how many of them there will be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from torch.optim import lr_scheduler as torch_schedules

from ..data.resume import length_of
from .case import CannotTell, Case, Found
from .schedules import scheduler_unit

#: From which share of the first weights on an average at the end of a run says little of the others.
MOSTLY = 0.8
_UNKNOWN = "the number of epochs, or of batches, is not known: pass epochs=, as to fit"


def accumulation_beyond_epoch(case: Case) -> Iterator[Found]:
    """More batches per update than an epoch has."""
    window = int(case.trainer.accumulate)
    given = f"accumulate={window}"
    for callback in case.trainer.callbacks:
        if any(kind.__name__ == "GradientAccumulation" for kind in type(callback).__mro__):
            most = max(callback.schedule.values())
            window, given = (most, f"GradientAccumulation({callback.schedule})") if most > window else (window, given)
    for seen in case.train:
        length = length_of(seen.loader)
        if length and window > length:
            message = (
                f"{given} asks for {window} batches per update, and {seen.name} has {length}: a window ends with its "
                f"loader, so that there is one update an epoch, of {length} batches."
            )
            fix = f"Accumulate {max(1, length // 4)} or so, {length} at most."
            yield "warning", message, fix, {"accumulate": window, "batches": length}


def average_outlasts_run(case: Case) -> Iterator[Found]:
    """An average of the weights that reaches back over far more updates than there are, or begins after the end."""
    for callback in case.trainer.callbacks:
        kinds = {kind.__name__ for kind in type(callback).__mro__ if kind.__module__.startswith("deepepochs_like.")}
        if "EMA" in kinds:
            if case.updates is None:
                raise CannotTell(_UNKNOWN)
            begun = int(case.trainer.progress.step)  # where a run goes on
            left = callback.decay ** ((begun + case.updates) / callback.every)
            if left > MOSTLY and case.updates >= 1:
                reach = callback.every / (1 - callback.decay)
                message = (
                    f"EMA({callback.decay:g}) reaches back over about {reach:.3g} updates, and the run has "
                    f"{case.updates}: at its end the average is still {left:.1%} of the weights that it began with, "
                    "and that is what validation looks at."
                )
                fix = f"Pass a smaller decay, such as {_rounded(1 - min(0.5, 10 * callback.every / case.updates))}."
                yield "error", message, fix, {"decay": callback.decay, "updates": case.updates, "left": left}
        elif "SWA" in kinds and case.max_steps is None and case.epochs is not None and callback.start >= case.epochs:
            message = (
                f"SWA(start={callback.start}) begins with epoch {callback.start}, counted from 0, and the run has "
                f"{case.epochs}: nothing is averaged."
            )
            fix = f"Pass a lower start, such as {case.epochs * 3 // 4}."
            yield "error", message, fix, {"start": callback.start, "epochs": case.epochs}


def _rounded(decay: float) -> float:
    return float(f"{decay:.3g}")


def warmup_outlasts_run(case: Case) -> Iterator[Found]:
    """A warm-up that is longer than the run, so that the learning rate never gets where it should."""
    for which, optimizer in case.trainer.opt.items():
        scheduler = optimizer.scheduler
        if scheduler is None or not _may_warm_up(scheduler):
            continue
        calls = case.updates if optimizer.sched_on == "step" else _epochs(case)
        if calls is None:
            raise CannotTell(_UNKNOWN)
        share = _share(scheduler, calls + max(0, int(getattr(scheduler, "last_epoch", 0))))
        if share is None or share >= 0.9 or _is_of_another_unit(case, scheduler):
            continue
        message = (
            f"The warm-up of optimizer {which!r} ({type(scheduler).__name__}, stepped by {optimizer.sched_on}s) is "
            f"longer than the run of {calls} {optimizer.sched_on}s: the learning rate ends at {share:.1%} of what it "
            "was to rise to."
        )
        fix = f"Warm up over {max(1, calls // 10)} {optimizer.sched_on}s or so, or train for longer."
        yield "error", message, fix, {"calls": calls, "share": share, "sched_on": optimizer.sched_on}


def _is_of_another_unit(case: Case, scheduler: Any) -> bool:
    """Whether it is a whole cycle that is stepped in the wrong unit: `scheduler_unit` says that."""
    return isinstance(scheduler, torch_schedules.OneCycleLR) and any(True for _ in scheduler_unit(case))


def _epochs(case: Case) -> int | None:
    if case.max_steps is None:
        return case.epochs
    return -(-case.max_steps // case.steps_per_epoch) if case.steps_per_epoch else None


def _may_warm_up(scheduler: Any) -> bool:
    kinds = ("LinearLR", "ConstantLR", "LambdaLR", "SequentialLR", "ChainedScheduler", "OneCycleLR")
    return any(isinstance(scheduler, getattr(torch_schedules, kind)) for kind in kinds)


def _share(scheduler: Any, calls: int) -> float | None:
    """What part of its height a warm-up comes to in so many calls; None where there is none, or it is over by then."""
    if isinstance(scheduler, torch_schedules.SequentialLR):
        cut = scheduler._milestones[0]
        return _share(scheduler._schedulers[0], calls) if calls <= cut else None
    if isinstance(scheduler, torch_schedules.ChainedScheduler):
        shares = [share for part in scheduler._schedulers if (share := _share(part, calls)) is not None]
        return min(shares, default=None)
    if isinstance(scheduler, torch_schedules.OneCycleLR):
        top = float(scheduler._schedule_phases[0]["end_step"])
        return None if calls >= top else max(calls, 0) / top
    if isinstance(scheduler, torch_schedules.LinearLR):
        first, last, length = scheduler.start_factor, scheduler.end_factor, scheduler.total_iters
        if first >= last or calls >= length:
            return None
        return float((first + (last - first) * calls / length) / last)
    if isinstance(scheduler, torch_schedules.ConstantLR):
        return float(scheduler.factor) if scheduler.factor < 1 and calls <= scheduler.total_iters else None
    functions = getattr(scheduler, "lr_lambdas", None)
    return _of_function(functions[0], calls) if functions else None


def _of_function(function: Callable[[int], Any], calls: int) -> float | None:
    """The same of a function of the step that rises as long as the run lasts, and comes to rest or falls later."""
    within = sorted({round(calls * i / 50) for i in range(51)})
    later = sorted({calls + round(calls * 1.15**i) for i in range(50)})
    try:
        values, beyond = [float(function(n)) for n in within], [float(function(n)) for n in later]
    except Exception:  # a function that knows no more than the steps it is made for
        return None
    rises = all(b >= a - 1e-12 for a, b in pairwise(values))
    top = max(beyond)
    if not rises or top <= values[-1] or top <= 0 or beyond.index(top) == len(beyond) - 1:
        return None
    return values[-1] / top
