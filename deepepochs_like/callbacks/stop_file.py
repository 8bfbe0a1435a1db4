"""`StopFile`: end a run from outside, by a file."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from ..run import STOP
from .base import Callback

#: Seconds between two looks.
_EVERY = 1.0


class StopFile(Callback):
    """End the run as `trainer.stop` does when a file ``STOP`` appears in its folder: ``touch logs/<id>/STOP``.

    It is looked for after a batch, once a second, and deleted when it is obeyed, so that the run can be resumed; one
    that is there when a run begins is deleted, too. Every run that has a folder gets this callback.
    """

    keeps_files = False

    def __init__(self) -> None:
        super().__init__(priority=0)
        self._file: Path | None = None
        self._next = 0.0

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self._file = trainer.run_folder.path / STOP if trainer.run_folder and trainer.main_process else None
        self._next = 0.0
        if self._file is not None:  # one that came after the last run's end was not meant for this one
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        if self._file is not None and self._file.exists():
            trainer.stop(f"there is a file {self._file}")

    on_after_val_batch = on_after_train_batch

    def on_after_fit(self, trainer: Any) -> None:
        if self._file is not None and trainer.stop_reason.endswith(str(self._file)):
            self._file.unlink(missing_ok=True)
