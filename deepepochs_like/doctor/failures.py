"""Check whether the step fails at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import a_kind
from .case import Case, Found
from .looking import tensors_in
from .targets import explains_failure
from .trial import Pass, Trial

_FLOAT = "as torch.tensor(..., dtype=torch.float32) makes them"


def step_fails(case: Case) -> Iterator[Found]:
    """The step fails on the first batch."""
    trial = case.tried()
    if trial.failed is not None and not trial.passes and not explains_failure(case):
        error = trial.failed
        message = f"The model fails on the first batch: {type(error).__name__}: {_first_line(error)}."
        yield "error", message, _help_model(trial, str(error)), {"error": repr(error)}
        return
    for one in trial.passes[:1]:
        if one.error is not None and not explains_failure(case):
            message = f"The loss fails on the first batch: {type(one.error).__name__}: {_first_line(one.error)}."
            yield "error", message, _help_loss(one, str(one.error)), {"error": repr(one.error)}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")


def _help_model(trial: Trial, text: str) -> str:
    """What to do about a model that fails, by what it says and what it was given."""
    given = list(tensors_in(trial.given))
    return _type_fix(trial, given, text) or _shape_fix(given, text) or _help(text)


def _help_loss(one: Pass, text: str) -> str:
    """What to do about a loss that fails, by what it says and what the model returned."""
    if one.out is None:
        return "The model returns None: let forward() end in return."
    kind, key = type(one.out).__name__, next(iter(one.out), 0) if isinstance(one.out, dict) else 0
    if isinstance(one.out, Tensor) or f"must be Tensor, not {kind}" not in text:
        return _help(text)
    return (
        f"The model returns {a_kind(one.out)}, and the loss takes a tensor: return the outputs alone, or take them "
        f"from it, as in loss=lambda out, y: criterion(out[{key!r}], y)."
    )


def _type_fix(trial: Trial, given: list[Tensor], text: str) -> str:
    """What to do where the inputs are of another type than the weights; nothing where it is not sure that they are."""
    if re.search(r"indices|embedding", text) and any(t.is_floating_point() for t in given):
        return "An embedding takes whole numbers: convert the inputs once, in the dataset: x.long()."
    if not re.search(r"d(ata)?type|scalar type|type .* should be the same|not implemented for '", text):
        return ""
    wanted = {p.dtype for m in trial.modules.values() for p in m.parameters() if p.is_floating_point()}
    off = {t.dtype for t in given if t.is_floating_point()} - wanted
    if not off and not any(isinstance(part, (nn.Embedding, nn.EmbeddingBag)) for _, part in trial.named_modules()):
        off = {t.dtype for t in given} - wanted
    if len(wanted) != 1 or not off:
        return "Bring inputs and weights to one type, such as .float()."
    weights, inputs = wanted.pop(), " and ".join(sorted(map(_plain, off)))
    fix = f"x.float(), {_FLOAT}" if weights == torch.float32 else f"x.to({weights}); or give the model .float()"
    return f"The inputs are {inputs}, the weights {_plain(weights)}: convert the inputs once, in the dataset: {fix}."


def _plain(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _shape_fix(given: list[Tensor], text: str) -> str:
    """What to do where a layer is given another size than it was made for."""
    shape: tuple[Any, ...] = tuple(given[0].shape) if given else ()
    if found := re.search(r"mat1 and mat2 shapes .*\(\d+x(\d+) and (\d+)x(\d+)\)", text):
        got, made, out = map(int, found.groups())
        if len(shape) > 2 and prod(shape[1:]) == made:
            return "Flatten the inputs before the first layer: nn.Flatten()."
        fix = f"A layer made for {made} features is given {got}: make it nn.Linear({got}, {out})"
        return f"{fix}, or flatten first, with nn.Flatten()." if len(shape) > 2 else f"{fix}, or change the inputs."
    if found := re.search(r"weight of size \[.*expected input.* to have (\d+) channels, but got (\d+)", text):
        made, got = map(int, found.groups())
        if len(shape) == 3 and made == 1 and got == shape[0]:
            return (
                "Images are (batch, channels, height, width): give the inputs a dimension of channels, x.unsqueeze(1)."
            )
        if len(shape) == 4 and shape[-1] == made and shape[1] == got:
            return "Images are (batch, channels, height, width): put the channels there, x.permute(0, 3, 1, 2)."
        return f"A layer made for {made} channels is given {got}: make it in_channels={got}, or change the inputs."
    if found := re.search(r"input_size. Expected (\d+), got (\d+)", text):
        return f"A layer made for {found[1]} features is given {found[2]}: make it input_size={found[2]}."
    return ""


def _help(text: str) -> str:
    if "index out of range in self" in text or "is not in the valid range" in text:
        return "An index is not in the embedding: give it num_embeddings above the largest."
    if "between 0 and 1" in text:
        return "BCELoss takes probabilities: use BCEWithLogitsLoss, or end the model in a sigmoid."
    if "Expected more than 1 value" in text:
        return "BatchNorm needs more than one sample: use larger batches."
    if "dtype" in text or "scalar type" in text:
        return "Bring inputs, targets and weights to one type, such as .float()."
    return "Compare what the loader yields, (*inputs, target), with what forward() and the loss take."
