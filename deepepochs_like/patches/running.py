"""The loop's own account of its loss: a sample-weighted mean, and the first loss that was not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn

from ..types import StateDict, Weight
from .intact import KeptLoss, refuse, stacked

#: Losses kept before they are added up: one reduction of 64 costs about what two single additions cost.
WINDOW = 64

#: The attributes that are the state, without their underscores.
_PARTS = ("weight", "total", "unweighed", "window", "seen", "spoilt")


class RunningLoss:
    """Add up losses on their device without waiting for it, in float64 where it has it.

    What gives a figure raises `PatchError` where a loss was changed in place since it was taken in.
    """

    def __init__(self) -> None:
        #: How many losses were taken in.
        self.count = 0
        self._kept: list[KeptLoss] = []
        self._total: Any = None
        self._weight: Weight = 0
        #: Losses without weight leave no trace in the total: this is the sum of 0 x loss, NaN behind one not finite.
        self._unweighed: Any = None
        #: The last losses before which all were finite, and how many there were with them.
        self._window: Any = None
        self._seen: Any = 0
        #: What is wrong with the figure, as a loss was changed in place since it was taken in.
        self._spoilt: str | None = None

    def add(self, loss: torch.Tensor, weight: Weight, version: int | None = None) -> None:
        """Take in a batch's detached mean loss, with its version as it was; see `stacked`."""
        self._kept.append((loss, weight, version))
        self.count += 1
        if not self.count % WINDOW:
            refuse(self.reduce())

    def reduce(self) -> str | None:
        """Add what was kept to the totals: a few operations, however many losses. Return what is wrong with them."""
        if not self._kept:
            return self._spoilt
        losses, each, self._spoilt = stacked(self._kept, self.count, self._spoilt)
        self._note_window(losses)
        dtype = torch.float32 if losses.device.type == "mps" else torch.float64
        if torch.Tensor in set(map(type, each)):
            weights = torch.stack([torch.as_tensor(w, device=losses.device).to(dtype) for w in each])
            total = torch.where(weights != 0, losses.to(dtype) * weights, 0).sum()
            weight, weighed = weights.sum(), False
        else:
            total, weight, weighed = _weighted_sum(losses, each, dtype), sum(each), all(each)
        if not weighed:
            nothing = (losses * 0).sum(dtype=dtype)
            self._unweighed = nothing if self._unweighed is None else self._unweighed + nothing
        self._total = total if self._total is None else self._total + total
        # Only now are they let go: where something above failed they are not missing from a figure that is read later.
        self._weight, self._kept = self._weight + weight, []
        return self._spoilt

    def _note_window(self, losses: torch.Tensor) -> None:
        """Keep these losses if all before were finite."""
        if self._total is None:
            self._window, self._seen = losses, len(losses)
            return
        fine = torch.isfinite(self._marker())
        self._window = torch.where(fine, _filled(losses), _filled(self._window))
        self._seen = self._seen + fine * len(losses)

    def _marker(self) -> torch.Tensor:
        """What is finite while all losses so far are."""
        return self._total if self._unweighed is None else self._total + self._unweighed  # type: ignore[no-any-return]

    def mean(self) -> torch.Tensor | None:
        """The sample-weighted mean so far, on the device; None before the first loss."""
        refuse(self.reduce())
        return None if self._total is None else self._total / self._weight

    def marker(self) -> torch.Tensor | None:
        """What is finite while all losses are, on the device; None where `mean` tells it."""
        refuse(self.reduce())
        return None if self._unweighed is None else self._marker()

    def first_bad(self) -> tuple[int, float] | None:
        """The index of the first loss that was not finite, and it; None while all are. The device is waited for."""
        refuse(self.reduce())
        if self._total is None or self._total.is_meta:
            return None
        window = self._window.tolist()
        place = next((i for i, loss in enumerate(window) if not math.isfinite(loss)), None)
        return None if place is None else (int(self._seen) - len(window) + place, window[place])

    def state_dict(self) -> StateDict:
        """The totals, right or wrong: it is their figure that is refused; what is in the window is added up first."""
        self.reduce()
        return {"count": self.count, **{name: getattr(self, f"_{name}") for name in _PARTS}}

    def load_state_dict(self, state: StateDict, device: Any = None) -> None:
        """Restore what `state_dict` returned, on `device`."""
        self._kept, self.count = [], state["count"]
        for name in _PARTS:
            part = state.get(name)  # states of older versions do not say what is wrong
            setattr(self, f"_{name}", part.to(device or part.device) if isinstance(part, torch.Tensor) else part)


def _weighted_sum(losses: torch.Tensor, weights: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
    """The sum of losses times weights, in a wide type; a loss without weight adds nothing, whatever it is."""
    first = weights[0]
    if first and all(weight == first for weight in weights):
        return losses.sum(dtype=dtype).mul(first)
    if losses.device.type == "cpu" and all(weights):
        return torch.dot(losses.to(dtype), torch.tensor(weights, dtype=dtype))
    total, start = torch.zeros((), dtype=dtype, device=losses.device), 0
    for weight, run in groupby(weights):  # runs of equal weights: no tensor of them has to go to the device
        n = len(list(run))
        if weight:
            total.add_(losses[start : start + n].sum(dtype=dtype), alpha=weight)
        start += n
    return total


def _filled(losses: torch.Tensor) -> torch.Tensor:
    """Losses put behind zeros, so that there are as many as in any other window."""
    return losses if len(losses) == WINDOW else nn.functional.pad(losses, (WINDOW - len(losses), 0))
