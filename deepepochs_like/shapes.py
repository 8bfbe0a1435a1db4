"""How the shapes of predictions and targets go together, and where they do not although nothing fails."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .rng import rng_state, set_rng_state
from .utils.warn import warn

#: Losses that only subtract or compare, number by number: shapes that differ are never meant.
_BY_NUMBER = (
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.poisson_nll_loss, F.soft_margin_loss),
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss),
)


def warn_broadcast(model_out: Any, batch_y: Any, said: set[str], function: Any) -> None:
    """Warn once of predictions and targets that a loss or metric broadcasts against each other by mistake.

    It is one where a sample's prediction meets other samples' targets, as (N, 1) meets (N,); of torch's losses that go
    number by number also any other, such as (N, 1) with (N, 3). A function of somebody's own, which may well know what
    to do with its shapes, is tried on the batch to see whether the two really meet as they are.

    Args:
        model_out: the predictions; of anything but a tensor nothing is known.
        batch_y: the targets, likewise.
        said: warnings given already; this one's is added to them.
        function: what takes both; None for nothing.
    """
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
    if together.numel() == preds.numel() == targets.numel():  # there is nothing that could be mixed up
        return
    aligned = len(preds) == len(targets)  # sample by sample, whatever there is of each
    if not _goes_by_number(function) and (aligned or not _meet(function, model_out, batch_y, together)):
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


def _meet(function: Any, model_out: torch.Tensor, batch_y: torch.Tensor, together: torch.Size) -> bool:
    """Whether a function broadcasts predictions and targets as they are; it is called once more to find out."""
    if not inspect.isroutine(function):
        try:
            function = copy.deepcopy(function)  # what an object counts is counted once
        except Exception:
            return False
    watch, generators = _Watch(model_out.shape, batch_y.shape, together), rng_state()
    try:
        with torch.no_grad(), watch:
            function(model_out.detach(), batch_y.detach())
    except Exception:  # its error comes up where it is really called; what was seen before it was seen
        pass
    finally:
        set_rng_state(generators)
    return watch.met


class _Watch(TorchDispatchMode):
    """Look at every operation, for one that broadcasts two shapes against each other."""

    def __init__(self, preds: torch.Size, targets: torch.Size, together: torch.Size) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.preds, self.targets, self.together = preds, targets, together
        self.met = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is to be done, and compare the shapes that went in with the one that came out."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.shape == self.together:
            given = [one.shape for one in args if isinstance(one, torch.Tensor)]
            both = self.preds in given and self.targets in given
            self.met = self.met or both or (func is torch.ops.aten.expand.default and self._widened(given))
        return result

    def _widened(self, given: list[torch.Size]) -> bool:
        return given[0] != self.together and given[0] in (self.preds, self.targets)


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
