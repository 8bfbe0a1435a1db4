"""What a step tells the figures, and those who listen to them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from .errors import ArgumentError, ArgumentTypeError, EngineWarning
from .hooks import fire
from .patches import ValuePatch
from .tensors import detached
from .types import Weight


class Reporting:
    """A trainer as far as steps and callbacks feed its figures, and what is logged."""

    callbacks: list[Any]
    current_task: Any
    progress: Any
    said: set[str]

    def add_figure(self, name: str, value: Any, weight: Weight = 1) -> None:
        """Average a number into the figures of the epoch in progress, from a step or a hook within a batch.

        It is in the history and in every callback's ``metrics`` as any other figure is, and survives a restart.

        Args:
            name: the figure's.
            value: a number or a 0-dimensional tensor, which is not read back.
            weight: how much it weighs in the mean.

        Raises:
            ArgumentError: no task is running; the name is ``'loss'``; or it is no single number.
        """
        if name == "loss" or (isinstance(value, torch.Tensor) and value.ndim):
            what = (
                "the loss has this name" if name == "loss" else f"a tensor of shape {tuple(value.shape)} is no number"
            )
            raise ArgumentError(f"add_figure({name!r}): {what}")
        if self.current_task is None or self.current_task.figures.released:
            raise ArgumentError(f"add_figure({name!r}): figures are an epoch's, and none is running; use trainer.log")
        value = value.detach() if isinstance(value, torch.Tensor) else value
        self.current_task.figures.add(name, ValuePatch(weight).load(value))

    def log(self, figures: Mapping[str, Any], step: int | None = None) -> None:
        """Hand figures to every logger among the callbacks.

        Args:
            figures: numbers by name, ``{'train/noise': 0.1}``.
            step: what they belong to; by default the number of updates so far.

        Raises:
            ArgumentTypeError: `figures` is no mapping.
        """
        if not isinstance(figures, Mapping):
            raise ArgumentTypeError(f"log({figures!r}): a dict is needed, {{name: number}}")
        loggers = [callback for callback in self.callbacks if hasattr(callback, "log_figures")]
        if not loggers and "log" not in self.said:
            self.said.add("log")
            message = "trainer.log: no callback keeps figures, so they are dropped; add JSONLLogger() or TensorBoard()"
            warnings.warn(message, EngineWarning, stacklevel=2)
        for logger in loggers:
            logger.log_figures(self, figures, self.progress.step if step is None else step)

    @property
    def writer(self) -> Any:
        """The `SummaryWriter` of the `TensorBoard` callback, while a run is going on.

        Raises:
            ArgumentError: there is no such callback, or no run.
        """
        for callback in self.callbacks:
            if (writer := getattr(callback, "writer", None)) is not None:
                return writer
        raise ArgumentError("trainer.writer: there is one while a run with a TensorBoard() callback is going on")

    def do_metric(
        self, loss: torch.Tensor | None = None, model_out: Any = None, batch_y: Any = None, weight: Weight | None = None
    ) -> None:
        """Feed a batch's loss, outputs and targets to the figures: for steps that do not go through `loss`."""
        task = self.current_task
        weight = task.batch_weight if weight is None else weight
        if task.figures.slots and model_out is not None:
            task.figures.take_outputs(model_out, batch_y, weight)
        if loss is not None:
            task.figures.loss = (loss.detach(), weight)
        self.fire_metrics(loss, model_out, batch_y)

    def fire_metrics(self, loss: torch.Tensor | None, model_out: Any, batch_y: Any) -> None:
        """Tell who listens that loss and metrics have taken a batch in."""
        task = self.current_task
        if task.stage_hooks.metrics:
            given = {"loss": detached(loss), "model_out": detached(model_out), "batch_y": batch_y, "task": task}
            fire(task.stage_hooks.metrics, trainer=self, **given)
