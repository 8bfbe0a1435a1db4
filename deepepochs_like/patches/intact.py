"""What is kept for a while has to stay as it was: how that is seen, and copies for those who may change what they get.

torch counts how often a tensor is changed in place, in a number that all views of it share. What is read here is that
number, once when a tensor is kept and once when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
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


def own(value: Any) -> Any:
    """Detach every tensor in a value; what shares memory with something that is trained is copied, as that changes."""
    return map_tensors(value, _own)


def _own(tensor: torch.Tensor) -> torch.Tensor:
    base = tensor if tensor._base is None else tensor._base
    return tensor.detach().clone() if base.is_leaf and base.requires_grad else tensor.detach()


def is_whole(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is all that lies in its memory, so that no other can have been changed in its name."""
    try:
        return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    except RuntimeError:  # a layout without such memory, and so without parts of it
        return True


def overlapping(values: Sequence[Any]) -> bool:
    """Tell whether two of the values, as far as they are plain tensors, have an element in common."""
    plain = [v for v in values if isinstance(v, torch.Tensor) and v.layout is torch.strided and v.numel()]
    places = sorted(((*_range(v), v) for v in plain), key=lambda place: place[:2])
    groups: list[list[torch.Tensor]] = []
    reach = 0
    for start, end, tensor in places:  # those whose ranges reach into each other stand behind each other
        if groups and start < reach:
            groups[-1].append(tensor)
        else:
            groups.append([tensor])
        reach = max(reach, end)
    return any(len(group) > 1 and _collide(group) for group in groups)


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    """Where a tensor's first byte lies, and where the first one behind it."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _collide(group: Sequence[torch.Tensor]) -> bool:
    """Tell whether two of the tensors, whose ranges reach into each other, share an element: columns do not."""
    if all(tensor.is_contiguous() for tensor in group):
        return True
    starts, ends = zip(*map(_range, group), strict=True)
    if max(ends) - min(starts) > _MOST_COMPARED:
        return False
    taken = torch.zeros(max(ends) - min(starts), dtype=torch.bool)
    for tensor, start in zip(group, starts, strict=True):
        item = tensor.element_size()
        steps = [(size, step * item) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step]
        sizes, strides = zip(*steps, (item, 1), strict=True)
        part = taken.as_strided(sizes, strides, start - min(starts))
        if part.any():
            return True
        part.fill_(True)
    return False


def exact_weight(weight: Any) -> Any:
    """A weight in the type in which sums neither overflow nor are rounded: of NumPy's, as a number of Python's."""
    if isinstance(weight, torch.Tensor):
        return weight.detach().to(wide(weight.device) if weight.is_floating_point() else torch.int64)
    return weight.item() if isinstance(weight, (np.generic, np.ndarray)) and weight.ndim == 0 else weight


def stacked(kept: Sequence[KeptLoss], count: int, spoilt: str | None) -> tuple[torch.Tensor, Sequence[Any], str | None]:
    """Losses as one tensor, their weights, and what is wrong with their figure.

    Args:
        kept: the losses.
        count: how many there were in all, with these the last.
        spoilt: what is wrong with the figure already.

    Returns:
        The losses; the weights; `spoilt`, or else, where one was changed in place since it was taken in, a message
        that says which.
    """
    losses, weights, versions = zip(*kept, strict=True)
    if None in versions or tuple([loss._version for loss in losses]) != versions:
        spoilt = spoilt or _spoilt_loss(losses, versions, count - len(kept))
    plain = _PLAIN.issuperset(map(type, weights))
    return torch.stack(losses), weights if plain else list(map(exact_weight, weights)), spoilt


def refuse(spoilt: str | None) -> None:
    """Raise `PatchError` where something is wrong with a figure."""
    if spoilt:
        raise PatchError(spoilt)


def _spoilt_loss(losses: Sequence[torch.Tensor], versions: Sequence[int | None], first: int) -> str | None:
    for number, (loss, version) in enumerate(zip(losses, versions, strict=True), first):
        if version is not None and loss._version != version and not _has_siblings(loss, losses):
            return (
                f"loss: the one of batch {number} (counted from 0) was changed in place after it was taken in, by a "
                "step (loss /= 2) or a hook (total += metrics['loss'], where total is itself a loss that was kept), so "
                "the epoch's figure would be wrong; change a copy, loss.clone(), or write total = total + loss"
            )
    return None


def _has_siblings(loss: torch.Tensor, losses: Sequence[torch.Tensor]) -> bool:
    """Tell whether a loss is one place of several in one tensor: what was changed may be another of them."""
    memory = loss.untyped_storage().data_ptr()
    return any(o.data_ptr() != loss.data_ptr() and o.untyped_storage().data_ptr() == memory for o in losses)


def what_changed(name: str, batches: Sequence[Any], ended: bool = True) -> str | None:
    """See whether batches are what they were when they were kept.

    A tensor that is a view of a larger one may count the changes made to others. It is believed to be changed where
    an element of it is another batch's, too; and that cannot be told where no batch that came after it accounts for
    the change.

    Args:
        name: the metric's, for the message.
        batches: what was kept, [preds, targets, their versions or None]; some may lack versions.
        ended: no batch may follow, so that none is being prepared in the memory of which the last ones are parts.

    Returns:
        None, or a message that says which was changed in place, and what to do.
    """
    noted = [batch for batch in batches if len(batch) > 2 and batch[2]]
    # Bare tensors, nearly always: to look at each by itself takes longer than putting them together.
    if all(type(p) is torch.Tensor is type(t) and None not in v and (p._version, t._version) == v for p, t, v in noted):
        return None
    for place, part in enumerate(("predictions", "targets")):
        moved = [n for n, batch in enumerate(batches) if len(batch) > 2 and batch[2] and _has_moved(batch, place)]
        whole = [n for n in moved if all(map(is_whole, tensors_in(batches[n][place])))]
        if moved and (whole or _meet([tensors_in(batch[place]) for batch in batches])):
            return (
                f"metric {name!r}: the {part} of batch {(whole or moved)[0]} (counted from 0) were changed in place "
                "after they were taken in, by a loader or a model that fills the same memory again for every batch, or "
                "by a step or a hook, so the epoch's figure would be wrong. Give out copies, made by .clone(), or use "
                "metric_patch='mean' or 'confusion', which take what they need at once"
            )
        if moved and (unsure := _unaccounted(batches, moved, place, ended)) is not None:
            return (
                f"metric {name!r}: the {part} of batch {unsure} (counted from 0) are a part of a larger tensor that "
                "was changed in place after they were taken in, and whether this part was changed cannot be told, so "
                "the epoch's figure may be wrong. Change a copy, tensor.clone(), hand over the part as part.clone(), "
                "or use metric_patch='mean' or 'confusion', which take what they need at once"
            )
    return None


def _has_moved(batch: Sequence[Any], place: int) -> bool:
    value, then = batch[place], batch[2][place]
    return then is not None and then != (value._version if type(value) is torch.Tensor else version_of(value))


def _meet(batches: Sequence[Sequence[torch.Tensor]]) -> bool:
    """Tell whether tensors that stand at one place in two batches share memory."""
    return any(map(overlapping, zip_longest(*batches)))


def _unaccounted(batches: Sequence[Any], moved: Sequence[int], place: int, ended: bool) -> int | None:
    """The first batch, of those whose memory was changed, whose change no batch that came later accounts for."""
    noted = [batch for batch in batches if len(batch) > 2 and batch[2]]
    #: By memory: how many batches lie in it, and the count of changes when the last of them came.
    number: dict[int, int] = {}
    latest: dict[int, int] = {}
    for batch in noted:
        for memory in _memories(batch[place]):
            number[memory] = number.get(memory, 0) + 1
            latest[memory] = max(latest.get(memory, 0), batch[2][place] or 0)
    for n in moved:
        value = batches[n][place]
        memories = _memories(value)
        if all(number[memory] == 1 for memory in memories):
            return n
        if ended and type(value) is torch.Tensor and value._version > max(latest[memory] for memory in memories):
            return n
    return None


def _memories(value: Any) -> set[int]:
    """The memories in which the tensors of a value lie, each as a number."""
    return {tensor.untyped_storage()._cdata for tensor in tensors_in(value) if not is_whole(tensor)}


#: Bytes of memory, at most, that are looked through for elements that two tensors share.
_MOST_COMPARED = 1 << 28

#: Weights that are added up as they are.
_PLAIN = frozenset({int, float, torch.Tensor})
