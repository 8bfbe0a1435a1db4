"""`CSVLogger`: figures as rows of a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import refuse_unknown
from .line_logger import LineLogger


class CSVLogger(LineLogger):
    """Write every set of figures as a row to ``metrics.csv`` in the run's folder; see `Logger`.

    The first column is the step. What a row has no figure for stays empty; NaN and the infinities are ``nan``, ``inf``
    and ``-inf``. A figure that appears later gets a column
    behind the others: the file is then written anew, and replaced as a whole. A resumed run continues it without
    overlap or gap; a test that is run again at a step replaces its row, see `LineLogger`.
    Hyper-parameters go to ``hyper_params.json`` beside it.

    Args:
        file: the file's name.
        every: also write a batch's figures, ``train_batch/loss``, after every so many updates.
        priority: its place among the callbacks.

    Raises:
        ArgumentError: `file` is no plain name, or `every` no int from 1 on.

    Example:
        >>> import tempfile, pathlib
        >>> from deepepochs_like import Trainer
        >>> net = torch.nn.Linear(2, 1); data = [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Trainer(net, torch.nn.functional.mse_loss, epochs=2, callbacks=CSVLogger(), verbose=0,
        ...                   folder=folder, running_id="a")
        ...     history = run.fit(data)
        ...     print((pathlib.Path(folder) / "a" / "metrics.csv").read_text().splitlines()[0])
        step,epoch,train/loss,lr
    """

    header_lines = 1

    def __init__(
        self, file: str = "metrics.csv", every: int | None = None, *, priority: float = 1, **unknown: NoReturn
    ) -> None:
        refuse_unknown("CSVLogger", unknown, CSVLogger.__init__)
        super().__init__(file, every, priority=priority)
        self.columns: list[str] = []

    def read_header(self, lines: list[bytes]) -> None:
        self.columns = next(csv.reader([lines[0].decode("utf-8-sig", "replace")])) if lines else []

    def render(self, row: dict[str, Any]) -> str:
        row = {_column(name): value for name, value in row.items()}
        if new := [name for name in row if name not in self.columns]:
            self._widen(new)
        return _line([row.get(name, "") for name in self.columns])

    def step_of(self, line: str) -> int:
        return int(line.split(",", 1)[0])

    def is_of(self, line: str, step: int, names: set[str]) -> bool:
        if not line.startswith(f"{step},"):
            return False
        filled = {name for name, cell in zip(self.columns, next(csv.reader([line])), strict=True) if cell}
        return filled == {_column(name) for name in names} | {"step"}

    def _widen(self, new: list[str]) -> None:
        rows = self.lines()[1:]
        self.columns += new
        empty = b"," * len(new) + b"\n"
        self.replace([_line(self.columns).encode() + b"\n", *(row.rstrip(b"\r\n") + empty for row in rows)])


def _column(name: str) -> str:
    """A column's name: one line, and UTF-8."""
    return " ".join(name.split()).encode("utf-8", "backslashreplace").decode()


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
