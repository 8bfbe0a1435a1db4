"""What is kept for a while has to stay as it was: how that is seen, and copies for those who may change what they get.

torch counts how often a tensor is changed in place, in a number that all views of it share. What is read here is that
number, once when a tensor is kept and once when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..errors import PatchError
from ..tensors import map_tensors
from ..types import Weight, wide

#: A loss, its weight, and how often it had been changed in place; None where that is not counted.
KeptLoss = tuple[torch.Tensor, Weight, "int | None"]


def version_of(value: Any) -> int | None:
    """How often the tensors in a value were changed in place, together; None where that is not counted."""
    tensors = tensors_in(value)
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return sum(tensor._version for tensor in tensors)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in nested containers."""
    found: list[torch.Tensor] = []
    map_tensors(value, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def copied(value: Any) -> Any:
    """The same with tensors, and a bare array, of its own."""
    return value.copy() if isinstance(value, np.ndarray) else map_tensors(value, torch.clone)


def is_whole(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is all that lies in its memory, so that no other can have been changed in its name."""
    try:
        return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    except RuntimeError:  # a layout without such memory
        return False


def overlapping(values: Sequence[Any]) -> bool:
    """Tell whether two of the values, as far as they are plain tensors, lie in the same memory."""
    plain = [v for v in values if isinstance(v, torch.Tensor) and v.layout is torch.strided and v.is_contiguous()]
    places = sorted((v.data_ptr(), v.data_ptr() + v.numel() * v.element_size()) for v in plain if v.numel())
    return any(second[0] < first[1] for first, second in pairwise(places))


def exact_weight(weight: Any) -> Any:
    """A weight in the type in which sums neither overflow nor are rounded: of NumPy's, as a number of Python's."""
    if isinstance(weight, torch.Tensor):
        return weight.detach().to(wide(weight.device) if weight.is_floating_point() else torch.int64)
    return weight.item() if isinstance(weight, (np.generic, np.ndarray)) and weight.ndim == 0 else weight


def stacked(kept: Sequence[KeptLoss], count: int) -> tuple[torch.Tensor, Sequence[Any]]:
    """Losses as one tensor, and their weights.

    Args:
        kept: the losses.
        count: how many there were in all, with these the last.

    Raises:
        PatchError: one was changed in place since it was taken in; the message says which.
    """
    losses, weights, versions = zip(*kept, strict=True)
    if None in versions or tuple([loss._version for loss in losses]) != versions:
        _check_losses(losses, versions, count - len(kept))
    return torch.stack(losses), weights if _PLAIN.issuperset(map(type, weights)) else list(map(exact_weight, weights))


def _check_losses(losses: Sequence[torch.Tensor], versions: Sequence[int | None], first: int) -> None:
    for number, (loss, version) in enumerate(zip(losses, versions, strict=True), first):
        if version is not None and loss._version != version and not _has_siblings(loss, losses):
            raise PatchError(
                f"loss: the one of batch {number} (counted from 0) was changed in place after it was taken in, by a "
                "step (loss /= 2) or a hook (total += metrics['loss'], where total is itself a loss that was kept), so "
                "the epoch's figure would be wrong; change a copy, loss.clone(), or write total = total + loss"
            )


def _has_siblings(loss: torch.Tensor, losses: Sequence[torch.Tensor]) -> bool:
    """Tell whether a loss is one place of several in one tensor: what was changed may be another of them."""
    memory = loss.untyped_storage().data_ptr()
    return any(o.data_ptr() != loss.data_ptr() and o.untyped_storage().data_ptr() == memory for o in losses)


def check_untouched(name: str, batches: Sequence[Any]) -> None:
    """See that batches are what they were when they were kept.

    A tensor that is a view of a larger one may count the changes made to others; it is believed to be changed where
    its memory is another batch's, too.

    Args:
        name: the metric's, for the message.
        batches: what was kept, [preds, targets, their versions or None]; some may lack versions.

    Raises:
        PatchError: one was changed in place; the message says which, and what to do.
    """
    noted = [batch for batch in batches if len(batch) > 2 and batch[2]]
    # Bare tensors, nearly always: to look at each by itself takes longer than putting them together.
    if all(type(p) is torch.Tensor is type(t) and None not in v and (p._version, t._version) == v for p, t, v in noted):
        return
    for place, part in enumerate(("predictions", "targets")):
        moved = [n for n, batch in enumerate(batches) if len(batch) > 2 and batch[2] and _has_moved(batch, place)]
        whole = [n for n in moved if all(map(is_whole, tensors_in(batches[n][place])))]
        if moved and (whole or overlapping([batch[place] for batch in batches])):
            raise PatchError(
                f"metric {name!r}: the {part} of batch {(whole or moved)[0]} (counted from 0) were changed in place "
                "after they were taken in, by a loader or a model that fills the same memory again for every batch, or "
                "by a step or a hook, so the epoch's figure would be wrong. Give out copies, made by .clone(), or use "
                "metric_patch='mean' or 'confusion', which take what they need at once"
            )


def _has_moved(batch: Sequence[Any], place: int) -> bool:
    value, then = batch[place], batch[2][place]
    return then is not None and then != (value._version if type(value) is torch.Tensor else version_of(value))


#: Weights that are added up as they are.
_PLAIN = frozenset({int, float, torch.Tensor})
