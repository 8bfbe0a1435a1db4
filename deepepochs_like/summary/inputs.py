"""What a summary calls the models on: a tensor, a batch, or the first one of a loader, which is left as it was."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..batch import split_batch
from ..data import BatchSource, samplers
from ..errors import ArgumentError, ArgumentTypeError, BatchError, LoaderError
from ..rng import rng_state, set_rng_state
from ..tensors import TensorDict, TensorTuple, batch_size, to_device
from ..types import Stateful


def inputs_of(trainer: Any, modules: Mapping[str, nn.Module], data: Any) -> dict[str, TensorTuple | TensorDict]:
    """What each model is called on."""
    if list(modules) == ["model"]:
        return {"model": _input(trainer, data)}
    if not isinstance(data, Mapping) or not data or not set(data) <= set(modules):
        names = ", ".join(f"{name!r}: ..." for name in modules)
        raise ArgumentError(f"summary: there are several models, so say which gets what: summary({{{names}}})")
    return {name: _input(trainer, data[name]) for name in modules if name in data}


def _input(trainer: Any, data: Any) -> TensorTuple | TensorDict:
    device = trainer.device
    if isinstance(data, TensorTuple):
        return TensorTuple(to_device(item, device) for item in data)
    if isinstance(data, TensorDict):
        return TensorDict(to_device(dict(data), device))
    if isinstance(data, (list, tuple)) and data and all(type(item) is int for item in data):
        raise ArgumentTypeError(f"summary({data!r}): an input is needed, not its shape: torch.zeros({tuple(data)})")
    if _is_loader(data):
        data = _first_batch(data)
    batch = data if isinstance(data, (list, tuple, Mapping)) else (data, None)
    return split_batch(batch, trainer.loss.function is None and isinstance(data, (list, tuple)), device, 1)[0]


def _is_loader(data: Any) -> bool:
    """Whether something gives batches, rather than being one: a list of tuples does, one of tensors does not."""
    if isinstance(data, list):
        return bool(data) and all(isinstance(item, (tuple, list, Mapping)) for item in data)
    return not isinstance(data, (torch.Tensor, tuple, Mapping)) and (hasattr(data, "__iter__") or _indexed(data))


def _indexed(data: Any) -> bool:
    return isinstance(data, DataLoader) or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def _first_batch(loader: Any) -> Any:
    """The first batch of a loader, which then is as it was."""
    source = BatchSource(loader, "summary's loader")
    source.check()
    if hasattr(loader, "__next__"):
        raise ArgumentTypeError(
            "summary: an iterator would lose its first batch; pass a batch, or a loader that can be iterated again"
        )
    generators = source.generators()
    before, drawn = rng_state(), [generator.get_state() for generator in generators]
    order, own = samplers.state_of(loader), loader.state_dict() if isinstance(loader, Stateful) else None
    try:
        for batch in itertools.islice(source.stream(), 1):
            return batch
        raise LoaderError("summary: the loader yields no batch")
    finally:
        source.release()
        samplers.load(loader, order)
        if own is not None:
            loader.load_state_dict(own)
        for generator, state in zip(generators, drawn, strict=True):
            generator.set_state(state)
        set_rng_state(before)


def samples_of(batch: TensorTuple | TensorDict) -> int:
    """How many samples a batch has; 1 where it does not tell, as a graph does not."""
    try:
        return batch_size(batch)
    except BatchError:
        return 1
