"""Charts and tables made of characters: for terminals, logs, and machines without matplotlib."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .scales import as_lines, bounds, number, printable, thinned, ticks, wide

#: Columns and lines below which there is nothing to see.
NARROWEST, LOWEST = 20, 3
#: A terminal's line may be longer than what an eye follows.
WIDEST = 100


@dataclass(frozen=True)
class Signs:
    """What a chart is made of.

    Args:
        across: points per character, from left to right.
        down: points per character, from top to bottom.
        frame: of an axis: its line, a tick on it, its corner, its foot, a tick on that.
        gap: what stands for what was left out of a name.
    """

    across: int
    down: int
    frame: str
    gap: str

    def draw(self, cell: dict[int, int]) -> str:
        """The character that shows a cell's points: by line, a bit for each of them."""
        if self.across == 1:
            return _MARKS[min(cell) % len(_MARKS)]
        bits = 0
        for of_line in cell.values():
            bits |= of_line
        return chr(0x2800 + bits)


UNICODE, ASCII = Signs(2, 4, "│┤└─┬", "…"), Signs(1, 1, "|++-+", "~")
_MARKS = "*o+x#@"
#: The bit of each point of a Braille character, by its place in the character (x, y).
_BRAILLE = {(0, 0): 1, (0, 1): 2, (0, 2): 4, (1, 0): 8, (1, 1): 16, (1, 2): 32, (0, 3): 64, (1, 3): 128}
#: How lines are told apart where a chart has no colours: so many points drawn, then so many left out.
_DASHES = ((1, 0), (1, 2), (6, 3), (1, 4))
_SAMPLES = ("⠒⠒", "⠂⠂", "⠒ ", "⠂ ")


