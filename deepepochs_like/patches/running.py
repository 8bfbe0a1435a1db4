"""The loop's own account of its loss: a sample-weighted mean, and the first loss that was not finite."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch

from ..types import StateDict, Weight

#: Losses kept before they are added up: one reduction of 64 costs about what two single additions cost.
WINDOW = 64


class RunningLoss:
    """Add up losses on their device without waiting for it, in float64 where it has it."""

    def __init__(self) -> None:
        #: How many losses were taken in.
        self.count = 0
        self._kept: list[tuple[torch.Tensor, Weight]] = []
        self._total: torch.Tensor | None = None
        self._weight: Weight = 0
        self._bad: torch.Tensor | None = None  # [index of the first non-finite loss or -1, that loss]

    def add(self, loss: torch.Tensor, weight: Weight) -> None:
        """Take in a batch's detached mean loss."""
        self._kept.append((loss, weight))
        self.count += 1
        if not self.count % WINDOW:
            self.reduce()

    def reduce(self) -> None:
        """Add what was kept to the totals: a few operations, however many losses."""
        if not self._kept:
            return
        kept, each = zip(*self._kept, strict=True)
        self._kept = []
        losses = torch.stack(kept)
        losses = losses.to(torch.float32 if losses.device.type == "mps" else torch.float64)
        if self._total is None:
            self._total = torch.zeros((), dtype=losses.dtype, device=losses.device)
            self._bad = torch.full((2,), -1.0, dtype=losses.dtype, device=losses.device)
        start = 0
        if torch.Tensor in set(map(type, each)):
            weights = torch.stack([torch.as_tensor(w, device=losses.device).to(losses.dtype) for w in each])
            self._total.add_(torch.where(weights != 0, losses * weights, 0).sum())
            self._weight = self._weight + weights.sum()
        else:  # equal weights in a row (nearly always all) are one addition; no tensor of weights goes to the device
            for weight, run in groupby(each):
                n = len(list(run))
                if weight:
                    self._total.add_(losses[start : start + n].sum(), alpha=weight)
                self._weight = self._weight + weight * n
                start += n
        self._note_bad(losses)

    def _note_bad(self, losses: torch.Tensor) -> None:
        """Keep the first non-finite loss and its place, all on the device."""
        assert self._bad is not None
        bad = ~torch.isfinite(losses)
        first = bad.to(torch.uint8).argmax()
        found = torch.stack((first + (self.count - len(losses)), torch.gather(losses, 0, first[None])[0]))
        self._bad = torch.where(bad.any() & (self._bad[0] < 0), found.to(losses.dtype), self._bad)

    def mean(self) -> torch.Tensor | None:
        """The sample-weighted mean so far, on the device; None before the first loss."""
        self.reduce()
        return None if self._total is None else self._total / self._weight

    def first_bad(self) -> torch.Tensor | None:
        """[index of the first non-finite loss, that loss] on the device, the index -1 while all are finite."""
        self.reduce()
        return self._bad

    def state_dict(self) -> StateDict:
        """The totals; what is in the window is added up first."""
        self.reduce()
        return {"count": self.count, "total": self._total, "weight": self._weight, "bad": self._bad}

    def load_state_dict(self, state: StateDict, device: Any = None) -> None:
        """Restore what `state_dict` returned, on `device`."""
        self._kept, self.last, self.count = [], None, state["count"]
        self._total, self._weight, self._bad = state["total"], state["weight"], state["bad"]
        if self._total is not None and self._bad is not None:  # copies: they are added to in place
            device = self._total.device if device is None else device
            self._total, self._bad = self._total.to(device, copy=True), self._bad.to(device, copy=True)
