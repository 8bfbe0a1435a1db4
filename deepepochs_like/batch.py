"""A batch as the loader yields it, taken apart: inputs, target, and how many samples it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .split import split_any
from .tensors import TensorDict, TensorTuple, to_device
from .types import Weight


def split_batch(
    batch: Any, whole: bool, device: torch.device | None, size: Callable[[Any, Any], Weight] | Weight | None
) -> tuple[TensorTuple | TensorDict, Any, Weight]:
    """Split a batch into inputs and target, on `device`, with its weight in every mean.

    A tuple or list gives its last item as the target (one item alone is an input); a dict is all input; anything
    else is one input. Inputs that come as one tuple or dict beside the target are taken apart, too. What is not a
    tensor passes through.

    Args:
        batch: what the loader yielded.
        whole: the model computes its own loss, so the whole batch is input and there is no target.
        device: where the tensors go; None leaves them where they are.
        size: None infers the weight from the tensors; an int is the weight; a function gets the bare input and target.

    Raises:
        BatchError: the number of samples cannot be told, or the batch is empty.
    """
    if type(batch) is list and len(batch) == 2 and size is None and not whole:  # the default collate's, nearly always
        first, target = batch
        if type(first) is torch.Tensor is type(target) and first.ndim and (count := first.shape[0]):
            if device is not None and (first.device != device or target.device != device):
                first, target = to_device(first, device), to_device(target, device)
            return TensorTuple((first,)), target, count
    return split_any(batch, whole, device, size)
