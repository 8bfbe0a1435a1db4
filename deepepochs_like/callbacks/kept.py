"""The samples that rank first, of any number that come by: k of them are held, as columns on the device."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..errors import StateError
from ..patches import ConfusionPatch, Outputs
from ..shapes import class_dim
from ..tensors import map_tensors
from ..types import StateDict

#: How many classes there may be for a confusion matrix, of C * C numbers, that nobody has asked for.
MOST_COUNTED = 2000


class Kept:
    """The k samples of a stage that rank first, as columns on the device, and its confusion matrix.

    Args:
        k: how many.
        mode: ``'max'`` or ``'min'``.
        num_classes: see `Interpret`.
    """

    def __init__(self, k: int, mode: str, num_classes: int | None) -> None:
        self.k, self.mode, self.num_classes = k, mode, num_classes
        self.columns: dict[str, Any] = {}
        self.seen = 0
        self.patch: Any = ConfusionPatch(None)
        #: Whether there are classes; None before the first batch.
        self.classes: bool | None = None if num_classes is None else bool(num_classes)

    def take(self, values: Any, indices: Any, task: int, preds: Any, targets: Any, inputs: Any) -> None:
        """Take in a batch: in O(k + N) memory, and without reading anything back where all is tensors."""
        count, device = len(values), values.device
        scores = _scores(preds, targets)
        self._count(scores, preds, targets)
        whole = torch.arange(self.seen, self.seen + count, device=device)
        batch = {
            "value": values.double() if device.type != "mps" else values,
            "index": indices.to(device, torch.int64),
            "number": whole,
            "task": torch.full((count,), task, device=device),
            "prediction": preds if scores is None else scores.argmax(1),
            "target": targets,
            **({} if inputs is None else {"input": inputs}),
        }
        self.seen += count
        best = _first(batch["value"], self.k, self.mode)
        batch = {name: _rows(column, best, count) for name, column in batch.items()}
        if self.columns and set(self.columns) != set(batch):
            raise StateError("Interpret: the state was taken with another keep_inputs=: take the one that it had")
        if self.columns:
            both = {name: _joined(self.columns[name], column) for name, column in batch.items()}
            size = len(both["value"])
            best = _first(both["value"], self.k, self.mode)
            batch = {name: _rows(column, best, size) for name, column in both.items()}
        self.columns = batch

    def _count(self, scores: Any, preds: Any, targets: Any) -> None:
        """Count a batch in the confusion matrix, where there are classes."""
        if self.classes is None:
            self.classes = scores is not None and scores.shape[1] <= MOST_COUNTED
        if self.classes:
            if scores is not None:
                preds = scores
            elif self.num_classes and not preds.is_floating_point():
                # labels: how many classes there are is said, not learned
                preds = torch.nn.functional.one_hot(preds.long().flatten(), self.num_classes)
                targets = targets.flatten()
            self.patch.absorb(Outputs(preds, targets, len(targets)))

    def matrix(self) -> torch.Tensor | None:
        """The confusion matrix so far."""
        return None if not self.classes or self.patch.counts is None else self.patch.matrix()

    def samples(self) -> list[dict[str, Any]]:
        """The samples kept, as dicts on the CPU, the first of them at the head."""
        columns = map_tensors(self.columns, lambda tensor: tensor.cpu())
        size = len(columns["value"]) if columns else 0
        rows = [{name: _row(column, n, size) for name, column in columns.items()} for n in range(size)]
        for row in rows:
            row["index"] = None if row["index"] < 0 else row["index"]
        return rows

    def state_dict(self) -> StateDict:
        """The columns, and the counts."""
        counts = self.patch.counts
        return {"columns": dict(self.columns), "seen": self.seen, "classes": self.classes, "counts": counts}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned."""
        self.columns, self.seen, self.classes = dict(state["columns"]), int(state["seen"]), state["classes"]
        self.patch = ConfusionPatch(None)
        if state["counts"] is not None:
            self.patch._take(state["counts"])


def _scores(preds: Any, targets: Any) -> torch.Tensor | None:
    """The predictions as (N, C, ...), where they are scores for classes, in dimension 1 or the last, beside indices."""
    if not (isinstance(preds, torch.Tensor) and isinstance(targets, torch.Tensor) and targets.ndim):
        return None
    dim = class_dim(preds, targets) if preds.is_floating_point() and targets.dtype is not torch.bool else None
    return None if dim is None or preds.shape[dim] < 2 else preds.movedim(dim, 1)


def _first(values: torch.Tensor, k: int, mode: str) -> torch.Tensor:
    """The places of the k values that rank first, in order; of equal ones the earlier, and NaN last."""
    ranked = values if mode == "max" else -values
    ranked = torch.where(ranked.isnan(), -math.inf, ranked)
    return ranked.argsort(descending=True, stable=True)[:k]


def _rows(value: Any, order: torch.Tensor, count: int) -> Any:
    """Some samples of a column, in this order: copies, so that the batch can go."""
    if isinstance(value, torch.Tensor):
        return value[order.to(value.device)] if value.ndim and len(value) == count else value
    if isinstance(value, dict):
        return {key: _rows(item, order, count) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) == count and not any(isinstance(item, (torch.Tensor, list, tuple, dict)) for item in value):
            return [value[place] for place in order.tolist()]
        return [_rows(item, order, count) for item in value]
    return value


def _joined(kept: Any, new: Any) -> Any:
    """Two parts of a column as one; what is no sample's stays as it is."""
    if isinstance(kept, torch.Tensor):
        kept = kept.to(new.device)  # what a state was loaded with may be elsewhere
        return torch.cat([kept, new]) if kept.ndim and kept.shape[1:] == new.shape[1:] else _padded(kept, new)
    if isinstance(kept, dict):
        return {key: _joined(item, new[key]) for key, item in kept.items()}
    if isinstance(kept, list):
        if any(isinstance(item, (torch.Tensor, list, dict)) for item in kept):
            return [_joined(item, other) for item, other in zip(kept, new, strict=True)]
        return kept + new
    return kept


def _padded(kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Put samples of different sizes, as texts of different lengths, into one tensor: shorter ones end with zeros."""
    if not kept.ndim or kept.ndim != new.ndim:
        return kept
    shape = [max(sizes) for sizes in zip(kept.shape[1:], new.shape[1:], strict=True)]
    whole = kept.new_zeros((len(kept) + len(new), *shape))
    whole[(slice(len(kept)), *map(slice, kept.shape[1:]))] = kept
    whole[(slice(len(kept), None), *map(slice, new.shape[1:]))] = new
    return whole


def _row(value: Any, number: int, size: int) -> Any:
    """One sample of a column: numbers as such, everything else as it is."""
    if isinstance(value, torch.Tensor):
        part = value[number] if value.ndim and len(value) == size else value
        return part.item() if part.ndim == 0 else part
    if isinstance(value, dict):
        return {key: _row(item, number, size) for key, item in value.items()}
    if isinstance(value, list):
        if len(value) == size and not any(isinstance(item, (torch.Tensor, list, dict)) for item in value):
            return value[number]
        return [_row(item, number, size) for item in value]
    return value
