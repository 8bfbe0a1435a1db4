"""`ConfusionPatch` and `ConfusionMetrics`: figures read off the epoch's confusion matrix, in constant memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch

from .. import metrics as functional
from ..errors import ArgumentError, PatchError, did_you_mean
from ..metrics import check_labels
from ..types import StateDict, Value, Weight
from .base import Outputs, PatchBase, check_value, metric_name, own_copy, same_kind

#: Batches, and labels, that are kept before they are counted: many take as long as one.
WINDOW, MOST_KEPT = 64, 1 << 18


class ConfusionPatch(PatchBase):
    """Add up the batches' confusion matrices, and compute the metric from their sum: exact, in O(classes^2).

    Args:
        metric: takes the matrix (int64, rows = targets), as its argument ``conf_mat`` where it has one.
        batch_size: taken for symmetry with the other patches; the matrix holds the samples itself.
        name: see `PatchBase`; by default the metric's name.

    Example:
        >>> p = ConfusionPatch(functional.accuracy).load(torch.tensor([[2., 1.]]), torch.tensor([0]))
        >>> (p + ConfusionPatch(functional.accuracy).load(torch.tensor([[2., 1.]]), torch.tensor([1])))().item()
        0.5
    """

    def __init__(
        self, metric: Callable[..., Any] | None, batch_size: Weight | None = None, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.metric, self.batch_size = metric, batch_size
        self._counts: torch.Tensor | None = None
        #: Predicted labels, targets and number of classes (None where labels were predicted) of the last batches.
        self._kept: list[tuple[torch.Tensor, torch.Tensor, int | None]] = []
        self._elements = 0

    def load(self, preds: Any, targets: Any) -> Any:
        """Take in a batch: scores (N, C, ...) or labels, and class indices."""
        self._counts, self._kept, self._elements = None, [], 0
        return self.absorb(Outputs(preds, targets))

    def absorb(self, outputs: Outputs) -> Any:
        """Take in one more batch, in place: the labels of small ones are kept for a while and counted together."""
        preds, targets = outputs.preds, outputs.targets
        scores = check_labels(preds, targets)
        # Copies: what a model or a loader hands out may be what it fills again.
        labels = preds.argmax(1) if scores else preds.long().clone()
        self._kept.append((labels.flatten(), targets.long().flatten().clone(), preds.shape[1] if scores else None))
        self._elements += targets.numel()
        if len(self._kept) >= WINDOW or self._elements >= MOST_KEPT:
            self._count()
        return self

    @property
    def counts(self) -> torch.Tensor | None:
        """`confusion_counts` so far, owned by this patch; None before the first batch."""
        self._count()
        return self._counts

    def _count(self) -> None:
        """Count what was kept, together as far as it is of one number of classes."""
        kept, self._kept, self._elements = self._kept, [], 0
        for (classes, _), run in groupby(kept, lambda batch: (batch[2], batch[0].device)):
            labels, targets, _ = zip(*run, strict=True)
            self._take(functional.confusion_counts(torch.cat(labels), torch.cat(targets), classes))

    def _take(self, counts: torch.Tensor) -> None:
        if self._counts is None:
            self._counts = counts.clone()
        elif self._counts.shape == counts.shape:
            self._counts.add_(counts)
        else:
            self._counts = _grown(self._counts, counts).add_(_grown(counts, self._counts))

    def follow(self, leader: Any) -> None:
        """Stand for the same batches as another patch."""
        counts, self._kept, self._elements = leader.counts, [], 0
        self._counts = counts if counts is None else counts.clone()

    def matrix(self) -> torch.Tensor:
        """The confusion matrix so far, int64 (classes, classes), rows = targets; a copy.

        Raises:
            PatchError: there is none yet.
            MetricError: labels or targets lay outside the classes.
        """
        counts = self.counts
        if counts is None:
            raise PatchError(
                f"{type(self).__name__} {self.name or ''} holds nothing yet: load a batch before reading it"
            )
        return functional.matrix_of(counts).clone()

    def forward(self) -> Value:
        if self.metric is None:
            raise PatchError("ConfusionPatch(metric=None) cannot be read; give it a function of the matrix")
        by_name = "conf_mat" in _parameters(self.metric)
        value = self.metric(conf_mat=self.matrix()) if by_name else self.metric(self.matrix())
        return check_value(value, self.name or metric_name(self.metric))  # type: ignore[no-any-return]

    def empty(self) -> Any:
        """A patch like this one that has seen nothing: the identity of `+`."""
        twin = own_copy(self)
        twin._counts, twin._kept, twin._elements = None, [], 0
        return twin

    def add(self, other: Any) -> Any:
        return own_copy(self).merge_(other)

    def merge_(self, other: Any) -> Any:
        same_kind(self, other, self.name)
        if (counts := other.counts) is not None:
            self._count()
            self._take(counts)
        return self

    def state_dict(self) -> StateDict:
        """The counts so far; what was kept is counted first."""
        self._count()
        return super().state_dict()


class ConfusionMetrics(ConfusionPatch):
    """Accuracy, precision, recall, F1 and F-beta from one confusion matrix, shown as ``C.acc, C.p, C.r, C.f1, C.fb``.

    Args:
        metrics: which of ``'accuracy', 'precision', 'recall', 'f1', 'fbeta'``.
        average: ``'micro'``, ``'macro'`` or ``'weighted'``; see `deepepochs_like.metrics`.
        beta: for F-beta.
        name: what the five names are put behind.

    Raises:
        ArgumentError: an unknown metric or average.

    Example:
        >>> ConfusionMetrics(['accuracy']).load(torch.tensor([[2., 1.]]), torch.tensor([0]))()['acc'].item()
        1.0
    """

    SHORT: ClassVar[dict[str, str]] = {"accuracy": "acc", "precision": "p", "recall": "r", "f1": "f1", "fbeta": "fb"}

    def __init__(
        self,
        metrics: Sequence[str] = ("accuracy", "precision", "recall", "f1", "fbeta"),
        average: str = "micro",
        beta: float = 1.0,
        name: str | None = "C.",
    ) -> None:
        super().__init__(None, name=name)
        for metric in metrics:
            if metric not in self.SHORT:
                guess = did_you_mean(str(metric), self.SHORT)
                raise ArgumentError(f"metrics={metrics!r}: {metric!r} is none of {', '.join(self.SHORT)}{guess}")
        if average not in functional.AVERAGES:
            raise ArgumentError(f"average={average!r}: one of {', '.join(functional.AVERAGES)} is needed")
        self.metrics, self.average, self.beta = list(metrics), average, beta

    def forward(self) -> Value:
        matrix = self.matrix()
        options: dict[str, dict[str, Any]] = {"accuracy": {}, "fbeta": {"average": self.average, "beta": self.beta}}
        return {
            self.SHORT[m]: getattr(functional, m)(conf_mat=matrix, **options.get(m, {"average": self.average}))
            for m in self.metrics
        }


def _parameters(function: Callable[..., Any]) -> Sequence[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin without a signature takes the matrix by position
        return []


def _grown(counts: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Counts laid out for the larger of two numbers of classes (labels teach it only as they come)."""
    size = max(counts.numel(), other.numel())
    classes, old = round((size - 1) ** 0.5), round((counts.numel() - 1) ** 0.5)
    grown = torch.zeros(size, dtype=counts.dtype, device=counts.device)
    grown[:-1].view(classes, classes)[:old, :old] = counts[:-1].view(old, old)
    grown[-1] = counts[-1]
    return grown
