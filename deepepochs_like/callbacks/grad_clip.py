"""`GradClip`: keep gradients within bounds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError
from .base import Callback


class GradClip(Callback):
    """Clip the gradients before every update, by their norm or by value; once per accumulation window.

    The norm before clipping is a figure of the epoch, its mean over the updates. With `AMP` it is that of the unscaled
    gradients, over the updates that were made.

    Args:
        max_norm: the norm of all gradients of an update together is scaled down to this.
        max_value: every component is cut to ``[-max_value, max_value]``.
        norm_type: of the norm: 2, another order, or ``math.inf``.
        figure: the figure's name; None for none.

    Raises:
        ArgumentError: not exactly one limit is given, or it is no number above 0.

    Example:
        >>> from deepepochs_like import GradClip, Trainer
        >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> loss = torch.nn.functional.mse_loss
        >>> fit = Trainer(net, loss, epochs=1, verbose=0, callbacks=[GradClip(1.0)]).fit(data)
        >>> list(fit['train'])
        ['loss', 'grad_norm']
    """

    part_of_training = True

    def __init__(
        self,
        max_norm: float | None = None,
        max_value: float | None = None,
        norm_type: float = 2.0,
        figure: str | None = "grad_norm",
    ) -> None:
        super().__init__()
        if (max_norm is None) == (max_value is None):
            raise ArgumentError(f"max_norm={max_norm!r}, max_value={max_value!r}: exactly one of them is needed")
        name, limit = ("max_norm", max_norm) if max_value is None else ("max_value", max_value)
        for what, number in ((name, limit), ("norm_type", norm_type)):
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not number > 0:
                raise ArgumentError(f"{what}={number!r}: a number above 0 is needed")
        if figure == "loss":
            raise ArgumentError("figure='loss': the loss has this name; choose another")
        self.max_norm, self.max_value, self.norm_type, self.figure = max_norm, max_value, float(norm_type), figure

    def on_before_optimize(self, trainer: Any, optimize_index: Any) -> None:
        """Clip here, where a window's gradients are their mean, and scaled ones are unscaled."""
        optimizers = trainer.opt if optimize_index is None else [trainer.opt[optimize_index]]
        held = [p for o in optimizers for group in o.param_groups for p in group["params"] if p.grad is not None]
        parameters = list({id(p): p for p in held}.values())  # two optimizers may hold the same
        if not parameters:
            return
        if self.max_norm is None:
            norm = self._norm(parameters) if self.figure is not None else None
            nn.utils.clip_grad_value_(parameters, float(self.max_value or math.inf))
        elif trainer.accelerator is not None:
            norm = trainer.accelerator.clip_grad_norm_(parameters, self.max_norm, self.norm_type)
        else:
            norm = nn.utils.clip_grad_norm_(parameters, self.max_norm, self.norm_type)
        if norm is not None and self.figure is not None and trainer.current_task is not None:
            self._tell(trainer, optimize_index, norm)

    def _norm(self, parameters: list[nn.Parameter]) -> torch.Tensor:
        gradients = [p.grad for p in parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients, self.norm_type)

    def _tell(self, trainer: Any, index: Any, norm: torch.Tensor) -> None:
        assert self.figure is not None
        name = self.figure if index is None else f"{self.figure}_{index}"
        if getattr(trainer.execution, "scaler", None) is None:
            trainer.add_figure(name, norm)
        else:  # an update that is left out has no norm to speak of; nothing is read back to find out
            trainer.add_figure(name, norm.nan_to_num(0.0, 0.0, 0.0), norm.isfinite().to(norm.dtype))


class GradClipCallback(GradClip):
    """DeepEpochs' name for `GradClip`: by value, or by norm where `norm_type` is given.

    Args:
        max_value: the limit.
        norm_type: of the norm; None clips by value.

    Example:
        >>> GradClipCallback(1.0, norm_type=2).max_norm, GradClipCallback(0.5).max_value
        (1.0, 0.5)
    """

    def __init__(self, max_value: float, norm_type: float | None = None) -> None:
        if norm_type is None:
            super().__init__(max_value=max_value, figure=None)
        else:
            super().__init__(max_norm=max_value, norm_type=norm_type, figure=None)
