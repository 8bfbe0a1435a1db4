"""Where output goes while a contender that shows something is timed: a pipe or a terminal, read by another process."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from unittest import mock

from .steady import aside

#: What makes libraries think that nobody is watching.
UNWATCHED = ("CI", "NO_COLOR", "FORCE_COLOR")


@contextmanager
def _leading_to(descriptor: int) -> Iterator[None]:
    with open(descriptor, "w", encoding="utf-8", buffering=1, closefd=False) as stream, redirect_stdout(stream):
        yield


@contextmanager
def to_pipe() -> Iterator[None]:
    """Standard output is a pipe, as under ``| tee``."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
        assert reader.stdin is not None
        aside(reader.pid)
        try:
            with _leading_to(reader.stdin.fileno()):
                yield
        finally:
            reader.terminate()  # not `close`: workers that somebody has left behind hold the pipe open, too


@contextmanager
def to_terminal() -> Iterator[None]:
    """Standard output is a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in UNWATCHED}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as reader:
        aside(reader.pid)
        os.close(ours)
        try:
            with mock.patch.dict(os.environ, environment, clear=True), _leading_to(theirs):
                yield
        finally:
            os.close(theirs)
            reader.terminate()  # as of the pipe
