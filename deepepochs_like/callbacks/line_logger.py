"""`LineLogger`: figures as lines of a text file that can be cut off where a resumed run goes on."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, CheckpointError
from ..storage import make_folder, write_bytes
from ..types import StateDict
from ..utils.warn import warn
from .logger import Logger, begins_anew, folder_of, set_aside

#: Beside the figures, where the trainer has any.
HYPER_PARAMS = "hyper_params.json"


class LineLogger(Logger):
    """Write a line for every set of figures to a file in the run's folder; the base of `JSONLLogger` and `CSVLogger`.

    A line is written whole, by one call of the system, so that others can follow the file. A resumed run cuts off what
    was written behind the checkpoint that it goes on from, and a half line that a kill has left.

    What a trainer writes before its first fit, to a file that it has begun itself, stays; a run that comes to no
    checkpoint and begins again keeps the rows of update 0. A row of a test or of ``trainer.log`` takes the place of one
    with the same step and the same names: outside a fit any such row; in a fit that begins at update 0 one from before
    it, once. A trainer that is to go on with a run, but stands at update 0 as its fit is still to come, writes a row
    only in the place of one that is there already, where the run has a checkpoint of a later update.

    Args:
        file: the file's name.
        every: also write a batch's figures after every so many updates.
        priority: its place among the callbacks.

    Raises:
        ArgumentError: `file` is no plain name, or `every` no int from 1 on.

    Example:
        >>> class Plain(LineLogger):
        ...     def render(self, row):
        ...         return f"{row['step']} {row.get('train/loss')}"
        >>> Plain("loss.txt").state_key()
        'Plain(loss.txt)'
    """

    keeps_files = True
    #: Lines before the first row.
    header_lines = 0

    def __init__(self, file: str, every: int | None = None, *, priority: float = 1) -> None:
        super().__init__(every, priority=priority)
        if not isinstance(file, str) or not file or Path(file).name != file or file.startswith("."):
            raise ArgumentError(f"file={file!r}: the plain name of a file in the run's folder is needed")
        self.file = file
        #: How many rows the file has; None where it has not been opened.
        self.rows: int | None = None
        self._keep: int | None = None  # as many of them as a state that was loaded knows of
        self._path: Path | None = None
        self._fitted: Path | None = None  # where the last fit has written
        self._begun: Path | None = None  # what was begun outside a fit
        self._unknown = False  # ... behind a state that was loaded, which does not know of it
        self._before = 0  # rows that a run had when its first fit began
        self._taken: set[int] = set()  # those that were replaced since it was opened
        self._written: Any = None
        self._unsynced = False

    def attach(self, trainer: Any) -> None:
        """Refuse another that writes to the same file."""
        if any(c is not self and isinstance(c, LineLogger) and c.file == self.file for c in trainer.callbacks):
            raise ArgumentError(f"two loggers write to {self.file!r}: give one of them another file=")

    def render(self, row: dict[str, Any]) -> str:
        """Return the line of a row, without its end."""
        raise NotImplementedError(f"{type(self).__name__} has no render(row)")

    def step_of(self, line: str) -> int:
        """Return the step of a row; a ValueError for what is no row."""
        return int(line.split()[0])

    def is_of(self, line: str, step: int, names: set[str]) -> bool:
        """Tell whether a row is of this step and has figures of exactly these names; if so, it can be replaced."""
        return False

    def read_header(self, lines: list[bytes]) -> None:
        """Take in the lines that the file has, as it is opened."""

    def state_key(self) -> str:
        return f"{type(self).__name__}({self.file})"

    def state_dict(self) -> StateDict:
        if self._written is not None and self._unsynced:  # the state must not be on the disk before the rows
            os.fsync(self._written.fileno())
            self._unsynced = False
        return {"rows": self.rows if self._keep is None else self._keep}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._keep = state_dict["rows"]

    def open(self, trainer: Any) -> None:
        self._path = path = folder_of(self, trainer) / self.file
        make_folder(path.parent)
        if trainer.running != "fit" and not self.lines():
            self._begun, self._unknown = path, trainer.progress.step > 0
        elif trainer.running == "fit" and self._unknown and self._begun == path:
            self._keep, self._unknown = None, False
        known, first = path in (self._fitted, self._begun), self._fitted != path and self._keep is None
        if self._keep is None and not known and path.exists() and begins_anew(trainer):
            set_aside(self, path)
        self._cut(trainer, known)
        self._before = (self.rows or 0) if first and not trainer.progress.step else 0
        self._taken = set()
        self._fitted = path if trainer.running == "fit" else self._fitted
        self._written = path.open("ab", buffering=0)
        self.read_header(self.lines())

    def close(self) -> None:
        self._written.close()
        self._written = None

    def write(self, figures: dict[str, float], step: int) -> None:
        line = self._line({"step": step} | figures | {"step": step})
        try:
            whole = self._written.write(line) == len(line)
        except OSError as error:
            raise CheckpointError(f"{self._path} cannot be written: {error.strerror or error}") from error
        if not whole:
            raise CheckpointError(f"{self._path} cannot be written: the disk took a part of the line only")
        self.rows, self._unsynced = (self.rows or 0) + 1, True

    def _line(self, row: dict[str, Any]) -> bytes:
        return self.render(row).encode("utf-8", "backslashreplace") + b"\n"  # a lone surrogate is no UTF-8

    def supersede(self, trainer: Any, figures: dict[str, float], step: int) -> dict[str, float]:
        fit = trainer.running == "fit"
        if not figures or (fit and (not self._before or trainer.progress.step)):  # in a fit this costs nothing
            return figures
        lines, names = self.lines(), set(figures)
        end = self.header_lines + self._before if fit else len(lines)
        for index in range(end - 1, self.header_lines - 1, -1):
            if index not in self._taken and self._is_of(lines[index], step, names):
                self._taken.add(index)
                lines[index] = self._line({"step": step} | figures)
                self.replace(lines)
                return {}
        return {} if self.is_past(trainer) else figures

    def _is_of(self, row: bytes, step: int, names: set[str]) -> bool:
        try:
            return self.is_of(row.decode().rstrip("\n"), step, names)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return False

    def write_hyper_params(self, values: dict[str, Any]) -> None:
        assert self._path is not None
        plain = {n: str(v) if isinstance(v, float) and not math.isfinite(v) else v for n, v in values.items()}
        text = json.dumps(plain, indent=2, allow_nan=False)
        write_bytes(self._path.with_name(HYPER_PARAMS), text.encode() + b"\n")

    def lines(self) -> list[bytes]:
        """The whole lines that the file has, with their ends."""
        if self._path is None or not self._path.exists():
            return []
        *whole, _ = self._path.read_bytes().split(b"\n")
        return [line + b"\n" for line in whole]

    def _cut(self, trainer: Any, known: bool) -> None:
        """Leave whole lines; and, where a fit goes on from a state, those that the state knows of."""
        lines, keep, step = self.lines(), self._keep, trainer.progress.step
        header, rows = lines[: self.header_lines], lines[self.header_lines :]
        if trainer.running == "fit" and keep is not None:
            if lines and len(rows) < keep:
                message = f"{self._path} has {len(rows)} rows of the {keep} that there were: the others are lost"
                warn(message)
            rows, self._keep = rows[:keep], None
        elif trainer.running == "fit" and not known:  # the state knows nothing of this logger
            rows = [row for row in rows if self._belongs(row, step)]
        self.rows = len(rows)
        self.replace(header + rows)

    def _belongs(self, row: bytes, step: int) -> bool:
        try:
            return self.step_of(row.decode()) <= step
        except (ValueError, KeyError, TypeError, IndexError):  # what a power cut can leave
            return False

    def replace(self, lines: list[bytes]) -> None:
        """Give the file other lines: it has all of them, or is as it was."""
        assert self._path is not None
        content = b"".join(lines)
        if self._path.exists() and self._path.read_bytes() != content:
            write_bytes(self._path, content)
        if self._written is not None:
            self._written.close()
            self._written = self._path.open("ab", buffering=0)
