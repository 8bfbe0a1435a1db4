"""Check whether the loss looks at all of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..shapes import class_dim
from ..tensors import map_tensors
from .case import CannotTell, Case, Found
from .looking import tensors_in
from .trial import Pass, Trial

#: How large outputs are drawn, as losses with a margin look at the small ones or at the large ones only.
_SCALES = (1.0, 0.3, 3.0, 0.1)


def loss_ignores_samples(case: Case) -> Iterator[Found]:
    """A loss that does not depend on some positions of the batch, whatever stands there."""
    trial = case.backward()
    if trial.loss is None:
        yield from _own_loss_ignores(trial)
        return
    one = trial.passes[0]
    size = one.size
    if size < 2:
        raise CannotTell("it takes a batch of 2 samples or more")
    if not all(bool(torch.isfinite(t).all()) for t in tensors_in([one.out, one.y]) if t.is_floating_point()):
        raise CannotTell("outputs or targets are not finite")
    if not any(t.ndim and t.shape[0] == size and t.is_floating_point() for t in tensors_in(one.out)):
        raise CannotTell("no output has a place for every sample")
    draws = [_reached(trial, one, one.y, seed) for seed in range(4)]
    if any(draw is None for draw in draws):
        raise CannotTell("the loss cannot be computed for outputs other than the model's own")
    counted = torch.stack([draw for draw in draws if draw is not None])
    reached = counted.any(0)
    if not bool(reached.any()):
        message = "The gradient of the loss is zero for all outputs, whatever they are."
        fix = "Let the loss depend on the outputs: look for .detach(), argmax or rounding, and for a single class."
        yield "error", message, fix, {"samples": size}
    elif size >= 4 and bool((counted.sum(1) == 1).all()) and int(reached.sum()) > 1:
        message = f"The loss depends on a single sample of the batch of {size} at a time: one is picked (max, min)."
        yield "warning", message, "Average over the samples: loss.mean().", {"samples": size}
    elif bool(reached.all()):
        yield from _by_column(trial, one)
    else:
        yield from _by_position(trial, one, reached)


def _by_position(trial: Trial, one: Pass, reached: Tensor) -> Iterator[Found]:
    """Tell places that are never looked at from samples that a mask or an ignored label leaves out."""
    size = one.size
    good = reached.nonzero().flatten()
    found = []
    for seed in range(4, 14):
        index = good[(torch.arange(size) + seed) % len(good)]
        y = _chosen(one.y, index, size)
        if (draw := _reached(trial, one, y, seed)) is not None:
            found.append(draw)
    if not found:
        return
    draws = torch.stack(found)
    union = draws.any(0)
    share = float(draws[:, union].double().mean()) if bool(union.any()) else 0.0
    # Where a loss picks samples by their values, other ones in each draw, some are never picked by chance.
    stable = bool((draws == union).all())
    missing = (~union & ~reached).nonzero().flatten().tolist()
    if missing and (stable or size * (1 - share) ** len(found) < 0.02):
        yield _ignored(missing, size)


def _by_column(trial: Trial, one: Pass) -> Iterator[Found]:
    """Columns (outputs, or places of a sequence) with a target that the loss never looks at."""
    if not isinstance(one.out, Tensor) or not isinstance(one.y, Tensor) or one.y.ndim < 2:
        return
    dim = None if one.out.shape == one.y.shape else class_dim(one.out, one.y)
    if (dim is None and one.out.shape != one.y.shape) or one.y.shape[1] < 2:
        return
    counted, generator = torch.zeros(one.y.shape, dtype=torch.bool), torch.Generator().manual_seed(0)
    try:
        for scale in (*_SCALES, *_SCALES):
            grad = gradient(trial, drawn_like(one.out.detach(), generator, scale), one.y)
            counted |= (grad if dim is None else grad.abs().sum(dim)).ne(0).cpu()
    except Exception:
        return
    targeted = one.y if one.y.is_floating_point() else one.y != -100
    wanted = targeted.reshape(*one.y.shape[:2], -1).ne(0).any(2).any(0).cpu()
    seen = counted.reshape(*one.y.shape[:2], -1).any(2).any(0)
    missing = (wanted & ~seen).nonzero().flatten().tolist()
    if missing:
        message = (
            f"The loss ignores {len(missing)} of {len(seen)} places of every sample, those at {_ranges(missing)} of "
            "dimension 1 of the targets, although there are targets for them."
        )
        yield "warning", message, "Look for a slice in the loss, such as out[:, :n].", {"places": missing}


def gradient(trial: Trial, out: Tensor, y: Tensor) -> Tensor:
    """The gradient of the loss for an output."""
    leaf = out.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        return torch.autograd.grad(trial.loss_of(leaf, y), leaf)[0]


def _chosen(value: Any, index: Tensor, size: int) -> Any:
    """The samples at an index, in every tensor that has one for each."""
    return map_tensors(value, lambda t: t[index.to(t.device)] if t.ndim and t.shape[0] == size else t)


def _ignored(missing: list[int], size: int) -> Found:
    message = (
        f"The loss ignores {len(missing)} of {size} samples of a batch, those at {_ranges(missing)}: they have no "
        "influence on it, whatever the model gives for them."
    )
    fix = "Look for an index or a slice in the loss, such as out[0] or out[:n]; take the mean over all samples."
    return "error", message, fix, {"positions": missing, "samples": size}


def _reached(trial: Trial, one: Pass, y: Any, seed: int) -> Tensor | None:
    """Which positions of a batch have a gradient, for outputs drawn at random."""
    generator, leaves = torch.Generator().manual_seed(seed), list[Tensor]()

    def drawn(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        leaf = drawn_like(t.detach(), generator, _SCALES[seed % 4]).requires_grad_(True)
        if leaf.ndim and leaf.shape[0] == one.size:
            leaves.append(leaf)
        return leaf

    out = map_tensors(one.out, drawn)
    try:
        with torch.enable_grad():
            loss = trial.loss_of(out, y)
            if not isinstance(loss, Tensor) or not loss.requires_grad:
                return torch.zeros(one.size, dtype=torch.bool)
            grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    except Exception:
        return None
    reached = torch.zeros(one.size, dtype=torch.bool)
    for grad in grads:
        if grad is not None:
            reached |= grad.reshape(one.size, -1).ne(0).any(1).cpu()
    return reached


def drawn_like(t: Tensor, generator: torch.Generator, scale: float) -> Tensor:
    """Random numbers of the kind that a tensor holds: probabilities, their logarithms, positive or any."""
    noise = torch.randn(t.shape, generator=generator).to(t)
    if t.numel() and bool((t >= 0).all()):
        if bool((t <= 1).all()):
            unit = noise.sigmoid()
            sums = t.ndim > 1 and bool(((t.sum(1) - 1).abs() < 1e-3).all())
            return unit / unit.sum(1, keepdim=True) if sums else unit
        return noise.abs() * t.abs().mean() + 1e-3
    if t.ndim > 1 and bool((t <= 0).all()) and bool(((t.exp().sum(1) - 1).abs() < 1e-3).all()):
        return noise.log_softmax(1)
    return noise * max(float(t.std()) if t.numel() > 1 else 0.0, 1.0) * scale


def _own_loss_ignores(trial: Trial) -> Iterator[Found]:
    """The same for a model that computes its loss: by the gradient for what it returns beside it."""
    one = trial.passes[0]
    reached = _reached_within(trial, one.x, one.size)
    if reached is None:
        raise CannotTell("the model computes its loss itself, and gives no output that the loss is made of")
    if bool(reached.all()) or not bool(reached.any()):
        return
    good = reached.nonzero().flatten()
    index = good[torch.arange(one.size) % len(good)]
    x = _chosen(one.x, index, one.size)
    again = _reached_within(trial, x, one.size)
    missing = [] if again is None else (~again & ~reached).nonzero().flatten().tolist()
    if missing:
        yield _ignored(missing, one.size)


def _reached_within(trial: Trial, x: Any, size: int) -> Tensor | None:
    try:
        out = trial.call(x)
        loss = trial.loss_of(out, None)
        parts = [t for t in tensors_in(out) if t is not loss and t.requires_grad and t.ndim and t.shape[0] == size]
        grads = torch.autograd.grad(loss, parts, allow_unused=True) if parts else []
    except Exception:
        return None
    found = [g.reshape(size, -1).ne(0).any(1) for g in grads if g is not None]
    return torch.stack(found).any(0).cpu() if found else None


def _ranges(numbers: list[int]) -> str:
    """Numbers in few words: ``0, 4-7``."""
    words, start = [], 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            first, last = numbers[start], numbers[i - 1]
            words.append(str(first) if first == last else f"{first}-{last}")
            start = i
    return ", ".join(words[:6]) + (" and more" if len(words) > 6 else "")
