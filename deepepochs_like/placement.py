"""Where a model goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .errors import ArgumentError, ArgumentTypeError


def choose_device(device: Any, modules: Sequence[nn.Module]) -> torch.device:
    """Return the device asked for, with its index.

    None stands for where the model is if that is no CPU, else for CUDA where there is one, else for the CPU.

    Raises:
        ArgumentTypeError: `device` is neither a device nor a name.
        ArgumentError: there is no such device here.
    """
    if device is None:
        places = {p.device for module in modules for p in module.parameters()}
        if len(places) == 1 and (place := places.pop()).type != "cpu":
            return place
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(device, (str, int, torch.device)) or isinstance(device, bool):
        raise ArgumentTypeError(
            f"device={device!r}: a torch.device, a name such as 'cpu' or 'cuda:0', or an accelerate.Accelerator is "
            "needed"
        )
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(f"device={device!r} is not to be had here: {str(error).splitlines()[0]}") from error


def follow_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Move an optimizer's state to where its parameters are, if it was built (and used) before they moved."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.device != parameter.device:
                state[key] = value.to(parameter.device)
