"""Where a model goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .errors import ArgumentError, ArgumentTypeError, nearest

#: The devices that torch has most often.
_NAMES = ("cpu", "cuda", "mps", "xpu")
_BY_ITSELF = "device=None takes CUDA where there is one, else the CPU"
#: The longest of torch's own messages that is handed on.
_LONGEST = 160


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
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ArgumentError(f"device={device!r} is not to be had here: {_why_not(device, error)}") from error
    if place.type == "meta" and any(p.device != place for module in modules for p in module.parameters()):
        raise ArgumentError(f"device={device!r} holds shapes and no data: the model's weights would be lost there")
    return place


def _why_not(device: Any, error: Exception) -> str:
    """Say in one sentence why there is no such device, and what to pass."""
    name, colon, index = str(device).lower().partition(":")
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    if "device string" in first:  # no name that torch knows
        meant = "cuda" if name == "gpu" or name.isdecimal() else nearest(name, _NAMES, cutoff=0.7)
        number = index if index.isdecimal() else name if name.isdecimal() else "0" if colon else ""
        guess = f"did you mean {meant + ':' * bool(number) + number!r}? " if meant else "no such name is known; "
        return f"{guess if name != 'auto' else ''}{_BY_ITSELF}"
    if len(first) > _LONGEST:  # torch's list of all that it has for this operation
        return f"this torch has no {name!r}, or this machine has none; {_BY_ITSELF}"
    return first


def follow_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Move an optimizer's state to where its parameters are, if it was built (and used) before they moved."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.device != parameter.device:
                state[key] = value.to(parameter.device)
