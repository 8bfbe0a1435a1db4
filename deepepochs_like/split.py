"""A batch of any make, taken apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .tensors import TensorDict, TensorTuple, batch_size, refuse_empty, to_device
from .types import Weight


def split_any(
    batch: Any, whole: bool, device: torch.device | None, size: Callable[[Any, Any], Weight] | Weight | None
) -> tuple[TensorTuple | TensorDict, Any, Weight]:
    """Split a batch as `split_batch` does, whatever the loader yielded."""
    target: Any = None
    if isinstance(batch, (list, tuple)):
        if whole:
            inputs = list(batch)
        else:
            *inputs, target = batch or refuse_empty(batch)
            if not inputs:
                inputs, target = [target], None
            if type(inputs[0]) is not torch.Tensor and not inputs[1:]:
                only = inputs[0]  # ((a, b), y) and ({...}, y): the inputs come as one item
                if isinstance(only, Mapping):
                    named = TensorDict(only if device is None else to_device(dict(only), device))
                    target = target if device is None else to_device(target, device)
                    return named, target, _weight(size, named, target)
                if isinstance(only, (tuple, list)) and any(isinstance(part, torch.Tensor) for part in only):
                    inputs = list(only)
    elif isinstance(batch, Mapping):
        named = TensorDict(batch if device is None else to_device(dict(batch), device))
        return named, None, _weight(size, named, None)
    else:
        inputs = [batch]
    if device is not None:
        for i, item in enumerate(inputs):
            if type(item) is not torch.Tensor or item.device != device:
                inputs[i] = to_device(item, device)
        if type(target) is not torch.Tensor or target.device != device:
            target = to_device(target, device)
    batch_x = TensorTuple(inputs)
    if size is None and inputs and type(inputs[0]) is torch.Tensor and inputs[0].ndim:
        return batch_x, target, inputs[0].shape[0] or refuse_empty(inputs[0])
    return batch_x, target, _weight(size, batch_x, target)


def _weight(size: Callable[[Any, Any], Weight] | Weight | None, batch_x: Any, batch_y: Any) -> Weight:
    if size is None:
        return batch_size(batch_x, batch_y)
    if callable(size):
        only = isinstance(batch_x, TensorTuple) and len(batch_x) == 1
        return size(batch_x[0] if only else batch_x, batch_y)
    return size
