"""The graph of a model, traced without a trace: modes, buffers and generators are as they were."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..rng import rng_state, set_rng_state
from ..tensors import map_tensors
from ..utils.warn import warn


class _ByName(nn.Module):
    """A model that takes its inputs by keyword, as one that takes them in order, which is all that can be traced."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Any) -> Any:
        return self.model(**dict(zip(self.names, values, strict=True)))


def write_graph(writer: Any, model: nn.Module, batch_x: Any, device: Any = None) -> None:
    """Write a model's graph to TensorBoard; a model that cannot be traced is a warning.

    Args:
        writer: the `SummaryWriter`.
        model: the module itself.
        batch_x: its input: a tensor, a tuple of them, or a dict by keyword.
        device: where the input is put; None leaves it where it is.

    Example:
        >>> class Notes(list):
        ...     def add_graph(self, model, inputs, use_strict_trace):
        ...         self.append((type(model).__name__, len(inputs), model.training))
        >>> notes = Notes(); write_graph(notes, torch.nn.Linear(2, 1), torch.ones(1, 2)); notes
        [('Linear', 1, False)]
    """
    inputs = batch_x if device is None else map_tensors(batch_x, lambda tensor: tensor.to(device))
    traced, values = model, tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    if isinstance(inputs, Mapping):
        traced, values = _ByName(model, list(inputs)), tuple(inputs.values())
    modes = [(module, module.training) for module in model.modules()]
    generators = rng_state()
    model.eval()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            writer.add_graph(traced, values, use_strict_trace=False)  # which takes outputs that are dicts, too
        return
    except Exception as error:  # whatever a model does that is not its own forward pass
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    finally:
        set_rng_state(generators)
        for module, training in modes:
            module.training = training
    warn(f"the model's graph is not written, as it cannot be traced: {reason}")
