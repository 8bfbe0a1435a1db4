"""Mixed precision on an execution: autocast around steps and, for float16, a scaled loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.amp import GradScaler

from .. import bare
from ..errors import ArgumentError
from ..optimizer import Optimizer
from ..tensors import map_tensors
from .local import Local

#: What is made float32 again when it leaves a model, so that losses and figures are not rounded.
NARROW = (torch.bfloat16, torch.float16)


class MixedPrecision:
    """Run the steps of an execution in another precision.

    The forward pass and the loss run under `torch.autocast`; back-propagation and updates do not, as torch advises.
    What a model returns is made float32. With a scaler, gradients are unscaled before anybody sees them, an update
    whose gradients overflowed is left out, and the scale changes between batches, never within one or within an
    accumulation window.

    Args:
        execution: what it is installed on; its methods are wrapped, not replaced.
        dtype: of the forward pass.
        scaler: scales the loss, or None.
    """

    def __init__(self, execution: Local, dtype: torch.dtype, scaler: GradScaler | None) -> None:
        if execution.around is not None:
            raise ArgumentError("AMP: another AMP is among the callbacks; one trainer has one precision")
        self.execution, self.dtype, self.scaler = execution, dtype, scaler
        #: Updates left out so far.
        self.skipped = 0
        self._backward, self._prepare = execution.backward, execution.prepare
        self._inside = self._stepped = self._looked = False
        everything: Any = execution
        everything.around, everything.backward = self.around, self.backward
        everything.update, everything.scaler = self.update, scaler
        if scaler is not None:
            everything.prepare, everything.prepares = self.prepare, True

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Make of a step one that runs under autocast."""

        @functools.wraps(step)
        def in_precision(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(self.execution.device.type, self.dtype), self._batch():
                return step(*args, **kwargs)

        return in_precision

    @contextmanager
    def _batch(self) -> Iterator[None]:
        outer, self._inside = self._inside, True  # an evaluation within a training step is a batch inside a batch
        try:
            yield
        finally:
            self._inside = outer
            if not outer:
                self._close()

    def _close(self) -> None:
        """Let the scale follow the updates of a batch, and end the accumulation window that they closed."""
        if self.scaler is None or not self._looked:
            return
        self._looked = False
        self.scaler.update()
        window = self.execution.window
        if window is not None and window.due:
            window.reset()

    def _plain(self) -> Any:
        return torch.autocast(self.execution.device.type, enabled=False)

    def backward(self, loss: Any) -> None:
        """Back-propagate a loss, scaled where there is a scaler."""
        with self._plain():
            self._backward(loss if self.scaler is None else self.scaler.scale(loss))

    def prepare(self, optimizers: Sequence[Optimizer]) -> None:
        """Unscale the gradients, then make of a window's sum its mean."""
        for optimizer in optimizers:
            if self.scaler is not None and _has_gradients(optimizer):
                self.scaler.unscale_(optimizer.opt)
                self._looked = True
        self._prepare(optimizers)

    def update(self, optimizers: Sequence[Optimizer]) -> Sequence[Optimizer]:
        """Step the optimizers whose gradients are finite, clear all gradients, and return those that stepped."""
        with self._plain():
            stepped = [optimizer for optimizer in optimizers if self._step(optimizer)]
        torch.clear_autocast_cache()  # it has copies of the weights as they were
        if not self._inside:
            self._close()
        return optimizers if len(stepped) == len(optimizers) else stepped

    def _step(self, optimizer: Optimizer) -> bool:
        self._stepped = True
        if self.scaler is None or not _has_gradients(optimizer):
            bare.step(optimizer.opt)
        else:
            self._stepped = False
            told = optimizer.opt.register_step_post_hook(self._note)
            try:
                self.scaler.step(optimizer.opt)
            finally:
                told.remove()
            self.skipped += not self._stepped
        bare.zero_grad(optimizer.opt)
        return self._stepped

    def _note(self, *step: Any) -> None:
        self._stepped = True


def widen(module: Any, args: Any, output: Any) -> Any:
    """Make a module's output float32: a forward hook."""
    return map_tensors(output, lambda tensor: tensor.float() if tensor.dtype in NARROW else tensor)


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