def signs_for(stream: Any = None) -> Signs:
    """Choose what a stream (standard output by default) can show: Braille and lines, or plain ASCII."""
    stream = sys.stdout if stream is None else stream
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return ASCII
    try:
        ("⣿" + UNICODE.frame + UNICODE.gap).encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def line_chart(
    series: Any,
    *,
    title: str = "",
    x_label: str = "",
    width: int | None = None,
    height: int = 10,
    ascii: bool | None = None,
) -> str:
    """Draw lines with characters, each with its name and last value at its end where there is room, else below.

    NaN and infinity interrupt a line, and are counted beside its name.

    Args:
        series: ``{name: values}`` or ``{name: (x, y)}``; values alone are one line without a name.
        title: stands above.
        x_label: what x is; stands beside its numbers where there is room.
        width: columns, from 20 on; by default those of the terminal, at most 100.
        height: lines of the picture itself, from 3 on.
        ascii: whether to keep to ASCII; by default where standard output takes nothing else, or TERM is ``dumb``.

    Returns:
        The lines, without a line break at the end; none is longer than `width`.

    Raises:
        ArgumentError: `width` or `height` is too small.

    Example:
        >>> print(line_chart([3, 2, 1], width=24, height=3, ascii=True))
        3 +*****
          |     *********
        1 +              ***** 1
          ++--------+--------+
           1        2        3
    """
    if width is None:
        width = max(min(shutil.get_terminal_size().columns, WIDEST), NARROWEST)
    for name, value, least in (("width", width, NARROWEST), ("height", height, LOWEST)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(f"{name}={value!r}: an int from {least} on is needed")
    signs = signs_for() if ascii is None else ASCII if ascii else UNICODE
    head = [_crop(_shown(title, signs), width, signs)] if title else []
    return "\n".join(head + _Chart(series, width, height, signs).lines(_shown(x_label, signs)))


class _Chart:
    """One picture of lines: what is where, and then the characters for it."""

    def __init__(self, series: Any, width: int, height: int, signs: Signs) -> None:
        self.width, self.height, self.signs = width, height, signs
        self.series = as_lines(series)
        self.y = bounds([y for _, ys in self.series.values() for y in ys])
        self.x = [x for xs, ys in self.series.values() for x, y in zip(xs, ys, strict=True) if math.isfinite(x + y)]
        if self.y is None or not self.x:
            return
        low, high = self.y
        self.y_ticks = {height - 1: number(low), 0: number(high)}
        for value in ticks(low, high, max(height // 4, 1)):
            if all(abs(self._row(value) - row) > 1 for row in self.y_ticks):
                self.y_ticks[self._row(value)] = number(value)
        self.left = max(map(len, self.y_ticks.values()))
        ends = [self._legend(index) for index in range(len(self.series))]
        room = max(map(wide, ends)) + 1
        self.ends = ends if len(ends) <= height and self.width - self.left - 2 - room >= max(16, width // 2) else []
        self.columns = self.width - self.left - 2 - (room if self.ends else 0)
        #: line and column of a character -> number of a line -> the points of it that lie there.
        self.cells: dict[tuple[int, int], dict[int, int]] = {}
        for index in range(len(self.series)):
            self._draw(index)

    def lines(self, x_label: str) -> list[str]:
        """The picture, its axes, and the names."""
        if self.y is None or not self.x:
            return ["(no numbers yet)", *self._below()]
        ends = self._end_rows()
        line, tick = self.signs.frame[0], self.signs.frame[1]
        rows = []
        for row in range(self.height):
            marks = "".join(self._character(row, column) for column in range(self.columns))
            label, axis = self.y_ticks.get(row, ""), tick if row in self.y_ticks else line
            rows.append(f"{label:>{self.left}} {axis}{marks}{' ' + ends[row] if row in ends else ''}".rstrip())
        return [*rows, *self._foot(x_label), *([] if self.ends else self._below())]

    def _character(self, row: int, column: int) -> str:
        cell = self.cells.get((row, column))
        return self.signs.draw(cell) if cell else " "

    def _row(self, value: float) -> int:
        """The line of characters that a value lies on, from the top."""
        return self._point(value) // self.signs.down

    def _point(self, value: float) -> int:
        """The row of points that a value lies on, from the top."""
        assert self.y is not None
        low, high = self.y
        return round((high / 2 - value / 2) / (high / 2 - low / 2) * (self.height * self.signs.down - 1))

    def _place(self, x: float) -> int:
        """The column of points that an x lies on."""
        low, high = min(self.x), max(self.x)
        last = self.columns * self.signs.across - 1
        return last // 2 if high <= low else round((x - low) / (high - low) * last)

    def _draw(self, index: int) -> None:
        xs, ys = list(self.series.values())[index]
        drawn, left_out = (1, 0) if self.signs.across == 1 else _DASHES[index % len(_DASHES)]
        former: tuple[int, int] | None = None
        done, alone = 0, False
        for x, y in zip(*thinned(xs, ys, 4 * self.columns * self.signs.across), strict=True):
            if not math.isfinite(x + y):
                self._blot(index, former if alone else None)
                former, alone = None, False
                continue
            point = self._place(x), self._point(y)
            for place in _between(former, point):
                if done % (drawn + left_out) < drawn:
                    self._mark(index, *place)
                done += 1
            alone, former = former is None or (alone and point == former), point
        self._blot(index, former if alone else None)

    def _blot(self, index: int, place: tuple[int, int] | None) -> None:
        """Make a point that no line leads to big enough to be seen."""
        if place is not None and self.signs.across > 1:
            for shift in ((0, 0), (1, 0), (0, 1), (1, 1)):
                column, row = min(place[0] // 2 * 2 + shift[0], self.columns * 2 - 1), place[1] + shift[1]
                self._mark(index, column, min(row, self.height * self.signs.down - 1))

    def _mark(self, index: int, column: int, row: int) -> None:
        signs = self.signs
        cell = self.cells.setdefault((row // signs.down, column // signs.across), {})
        bit = _BRAILLE[column % 2, row % 4] if signs.across == 2 else 1
        cell[index] = cell.get(index, 0) | bit

    def _legend(self, index: int) -> str:
        name, (_, ys) = list(self.series.items())[index]
        signs, finite = self.signs, [y for y in ys if math.isfinite(y)]
        sample = _MARKS[index % len(_MARKS)] if signs.across == 1 else _SAMPLES[index % len(_SAMPLES)]
        parts = [sample] if len(self.series) > 1 else []
        parts += [_crop(_shown(name, signs), 20, signs)] if name else []
        parts += [number(finite[-1])] if finite else []
        lost = len(ys) - len(finite)
        return " ".join([*parts, *([f"({lost} not finite)"] if lost else [])])

    def _end_rows(self) -> dict[int, str]:
        """Line of the picture -> the name that stands beside it: where its curve ends, or as near as there is room."""
        wanted = []
        for (_, ys), end in zip(self.series.values(), self.ends, strict=False):
            finite = [y for y in ys if math.isfinite(y)]
            wanted.append((self._row(finite[-1]) if finite else self.height - 1, end))
        placed: list[tuple[int, str]] = []
        for row, end in sorted(wanted, key=lambda pair: pair[0]):
            placed.append((max(row, placed[-1][0] + 1) if placed else row, end))
        limit = self.height - 1
        for index in reversed(range(len(placed))):  # what was pushed over the lower edge pushes the others up
            placed[index] = (min(placed[index][0], limit), placed[index][1])
            limit = placed[index][0] - 1
        return dict(placed)

    def _foot(self, x_label: str) -> list[str]:
        corner, foot, tick = tuple(self.signs.frame[2:])
        low, high = min(self.x), max(self.x)
        values = ticks(low, high, max(self.columns // 12, 1)) if high > low else [low]
        if all(x == int(x) for x in self.x):
            values = [value for value in values if value == int(value)]
        line, labels, end = [foot] * self.columns, [" "] * self.width, -1
        for value in dict.fromkeys([low, *values, high]):
            column, text = self._place(value) // self.signs.across, number(value)
            start = min(max(self.left + 2 + column - len(text) // 2, self.left + 1), self.width - len(text))
            last = value == high
            if start <= end or (not last and start + len(text) + 1 > self._last_label(high)):
                continue
            line[column], end = tick, start + len(text)
            labels[start:end] = text
        if x_label and end + 1 + wide(x_label) <= self.width:
            labels[end + 1 : end + 1 + len(x_label)] = x_label
        return [" " * (self.left + 1) + corner + "".join(line), "".join(labels).rstrip()]

    def _last_label(self, high: float) -> int:
        """Where the label of the greatest x begins, which is always there."""
        text = number(high)
        return min(self.left + 2 + self._place(high) // self.signs.across - len(text) // 2, self.width - len(text))

    def _below(self) -> list[str]:
        """The names in lines of their own."""
        lines: list[str] = []
        for index in range(len(self.series)):
            entry = _crop(self._legend(index), self.width - 1, self.signs)
            if lines and wide(lines[-1]) + 3 + wide(entry) <= self.width:
                lines[-1] += "   " + entry
            elif entry:
                lines.append(" " + entry)
        return lines


def _between(former: tuple[int, int] | None, point: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The points on the way from one to another, without the first; without a first, the other alone."""
    if former is None:
        yield point
        return
    across, down = point[0] - former[0], point[1] - former[1]
    steps = max(abs(across), abs(down))
    for step in range(1, steps + 1):
        yield former[0] + round(across * step / steps), former[1] + round(down * step / steps)


def confusion_table(
    matrix: Any, names: Sequence[Any] | None = None, *, decimals: int = 2, ascii: bool | None = None
) -> str:
    """Write a confusion matrix, rows = targets, as text with its names; zeros are dots, for the others to be seen.

    Args:
        matrix: an array or tensor (C, C).
        names: of the classes; by default 0 to C - 1.
        decimals: of numbers that are no integers.
        ascii: whether to keep to ASCII; by default where standard output takes nothing else.

    Raises:
        ArgumentError: the matrix is not (C, C), or there are not C names.

    Example:
        >>> print(confusion_table([[3, 1], [0, 2]], ["cat", "dog"]))
        target  cat  dog
           cat    3    1
           dog    .    2
    """
    values, labels = as_matrix(matrix, names)
    signs = signs_for() if ascii is None else ASCII if ascii else UNICODE
    shown = [_crop(_shown(label, signs), 16, signs) for label in labels]
    cells = [["." if value == 0 else _cell(value, values, decimals) for value in row] for row in values]
    columns = zip(shown, zip(*cells, strict=True), strict=True)
    widths = [max(map(wide, ["target", *shown]))]
    widths += [max(wide(label), *map(len, column)) for label, column in columns]
    lines = [["target", *shown], *([label, *row] for label, row in zip(shown, cells, strict=True))]
    return "\n".join("  ".join(" " * (w - wide(c)) + c for c, w in zip(row, widths, strict=True)) for row in lines)


def as_matrix(matrix: Any, names: Sequence[Any] | None = None) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Check a square matrix and the names of its classes; return both, as an array and as strings.

    Raises:
        ArgumentError: the matrix is not (C, C), or there are not C names.

    Example:
        >>> as_matrix(torch.eye(2))[1]
        ['0', '1']
    """
    values = np.asarray(matrix.detach().cpu() if hasattr(matrix, "detach") else matrix)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise ArgumentError(f"a confusion matrix has shape (C, C), not {values.shape}")
    labels = [str(name) for name in (range(len(values)) if names is None else names)]
    if len(labels) != len(values):
        raise ArgumentError(f"there are {len(labels)} class names for a matrix of {len(values)} classes")
    return values, labels


def normalized(matrix: Any, by: str | None) -> np.ndarray[Any, Any]:
    """Turn the counts of a confusion matrix into shares; what has no samples has shares of 0.

    Args:
        matrix: an array or tensor (C, C).
        by: ``'true'`` of each target's samples (rows), ``'pred'`` of each prediction's, ``'all'`` of all; None counts.

    Raises:
        ArgumentError: `by` is none of these.

    Example:
        >>> normalized([[3, 1], [0, 2]], "true").tolist()
        [[0.75, 0.25], [0.0, 1.0]]
    """
    values, _ = as_matrix(matrix)
    axes: dict[str | None, Any] = {"true": 1, "pred": 0, "all": None}
    if by is None:
        return values
    if by not in axes:
        raise ArgumentError(f"normalize={by!r}: 'true', 'pred', 'all' or None is needed")
    total = values.sum(axis=axes[by], keepdims=True).astype(float)
    shares: np.ndarray[Any, Any] = np.divide(values, total, out=np.zeros(values.shape), where=total != 0)
    return shares


def _cell(value: Any, values: np.ndarray[Any, Any], decimals: int) -> str:
    return str(int(value)) if is_whole(values) else f"{value:.{decimals}f}"


def is_whole(values: np.ndarray[Any, Any]) -> bool:
    """Whether all numbers are integers, whatever their type."""
    return bool(np.issubdtype(values.dtype, np.integer) or np.all(values == np.round(values)))


def _shown(text: Any, signs: Signs) -> str:
    clean = printable(text)
    return clean.encode("ascii", "replace").decode() if signs.across == 1 else clean


def _crop(text: str, width: int, signs: Signs) -> str:
    """Shorten a name in its middle: names that begin alike are told by how they end."""
    if wide(text) <= width:
        return text
    tail = width // 2
    return _first(text, width - 1 - tail) + signs.gap + _first(text[::-1], tail)[::-1]


def _first(text: str, width: int) -> str:
    while wide(text) > width:
        text = text[: min(width, len(text) - 1)]
    return text
