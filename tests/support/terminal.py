"""Programs run on a terminal of a given size, and what is on its screen afterwards."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

from support.repo import ROOT

_TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)", re.DOTALL)


class Screen:
    """A terminal that never scrolls: as many rows as are written, each `width` columns wide.

    Attributes:
        rows: the text of every row.
        wrapped: how often a row was too long for the width.
        cursor_shown: whether the cursor is visible.
    """

    def __init__(self, width: int, output: str = "") -> None:
        self.width, self.rows, self.wrapped, self.cursor_shown = width, [""], 0, True
        self._row = self._column = 0
        self.feed(output)

    def feed(self, output: str) -> None:
        """Take in what a program writes.

        Raises:
            ValueError: it holds a control character that the screen does not know.
        """
        position = 0
        while position < len(output):
            match = _TOKEN.match(output, position)
            if match is None:
                raise ValueError(f"unknown control characters: {output[position : position + 10]!r}")
            position = match.end()
            argument, command, control, text = match.groups()
            if command:
                self._command(argument, command)
            elif control:
                self._column = 0
                self._down(control == "\n")
            else:
                self._write(text)

    def _down(self, rows: int) -> None:
        self._row += rows
        while self._row >= len(self.rows):
            self.rows.append("")

    def _write(self, text: str) -> None:
        for character in text:
            if self._column == self.width:
                self.wrapped += 1
                self._column = 0
                self._down(1)
            row = self.rows[self._row].ljust(self._column)
            self.rows[self._row] = row[: self._column] + character + row[self._column + 1 :]
            self._column += 1

    def _command(self, argument: str, command: str) -> None:
        if argument == "?25":
            self.cursor_shown = command == "h"
        elif command == "A":
            self._row = max(self._row - int(argument or 1), 0)
        elif command == "K" and argument == "2":
            self.rows[self._row] = ""
        elif command != "m":
            raise ValueError(f"unknown command {argument}{command}")

    def text(self) -> str:
        """The rows that are not empty at the end, without spaces behind them."""
        return "\n".join(row.rstrip() for row in self.rows).rstrip("\n")


def on_terminal(
    script: Path, width: int, height: int = 24, resize: tuple[int, int] | None = None, **environment: str
) -> tuple[str, int]:
    """Run a script on a terminal; return all it has written there, and its exit code.

    Args:
        script: a Python file.
        width: of the terminal, in columns.
        height: of the terminal, in rows.
        resize: another size that the terminal gets as soon as the script has written ``resize me``.
        **environment: variables of its environment.
    """
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST  # newlines come out as they were written
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    _set_size(slave, width, height)
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=slave, stdout=slave, stderr=slave, env=clean_environment(**environment)
    )
    os.close(slave)

    def seen(output: str) -> None:
        nonlocal resize
        if resize and "resize me" in output:
            _set_size(master, *resize)
            resize = None

    output = _read_all(master, seen)
    os.close(master)
    return output, process.wait(timeout=60)


def clean_environment(**environment: str) -> dict[str, str]:
    """The environment without what decides about consoles, but for what is given."""
    deciding = {"CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    kept = {name: value for name, value in os.environ.items() if name not in deciding}
    paths = {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
    return {**kept, **paths, "PYTHONIOENCODING": "utf-8", **environment}


def _set_size(terminal: int, width: int, height: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def _read_all(master: int, seen: Callable[[str], None], limit: float = 90) -> str:
    output, until = b"", time.monotonic() + limit
    while time.monotonic() < until:
        if not select.select([master], [], [], 1)[0]:
            continue
        try:
            data = os.read(master, 65536)
        except OSError:  # how Linux says that nobody has the terminal open any more
            break
        if not data:
            break
        output += data
        seen(output.decode("utf-8", "replace"))
    return output.decode("utf-8")
