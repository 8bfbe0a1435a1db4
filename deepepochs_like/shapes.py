"""How the shapes of predictions and targets go together, and where they do not although nothing fails."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .utils.warn import warn

#: Losses that only subtract or compare, number by number: shapes that differ are never meant.
_BY_NUMBER = (
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.poisson_nll_loss, F.soft_margin_loss),
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss),
)


#: How the names of operations begin, in the graph of a loss, that make of (N, 1) and (1, N) what is meant to be (N, N).
_PRODUCTS = ("Mm", "Bmm", "Addmm", "Baddbmm", "Cdist", "Linear")


def warn_broadcast(
    model_out: Any, batch_y: Any, said: set[str], function: Any, loss: torch.Tensor | None = None
) -> None:
    """Warn once of predictions and targets that a loss or metric broadcasts against each other by mistake.

    It is one where a sample's prediction meets other samples' targets, as (N, 1) meets (N,); of torch's losses that go
    number by number also any other, such as (N, 1) with (N, 3). Where a loss of somebody's own, which may well know
    what to do with its shapes, has a graph, that tells whether the two really meet as they are.

    Args:
        model_out: the predictions; of anything but a tensor nothing is known.
        batch_y: the targets, likewise.
        said: warnings given already; this one's is added to them, or that this function's shapes are as they are meant.
        function: what takes both; None for nothing.
        loss: what a loss function has made of them.
    """
    if not isinstance(model_out, torch.Tensor) or not isinstance(batch_y, torch.Tensor):
        return
    preds, targets, floating = model_out.shape, batch_y.shape, batch_y.is_floating_point()
    if preds == targets or not targets or "broadcast" in said:
        return
    if not floating and _are_scores(preds, targets):
        return
    try:
        together = torch.broadcast_shapes(preds, targets)
    except RuntimeError:  # the shapes have nothing to do with each other: the loss knows what to do with them
        return
    if together.numel() == preds.numel() == targets.numel():  # there is nothing that could be mixed up
        return
    if not _goes_by_number(function):
        meant = f"the shapes of {id(function)}"
        if len(preds) == len(targets) or meant in said:  # sample by sample, whatever there is of each
            return
        if together != preds and loss is not None and loss.grad_fn is not None and not _meet(model_out, loss, together):
            said.add(meant)
            return
    said.add("broadcast")
    warn(
        f"predictions {tuple(preds)} and targets {tuple(targets)} differ in shape and broadcast to "
        f"{tuple(together)}: a loss or metric that subtracts or compares them mixes up samples. Give both one "
        "shape" + (", e.g. preds.squeeze(-1)" if preds[:-1] == targets and preds[-1] == 1 else "")
    )


def _goes_by_number(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return any(function is one or type(function) is one for one in _BY_NUMBER)


def _meet(model_out: torch.Tensor, loss: torch.Tensor, together: torch.Size) -> bool:
    """Whether predictions were made as large as `together` on the way to a loss, beside what has no gradient."""
    end, seen = model_out.grad_fn, set[Any]()
    nodes: list[Any] = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node is end or node in seen:
            continue
        seen.add(node)
        before = [one for one, _ in node.next_functions]
        if _makes(node, together) and any(one is not None and _makes(one, model_out.shape) for one in before):
            name = node.name()
            if name.startswith("Expand") or (None in before and not name.startswith(_PRODUCTS)):
                return True
        nodes += before
    return False


def _makes(node: Any, shape: torch.Size) -> bool:
    """Whether an operation's result has a shape."""
    return any(tuple(one.shape) == tuple(shape) for one in node._input_metadata)


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
