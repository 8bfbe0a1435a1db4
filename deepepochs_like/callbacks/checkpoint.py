"""`Checkpoint`: when to save the state of a run, and which of the files to keep."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NoReturn

from .. import storage
from ..checkpoint import CheckpointStore
from ..errors import ArgumentError, ArgumentTypeError, PatchError, StorageError, refuse_unknown
from ..hooks import fire
from ..monitor import Monitor, figures_of
from .base import Callback


class Checkpoint(Callback):
    """Save the state of a run in its folder, ``./logs/<running_id>/checkpoints``; see `CheckpointStore`.

    It saves after every so many epochs, and after those in which the monitored figure was better than ever; within an
    epoch every so many updates or minutes; when a run is stopped or interrupted; and at its end. It comes last in
    ``on_checkpoint`` and ``on_after_*``, so that a checkpoint holds everyone's final state. Weights are never changed:
    ``trainer.test(dl, weights='best')`` takes them from the best checkpoint.

    Several in one run, with a figure each, save to the same folder; what any of them keeps, stays. Of those, 'best' is
    the first one's that monitors something.

    Args:
        monitor: the figure that tells the best, ``'val/loss'``; or a function of the epoch's figures,
            ``{'train/loss': ..., 'val/loss': ...}``, that returns a number.
        mode: ``'min'`` or ``'max'``; by default what the figure's name says: losses and errors are better when low.
        every_epochs: save after every so many epochs.
        every_steps: and after every so many updates of the weights.
        every_minutes: and when the last save is so long ago; None for never.
        keep_last: how many of the newest to keep, at least 2.
        keep_best: how many of the best to keep beside them; 1 where something is monitored.
        pin_every: keep the checkpoint of every so-manieth epoch for ever.
        on_interruption: save when a run is stopped or interrupted within an epoch.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> Checkpoint("val/accuracy", keep_best=3, every_minutes=30).mode
        'max'
    """

    keeps_checkpoints = keeps_files = True

    def __init__(
        self,
        monitor: str | Callable[[dict[str, float]], Any] | None = None,
        mode: str | None = None,
        *,
        every_epochs: int = 1,
        every_steps: int | None = None,
        every_minutes: float | None = 10.0,
        keep_last: int = 2,
        keep_best: int | None = None,
        pin_every: int | None = None,
        on_interruption: bool = True,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, Checkpoint.__init__)
        super().__init__(priority=-math.inf)
        for what, value in (("every_epochs", every_epochs), ("every_steps", every_steps), ("pin_every", pin_every)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ArgumentError(f"{what}={value!r}: an int from 1 on is needed")
        if every_minutes is not None and (
            isinstance(every_minutes, bool) or not isinstance(every_minutes, (int, float)) or not every_minutes > 0
        ):
            raise ArgumentError(f"every_minutes={every_minutes!r}: a number above 0 is needed, or None")
        if monitor is None and (keep_best or mode is not None):
            raise ArgumentError("mode= and keep_best= need monitor=, the figure that tells the best")
        self.monitor = None if monitor is None else Monitor(monitor, mode)
        self.mode = self.monitor.mode if self.monitor else None
        self.every_epochs, self.every_steps, self.pin_every = every_epochs, every_steps, pin_every
        self.every_minutes, self.on_interruption = every_minutes, on_interruption
        best = (1 if self.monitor else 0) if keep_best is None else keep_best
        name = self.monitor.name if self.monitor else None
        self._keep: dict[str, Any] = {
            "keep_last": keep_last,
            "keep_best": best,
            "monitor": name,
            "mode": self.mode or "min",
        }
        CheckpointStore("", **self._keep)  # its checks come now
        self.store: CheckpointStore | None = None
        self._due, self._unchecked = False, {"train", "val"}
        self._next_step, self._next_time = math.inf, math.inf
        self._saved: Any = None

    def store_of(self, trainer: Any) -> CheckpointStore | None:
        """The store of the trainer's run, also outside of a `fit`; None where the run has no folder yet."""
        folder = trainer.run_folder or trainer.find_run()
        return None if folder is None else CheckpointStore(folder.checkpoints, **self._keep)

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        """Open the store, as a run that cannot keep what it is asked to should not begin."""
        self._unchecked, self._due, self._saved = {"train", "val"}, False, None
        if self.monitor:
            self.monitor.begin(trainer)
        if not trainer.main_process:
            return
        self.store = self.store_of(trainer)
        assert self.store is not None  # who keeps files gets a folder
        self.store.entries()  # what lies there was looked at when the run was opened
        stores = trainer.run_folder.stores
        if stores:
            self.store.join(stores[0])
        stores.append(self.store)
        self.store.open()
        _check_storable(trainer)
        self._next_step, self._next_time = math.inf, math.inf

    def _wind(self, trainer: Any) -> None:
        """Set when the next save within an epoch is due."""
        step, every = trainer.progress.step, self.every_steps
        self._next_step = (step // every + 1) * every if every else math.inf
        self._next_time = time.monotonic() + 60 * self.every_minutes if self.every_minutes else math.inf

    def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
        if self._saved is None:  # the first epoch, behind a resume, which comes after before_fit
            self._saved = _position(trainer)
            self._wind(trainer)

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        """Save within an epoch where updates or minutes are up."""
        if trainer.running != "fit":  # an evaluation, be it within a fit, is nothing to go on from
            return
        if self._unchecked and trainer.progress.stage in self._unchecked:
            self._unchecked.discard(trainer.progress.stage)
            _check_storable(trainer)  # a step's own patches are there only now
        if trainer.progress.step >= self._next_step or time.monotonic() >= self._next_time:
            self._due = True
            fire(trainer.hooks.on_checkpoint, trainer=trainer)

    on_after_val_batch = on_after_train_batch

    def on_checkpoint(self, trainer: Any) -> None:
        """Save at the end of an epoch, or where a run is left in the middle of one."""
        if self.store is None or trainer.running != "fit":
            return
        if not trainer.progress.stage:
            self._end_epoch(trainer)
        elif self._due or (trainer.stopping and self.on_interruption):
            self._save(trainer)

    def _figures(self, trainer: Any) -> dict[str, float]:
        """The epoch's figures, those that others in the run watch among them: one file serves all."""
        figures = figures_of(trainer)
        for monitor in [getattr(c, "monitor", None) for c in trainer.callbacks if isinstance(c, Checkpoint)]:
            figures |= monitor.figures(trainer) if monitor else {}
        return figures

    def _end_epoch(self, trainer: Any) -> None:
        figures = self._figures(trainer)
        epoch, better = trainer.progress.epoch, False
        if self.monitor and self.store is not None and (value := figures.get(self.monitor.name)) is not None:
            ranked = self.store.ranked(self.store.entries())
            better = self.monitor.better(value, ranked[0].figures[self.monitor.name] if ranked else math.nan)
        pinned = self.pin_every is not None and epoch % self.pin_every == 0
        if better or pinned or self._due or trainer.stopping or epoch % self.every_epochs == 0:
            self._save(trainer, figures, pinned)
        if self.monitor:  # after the save: what is there is not lost
            self.monitor.check(trainer, figures)

    def on_after_fit(self, trainer: Any) -> None:
        # Without an epoch nothing has changed: the checkpoint that was gone on from stays as it is.
        if self.store is not None and self._saved not in (None, _position(trainer)) and not trainer.progress.stage:
            self._save(trainer, self._figures(trainer))

    def on_cleanup(self, trainer: Any) -> None:
        store, self.store = self.store, None
        self._due, self._next_step, self._next_time = False, math.inf, math.inf
        if store is not None:
            store.close()

    def _save(self, trainer: Any, figures: dict[str, float] | None = None, pinned: bool = False) -> None:
        assert self.store is not None
        progress, self._due = trainer.progress, False
        suffix = "-open" if progress.stage else ""
        if not progress.step and not progress.batch and not progress.epoch:
            return  # nothing has happened yet that could be lost
        position, folder = _position(trainer), trainer.run_folder
        if pinned or folder.saved[0] != position or folder.saved[1] is self.store:  # else another has just saved it
            self.store.save(trainer.state_dict(), progress.step, progress.epoch, figures, pinned, suffix)
            folder.saved = position, self.store
        self._saved = position
        self._wind(trainer)


def _position(trainer: Any) -> tuple[Any, ...]:
    progress = trainer.progress
    return progress.step, progress.epoch, progress.stage, progress.task, progress.batch


def _check_storable(trainer: Any) -> None:
    """Say now, not when a save comes, that something cannot be saved."""
    try:
        for stage, tasks in trainer.stage_tasks.items():
            for task in tasks:
                for slot in task.slots_of(stage):
                    storage.storable(slot.make(1).state_dict(), f"the metric {slot.name!r}")
        storage.storable(trainer.state_dict(), "the state")
    except (StorageError, PatchError) as error:
        raise ArgumentTypeError(f"checkpoints are asked for, but {error}") from error
