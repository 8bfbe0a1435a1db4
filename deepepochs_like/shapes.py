"""How the shapes of predictions and targets go together, and where they do not although nothing fails."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from .errors import EngineWarning


def warn_broadcast(model_out: Any, batch_y: Any, said: set[str]) -> None:
    """Warn once of predictions and targets that broadcast against each other where equal shapes are meant."""
    if not isinstance(model_out, torch.Tensor) or not isinstance(batch_y, torch.Tensor):
        return
    preds, targets, floating = model_out.shape, batch_y.shape, batch_y.is_floating_point()
    if preds == targets or not preds or not targets or "broadcast" in said:
        return
    if not floating and _are_scores(preds, targets):
        return
    try:
        together = torch.broadcast_shapes(preds, targets)
    except RuntimeError:  # the shapes have nothing to do with each other: the loss knows what to do with them
        return
    if not together.numel() == preds.numel() == targets.numel():  # else there is nothing that could be mixed up
        said.add("broadcast")
        warnings.warn(
            f"predictions {tuple(preds)} and targets {tuple(targets)} differ in shape and broadcast to "
            f"{tuple(together)}: a loss or metric that subtracts or compares them mixes up samples. Give both one "
            "shape" + (", e.g. preds.squeeze(-1)" if preds[:-1] == targets and preds[-1] == 1 else ""),
            EngineWarning,
            stacklevel=6,
        )


def _are_scores(preds: torch.Size, targets: torch.Size) -> bool:
    """Tell scores of several classes by class indices: (N, C, ...) as torch has them, or (N, ..., C), by (N, ...)."""
    if len(preds) != len(targets) + 1:
        return False
    return (preds[:1] + preds[2:] == targets and preds[1] > 1) or (preds[:-1] == targets and preds[-1] > 1)


def class_dim(preds: torch.Tensor, targets: torch.Tensor) -> int | None:
    """The dimension of predictions that has a score for each class, beside targets that are class indices.

    Args:
        preds: (N, C, ...) as torch has them, or (N, ..., C) as models of sequences do.
        targets: (N, ...); of floating numbers they are no indices.

    Returns:
        1 or -1; None where there is none.

    Example:
        >>> class_dim(torch.zeros(4, 7, 10), torch.zeros(4, 7, dtype=torch.long))
        -1
    """
    if targets.is_floating_point() or targets.is_complex() or preds.ndim != targets.ndim + 1:
        return None
    if preds.shape[:1] + preds.shape[2:] == targets.shape:
        return 1
    return -1 if preds.shape[:-1] == targets.shape else None
