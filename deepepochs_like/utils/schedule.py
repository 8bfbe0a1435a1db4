"""A learning rate that rises in a line and falls in a cosine."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from ..errors import ArgumentError


class LinearCosineScheduler(LRScheduler):
    """Raise the learning rate linearly to its maximum, then lower it along a half cosine.

    Step i (from 0) of the warm-up has ``max_val * (i + 1) / warmup_steps``; then the half cosine leads from `max_val`
    to `min_val`, which is reached in step `total_steps` and kept from there on. All parameter groups have the same
    rate, whatever theirs was.

    Args:
        optimizer: a torch optimizer.
        max_val: the highest rate.
        warmup_steps: steps of the rise; 0 begins with the fall.
        total_steps: the step in which the fall ends.
        min_val: the lowest rate; by default what one more step of a cosine down to 0 would have left.
        last_epoch: the step to go on from; -1 begins.

    Raises:
        ArgumentError: the fall would end before it begins, or a number is negative.

    Example:
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = LinearCosineScheduler(sgd, max_val=0.1, warmup_steps=4, total_steps=10); schedule.get_last_lr()
        [0.025]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_val: float,
        warmup_steps: int,
        total_steps: int,
        min_val: float | None = None,
        last_epoch: int = -1,
    ) -> None:
        if not 0 <= warmup_steps <= total_steps:
            raise ArgumentError(
                f"warmup_steps={warmup_steps}, total_steps={total_steps}: 0 <= warm-up <= total is needed"
            )
        if max_val <= 0 or (min_val is not None and min_val < 0):
            raise ArgumentError(f"max_val={max_val}, min_val={min_val}: learning rates above 0 are needed")
        falling = total_steps - warmup_steps + 1
        if min_val is None:
            min_val = max_val / 2 * (1 + math.cos(math.pi * falling / (falling + 1)))
        self.max_val, self.min_val = max_val, min_val
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        super().__init__(optimizer, last_epoch)  # which asks for the first rate, so it comes last

    def value(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.max_val * (step + 1) / self.warmup_steps
        if step >= self.total_steps:
            return self.min_val
        share = (step - self.warmup_steps + 1) / (self.total_steps - self.warmup_steps + 1)
        return self.min_val + (self.max_val - self.min_val) / 2 * (1 + math.cos(math.pi * share))

    def get_lr(self) -> list[Any]:
        """The rate of the current step, for every parameter group."""
        return [self.value(self.last_epoch)] * len(self.optimizer.param_groups)
