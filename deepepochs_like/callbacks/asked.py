"""What a fit was asked for, for callbacks that are set to act at some point of it."""

from __future__ import annotations

from typing import Any

from ..state import keyed
from ..utils.warn import warn


def max_steps_of(trainer: Any) -> int | None:
    """The `max_steps` of the fit that is running; None where it was asked for epochs.

    Args:
        trainer: whose fit it is, from `on_before_fit` on; then a run that is resumed is still to be restored.

    Example:
        >>> from types import SimpleNamespace as Bunch
        >>> max_steps_of(Bunch(resuming=None, progress=Bunch(fits=[{"epochs": None, "max_steps": 100}])))
        100
    """
    fits = trainer.progress.fits if trainer.resuming is None else trainer.resuming.get("fits")
    steps: int | None = fits[-1].get("max_steps") if fits else None
    return steps


def forget_pending(trainer: Any, callback: Any) -> None:
    """Take what is a callback's out of a state that a trainer is still to go on with; the state itself stays whole.

    Args:
        trainer: whose callback it is.
        callback: one of its callbacks; of any other nothing is known.

    Example:
        >>> from deepepochs_like import EMA, Trainer
        >>> trainer = Trainer(torch.nn.Linear(1, 1), callbacks=[EMA()], verbose=0)
        >>> trainer.pending = {"callbacks": {"EMA(0.999)": {}, "other": {}}}
        >>> forget_pending(trainer, trainer.callbacks[0]); trainer.pending
        {'callbacks': {'other': {}}}
    """
    if trainer.pending is not None:
        lost = {key for key, one in keyed(trainer.callbacks).items() if one is callback}
        saved = trainer.pending["callbacks"]
        trainer.pending["callbacks"] = {key: state for key, state in saved.items() if key not in lost}


def warn_beyond(trainer: Any, epochs: int, what: str, first: int, least: str) -> None:
    """Say that something begins with an epoch to which the fit does not go; not where it is measured in updates.

    A fit that goes to the trainer's own number of epochs is all that is planned, so that it is a warning. One that was
    asked for another number may be a phase of several, of which a later one comes there. That is no reason to warn: it
    is printed once, by a trainer that prints.

    Args:
        trainer: whose fit it is.
        epochs: the number of epochs that the run goes to, as `on_before_fit` is told it.
        what: what does nothing, and where that was asked for.
        first: the epoch that it begins with, counted from 0.
        least: what to do about it.
    """
    if not first >= epochs > 0 or max_steps_of(trainer) is not None:
        return
    message = f"{what} does nothing in this fit: it begins with epoch {first}, counted from 0, and the last one is "
    if epochs == trainer.epochs:
        warn(f"{message}{epochs - 1}; {least}")
    elif what not in trainer.said:
        trainer.said.add(what)
        if trainer.verbose:
            trainer.print(f"{message}{epochs - 1}; a later fit may come there")
