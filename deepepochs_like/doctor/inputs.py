"""Checks of what the model is fed: finite, scaled, varied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..events import listens
from .case import CannotTell, Case, Found, some
from .looking import tensors_in
from .trial import NORMS

#: Root mean squares between which data is scaled well enough, by far.
SMALLEST, LARGEST = 1e-3, 10.0
#: Means and standard deviations of single columns from which on they are not scaled.
COLUMN = 50.0


def not_finite(case: Case) -> Iterator[Found]:
    """NaN or infinity in the inputs or targets of the first batches, or in the parameters."""
    for seen in [*case.train, *case.val]:
        for number, batch in enumerate(seen.batches):
            bad = sum(int((~torch.isfinite(t)).sum()) for t in tensors_in(batch) if t.is_floating_point())
            if bad:
                message = f"Batch {number} of {seen.name} holds {bad} values that are NaN or infinite."
                fix = "Leave such samples out, or fill the gaps (torch.nan_to_num, the column's mean)."
                yield "error", message, fix, {"loader": seen.name, "batch": number, "values": bad}
                break
    names = [
        name
        for name, p in case.named_parameters()
        if not isinstance(p, nn.parameter.UninitializedParameter) and not bool(torch.isfinite(p.detach()).all())
    ]
    if names:
        message = f"Parameters are NaN or infinite before the run begins: {some(names)}."
        yield "error", message, "Look at how they were initialized, or loaded.", {"parameters": names}


def _fed(case: Case) -> list[tuple[str, Tensor]]:
    """What arrives at the first layers with weights, whatever forward() did with the batch before."""
    changing = [
        type(c).__name__
        for c in case.trainer.callbacks
        if listens(c, "before_train_batch") and not type(c).__module__.startswith("deepepochs_like.")
    ]
    if changing:
        raise CannotTell(f"{some(changing)}.on_before_train_batch may change the inputs")
    trial = case.forward()
    inputs = [t for t in tensors_in(trial.passes[0].x) if t.is_floating_point() and t.ndim > 1]
    beside = [
        (name, t)
        for t in inputs
        for name, part, mixed in trial.fed_mixed
        if not isinstance(part, NORMS) and _is_part(t, mixed)
    ]
    if trial.fed or trial.fed_mixed:
        return [(name, t) for name, part, t in trial.fed if not isinstance(part, (*NORMS, nn.Embedding))] + beside
    if any(isinstance(part, (nn.Embedding, *NORMS)) for _, part in trial.named_modules()):
        return []
    return [("the model", t) for t in inputs]


def _is_part(tensor: Tensor, mixed: Tensor) -> bool:
    """Whether a tensor's columns are among those of another, which holds what was learned beside them."""
    if tensor.ndim != mixed.ndim or tensor.shape[:-1] != mixed.shape[:-1] or tensor.shape[-1] >= mixed.shape[-1]:
        return False
    first, columns = tensor.reshape(-1, tensor.shape[-1])[:, :1], mixed.reshape(-1, mixed.shape[-1])
    return bool((columns == first).all(0).any()) and bool((first != first[:1]).any())


def unscaled_inputs(case: Case) -> Iterator[Found]:
    """Inputs whose mean and deviation are far from 0 and 1 where they meet the first weights."""
    for name, tensor in _fed(case):
        values = tensor.cpu().double()
        if values.numel() < 8 or not bool(torch.isfinite(values).all()):
            continue
        mean, low, high = float(values.mean()), float(values.min()), float(values.max())
        rms = float(values.square().mean().sqrt())
        columns = _columns(tensor)
        if not (rms > LARGEST or columns or 0 < rms < SMALLEST):
            continue
        spread = f"from {low:.3g} to {high:.3g}, mean {mean:.3g}, standard deviation {float(values.std()):.3g}"
        message = f"The inputs that reach {_called(name)} are not scaled: {spread}."
        fix = "Subtract the mean and divide by the standard deviation of the training set, feature by feature."
        if low >= 0 and 100 < high <= 255:
            message += " They look like bytes from 0 to 255."
            fix = "Divide by 255, or normalize with the data set's mean and deviation."
        elif columns and 4 * len(columns) <= tensor.shape[1]:
            message += f" Columns that stand out: {some([str(c) for c in columns])}."
        found: dict[str, Any] = {"mean": mean, "rms": rms, "low": low, "high": high, "columns": columns}
        yield "warning", message, fix, found
        return


def _called(name: str) -> str:
    return f"layer {name!r}" if name[:1].isdigit() or "." in name else name


def _columns(tensor: Tensor) -> list[int]:
    """The columns of a table that are far off scale."""
    if tensor.ndim != 2 or not 2 <= tensor.shape[1] <= 4096 or tensor.shape[0] < 4:
        return []
    values = tensor.cpu().double()
    off = (values.mean(0).abs() > COLUMN) | (values.std(0) > COLUMN)
    return [int(i) for i in off.nonzero().flatten()]


def constant_inputs(case: Case) -> Iterator[Found]:
    """Columns of a table that have one value throughout, other than 0 or 1."""
    trial = case.forward()
    one = trial.passes[0]
    for tensor in tensors_in(one.x):
        if tensor.ndim != 2 or not tensor.is_floating_point() or tensor.shape[0] < 16 or tensor.shape[1] < 2:
            continue
        alike = [t for p in trial.passes for t in tensors_in(p.x) if t.shape[1:] == tensor.shape[1:]]
        values = torch.cat(alike)
        same = (values == values[:1]).all(0) & (values[0] != 0) & (values[0] != 1) & torch.isfinite(values[0])
        if bool((values == values[:1]).all()):  # of that same_batch speaks
            return
        columns = [int(i) for i in same.nonzero().flatten()]
        if columns:
            names = some([str(c) for c in columns])
            message = f"Columns {names} of the inputs have the same value in all {len(values)} samples looked at."
            yield "hint", message, "Leave them out: they tell nothing.", {"columns": columns}
            return


def unscaled_targets(case: Case) -> Iterator[Found]:
    """Targets of a regression that are far off scale."""
    trial = case.backward()
    one = trial.passes[0]
    if not isinstance(one.y, Tensor) or not isinstance(one.out, Tensor) or not one.y.is_floating_point():
        return
    if one.y.numel() != one.out.numel():
        return
    rms = float(one.y.cpu().double().square().mean().sqrt())
    if rms > 100:
        message = f"The targets are large (root mean square {rms:.3g}), and the outputs begin near 0."
        fix = "Train on (y - mean) / std of the training set, and undo it in predictions."
        yield "hint", message, fix, {"rms": rms}
