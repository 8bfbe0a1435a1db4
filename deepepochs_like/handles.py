"""What a step calls as ``self.model(...)`` and ``self.loss(...)``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .checks import check_loss
from .hooks import Listeners, fire
from .proxy import Proxy
from .tensors import TensorDict, TensorTuple, detached
from .types import Weight


class ModelHandle(Proxy):
    """The model as steps and hooks see it: called like the module, and passing attributes on to it.

    ``handle(batch_x)`` spreads a batch's inputs by itself, ``handle(*batch_x)`` gets them spread. The module itself,
    as an Accelerator prepared it where it did, is ``handle.model``: what is trained, save where evaluation calls an
    average of it instead; see `average_by`.
    """

    def __init__(self, trainer: Any, model: nn.Module) -> None:
        self.trainer, self.model = trainer, model
        self.before: Listeners = ()
        self.after: Listeners = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.before:
            fire(self.before, trainer=self.trainer)
        first: Any = args[0] if args and not args[1:] else None
        if type(first) is TensorTuple:
            args = first
        elif type(first) is TensorDict:
            args, kwargs = (), {**first, **kwargs}
        model_out = self.model(*args, **kwargs)
        if self.after:
            fire(self.after, trainer=self.trainer, model_out=detached(model_out))
        return model_out


class LossHandle:
    """The loss as steps see it: it also back-propagates, updates the weights and feeds the metrics.

    Args:
        function: ``(model_out, batch_y)`` to a 0-dimensional tensor, or None where the model returns the loss itself,
            bare or in a dict under ``'loss'``.
    """

    def __init__(self, trainer: Any, function: Any) -> None:
        self.trainer, self.function = trainer, function

    def __call__(
        self,
        model_out: Any,
        batch_y: Any = None,
        loss_adjust: float = 1.0,
        do_optimize: bool = True,
        do_metric: bool = True,
        weight: Weight | None = None,
    ) -> Any:
        """Compute the loss; in training also back-propagate and optimise; then feed loss and metrics.

        Args:
            model_out: the model's output.
            batch_y: the target.
            loss_adjust: what the loss is multiplied by before back-propagation; the figure shown stays the loss.
            do_optimize: whether the weights are updated and gradients cleared now.
            do_metric: whether the batch counts in the figures.
            weight: how much the batch weighs in means and in an accumulation window, e.g. its tokens; by default its
                number of samples.

        Returns:
            The loss; None in an evaluation whose task has ``do_loss=False``.

        Raises:
            LossError: the loss is not a scalar tensor, or carries no gradient. No weight was changed.
        """
        trainer, task = self.trainer, self.trainer.current_task
        training = task.stage == "train"
        loss: Any = None
        if training or task.do_loss:
            if self.function is not None:
                loss = self.function(model_out, batch_y)
            else:
                loss = model_out.get("loss") if isinstance(model_out, dict) else model_out
            if task.first_batch or (type(loss) is not Tensor and not isinstance(loss, Tensor)) or loss.ndim:
                check_loss(loss, model_out, batch_y, training, trainer)
        figures, weight = task.figures, task.batch_weight if weight is None else weight
        # Metrics come before the update, so that an error in one leaves the weights as they were.
        if do_metric and figures.slots:
            figures.take_outputs(model_out, batch_y, weight)
        if training:
            trainer.backward(loss, weight, loss_adjust)
            if do_optimize:
                trainer.optimize(loss=loss)
        if do_metric:
            if loss is not None:
                # With the number of times it was changed in place, which nobody counts in inference mode.
                figures.loss = loss.detach(), weight, None if loss.is_inference() else loss._version
            if task.stage_hooks.metrics:
                trainer.fire_metrics(loss, model_out, batch_y)
        return loss
