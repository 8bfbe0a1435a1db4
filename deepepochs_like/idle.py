"""A fit that trains nothing: found out at the end of a pass, at no cost per batch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from types import ModuleType
from typing import Any

import torch
from torch import nn

from .figures import called
from .plan import trained_modules
from .utils.warn import warn

#: What a step has to do.
FIX = "call trainer.loss(model_out, batch_y) in it, or trainer.backward(loss) and trainer.optimize()"
#: Who has this among what was said is told of it in another way.
SAID = "idle"
#: After how many batches without an update that is said, and after how many where a run counts updates, as its first
#: batches may only fill a buffer. While there are gradients, somebody may still be adding them up.
_SUSPICIOUS, _HOPELESS, _ADDING_UP = 10, 100, 500
#: How many elements are looked at in one go, so that no copy has the size of a parameter.
_AT_ONCE = 2**20
#: How many items of a list or a dict are looked at: they may be all the data.
_FEW = 100
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Idle:
    """Watch a fit until its first update; only steps that are not the default ones need that.

    Args:
        trainer: whose fit begins, its state restored.
    """

    def __init__(self, trainer: Any) -> None:
        progress, opened = trainer.progress, trainer.progress.opened
        self.trainer, self._step, self._left_out = trainer, progress.step, _left_out(trainer)
        self._before = fingerprints(trainer, beside=True)
        self._batches, self._skipped, self._endless, self._moved = 0, False, False, False
        #: The task that ran last, and how many of its batches are counted; what a state brings is not.
        self._counted = (progress.epoch, opened["task"], opened["batch"]) if opened else (0, 0, 0)

    @classmethod
    def of(cls, trainer: Any) -> Idle | None:
        """Watch the fit that begins; None where the default steps do all training, which always update."""
        own = [task for task in trainer.stage_tasks["train"] if not task.has_default_step("train")]
        return cls(trainer) if own and trainer.accelerator is None else None

    def skipped(self) -> None:
        """Note that a batch was left out, so that there is no telling what it would have done."""
        self._skipped = True

    def pass_over(self) -> None:
        """Count the batches of a training pass; warn, once, where updates are counted and none was made in many."""
        progress = self.trainer.progress
        epoch, task, batch = self._counted
        same = (epoch, task) == (progress.epoch, progress.task)
        self._batches += progress.batch - (batch if same else 0)
        self._counted = (progress.epoch, progress.task, progress.batch)
        self._endless = math.isfinite(self.trainer.current_task.step_limit)
        if self._endless and self._is_news(_HOPELESS):
            self._warn(self._why_endless())

    def epoch_over(self) -> None:
        """Warn, once, where the fit has made no update so far; one that counts updates is told of by its passes."""
        if not self._endless:
            self._say(_SUSPICIOUS)

    def fit_over(self) -> None:
        """Warn where a fit is over that made no update."""
        self._say(_SUSPICIOUS, _SUSPICIOUS)

    def _say(self, least: int, adding_up: int = _ADDING_UP) -> None:
        if self._is_news(least, adding_up) and not self._has_moved():
            self._warn(
                f"nothing is trained: {self._steps()} made no update of the weights in {self._batches} batches; {FIX}"
            )

    def _is_news(self, least: int, adding_up: int = _ADDING_UP) -> bool:
        return not {SAID, self._about()} & self.trainer.said and self._updates_nothing(least, adding_up)

    def _warn(self, message: str) -> None:
        self.trainer.said.add(self._about())
        warn(message)

    def _about(self) -> str:
        return f"{SAID}:{self._steps()}"

    def _has_moved(self) -> bool:
        """Whether something is trained by an optimizer that the trainer does not know, or without any."""
        self._moved = self._moved or moved(self.trainer, self._before, beside=True)
        return self._moved

    def _updates_nothing(self, least: int, adding_up: int = _ADDING_UP) -> bool:
        """Whether there was no update, and no sign of one, in at least so many batches."""
        trainer = self.trainer
        if trainer.progress.step > self._step or trainer.progress.updated:
            return False
        if self._skipped or _left_out(trainer) != self._left_out:
            return False
        gradients = any(p.grad is not None for p in _parameters(trainer))
        return self._batches >= (adding_up if gradients else least)

    def _why_endless(self) -> str:
        where = f"max_steps counts updates of the weights, and {self._steps()} made none in {self._batches} batches"
        weights = {key: mark for key, mark in self._before.items() if key[0] == "weight"}
        if not moved(self.trainer, weights):
            return f"{where} so far; the run goes on until they are made: {FIX}"
        return (
            f"{where} that the trainer knows of, although the weights have changed; it goes on, and only steps of the "
            "trainer's optimizers are counted: pass the one that is used as Trainer(opt=...), or count epochs instead: "
            "fit(epochs=...)"
        )

    def _steps(self) -> str:
        tasks = self.trainer.stage_tasks["train"]
        return ", ".join(dict.fromkeys(called(t.step_of("train")) for t in tasks if not t.has_default_step("train")))


def fingerprints(trainer: Any, beside: bool = False) -> dict[Any, Any]:
    """Tell the weights from others without keeping them: what changes when they do, by where they are.

    Args:
        trainer: whose models and loss are looked at.
        beside: also at what else may be trained: buffers, and what the tasks, their steps and the trainer hold.
    """
    found: dict[Any, Any] = {("weight", n): _fingerprint(one) for n, one in enumerate(_parameters(trainer))}
    if beside:
        found.update(_beside(trainer))
    return found


def moved(trainer: Any, before: dict[Any, Any], beside: bool = False) -> bool:
    """Whether the weights are others than those whose fingerprints were taken; the device is waited for."""
    now = fingerprints(trainer, beside)
    return any(key not in now or not _same(now[key], mark) for key, mark in before.items())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.device == other.device and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def _parameters(trainer: Any) -> list[Any]:
    return [parameter for module in trained_modules(trainer) for parameter in module.parameters()]


def _beside(trainer: Any) -> Iterator[tuple[Any, Any]]:
    """Fingerprints of buffers, and of what a script may train on its own, by where they are."""
    holders: list[dict[str, Any]] = [{"trained": trained_modules(trainer)}, vars(trainer)]
    for task in trainer.stage_tasks["train"]:
        if not task.has_default_step("train"):
            holders += [vars(task), task.step_args, *_used_by(task.step_of("train"))]
    done = {id(parameter) for parameter in _parameters(trainer)}
    for place, holder in enumerate(holders):
        for name, value in list(holder.items()):
            if isinstance(value, nn.Parameter) or (
                isinstance(value, torch.Tensor) and value.ndim
            ):  # it may be all the data, so they are not read
                yield (place, name), (id(value), _changes(value))
            for n, tensor in enumerate(_tensors_of(value)):
                if id(tensor) not in done:
                    done.add(id(tensor))
                    yield (place, name, n), _fingerprint(tensor)


def _used_by(step: Any) -> list[dict[str, Any]]:
    """What a step's own object holds, and what the step uses of what stands around it."""
    function = step.func if isinstance(step, partial) else step
    own = getattr(getattr(function, "__self__", function), "__dict__", {})
    try:
        around = inspect.getclosurevars(inspect.unwrap(function))
    except (TypeError, ValueError):  # no Python function, or a variable that is not filled yet
        return [own]
    return [own, dict(around.nonlocals), dict(around.globals)]


