"""The calls of `fit` that a run consists of: which of them a state was taken in, and what is left of it.

A script that is started again calls `fit` as often as before. Each call is known by its number, and by how much it was
asked to do: one that had ended when the checkpoint was taken returns at once, the one that had not goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .history import History
from .signals import SIGNALS
from .types import StateDict
from .utils.warn import warn


def rates(trainer: Any) -> dict[str, list[float]]:
    """The learning rates of every optimizer's groups, by its name."""
    return {name: [float(group["lr"]) for group in optimizer.param_groups] for name, optimizer in trainer.opt.items()}


def rates_in(state: StateDict) -> dict[str, list[float]]:
    """The same in a state."""
    groups = {name: saved["opt"]["param_groups"] for name, saved in state["optimizers"].items()}
    return {name: [float(group["lr"]) for group in saved] for name, saved in groups.items()}


def passed_over(trainer: Any, asked: StateDict) -> History | None:
    """The run's history, where the checkpoint was taken in a later fit than the one that begins here; else None."""
    state, number = trainer.resuming, len(trainer.progress.fits) + 1
    fits = [] if state is None else state.get("fits", [])
    if number >= len(fits):
        return None
    then = {key: fits[number - 1].get(key) for key in asked}
    if then != asked:
        if state["open"] is not None:
            message = (
                f"the checkpoint was taken within fit number {len(fits)} of its run. This is fit number {number}, "
                f"which was asked for {_words(then)} then, and for {_words(asked)} now: it goes on with what is open"
            )
            warn(message)
        return None
    check_rates(fits, rates(trainer), rates_in(state))
    trainer.progress.fits.append(fits[number - 1])
    if trainer.verbose:
        trainer.print(f"fit number {number} had ended before: nothing to do until number {len(fits)} of this run")
    history = History()
    history.load_state_dict(state["history"])
    return history


def begin(trainer: Any, asked: StateDict) -> tuple[int, int] | None:
    """Enter a fit among those of the run.

    Returns:
        From which epoch and update on it counts what it is asked for, where it goes on from a state; else None.
    """
    state, progress = trainer.resuming, trainer.progress
    if state is None and trainer.pending is None:
        record = {"epoch": progress.epochs_done, "step": progress.step, **asked}
        began = progress.fits[0]["rates"] if progress.fits else rates(trainer)
        if progress.fits and not progress.fits[-1].get("ended"):  # an attempt that failed, or was interrupted
            progress.fits.pop()
        progress.fits.append(record if progress.fits else {**record, "rates": began})
        return None
    if state is not None:
        fits = state.setdefault("fits", [])
        same = len(fits) == len(progress.fits) + 1
        state["base"] = (fits[-1]["epoch"], fits[-1]["step"]) if same else (0, 0)
        state["made"] = {} if progress.fits else rates(trainer)
    else:
        fits, state = progress.fits, trainer.pending
        if rates(trainer) == state.pop("rates", None):  # nobody has changed them since
            check_rates(fits, state.pop("made"), rates(trainer))
    fits[-1:] = [{**(fits[-1] if fits else {"epoch": 0, "step": 0}), **asked, "ended": False}]
    return tuple(state["base"])


def take_up(trainer: Any, stages: Mapping[str, Sequence[Any]]) -> None:
    """Go on with the epoch that the fit before this one left open, where this one has the same data."""
    left, trainer.progress.left = trainer.progress.left, None
    if left is None or trainer.pending is not None:
        return
    if [id(loader) for loader in left.pop("loaders")] == [id(loader) for loader in loaders(stages)]:
        trainer.pending = {**left, "base": (trainer.progress.epoch, trainer.progress.step), "here": True}
        return
    message = (
        f"epoch {trainer.progress.epoch + 1} was left open by the last fit, and is not gone on with, as this one has "
        "other loaders: it begins an epoch. With the very same loaders it would go on"
    )
    warn(message)


def loaders(stages: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The loaders of a fit, in order; between those of two stages None."""
    return [loader for tasks in stages.values() for loader in [None, *(task.dataloader for task in tasks)]]


def interrupted(trainer: Any) -> bool:
    """Whether it was a signal that ended the fit."""
    return trainer.stop_reason in {number.name for number in SIGNALS}


def check_rates(fits: Sequence[StateDict], made: Mapping[str, list[float]], saved: Mapping[str, list[float]]) -> None:
    """Warn where the script made an optimizer with another learning rate than the run began with, or has by now."""
    then = fits[0].get("rates", {}) if fits else {}
    changed = [name for name in made if name in then and made[name] not in (then[name], saved[name])]
    for name in changed:
        message = (
            f"optimizer {name!r} was made with lr={_shown(made[name])}; the run began with {_shown(then[name])}, and "
            "goes on with the learning rate (and the schedule) of its checkpoint. To change it, set "
            f"trainer.opt[{name!r}].param_groups[...]['lr'] in on_before_epoch"
        )
        warn(message)


def _shown(values: list[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else str(values)


def _words(asked: StateDict) -> str:
    return " ".join(f"{key}={value}" for key, value in asked.items() if value is not None)
