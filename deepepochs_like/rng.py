"""Seed, capture and restore every random generator a training run draws from.

States hold ints, floats, lists and tensors only, so that they load with ``weights_only=True``.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from .errors import ArgumentError
from .types import StateDict
from .utils.warn import warn


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on every device, and let cuDNN pick deterministic kernels.

    Args:
        seed: 0 <= seed < 2**32, NumPy's range.

    Raises:
        ArgumentError: the seed is out of range; pick one within it.

    Example:
        >>> set_seed(7); a = torch.rand(2); set_seed(7); bool((a == torch.rand(2)).all())
        True
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ArgumentError(f"seed={seed!r}: an int from 0 to 2**32 - 1 is needed")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def rng_state(of_torch_alone: bool = False) -> StateDict:
    """Return the state of every global generator: Python, NumPy, torch's CPU and every accelerator.

    Args:
        of_torch_alone: only that of torch's CPU, where nothing else can be drawn from: NumPy's costs 40 times as much.
    """
    if of_torch_alone:
        return {"torch": torch.get_rng_state()}
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: StateDict = {
        "python": [version, list(internal), gauss],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
    }
    # Only a context that exists has a state worth keeping; asking for it must not start one.
    if torch.cuda.is_initialized():
        state["cuda"] = list(torch.cuda.get_rng_state_all())
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: StateDict) -> None:
    """Restore what `rng_state` returned; generators that are not in it stay as they are.

    Generators of accelerators that are not here are left out, with a warning.
    """
    devices: list[Any] = state.get("cuda", [])[: torch.cuda.device_count()]
    if len(devices) < len(state.get("cuda", [])):
        message = f"the state has generators of {len(state['cuda'])} CUDA devices; {len(devices)} of them are here"
        warn(message)
    if "python" in state:
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
    if "numpy" in state:
        kind, keys, position, has_gauss, cached = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if devices:
        torch.cuda.set_rng_state_all(devices)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


class Generators:
    """The global generators as something that has a state: to be kept in a `CheckpointStore` beside a model.

    Example:
        >>> generators = Generators(); state = generators.state_dict(); a = torch.rand(2)
        >>> generators.load_state_dict(state); bool((a == torch.rand(2)).all())
        True
    """

    def state_dict(self) -> StateDict:
        """The states of Python's, NumPy's and torch's generators, on every device; see `rng_state`."""
        return rng_state()

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Restore what `state_dict` returned."""
        set_rng_state(state_dict)
