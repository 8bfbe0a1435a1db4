"""Gradient accumulation, exact to the sample: a window's gradient is the mean over the samples it really saw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from ..errors import StateError, StepError
from ..types import StateDict, Weight, wide
from ..utils.warn import warn


def open_window(execution: Any) -> None:
    """Give an execution that accumulates nothing a window of one batch, which may be made larger."""
    execution.window = Window(1)
    execution.may_defer = execution.prepares = True


def close_window(execution: Any) -> None:
    """Let an execution accumulate nothing again. It goes on asking whether it does, as something else may want that."""
    execution.window = None


def drop_gradients(trainer: Any) -> None:
    """Forget the gradients of a batch that came to nothing, and an accumulation window they are mixed into."""
    window = trainer.execution.window
    if window is not None:
        if window.batches:
            message = f"an open accumulation window is dropped, with the gradients of {window.batches} batches in it"
            warn(message)
        window.reset()
    trainer.opt.zero_grad()


class Window:
    """An accumulation window of `size` batches.

    Every batch's mean loss is back-propagated times its weight, and the sum of gradients is divided by the sum of
    weights when the window closes; so neither a ragged batch nor a short last window needs to be known beforehand.
    Weights are taken relative to the first batch's, which keeps gradients at their usual scale (exactly so where all
    batches are alike).
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.reset()

    def reset(self) -> None:
        """Begin a new window."""
        self.batches, self.closing = 0, False
        self.total: Any = 0.0
        self._first: Weight = 1
        self._seen = -1
        self._averaged: set[int] = set()

    @property
    def due(self) -> bool:
        """Whether the window is full, or being closed early at the end of an epoch."""
        return self.batches >= self.size or self.closing

    def holds(self, batch: int) -> bool:
        """Tell whether gradients of the batch with this number are in the window."""
        return batch == self._seen

    def scaled(self, loss: torch.Tensor, weight: Weight, batch: int) -> torch.Tensor:
        """Return what to back-propagate for the mean loss of a batch; the batch is counted once, by its number."""
        if isinstance(weight, torch.Tensor):  # e.g. a float32 sum of tokens: its ratios must not be rounded to float32
            weight = weight.detach().to(wide(weight.device))
        elif isinstance(weight, np.generic):  # a narrow type of NumPy's rounds and overflows
            weight = weight.item()
        if batch != self._seen:
            if not self.batches:
                if not isinstance(weight, torch.Tensor) and not weight:
                    raise StepError(f"accumulate={self.size}: the first batch of a window weighs {weight!r}; skip it")
                self._first = weight
            self.batches, self._seen = self.batches + 1, batch
            self.total = self.total + weight / self._first
        return loss * (weight / self._first)

    def average(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Divide the gradients of `parameters` by the weight of the window, each once."""
        for parameter in parameters:
            if parameter.grad is not None:
                if id(parameter) in self._averaged:
                    raise StepError(
                        f"accumulate={self.size}: a step updates the same parameters twice at the end of one window, "
                        "so that the second update would lack the earlier batches; of several losses in a batch let "
                        "only the last one optimize (do_optimize=False in the others)"
                    )
                self._averaged.add(id(parameter))
                parameter.grad.div_(self.total)

    def state_dict(self, named: Mapping[str, torch.nn.Parameter]) -> StateDict | None:
        """The open window with the gradients so far, by parameter name; None when no window is open."""
        if not self.batches:
            return None
        gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
        return {"batches": self.batches, "total": self.total, "first": self._first, "gradients": gradients}

    def load_state_dict(self, state: StateDict | None, named: Mapping[str, torch.nn.Parameter]) -> None:
        """Restore an open window and its gradients.

        Raises:
            StateError: the state has gradients of parameters that are not here.
        """
        self.reset()
        for parameter in named.values():
            parameter.grad = None
        if state is None:
            return
        if missing := set(state["gradients"]) - set(named):
            raise StateError(
                f"the open accumulation window has gradients of {sorted(missing)}, which the model has not"
            )
        for name, gradient in state["gradients"].items():
            named[name].grad = gradient.detach().clone().to(named[name].device)
        self.batches, self.total, self._first = state["batches"], state["total"], state["first"]