def _tensors_of(value: Any) -> list[Any]:
    """The parameters and buffers of a module or an optimizer, of a few of them, or of an object that holds some."""
    found: list[Any] = []
    for one in islice(_items(value), _FEW):
        try:
            ours = isinstance(one, ModuleType) or type(one).__module__.startswith(f"{__package__}.")
            for part in (one, *({} if ours else getattr(one, "__dict__", {})).values()):
                if isinstance(part, nn.Module):
                    found += [*part.parameters(), *part.buffers()]
                elif isinstance(part, torch.optim.Optimizer):
                    found += [parameter for group in part.param_groups for parameter in group["params"]]
        except Exception:  # an object that does not let itself be looked at
            continue
    return found


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, (list, tuple)) else [value]


def _fingerprint(tensor: Any) -> Any:
    """The sum of the bits, and of their squares; of what is no plain tensor how often it was changed in place."""
    plain = type(tensor) in (nn.Parameter, torch.Tensor) and tensor.layout is torch.strided and not tensor.is_quantized
    size = tensor.element_size() if plain and not tensor.is_nested else 0
    if size not in _BITS or tensor.is_meta or tensor.is_conj() or tensor.is_neg():
        return _changes(tensor)
    sums = []
    for part in _parts(tensor.detach()):
        bits = part.contiguous().view(_BITS[size])  # a change through .data shows in no version
        sums.append(torch.stack([bits.sum(), (bits * bits).sum()]))
    return torch.stack(sums).sum(0)


def _changes(tensor: Any) -> int:
    try:
        return int(tensor._version)
    except RuntimeError:  # made in inference mode: nothing counts its changes
        return 0


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Take a tensor apart, so that what is made of one part is small."""
    if tensor.numel() <= _AT_ONCE:
        yield tensor
        return
    for half in tensor.tensor_split(2, dim=tensor.shape.index(max(tensor.shape))):
        yield from _parts(half)


def _left_out(trainer: Any) -> int:
    """How many updates AMP has left out so far."""
    mixed = getattr(trainer.execution, "precision_of", (None, None))[1]
    return 0 if mixed is None else int(mixed.skipped)
