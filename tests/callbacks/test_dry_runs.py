"""Rehearsals: a few batches through everything, and one batch learned by heart; neither leaves a trace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from deepepochs_like import (
    AMP,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochTask,
    FineTune,
    GradClip,
    LRFinder,
    Optimizer,
    PatchBase,
    Trainer,
    freeze,
)
from deepepochs_like.dry_runs import Overfit
from deepepochs_like.errors import ArgumentError, LoaderError, LossError, StepError, UnknownFigureError
from deepepochs_like.metrics import accuracy
from support.digits import digits, loader
from support.loop import CountedLoader
from support.traces import account, differences


def net(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 10))


def made(model: nn.Module | None = None, callbacks: Any = None, lr: float = 0.01, **options: Any) -> Trainer:
    model = net(0.2) if model is None else model
    opt = torch.optim.Adam(model.parameters(), lr)
    options = {"loss": F.cross_entropy, "opt": opt, "metrics": accuracy, "verbose": 0, **options}
    return Trainer(model, device="cpu", callbacks=callbacks, **options)


class Listener(Callback):
    """Takes part in a rehearsal, and has a memory."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self.heard.append("before_fit")

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.heard.append(f"batch {batch_idx}: {float(metrics['loss']):.3f} {float(metrics['accuracy']):.3f}")

    def on_after_epoch(self, trainer: Any, val_metrics: Any, **epoch: Any) -> None:
        self.heard.append(f"epoch with {sorted(val_metrics)}")
        print(*self.heard, sep="\n")

    def on_cleanup(self, trainer: Any) -> None:
        self.heard.append("cleanup")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rehearsal_goes_through_everything_and_leaves_no_trace(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = net(0.2)
    opt = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0)
    callbacks = [Listener(), AMP("bf16"), GradClip(1.0), EarlyStopping(), Checkpoint("val/loss"), LRFinder()]
    trainer = made(
        model,
        callbacks,
        opt=Optimizer(opt, schedule, sched_with_loss=True),
        folder=tmp_path,
        resume="auto",
        running_id="a",
    )
    train_dl = loader(0, 160, shuffle=True, num_workers=workers)
    before = account(tmp_path, trainer=trainer, train=train_dl)
    run = trainer.fast_dev_run(train_dl, loader(160, 300), batches=3)
    assert differences(before, account(tmp_path, trainer=trainer, train=train_dl)) == {}
    assert run.batches == {"train": 3, "val": 3}
    assert run.updates == 3
    assert set(run.train) >= {"loss", "accuracy"}
    assert set(run.val) == {"loss", "accuracy"}
    assert run.ran == ["Listener", "AMP", "GradClip", "EarlyStopping"]
    assert run.stayed_out == ["Checkpoint", "LRFinder"]
    assert run.unsaved == ""
    said = capsys.readouterr().out
    assert "batch 2: " in said
    assert "epoch with ['accuracy', 'loss']" in said
    assert "cleanup" not in said
    assert "validation works: 3 batches" in str(run)


def test_it_takes_only_the_batches_that_it_needs() -> None:
    train_dl, val_dl = CountedLoader(loader(0, 320)), CountedLoader(loader(0, 320))
    run = made().fast_dev_run(train_dl, val_dl, batches=2)
    assert run.batches == {"train": 2, "val": 2}
    assert (train_dl.given, val_dl.given) == (0, 0), "the loaders have been put back, too"

    class Asked(Dataset[Any]):
        asked: list[int] = []  # noqa: RUF012  # of the class, so that it is not put back

        def __len__(self) -> int:
            return 1000

        def __getitem__(self, index: int) -> Any:
            self.asked.append(index)
            return torch.rand(64), index % 10

    made().fast_dev_run(DataLoader(Asked(), 8, shuffle=True), batches=2)
    assert len(Asked.asked) == 16

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            x, y = digits(100)
            yield from zip(x, y, strict=True)

    assert made().fast_dev_run(DataLoader(Stream(), 8), batches=2).batches == {"train": 2}


