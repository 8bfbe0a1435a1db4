"""The console as a file: whole lines, each written at once, without control characters."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from .base import Display, while_somebody_reads
from .words import Part, percent


class Plain(Display):
    """Write a line per epoch, and one every ten seconds where an epoch takes longer."""

    def say(self, line: Sequence[Part]) -> None:
        stream = sys.stdout  # looked up now: it may be redirected in mid-run
        if stream is None:  # a program without a console
            return
        with while_somebody_reads():
            stream.write("  ".join(text for text, _ in line) + "\n")
            stream.flush()

    def draw(self, trainer: Any) -> None:
        record, words, now = self.record, self.words, time.monotonic()
        row = record.pass_row(trainer, now)
        if row is None:
            return
        shown = self.log_batch and (trainer.running == "fit" or not record.fitting)
        figures = words.numbers(record.figures.get(row.stage, {})) if shown else {}
        head = [(words.clean(row.label), "label"), (row.count, "note")]
        tail = [(row.pace, "note"), (row.left, "note")]
        if trainer.running == "fit":
            run = record.run_row(trainer, now)
            head = [(f"epoch {record.epoch_name(trainer.progress.epoch)}", "head"), *head]
            tail = [*tail, (f"(run: {run.left})" if run.left else "", "note")]
        if row.fraction is not None:
            head.append((percent(row.fraction), "note"))
        self.say(words.line(head, {"": figures}, [part for part in tail if part[0]], None))
