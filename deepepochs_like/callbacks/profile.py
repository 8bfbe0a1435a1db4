"""`Profile`: torch's profiler for chosen updates of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..display.words import Words
from ..errors import ArgumentError, ArgumentTypeError, refuse_unknown
from ..utils.warn import warn
from .base import Callback

_WORDS = Words(encoding="ascii")
#: How wide an operation's name may be in the table.
_NAME = 40


class Profile(Callback):
    """Profile the updates from `steps`' first up to its last, and write what torch's profiler saw to a file.

    The file, ``profile-10-20.json`` in the run's folder, is a Chrome trace: open it in ``chrome://tracing`` or at
    https://ui.perfetto.dev. `table` has the operations that took longest. It begins with the first batch of the update
    and ends with the last one's, so that a run which ends before, or is resumed in between, has a shorter trace. Within
    these updates a run is slower than it is; outside of them the callback looks at a number per batch.

    Args:
        steps: the update to begin with, counted from 0, and the one to end before.
        memory: note what operations allocate.
        shapes: note the shapes of what goes into operations.
        stacks: note the lines of Python that they were called from.
        top: how many operations the table has.
        show: print the table, but for ``Trainer(verbose=0)``.
        priority: its place among the callbacks.

    Attributes:
        trace: the file that was written; None before.
        operations: the operations that took longest: dicts with ``name``, ``calls``, ``seconds`` (its own, without
            those that it calls), ``share``, and on a GPU ``device_seconds``.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> Profile(steps=(100, 110)).steps
        (100, 110)
    """

    keeps_files = True

    def __init__(
        self,
        steps: Sequence[int] = (10, 20),
        *,
        memory: bool = False,
        shapes: bool = False,
        stacks: bool = False,
        top: int = 15,
        show: bool = True,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("Profile", unknown, Profile.__init__)
        super().__init__(priority)
        if not isinstance(steps, (tuple, list)) or len(steps) != 2 or any(type(step) is not int for step in steps):
            raise ArgumentTypeError(f"steps={steps!r}: two ints are needed, (first, last)")
        if not 0 <= steps[0] < steps[1]:
            raise ArgumentError(f"steps={steps!r}: the first has to be from 0 on, and below the last")
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise ArgumentError(f"top={top!r}: an int from 1 on is needed")
        self.steps, self.top, self.show = (steps[0], steps[1]), top, show
        self._options: dict[str, Any] = {"profile_memory": memory, "record_shapes": shapes, "with_stack": stacks}
        self.trace: Path | None = None
        self.operations: list[dict[str, Any]] = []
        self._profiler: Any = None

    def state_key(self) -> str:
        return f"{type(self).__name__}{self.steps}"

    def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
        due = self.steps[0] <= trainer.progress.step < self.steps[1]
        if due and self._profiler is None and trainer.running == "fit" and trainer.main_process:
            self._begin()

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if self._profiler is not None and trainer.progress.step >= self.steps[1]:
            self._end(trainer)

    def on_after_fit(self, trainer: Any) -> None:
        """Write a trace that the fit ended in the middle of; and say so where it never began."""
        if self._profiler is not None:
            self._end(trainer)
        first, done = self.steps[0], trainer.progress.step
        # What was stopped may be gone on with, and come there.
        if self.trace is None and done <= first and trainer.main_process and not trainer.stopping:
            message = f"Profile{self.steps} traced nothing: it begins with update {first}, counted from 0, and the fit "
            warn(f"{message}ended behind {done} of them; give lower steps=")

    def on_cleanup(self, trainer: Any) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is not None:  # an error is on its way: there is nothing to be read, but it must not go on
            profiler.stop()

    def table(self) -> str:
        """The operations that took longest, one a line."""
        on_device = any("device_seconds" in row for row in self.operations)
        rows = [["operation", "calls", "own ms", "share", *(["device ms"] if on_device else [])]]
        for row in self.operations:
            device = [f"{1000 * row.get('device_seconds', 0.0):.3f}"] if on_device else []
            cells = [_WORDS.crop(row["name"], _NAME), f"{row['calls']:,}", f"{1000 * row['seconds']:.3f}"]
            rows.append([*cells, f"{row['share']:.1%}", *device])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *numbers in rows:
            cells = [name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def _begin(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        profiler = torch.profiler.profile(activities=activities, **self._options)
        profiler.start()
        self._profiler = profiler

    def _end(self, trainer: Any) -> None:
        profiler, self._profiler = self._profiler, None
        if trainer.device.type == "cuda":  # what was handed over belongs to it
            torch.cuda.synchronize(trainer.device)
        profiler.stop()
        folder = trainer.run_folder.path
        trace = folder / f"profile-{self.steps[0]}-{self.steps[1]}.json"
        part = trace.with_suffix(".part.json")
        profiler.export_chrome_trace(str(part))
        os.replace(part, trace)  # what is there is whole
        self.trace, self.operations = trace, _operations(profiler, self.top)
        if self.show and trainer.verbose:
            trainer.print(f"updates {self.steps[0]} to {self.steps[1]}, traced in {trace}\n{self.table()}")


def _operations(profiler: Any, top: int) -> list[dict[str, Any]]:
    """The operations that took longest by themselves, on the device where there is one."""
    averages = list(profiler.key_averages())
    whole = sum(event.self_cpu_time_total for event in averages)
    on_device = any(getattr(event, "self_device_time_total", 0) for event in averages)
    kind = "self_device_time_total" if on_device else "self_cpu_time_total"
    averages.sort(key=lambda event: (-getattr(event, kind), event.key))
    rows: list[dict[str, Any]] = []
    for event in averages[:top]:
        own = event.self_cpu_time_total
        row = {"name": event.key, "calls": event.count, "seconds": own / 1e6, "share": own / whole if whole else 0.0}
        rows.append(row | ({"device_seconds": event.self_device_time_total / 1e6} if on_device else {}))
    return rows
