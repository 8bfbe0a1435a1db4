"""The console as a terminal: finished epochs above, and a live view below them. The only module that loads rich."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import get_console
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.table import Column, Table
from rich.text import Text

from .base import Display, while_somebody_reads
from .columns import Columns
from .record import Row
from .words import Part, Words, duration, percent

_STYLES = {"head": "bold", "label": "cyan", "name": "dim", "figure": "", "best": "green", "note": "dim"}


def terminal_of_rich() -> Console | None:
    """Rich's own console, so that what users print through rich comes out above the live view; None if it is none."""
    console = get_console()
    return console if console.is_terminal and console.is_interactive and not console.is_dumb_terminal else None


class Drawn:
    """Lines that are drawn already: shown again, whenever something is printed above them, at no cost of layout."""

    def __init__(self, lines: Iterable[list[Segment]]) -> None:
        self.lines = [_without_trailing_space(line) for line in lines]

    def rows(self, width: int) -> int:
        """How many rows the lines take on a terminal of that width which wraps them."""
        return sum(max(-(-Segment.get_line_length(line) // width), 1) for line in self.lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines:
            yield from line
            yield Segment.line()


class Line:
    """Parts in one row that is wide enough for them: nothing for rich to measure or to wrap, at a third of the cost."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        row: list[Segment] = []
        for text, role in self.parts:
            style = _STYLES[role]
            row += [Segment(text, console.get_style(style) if style else None), Segment("  ")]
        yield from _without_trailing_space(row)
        yield Segment.line()


def _without_trailing_space(line: list[Segment]) -> list[Segment]:
    while line and not line[-1].text.strip():
        line = line[:-1]
    return line


class Terminal(Display):
    """Show bars, speed, times left and figures; redrawn by the clock, in the thread of the run.

    Args:
        trainer: whose run it is.
        console: rich's.
        decimals: of a figure.
        log_batch: show the figures of the epoch in progress.
    """

    INTERVAL = 0.15
    #: About one part in so many of a run's time goes into refreshing: what costs more is done more rarely ...
    SHARE = 250
    #: ... but not so rarely that the view would seem to stand still.
    LONGEST = 1.0
    #: Bars don't grow beyond what an eye can take in.
    WIDEST, NARROWEST = 100, 5
    #: So many epochs all have a line; of more, every second, fifth, tenth ... has one, and those that take long.
    MOST_LINES: float = 500
    LONG = 1.0

    def __init__(self, trainer: Any, console: Console, decimals: int, log_batch: bool) -> None:
        super().__init__(trainer, Words(decimals, console.encoding, cell_len), log_batch)
        self.console = console
        self.columns = Columns(self.words)
        self._widths = [0, 0, 4, 14, 10]  # of what stands around the bars, which grows but does not jump
        self._begins = False
        self._pause = self.INTERVAL
        self._every = 1
        self._untold: tuple[Any, ...] = ()
        self._drawn = Drawn([])
        self._drawn_width = console.width
        same = sys.stderr is not None and sys.stderr.isatty()  # a log that stderr goes to stays its own
        self.live = Live(console=console, auto_refresh=False, redirect_stderr=same)

    def begin_fit(self, trainer: Any, epochs: int, show_info: bool) -> None:
        strides = (n * 10**power for power in range(18) for n in (1, 2, 5))
        self._every = next(n for n in strides if epochs - trainer.progress.epoch <= n * self.MOST_LINES)
        super().begin_fit(trainer, epochs, show_info)
        self.due = time.monotonic() + self.INTERVAL
        self._begins = True

    def begin_task(self, trainer: Any, task: Any) -> float:
        super().begin_task(trainer, task)
        # A loader's first batch may take its time: show what it is that is slow. One cut from memory does not, and a
        # fit that is over before there is something to see needs no live view.
        waits = self._begins and not task.batch_source.is_held
        self._begins = False
        now = time.monotonic()
        if waits or now >= self.due:
            self.draw(trainer)
            self.due = max(self.due, now + self.INTERVAL) if waits else self.due
        return self.due

    def pause(self, cost: float) -> float:
        self._pause = min(max(self.INTERVAL, cost * self.SHARE), self.LONGEST)
        return self._pause

    @property
    def width(self) -> int:
        return self.console.width - 1  # a terminal may wrap after a character in its last column

    def say(self, line: Sequence[Part]) -> None:
        self._print(Line(line) if self.words.wide(line) <= self.width else _text(line))

    def say_head(self, parts: Sequence[str]) -> None:
        lines = [parts[0]]
        for part in parts[1:]:
            longer = self.words.dot.join([lines[-1], part])
            lines[-1:] = [longer] if self.words.measure(longer) <= self.width else [lines[-1], part]
        for line in lines:
            self.say([(line, "head")])
        if self._every > 1:
            self.say([(f"one epoch in {self._every} has a line, and every one of more than a second", "note")])

    def _print(self, *lines: RenderableType) -> None:
        with while_somebody_reads():
            self._follow()
            self.console.print(*lines, sep="\n")

    def say_epoch(
        self, epoch: int, stages: Mapping[str, Mapping[str, Any]], best: Mapping[str, set[str]], seconds: float
    ) -> None:
        told = epoch + 1 in (1, self.record.last) or (epoch + 1) % self._every == 0 or seconds > self.LONG
        self._untold = () if told else (epoch, stages, best, seconds)
        if told:
            self._say_row(epoch, stages, best, seconds)

    def _say_row(
        self, epoch: int, stages: Mapping[str, Mapping[str, Any]], best: Mapping[str, set[str]], seconds: float
    ) -> None:
        groups = {stage: self.words.numbers(figures) for stage, figures in stages.items()}
        names = {stage: {self.words.clean(name) for name in new} for stage, new in best.items()}
        name = self.record.epoch_name(epoch).rjust(5)
        lines = self.columns.lines(name, groups, names, duration(seconds), self.width, self._height(10))
        self._print(*map(Line, lines))

    def end_epoch(self, trainer: Any, train: Mapping[str, Any], val: Mapping[str, Any], epoch: int) -> None:
        super().end_epoch(trainer, train, val, epoch)
        early = self.INTERVAL / 2 if self.live.is_started else 0  # short epochs wait for the clock, like batches
        now = time.monotonic()
        if now >= self.due - early or now - self.record.epoch_began > 2 * self._pause:
            self.after_epoch(trainer)

    def after_epoch(self, trainer: Any) -> None:
        """Bring the live view up to date with the line just written above it."""
        self.draw(trainer)
        self.due = max(self.due, time.monotonic() + self._pause)

    def say_end(self, verdict: Sequence[Part], best: Mapping[str, Mapping[str, str]]) -> None:
        if self._untold:  # the last epoch of a run that was stopped
            self._say_row(*self._untold)
        line = self.words.line(verdict, best, [], None)
        if self.words.wide(line) <= self.width:
            self.say(line)
            return
        self.say(verdict)  # alone on its line, which wraps if the reason is long
        if any(best.values()):
            self.say(self.words.line([], best, [], self.width))

    def _height(self, others: int) -> int:
        return max(self.console.height - others, 3)

    def draw(self, trainer: Any) -> None:
        now = time.monotonic()
        rows = [self.record.run_row(trainer, now)] if self.record.fitting else []
        rows += [row] if (row := self.record.pass_row(trainer, now)) else []
        parts: list[RenderableType] = [self._bars(rows)]
        if self.log_batch or self.record.epoch > self.record.first:
            parts.append(self._figures())
        self._show(Group(Text(""), *parts))

    def _show(self, view: RenderableType) -> None:
        console = self.console
        drawn = Drawn(console.render_lines(view, console.options.update(width=self.width), pad=False))
        with while_somebody_reads():
            if not self.live.is_started:
                self.live.vertical_overflow = "ellipsis"  # stopping has changed it
                self.live.start()
            self._follow()
            self._drawn = drawn
            self.live.update(drawn, refresh=True)

    def _follow(self) -> None:
        """Before anything is written: go up over the rows that a terminal made narrower has added to the view.

        It wraps the lines that are too long for it by now, of which rich knows nothing.
        """
        width, former = self.console.width, self._drawn_width
        self._drawn_width = width
        if self.live.is_started and width < former:
            extra = self._drawn.rows(width) - len(self._drawn.lines)
            one_up = Control((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
            self.console.control(*[one_up] * extra)
            self._drawn = Drawn(Segment.adjust_line_length(line, width - 1, pad=False) for line in self._drawn.lines)
            self.live.update(self._drawn, refresh=True)

    def _bars(self, rows: Sequence[Row]) -> Table:
        words, cells = self.words, []
        for row in rows:
            done = percent(row.fraction) if row.fraction is not None else ""
            cells.append((words.crop(words.clean(row.label), 12), row.count, done, row.pace, row.left))
        for index, column in enumerate(zip(*cells, strict=True)):
            self._widths[index] = max(self._widths[index], *map(words.measure, column))
        behind, room = [2, 3, 4], 0
        for left_out in (None, 3, 4, 2):  # on a narrow terminal the speed, then the time left, then the percentage
            behind = [index for index in behind if index != left_out]
            room = min(self.width, self.WIDEST) - sum(self._widths[i] + 2 for i in (0, 1, *behind))
            if room >= self.NARROWEST:
                break
        table = _grid(3 + len(behind), right=(1, *range(3, 3 + len(behind))))
        for row, texts in zip(rows, cells, strict=True):
            padded = (Text(texts[i].rjust(self._widths[i]), _STYLES["note"] if i > 2 else "") for i in behind)
            table.add_row(Text(texts[0], _STYLES["label"]), texts[1], _bar(row, max(room, 3)), *padded)
        return table

    def _figures(self) -> RenderableType:
        """A table of figures: this epoch's, those of the last validation, and the best."""
        record = self.record
        names = list(dict.fromkeys(name for figures in record.figures.values() for name in figures))
        if not names:
            return Text("", end="")
        rows, longest = self._height(12), max(map(self.words.measure, names))
        for limit in (self.width // 4, 24, 16):  # names are cropped before any are left out
            limit = min(longest, limit, 40)
            across = max(self.width // (limit + 10 * len(record.figures) + 26), 1)
            if rows * across >= len(names):
                break
        across = min(across, -(-len(names) // rows))
        shown = names if len(names) <= rows * across else names[: rows * across - 1]
        each = -(-len(shown) // across)
        blocks = [self._block(shown[i : i + each], limit) for i in range(0, len(shown), each)]
        grid = Table.grid(padding=(0, 4, 0, 0))
        grid.add_row(*blocks)
        more = [Text(f"+{len(names) - len(shown)} more", _STYLES["note"])] if len(shown) < len(names) else []
        return Group(grid, *more)

    def _block(self, names: Sequence[str], limit: int) -> Table:
        record, words = self.record, self.words
        stages = {stage: figures for stage, figures in record.figures.items() if figures}
        table = _grid(len(stages) + 3, right=range(1, len(stages) + 2))
        heads = [*stages, *(["best", ""] if record.best.stages else [])]
        table.add_row("", *(Text(head, _STYLES["label"]) for head in heads))
        for name in names:
            cells = [words.number(figures[name]) if name in figures else "-" for figures in stages.values()]
            best = record.best.of(name)
            table.add_row(
                Text(words.crop(words.clean(name), limit), _STYLES["name"]),
                *(Text(cell) for cell in cells),
                *([Text(words.number(best[0])), Text(f"epoch {best[1] + 1}", _STYLES["note"])] if best else []),
            )
        return table

    def clear(self) -> None:
        self.live.transient = True
        with while_somebody_reads():
            self._follow()
            self.live.stop()

    def close(self, trainer: Any) -> None:
        if self.live.is_started and not self.ended:  # the figures are left as they were: reading them might fail, too
            self.record.forget_unseen()
            self.draw(trainer)
        with while_somebody_reads():
            self.live.stop()


class Bars(Terminal):
    """Show one bar per epoch, which stays on the screen, with the figures behind it."""

    MOST_LINES = math.inf

    def draw(self, trainer: Any) -> None:
        now = time.monotonic()
        row = self.record.pass_row(trainer, now)
        if row is None:
            return
        head = [(self.record.run_row(trainer, now).count, "head")] if self.record.fitting else []
        head += [(self.words.clean(row.label), "label"), (row.count, "note")]
        figures = {"": self.record.figures.get(row.stage, {})}
        tail = [(text, "note") for text in (row.pace, row.left) if text]
        self._show(self._line(head, row, figures if self.log_batch else {}, tail))

    def say_epoch(
        self, epoch: int, stages: Mapping[str, Mapping[str, Any]], best: Mapping[str, set[str]], seconds: float
    ) -> None:
        name, done = self.record.epoch_name(epoch), Row("", "", "", 1.0)
        figures = {"" if stage == "train" else stage: figures for stage, figures in stages.items()}
        line = self._line([(name, "head")], done, figures, [(duration(seconds), "note")])
        if self.live.is_started:  # this epoch's bar stays; the next one's comes with the next refresh
            self._show(Group())
        self._print(line)

    def after_epoch(self, trainer: Any) -> None:
        pass

    def _line(
        self, head: Sequence[Part], row: Row, stages: Mapping[str, Mapping[str, Any]], tail: Sequence[Part]
    ) -> Table:
        """A bar between what stands before and behind it, which gets the room it needs where there is enough."""
        words, room = self.words, min(self.width, 200) - self.words.wide(head) - 4
        numbers = {stage: words.numbers(new) for stage, new in stages.items()}
        figures: list[Part] = []
        # Where there is no room for all, the speed is left out, then the time, validation, and all figures.
        for shown, last in [
            *((numbers, tail[n:]) for n in range(len(tail) + 1)),
            (dict([*numbers.items()][:1]), []),
            ({}, []),
        ]:
            figures = words.line([], shown, last, room - 8)
            if words.wide(figures) <= room - 4:
                break
        table = _grid(3)
        table.add_row(_text(head), _bar(row, min(max(room - words.wide(figures), 4), 20)), _text(figures))
        return table


def _grid(columns: int, right: Sequence[int] = ()) -> Table:
    made = [Column(no_wrap=True, overflow="crop") for _ in range(columns)]
    for index in right:
        made[index].justify = "right"
    return Table.grid(*made, padding=(0, 2, 0, 0))


def _bar(row: Row, width: int) -> ProgressBar:
    if row.fraction is None:
        return ProgressBar(pulse=True, width=width, animation_time=time.monotonic())
    return ProgressBar(total=1, completed=row.fraction, width=width)


def _text(parts: Sequence[Part]) -> Text:
    line = Text()
    for index, (text, role) in enumerate(parts):
        line.append("  " if index else "").append(text, _STYLES[role])
    line.rstrip()
    return line
