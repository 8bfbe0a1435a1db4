"""`Summary`: a model layer by layer, with its parameters, what it computes, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError
from ..rng import rng_state, set_rng_state
from ..utils.containers import tensors_in
from .counting import Layer, Table
from .inputs import inputs_of, samples_of
from .memory import optimizer_memory, size_of
from .shown import Summary, shape_text

__all__ = ["Layer", "Summary", "summarize"]


def summarize(trainer: Any, data: Any = None, depth: int | None = None) -> Summary:
    """Look through a trainer's models; see `Trainer.summary`."""
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 0):
        raise ArgumentError(f"depth={depth!r}: an int from 0 on is needed, or None for all layers")
    modules = {name: handle.trained_module for name, handle in trainer.models.items()}
    inputs = {} if data is None else inputs_of(trainer, modules, data)
    table = Table(modules, depth)
    if inputs:
        table.check()
        with evaluated(list(modules.values())):
            for name, batch in inputs.items():
                table.run(modules[name], batch)
    layers, notes = table.finish(bool(inputs))
    function = trainer.loss.function
    if isinstance(function, nn.Module) and any(True for _ in function.parameters()):
        layers += table.add("loss", function, 0)
    memory = table.memory()
    memory["optimizer"] = optimizer_memory(trainer.opt)
    if not inputs:
        return Summary(layers, memory, notes=notes)
    memory["activations"] = sum(layer.activations for layer in layers) + sum(map(size_of, tensors_in(inputs)))
    first = next(iter(inputs.values()))
    given = ", ".join(shape_text(tuple(t.shape)) for t in tensors_in(inputs)) or "no tensors"
    return Summary(layers, memory, samples_of(first), given, notes)


@contextmanager
def evaluated(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluate modules and put everything back: modes, buffers, and the random generators."""
    parts = list({id(part): part for module in modules for part in module.modules()}.values())
    modes = [(part, part.training) for part in parts]
    buffers = [(part, dict(part._buffers)) for part in parts]
    copies = [(b, b._version, b.clone()) for _, own in buffers for b in own.values() if b is not None]
    generators = rng_state()
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training
        for part, own in buffers:
            part._buffers.clear()
            part._buffers.update(own)
        with torch.no_grad():
            for buffer, version, copy in copies:
                if buffer._version != version:  # a copy would count as a change
                    buffer.copy_(copy)
        set_rng_state(generators)
