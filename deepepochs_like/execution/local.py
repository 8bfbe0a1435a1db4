"""One process on one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .. import bare
from ..errors import StepError
from ..optimizer import Optimizer
from .window import Window


class Local:
    """Execute steps in this process, on one device.

    Args:
        device: where model and batches go.
        accumulate: batches per update of the weights.
    """

    backward: Any = staticmethod(bare.backward)
    #: Whether this process is the one that prints; what makes of a step one in another precision, where that is asked.
    is_main, around = True, None

    def __init__(self, device: torch.device, accumulate: int = 1) -> None:
        self.device = device
        self.window = Window(accumulate) if accumulate > 1 else None
        #: Whether `deferred` has to be asked before an update, and whether `prepare` has something to do.
        self.may_defer = self.prepares = self.window is not None

    def place(self, module: nn.Module) -> nn.Module:
        """Move a module to the device, in place."""
        return module.to(self.device)

    def deferred(self) -> bool:
        """Tell whether the update that was asked for comes later, at the end of the accumulation window."""
        if self.window is None:
            return False
        if not self.window.batches:
            raise StepError(
                f"accumulate={self.window.size}, but nothing was back-propagated through trainer.loss(...) or "
                "trainer.backward(loss): a bare loss.backward() cannot be weighted; use one of the two"
            )
        return not self.window.due

    def prepare(self, optimizers: Sequence[Optimizer]) -> None:
        """Make the gradients what the update needs: a window's sum becomes its mean."""
        if self.window is not None:
            self.window.average(p for o in optimizers for group in o.param_groups for p in group["params"])

    def update(self, optimizers: Sequence[Optimizer]) -> Sequence[Optimizer]:
        """Step the optimizers and clear their gradients; return those that really stepped."""
        for optimizer in optimizers:
            bare.step(optimizer.target)
            bare.zero_grad(optimizer.target)
        return optimizers
