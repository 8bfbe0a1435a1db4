"""Checks of the loss: what it is given, what it looks at, and what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import a_kind
from ..shapes import class_dim
from ..tensors import map_tensors
from .case import Case, Found
from .looking import tensors_in
from .trial import Pass, Trial

#: Nodes of the graph that rearrange or copy, and compute nothing.
_SHAPES = (
    *("View", "UnsafeView", "ReshapeAlias", "Transpose", "T", "Permute", "Squeeze", "Unsqueeze", "Clone", "ToCopy"),
    *("Alias", "Select", "Slice", "Index", "Cat", "Expand", "Split", "Unbind", "AsStrided", "Contiguous", "Mul"),
)
#: Nodes whose values go where they please: where all lie between 0 and 1, that is by chance.
_LINEAR = ("Addmm", "Mm", "Bmm", "Addbmm", "Baddbmm", "Convolution", "Add", "Sub", "NativeLayerNorm", "NativeBatchNorm")
_SQUASHING = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid", "Relu": "relu"}
_KINDS: dict[Any, str] = {
    **{nn.CrossEntropyLoss: "ce", F.cross_entropy: "ce", nn.NLLLoss: "nll", F.nll_loss: "nll"},
    **{nn.BCEWithLogitsLoss: "bce_logits", F.binary_cross_entropy_with_logits: "bce_logits"},
    **{nn.BCELoss: "bce", F.binary_cross_entropy: "bce", nn.MSELoss: "mse", F.mse_loss: "mse"},
    **{nn.L1Loss: "mse", F.l1_loss: "mse", nn.SmoothL1Loss: "mse", F.smooth_l1_loss: "mse"},
    **{nn.HuberLoss: "mse", F.huber_loss: "mse", nn.MultiMarginLoss: "margin", F.multi_margin_loss: "margin"},
}


def unwrapped(loss: Any) -> Any:
    """The function within partial objects."""
    while isinstance(loss, partial):
        loss = loss.func
    return loss


def known_kind(loss: Any) -> str:
    """What a loss of torch's own is; nothing for any other."""
    loss = unwrapped(loss)
    if isinstance(loss, nn.Module):
        return next((kind for one, kind in _KINDS.items() if isinstance(one, type) and isinstance(loss, one)), "")
    try:
        return _KINDS.get(loss, "")
    except TypeError:
        return ""


def kind_of(trial: Trial, one: Pass) -> str:
    """What a loss is: by its name, or by how it behaves on outputs and targets made for that."""
    known = known_kind(trial.loss)
    if known or trial.loss is None or not isinstance(one.out, Tensor) or not isinstance(one.y, Tensor):
        return known
    generator = torch.Generator().manual_seed(0)
    out = torch.randn(one.out.shape, generator=generator).to(one.out)
    classes = class_dim(one.out, one.y)
    if classes is not None and not one.y.is_floating_point():
        labels = torch.randint(one.out.shape[classes], one.y.shape, generator=generator).to(one.y)
        shift = torch.randn(out.sum(classes, keepdim=True).shape, generator=generator).to(out)
        plain, shifted, other = (_value(trial, o, labels) for o in (out, out + shift, 2 * out))
        if None not in (plain, shifted, other) and _close(plain, shifted) and not _close(plain, other):
            return "ce"
    if classes is not None and one.out.shape[classes] == 1:  # of a single class it is 0, whatever the score
        values = [_value(trial, o, torch.zeros_like(one.y)) for o in (out, 3 * out + 1)]
        return "ce" if values == [0.0, 0.0] else ""
    if one.out.numel() == one.y.numel():
        labels = torch.randint(2, one.y.shape, generator=generator).to(one.y)
        plain = _value(trial, out, labels)
        wanted = float(F.binary_cross_entropy_with_logits(out.flatten().float(), labels.flatten().float()))
        if plain is not None and _close(plain, wanted):
            return "bce_logits"
    return ""


def _value(trial: Trial, out: Any, y: Any) -> float | None:
    try:
        with torch.no_grad():
            return float(trial.loss_of(out, y))
    except Exception:
        return None


def _close(one: Any, other: Any) -> bool:
    return bool(abs(one - other) <= 1e-3 * max(abs(one), abs(other), 1e-3))


def no_gradient(case: Case) -> Iterator[Found]:
    """A loss that cannot be back-propagated: not a number, or without a graph."""
    trial = case.forward()
    one = trial.passes[0]
    if one.error is not None or one.loss is not None:
        return
    if isinstance(one.returned, Tensor) and one.returned.ndim:
        message = f"The loss has shape {tuple(one.returned.shape)}; a single number per batch is needed."
        yield "error", message, "Use reduction='mean', or loss.mean().", {"shape": tuple(one.returned.shape)}
    elif isinstance(one.returned, Tensor):
        if any(p.requires_grad for _, p in case.named_parameters()):
            message = "The loss carries no gradient: it was detached from the model on the way."
            fix = "Look for .detach(), .item(), argmax, rounding or no_grad() between the model and the loss."
            yield "error", message, fix, {}
    else:
        message = f"The loss is {a_kind(one.returned)}; a 0-dimensional tensor is needed."
        fix = "Return a tensor; with loss=None the model returns its loss, bare or in a dict under 'loss'."
        yield "error", message, fix, {"type": type(one.returned).__name__}


