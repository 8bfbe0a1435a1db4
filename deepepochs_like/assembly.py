"""Put a trainer's model, loss and optimizers together: on their device, under their handles."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .callbacks.checkpoint import Checkpoint
from .callbacks.default import DefaultCallback
from .checks import check_optimizers
from .compiling import CompiledStep, compile_model
from .errors import ArgumentError
from .events import check_callback
from .execution import Accelerated, Local, is_accelerator
from .handles import LossHandle, ModelHandle
from .optimizer import Optimizers
from .placement import choose_device, follow_parameters
from .plan import trainable


def assemble(
    trainer: Any, models: dict[str, nn.Module], loss: Any, opt: Any, device: Any, compiled: dict[str, Any] | None
) -> None:
    """Give a trainer its execution, device, models, loss and optimizers."""
    trainer.accelerator = device if is_accelerator(device) else None
    trainer.execution = (
        Accelerated(device, trainer.accumulate)
        if trainer.accelerator
        else Local(choose_device(device, list(models.values())), trainer.accumulate)
    )
    trainer.device = trainer.execution.device
    trainer.models = {name: ModelHandle(trainer, trainer.execution.place(module)) for name, module in models.items()}
    trainer.model = (
        trainer.models["model"] if list(models) == ["model"] else ModelHandle(trainer, nn.ModuleDict(models))
    )
    trainer.loss = LossHandle(trainer, trainer.execution.place(loss) if isinstance(loss, nn.Module) else loss)
    trainer.compile, trainer.compiled_step = compiled, None
    if compiled is not None and compiled["what"] == "step":
        trainer.compiled_step = CompiledStep(trainer, compiled)
    elif compiled is not None:
        failures: list[Exception] = []
        for handle in trainer.models.values():
            compile_model(handle.model, compiled, failures)
    if opt is None:  # a model without anything to train can still be tested
        parameters = trainable(trainer)
        opt = torch.optim.Adam(parameters, lr=1e-3) if parameters else []
    elif isinstance(opt, (list, tuple, dict)) and not opt:
        raise ArgumentError("opt is empty: at least one optimizer is needed (None stands for Adam)")
    trainer.opt = Optimizers(opt)
    if trainer.opt:
        check_optimizers(trainer.opt, models, loss)
    for optimizer in trainer.opt:
        follow_parameters(optimizer.opt)


def add_callbacks(trainer: Any, console: DefaultCallback) -> None:
    """Add the callbacks that a trainer has unless it was given others of their kind, and check all."""
    callbacks = trainer.callbacks
    if trainer.verbose and not any(isinstance(c, DefaultCallback) for c in callbacks):
        callbacks.append(console)
    if trainer.resume is not False and not any(getattr(c, "keeps_checkpoints", False) for c in callbacks):
        callbacks.append(Checkpoint())
    for callback in callbacks:
        check_callback(callback)
    trainer.attached = list(callbacks)
    for callback in callbacks:
        callback.attach(trainer)
