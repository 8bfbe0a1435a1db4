"""The console as a notebook's output: one area that shows the run, and is changed as it goes on."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..utils.notebook import Area
from .base import Display
from .record import Row
from .words import Part, Words, duration

#: Epochs in the table; earlier ones are in the history.
MOST_EPOCHS = 20
_BAR = "height:6px;width:100%;max-width:520px;background:#8883;border-radius:3px;overflow:hidden;margin:3px 0 8px"
#: What stands for two spaces, which HTML would make one of.
_GAP = "\N{EM SPACE}"
_DONE = "height:100%;background:#0072b2;width:{:.1f}%"


class Notebook(Display):
    """Show bars, times left and the last epochs as one area of a cell's output, in HTML and as plain text.

    Args:
        trainer: whose run it is.
        decimals: of a figure.
        log_batch: show the figures of the epoch in progress.
    """

    INTERVAL = 0.5
    #: About one part in so many of a run's time goes into refreshing.
    SHARE = 50
    LONGEST = 5.0

    def __init__(self, trainer: Any, decimals: int, log_batch: bool) -> None:
        super().__init__(trainer, Words(decimals), log_batch)
        self._area: Area | None = None
        self._head: list[str] = []
        self._tail: list[str] = []
        self._names: list[tuple[str, str]] = []
        self._epochs: list[tuple[str, dict[tuple[str, str], str], set[tuple[str, str]], str]] = []
        self._seen = 0
        self._rows: list[Row] = []

    def pause(self, cost: float) -> float:
        return min(max(self.INTERVAL, cost * self.SHARE), self.LONGEST)

    def say(self, line: Sequence[Part]) -> None:
        (self._tail if self._seen or self.ended else self._head).append("  ".join(text for text, _ in line))
        self._show()

    def say_epoch(
        self, epoch: int, stages: Mapping[str, Mapping[str, Any]], best: Mapping[str, set[str]], seconds: float
    ) -> None:
        cells = {(stage, n): text for stage, new in stages.items() for n, text in self.words.numbers(new).items()}
        self._names += [key for key in cells if key not in self._names]
        marks = {(stage, self.words.clean(name)) for stage, names in best.items() for name in names}
        self._epochs = [*self._epochs, (self.record.epoch_name(epoch), cells, marks, duration(seconds))][-MOST_EPOCHS:]
        self._seen += 1
        if time.monotonic() >= self.due or self._area is None:  # short epochs wait for the clock, like batches
            self._show()
            self.due = time.monotonic() + self.INTERVAL

    def draw(self, trainer: Any) -> None:
        now = time.monotonic()
        rows = [self.record.run_row(trainer, now)] if self.record.fitting else []
        here = self.record.pass_row(trainer, now)
        self._rows = [*rows, *([here] if here is not None else [])]
        self._show()

    def clear(self) -> None:
        self._rows = []

    def close(self, trainer: Any) -> None:
        if not self.ended and self._area is not None:
            self._show()

    def _show(self) -> None:
        bundle = {"text/html": self._html(), "text/plain": self._text()}
        if self._area is None:
            self._area = Area(bundle)
        else:
            self._area.change(bundle)

    def _about(self, row: Row) -> str:
        """What stands above a bar, with the figures of the pass in progress."""
        figures = self.words.numbers(self.record.figures.get(row.stage, {})) if row.stage and self.log_batch else {}
        shown = [f"{name} {text}" for name, text in figures.items()]
        return "  ".join(part for part in (row.label, row.count, *shown, row.pace, row.left) if part)

    def _html(self) -> str:
        parts = [f"<div>{_plain(line)}</div>" for line in self._head]
        if self._epochs:
            parts.append(self._table())
        for row in self._rows:
            share = 100 * (row.fraction or 0.0)
            bar = f'<div style="{_BAR}"><div style="{_DONE.format(share)}"></div></div>'
            parts.append(f"<div>{_plain(self.words.clean(self._about(row)))}</div>{bar}")
        parts += [f"<div>{_plain(line)}</div>" for line in self._tail]
        return "".join(parts)

    def _table(self) -> str:
        heads = "".join(f"<th>{_plain(f'{stage} {name}')}</th>" for stage, name in self._names)
        rows = []
        for name, cells, best, seconds in self._epochs:
            shown = [
                f"<td><b>{cells[key]}</b></td>" if key in best else f"<td>{cells.get(key, '-')}</td>"
                for key in self._names
            ]
            rows.append(f"<tr><td>{_plain(name)}</td>{''.join(shown)}<td>{seconds}</td></tr>")
        earlier = self._seen - len(self._epochs)
        note = f"<div>{earlier:,} earlier epochs</div>" if earlier else ""
        return f"{note}<table><tr><th>epoch</th>{heads}<th>time</th></tr>{''.join(rows)}</table>"

    def _text(self) -> str:
        """The same without markup, for front ends that show none."""
        lines = list(self._head)
        for name, cells, _, seconds in self._epochs:
            groups: dict[str, dict[str, str]] = {}
            for (stage, figure), text in cells.items():
                groups.setdefault(stage, {})[figure] = text
            parts = self.words.line([(f"epoch {name}", "head")], groups, [(f"({seconds})", "note")], None)
            lines.append("  ".join(text for text, _ in parts))
        lines += [self.words.clean(self._about(row)) for row in self._rows]
        return "\n".join([*lines, *self._tail])


def _plain(text: str) -> str:
    return html.escape(text, quote=True).replace("  ", _GAP)
