"""What a fit was asked for, for callbacks that are set to act at some point of it."""

from __future__ import annotations

import warnings
from typing import Any

from ..errors import EngineWarning


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


def warn_beyond(trainer: Any, epochs: int, what: str, first: int, least: str) -> None:
    """Warn of something that begins with an epoch to which the fit does not go; not where it is measured in updates.

    Args:
        trainer: whose fit it is.
        epochs: the number of epochs that the run goes to, as `on_before_fit` is told it.
        what: what does nothing, and where that was asked for.
        first: the epoch that it begins with, counted from 0.
        least: what to do about it.
    """
    if first >= epochs > 0 and max_steps_of(trainer) is None:
        message = f"{what} does nothing in this fit: it begins with epoch {first}, counted from 0, and the last one is "
        warnings.warn(f"{message}{epochs - 1}; {least}", EngineWarning, stacklevel=3)
