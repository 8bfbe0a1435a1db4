"""Mixed precision on an execution: autocast around steps and, for float16, a scaled loss."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.amp import GradScaler

from .. import bare
from ..errors import ArgumentError, StepError
from ..optimizer import Optimizer
from .local import Local

#: What is made float32 again when it leaves a model, so that losses and figures are not rounded.
NARROW = (torch.bfloat16, torch.float16)

#: What an execution has of its own while a precision is installed on it.
INSTALLED = ("around", "backward", "prepare", "update", "scaler", "left_out", "precision_of")

#: So many updates in a row that overflow say that no scale will do.
HOPELESS = 60


class MixedPrecision:
    """Run the steps of an execution in another precision.

    The forward pass and the loss run under `torch.autocast`; back-propagation and updates do not, as torch advises.
    What a model returns is made float32. With a scaler, gradients are unscaled before anybody sees them, an update
    whose gradients overflowed is left out, and the scale changes between batches, never within one or within an
    accumulation window.

    Args:
        execution: what it is installed on; its methods are wrapped, not replaced.
        dtype: of the forward pass.
        scaler: scales the loss, or None.
    """

    def __init__(self, execution: Local, dtype: torch.dtype, scaler: GradScaler | None) -> None:
        if execution.around is not None:
            raise ArgumentError("AMP: another AMP is among the callbacks; one trainer has one precision")
        self.execution, self.dtype, self.scaler = execution, dtype, scaler
        #: Updates left out so far.
        self.skipped = 0
        self._backward, self._prepare = execution.backward, execution.prepare
        #: What was there before, such as the `backward` of a compiled step.
        self._before = {name: value for name, value in vars(execution).items() if name in INSTALLED}
        self._inside = self._stepped = self._looked = self._within = self._scaled = False
        self._in_a_row = 0
        everything: Any = execution
        everything.around, everything.backward = self.around, self.backward
        everything.update, everything.scaler = self.update, scaler
        #: Optimizers whose last update was left out.
        everything.left_out = []
        if scaler is not None:
            everything.prepare, everything.prepares = self.prepare, True
            scaler.scale(
                torch.zeros((), device=execution.device)
            )  # it has a scale from now on, not from the first loss

    def remove(self) -> None:
        """Take it off the execution again, which gets back what it had."""
        everything: Any = self.execution
        for name in INSTALLED:
            vars(everything).pop(name, None)
        vars(everything).update(self._before)
        everything.prepares = everything.window is not None

    def around(self, step: Callable[..., Any], training: bool) -> Callable[..., Any]:
        """Make of a step one that runs under autocast."""

        @functools.wraps(step)
        def in_precision(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(self.execution.device.type, self.dtype), self._batch(training):
                return step(*args, **kwargs)

        return in_precision

    @contextmanager
    def _batch(self, training: bool) -> Iterator[None]:
        if not training:  # it updates nothing, be it within a training step or an update
            yield
            return
        self._inside, self._scaled = True, self._scaled and self.execution.window is not None
        whole = False
        try:
            yield
            whole = True
        finally:
            self._inside = False
            self._close(whole)

    def _close(self, whole: bool) -> None:
        """Let the scale follow the updates of a batch, and end the accumulation window that they closed."""
        if self.scaler is None or not self._looked:
            return
        self._looked = False
        self.scaler.update()
        window = self.execution.window
        if whole and window is not None and window.due:  # of a batch that failed the loop asks what it is to do
            window.reset()

    def _plain(self) -> Any:
        return torch.autocast(self.execution.device.type, enabled=False)

    def backward(self, loss: Any) -> None:
        """Back-propagate a loss, scaled where there is a scaler."""
        self._scaled = True
        with self._plain():
            self._backward(loss if self.scaler is None else self.scaler.scale(loss))

    def prepare(self, optimizers: Sequence[Optimizer]) -> None:
        """Unscale the gradients, then make of a window's sum its mean."""
        if not self._scaled and any(map(_has_gradients, optimizers)):
            raise StepError(
                "AMP('fp16'), but nothing was back-propagated through trainer.loss(...) or trainer.backward(loss): the "
                "gradients of a bare loss.backward() are not scaled; use one of the two, or AMP('bf16')"
            )
        for optimizer in optimizers:
            if self.scaler is not None and _has_gradients(optimizer):
                try:
                    self.scaler.unscale_(optimizer.opt)
                except RuntimeError as error:
                    raise StepError(
                        "AMP('fp16'): a step updates the same parameters twice in one batch, while the loss is scaled "
                        "by the same number throughout it; use AMP('bf16'), or a single update per batch"
                    ) from error
                self._looked = True
        self._prepare(optimizers)

    def update(self, optimizers: Sequence[Optimizer]) -> Sequence[Optimizer]:
        """Step the optimizers whose gradients are finite, clear all gradients, and return those that stepped."""
        with self._plain():
            stepped = [optimizer for optimizer in optimizers if self._step(optimizer)]
        everything: Any = self.execution
        everything.left_out = [o for o in optimizers if all(o is not other for other in stepped)]
        torch.clear_autocast_cache()  # it has copies of the weights as they were
        if not self._inside:
            self._close(whole=True)
        return optimizers if len(stepped) == len(optimizers) else stepped

    def _step(self, optimizer: Optimizer) -> bool:
        self._stepped = True
        if self.scaler is None or not _has_gradients(optimizer):
            self._within = True
            bare.step(optimizer.target)
            self._within = False
        else:
            self._stepped, self._within = False, True
            told = optimizer.opt.register_step_post_hook(self._note)
            try:
                self.scaler.step(optimizer.opt)
            finally:
                told.remove()
                self._within = False
            self.skipped += not self._stepped
            self._in_a_row = 0 if self._stepped else self._in_a_row + 1
            if self._in_a_row == HOPELESS:
                raise StepError(
                    f"AMP('fp16'): {HOPELESS} updates in a row were left out, as their gradients were not finite "
                    f"whatever the loss was scaled by (now {self.scaler.get_scale():g}). It is the model or the data, "
                    "not the scale: AMP('bf16') or float32 with StopOnNaN() names the layer"
                )
        bare.zero_grad(optimizer.target)
        return self._stepped

    def _note(self, *step: Any) -> None:
        self._stepped = True

    def restored(self) -> None:
        """Note that there may be gradients of an open window, scaled before the run was cut off."""
        self._scaled = True

    def forbid(self, *step: Any) -> None:
        """Refuse an optimizer's step that is not the trainer's: a hook of every optimizer."""
        if not self._within and self._scaled:
            raise StepError(
                "AMP('fp16'): opt.step() was called on gradients that are scaled; call trainer.optimize() in its place"
            )


