"""Samples cut into batches, and put together again by a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any, Literal

import numpy as np
import torch

from ..errors import ArgumentError, ArgumentTypeError, a_kind


def batches(inputs: Any, batch_size: int) -> Iterator[Any]:
    """Cut something into batches, in order; the last may be smaller.

    A tensor, array, string or range is cut along its first dimension. A tuple is taken as columns that go together, and
    gives a tuple of their parts for each batch; so is a list of tensors, arrays or strings. Any other list is a list of
    samples.

    Args:
        inputs: what to cut.
        batch_size: samples per batch.

    Raises:
        ArgumentError: the size is below 1, or the columns differ in length.
        ArgumentTypeError: there is nothing to cut in `inputs`.

    Example:
        >>> list(batches([1, 2, 3], 2)), list(batches((torch.arange(3), "abc"), 2))[1]
        ([[1, 2], [3]], (tensor([2]), 'c'))
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ArgumentError(f"batch_size={batch_size!r}: an int of at least 1 is needed")
    column_like = (torch.Tensor, np.ndarray, str, bytes, range)
    columns = isinstance(inputs, tuple) or (
        isinstance(inputs, list) and bool(inputs) and all(isinstance(item, column_like) for item in inputs)
    )
    lengths = [_length(column) for column in inputs] if columns else [_length(inputs)]
    if len(set(lengths)) > 1:
        raise ArgumentError(f"the columns have {lengths} samples; they must go together one by one")
    starts = range(0, lengths[0] if lengths else 0, batch_size)
    if columns:
        return (tuple(column[i : i + batch_size] for column in inputs) for i in starts)
    return (inputs[i : i + batch_size] for i in starts)


def _length(column: Any) -> int:
    whole = isinstance(column, (Mapping, set, frozenset)) or not isinstance(column, Sized)
    if whole or not hasattr(column, "__getitem__") or not getattr(column, "ndim", 1):
        raise ArgumentTypeError(f"batches: {column!r}, {a_kind(column)}, cannot be cut into slices")
    return len(column)


def groupby_apply(values: Any, keys: Any, reduction: Literal["mean", "sum"] = "mean") -> torch.Tensor:
    """Reduce the values of each key to one; gradients flow to the values.

    Args:
        values: a tensor (N, ...), or what makes one; the first dimension is reduced.
        keys: N keys, in any order.
        reduction: ``'mean'`` or ``'sum'``; the mean of ints is a float.

    Returns:
        A tensor (K, ...) for the K distinct keys, in ascending order.

    Raises:
        ArgumentError: the reduction is neither, or values and keys are not of one length.

    Example:
        >>> groupby_apply(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([3, 1, 3, 1]), "sum")
        tensor([6., 4.])
    """
    if reduction not in ("mean", "sum"):
        raise ArgumentError(f"reduction={reduction!r}: 'mean' or 'sum' is needed")
    values, keys = torch.as_tensor(values), torch.as_tensor(keys)
    keys = keys.to(values.device)
    if keys.ndim != 1 or values.ndim == 0 or len(keys) != len(values):
        raise ArgumentError(
            f"values {tuple(values.shape)} and keys {tuple(keys.shape)}: shapes (N, ...) and (N,) are needed"
        )
    if reduction == "mean" and not (values.is_floating_point() or values.is_complex()):
        values = values.to(torch.get_default_dtype())
    distinct, group = torch.unique(keys, return_inverse=True)
    total = torch.zeros((len(distinct), *values.shape[1:]), dtype=values.dtype, device=values.device)
    total = total.index_add(0, group, values)
    if reduction == "sum":
        return total
    counts = torch.bincount(group, minlength=len(distinct)).to(values.dtype)
    return total / counts.view(-1, *[1] * (values.ndim - 1))
