"""Checks of targets: their range, type and shape, beside the model's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..shapes import class_dim
from .case import Case, Found
from .coverage import drawn_like, gradient
from .looking import TARGETS, Seen
from .losses import kind_of, known_kind, unwrapped
from .trial import Pass, Trial

_IGNORED = -100


def targets_all_alike(case: Case) -> Iterator[Found]:
    """Targets that are the same for all samples looked at: there is nothing to learn from them."""
    trial = case.trial
    one = trial.passes[0] if trial is not None and trial.passes else None
    if one is not None and one.y is not None and not isinstance(one.out, Tensor):
        return  # a loss of pairs or triples may have a target that says nothing
    for seen in [*case.train, *case.val]:
        targets, count, whole = _looked_at(seen)
        training = any(seen is one for one in case.train)
        if count < (8 if whole else 16) or (not training and not (whole and count >= 32)):
            continue
        if training and trial is not None and one is not None and not _matter(trial, one):
            return
        row = targets[0].reshape(-1)
        value = f"{row[0].item():g}" if bool((row == row[:1]).all()) else "one and the same"
        message = f"The targets of {seen.name} are {value} in all {count} samples looked at"
        message += ", which is all there are." if whole else "."
        fix = "Look at how targets are read, mapped and split: a wrong column, a filter, a split of sorted data."
        yield "error" if whole else "warning", message, fix, {"samples": count, "value": row[:8].tolist()}


def _looked_at(seen: Seen) -> tuple[list[Tensor], int, bool]:
    """The targets of a loader where they are all alike, how many, and whether these are all; else a count of 0."""
    found = [y for batch in seen.batches if (y := _target_of(batch)) is not None]
    if not found or not _one_row(found):
        return [], 0, False
    if seen.targets is not None and seen.targets.ndim:
        return found, len(seen.targets) if _one_row([seen.targets]) else 0, True
    found += [y for batch in seen.more(40) if (y := _target_of(batch)) is not None]
    return found, sum(map(len, found)) if _one_row(found) else 0, False


def _target_of(batch: Any) -> Tensor | None:
    """The target in a batch, which has samples."""
    y = batch[-1] if isinstance(batch, (list, tuple)) and len(batch) > 1 else None
    if isinstance(batch, Mapping):
        y = next((batch[name] for name in TARGETS if name in batch), None)
    return y if isinstance(y, Tensor) and y.ndim and y.numel() else None


def _one_row(targets: list[Tensor]) -> bool:
    first = targets[0][:1]
    return all(t.shape[1:] == first.shape[1:] and bool((t == first).all()) for t in targets)


def _matter(trial: Trial, one: Pass) -> bool:
    """Whether the loss asks for the targets at all; those of an autoencoder are often there for nothing."""
    if trial.loss is None or not isinstance(one.y, Tensor) or one.loss is None:
        return True
    highest = int(one.y.max()) if not one.y.is_floating_point() else 0
    for other in (one.y + 1, one.y - 1, torch.zeros_like(one.y)) if highest else (one.y + 1, one.y + 0.5):
        try:
            with torch.no_grad():  # outputs of zero, as those of a last layer of zeros, are as far from each target
                out = drawn_like(one.out.detach(), torch.Generator().manual_seed(0), 1.0)
                values = [trial.loss_of(out, y) for y in (one.y, other.to(one.y.dtype))]
        except Exception:
            return True
        if not torch.equal(*values):
            return True
    return False


def labels_out_of_range(case: Case) -> Iterator[Found]:
    """Labels below 0 or from the number of classes on, in the first batches, or in the whole dataset."""
    if said := _out_of_bounds(case.tried()):
        message = f"A label in the first batches is out of range: {said}."
        yield "error", message, "Number the classes from 0, and give the last layer as many outputs.", {}
        return
    trial = case.forward()
    one = trial.passes[0]
    if not isinstance(one.out, Tensor) or not isinstance(one.y, Tensor):
        return
    kind, ignored = kind_of(trial, one), _ignored_label(trial.loss)
    if kind in ("bce_logits", "bce"):
        yield from _not_binary(case, kind)
        return
    dim = class_dim(one.out, one.y)
    if kind not in ("ce", "nll", "margin") or dim is None or one.out.shape[dim] < 2:
        return
    classes = int(one.out.shape[dim])
    for where, labels in _all_labels(case, one.y.ndim):
        labels = labels[labels != ignored]
        if not labels.numel():
            continue
        low, high = int(labels.min()), int(labels.max())
        if low >= 0 and high < classes:
            continue
        bad = int(((labels < 0) | (labels >= classes)).sum())
        message = (
            f"{bad} labels in {where} are out of range: they go from {low} to {high}, and the model has {classes} "
            f"outputs, for the classes 0 to {classes - 1}."
        )
        yield "error", message, _range_fix(low, high, classes, ignored), {"low": low, "high": high, "classes": classes}
        return


def _out_of_bounds(trial: Trial) -> str:
    """What torch says of a label, where the model, or a loss that cannot be seen into, failed at it."""
    known = trial.passes and isinstance(trial.passes[0].out, Tensor) and kind_of(trial, trial.passes[0])
    errors = [trial.failed, *(one.error for one in trial.passes)]
    found = [str(e).splitlines()[0].rstrip(".") for e in errors if e is not None and "is out of bounds" in str(e)]
    found = [text for text in found if text.startswith("Target")]
    return found[0] if found and not known else ""


def _range_fix(low: int, high: int, classes: int, ignored: int) -> str:
    if low == 1 and high == classes:
        return "The labels begin at 1: subtract 1."
    if low < 0:
        given = f"Give what is to be left out the label {ignored} (ignore_index)"
        return f"{given}, or pass ignore_index={low}, and number the classes from 0."
    return f"Give the last layer {high + 1} outputs, or number the classes from 0 without gaps."


def _ignored_label(loss: Any) -> int:
    keywords = getattr(loss, "keywords", {})
    found = keywords.get("ignore_index", getattr(unwrapped(loss), "ignore_index", _IGNORED))
    return int(found) if isinstance(found, int) else _IGNORED


def _all_labels(case: Case, ndim: int) -> Iterator[tuple[str, Tensor]]:
    """The integer labels there are to look at, whole datasets where they are in memory."""
    for seen in [*case.train, *case.val]:
        whole = seen.targets
        if whole is not None and not whole.is_floating_point() and whole.ndim == ndim:
            yield f"the whole of {seen.name}", whole
            continue
        for batch in seen.batches:
            y = batch[-1] if isinstance(batch, (list, tuple)) and len(batch) > 1 else None
            if isinstance(y, Tensor) and not y.is_floating_point() and y.ndim == ndim:
                yield f"the first batches of {seen.name}", y


def _not_binary(case: Case, kind: str) -> Iterator[Found]:
    """Targets of a binary cross-entropy that are no probabilities."""
    for seen in [*case.train, *case.val]:
        found = [b[-1] for b in seen.batches if isinstance(b, (list, tuple)) and len(b) > 1]
        values = [seen.targets] if seen.targets is not None else [y for y in found if isinstance(y, Tensor)]
        for y in values:
            low, high = float(y.min()), float(y.max())
            if low < 0 or high > 1:
                message = (
                    f"The targets of {seen.name} go from {low:g} to {high:g}, and binary cross-entropy takes 0 and 1 "
                    "(or probabilities between them)."
                )
                fix = "Map them: (y + 1) / 2 for -1 and 1, (y > 0).float() for others; for classes use cross-entropy."
                yield "error", message, fix, {"low": low, "high": high}
                return


def outputs_do_not_fit_classes(case: Case) -> Iterator[Found]:
    """A last layer with one output for cross-entropy, or with far more outputs than there are classes."""
    trial = case.forward()
    one = trial.passes[0]
    if not isinstance(one.out, Tensor) or not isinstance(one.y, Tensor):
        return
    kind, dim = kind_of(trial, one) or known_kind(trial.loss), class_dim(one.out, one.y)
    single = one.out.ndim == one.y.ndim + 1 or one.out.shape == one.y.shape
    if kind == "ce" and one.out.ndim > 1 and one.out.shape[1] == 1 and single:
        message = "Cross-entropy over a single output is always 0: there is nothing to choose between, and no gradient."
        fix = "Give the last layer an output per class; for two classes, BCEWithLogitsLoss takes a single output."
        yield "error", message, fix, {"outputs": 1}
        return
    if kind not in ("ce", "nll") or dim is None or one.y.ndim != 1:
        return
    classes = int(one.out.shape[dim])
    for seen in case.train[:1]:
        labels = seen.targets
        if labels is None or labels.is_floating_point() or labels.numel() < 5 * classes or not labels.numel():
            continue
        high = int(labels.max())
        if classes >= 2 * (high + 1) and high >= 1:
            message = (
                f"The model has {classes} outputs, and the labels of {seen.name} go up to {high}: "
                f"{classes - high - 1} outputs are never right."
            )
            fix = f"Give the last layer {high + 1} outputs."
            yield "warning", message, fix, {"outputs": classes, "classes": high + 1}


def target_shape(case: Case) -> Iterator[Found]:
    """Outputs and targets of different shapes, which broadcast, so that samples are mixed up; or which fail."""
    trial = case.forward()
    one = trial.passes[0]
    if not isinstance(one.out, Tensor) or not isinstance(one.y, Tensor) or one.out.shape == one.y.shape:
        return
    shapes = {"outputs": tuple(one.out.shape), "targets": tuple(one.y.shape)}
    if one.error is not None:
        if _failure(trial, one) == "shape":
            message = f"Outputs {shapes['outputs']} and targets {shapes['targets']} do not go together: {one.error}"
            yield "error", message.splitlines()[0].rstrip(".") + ".", _shape_fix(one), shapes
        return
    if one.out.numel() == one.y.numel() and one.out.squeeze().shape == one.y.squeeze().shape and _mixes(trial, one):
        message = (
            f"Outputs {shapes['outputs']} and targets {shapes['targets']} differ in shape and broadcast to "
            f"{tuple(torch.broadcast_shapes(one.out.shape, one.y.shape))}: every output is compared with every "
            "target, and the model learns their mean."
        )
        yield "error", message, _shape_fix(one), shapes


def _shape_fix(one: Pass) -> str:
    if one.out.ndim == one.y.ndim + 1 and one.out.shape[-1] == 1:
        return "Give both one shape: model(x).squeeze(-1), or targets y.unsqueeze(-1)."
    if one.y.ndim and one.y.shape[-1] == 1:
        return "Give both one shape: targets y.squeeze(-1)."
    return "Give both one shape."


def _mixes(trial: Trial, one: Pass) -> bool:
    """Whether the gradient for one sample's output depends on another sample's target."""
    try:
        torch.broadcast_shapes(one.out.shape, one.y.shape)
        far = 10 * float(max(one.out.detach().abs().max(), one.y.abs().max())) + 10
        ends = (
            (-far, far)
            if one.y.is_floating_point() and not 0 <= float(one.y.min()) <= float(one.y.max()) <= 1
            else (0, 1)
        )
        low, high = one.y.clone(), one.y.clone()
        low[-1], high[-1] = ends
        first, second = gradient(trial, one.out, low), gradient(trial, one.out, high)
    except Exception:
        return False
    return one.size > 1 and not torch.allclose(first[:-1], second[:-1], rtol=1e-5, atol=1e-12)


def target_dtype(case: Case) -> Iterator[Found]:
    """Targets of a type that the loss does not take."""
    trial = case.forward()
    one = trial.passes[0]
    if one.error is None or _failure(trial, one) != "dtype":
        return
    wanted = (
        "y.long()" if known_kind(trial.loss) in ("ce", "nll", "margin") or one.y.ndim < one.out.ndim else "y.float()"
    )
    wanted = "y.float()" if known_kind(trial.loss) in ("mse", "bce", "bce_logits") else wanted
    message = (
        f"Targets of type {one.y.dtype} do not go with outputs of type {one.out.dtype} and this loss: "
        f"{str(one.error).splitlines()[0]}."
    )
    yield "error", message, f"Convert them once, in the dataset: {wanted}.", {"dtype": str(one.y.dtype)}


def _failure(trial: Trial, one: Pass) -> str:
    """What a loss failed at: 'range', 'dtype', 'shape', or nothing that is known."""
    if not isinstance(one.out, Tensor) or not isinstance(one.y, Tensor) or one.error is None:
        return ""
    text = str(one.error).lower()
    if "out of bounds" in text or "outside" in text or "between 0 and 1" in text:
        return "range"
    if "dtype" in text or "scalar type" in text or "expected floating" in text or "result type" in text:
        return "dtype"
    words = ("size", "shape", "multi-target", "dimension", "broadcast", "0d or 1d", "must match")
    return "shape" if any(word in text for word in words) and one.out.shape != one.y.shape else ""


def explains_failure(case: Case) -> bool:
    """Whether another check says what the loss failed at."""
    trial = case.tried()
    if _out_of_bounds(trial):
        return True
    failure = _failure(trial, trial.passes[0]) if trial.passes else ""
    return failure in ("dtype", "shape") or (bool(trial.passes) and any(True for _ in labels_out_of_range(case)))
