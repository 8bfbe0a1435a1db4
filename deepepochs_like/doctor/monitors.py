"""Checks of what is watched: figures that no epoch has, and a direction that is the wrong one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..display.words import direction
from ..errors import did_you_mean
from ..monitor import Monitor
from .case import CannotTell, Case, Found, some
from .figures import names_of


def _watched(case: Case) -> Iterator[tuple[str, str, str]]:
    """Who watches which figure, and in which direction (or nothing, where that is not known)."""
    for callback in case.trainer.callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, Monitor) and isinstance(monitor.what, str):
            yield type(callback).__name__, monitor.name, monitor.mode
    for which, optimizer in case.trainer.opt.items():
        if optimizer.monitor or optimizer.sched_with_loss:
            scheduler = optimizer.scheduler
            mode = scheduler.mode if isinstance(scheduler, ReduceLROnPlateau) else ""
            figure = optimizer.monitor or ("val/loss" if case.val else "train/loss")
            yield f"{type(scheduler).__name__} of optimizer {which!r}", figure, mode


def monitor_mode(case: Case) -> Iterator[Found]:
    """A figure that is watched in the wrong direction: an accuracy for its minimum, a loss for its maximum."""
    for who, figure, mode in _watched(case):
        better = {-1: "min", 1: "max", 0: ""}[direction(figure)]
        if mode and better and mode != better:
            message = f"{who} watches {figure!r} with mode={mode!r}, as if it were better the other way."
            yield "error", message, f"Pass mode={better!r}.", {"figure": figure, "mode": mode}


def monitored_figure(case: Case) -> Iterator[Found]:
    """A figure that is watched and that no epoch will have."""
    watched = list(_watched(case))
    if not watched:
        return
    if not case.val and (lost := [(who, figure) for who, figure, _ in watched if figure.startswith("val/")]):
        message = f"{lost[0][0]} watches {lost[0][1]!r}, and there is nothing to validate on."
        yield "error", message, "Pass val_dl, or watch a figure of training.", {"figure": lost[0][1]}
        return
    others = [c for c in case.trainer.callbacks if not type(c).__module__.startswith("deepepochs_like.")]
    known = {f"{stage}/{name}" for stage, tasks in case.metrics.items() for name in _figures(case, tasks)}
    for who, figure, _ in watched:
        if figure in known or figure.endswith("/grad_norm"):
            continue
        if case.trial is None or others:
            raise CannotTell(f"{figure!r} may be a figure of a step or of a callback")
        there, meant = some(sorted(known), 8), did_you_mean(figure, known) or "."
        message = f"{who} watches {figure!r}, which no epoch will have; there are {there}{meant}"
        yield "error", message, "Give it the name of a figure that there is.", {"figure": figure}


def _figures(case: Case, tasks: list[tuple[str, list[Any]]]) -> Iterator[str]:
    for prefix, metrics in tasks:
        for name in ("loss", *(name for metric in metrics for name in names_of(case, metric))):
            yield f"{prefix}{name}"