def softmax_before_loss(case: Case) -> Iterator[Found]:
    """Probabilities, where the loss takes scores and applies softmax or sigmoid by itself."""
    trial = case.backward()
    one = trial.passes[0]
    kind = kind_of(trial, one)
    found = _by_graph(one) if isinstance(one.returned, Tensor) else None
    if found is None and kind in ("ce", "bce_logits", "margin") and isinstance(one.out, Tensor):
        outs = torch.cat([one.out.flatten(), *(p.out.flatten() for p in trial.passes[1:] if isinstance(p.out, Tensor))])
        found = _by_values(
            one.out, outs.detach(), one.y, "cross-entropy" if kind != "bce_logits" else "binary cross-entropy"
        )
    if found is None:
        return
    what, loss = found
    inner = "softmax" if loss == "cross-entropy" else "sigmoid"
    if what == "log_softmax":
        message = f"The model ends in log_softmax, and {loss} applies it once more: harmless, but done for nothing."
        yield "hint", message, "Take it out of the model, or use NLLLoss.", {"output": what}
    elif what == "relu":
        message = (
            f"The outputs go through a ReLU before {loss}, which takes scores of any sign: no class can get a score "
            "below 0, and where all are 0 there is no gradient."
        )
        yield "warning", message, "Take the last ReLU out of the model.", {"output": what}
    else:
        message = (
            f"The outputs are probabilities (they went through {what}), and {loss} applies {inner} by itself: "
            "training is slow, and stops at a loss well above 0."
        )
        fix = f"Take {what} out of the model; apply it to predictions only."
        values = {"output": what, "loss": loss}
        yield "error", message, fix, values


def _by_graph(one: Pass) -> tuple[str, str] | None:
    """What was done to outputs before torch's cross-entropy, as the graph has it."""
    pending, seen = [one.returned.grad_fn], set[Any]()
    outputs = {_stripped(t.grad_fn): t for t in tensors_in(one.out) if t.grad_fn is not None and t.ndim > 1}
    while pending and len(seen) < 20_000:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name()
        if name.startswith("NllLoss"):
            inner = _stripped(_input(node))
            if _named(inner) == "log_softmax":
                last = _stripped(_input(inner))
                if before := _named(last):
                    return before, "cross-entropy"
                if last in outputs and not isinstance(one.out, Tensor):
                    found = _by_values(outputs[last], outputs[last].detach().flatten(), one.y, "cross-entropy")
                    if found is not None:
                        return found
                continue  # what lies before is the model
        if name.startswith("BinaryCrossEntropyWithLogits"):
            before = _named(_stripped(_input(node)))
            if before in ("softmax", "sigmoid", "relu"):
                return before, "binary cross-entropy"
            continue
        pending += [one for one, _ in node.next_functions]
    return None


def _input(node: Any) -> Any:
    return node.next_functions[0][0] if node is not None and node.next_functions else None


def _stripped(node: Any) -> Any:
    """The first node that computes something."""
    while node is not None and node.name().rstrip("0123456789").removesuffix("Backward") in _SHAPES:
        node = _input(node)
    return node


def _named(node: Any) -> str:
    kind = "" if node is None else node.name().rstrip("0123456789").removesuffix("Backward")
    return _SQUASHING.get(kind, "")


def _by_values(out: Tensor, several: Tensor, y: Any, loss: str) -> tuple[str, str] | None:
    """Whether outputs are probabilities to look at."""
    values = out.detach().float()
    if not values.numel() or bool(((values < 0) | (values > 1)).any()):
        return None
    dim = class_dim(out, y) if isinstance(y, Tensor) else None
    for d in {d for d in (dim, 1 if out.ndim > 1 else None) if d is not None}:
        sums = values.sum(d)
        if values.shape[d] > 1 and sums.numel() > 1 and bool(((sums - 1).abs() < 1e-3).all()):
            return "softmax", loss
    last = _stripped(out.grad_fn)
    linear = last is None or last.name().rstrip("0123456789").removesuffix("Backward") in _LINEAR
    inside = bool(((several > 0) & (several < 1)).all())
    return ("sigmoid", loss) if inside and not linear and several.numel() >= 8 else None


def nll_without_log_softmax(case: Case) -> Iterator[Found]:
    """Scores or probabilities, where the loss takes logarithms of probabilities."""
    trial = case.backward()
    one = trial.passes[0]
    if known_kind(trial.loss) != "nll" or not isinstance(one.out, Tensor) or one.out.ndim < 2:
        return
    sums = one.out.detach().float().exp().sum(1)
    if bool(((sums - 1).abs() > 1e-2).any()):
        message = (
            "NLLLoss takes logarithms of probabilities, and the outputs are none (their exponentials do not add up to "
            "1): the loss falls without bound, and means nothing."
        )
        yield "error", message, "Use cross-entropy, or end the model in log_softmax.", {"sum": float(sums[0].mean())}


def loss_reduction(case: Case) -> Iterator[Found]:
    """A loss that is a sum over the batch, where a mean is meant."""
    trial = case.backward()
    if trial.loss is None:
        return
    one = trial.passes[0]
    outs = list(tensors_in(one.out))
    if not outs or any(not t.ndim or t.shape[0] != one.size for t in [*outs, *tensors_in(one.y)]):
        return
    twice = _value(
        trial, *(map_tensors(part, lambda t: torch.cat([t.detach(), t.detach()])) for part in (one.out, one.y))
    )
    once = _value(trial, map_tensors(one.out, Tensor.detach), one.y)
    if once is None or twice is None or not abs(once) > 1e-6 or abs(twice / once - 2) > 1e-3 or one.size < 2:
        return
    message = (
        "The loss is a sum over the samples of a batch: its gradients grow with the batch size, a short last batch "
        "counts for less, and the loss shown is the sum of an average batch."
    )
    yield "warning", message, "Use reduction='mean'.", {"once": once, "twice": twice}
