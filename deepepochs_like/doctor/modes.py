"""Checks of training and evaluation mode, and of BatchNorm, which depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from ..data.resume import length_of
from ..events import listens, method_of
from ..tensors import map_tensors
from .case import Case, Found, some
from .looking import tensors_in
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
    staying = _staying(case)
    norms = [name for name, part in case.named_modules() if isinstance(part, BATCH_NORMS) and name not in staying]
    if not norms:
        return
    for seen in case.train:
        size, last, whole = _last_batch(seen)
        if size == 1 and whole > 1 and _of_one(seen, case):
            message = f"{seen.name} gives batches of one sample, and {some(norms)} would normalize each by itself."
            fix = "Use a larger batch, or GroupNorm or LayerNorm, or keep BatchNorm in evaluation mode."
            yield "warning", message, fix, {"batch_size": 1}
        elif size > 1 and last == 1 and not sets_modes(case.trainer) and _fails_on_one(case, train=True):
            yield _of_the_last(seen, norms, size, whole, "training mode", "drop_last=True to the training loader")
    for seen in case.val:
        size, last, whole = _last_batch(seen)
        if 1 in (size, last) and case.trial is not None and _fails_on_one(case, train=False):
            yield _of_the_last(seen, norms, size, whole, "evaluation", "track_running_stats=True to BatchNorm")


def _of_the_last(seen: Any, norms: list[str], size: int, whole: int, mode: str, fix: str) -> Found:
    message = (
        f"The last batch of {seen.name} holds a single sample ({whole} samples in batches of {size}), at which "
        f"{some(norms)} will fail in {mode}: 'Expected more than 1 value per channel'."
    )
    return "error", message, f"Pass {fix}, or choose another batch size.", {"samples": whole, "batch_size": size}


def _last_batch(seen: Any) -> tuple[int, int, int]:
    """The size of a loader's batches, that of its last one, and how many samples it has; zeros where not known."""
    loader = seen.loader
    if isinstance(loader, (list, tuple)):
        sizes = [next((int(t.shape[0]) for t in tensors_in(batch) if t.ndim), 0) for batch in loader[:1000]]
        return (max(sizes), sizes[-1] if len(loader) <= 1000 else 0, sum(sizes)) if sizes else (0, 0, 0)
    if not isinstance(loader, DataLoader):
        return 0, 0, 0
    stream = isinstance(loader.dataset, IterableDataset)
    if not stream and type(loader.batch_sampler) is not BatchSampler:
        return 0, 0, 0
    size, count = loader.batch_size or 0, length_of(loader.dataset if stream else loader.sampler) or 0
    if size < 1 or not count:
        return size, 0, count
    return size, size if loader.drop_last else count % size or size, count


def _of_one(seen: Any, case: Case) -> bool:
    """Whether a batch is of one sample to the model, too; a graph or a set of points is not."""
    if case.trial is None or case.tried_on is not seen or not case.trial.passes:
        return True
    return case.trial.passes[0].size <= 1


def _fails_on_one(case: Case, train: bool) -> bool:
    trial = case.forward()
    one = trial.passes[0]
    size = one.size
    other = Trial(trial.modules, trial.loss)
    if not train:
        for module in other.modules.values():
            module.eval()
    x = map_tensors(one.x, lambda t: t[:1] if t.ndim and t.shape[0] == size else t)
    try:
        other.call(x)
    except ValueError as error:
        return "more than 1 value" in str(error)
    except Exception:
        return False
    return False
