"""What every console says and when; how it is put on the screen is up to the kind of console."""

from __future__ import annotations

import errno
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .record import Record, about_run, epochs_done
from .words import Part, Words, duration, plural


class Display:
    """The console during one run and the runs inside it.

    Args:
        trainer: whose run it is.
        words: how it writes.
        log_batch: show the figures of the epoch in progress.
    """

    #: Seconds between two looks at an epoch in progress.
    INTERVAL = 10.0

    def __init__(self, trainer: Any, words: Words, log_batch: bool = True) -> None:
        now = time.monotonic()
        self.words, self.log_batch = words, log_batch
        self.record = Record(trainer, None, now)
        self.ended = False
        self.due = now + self.INTERVAL
        self._evaluation_began = now
        self._idle = False

    def begin_fit(self, trainer: Any, epochs: int, show_info: bool) -> None:
        """A fit begins: say of what; where all its epochs are done, that has been said, and there is no more to say."""
        self.record = Record(trainer, epochs, time.monotonic())
        self._idle = 0 < epochs <= epochs_done(trainer)
        if show_info and not self._idle:
            self.say_head(about_run(trainer, self.words))

    def begin_task(self, trainer: Any, task: Any) -> float:
        """A task begins; return when the next refresh is due."""
        now = time.monotonic()
        if trainer.running != "fit" and trainer.progress.task == 0:
            self._evaluation_began = now
        self.record.begin(trainer, task, now)
        return self.due

    def refresh(self, trainer: Any) -> float:
        """Show the epoch in progress; return when the next refresh is due."""
        began = time.thread_time()
        if self.log_batch:
            self.record.look(trainer)
        self.draw(trainer)
        self.due = time.monotonic() + self.pause(time.thread_time() - began)
        return self.due

    def pause(self, cost: float) -> float:
        """How many seconds to the next refresh, after one that cost so much of the run's own time."""
        return self.INTERVAL

    def end_epoch(self, trainer: Any, train: Mapping[str, Any], val: Mapping[str, Any], epoch: int) -> None:
        """An epoch is over: say what it came to."""
        best, now = self.record.end_epoch(train, val, epoch), time.monotonic()
        self.say_epoch(epoch, {"train": train, "val": val}, best, now - self.record.epoch_began)

    def end_evaluation(self, trainer: Any, figures: Mapping[str, Any]) -> None:
        """A test or a validation by itself is over: say what it came to."""
        stage = "val" if trainer.running == "val" else "test"
        if not self.record.fitting:
            self.ended = True
            self.clear()
        seconds = duration(time.monotonic() - self._evaluation_began)
        line = self.words.line(
            [(stage, "label")], {"": self.words.numbers(figures)}, [(f"({seconds})", "note")], self.width
        )
        self.say(line)

    def end_fit(self, trainer: Any) -> None:
        """A fit is over, whether it ran to its end or was stopped: say why, how long it took, and the best of it."""
        self.ended = True
        self.clear()
        if self._idle and not self.record.ended and not trainer.stopping:
            return
        verdict = self._verdict(trainer, duration(time.monotonic() - self.record.began))
        best = self.record.best
        figures = {
            self.words.clean(name): f"{self.words.number(value)} (epoch {epoch + 1})"
            for name, (value, epoch) in best.stages.get(best.judge, {}).items()
        }
        self.say_end([(verdict, "head")], {f"best {best.judge}": figures})

    def _verdict(self, trainer: Any, seconds: str) -> str:
        progress, record, words = trainer.progress, self.record, self.words
        if not trainer.stopping:
            return f"{plural(record.ended, 'epoch')} in {seconds}"
        before = "before the first epoch"
        where = f"after epoch {record.epoch_name(progress.epoch - 1).strip()}" if progress.epoch else before
        if progress.stage:
            name = record.epoch_name(progress.epoch).strip()
            at = f"{progress.stage} batch {progress.batch}" if progress.batch else f"before any {progress.stage} batch"
            where = f"in epoch {name}, {at}"
        return f"stopped {where}, {seconds}: {words.clean(trainer.stop_reason.strip().partition(chr(10))[0])}"

    def say_head(self, parts: Sequence[str]) -> None:
        """Write what the run is of."""
        self.say([(self.words.dot.join(parts), "head")])

    def say_epoch(
        self, epoch: int, stages: Mapping[str, Mapping[str, Any]], best: Mapping[str, set[str]], seconds: float
    ) -> None:
        """Write what an epoch came to."""
        groups = {stage: self.words.numbers(figures) for stage, figures in stages.items()}
        head = (f"epoch {self.record.epoch_name(epoch)}", "head")
        self.say(self.words.line([head], groups, [(f"({duration(seconds)})", "note")], self.width))

    def say_end(self, verdict: Sequence[Part], best: Mapping[str, Mapping[str, str]]) -> None:
        """Write the last line."""
        self.say(self.words.line(verdict, best, [], self.width))

    @property
    def width(self) -> int | None:
        """The columns of a line; None where it may be of any length."""
        return None

    def say(self, line: Sequence[Part]) -> None:
        """Write a line that stays."""
        raise NotImplementedError

    def draw(self, trainer: Any) -> None:
        """Show the epoch in progress."""
        raise NotImplementedError

    def clear(self) -> None:
        """Take what is not to stay off the screen."""

    def close(self, trainer: Any) -> None:
        """Leave the console as it was found; the state of a run that failed stays on the screen."""


class Silent(Display):
    """Show nothing."""

    def begin_fit(self, trainer: Any, epochs: int, show_info: bool) -> None:
        pass

    def begin_task(self, trainer: Any, task: Any) -> float:
        return math.inf

    def end_epoch(self, trainer: Any, train: Mapping[str, Any], val: Mapping[str, Any], epoch: int) -> None:
        pass

    def end_evaluation(self, trainer: Any, figures: Mapping[str, Any]) -> None:
        pass

    def end_fit(self, trainer: Any) -> None:
        pass


@contextmanager
def while_somebody_reads() -> Iterator[None]:
    """Let output end quietly, and the run go on, when nobody is left to read it.

    That is a closed pipe (``python train.py | head``) or a terminal that is gone: hours of training are worth more
    than their log. Standard output then leads nowhere, so that neither the users' own prints nor the flush at exit
    fail over it. Any other error of drawing is raised.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        _lead_nowhere()
    except SystemExit as error:  # what rich makes of a closed pipe
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        _lead_nowhere()


def _lead_nowhere() -> None:
    try:
        out = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # a stream of the user's own making, without a file behind it
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, out)
    os.close(nowhere)
