"""The console: what is shown of a run, and how."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from ..utils.notebook import in_notebook
from .base import Display, Silent
from .plain import Plain
from .words import Words, direction

__all__ = ["Display", "direction", "open_display", "takes_control"]


def open_display(trainer: Any, log_long: bool, log_batch: bool, log_tqdm: bool) -> Display:
    """Choose the console: live on a terminal and in a notebook, plain lines elsewhere, only in the main process."""
    if not trainer.main_process:
        return Silent(trainer, Words())
    decimals = 7 if log_long else 4
    if in_notebook() and _is_the_notebooks(sys.stdout):
        from .notebook import Notebook

        return Notebook(trainer, decimals, log_batch)
    if takes_control(sys.stdout, os.environ):
        from .terminal import Bars, Terminal, terminal_of_rich  # rich is loaded here, and nowhere else

        console = terminal_of_rich()
        if console is not None:
            return (Bars if log_tqdm else Terminal)(trainer, console, decimals, log_batch)
    return Plain(trainer, Words(decimals, getattr(sys.stdout, "encoding", None) or "utf-8"), log_batch)


def _is_the_notebooks(stream: Any) -> bool:
    """Whether a stream is the one of the kernel, not one that users lead their output to."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


def takes_control(stream: Any, environ: Mapping[str, str]) -> bool:
    """Tell whether a stream is a terminal that control characters may be sent to.

    It is none in CI, with NO_COLOR, with TERM=dumb, and while another live view (of rich) is on it; FORCE_COLOR makes
    one of what is no terminal, as rich has it.
    """
    if stream is None or hasattr(stream, "rich_proxied_file"):
        return False
    if environ.get("NO_COLOR") or environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    if environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    return bool(environ.get("FORCE_COLOR")) or bool(stream.isatty())
