"""Checks of optimizers: learning rates, weight decay, and clipping that clips nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..events import EVENTS, listens, method_of
from .case import Case, Found, some
from .looking import tensors_in
from .modes import mentions
from .trial import NORMS

#: Optimizers whose step is about as large as the learning rate, whatever the gradient.
_SCALE_FREE = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "RMSprop", "SparseAdam")
#: How far above every norm seen a limit has to be, to be called without effect.
FAR_ABOVE = 25.0
#: A limit up to this is often set against what may come, and has to be further above.
USUAL = 5.0
#: A limit up to which, and how far below every gradient seen, leaves nothing of an update.
TIGHT, FAR_BELOW = 0.01, 100.0
_CLIPS = {"clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_"}


def learning_rate(case: Case) -> Iterator[Found]:
    """A learning rate that is zero, not finite, or of the wrong order."""
    for which, optimizer in case.trainer.opt.items():
        kind = type(optimizer.opt).__name__
        for number, group in enumerate(optimizer.param_groups):
            where = f"optimizer {which!r} ({kind})" + (f", group {number}" if len(optimizer.param_groups) > 1 else "")
            planned = [float(group[key]) for key in ("max_lr", "initial_lr", "lr") if key in group]
            top = max(planned)
            if any(not math.isfinite(lr) for lr in planned):
                yield "error", f"The learning rate of {where} is not finite.", "Pass a number.", {"lr": planned}
            elif top == 0 and not (optimizer.scheduler is not None and _rises(optimizer.scheduler)):
                message = f"The learning rate of {where} is 0: it changes nothing."
                fix = "Pass lr=; to leave parameters as they are, use requires_grad_(False) instead."
                yield "error", message, fix, {"lr": top}
            elif kind in _SCALE_FREE and top >= 0.3:
                message = f"The learning rate of {where} is {top:g}: every weight moves by about that in each update."
                yield "warning", message, "Begin with 1e-3, or let trainer.find_lr() suggest one.", {"lr": top}
            elif kind == "SGD" and top >= 20:
                message = f"The learning rate of {where} is {top:g}, which nearly always diverges."
                yield "warning", message, "Begin with 0.1, or let trainer.find_lr() suggest one.", {"lr": top}
            elif 0 < top < 1e-8:
                message = f"The learning rate of {where} is {top:g}: in float32 most weights will not change at all."
                yield "warning", message, "Begin with 1e-3, or let trainer.find_lr() suggest one.", {"lr": top}


def _rises(scheduler: Any) -> bool:
    """Whether a schedule comes from elsewhere than the learning rate that it begins with."""
    return any(float(lr) > 0 for lr in getattr(scheduler, "base_lrs", []) or []) or hasattr(scheduler, "max_lrs")


def weight_decay_on_norms(case: Case) -> Iterator[Found]:
    """Weight decay on the weights of normalization layers, whose scale is theirs to learn."""
    named = dict(case.named_modules())
    norms = {id(p): name for name, part in named.items() if isinstance(part, NORMS) for p in part.parameters()}
    for which, optimizer in case.trainer.opt.items():
        decayed = [g for g in optimizer.param_groups if float(g.get("weight_decay", 0) or 0) > 0]
        names = list(dict.fromkeys(norms[id(p)] for g in decayed for p in g["params"] if id(p) in norms))
        if names:
            decay = max(float(g["weight_decay"]) for g in decayed)
            message = f"Optimizer {which!r} decays the weights of {some(names)} (weight_decay={decay:g})."
            fix = (
                "Put biases and the parameters of normalization layers into a group of their own with weight_decay=0: "
                "those with p.ndim < 2. It is a matter of some tenths of a percent."
            )
            yield "hint", message, fix, {"modules": names, "weight_decay": decay}


def clipping_without_effect(case: Case) -> Iterator[Found]:
    """Clipping whose limit is far above all gradients seen, or that comes when there is nothing (more) to clip."""
    yield from _clipping_too_early_or_late(case)
    clips = [c for c in case.trainer.callbacks if any(k.__name__.startswith("GradClip") for k in type(c).__mro__)]
    if not clips:
        return
    for clip in clips:
        norm, value = getattr(clip, "max_norm", None), getattr(clip, "max_value", None)
        limit, what = (norm, "norm") if norm is not None else (value, "value")
        if limit is None:
            continue
        sizes = _sizes(case, math.inf if what == "value" else float(getattr(clip, "norm_type", 2.0) or 2.0))
        if float(limit) == math.inf and getattr(clip, "figure", None):  # it is there to tell the norm
            continue
        times = FAR_ABOVE if float(limit) > USUAL else FAR_ABOVE * 40
        if sizes and 0 < max(sizes) * times < float(limit):
            seen = ", ".join(f"{size:.3g}" for size in sizes)
            message = (
                f"{type(clip).__name__}(max_{what}={limit:g}) will hardly ever clip: in the first batches the "
                f"{'norm of the gradients' if what == 'norm' else 'largest component of the gradients'} was {seen}."
            )
            fix = f"Pass a limit near what is seen, such as {_round(2 * max(sizes)):g}, or leave clipping out."
            yield "warning", message, fix, {"limit": float(limit), "seen": sizes}


def clipping_too_tight(case: Case) -> Iterator[Found]:
    """Clipping whose limit is so far below all gradients seen that next to nothing of an update is left."""
    for clip in case.trainer.callbacks:
        if not any(k.__name__.startswith("GradClip") for k in type(clip).__mro__):
            continue
        norm, value = getattr(clip, "max_norm", None), getattr(clip, "max_value", None)
        limit, what = (norm, "norm") if norm is not None else (value, "value")
        if limit is None or not 0 < float(limit) <= TIGHT:
            continue
        sizes = [s for s in _sizes(case, math.inf if what == "value" else float(clip.norm_type)) if s > 0]
        if sizes and min(sizes) >= FAR_BELOW * float(limit):
            seen = ", ".join(f"{size:.3g}" for size in sizes)
            message = (
                f"{type(clip).__name__}(max_{what}={limit:g}) cuts every gradient down to less than a hundredth: in "
                f"the first batches the {'norm' if what == 'norm' else 'largest component'} was {seen}. With SGD the "
                "weights will hardly move; with Adam all batches weigh the same, however wrong the model is on them."
            )
            fix = f"Pass a limit near what is seen, such as {_round(2 * max(sizes)):g}."
            yield "error", message, fix, {"limit": float(limit), "seen": sizes}


def _sizes(case: Case, order: float) -> list[float]:
    """The norms of the gradients of the batches tried."""
    trial = case.backward()
    sizes = []
    for one in trial.passes:
        gradients = [g for g in one.grads.values() if isinstance(g, Tensor)]
        if gradients:
            sizes.append(float(nn.utils.get_total_norm(gradients, order)))
    return [size for size in sizes if math.isfinite(size)]


def _round(number: float) -> float:
    return float(f"{number:.1g}")


def _clipping_too_early_or_late(case: Case) -> Iterator[Found]:
    """Callbacks of the user's own that call torch's clipping in a hook where it does nothing, or too little."""
    useless = [e for e in EVENTS if e not in ("after_backward", "before_optimize")]
    for callback in case.trainer.callbacks:
        kind = type(callback)
        if kind.__module__.startswith("deepepochs_like."):
            continue
        late = [e for e in useless if listens(callback, e) and mentions(getattr(callback, method_of(e)), _CLIPS)]
        right = [
            e
            for e in ("after_backward", "before_optimize")
            if listens(callback, e) and mentions(getattr(callback, method_of(e)), _CLIPS)
        ]
        if late and not right:
            message = (
                f"{kind.__name__} clips gradients in {method_of(late[0])}, where there are none, or none any more: the "
                "update comes between on_before_optimize and on_after_optimize, and clears them."
            )
            fix = "Clip in on_before_optimize, or use the callback GradClip(max_norm)."
            yield "error", message, fix, {"hook": method_of(late[0])}
        elif right == ["after_backward"] and case.trainer.accumulate > 1:
            message = (
                f"{kind.__name__} clips gradients in on_after_backward, which comes with every batch: with "
                f"accumulate={case.trainer.accumulate} the sum of a window that is not full is clipped again and again."
            )
            fix = "Clip in on_before_optimize, once per update, or use the callback GradClip(max_norm)."
            yield "warning", message, fix, {"hook": "on_after_backward"}


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def not_finite_gradient(case: Case) -> Iterator[Found]:
    """A loss or gradients that are NaN or infinite on the first batches, although the data is finite."""
    trial = case.backward()
    for one in trial.passes:
        if one.loss is None or not all(map(_finite, tensors_in([one.x, one.y]))):
            continue
        if not bool(torch.isfinite(one.loss)):
            message = f"The loss of one of the first batches is {float(one.loss)}."
            fix = "Look for log(0), a division by zero, or outputs that overflow; begin with finite data and weights."
            yield "error", message, fix, {"loss": float(one.loss)}
            return
        bad = [name for name, g in one.grads.items() if g is not None and not bool(torch.isfinite(g).all())]
        if bad:
            message = f"The loss is finite, and the gradients of {some(bad)} are not."
            fix = "Look for sqrt, norm or log at 0, whose derivative is infinite there: add a small eps inside."
            yield "error", message, fix, {"parameters": bad}
            return
