"""DeepEpochs' names for what is called, or called with arguments, differently here."""

from __future__ import annotations

from typing import Any

from . import tensors
from .trainer import Trainer
from .utils.trackers import MovingMean

#: DeepEpochs' name for a Trainer that is meant to be subclassed; it is the same class.
TrainerBase = Trainer

Moveing = MovingMean


def batch_size(data: Any, batch_dim: int = 0) -> int:
    """Tell how many samples a batch of inputs holds; the size of another dimension where `batch_dim` says so.

    Raises:
        BatchError: nothing in it tells, or the tensors of a dict disagree.

    Example:
        >>> batch_size([torch.zeros(3, 2), torch.zeros(3)]), batch_size(torch.zeros(3, 2), batch_dim=1)
        (3, 2)
    """
    return tensors.batch_size(data, dim=batch_dim)
