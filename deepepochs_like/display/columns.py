"""Finished epochs as a table that grows downwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .words import Groups, Part, Words

#: A column: its stage and name, and how wide it is.
Column = tuple[str, str, int]

_TIME = 8


class Columns:
    """Write one aligned line per epoch, and the names above them: at first, when they change, and once a screen.

    Args:
        words: how figures and names are written.
    """

    def __init__(self, words: Words) -> None:
        self.words = words
        self._values: dict[tuple[str, str], int] = {}
        self._shown: list[Column] = []
        self._since = 0

    def lines(
        self, epoch: str, groups: Groups, best: Mapping[str, set[str]], time: str, width: int, height: int
    ) -> list[list[Part]]:
        """Return an epoch's line, after a new heading where one is due."""
        for stage, figures in groups.items():
            for name, value in figures.items():
                self._values[stage, name] = max(len(value), self._values.get((stage, name), 0))
        columns = self._fit(width - len(epoch) - _TIME - 4)
        lines: list[list[Part]] = []
        if columns != self._shown or self._since >= height:
            lines, self._shown, self._since = self._heading(columns, len(epoch)), columns, 0
        self._since += 1
        line: list[Part] = [(epoch, "head")]
        former = ""
        for stage, name, wide in columns:
            value = groups.get(stage, {}).get(name, "-")
            gap, former = " " if stage != former else "", stage
            line.append((gap + value.rjust(wide), "best" if name in best.get(stage, ()) else "figure"))
        return [*lines, [*line, (time.rjust(_TIME), "note")]]

    def _fit(self, width: int) -> list[Column]:
        """All columns where they fit, with names cropped as need be; else as many first ones of every stage."""
        stages: dict[str, list[str]] = {}
        for stage in ("train", "val"):
            stages[stage] = [name for s, name in self._values if s == stage]
        most = max(map(len, stages.values()))
        columns: list[Column] = []
        for limit, count in [*((n, most) for n in (24, 16, 12, 8)), *((8, n) for n in range(most - 1, 0, -1))]:
            columns = [
                (stage, name, max(self._values[stage, name], min(self.words.measure(name), limit)))
                for stage, names in stages.items()
                for name in names[:count]
            ]
            if sum(wide + 2 for *_, wide in columns) + len([s for s in stages.values() if s]) <= width:
                break
        return columns

    def _heading(self, columns: Sequence[Column], first: int) -> list[list[Part]]:
        measure = self.words.measure
        over: list[Part] = [(" " * first, "head")]
        names: list[Part] = [("epoch".rjust(first), "head")]
        former = ""
        for stage, name, wide in columns:
            gap = " " if stage != former else ""
            label = stage if stage != former else ""
            former, shown = stage, self.words.crop(name, wide)
            over.append((gap + label.rjust(wide), "label"))
            names.append((gap + " " * (wide - measure(shown)) + shown, "name"))
        left_out = len(self._values) - len(columns)
        names.append(("time".rjust(_TIME), "name"))
        if left_out:
            over.append((f"+{left_out} more".rjust(_TIME), "note"))
        return [over, names]
