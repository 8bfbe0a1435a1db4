"""Check whether weights that begin as zero, or all alike, ever get away from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .case import Case, Found, some
from .looking import tensors_in
from .trial import BATCH_NORMS, Pass, Trial

#: Layers whose output units each have a row of the weight.
_LAYERS = (nn.Linear, _ConvNd)
#: So many updates are tried; where several layers begin as nothing, each of them sets the one before it free.
_UPDATES = 6
#: What an update changes, in root mean squares of a parameter's gradient.
_RATE = 0.02
#: How many layers are looked at one by one.
_MOST = 8


def zero_initialized(case: Case) -> Iterator[Found]:
    """Weights that begin as zero, or all alike, and stay so, or let nothing through."""
    trial = case.backward()
    alike = {name: p for name, p in trial.named_parameters() if p.ndim > 1 and _rows_alike(trial, name, p)}
    if not alike:
        return
    begun = {name: p.detach().clone() for name, p in alike.items()}
    moved = _after_updates(trial)
    still = [n for n in alike if not bool(begun[n].any()) and torch.equal(moved[n], begun[n])]
    same = [n for n in alike if n not in still and _is_layer(trial, n) and _stays_alike(trial, n, moved[n], begun[n])]
    fix = "Leave torch's initialization as it is, or use nn.init.kaiming_uniform_; zero is for last layers alone."
    if still:
        message = (
            f"{some(still)} {_begin(still)} as zero and will stay so: no gradient comes through, because what lies "
            "before or behind is zero, too."
        )
        yield "error", message, fix, {"parameters": still}
    if same:
        message = (
            f"In {some(same)} all rows begin with the same numbers, and get the same gradient: the units of the layer "
            "stay copies of each other, as if there were one."
        )
        yield "error", message, fix, {"parameters": same}
    zeros = [n for n in alike if not bool(begun[n].any())]
    if not still and not same and (names := _in_the_way(trial, zeros)):
        message = (
            f"{some(names)} {_begin(names)} as zero in the middle of the model: nothing of the inputs comes through to "
            "the layers behind."
        )
        yield "warning", message, fix, {"parameters": names}

    elif not still and not same and _is_all_there_is(trial, zeros):
        message = f"The weights of all layers begin as zero, one behind the other: {some(zeros)}."
        yield "warning", message, fix, {"parameters": zeros}


def _is_all_there_is(trial: Trial, zeros: list[str]) -> bool:
    """Whether no layer begins with other weights than zeros, and some of them lie behind others."""
    weights = [n for n, p in trial.named_parameters() if p.ndim > 1 and _is_layer(trial, n)]
    if len(weights) < 2 or not set(weights) <= set(zeros):
        return False
    of = next(one for one in trial.passes if one.loss is not None)
    before, after = _seen_by_layers(quiet(trial), of), _seen_by_layers(_shaken(trial, set(weights)), of)
    return any(_differ(before[layer], after.get(layer)) for layer in before)


def _begin(names: list[str]) -> str:
    return "begins" if len(names) == 1 else "begin"


def _owner(trial: Trial, name: str) -> nn.Module | None:
    return dict(trial.named_modules()).get(name.rpartition(".")[0] or type(trial.model).__name__)


def _is_layer(trial: Trial, name: str) -> bool:
    return isinstance(_owner(trial, name), (*_LAYERS, nn.RNNBase))


def _gates(trial: Trial, name: str, weight: Tensor) -> list[Tensor]:
    """The parts of a weight in which rows are units of one kind: the gates of recurrent layers, else all."""
    owner = _owner(trial, name)
    count = {"LSTM": 4, "GRU": 3}.get(owner.mode, 1) if isinstance(owner, nn.RNNBase) else 1
    return [part.flatten(1) for part in weight.detach().chunk(count)]


def _rows_alike(trial: Trial, name: str, weight: Tensor) -> bool:
    if not weight.is_floating_point() or not weight.numel():
        return False
    if not bool(weight.any()):
        return True
    parts = _gates(trial, name, weight)
    return _is_layer(trial, name) and all(len(part) > 1 and bool((part == part[:1]).all()) for part in parts)


def _stays_alike(trial: Trial, name: str, now: Tensor, begun: Tensor) -> bool:
    moved = float((now - begun).abs().max())
    parts = _gates(trial, name, now)
    return all(len(p) > 1 and float((p - p[:1]).abs().max()) <= 1e-3 * moved for p in parts)


def quiet(trial: Trial) -> Trial:
    """A copy without dropout, in which BatchNorm goes by the batch."""
    other = Trial(trial.modules, trial.loss)
    for _, part in other.named_modules():
        part.training = isinstance(part, (*BATCH_NORMS, nn.RNNBase))
        if isinstance(part, nn.RNNBase):
            part.dropout = 0.0
    return other


def _after_updates(trial: Trial) -> dict[str, Tensor]:
    """The parameters after some updates, each of about the same size for all of them."""
    other = quiet(trial)
    passes = [one for one in trial.passes if one.loss is not None]
    for number in range(_UPDATES):
        of = passes[number % len(passes)]
        torch.manual_seed(0)
        again = Pass(of.x, of.y, other.call(of.x))
        other.differentiate(again)
        sizes = {n: float(g.square().mean().sqrt()) for n, g in again.grads.items() if g is not None and g.numel()}
        least = 1e-6 * max(sizes.values(), default=0.0)
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                grad, size = again.grads.get(name), sizes.get(name, 0.0)
                if grad is not None and least < size < float("inf"):
                    parameter.sub_(grad * (_RATE / size))
    return {name: p.detach() for name, p in other.named_parameters()}


def _in_the_way(trial: Trial, zeros: list[str]) -> list[str]:
    """The layers of zeros that keep the inputs from the outputs by themselves, and have others behind them."""
    of = next(one for one in trial.passes if one.loss is not None)
    zeros = [name for name in zeros if isinstance(_owner(trial, name), _LAYERS)]
    if of.size < 4 or not zeros or not _blind(quiet(trial), of) or all(map(_alike, _per_sample(of.x, of.size))):
        return []
    before = _seen_by_layers(quiet(trial), of)
    found = []
    for name in zeros[:_MOST]:
        if _blind(_shaken(trial, set(zeros) - {name}), of):
            after = _seen_by_layers(_shaken(trial, {name}), of)
            found += [name] if any(_differ(before[layer], after.get(layer)) for layer in before) else []
    return found


def _shaken(trial: Trial, names: set[str]) -> Trial:
    other, generator = quiet(trial), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in names:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return other


def _per_sample(value: Any, size: int) -> list[Tensor]:
    return [t for t in tensors_in(value) if t.ndim and t.shape[0] == size]


def _blind(trial: Trial, of: Pass) -> bool:
    """Whether the outputs are the same for all samples."""
    torch.manual_seed(0)
    outs = [t.detach() for t in _per_sample(trial.call(of.x), of.size) if t.is_floating_point()]
    return bool(outs) and all(map(_alike, outs))


def _alike(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return bool((tensor == tensor[:1]).all())
    return float((tensor - tensor[:1]).abs().max()) <= 1e-6 * float(tensor.abs().max())


def _seen_by_layers(trial: Trial, of: Pass) -> dict[str, Tensor]:
    """What arrives at the layers."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, part in trial.named_modules():
        if isinstance(part, _LAYERS) and not isinstance(part, torch.jit.ScriptModule):

            def note(_: nn.Module, args: Any, name: str = name) -> None:
                seen.update({name: args[0].detach()} if args else {})

            handles.append(part.register_forward_pre_hook(note))
    try:
        torch.manual_seed(0)
        trial.call(of.x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _differ(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and not torch.allclose(one, other)
