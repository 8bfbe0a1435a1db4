"""The names of metrics and of runs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ArgumentTypeError

F = TypeVar("F", bound=Callable[..., Any])


def rename(newname: str) -> Callable[[F], F]:
    """Give a metric the name it is shown under; '' leaves only the keys of a metric that returns a dict.

    The function itself is renamed and returned; one that takes no name (a built-in, a bound method) is wrapped.

    Raises:
        ArgumentTypeError: the name is no string, or what is renamed cannot be called.

    Example:
        >>> accuracy = rename("acc")(lambda preds, targets: (preds == targets).mean()); accuracy.__name__
        'acc'
    """
    if not isinstance(newname, str):
        raise ArgumentTypeError(f"rename({newname!r}): a name is needed, as in @rename('acc')")

    def decorator(function: F) -> F:
        if not callable(function):
            raise ArgumentTypeError(f"rename({newname!r}): {function!r} is no function, so no metric")
        try:
            function.__name__ = newname
        except (AttributeError, TypeError):
            wrapper: Any = functools.partial(function)
            wrapper.__name__ = newname
            return wrapper  # type: ignore[no-any-return]
        return function

    return decorator


def make_runningid(task: Any = None, seed: Any = None, other_info: Any = None, time_precision: float = 1) -> str:
    """Make a name for a run out of the time and what is given: ``'1795255166-task-seed-other_info'``.

    Args:
        task: what is trained; like the other parts it is left out where it is None.
        seed: the run's seed.
        other_info: anything else.
        time_precision: how many units of time a second has: 1 counts seconds, 100 hundredths.

    Example:
        >>> make_runningid("digits", seed=7).split("-", 1)[1]
        'digits-7'
    """
    parts = [int(time.time() * time_precision), task, seed, other_info]
    return "-".join(str(part) for part in parts if part is not None)
