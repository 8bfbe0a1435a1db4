"""Classification metrics computed from a confusion matrix, in plain torch.

Each takes predictions and targets, or a confusion matrix (rows = targets): ``f1(preds, targets)``,
``f1(conf_mat=matrix)``. Predictions are scores ``(N, C, ...)`` beside targets ``(N, ...)``, or class labels of the
targets' shape. Targets of -100, torch's `ignore_index`, do not count. Results are 0-dimensional float64 tensors on the
inputs' device. With two classes ``average='micro'`` gives the figures of class 1, the usual binary convention;
``macro`` and ``weighted`` average over the classes that occur, as scikit-learn does. A ratio without a denominator
is 0.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .errors import ArgumentError, MetricError
from .types import wide

if TYPE_CHECKING:
    from torch import Tensor

AVERAGES = ("micro", "macro", "weighted")
IGNORED = -100


def check_labels(preds: Tensor, targets: Tensor) -> bool:
    """Tell whether predictions are scores (by which shapes go together), or labels.

    Raises:
        MetricError: the shapes do not go together, or the predictions are one floating score per target, of which one
            cannot tell whether it is a probability or a logit: pass labels, e.g. ``(scores > 0.5).long()``.
    """
    if preds.ndim == targets.ndim + 1 and preds.shape[1] > 1 and preds.shape[:1] + preds.shape[2:] == targets.shape:
        return True
    if preds.shape == targets.shape and not preds.is_floating_point():
        return False
    why = (
        "one floating score per target may be a probability or a logit: pass labels, e.g. (scores > 0.5).long()"
        if preds.is_floating_point() and preds.numel() == targets.numel()
        else "needed are scores (N, C, ...) beside targets (N, ...), or labels of the targets' shape"
    )
    raise MetricError(
        f"predictions {tuple(preds.shape)} and targets {tuple(targets.shape)} do not make a confusion matrix: {why}"
    )


def to_labels(preds: Tensor, targets: Tensor) -> Tensor:
    """Return predicted class labels of the targets' shape; scores are reduced by argmax over dimension 1.

    Raises:
        MetricError: see `check_labels`.
    """
    return preds.argmax(1) if check_labels(preds, targets) else preds.long()


def confusion_counts(preds: Tensor, targets: Tensor, num_classes: int | None = None, look: bool = False) -> Tensor:
    """Count (target, prediction) pairs into C*C bins, and pairs out of range into one more; nothing is read back.

    Only predictions given as labels without `num_classes` are looked at, to learn how many classes there are. With
    `look` targets on the CPU are, too: where all are in range, it takes a third of the operations.
    """
    labels = to_labels(preds, targets).flatten()
    scores, targets = preds.ndim > targets.ndim, targets.flatten().long()
    if num_classes is None and scores:
        num_classes = preds.shape[1]
    elif num_classes is None:
        seen = labels.numel() and labels.device.type != "meta"
        num_classes = max(int(torch.cat((labels, targets)).max()) + 1 if seen else 0, 2)
    if look and scores and targets.device.type == "cpu" and targets.numel():
        low, high = (end.item() for end in torch.aminmax(targets))
        if low >= 0 and high < num_classes:
            return torch.bincount(torch.add(labels, targets, alpha=num_classes), minlength=num_classes**2 + 1)
    inside = (targets >= 0) & (targets < num_classes) & (labels >= 0) & (labels < num_classes)
    bins = torch.where(inside, targets * num_classes + labels, num_classes**2)
    counts = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=preds.device)
    return counts.index_add_(0, bins, (targets != IGNORED).long())


def matrix_of(counts: Tensor) -> Tensor:
    """Turn the bins of `confusion_counts` into the matrix (C, C), rows = targets.

    Raises:
        MetricError: labels or targets lay outside the classes.
    """
    classes = round((counts.numel() - 1) ** 0.5)
    if counts.device.type != "meta" and (outside := int(counts[-1])):
        raise MetricError(
            f"{outside} targets or labels lie outside 0..{classes - 1}, the classes that there are; labels must be "
            "class indices from 0 (-100 is ignored)"
        )
    return counts[:-1].view(classes, classes)


def confusion_matrix(preds: Tensor, targets: Tensor, num_classes: int | None = None) -> Tensor:
    """Return the confusion matrix, int64 (C, C), rows = targets, columns = predictions.

    Args:
        preds: scores (N, C, ...) or labels of the targets' shape.
        targets: class indices.
        num_classes: C; by default the number of scores, or the highest label + 1.

    Raises:
        MetricError: shapes that do not go together, or labels outside 0..C-1.

    Example:
        >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])).tolist()
        [[1, 1], [0, 1]]
    """
    return matrix_of(confusion_counts(preds, targets, num_classes, look=True))


def accuracy(preds: Tensor | None = None, targets: Tensor | None = None, conf_mat: Tensor | None = None) -> Tensor:
    """Return the share of right predictions.

    Example:
        >>> accuracy(torch.tensor([[.1, .9], [.8, .2]]), torch.tensor([1, 1])).item()
        0.5
    """
    if conf_mat is None and preds is not None and targets is not None:
        counted = targets != IGNORED
        right = ((to_labels(preds, targets) == targets) & counted).sum()
        return right.to(wide(right.device)) / counted.sum().clamp(min=1)
    matrix = _matrix(preds, targets, conf_mat)
    return matrix.diagonal().sum() / matrix.sum().clamp(min=1)


def precision(
    preds: Tensor | None = None, targets: Tensor | None = None, conf_mat: Tensor | None = None, average: str = "micro"
) -> Tensor:
    """Return precision: the share of the predictions of a class that are right.

    Example:
        >>> precision(conf_mat=torch.tensor([[1, 1], [0, 2]])).item()
        0.6666666666666666
    """
    return _averaged(_matrix(preds, targets, conf_mat), average, lambda tp, fp, fn: (tp, tp + fp))


def recall(
    preds: Tensor | None = None, targets: Tensor | None = None, conf_mat: Tensor | None = None, average: str = "micro"
) -> Tensor:
    """Return recall: the share of the targets of a class that are found.

    Example:
        >>> recall(conf_mat=torch.tensor([[1, 1], [0, 2]])).item()
        1.0
    """
    return _averaged(_matrix(preds, targets, conf_mat), average, lambda tp, fp, fn: (tp, tp + fn))


def f1(
    preds: Tensor | None = None, targets: Tensor | None = None, conf_mat: Tensor | None = None, average: str = "micro"
) -> Tensor:
    """Return F1, the harmonic mean of precision and recall.

    Example:
        >>> f1(conf_mat=torch.tensor([[1, 1], [0, 2]])).item()
        0.8
    """
    return fbeta(preds, targets, conf_mat, 1.0, average)


def fbeta(
    preds: Tensor | None = None,
    targets: Tensor | None = None,
    conf_mat: Tensor | None = None,
    beta: float = 1,
    average: str = "micro",
) -> Tensor:
    """Return F-beta, which counts recall `beta` times as much as precision (van Rijsbergen, 1979).

    Example:
        >>> round(fbeta(conf_mat=torch.tensor([[1, 1], [0, 2]]), beta=2).item(), 4)
        0.9091
    """
    b = beta**2
    return _averaged(
        _matrix(preds, targets, conf_mat), average, lambda tp, fp, fn: ((1 + b) * tp, (1 + b) * tp + b * fn + fp)
    )


def of_matrix(metric: Any) -> Callable[[Tensor], Any] | None:
    """What computes a metric from a confusion matrix that is there already, where it would make one of its own."""
    if isinstance(metric, partial) and metric.args:
        return None
    function = metric.func if isinstance(metric, partial) else metric
    if function is confusion_matrix and function is metric:
        return lambda matrix: matrix.clone()
    return (lambda matrix: metric(conf_mat=matrix)) if function in (precision, recall, f1, fbeta) else None


def _matrix(preds: Tensor | None, targets: Tensor | None, conf_mat: Tensor | None) -> Tensor:
    """The confusion matrix in float64, from whichever of the two was given."""
    if conf_mat is None:
        if preds is None or targets is None:
            raise ArgumentError("a metric needs preds and targets, or conf_mat=; neither was given whole")
        conf_mat = confusion_matrix(preds, targets)
    elif preds is not None or targets is not None:
        raise ArgumentError("a metric takes preds and targets, or conf_mat, not both (a matrix goes in as conf_mat=)")
    conf_mat = torch.as_tensor(conf_mat)
    if conf_mat.ndim != 2 or conf_mat.shape[0] != conf_mat.shape[1]:
        raise ArgumentError(f"conf_mat has shape {tuple(conf_mat.shape)}; a square matrix, rows = targets, is needed")
    return conf_mat.to(wide(conf_mat.device))


def _averaged(matrix: Tensor, average: str, parts: _Parts) -> Tensor:
    """Average a ratio of counts over classes; `parts` gives its numerator and denominator."""
    if average not in AVERAGES:
        raise ArgumentError(f"average={average!r}: one of {', '.join(map(repr, AVERAGES))} is needed")
    tp, predicted, actual = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    top, bottom = parts(tp, predicted - tp, actual - tp)
    if average == "micro":
        if len(matrix) == 2:
            return _ratio(top[1], bottom[1])
        return _ratio(top.sum(), bottom.sum())
    each = _ratio(top, bottom)
    if average == "weighted":
        return _ratio((each * actual).sum(), actual.sum())
    return _ratio(each.sum(), ((predicted + actual) > 0).sum())  # of a class that does not occur, it is 0


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom > 0, top / bottom, 0)


if TYPE_CHECKING:
    from collections.abc import Callable

    _Parts = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
