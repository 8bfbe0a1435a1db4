"""How batches that fail, passes, epochs and fits end; and what a trainer holds between them."""

from __future__ import annotations

from typing import Any

from .errors import StopLoopException
from .execution.window import drop_gradients
from .hooks import fire
from .idle import Idle
from .lazy import LazyFigures
from .run import RunFolder
from .scope import ask, fire_each
from .state import advance, leave
from .task import EpochTask
from .types import StateDict


class Ending:
    """A trainer as far as its runs end."""

    hooks: Any
    progress: Any
    execution: Any
    optimize: Any
    stop: Any

    def begin_empty(self) -> None:
        """Hold nothing of any run."""
        self.stopping, self.stop_reason = False, ""
        #: What a run leaves for others to see: the tasks of each stage, the one that runs, results of those that ran.
        self.running: str = ""
        self.current_task: Any = None
        self.stage_tasks: dict[str, list[EpochTask]] = {}
        self.stage_results: list[dict[str, Any]] = []
        self.train_metrics: dict[str, Any] = {}
        self.val_metrics: dict[str, Any] = {}
        self.answered: BaseException | None = None
        self.pending: StateDict | None = None
        #: The run's folder while it is open; a state read from it, until it is loaded; whether that has been done.
        self.run_folder: RunFolder | None = None
        self.resuming: StateDict | None = None
        self.resumed = False
        #: Whether a fit was passed over, so that until the next one the weights are those that the script built.
        self.passed = False
        self.aside: Any = None
        self.said: set[str] = set()
        #: Watches a fit that has made no update yet.
        self.idle: Idle | None = None

    def _close_epoch(self, train: dict[str, Any], val: dict[str, Any], where: dict[str, Any]) -> None:
        """End an epoch: hooks, schedulers, and the checkpoint after everyone else."""
        self.progress.stage = "end"
        figures = {"train_metrics": LazyFigures.of(train), "val_metrics": LazyFigures.of(val)}
        fire_each(self, self.hooks.after_epoch, **where, **figures)
        if self.idle is not None:
            self.idle.epoch_over()
        advance(self)
        fire(self.hooks.on_checkpoint, trainer=self)

    def _end_fit(self) -> None:
        """End a fit that ran to its end or was stopped, not one that failed."""
        if self.progress.stage == "end":  # stopped by who heard the end of validation
            tasks = {f"{stage}_tasks": tasks for stage, tasks in self.stage_tasks.items()}
            self._close_epoch(self.train_metrics, self.val_metrics, {**tasks, "epoch_idx": self.progress.epoch})
        elif self.progress.stage:  # stopped within an epoch: what is open can be kept
            fire(self.hooks.on_checkpoint, trainer=self)
        leave(self)
        fire(self.hooks.after_fit, trainer=self)
        if self.idle is not None:
            self.idle.fit_over()

    def recover(self, error: Exception) -> bool:
        """Ask the callbacks about an error in a batch; tell whether the run goes on (or ends) without it."""
        window = self.execution.window
        if isinstance(error, StopLoopException):
            self.stop(str(error))
        elif (answer := ask(self, error, in_batch=True)) is None:
            return False
        elif answer == "stop":
            self.stop(f"on_exception: {type(error).__name__}: {error}")
        if self.idle is not None:
            self.idle.skipped()
        # What a batch of evaluation, or a window that the batch did not reach, has nothing to do with stays.
        if self.current_task.stage == "train" and (window is None or window.holds(self.progress.batch)):
            drop_gradients(self)
        return True

    def close_window(self) -> None:
        """Make the update of an accumulation window that the end of a pass cut short, and see that there was one."""
        window = self.execution.window
        if self.current_task.stage == "train" and window is not None and window.batches:
            window.closing = True
            last = self.current_task.figures.loss
            self.optimize(loss=last[0] if last else None)
            self.progress.step, self.progress.updated = self.progress.step + self.progress.updated, False
            window.reset()
        if self.current_task.stage == "train" and self.idle is not None:
            self.idle.pass_over()
