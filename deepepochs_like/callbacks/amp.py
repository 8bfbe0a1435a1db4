"""`AMP`: mixed precision."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ..errors import ArgumentError, ArgumentTypeError, StepError, did_you_mean
from ..execution.precision import MixedPrecision, widen
from ..execution.window import drop_gradients
from ..state import keyed
from ..types import StateDict
from .base import Callback

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class AMP(Callback):
    """Run forward pass and loss in half the bits.

    ``'bf16'`` needs nothing else. ``'fp16'`` scales the loss, so that small gradients do not vanish: gradients are
    unscaled before any hook sees them, an update whose gradients overflowed is left out (its optimizer's scheduler does
    not step either), and `skipped` counts those. The scaler is part of the state. Models return float32:
    tensors, and those in tuples, lists, dicts and objects of dataclasses.

    Args:
        precision: ``'bf16'`` or ``'fp16'``.
        **scaler: options of `torch.amp.GradScaler`, such as ``init_scale=`` and ``growth_interval=`` (``'fp16'`` only).

    Raises:
        ArgumentError: the precision is neither, the device cannot do it, or an Accelerator has one of its own.

    Example:
        >>> from deepepochs_like import AMP, Trainer
        >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> fit = Trainer(net, torch.nn.functional.mse_loss, epochs=2, verbose=0, callbacks=[AMP('bf16')]).fit(data)
        >>> next(net.parameters()).dtype, len(fit['train']['loss'])
        (torch.float32, 2)
    """

    part_of_training = True

    def __init__(self, precision: str = "bf16", **scaler: Any) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ArgumentError(
                f"precision={precision!r}: one of {', '.join(map(repr, PRECISIONS))} is needed"
                f"{did_you_mean(str(precision), PRECISIONS)}"
            )
        if scaler and precision != "fp16":
            raise ArgumentError(f"{', '.join(scaler)}: only 'fp16' scales the loss; leave the options out")
        for name, value in scaler.items():
            if name != "enabled" and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
                raise ArgumentError(f"{name}={value!r}: a number above 0 is needed")
        try:
            torch.amp.GradScaler("cpu", **scaler)
        except (TypeError, AssertionError) as error:
            raise ArgumentTypeError(f"AMP('fp16', ...): torch.amp.GradScaler refuses the options: {error}") from error
        self.precision, self._options = precision, scaler
        self._mixed: MixedPrecision | None = None
        self._hooks: dict[int, Any] = {}
        self._told = 0

    @property
    def skipped(self) -> int:
        """Updates left out so far, as their gradients overflowed."""
        return 0 if self._mixed is None else self._mixed.skipped

    @property
    def scale(self) -> float:
        """What the loss is multiplied by now; 1 without a scaler."""
        scaler = None if self._mixed is None else self._mixed.scaler
        return 1.0 if scaler is None else float(scaler.get_scale())

    def attach(self, trainer: Any) -> None:
        """Install the precision on the execution, once: a state of the scaler may be loaded before a fit begins."""
        installed = getattr(trainer.execution, "precision_of", (None, None))
        if installed[0] is self:  # before another trainer's, maybe
            self._use(installed[1])
            return
        if self.precision == "fp16" and trainer.compiled_step is not None:
            raise ArgumentError(
                "AMP('fp16') and compile='step': the graph takes the gradients before the loss could be scaled; use "
                "AMP('bf16'), or compile='model'"
            )
        if trainer.accelerator is not None:
            raise ArgumentError(
                f"AMP({self.precision!r}): an Accelerator has its own precision; pass "
                f"Accelerator(mixed_precision={self.precision!r}) and leave AMP out"
            )
        device = trainer.device.type
        if device == "cuda" and self.precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise ArgumentError("AMP('bf16'): this GPU has no bfloat16; use AMP('fp16')")
        scaler = torch.amp.GradScaler(device, **self._options) if self.precision == "fp16" else None
        mixed = MixedPrecision(trainer.execution, PRECISIONS[self.precision], scaler)
        trainer.execution.around = partial(self._begin, trainer, mixed)
        trainer.execution.precision_of = (self, mixed)
        self._use(mixed, self._left(trainer.execution))

    def _left(self, execution: Any) -> MixedPrecision | None:
        """What was installed on an execution before this was taken out of its trainer's callbacks, no longer kept."""
        left = vars(execution).get("precisions_left", [])
        before: MixedPrecision | None = next((mixed for amp, mixed in left if amp is self), None)
        left[:] = [(amp, mixed) for amp, mixed in left if amp is not self]
        return before

    def _use(self, mixed: MixedPrecision, before: MixedPrecision | None = None) -> None:
        """Go on with a precision that is installed, from where another was."""
        if before is not None and before.scaler is not None and mixed.scaler is not None:
            mixed.scaler.load_state_dict(before.scaler.state_dict())
            mixed.skipped = before.skipped
        if self._mixed is not (before or mixed):  # of another trainer, of which other things were told
            self._told = mixed.skipped
        self._mixed = mixed

    def detach(self, trainer: Any) -> None:
        """Take the precision off; its scaler is kept, for a run that this is put back for."""
        installed: Any = getattr(trainer.execution, "precision_of", (None, None))
        if installed[0] is self:
            installed[1].remove()
            vars(trainer.execution).setdefault("precisions_left", []).append(installed)
            if installed[1].scaler is not None:
                drop_gradients(trainer)  # they are scaled

    def _begin(self, trainer: Any, mixed: MixedPrecision, step: Any) -> Any:
        """A task begins: the modules that it calls return float32, and its step runs in the precision."""
        for handle in trainer.models.values():
            if id(handle.model) not in self._hooks:
                self._hooks[id(handle.model)] = handle.model.register_forward_hook(widen)
        for optimizer in trainer.opt if mixed.scaler is not None else ():
            if optimizer.target is not optimizer.opt:
                raise StepError(
                    f"AMP('fp16') steps torch's optimizer, and the step or zero_grad of {type(optimizer).__name__} "
                    "would not be called; use AMP('bf16'), or a torch optimizer with this step"
                )
            if id(optimizer.opt) not in self._hooks:
                self._hooks[id(optimizer.opt)] = optimizer.opt.register_step_pre_hook(mixed.forbid)
        return mixed.around(step, trainer.current_task.stage == "train")

    def state_dict(self) -> StateDict:
        if self._mixed is None or self._mixed.scaler is None:
            return {}
        return {"scaler": self._mixed.scaler.state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state_dict: StateDict) -> None:
        if self._mixed is not None and self._mixed.scaler is not None:
            self._mixed.scaler.load_state_dict(state_dict["scaler"])
            self._mixed.skipped = self._told = int(state_dict["skipped"])
            self._mixed.restored()

    def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
        """Give the gradients of a state this run's scale, where they were added up with another precision's."""
        if trainer.pending is None or self._mixed is None:
            return
        key = next(key for key, callback in keyed(trainer.callbacks).items() if callback is self)
        saved = trainer.pending["callbacks"].get(key) or {}
        before, now = float(saved.get("scaler", {}).get("scale", 1.0)), self.scale
        if before == now:
            return
        for group in trainer.opt.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(now / before)
        self._mixed.restored()
        trainer.pending["callbacks"] = {**trainer.pending["callbacks"], key: self.state_dict()}

    def on_after_train_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int) -> None:
        """Say how many updates were left out, as nothing else shows that an epoch had fewer."""
        if (new := self.skipped - self._told) and trainer.verbose:
            trainer.print(
                f"epoch {epoch_idx + 1}: {new} update{'s' * (new > 1)} left out, as float16 gradients overflowed; "
                f"the loss is now scaled by {self.scale:g}"
            )
        self._told = self.skipped

    def on_cleanup(self, trainer: Any) -> None:
        hooks, self._hooks = self._hooks, {}
        for hook in hooks.values():
            hook.remove()
