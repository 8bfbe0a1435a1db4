"""Torch's backward pass and optimizer steps, without the Python that is around them for those who listen.

Around every backward pass and every step torch checks, labels and announces, in Python: for its profilers, for hooks,
for tensors of other kinds. On a small model that is a fifth of the whole step (`docs/performance.md`). Where nobody
listens, what is called here is the same function with the same arguments, and so are its results; where anybody does,
it is torch's own method.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import _engine_run_backward
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


def backward(loss: Any) -> None:
    """``loss.backward()``."""
    if (
        type(loss) is not torch.Tensor
        or loss.ndim
        or not loss.is_floating_point()
        or torch._C._is_torch_function_mode_enabled()
    ):
        torch.Tensor.backward(loss)  # type: ignore[no-untyped-call]  # torch's own
        return
    ones = torch.ones_like(loss)
    _engine_run_backward((loss,), (ones,), False, False, (), allow_unreachable=True, accumulate_grad=True)


def step(optimizer: Any, bare: Callable[[Any], Any] | None) -> None:
    """``optimizer.step()``, of which `bare_step` has returned `bare`."""
    if (
        bare is None
        or optimizer._optimizer_step_pre_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or ("step" in vars(optimizer) and not _is_counted(optimizer))
        or torch._C._autograd._profiler_enabled()
    ):
        optimizer.step()
        return
    gradients = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    try:
        bare(optimizer)
    finally:
        torch.set_grad_enabled(gradients)
    for hook in optimizer._optimizer_step_post_hooks.values():
        hook(optimizer, (), {})


def zero_grad(optimizer: Any) -> None:
    """``optimizer.zero_grad()``."""
    if type(optimizer).zero_grad is not Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def bare_step(optimizer: Any) -> Callable[[Any], Any] | None:
    """The step of one of torch's optimizers as it is written; None of any other's, which may be wrapped by anybody."""
    kind = type(optimizer)
    own = f"{kind.__module__}.".startswith("torch.optim.") and getattr(kind.step, "hooked", False)
    return inspect.unwrap(kind.step) if own and not optimizer.defaults.get("differentiable", False) else None


def _is_counted(optimizer: Any) -> bool:
    """Tell whether its own `step` is what a scheduler put there, only to note that there has been a first step."""
    return hasattr(optimizer.step, "_wrapped_by_lr_sched") and getattr(optimizer, "_opt_called", False)
