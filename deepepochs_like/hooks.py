"""Dispatch: who listens to what, found out once per run, so that an event nobody hears costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .events import EVENTS, by_priority, listens, method_of

Listeners = tuple[Callable[..., Any], ...]


class StageHooks:
    """The listeners of one stage, under names that all stages share: ``before_batch`` for ``before_train_batch``."""

    def __init__(self, hooks: Hooks, stage: str) -> None:
        def of(event: str) -> Listeners:
            listeners: Listeners = getattr(hooks, event.replace("*", stage), ())
            return listeners

        self.before_epochs, self.after_epochs = of("before_*_epochs"), of("after_*_epochs")
        self.before_epoch, self.after_epoch = of("before_*_epoch"), of("after_*_epoch")
        self.before_batch, self.after_batch = of("before_*_batch"), of("after_*_batch")
        self.before_forward, self.after_forward = of("before_*_forward"), of("after_*_forward")
        self.metrics = of("*_metrics")


class Hooks:
    """One tuple of bound methods per event: ``for hook in hooks.after_train_batch: hook(...)``."""

    def __init__(self, callbacks: Sequence[Any] = ()) -> None:
        for event in EVENTS:
            heard = (c for c in by_priority(callbacks, event) if listens(c, event))
            setattr(self, event, tuple(getattr(c, method_of(event)) for c in heard))
        self.stages = {stage: StageHooks(self, stage) for stage in ("train", "val", "test", "predict")}

    def __getattr__(self, name: str) -> Listeners:
        raise AttributeError(f"no event {name!r}")


def fire(listeners: Listeners, **arguments: Any) -> None:
    """Call the listeners of an event, with gradients off."""
    if not listeners:
        return
    gradients = torch.is_grad_enabled()
    # What torch.set_grad_enabled calls, without the object around it: 2 calls a batch instead of 8.
    torch._C._set_grad_enabled(False)
    try:
        for hook in listeners:
            hook(**arguments)
    finally:
        torch._C._set_grad_enabled(gradients)
