"""Checks of parameters: whether the optimizers hold them, and whether gradients reach them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .case import CannotTell, Case, Found, some
from .looking import tensors_in
from .routes import chosen_seldom


def nothing_to_train(case: Case) -> Iterator[Found]:
    """No parameter requires a gradient."""
    named = [p for _, p in case.named_parameters()]
    if named and not any(p.requires_grad for p in named):
        message = f"None of the {len(named)} parameters requires a gradient, so nothing will be trained."
        fix = "Call requires_grad_(True) on the parts that are to be trained, before the optimizer is built from them."
        yield "error", message, fix, {"parameters": len(named)}


def parameters_not_optimized(case: Case) -> Iterator[Found]:
    """Trainable parameters that no optimizer holds."""
    held = {id(p) for group in case.trainer.opt.param_groups for p in group["params"]}
    named = [(name, p) for name, p in case.named_parameters() if p.requires_grad]
    left_out = [name for name, p in named if id(p) not in held]
    if left_out:
        message = f"The optimizer does not hold {len(left_out)} of {len(named)} trainable parameters: {some(left_out)}."
        fix = (
            "Build the optimizer from all of them, and after the last change of the model: "
            "opt=torch.optim.Adam(model.parameters()). Where they are meant to stay as they are, say so with "
            "requires_grad_(False)."
        )
        yield "error", message, fix, {"parameters": left_out}


def optimizer_holds_strangers(case: Case) -> Iterator[Found]:
    """Parameters in an optimizer that belong to no model: layers that were replaced behind its back."""
    own = {id(p) for _, p in case.named_parameters()}
    strangers = [p for group in case.trainer.opt.param_groups for p in group["params"] if id(p) not in own]
    if strangers and not _custom_loss_may_own(case, strangers):
        shapes = [str(tuple(p.shape)) for p in strangers]
        message = (
            f"The optimizer holds {len(strangers)} parameters that are not in the model, of shapes {some(shapes)}: a "
            "layer was replaced, or the optimizer was built from another model."
        )
        yield "warning", message, "Build the optimizer after the last change of the model.", {"shapes": shapes}


def _custom_loss_may_own(case: Case, strangers: list[nn.Parameter]) -> bool:
    """A step or a loss function of the user's own may use parameters that are in no module."""
    if case.trial is None:
        return True
    passes = case.trial.passes
    return any(_reached(one.returned, strangers) for one in passes if isinstance(one.returned, Tensor))


def _reached(loss: Tensor, parameters: list[nn.Parameter]) -> bool:
    wanted = [p for p in parameters if p.requires_grad]
    if not loss.requires_grad or not wanted or loss.ndim:
        return False
    return any(g is not None for g in torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True))


def shared_between_optimizers(case: Case) -> Iterator[Found]:
    """Parameters that two optimizers hold, or one holds twice."""
    names = {id(p): name for name, p in case.named_parameters()}
    holders: dict[int, list[str]] = {}
    for which, optimizer in case.trainer.opt.items():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                holders.setdefault(id(parameter), []).append(which)
    twice = {names.get(key, "a parameter"): found for key, found in holders.items() if len(found) > 1}
    if twice:
        message = f"{len(twice)} parameters are held by more than one optimizer: {some(list(twice))}."
        fix = "Give each parameter to one optimizer: else it is updated twice, with two states."
        yield "error", message, fix, {"parameters": twice}


def parameters_without_gradient(case: Case) -> Iterator[Found]:
    """Trainable parameters that the loss does not depend on, as far as some batches show."""
    trial = case.backward()
    passes = [one for one in trial.passes if one.loss is not None]
    names = [name for name, _ in trial.named_parameters()]
    # What is dropped at random, now here and now there, is given some more chances.
    for _ in range(4):
        if any(one.grads.get(name) is None for name in names for one in passes):
            trial.again()
    unused = [name for name in names if all(one.grads.get(name) is None for one in passes)]
    if len(unused) == len(names):
        message = "No parameter of the model gets a gradient: the loss does not depend on any."
        fix = "Compute the loss from the model's outputs, without .detach(), .item(), argmax or no_grad() on the way."
        yield "error", message, fix, {"parameters": unused}
        return
    zero = [name for name in _of_zero_gradient(case, names) if name not in unused]
    seldom = chosen_seldom(case, unused, zero)
    unused, zero = [n for n in unused if n not in seldom], [n for n in zero if n not in seldom]
    if unused:
        message = f"{len(unused)} of {len(names)} trainable parameters get no gradient: {some(unused)}."
        fix = (
            "Use them in forward(), and look for .detach(), .data or no_grad() behind them; take them out of the "
            "model, or say that they are meant to stay as they are with requires_grad_(False)."
        )
        yield "warning", message, fix, {"parameters": unused}
    if zero:
        message = (
            f"The gradient of {len(zero)} trainable parameters is zero throughout: {some(zero)}. Something behind "
            "them is dead, such as a ReLU whose inputs are all negative, or a saturated or rounding function."
        )
        fix = "Look at what the layer behind them gives; initialize smaller, lower the learning rate, or use LeakyReLU."
        yield "warning", message, fix, {"parameters": zero}


def _of_zero_gradient(case: Case, names: list[str]) -> list[str]:
    """The parameters of modules all of whose gradients are zero, with layers that begin as zero given a start."""

    def dead(trial: object) -> set[str]:
        passes = [one for one in trial.passes if one.loss is not None]  # type: ignore[attr-defined]
        alive = {n for one in passes for n, g in one.grads.items() if g is not None and bool(g.any())}
        modules = {name.rpartition(".")[0] for name in alive}
        return {name for name in names if name.rpartition(".")[0] not in modules} if passes else set()

    found = dead(case.backward())
    if found:
        found &= dead(case.backward().shaken())
    return [name for name in names if name in found]


def outputs_constant(case: Case) -> Iterator[Found]:
    """The outputs are the same for all samples."""
    trial = case.forward()
    one = trial.passes[0]
    inputs = [t for t in tensors_in(one.x) if t.ndim and t.shape[0] == one.size]
    outputs = [t for t in tensors_in(one.out) if t.is_floating_point() and t.ndim and t.shape[0] == one.size]
    if one.size < 4 or not outputs:
        raise CannotTell("it takes a batch of 4 samples, and an output for each")
    if all(map(_alike, inputs)) or not all(map(_alike, outputs)):
        return
    again = trial.shaken().passes[0]
    if all(_alike(t) for t in tensors_in(again.out) if t.is_floating_point() and t.ndim and t.shape[0] == one.size):
        message = f"The model's outputs are the same for all {one.size} samples of a batch, although the inputs differ."
        fix = "Look for a dead layer (a ReLU behind large negative biases), or inputs that forward() does not use."
        yield "warning", message, fix, {"shape": tuple(outputs[0].shape)}


def _alike(tensor: Tensor) -> bool:
    return bool((tensor == tensor[:1]).all())
