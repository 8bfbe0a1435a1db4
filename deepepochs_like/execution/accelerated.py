"""Steps executed through an `accelerate.Accelerator` that the script has prepared its objects with."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import ArgumentError
from .local import Local


def is_accelerator(device: Any) -> bool:
    """Tell whether `device` is an Accelerator, without importing accelerate."""
    return any(c.__name__ == "Accelerator" and c.__module__.split(".")[0] == "accelerate" for c in type(device).__mro__)


class Accelerated(Local):
    """Execute steps through an Accelerator; its own accumulation decides when an update happens.

    Args:
        accelerator: the script has called its `prepare`.
        accumulate: must stay 1 where the Accelerator accumulates itself.

    Raises:
        ArgumentError: both were asked to accumulate.
    """

    def __init__(self, accelerator: Any, accumulate: int = 1) -> None:
        if accumulate > 1 and accelerator.gradient_accumulation_steps > 1:
            raise ArgumentError(
                f"accumulate={accumulate} and Accelerator(gradient_accumulation_steps="
                f"{accelerator.gradient_accumulation_steps}): let one of the two accumulate, and leave the other at 1"
            )
        super().__init__(accelerator.device, accumulate)
        self.accelerator, self.backward = accelerator, accelerator.backward
        self.may_defer, self.is_main = True, accelerator.is_main_process

    def place(self, module: nn.Module) -> nn.Module:
        """Leave the module where `accelerator.prepare` put it."""
        return module

    def deferred(self) -> bool:
        """Tell whether the Accelerator (or the trainer's own window) holds the update back."""
        return super().deferred() or not self.accelerator.sync_gradients
