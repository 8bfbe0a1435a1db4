"""What charts of every kind need: series as points, round numbers for axes, names that can be shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from unicodedata import combining, east_asian_width

#: The points of a line by its name: x and y, one of each per point.
Lines = dict[str, tuple[list[float], list[float]]]

#: Smaller numbers are as good as none, and too small to calculate with.
_TINY = 1e-290


def as_lines(series: Any) -> Lines:
    """Make lines of what callers have: y per name, counted from 1, or ``(x, y)`` per name; or one bare y.

    Example:
        >>> as_lines({"a": [0.5, 0.25], "b": ([2, 4], [1, 3])})
        {'a': ([1.0, 2.0], [0.5, 0.25]), 'b': ([2.0, 4.0], [1.0, 3.0])}
    """
    named = series if isinstance(series, Mapping) else {"": series}
    lines: Lines = {}
    for name, values in named.items():
        pair = isinstance(values, tuple) and len(values) == 2 and all(hasattr(part, "__len__") for part in values)
        xs, ys = values if pair else (range(1, len(values) + 1), values)
        lines[str(name)] = ([float(x) for x in xs], [float(y) for y in ys])
    return lines


def bounds(values: Sequence[float]) -> tuple[float, float] | None:
    """The least and the greatest finite value, a little apart where they are one; None where there is none.

    Example:
        >>> bounds([1.0, math.nan, 3.0]), bounds([2.0]), bounds([math.inf])
        ((1.0, 3.0), (1.0, 3.0), None)
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    if math.isinf(high - low):  # of opposite sign and near the greatest float: half of each can be subtracted
        return low / 2, high / 2
    if high - low > max(1e-12 * max(abs(low), abs(high)), _TINY):
        return low, high
    room = abs(high) / 2 if abs(high) > _TINY else 1.0
    return low - room, high + room


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers between two, at distances of 1, 2 or 5 times a power of ten.

    Example:
        >>> ticks(0.07, 1.6)
        [0.5, 1.0, 1.5]
    """
    rough = (high - low) / max(count, 1)
    if not rough > 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999), math.inf)
    if not 1e-290 < step < 1e308:
        return [low, high]
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12 - math.floor(math.log10(step))) if step < 1e12 else index * step
            for index in range(first, last + 1)] or [low]  # fmt: skip


def number(value: float) -> str:
    """Write a number shortly: four digits that say something.

    Example:
        >>> number(0.12345), number(12345.6), number(3e-5), number(math.nan)
        ('0.1235', '12350', '3e-05', 'nan')
    """
    text = f"{value:.4g}"
    if math.isfinite(value) and 1e4 <= abs(value) < 1e6:
        text = f"{float(text):.0f}"
    return "0" if text == "-0" else text


def printable(text: Any) -> str:
    """Make a name one that can be shown on a line: no control characters, no line breaks, no half characters.

    Example:
        >>> printable("a" + chr(27) + "[2J" + chr(10) + "b")
        'a?[2J b'
    """
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in str(text))
    return shown.encode("utf-8", "replace").decode("utf-8")


def wide(text: str) -> int:
    """How many columns a text takes on a terminal: two for each character of the East, none for an accent.

    Example:
        >>> wide("loss"), wide("损失"), wide("e" + chr(0x301))
        (4, 4, 1)
    """
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(c) in "WF" else 0 if combining(c) else 1 for c in text)


def thinned(xs: Sequence[float], ys: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """Leave out points that a picture has no room for: of every stretch the least and the greatest stay, in order.

    Example:
        >>> xs, ys = thinned(range(1000), [x % 7 for x in range(1000)], 10); len(xs) <= 10, min(ys), max(ys)
        (True, 0, 6)
    """
    if len(xs) <= most:
        return list(xs), list(ys)
    stretches, kept = max(most // 2 - 1, 1), {0, len(xs) - 1}
    for index in range(stretches):
        part = range(index * len(xs) // stretches, (index + 1) * len(xs) // stretches)
        finite = [i for i in part if math.isfinite(ys[i])] or list(part)[:1]
        kept |= {min(finite, key=ys.__getitem__), max(finite, key=ys.__getitem__)}
    return [xs[i] for i in sorted(kept)], [ys[i] for i in sorted(kept)]
