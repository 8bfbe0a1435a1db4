"""Jupyter, where it is what runs the program; nothing of it is loaded by asking."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def in_notebook() -> bool:
    """Whether the program runs in a kernel whose front end can show HTML and change what it has shown.

    Example:
        >>> in_notebook()
        False
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


class Area:
    """A place in a notebook's output that is shown once and then changed.

    Args:
        bundle: what it shows first, by MIME type.
    """

    def __init__(self, bundle: dict[str, str]) -> None:
        self._handle: Any = importlib.import_module("IPython.display").display(bundle, raw=True, display_id=True)

    def change(self, bundle: dict[str, str]) -> None:
        """Show something else in its place."""
        if self._handle is not None:  # a shell that shows nothing gives no handle
            self._handle.update(bundle, raw=True)
