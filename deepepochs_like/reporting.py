"""What a step tells the figures, and those who listen to them."""

from __future__ import annotations

from typing import Any

import torch

from .hooks import fire
from .tensors import detached
from .types import Weight


class Reporting:
    """A trainer as far as steps feed its figures."""

    current_task: Any

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
