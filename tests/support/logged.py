"""Runs of a small classifier with callbacks that log: whole ones, and killed ones that go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from deepepochs_like import Callback, Checkpoint, Trainer, listify, set_seed
from support.digits import loader, mlp

#: Of 80 samples by 16; an epoch has so many updates.
PER_EPOCH = 5


class Killed(BaseException):
    """What ends a run at once, as a kill does, but for the process."""


class KillAt(Callback):
    """End the run behind its so-manieth training batch, counted over all epochs."""

    def __init__(self, batch: int) -> None:
        super().__init__(priority=-1)
        self.left = batch

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.left -= 1
        if not self.left:
            raise Killed


class KillInEpochEnd(Callback):
    """End the run when everyone has closed an epoch, before its checkpoint is written."""

    def __init__(self, epoch: int) -> None:
        super().__init__(priority=-1)
        self.epoch = epoch

    def on_checkpoint(self, trainer: Any) -> None:
        if trainer.progress.epoch == self.epoch and not trainer.progress.stage:
            raise Killed


def accuracy(outputs: Any, targets: Any) -> Any:
    return (outputs.argmax(1) == targets).float().mean()


def per_class(outputs: Any, targets: Any) -> Any:
    return torch.stack([(outputs.argmax(1) == c).float().mean() for c in range(2)])


def build(where: Path, *callbacks: Any, epochs: int = 4, lr: float = 0.02, **options: Any) -> Trainer:
    set_seed(0)
    model = mlp(dropout=0.2)
    groups = [{"params": model[0].parameters()}, {"params": model[-1].parameters(), "lr": lr / 2, "name": "head"}]
    optimizer = torch.optim.Adam(groups, lr=lr)
    options = {"folder": where, "running_id": "a", "metrics": [accuracy], "device": "cpu", "verbose": 0, **options}
    return Trainer(model, F.cross_entropy, optimizer, epochs=epochs, callbacks=list(callbacks), **options)


def train_dl() -> Any:
    return loader(0, 16 * PER_EPOCH, batch_size=16, shuffle=True)


def val_dl() -> Any:
    return loader(100, 140, batch_size=16)


def fit(where: Path, *callbacks: Any, **options: Any) -> Trainer:
    trainer = build(where, *callbacks, **options)
    trainer.fit(train_dl(), val_dl())
    return trainer


def killed_and_resumed(where: Path, make: Callable[[], Any], *kills: Callback, **options: Any) -> Trainer:
    """Run until the first kill, go on until the next, and then to the end, each time with callbacks made anew."""
    options = {"resume": "auto", **options}
    for kill in kills:
        with pytest.raises(Killed):
            fit(where, Checkpoint(every_steps=3), *listify(make()), kill, **options)
    return fit(where, Checkpoint(every_steps=3), *listify(make()), **options)
