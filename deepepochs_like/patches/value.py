"""`ValuePatch` and `MeanPatch`: sample-weighted means of figures that the batches bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..errors import PatchError
from ..tensors import batch_size as infer_batch_size
from ..types import Value, Weight, wide
from .base import Outputs, PatchBase, check_value, metric_name, own_copy, same_kind, shown
from .intact import exact_weight


class ValuePatch(PatchBase):
    """The sample-weighted mean of a value, or of a dict of values, that a step has computed for its batch.

    Each key of a dict has its own weight, so keys may differ between batches. A batch of weight 0 adds nothing,
    whatever its value: the mean over no tokens is NaN.

    Args:
        batch_size: how much the batch weighs: its samples, tokens, ...; an int, a float or a 0-dimensional tensor.
        name: see `PatchBase`.

    Example:
        >>> (ValuePatch(3).load(1.0) + ValuePatch(1).load(5.0))().item()
        2.0
    """

    def __init__(self, batch_size: Weight | None, name: str | None = None) -> None:
        super().__init__(name)
        self.batch_size = batch_size
        #: key -> [sum of value x weight, sum of weights]; a bare value's key is "".
        self.sums: dict[str, list[Any]] = {}

    def load(self, batch_mean: Value) -> Any:
        """Take in the batch's mean: a number, a tensor, or a dict of them."""
        weight = self.batch_size
        if weight is None:
            raise PatchError(
                f"{type(self).__name__}: batch_size=None; the samples (or tokens) of the batch are needed as its weight"
            )
        if not isinstance(weight, torch.Tensor) and not hasattr(weight, "__float__"):
            raise PatchError(f"{type(self).__name__}: batch_size={shown(weight)}; a number or a tensor is needed")
        self.sums = {}
        return self.take_value(check_value(batch_mean, self.name or type(self).__name__), weight)

    def take_value(self, value: Any, weight: Weight) -> Any:
        """Add a value of the given weight to the sums, in place."""
        if type(weight) is not int and type(weight) is not float:
            weight = exact_weight(weight)
        for key, item in value.items() if isinstance(value, Mapping) else (("", value),):
            item = item.detach() if isinstance(item, torch.Tensor) else torch.as_tensor(item, dtype=torch.float64)
            if isinstance(weight, torch.Tensor):
                weight, item = _together(weight, item)
            entry = self.sums.get(key)
            if entry is None:
                self.sums[key] = entry = [torch.zeros(item.shape, dtype=wide(item.device), device=item.device), 0]
            elif entry[0].device != item.device:
                entry[0], item = _together(entry[0], item)
            # One operation, in the sum's own width: a float32 value is widened before it is weighted.
            if isinstance(weight, torch.Tensor):
                entry[0].add_(torch.where(weight != 0, item.to(entry[0].dtype) * weight, 0))
            elif weight:
                entry[0].add_(item, alpha=weight)
            entry[1] = entry[1] + weight
        return self

    def forward(self) -> Value:
        if not self.sums:
            raise PatchError(
                f"{type(self).__name__} {self.name or ''} holds nothing yet: load a batch before reading it"
            )
        means = {key: total / weight for key, (total, weight) in self.sums.items()}
        return means[""] if set(means) == {""} else means

    def empty(self) -> Any:
        """A patch like this one that has seen nothing: the identity of `+`."""
        twin = own_copy(self)
        twin.sums = {}
        return twin

    def add(self, other: Any) -> Any:
        return own_copy(self).merge_(other)

    def merge_(self, other: Any) -> Any:
        same_kind(self, other, self.name)
        for key, (total, weight) in other.sums.items():
            entry = self.sums.get(key)
            if entry is None:
                self.sums[key] = [total.clone(), weight]
            else:
                entry[0], total = _together(entry[0], total)
                entry[0].add_(total)
                entry[1] = entry[1] + weight
        return self


def _together(left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors on one device, which is not the CPU where one of them is elsewhere: nothing waits for that."""
    if left.device == right.device:
        return left, right
    device = right.device if left.device.type == "cpu" else left.device
    return tuple(t.to(device, wide(device) if t.is_floating_point() else t.dtype) for t in (left, right))  # type: ignore[return-value]


class MeanPatch(ValuePatch):
    """The sample-weighted mean of a metric over batches, in constant memory.

    Right for metrics that are means over samples (accuracy, a loss); F1, precision or AUC over an epoch are not the
    mean of their batches: use `ConfusionPatch` or `TensorPatch` for those.

    Args:
        metric: ``(preds, targets)`` to a number or a dict of numbers.
        batch_size: the batch's weight; by default its number of samples.
        name: see `PatchBase`; by default the metric's name.

    Example:
        >>> def right(preds, targets): return (preds.argmax(1) == targets).double().mean()
        >>> one, two = torch.eye(2), torch.tensor([[9.0, 0.0]])
        >>> p = MeanPatch(right).load(one, torch.tensor([0, 1])) + MeanPatch(right).load(two, torch.tensor([1]))
        >>> round(float(p()), 4)
        0.6667
    """

    def __init__(
        self, metric: Callable[[Any, Any], Any], batch_size: Weight | None = None, name: str | None = None
    ) -> None:
        super().__init__(batch_size, name)
        self.metric = metric

    def load(self, preds: Any, targets: Any) -> Any:  # type: ignore[override]  # a step gives both
        """Take in a batch: the metric is computed at once and weighted by the batch's size."""
        weight = infer_batch_size(preds, targets) if self.batch_size is None else self.batch_size
        self.sums = {}
        return self.absorb(Outputs(preds, targets, weight))

    def absorb(self, outputs: Outputs) -> Any:
        """Take in one more batch, in place."""
        return self.take_value(self.measure(outputs), outputs.weight)

    def measure(self, outputs: Outputs) -> Any:
        """The metric of a batch, checked."""
        value = self.metric(outputs.preds, outputs.targets)
        if isinstance(value, torch.Tensor) and not value.dtype.is_complex:
            return value
        return check_value(value, self.name or metric_name(self.metric))
