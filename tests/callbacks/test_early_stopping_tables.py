"""`EarlyStopping` on tables of figures: the epochs that Keras and Lightning document, worked out by hand from them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from deepepochs_like import Callback, EarlyStopping, Optimizer, Trainer

NAN = math.nan


class Table(Callback):
    """Have validation come to the figures of a table, and set a weight to the epoch's number."""

    def __init__(self, figures: list[float]) -> None:
        super().__init__()
        self.figures = figures

    def on_after_val_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        trainer.current_task.figures.loss = None
        trainer.add_figure("score", self.figures[trainer.progress.epoch])
        with torch.no_grad():
            trainer.model.weight.fill_(trainer.progress.epoch)


def run(figures: list[float], **options: Any) -> tuple[int, float]:
    """How many epochs there were, and the weight in the end."""
    model, batches = nn.Linear(1, 1), [(torch.ones(1, 1), torch.ones(1, 1))]
    callbacks = [Table(figures), EarlyStopping("val/score", **options)]
    opt = torch.optim.SGD(model.parameters(), 0.0)
    trainer = Trainer(model, nn.functional.mse_loss, opt, len(figures), "cpu", callbacks, verbose=0)
    trainer.fit(batches, batches)
    return trainer.progress.epoch, float(model.weight.detach())


# "Number of epochs with no improvement after which training will be stopped" (Keras); "number of checks with no
# improvement after which training will be stopped" (Lightning): with the epochs counted from 1.
@pytest.mark.parametrize(
    ("figures", "patience", "options", "stopped"),
    [
        ([3, 2, 2, 2, 2, 2], 1, {}, 3),
        ([3, 2, 2, 2, 2, 2], 3, {}, 5),
        ([3, 2, 2.5, 1, 1, 1, 1], 2, {}, 6),
        ([1, 1, 1, 1], 3, {}, 4),
        ([5, 4, 3, 2, 1], 1, {}, 5),
        # min_delta: "an absolute change of less than min_delta will count as no improvement".
        ([3, 2.95, 2.9, 2.85, 2.8], 2, {"min_delta": 0.1}, 3),
        ([3, 2.8, 2.6, 2.4, 2.2], 2, {"min_delta": 0.1}, 5),
        ([3, 2.95, 2.85, 2.8, 2.78], 2, {"min_delta": 0.1}, 5),
        # mode 'max'.
        ([0.1, 0.3, 0.2, 0.3, 0.4], 2, {"mode": "max"}, 4),
        ([0.1, 0.3, 0.2, 0.4, 0.4, 0.4], 2, {"mode": "max"}, 6),
        # NaN is never an improvement, nor does it undo one.
        ([3, NAN, NAN, 1], 2, {}, 3),
        ([NAN, NAN, 1, 2, 2], 3, {}, 5),
        ([2, NAN, 1, NAN, NAN, 0], 2, {}, 5),
        # baseline (Keras): the run ends if there is no improvement over it within `patience` epochs.
        ([3, 2.9, 2.8, 2.7], 3, {"baseline": 2.0}, 3),
        ([3, 1.9, 2.5, 2.4, 2.3, 2.2], 3, {"baseline": 2.0}, 5),
        ([3, 2.5, 1.9, 1.8, 1.7], 3, {"baseline": 2.0}, 5),
        # stopping_threshold (Lightning): "stop training immediately once the monitored quantity reaches it".
        ([3, 2, 1, 0.5], 5, {"threshold": 1.0}, 3),
        # A warm-up is not held against the run.
        ([2, 3, 3, 3, 3, 3], 2, {"warmup": 3}, 5),
    ],
)
def test_it_ends_in_the_epoch_that_is_documented(
    figures: list[float], patience: int, options: dict[str, Any], stopped: int
) -> None:
    options.setdefault("mode", "min")
    assert run(figures, patience=patience, **options)[0] == stopped


@pytest.mark.parametrize(("restore", "weight"), [(True, 1.0), (False, 3.0)])
def test_the_best_weights_are_restored_where_that_is_asked_for(restore: bool, weight: float) -> None:
    assert run([3, 1, 2, 2, 0], patience=2, mode="min", restore_best=restore) == (4, weight)


def test_they_are_also_where_no_epoch_ended_the_run() -> None:
    assert run([3, 2, 1, 2], patience=5, mode="min", restore_best=True) == (4, 2.0)


def test_they_survive_a_restart() -> None:
    model, batches = nn.Linear(1, 1), [(torch.ones(1, 1), torch.ones(1, 1))]

    def make(module: nn.Module, epochs: int) -> Trainer:
        callbacks = [Table([3, 1, 2, 2, 0]), EarlyStopping("val/score", 2, "min", restore_best=True)]
        opt = torch.optim.SGD(module.parameters(), 0.0)
        return Trainer(module, nn.functional.mse_loss, opt, epochs, "cpu", callbacks, verbose=0)

    first = make(nn.Linear(1, 1), 3)
    first.fit(batches, batches)
    second = make(model, 5)
    second.load_state_dict(first.state_dict())
    second.fit(batches, batches)
    assert (second.progress.epoch, float(model.weight.detach())) == (4, 1.0)


@pytest.mark.parametrize(
    ("figures", "lrs"),
    [([3, 2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 0.5, 0.5, 0.5]), ([3, NAN, NAN, NAN, 1], [1, 1, 1, 0.5, 0.5])],
)
def test_a_plateau_scheduler_decides_as_torch_documents(figures: list[float], lrs: list[float]) -> None:
    # "With patience = 2, the first two epochs with no improvement are ignored, and the rate decreases after the third."
    model, batches, seen = nn.Linear(1, 1), [(torch.ones(1, 1), torch.ones(1, 1))], []
    opt = torch.optim.SGD(model.parameters(), 1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=2, threshold=0.0)

    class Rates(Callback):
        def on_checkpoint(self, trainer: Any) -> None:
            seen.append(opt.param_groups[0]["lr"])

    optimizer = Optimizer(opt, plateau, monitor="val/score")
    Trainer(model, nn.functional.mse_loss, optimizer, len(figures), "cpu", [Table(figures), Rates()], verbose=0).fit(
        batches, batches
    )
    assert seen == lrs
