"""The words the library is written in: stages, and the protocols of what users hand over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch

Stage: TypeAlias = Literal["train", "val", "test", "predict"]

#: What a metric function, a patch or a step's figure may be: a number, a tensor, or a dict of them.
Value: TypeAlias = "float | torch.Tensor | Mapping[str, Any]"

#: How much a batch weighs in a mean: a count of samples (or tokens), possibly still on the device.
Weight: TypeAlias = "int | float | torch.Tensor"

StateDict: TypeAlias = dict[str, Any]


@runtime_checkable
class Stateful(Protocol):
    """Anything that can be saved and restored."""

    def state_dict(self) -> StateDict: ...

    def load_state_dict(self, state_dict: StateDict, /) -> Any: ...


class LossFn(Protocol):
    """A loss: ``(model_out, batch_y)`` to a 0-dimensional tensor."""

    def __call__(self, model_out: Any, batch_y: Any, /) -> torch.Tensor: ...


class MetricFn(Protocol):
    """A metric: ``(preds, targets)`` to a number, a 0-dimensional tensor or a dict of them."""

    def __call__(self, preds: Any, targets: Any, /) -> Any: ...


@runtime_checkable
class Loader(Protocol):
    """A source of batches: anything that can be iterated again for every epoch."""

    def __iter__(self) -> Iterator[Any]: ...


def wide(device: torch.device) -> torch.dtype:
    """The widest float a device can add up in."""
    return torch.float32 if device.type == "mps" else torch.float64
