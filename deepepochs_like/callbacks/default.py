"""`DefaultCallback`: the console."""

from __future__ import annotations

import math
import time
from typing import Any

from ..display import Display, open_display
from .base import Callback


class DefaultCallback(Callback):
    """Show a run: a live view on a terminal, plain lines in files, pipes, CI and notebooks.

    The screen is refreshed by the clock, and figures are read back from the device only for that: between refreshes
    a batch costs a look at the clock. In a distributed run only the main process shows anything. Errors of drawing are
    raised; when nobody is left to read (``| head``), output ends quietly and the run goes on.

    Args:
        log_long: show 7 decimals instead of 4.
        log_batch: show the figures of the epoch in progress.
        log_tqdm: show one progress bar per epoch, which stays on the screen, instead of the live view.
        show_info: begin with a line about model, device and data.
        priority: its place among the callbacks; at 0 an epoch is shown after the others have dealt with it.

    Example:
        >>> from deepepochs_like import Trainer
        >>> trainer = Trainer(torch.nn.Linear(2, 1), callbacks=[DefaultCallback(log_long=True)])  # 7 decimals
        >>> [type(callback).__name__ for callback in trainer.callbacks]
        ['DefaultCallback']
    """

    def __init__(
        self,
        log_long: bool = False,
        log_batch: bool = True,
        log_tqdm: bool = False,
        show_info: bool = True,
        priority: float = 0,
    ) -> None:
        super().__init__(priority)
        self.show_info, self._how = show_info, (log_long, log_batch, log_tqdm)
        self._display: Display | None = None
        self._due = math.inf

    def _open(self, trainer: Any) -> Display:
        if self._display is None:
            self._display = open_display(trainer, *self._how)
        return self._display

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self.on_cleanup(trainer)
        self._open(trainer).begin_fit(trainer, epochs, self.show_info)

    def on_before_train_epoch(self, trainer: Any, task: Any) -> None:
        self._due = self._open(trainer).begin_task(trainer, task)

    on_before_val_epoch = on_before_test_epoch = on_before_train_epoch

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if time.monotonic() >= self._due:
            self._due = self._open(trainer).refresh(trainer)

    on_after_val_batch = on_after_test_batch = on_after_train_batch

    def on_after_val_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int = 0) -> None:
        if trainer.running != "fit":
            self._open(trainer).end_evaluation(trainer, metrics)

    on_after_test_epochs = on_after_val_epochs

    def on_after_epoch(self, trainer: Any, *unused: Any, **epoch: Any) -> None:
        self._open(trainer).end_epoch(trainer, epoch["train_metrics"], epoch["val_metrics"], epoch["epoch_idx"])

    def on_after_fit(self, trainer: Any) -> None:
        self._open(trainer).end_fit(trainer)

    def on_cleanup(self, trainer: Any) -> None:
        display, self._display, self._due = self._display, None, math.inf
        if display is not None:
            display.close(trainer)
