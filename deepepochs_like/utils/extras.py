"""Packages that only some functions need, each named by the extra that installs it."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, extra: str, what: str) -> Any:
    """Import and return a module that comes with an extra.

    Args:
        module: dotted name of the module.
        extra: the extra of this library that installs it.
        what: what needs it, for the message.

    Raises:
        ModuleNotFoundError: it is not installed; install it as the message says.

    Example:
        >>> need("math", "plot", "this example").sqrt(4)
        2.0
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, but something that it imports is not: that is another story
        raise ModuleNotFoundError(
            f"{what} needs {error.name}, which is not installed: pip install 'deepepochs_like[{extra}]'",
            name=error.name,
        ) from error
