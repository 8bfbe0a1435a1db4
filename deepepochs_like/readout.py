"""The one place where figures leave the device: all of an epoch's in a single transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .types import wide


def read_out(figures: Mapping[str, Any], extra: torch.Tensor | None = None) -> tuple[dict[str, Any], Any]:
    """Turn figures into NumPy values, reading all 0-dimensional tensors at once.

    Args:
        figures: numbers and tensors by name.
        extra: one more 0-dimensional tensor to be read along, or None.

    Returns:
        The values by name (float64 scalars; arrays for tensors with dimensions), and the extra number or None.
        What lives on the meta device has no value: it reads as NaN.
    """
    scalars = {name: v for name, v in figures.items() if isinstance(v, torch.Tensor) and v.ndim == 0}
    by_device: dict[torch.device, list[torch.Tensor]] = {}
    for tensor in [*scalars.values(), *([] if extra is None else [extra])]:
        by_device.setdefault(tensor.device, []).append(tensor.detach())
    read = {device: iter(_numbers(tensors, device)) for device, tensors in by_device.items()}
    numbers = {name: next(read[tensor.device]) for name, tensor in scalars.items()}
    number = None if extra is None else next(read[extra.device])
    values: dict[str, Any] = {}
    for name, figure in figures.items():
        if name in numbers:
            values[name] = numbers[name]
        elif isinstance(figure, torch.Tensor):
            values[name] = np.full(figure.shape, np.nan) if figure.is_meta else _array(figure)
        else:
            array = np.asarray(figure)
            values[name] = np.float64(array) if array.ndim == 0 else array
    return values, number


def _array(tensor: torch.Tensor) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # NumPy has no bfloat16


def _numbers(tensors: Sequence[torch.Tensor], device: torch.device) -> list[np.float64]:
    if device.type == "meta":
        return [np.float64("nan")] * len(tensors)
    stacked = torch.stack([t.to(wide(device)) for t in tensors])
    return [np.float64(number) for number in stacked.cpu().tolist()]
