"""How a step is executed: placement, backward, the update of the weights, accumulation windows."""

from .accelerated import Accelerated, is_accelerator
from .local import Local
from .window import Window

__all__ = ["Accelerated", "Local", "Window", "is_accelerator"]
