"""A fit that trains nothing: found out at the end of a pass, at no cost per batch."""

from __future__ import annotations

import math
from typing import Any

import torch

from .errors import StepError
from .figures import called
from .plan import trained_modules
from .utils.warn import warn

#: What a step has to do.
FIX = "call trainer.loss(model_out, batch_y) in it, or trainer.backward(loss) and trainer.optimize()"
#: Who has this among what was said is told of it in another way.
SAID = "idle"
#: After how many batches without an update that is said, and after how many a run that counts updates ends. While there
#: are gradients, somebody may still be adding them up.
_SUSPICIOUS, _HOPELESS, _ADDING_UP = 10, 100, 500
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Idle:
    """Watch a fit until its first update; only steps that are not the default ones need that.

    Args:
        trainer: whose fit begins, its state restored.
    """

    def __init__(self, trainer: Any) -> None:
        progress, opened = trainer.progress, trainer.progress.opened
        self.trainer, self._step, self._left_out = trainer, progress.step, _left_out(trainer)
        self._weights = fingerprints(trainer)
        self._batches, self._skipped, self._endless = 0, False, False
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
        """Count the batches of a training pass; end a fit that would make passes for ever.

        Raises:
            StepError: updates are counted, and none was made in many batches.
        """
        progress = self.trainer.progress
        epoch, task, batch = self._counted
        same = (epoch, task) == (progress.epoch, progress.task)
        self._batches += progress.batch - (batch if same else 0)
        self._counted = (progress.epoch, progress.task, progress.batch)
        self._endless = math.isfinite(self.trainer.current_task.step_limit)
        if self._endless and self._updates_nothing(_HOPELESS) and SAID not in self.trainer.said:
            raise StepError(self._why_endless())

    def epoch_over(self) -> None:
        """Warn, once, where the fit has made no update so far; one that counts updates ends with an error."""
        if not self._endless:
            self._say(_SUSPICIOUS)

    def fit_over(self) -> None:
        """Warn where a fit is over that made no update."""
        self._say(_SUSPICIOUS, _SUSPICIOUS)

    def _say(self, least: int, adding_up: int = _ADDING_UP) -> None:
        about = f"{SAID}:{self._steps()}"
        if {SAID, about} & self.trainer.said or not self._updates_nothing(least, adding_up):
            return
        if moved(self.trainer, self._weights):  # by an optimizer that the trainer does not know
            return
        self.trainer.said.add(about)
        warn(f"nothing is trained: {self._steps()} made no update of the weights in {self._batches} batches; {FIX}")

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
        if not moved(self.trainer, self._weights):
            return f"{where}: this would never end; {FIX}"
        return (
            f"{where} that the trainer knows of, although the weights have changed: only steps of its own optimizers "
            "are counted. Pass the one that is used as Trainer(opt=...), or count epochs instead: fit(epochs=...)"
        )

    def _steps(self) -> str:
        tasks = self.trainer.stage_tasks["train"]
        return ", ".join(dict.fromkeys(called(t.step_of("train")) for t in tasks if not t.has_default_step("train")))


def fingerprints(trainer: Any) -> list[Any]:
    """Tell the weights from others without keeping them: numbers per parameter that change when it does."""
    return [_fingerprint(parameter) for parameter in _parameters(trainer)]


def moved(trainer: Any, before: list[Any]) -> bool:
    """Whether the weights are others than those whose fingerprints were taken; the device is waited for."""
    now = fingerprints(trainer)
    return len(now) != len(before) or not all(map(_same, now, before))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.device == other.device and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def _parameters(trainer: Any) -> list[Any]:
    return [parameter for module in trained_modules(trainer) for parameter in module.parameters()]


def _fingerprint(parameter: Any) -> Any:
    """The sum of the bits, and of their squares; of what is no plain tensor how often it was changed in place."""
    plain = type(parameter) is torch.nn.Parameter and parameter.layout is torch.strided and not parameter.is_quantized
    size = parameter.element_size() if plain else 0
    if size not in _BITS or parameter.is_meta:
        return parameter._version
    bits = parameter.detach().contiguous().view(_BITS[size])  # a change through .data shows in no version
    return torch.stack([bits.sum(), (bits * bits).sum()])


def _left_out(trainer: Any) -> int:
    """How many updates AMP has left out so far."""
    mixed = getattr(trainer.execution, "precision_of", (None, None))[1]
    return 0 if mixed is None else int(mixed.skipped)