def widen(module: Any, args: Any, output: Any) -> Any:
    """Make a module's output float32: a forward hook."""
    return _wide(output)


def _wide(value: Any) -> Any:
    """The same with float32 in the place of half precision, in any nesting, each container of its own type."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in NARROW else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _wide_object(value)
    if isinstance(value, (tuple, list)):
        items = [_wide(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        if type(value) is list:
            return items
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        pairs = {key: _wide(item) for key, item in value.items()}
        if all(pairs[key] is item for key, item in value.items()):
            return value
        return pairs if type(value) is dict else type(value)(pairs)  # type: ignore[call-arg]
    return value


def _wide_object(value: Any) -> Any:
    """A copy of a dataclass's object with its fields wide; neither `__init__` nor a frozen class stands in the way.

    One that is a dict as well, as the model outputs of Hugging Face are, has its fields under their names, too.
    """
    own = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    fields = {name: wide for name, old in own.items() if (wide := _wide(old)) is not old}
    items = {}
    if isinstance(value, MutableMapping):
        made = {id(own[name]): wide for name, wide in fields.items()}
        items = {key: wide for key, old in value.items() if (wide := made.get(id(old), _wide(old))) is not old}
    if not fields and not items:
        return value
    wider = copy.copy(value)
    for key, wide in items.items():
        wider[key] = wide
    for name, wide in fields.items():
        object.__setattr__(wider, name, wide)
    return wider


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
