"""`EarlyStopping` on tables of figures: the epochs that Keras and Lightning document, worked out by hand from them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from deepepochs_like import Callback, CheckCallback, EarlyStopping, Optimizer, Trainer

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


# ------------------------------------------------------------------------------------ another fit, other weights


def stopping(
    figures: list[float], model: nn.Module | None = None, epochs: int = 100, **options: Any
) -> tuple[Trainer, Any]:
    """A trainer whose validation comes to the figures of a table, and its EarlyStopping."""
    model = nn.Linear(1, 1) if model is None else model
    guard = EarlyStopping("val/score", mode="min", **options)
    opt = torch.optim.SGD(model.parameters(), 0.0)
    callbacks = [Table(figures), guard]
    return Trainer(model, nn.functional.mse_loss, opt, epochs, "cpu", callbacks, verbose=0), guard


BATCHES = [(torch.ones(1, 1), torch.ones(1, 1))]


def test_another_fit_begins_with_fresh_patience_and_keeps_the_best() -> None:
    trainer, guard = stopping([3, 1, 2, 2, 2, 2, 2, 0.5], patience=2)
    trainer.fit(BATCHES, BATCHES)
    assert (trainer.progress.epoch, guard.since, guard.best) == (4, 2, 1.0)
    trainer.fit(BATCHES, BATCHES)
    assert (trainer.progress.epoch, guard.best) == (6, 1.0), "two more looks, none of them better than the first fit's"
    trainer.fit(BATCHES, BATCHES, epochs=2)
    assert (trainer.progress.epoch, guard.best, guard.since) == (8, 0.5, 0)


def test_a_fit_that_reached_its_threshold_is_no_end_for_the_next() -> None:
    trainer, guard = stopping([3, 1, 2, 2], patience=9, threshold=1.0)
    trainer.fit(BATCHES, BATCHES)
    assert (trainer.progress.epoch, guard.reached) == (2, True)
    trainer.fit(BATCHES, BATCHES, epochs=2)
    assert (trainer.progress.epoch, guard.reached) == (4, False)


def test_a_resumed_fit_keeps_the_count() -> None:
    figures: list[float] = [3, 1, 2, 2, 2, 2, 2]
    first, _ = stopping(figures, patience=3)
    first.fit(BATCHES, BATCHES, epochs=3)
    second, guard = stopping(figures, patience=3)
    second.load_state_dict(first.state_dict())
    second.fit(BATCHES, BATCHES, epochs=7)
    assert (second.progress.epoch, guard.since) == (5, 3)
    third, _ = stopping(figures, patience=3)
    third.load_state_dict(second.state_dict())
    assert third.fit(BATCHES, BATCHES, epochs=7)["val"]["score"] == [3, 1, 2, 2, 2], "what was ended stays ended"


def test_checkcallback_begins_with_fresh_patience_too(tmp_path: Any) -> None:
    check = CheckCallback("score", mode="min", patience=2, ckpt_dir=str(tmp_path))
    model = nn.Linear(1, 1)
    opt = torch.optim.SGD(model.parameters(), 0.0)
    callbacks = [Table([3, 1, 2, 2, 2, 2, 2]), check]
    trainer = Trainer(model, nn.functional.mse_loss, opt, 100, "cpu", callbacks, verbose=0)
    trainer.fit(BATCHES, BATCHES)
    trainer.fit(BATCHES, BATCHES)
    assert trainer.progress.epoch == 6
    trainer.load_weights(trainer.save_weights(tmp_path / "w.pt"))
    assert check.stopper is not None
    assert math.isnan(check.stopper.best)


def best_after(trainer: Trainer, epochs: int) -> float:
    trainer.fit(BATCHES, BATCHES, epochs=epochs)
    weight: Any = trainer.model.weight
    return float(weight.detach())


def test_the_best_weights_of_an_earlier_fit_come_back_while_the_model_goes_on_from_them() -> None:
    trainer, _ = stopping([3, 1, 2, 2, 2], patience=9, restore_best=True)
    assert best_after(trainer, 3) == 1.0
    assert best_after(trainer, 2) == 1.0, "nothing better has come"


def test_weights_that_are_loaded_begin_anew(tmp_path: Any) -> None:
    trainer, guard = stopping([3, 1, 2, 5, 6], patience=9, restore_best=True)
    path = trainer.save_weights(tmp_path / "pretrained.pt")
    assert best_after(trainer, 3) == 1.0
    trainer.load_weights(path)
    assert math.isnan(guard.best)
    assert best_after(trainer, 2) == 3.0, "the best of the epochs since"


@pytest.mark.filterwarnings("ignore:EarlyStopping. the model has other weights")
def test_weights_that_the_script_puts_in_by_itself_begin_anew() -> None:
    trainer, guard = stopping([3, 1, 2, 5, 6], patience=9, restore_best=True)
    before = {name: value.clone() for name, value in trainer.model.model.state_dict().items()}
    assert best_after(trainer, 3) == 1.0
    trainer.model.model.load_state_dict(before)
    assert (best_after(trainer, 2), guard.best) == (3.0, 5.0)


def test_a_rehearsal_in_between_changes_nothing_about_the_best() -> None:
    trainer, guard = stopping([3, 1, 2, 5, 6], patience=9, restore_best=True)
    assert best_after(trainer, 3) == 1.0
    trainer.overfit_batch(BATCHES, steps=2)
    trainer.fast_dev_run(BATCHES, BATCHES, batches=1)
    assert (best_after(trainer, 2), guard.best) == (1.0, 1.0)


def test_loading_weights_leaves_a_state_of_the_script_whole(tmp_path: Any) -> None:
    first, _ = stopping([3, 1, 2, 5, 6], patience=9, restore_best=True)
    first.fit(BATCHES, BATCHES, epochs=2)
    state = first.state_dict()
    second, guard = stopping([3, 1, 2, 5, 6], patience=9, restore_best=True)
    second.load_state_dict(state)
    second.load_weights(first.save_weights(tmp_path / "w.pt"))
    assert "EarlyStopping(val/score)" in state["callbacks"]
    second.fit(BATCHES, BATCHES, epochs=4)
    assert guard.best == 2.0, "the state's best belonged to the weights before"


def test_another_trainer_gets_nothing_of_the_first_ones_weights() -> None:
    trainer, guard = stopping([3, 1, 2], patience=9, restore_best=True)
    assert best_after(trainer, 3) == 1.0
    model = nn.Linear(1, 1)
    opt = torch.optim.SGD(model.parameters(), 0.0)
    other = Trainer(model, nn.functional.mse_loss, opt, 9, "cpu", [Table([7, 8, 6, 9]), guard], verbose=0)
    assert (best_after(other, 4), guard.best) == (2.0, 6.0)


def test_what_a_model_counts_in_an_evaluation_does_not_make_its_best_weights_forgotten() -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Any) -> Any:
            self.seen += len(x)
            return self.layer(x)

    torch.manual_seed(0)
    net, data = Counting(), [(torch.ones(4, 2), torch.ones(4, 1))]
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    guard = EarlyStopping(patience=9, restore_best=True)
    trainer = Trainer(net, torch.nn.functional.mse_loss, opt, callbacks=[guard], verbose=0)
    trainer.fit(data, data, epochs=3)
    best = trainer.test(data)["loss"]
    opt.param_groups[0]["lr"] = 5.0  # it diverges
    trainer.fit(data, data, epochs=2)
    assert trainer.test(data)["loss"] == best
