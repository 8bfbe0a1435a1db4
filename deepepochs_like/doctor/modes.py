"""Checks of training and evaluation mode, and of BatchNorm, which depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from ..data.resume import length_of
from ..events import listens, method_of
from ..tensors import map_tensors
from .case import Case, Found, some
from .trial import BATCH_NORMS, Trial

_MODAL = (*BATCH_NORMS, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.RNNBase)
#: The hooks from which a mode lasts for a batch at least.
_LATE = ("before_train_epoch", "before_train_batch", "before_train_forward")


def left_in_eval(case: Case) -> Iterator[Found]:
    """The model, or parts of it that are trained, in evaluation mode."""
    trial = case.trial
    if trial is not None and trial.put_in_eval:
        message = (
            f"forward() puts {some(trial.put_in_eval)} into evaluation mode, so dropout and BatchNorm do not train."
        )
        yield "error", message, "Take .eval() and .train(False) out of forward().", {"modules": trial.put_in_eval}
    named, staying = list(case.named_modules()), _staying(case)
    # A run leaves the model in the mode of its last stage, and the next one puts it right.
    roots = [name for name, module in case.modules.items() if not module.training]
    if roots and not case.trainer.stage_tasks:
        message = (
            "The model is in evaluation mode. fit puts it into training mode at the start of every epoch, all of its "
            "parts; a loop of your own, or another library, would train without dropout, and with BatchNorm standing "
            "still."
        )
        yield "warning", message, _fix(), {"modules": [name or "model" for name in roots]}
        return
    if roots:
        return
    parts = [(name, part) for name, part in named if not part.training and name not in staying and _matters(part)]
    if parts and not sets_modes(case.trainer):
        names = [name for name, _ in parts]
        message = (
            f"{some(names)} {'is' if len(names) == 1 else 'are'} in evaluation mode within a model in training mode. "
            "This does not last: fit puts the whole model into training mode at the start of every epoch."
        )
        yield "warning", message, _fix(), {"modules": names}
    stuck = [name for name, part in named if _matters(part) and _trained(part) and name in staying]
    if stuck:
        message = f"train() leaves {some(stuck)} in evaluation mode, although parameters of it are trained."
        fix = "Have train(mode) hand the mode on with super().train(mode), or freeze it with requires_grad_(False)."
        yield "warning", message, fix, {"modules": stuck}


def _fix() -> str:
    return (
        "Call model.train(). Where a part is meant to stay in evaluation mode, put it there in a callback's "
        "on_before_train_epoch, or override its train()."
    )


def _staying(case: Case) -> set[str]:
    """The names of parts that train() leaves in evaluation mode, as a copy of the models shows."""
    if case.trial is not None:
        return set(case.trial.stays_in_eval)
    if all(type(part).train is nn.Module.train and "train" not in vars(part) for _, part in case.named_modules()):
        return set()
    try:
        return set(Trial(case.modules, None).stays_in_eval)
    except Exception:
        return set()


def _matters(part: nn.Module) -> bool:
    """Whether a module by itself behaves otherwise in training mode."""
    if isinstance(part, nn.RNNBase):
        return part.dropout > 0
    return isinstance(part, _MODAL) and getattr(part, "p", 1.0) > 0


def _trained(part: nn.Module) -> bool:
    return any(p.requires_grad for p in part.parameters())


def frozen_batchnorm_moves(case: Case) -> Iterator[Found]:
    """BatchNorm with frozen weights in training mode: its running figures, and so the model, still change."""
    if sets_modes(case.trainer) or not any(p.requires_grad for _, p in case.named_parameters()):
        return
    staying = _staying(case)
    owners = {id(part): parent for _, parent in case.named_modules() for part in parent.children()}
    names = []
    for name, part in case.named_modules():
        if not isinstance(part, BATCH_NORMS) or not part.track_running_stats or name in staying:
            continue
        weights = list(part.parameters()) or list(owners.get(id(part), part).parameters())
        if weights and not any(p.requires_grad for p in weights):
            names.append(name)
    if names:
        message = (
            f"The weights of {some(names)} are frozen, but in training mode the running mean and variance still move "
            "with every batch, and batches are normalized by their own: the frozen part does not stay as it is."
        )
        fix = (
            "Put frozen BatchNorm into evaluation mode at the start of every epoch: a callback with "
            "on_before_train_epoch that calls .eval() on it, or a train() of the model that does. Calling .eval() once "
            "before fit does not last."
        )
        yield "warning", message, fix, {"modules": names}


def sets_modes(trainer: Any) -> bool:
    """Whether a callback calls eval() or train() where that lasts: then modes are in somebody's hands."""
    return any(
        type(callback).__name__ in ("FineTune", "Freeze")
        or any(listens(callback, e) and mentions(getattr(callback, method_of(e)), {"eval", "train"}) for e in _LATE)
        for callback in trainer.callbacks
        if not type(callback).__module__.startswith("deepepochs_like.callbacks.default")
    )


def mentions(method: Any, names: set[str]) -> bool:
    """Whether a function's code uses one of these names, functions within it included."""
    function = getattr(method, "__func__", method)
    pending = [getattr(function, "__code__", None)]
    while pending:
        code = pending.pop()
        if code is None:
            continue
        if names & set(code.co_names):
            return True
        pending += [constant for constant in code.co_consts if hasattr(constant, "co_names")]
    return False


def batch_of_one_with_batchnorm(case: Case) -> Iterator[Found]:
    """Batches of one sample where BatchNorm needs several."""
    norms = [name for name, part in case.named_modules() if isinstance(part, BATCH_NORMS) and part.training]
    if not norms:
        return
    for seen in case.train:
        loader = seen.loader
        if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler:
            continue
        size, count = loader.batch_size or 0, length_of(loader.sampler)
        if size == 1:
            message = f"{seen.name} gives batches of one sample, and {some(norms)} would normalize each by itself."
            fix = "Use a larger batch, or GroupNorm or LayerNorm, or keep BatchNorm in evaluation mode."
            yield "warning", message, fix, {"batch_size": 1}
        elif count and size > 1 and count % size == 1 and not loader.drop_last and _fails_on_one(case):
            message = (
                f"The last batch of {seen.name} holds a single sample ({count} samples in batches of {size}), at which "
                f"{some(norms)} will fail in training mode: 'Expected more than 1 value per channel'."
            )
            fix = "Pass drop_last=True to the training loader, or choose another batch size."
            yield "error", message, fix, {"samples": count, "batch_size": size}


def _fails_on_one(case: Case) -> bool:
    trial = case.forward()
    one = trial.passes[0]
    size = one.size
    if size < 2:
        return True
    x = map_tensors(one.x, lambda t: t[:1] if t.ndim and t.shape[0] == size else t)
    try:
        trial.call(x)
    except ValueError as error:
        return "more than 1 value" in str(error)
    except Exception:
        return False
    return False
