"""`EpochTask`: one stage over one loader, and the default steps."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from .batch import split_batch
from .bound import BoundTask
from .checks import check_step_names
from .figures import Figures
from .hooks import StageHooks, fire
from .lazy import LazyFigures
from .types import Stage, Weight
from .utils.containers import listify as listify  # others take it from here


class Steps:
    """The steps that run where no other is written: model, loss, figures."""

    model: Any
    loss: Any

    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> Any:
        """Train on a batch."""
        self.loss(self.model(batch_x), batch_y)

    def evaluate_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> Any:
        """Validate or test on a batch."""
        self.loss(self.model(batch_x), batch_y)

    def predict_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> Any:
        """Return the model's output for a batch."""
        return self.model(batch_x)


class EpochTask(BoundTask, Steps):
    """One stage of an epoch over one loader. What it lacks it looks up on its trainer (``self.model``, ``self.loss``).

    Subclass it with a step of your own; a batch runs the first of these that exists: task.step, trainer.step,
    task.<stage>_step, trainer.<stage>_step, task.evaluate_step, trainer.evaluate_step, each called as
    ``(batch_x, batch_y, **step_args)`` and returning None or ``{name: Patch}``.

    Args:
        dataloader: any iterable of batches.
        metrics: metrics of this task alone, beside those of the stage.
        do_loss: whether evaluation computes the loss.
        batch_size: what a batch weighs: an int, or a function (batch_x, batch_y) -> int; by default its samples.
        name: put before the names of the task's figures.
        **step_args: passed on to the steps.

    Example:
        >>> class Distill(EpochTask):
        ...     def train_step(self, batch_x, batch_y, teacher):
        ...         self.loss(self.model(*batch_x), teacher(*batch_x))
    """

    def __init__(
        self,
        dataloader: Any,
        metrics: Any = None,
        do_loss: bool = True,
        batch_size: Any = None,
        name: str | None = None,
        **step_args: Any,
    ) -> None:
        self.dataloader, self.metrics, self.do_loss, self.batch_size = dataloader, metrics, do_loss, batch_size
        self.name, self.step_args = name, step_args
        self._bound: dict[str, Any] = {}
        check_step_names(self, EpochTask)

    def begin(self, stage: Stage, hooks: StageHooks, check_finite: bool) -> None:
        """Start an epoch of a stage: no figures yet, the first batch to come."""
        bound = self._bound[stage]
        self.stage, self.stage_hooks, self.batch_source = stage, hooks, bound.source
        self.run_step = self.executed(bound.step)
        #: Takes a batch apart; see `split_batch`.
        self.splitter = partial(
            split_batch,
            whole=self.trainer.loss.function is None,
            device=self.trainer.batch_device(stage),
            size=self.batch_size,
        )
        self.figures = Figures(bound.slots, check_finite, self.name or "")
        #: Whether the first batch is still to come; and what the batch in progress weighs.
        self.first_batch: bool = True
        self.step_limit = math.inf
        self.batch_weight: Weight = 1

    def run(self, limit: float, restart: bool) -> bool:
        """Run batches until the loader ends, the trainer stops, or it has made `limit` updates of the weights.

        Args:
            limit: the number of updates, counted from the trainer's first, at which to return.
            restart: begin another pass where the loader ends before that.

        Returns:
            Whether it was cut off by a stop. One that comes, by a signal, when the last batch is over does not: what
            is over is entered as such, or a resumed run would do it again.
        """
        trainer, hooks, figures, source = self.trainer, self.stage_hooks, self.figures, self.batch_source
        progress, window, step, split = trainer.progress, trainer.execution.window, self.run_step, self.splitter
        self.step_limit = limit
        while progress.step < limit:
            for batch in source.stream():
                batch_idx, position, seen = progress.batch, source.position + 1, figures.batches + 1
                figures.loss, figures.outputs, figures.fed, figures.returned = None, None, (), {}
                try:
                    batch_x, batch_y, self.batch_weight = split(batch)
                    batch_x.indices = source.known and source.known.indices
                    if hooks.before_batch:
                        fire(hooks.before_batch, trainer=trainer, batch_x=batch_x, batch_y=batch_y, batch_idx=batch_idx)
                    patches = step(batch_x, batch_y, **self.step_args)
                    if patches is not None:
                        figures.take_patches(patches, step)
                    if figures.loss is not None:
                        figures.losses.add(*figures.loss)
                    for metric in figures.fed:
                        metric.take(figures.outputs)
                    progress.batch, source.position, figures.batches = batch_idx + 1, position, seen
                    if window is not None and progress.updated and window.due:
                        window.reset()
                    progress.step, progress.updated = progress.step + progress.updated, False
                    if hooks.after_batch:
                        metrics = LazyFigures(figures.of, figures.loss, figures.outputs, figures.returned)
                        fire(hooks.after_batch, trainer=trainer, metrics=metrics, batch_idx=batch_idx)
                except Exception as error:
                    if not trainer.recover(error):
                        raise
                    if progress.updated or not trainer.stopping:  # else a resumed run takes the batch again
                        progress.batch, source.position, figures.batches = batch_idx + 1, position, seen
                    progress.step, progress.updated = progress.step + progress.updated, False
                self.first_batch = False
                if trainer.stopping or progress.step >= limit:
                    return bool(trainer.stopping)
            source.finish()
            trainer.close_window()
            limit = limit if restart else 0  # nothing is below it, so that this was the last pass
        return False
