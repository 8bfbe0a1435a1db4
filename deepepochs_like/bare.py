"""Torch's backward pass and optimizer steps, without the Python that is around them for those who listen.

Around every backward pass and every step torch checks, labels and announces, in Python: for its profilers, for hooks,
for tensors of other kinds. On a small model that is a fifth of the whole step (`docs/performance.md`). Where nobody
listens, what is called here is the same function with the same arguments, and so are its results. Where anybody does,
or where anything in between is not torch's own, it is torch's own method, or whatever has been put in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from logging import DEBUG
from typing import Any

import torch
from torch.autograd import Variable, graph
from torch.optim import Optimizer, lr_scheduler
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
    _use_grad_for_differentiable,
)

#: What torch has under these names: whoever replaces one of them is to be heard.
_BACKWARD, _ENGINE, _ZERO_GRAD = torch.Tensor.backward, torch.autograd.backward, Optimizer.zero_grad
#: The code of what torch puts around a step: for profilers and hooks, and for the grad mode.
_ANNOUNCES = Optimizer.profile_hook_step(lambda self: None).__code__
_SETS_GRAD = (_use_grad_for_differentiable(lambda self: None).__code__, torch.no_grad()(lambda self: None).__code__)


def backward(loss: Any) -> None:
    """``loss.backward()``."""
    if (
        type(loss) is not torch.Tensor
        or loss.ndim
        or not loss.is_floating_point()
        or torch._C._is_torch_function_mode_enabled()
        or torch._C._are_functorch_transforms_active()
        or torch.Tensor.backward is not _BACKWARD
        or torch.autograd.backward is not _ENGINE
    ):
        loss.backward()
        return
    # Around the engine torch logs, and hands this thread's context to those of other devices: 1 to 2 % of a small step.
    silent = loss.is_cpu and not graph.log.isEnabledFor(DEBUG)
    run = Variable._execution_engine.run_backward if silent else graph._engine_run_backward
    run((loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True)


def step(optimizer: Any) -> None:
    """``optimizer.step()``."""
    own = type(optimizer).step
    bare = bare_step(own)
    if (
        bare is None
        or optimizer._optimizer_step_pre_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or optimizer.defaults.get("differentiable", False)
        or ("step" in vars(optimizer) and not _is_counted(optimizer, own))
        or torch._C._autograd._profiler_enabled()
    ):
        optimizer.step()
        return
    gradients = torch.is_grad_enabled()
    torch._C._set_grad_enabled(False)
    try:
        bare(optimizer)
    finally:
        torch._C._set_grad_enabled(gradients)
    for hook in optimizer._optimizer_step_post_hooks.values():
        hook(optimizer, (), {})


def zero_grad(optimizer: Any) -> None:
    """``optimizer.zero_grad()``."""
    if type(optimizer).zero_grad is not _ZERO_GRAD or "zero_grad" in vars(optimizer):
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


@lru_cache
def bare_step(step: Any) -> Callable[[Any], Any] | None:
    """The step of one of torch's optimizers as it is written, inside what it is known to be wrapped in; else None.

    Args:
        step: the function that an optimizer's class has under this name.
    """
    if getattr(step, "__code__", None) is not _ANNOUNCES:
        return None
    inner = step.__wrapped__
    inner = inner.__wrapped__ if inner.__code__ in _SETS_GRAD else inner
    return inner if inner.__globals__["__name__"].startswith("torch.optim.") else None


def _is_counted(optimizer: Any, step: Any) -> bool:
    """Tell whether an optimizer's own `step` is what a scheduler puts around its class's, to note a first step."""
    code = getattr(vars(optimizer)["step"], "__code__", None)
    if code is None or code.co_filename != lr_scheduler.__file__ or "func" not in code.co_freevars:
        return False
    inner = vars(optimizer)["step"].__closure__[code.co_freevars.index("func")].cell_contents
    return inner is step and getattr(optimizer, "_opt_called", False)
