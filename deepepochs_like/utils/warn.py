"""Warnings that point at the line of the script that led to them, however deep in the library they come up."""

from __future__ import annotations

import os
import sys
import warnings
from types import FrameType

import torch

from ..errors import EngineWarning

#: Whose frames lie between a script and what it has called: this package's, torch's, and Python's own. Their paths are
#: taken as they were imported, which may have been by a relative one: that is how frames have them.
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_TORCH = os.path.dirname(torch.__file__) + os.sep
_PYTHON = os.path.dirname(os.__file__) + os.sep
#: What is installed lies in Python's own folder, too, and may well be the script.
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def warn(message: str, category: type[Warning] = EngineWarning) -> None:
    """Warn, at the innermost line that is neither this library's nor torch's nor Python's own.

    That is the call of `fit` in a script, or the line of a step or a hook in which it happened. How many calls lie in
    between differs from case to case, so that they are looked through rather than counted.

    Args:
        message: what is to be said.
        category: its class.

    Example:
        >>> with warnings.catch_warnings(record=True) as told:
        ...     warnings.simplefilter("always")
        ...     warn("mind the gap")
        >>> str(told[0].message), told[0].category.__name__
        ('mind the gap', 'EngineWarning')
    """
    frame = _outside(sys._getframe(1))
    variables = frame.f_globals
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        variables.get("__name__", "<unknown>"),
        variables.setdefault("__warningregistry__", {}),
    )


def _outside(caller: FrameType) -> FrameType:
    """The innermost frame of somebody else; where there is none, as in a thread of one's own, the caller's."""
    frame: FrameType | None = caller
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith(_PACKAGE) and not _is_between(path):
            return frame
        frame = frame.f_back
    return caller


def _is_between(path: str) -> bool:
    if path.startswith((_TORCH, "<frozen ")):
        return True
    return path.startswith(_PYTHON) and not any(part in path for part in _INSTALLED)
