"""What tensors and optimizers take in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ..utils.containers import tensors_in

#: How many tensors of a parameter's size torch's optimizers keep, by class, with what an option adds to it.
_KEPT: dict[str, tuple[int, tuple[str, ...]]] = {
    **dict.fromkeys(("Adam", "AdamW"), (2, ("amsgrad",))),
    **dict.fromkeys(("NAdam", "RAdam", "Adamax", "Adadelta", "Rprop", "SparseAdam"), (2, ())),
    **dict.fromkeys(("Adagrad", "ASGD", "Muon"), (1, ())),
    "RMSprop": (1, ("momentum", "centered")),
    "SGD": (0, ("momentum",)),
}
#: What has no size before the model is first called.
UNSHAPED = (UninitializedParameter, UninitializedBuffer)


def size_of(tensor: torch.Tensor) -> int:
    """Bytes of what a tensor holds; 0 where its shape is not known yet.

    Example:
        >>> size_of(torch.zeros(2, 3))
        24
    """
    if isinstance(tensor, UNSHAPED):
        return 0
    count = tensor.numel() if tensor.layout is torch.strided else tensor._nnz()
    return count * tensor.element_size()


def address(tensor: torch.Tensor) -> int:
    """What tells the memory of one tensor from another's."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)


def optimizer_memory(optimizers: Sequence[Any]) -> int | None:
    """Bytes of the optimizers' state, which torch makes at the first update; None where that cannot be foreseen."""
    # The torch optimizer may be inside one that an Accelerator prepared.
    sizes = [_state_size(getattr(optimizer.opt, "optimizer", optimizer.opt)) for optimizer in optimizers]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _state_size(optimizer: torch.optim.Optimizer) -> int | None:
    if optimizer.state:
        return sum(map(size_of, tensors_in(list(optimizer.state.values()))))
    name = type(optimizer).__name__
    if name not in _KEPT or not type(optimizer).__module__.startswith("torch.optim"):
        return None
    least, options = _KEPT[name]
    return sum(
        (least + sum(bool(group.get(option)) for option in options)) * size_of(parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    )