@pytest.mark.filterwarnings("ignore:metric 'no_metric' failed")
def test_what_would_fail_in_the_run_fails_here_and_nothing_has_changed() -> None:
    def no_metric(preds: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("this metric is broken")

    cases: list[tuple[Trainer, Any, type[Exception], str]] = [
        (made(metrics=no_metric), loader(0, 96), ValueError, "this metric is broken"),
        (made(callbacks=[EarlyStopping("val/f1")]), loader(96, 160), UnknownFigureError, "f1"),
        (made(nn.Linear(63, 10)), loader(96, 160), RuntimeError, "shapes cannot be multiplied"),
        (made(loss=lambda p, t: p.sum(1)), loader(96, 160), LossError, "single number"),
    ]
    for trainer, val_dl, error, words in cases:
        before = account(trainer=trainer)
        with pytest.raises(error, match=words):
            trainer.fast_dev_run(loader(0, 96), val_dl)
        assert differences(before, account(trainer=trainer)) == {}


def test_what_works_but_cannot_be_meant_is_said() -> None:
    def no_update(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.model(batch_x), batch_y, do_optimize=False)

    run = made().fast_dev_run(loader(0, 960), batches=12, step=no_update)
    assert run.updates == 0
    assert "ATTENTION: no weight was updated" in str(run)
    assert "trainer.backward(loss) and trainer.optimize()" in str(run)
    with pytest.raises(StepError, match="no weight was updated in 500 batches, so that this would never end; call"):
        made().overfit_batch(loader(0, 96), steps=3, step=no_update)
    run = made(metrics=lambda preds, targets: torch.tensor(math.nan)).fast_dev_run(loader(0, 96))
    assert any("is nan" in warning for warning in run.warnings())


def test_a_state_that_could_not_be_saved_is_told() -> None:
    class Unsaved(Callback):
        def state_dict(self) -> Any:
            return {"lock": object()}

        def load_state_dict(self, state_dict: Any) -> None:
            pass

    run = made(callbacks=[Unsaved()]).fast_dev_run(loader(0, 96))
    assert "lock" in run.unsaved
    assert "NO checkpoint could be saved" in str(run)


class OwnTask(EpochTask):
    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> dict[str, PatchBase]:
        self.loss(self.model(batch_x) * step_args["scale"], batch_y)
        return {}


def test_tasks_are_rehearsed() -> None:
    trainer, task = made(), OwnTask(loader(0, 96), name="own.", scale=1.0)
    before = account(trainer=trainer, task=task)
    run = trainer.fast_dev_run(task, OwnTask(loader(96, 160), name="own.", scale=1.0))
    assert differences(before, account(trainer=trainer, task=task)) == {}
    assert set(run.train) == {"own.loss", "own.accuracy"}
    assert run.batches == {"train": 2, "val": 2}


@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained"])
def test_a_batch_is_learned_by_heart_without_a_trace(trained: bool) -> None:
    trainer, train_dl = made(net()), loader(0, 160, shuffle=True)
    if trained:
        trainer.fit(train_dl, epochs=1)
    before = account(trainer=trainer, train=train_dl)
    result = trainer.overfit_batch(train_dl, 60)
    assert differences(before, account(trainer=trainer, train=train_dl)) == {}
    assert result.learned
    assert len(result.losses) == 60
    assert result.last < 0.1 * result.first
    assert str(result).startswith("the model can learn a batch: in 60 steps the loss fell from ")


def test_it_sees_the_first_batch_only_and_as_it_is() -> None:
    train_dl, seen = CountedLoader(loader(0, 160)), []

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        seen.append(batch_x[0].clone())
        trainer.loss(trainer.model(batch_x), batch_y)
        batch_x[0].zero_()  # a step that spoils its batch

    made(net()).overfit_batch(train_dl, 10, step=step)
    assert len(seen) == 10
    assert all(torch.equal(one, digits(32)[0]) for one in seen)


class Blind(nn.Module):
    """A model that does not look at its input."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(len(x), 10)


def test_models_that_cannot_learn_are_told_plainly() -> None:
    blind = made(Blind()).overfit_batch(loader(0, 320), 60)
    assert not blind.learned
    assert "CANNOT learn" in str(blind)
    slow = made(net(), lr=1e-7).overfit_batch(loader(0, 320), 30)
    assert not slow.learned
    assert "learning rate" in str(slow)
    model = net()
    wild = made(model, opt=torch.optim.SGD(model.parameters(), 1e30)).overfit_batch(loader(0, 320))
    assert not wild.learned
    assert "nan" in str(wild)
    assert "lower learning rate" in str(wild)
    part = made(net(), loss=lambda p, t: F.cross_entropy(p, t) + 3.0).overfit_batch(loader(0, 320), 60)
    assert not part.learned
    assert "not by heart" in str(part)


def test_schedules_rest_at_their_full_rate() -> None:
    model, seen = net(), []
    opt = torch.optim.SGD(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 0.5, total_steps=5)

    class Look(Callback):
        part_of_training = True

        def on_before_optimize(self, trainer: Any, optimize_index: Any) -> None:
            seen.append(opt.param_groups[0]["lr"])

    trainer = made(model, [Look()], opt=Optimizer(opt, schedule, "step"))
    trainer.overfit_batch(loader(0, 96), 8)
    assert seen == [0.5] * 8
    trainer.overfit_batch(loader(0, 96), 2, lr=0.25)
    assert seen[-2:] == [0.25, 0.25]
    assert opt.param_groups[0]["lr"] == pytest.approx(0.02)


def test_accumulation_does_not_hold_updates_back() -> None:
    assert made(net(), accumulate=4).overfit_batch(loader(0, 160), 60).learned


@pytest.mark.parametrize(
    ("given", "options", "error", "words"),
    [
        ([], {}, LoaderError, "empty"),
        (loader(0, 64), {"steps": 0}, ArgumentError, "steps=0"),
        (loader(0, 64), {"threshold": 1}, ArgumentError, "threshold=1"),
        (loader(0, 64), {"lr": -1}, ArgumentError, "lr=-1"),
        (iter([]), {}, ArgumentError, "only once"),
    ],
)
def test_arguments_of_overfit_batch_are_checked(given: Any, options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        made().overfit_batch(given, **options)


def test_arguments_of_fast_dev_run_are_checked() -> None:
    with pytest.raises(ArgumentError, match="batches=0"):
        made().fast_dev_run(loader(0, 64), batches=0)
    with pytest.raises(LoaderError, match="empty"):
        made().fast_dev_run([])


def test_a_batch_that_is_not_learned_as_most_is_frozen_says_so() -> None:
    model = net(0.2)
    trainer = made(model, [FineTune({0: "1", 1: "*"})])  # of the first epoch there is BatchNorm alone
    said = str(trainer.overfit_batch(loader(0, 64), 10))
    assert "4 of 6 parameters (97 % of the numbers) are frozen by FineTune's schedule for epoch 0" in said
    assert "0.weight, 0.bias, 4.weight, 4.bias" in said
    trainer.fit(loader(0, 64), epochs=1)
    assert "frozen" not in str(trainer.overfit_batch(loader(0, 64), 2)), "its next epoch trains everything"
    model = net(0.2)
    trainer = made(model)
    freeze(model[0])
    assert "2 of 6 parameters" in (said := str(trainer.overfit_batch(loader(0, 64), 2)))
    assert "FineTune" not in said


def test_a_batch_that_is_learned_is_told_without_what_is_frozen() -> None:
    said = made(net(), [FineTune({0: ["0", "1", "4.weight"]})]).overfit_batch(loader(0, 32), 80)
    assert (said.learned, "frozen" in str(said)) == (True, False)


def test_losses_are_drawn() -> None:
    result = made(net()).overfit_batch(loader(0, 64), 20)
    assert max(map(len, result.chart(50).splitlines())) <= 50
    assert "100" not in str(Overfit([1.0, 0.5]))
    assert not Overfit([], stopped="in step 1 the loss was nan").learned
