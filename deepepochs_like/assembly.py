"""Put a trainer's model, loss and optimizers together: on their device, under their handles."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .checks import check_optimizers
from .errors import ArgumentError
from .execution import Accelerated, Local, is_accelerator
from .handles import LossHandle, ModelHandle
from .optimizer import Optimizers
from .placement import choose_device, follow_parameters
from .plan import trainable


def assemble(trainer: Any, models: dict[str, nn.Module], loss: Any, opt: Any, device: Any, compile_model: bool) -> None:
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
    if compile_model:
        for handle in trainer.models.values():
            handle.model.compile()
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
