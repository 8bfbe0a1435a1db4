"""Runs kept on disk: what is written when, what each value of `resume` means, and that it ends at the same bits."""

from __future__ import annotations

import math
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from deepepochs_like import (
    Callback,
    CheckCallback,
    Checkpoint,
    CheckpointStore,
    EarlyStopping,
    EpochTask,
    Optimizer,
    Trainer,
    ValuePatch,
    metrics,
)
from deepepochs_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    EngineWarning,
    RunLockedError,
    StateError,
    StorageError,
    UnknownFigureError,
)
from deepepochs_like.rng import set_seed
from support.digits import loader, mlp, same, weights


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class StopAt(Callback):
    """Stop the run after so many batches, of training and validation together."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.left -= 1
        if not self.left:
            trainer.stop("cut")

    on_after_val_batch = on_after_train_batch


def build(callbacks: Any = (), seed: int = 0, **options: Any) -> Trainer:
    """A run of three epochs with whatever has a state: dropout, shuffling, a schedule per step, a patch."""
    set_seed(seed)
    model = mlp(dropout=0.3)
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    options = {"epochs": 3, "metrics": [metrics.accuracy], "accumulate": 2, **options}
    schedule = Optimizer(opt, torch.optim.lr_scheduler.StepLR(opt, 3, 0.5), "step")
    return Trainer(model, F.cross_entropy, schedule, callbacks=list(callbacks), verbose=0, device="cpu", **options)


def data() -> tuple[Any, Any]:
    return loader(0, 100, batch_size=16, shuffle=True), loader(100, 140, batch_size=16)


def fit(trainer: Trainer, **options: Any) -> Trainer:
    trainer.fit(*data(), **options)
    return trainer


def equal(left: Trainer, right: Trainer) -> bool:
    return (
        same(weights(left.model.model), weights(right.model.model))
        and left.history.state_dict() == right.history.state_dict()
        and str(left.opt.state_dict()) == str(right.opt.state_dict())
    )


def files(folder: str = "logs/a/checkpoints") -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.ckpt*"))


# ---------------------------------------------------------------------------------------------------- when files come


def test_a_bare_fit_writes_nothing() -> None:
    fit(build())
    assert list(Path().iterdir()) == []


def test_naming_a_run_writes_nothing_either() -> None:
    fit(build(running_id="a"))
    assert list(Path().iterdir()) == []


def test_making_a_trainer_writes_nothing() -> None:
    build([Checkpoint()], resume="auto", running_id="a")
    assert list(Path().iterdir()) == []


def test_what_is_refused_before_a_run_writes_nothing() -> None:
    with pytest.raises(ArgumentError):
        build(resume=True).fit(*data(), epochs=-1)
    assert list(Path().iterdir()) == []


def test_resume_alone_keeps_checkpoints() -> None:
    fit(build(resume=True))
    (run,) = Path("logs").iterdir()
    assert run.name.startswith("run-")
    assert len(files(f"{run}/checkpoints")) == 2


def test_a_checkpoint_callback_alone_keeps_checkpoints() -> None:
    trainer = fit(build([Checkpoint()]))
    assert trainer.running_id is not None
    assert len(files(f"logs/{trainer.running_id}/checkpoints")) == 2


# ------------------------------------------------------------------------------------------------- exact, cut anywhere


@pytest.mark.parametrize("batches", [1, 2, 7, 8, 9, 10, 11, 17, 20, 25, 29])
def test_a_run_that_was_stopped_anywhere_and_resumed_equals_one_that_was_not(batches: int) -> None:
    whole = fit(build())
    fit(build([StopAt(batches)], resume="auto", running_id="a"))
    assert equal(whole, fit(build(seed=5, resume="auto", running_id="a")))


def test_a_run_cut_again_and_again_equals_one_that_was_not() -> None:
    whole = fit(build())
    for seed in range(20):
        resumed = fit(build([StopAt(4)], seed=seed, resume="auto", running_id="a"))
    assert equal(whole, resumed)


def test_saves_within_epochs_change_nothing() -> None:
    assert equal(fit(build()), fit(build([Checkpoint(every_steps=1, every_minutes=1e-9)])))


def test_no_before_fit_can_undo_a_resume() -> None:
    class Reset(Callback):
        def on_before_fit(self, trainer: Any, epochs: int) -> None:
            torch.nn.init.zeros_(trainer.model.model[0].weight)
            torch.manual_seed(99)

    whole = fit(build())
    fit(build([StopAt(12)], resume="auto", running_id="a"))
    assert equal(whole, fit(build([Reset()], resume="auto", running_id="a")))


def test_a_finished_run_resumed_does_nothing() -> None:
    first = fit(build(resume="auto", running_id="a"))
    again = fit(build([StopAt(1)], seed=3, resume="auto", running_id="a"))
    assert equal(first, again)
    assert again.stop_reason == ""


def test_a_finished_run_resumed_with_more_epochs_equals_a_longer_one() -> None:
    fit(build(resume="auto", running_id="a"))
    assert equal(fit(build(epochs=5)), fit(build(resume="auto", running_id="a", epochs=5)))


def test_fit_returns_the_whole_run_after_a_resume() -> None:
    fit(build(resume="auto", running_id="a", epochs=2))
    assert len(build(resume="auto", running_id="a").fit(*data())["train"]["loss"]) == 3


def test_a_second_fit_goes_on_from_the_first_and_not_from_the_disk() -> None:
    trainer = fit(build(resume="auto", running_id="a"))
    trainer.fit(*data(), epochs=1)
    assert trainer.progress.epoch == 4
    assert equal(trainer, fit(build(resume="auto", running_id="a", epochs=4)))


def test_several_tasks_and_a_patch_of_the_step() -> None:
    class Task(EpochTask):
        def step(self, batch_x: Any, batch_y: Any) -> Any:
            logits = self.model(*batch_x)
            self.loss(logits, batch_y)
            return {"peak": ValuePatch(len(batch_y)).load(logits.max())}

    def run(*callbacks: Callback, **options: Any) -> Trainer:
        trainer = build(callbacks, accumulate=1, **options)
        tasks = [Task(loader(n, n + 60, batch_size=16, shuffle=True), name=f"t{n}") for n in (0, 60)]
        trainer.fit(
            train_tasks=tasks, val_tasks=[Task(loader(120, 150, batch_size=8)), Task(loader(150, 170), name="b")]
        )
        return trainer

    whole = run()
    for batches in (3, 6, 10, 12):
        run(StopAt(batches), resume="auto", running_id=f"cut{batches}")
        assert equal(whole, run(resume="auto", running_id=f"cut{batches}"))


# ------------------------------------------------------------------------------------------------ what `resume` means


def test_auto_begins_where_there_is_nothing() -> None:
    assert fit(build(resume="auto", running_id="a")).progress.epoch == 3


def test_true_takes_the_newest_run() -> None:
    for name in ("b", "a"):
        fit(build([Checkpoint()], running_id=name, epochs=1))
    Path("logs/empty").mkdir()
    resumed = fit(build(resume=True))
    assert resumed.running_id == "a"
    assert resumed.progress.epoch == 3


@pytest.mark.parametrize("where", ["a", "./logs/a", "logs/a/checkpoints", Path("logs/a")])
def test_an_id_or_a_path_names_the_run(where: Any) -> None:
    fit(build([StopAt(12), Checkpoint()], running_id="a"))
    assert equal(fit(build()), trainer := fit(build(resume=where)))
    assert trainer.running_id == "a"
    assert [path.name for path in Path("logs").iterdir()] == ["a"]


def test_a_number_is_an_id() -> None:
    fit(build([Checkpoint()], running_id="1", epochs=1))
    assert fit(build(resume=1)).running_id == "1"


def test_a_resumed_run_can_go_on_under_another_name() -> None:
    fit(build([Checkpoint()], running_id="a", epochs=1))
    before = files()
    fit(build(resume="a", running_id="b"))
    assert files() == before
    assert len(files("logs/b/checkpoints")) == 2


@pytest.mark.parametrize("resume", ["b", Path("logs/b"), "./logs/b"])
def test_a_run_that_is_not_there_is_an_error(resume: Any) -> None:
    fit(build([Checkpoint()], running_id="a", epochs=1))
    with pytest.raises(CheckpointError, match="there is no"):
        fit(build(resume=resume))
    assert [path.name for path in Path("logs").iterdir()] == ["a"]


def test_a_run_without_checkpoints_is_an_error_when_named() -> None:
    Path("logs/a").mkdir(parents=True)
    Path("logs/a/checkpoint.ckpt").write_bytes(b"DeepEpochs'")
    with pytest.raises(CheckpointError, match=r"no checkpoints; trainer\.load_checkpoint"):
        fit(build(resume="a"))


@pytest.mark.parametrize("resume", ["auto", True, "a"])
def test_no_valid_checkpoint_is_an_error_and_nothing_is_trained(resume: Any) -> None:
    fit(build([Checkpoint()], running_id="a"))
    for path in Path("logs/a/checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-7])
    trainer = build([StopAt(1)], resume=resume, running_id="a")
    with pytest.raises(CheckpointError, match=r"none of the checkpoints .* is valid: .*; .*"):
        fit(trainer)
    assert trainer.progress.step == 0


def test_a_damaged_newest_is_named_and_the_one_before_used() -> None:
    whole = fit(build())
    fit(build([Checkpoint()], running_id="a"))
    newest = Path("logs/a/checkpoints") / files()[-1]
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    with pytest.warns(EngineWarning, match=f"{newest.name} is damaged.* is used instead"):
        resumed = fit(build(resume="auto", running_id="a"))
    assert equal(whole, resumed)


def test_another_model_is_an_error_that_names_the_keys_and_changes_nothing() -> None:
    fit(build([Checkpoint()], running_id="a"))
    model = torch.nn.Sequential(torch.nn.Linear(64, 10))
    before = weights(model)
    trainer = Trainer(model, F.cross_entropy, resume="a", verbose=0)
    with pytest.raises(StateError, match=r"3\.weight"):
        trainer.fit(*data())
    assert same(before, weights(model))
    assert trainer.progress.step == 0


def test_a_run_is_not_begun_anew_over_its_checkpoints() -> None:
    fit(build([Checkpoint()], running_id="a"))
    with pytest.raises(ArgumentError, match=r"resume='auto', or take another running_id"):
        fit(build([Checkpoint()], running_id="a"))


def test_a_run_does_not_go_on_from_behind_its_newest() -> None:
    fit(build([Checkpoint(keep_last=3)], running_id="a"))
    older = Path("logs/a/checkpoints") / files()[0]
    with pytest.raises(ArgumentError, match="take another running_id"):
        fit(build(resume=older))
    assert equal(fit(build(resume=older, running_id="b")), fit(build()))


def test_two_trainers_cannot_write_to_one_run() -> None:
    class Second(Callback):
        def on_after_epoch(self, trainer: Any, **figures: Any) -> None:
            with pytest.raises(RunLockedError, match=f"process {os.getpid()} .this one."):
                fit(build(resume="auto", running_id="a"))

    fit(build([Second()], resume="auto", running_id="a", epochs=1))
    fit(build(resume="auto", running_id="a"))  # the lock is given back


def test_the_lock_is_given_back_after_an_error() -> None:
    class Fail(Callback):
        def on_after_epoch(self, trainer: Any, **figures: Any) -> None:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as caught:
        fit(build([Fail()], resume="auto", running_id="a"))
    fit(build(resume="auto", running_id="a"))
    assert caught.value is not None


# ------------------------------------------------------------------------------------------------------------- policy


def test_the_best_and_the_last_are_kept() -> None:
    trainer = fit(build([Checkpoint("val/loss", keep_last=2, keep_best=2)], running_id="a", epochs=8))
    store = CheckpointStore("logs/a/checkpoints", monitor="val/loss")
    losses = trainer.history["val"]["loss"]
    wanted = {7, 8, *(int(i) + 1 for i in sorted(range(8), key=losses.__getitem__)[:2])}
    assert {entry.epoch for entry in store.entries()} == wanted
    best = store.best()
    assert best is not None
    assert best.figures["val/loss"] == min(losses)


def test_pinned_epochs_stay() -> None:
    fit(build([Checkpoint(pin_every=3)], running_id="a", epochs=8))
    assert {e.epoch for e in CheckpointStore("logs/a/checkpoints").entries()} == {3, 6, 7, 8}


def test_every_so_many_epochs_and_the_last() -> None:
    fit(build([Checkpoint(every_epochs=3, keep_last=9)], running_id="a", epochs=8))
    assert {e.epoch for e in CheckpointStore("logs/a/checkpoints").entries()} == {3, 6, 8}


def test_every_so_many_updates() -> None:
    fit(build([Checkpoint(every_steps=3, keep_last=99)], running_id="a", accumulate=1))
    assert [e.step for e in CheckpointStore("logs/a/checkpoints").entries()] == [21, 21, 18, 15, 14, 12, 9, 7, 6, 3]


def test_minutes_go_on_counting_over_short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("deepepochs_like.callbacks.checkpoint.time.monotonic", lambda: now[0])

    class Tick(Callback):
        def on_after_train_batch(self, trainer: Any, **batch: Any) -> None:
            now[0] += 1.0

    fit(build([Tick(), Checkpoint(every_epochs=100, every_minutes=0.25)], running_id="a", accumulate=1))
    assert [e.step for e in CheckpointStore("logs/a/checkpoints").entries()] == [21, 15]


def test_a_finished_run_resumed_leaves_its_checkpoints_as_they_are() -> None:
    def run() -> dict[str, bytes]:
        fit(build([Checkpoint("val/loss")], resume="auto", running_id="a"))
        return {name: Path("logs/a/checkpoints", name).read_bytes() for name in files()}

    assert run() == run()


def test_a_better_epoch_is_saved_though_none_is_due() -> None:
    fit(build([Checkpoint("train/loss", every_epochs=100)], running_id="a", epochs=3))
    assert {e.epoch for e in CheckpointStore("logs/a/checkpoints").entries()} == {2, 3}


def test_a_function_can_be_monitored() -> None:
    def gap(figures: dict[str, float]) -> float:
        return figures["train/loss"] - figures["val/loss"]

    fit(build([Checkpoint(gap, "max")], running_id="a"))
    assert all("gap" in e.figures for e in CheckpointStore("logs/a/checkpoints").entries())


def test_a_monitored_name_that_never_appears_is_an_error_before_the_first_batch_or_the_epoch_is_saved() -> None:
    class Own(Callback):
        """It may add figures."""

    for others, saved in (([], 0), ([Own()], 1)):
        with pytest.raises(UnknownFigureError, match=r"'val/los'.*did you mean 'val/loss'.*train/accuracy"):
            fit(build([Checkpoint("val/los", "min"), *others], running_id="a"))
        assert len(files()) == saved


def test_a_figure_of_validation_without_validation_is_an_error_at_once() -> None:
    with pytest.raises(ArgumentError, match="nothing to validate on"):
        build([Checkpoint("val/loss")], running_id="a").fit(data()[0])


def test_epochs_without_validation_are_no_look_at_it() -> None:
    stop = EarlyStopping("val/loss", patience=50)
    fit(build([stop, Checkpoint("val/loss")], running_id="a", epochs=5), val_freq=2)
    assert stop.looks == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep_last": 1}, "at least 2"),
        ({"every_epochs": 0}, "every_epochs=0"),
        ({"every_minutes": -1}, "every_minutes=-1"),
        ({"monitor": "loss"}, "did you mean 'val/loss'"),
        ({"monitor": "val/thing"}, "mode='min' or 'max'"),
        ({"mode": "min"}, "need monitor="),
        ({"monitor": "val/loss", "mode": "mni"}, "did you mean 'min'"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Checkpoint(**options)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *(("val_loss", "val/loss"), ("val_accuracy", "val/accuracy"), ("valid_loss", "val/loss")),
        *(("val.loss", "val/loss"), ("validation/loss", "val/loss"), ("train_loss", "train/loss")),
        *(
            ("eval-f1", "val/f1"),
            ("test/loss", "val/loss"),
            ("VAL_my_score", "val/my_score"),
            ("acuracy", "val/accuracy"),
        ),
    ],
)
def test_a_figure_named_as_elsewhere_is_named_as_here(name: str, meant: str) -> None:
    for kind in (EarlyStopping, Checkpoint):
        with pytest.raises(ArgumentError, match=rf"is needed; did you mean '{meant}'\?$"):
            kind(name)


@pytest.mark.parametrize("name", ["", "val", "val/", "train/"])
def test_a_stage_alone_is_taken_for_no_figure(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"'val/<figure>' is needed$"):
        EarlyStopping(name)


def test_what_cannot_be_saved_is_refused_when_the_run_begins() -> None:
    class Odd(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"when": object()}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            raise AssertionError

    trainer = build([Odd()], resume="auto", running_id="a")
    with pytest.raises(ArgumentTypeError, match=r"\['callbacks'\]\['Odd'\]\['when'\] is an object"):
        fit(trainer)
    assert trainer.progress.step == 0


def test_a_patch_that_cannot_be_saved_is_refused_when_the_run_begins() -> None:
    class Odd(ValuePatch):
        def __init__(self, metric: Any = None, batch_size: Any = None) -> None:
            super().__init__(batch_size)
            self.when = object()

    trainer = build(resume="auto", running_id="a", metric_patch=Odd)
    with pytest.raises(ArgumentTypeError, match=r"checkpoints are asked for, but Odd\.when"):
        fit(trainer)
    assert trainer.progress.step == 0


def test_a_folder_that_is_a_file_is_an_error_before_training() -> None:
    Path("logs").write_text("mine")
    trainer = build(resume=True)
    with pytest.raises(CheckpointError, match="cannot be used"):
        fit(trainer)
    assert trainer.progress.step == 0


def test_a_folder_that_vanishes_is_an_error() -> None:
    class Vanish(Callback):
        def on_after_epoch(self, trainer: Any, **figures: Any) -> None:
            os.rename("logs", "elsewhere")
            Path("logs").write_text("in the way")

    with pytest.raises(CheckpointError):
        fit(build([Vanish()], resume="auto", running_id="a"))


# --------------------------------------------------------------------------------------------------------- early stop


class Say(Callback):
    """Give validation the losses wanted, epoch by epoch."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__(priority=100)
        self.losses = losses

    def on_after_epoch(self, trainer: Any, val_metrics: Any, epoch_idx: int, **figures: Any) -> None:
        trainer.val_metrics["loss"] = torch.tensor(self.losses[epoch_idx]).numpy()


@pytest.mark.parametrize(
    ("losses", "options", "epochs"),
    [
        ([5, 4, 3, 2, 1], {"patience": 1}, 5),
        ([1, 2, 2, 2, 2], {"patience": 2}, 3),
        ([3, 2.9, 2.8, 2.7, 2], {"patience": 2, "min_delta": 0.5}, 3),
        ([1, math.nan, math.nan, 2, 1], {"patience": 2}, 3),
        ([math.nan, 2, 1, 3, 3], {"patience": 2}, 5),
        ([1, 2, 3, 4, 5], {"patience": 1, "warmup": 3}, 4),
        ([3, 2, 1, 1, 1], {"patience": 9, "threshold": 1.5}, 3),
        ([1, 2, 3, 2, 1], {"patience": 1, "mode": "max"}, 4),
    ],
)
def test_early_stopping(losses: list[float], options: dict[str, Any], epochs: int) -> None:
    trainer = fit(build([Say(losses), EarlyStopping("val/loss", **options)], epochs=5))
    assert trainer.progress.epoch == epochs
    assert ("val/loss" in trainer.stop_reason) == (epochs < 5 or "val/loss" in trainer.stop_reason)


def test_a_run_that_was_ended_stays_ended_when_resumed_unless_with_more_patience() -> None:
    def run(patience: int) -> Trainer:
        callbacks = [Say([1, 2, 2, 2, 2, 2]), EarlyStopping("val/loss", patience)]
        return fit(build(callbacks, resume="auto", running_id="a", epochs=6))

    assert run(2).progress.epoch == 3
    assert run(2).progress.epoch == 3
    assert run(4).progress.epoch == 5


# ------------------------------------------------------------------------------------------------------------ weights


def test_test_can_take_the_best_weights_and_training_goes_on_from_its_own() -> None:
    def run(look: bool) -> Trainer:
        trainer = fit(build([Checkpoint("val/loss", "max")], resume="auto", running_id=f"look-{look}"))
        if look:
            last = weights(trainer.model.model)
            trainer.test(data()[1], weights="best")
            assert not same(last, weights(trainer.model.model))
            trainer.test(data()[1], weights="best")
        torch.manual_seed(4)
        trainer.fit(*data(), epochs=1)
        return trainer

    assert same(weights(run(False).model.model), weights(run(True).model.model))


def test_weights_that_were_changed_after_a_look_are_the_users() -> None:
    trainer = fit(build([Checkpoint("val/loss")], running_id="a"))
    trainer.test(data()[1], weights="best")
    with torch.no_grad():
        trainer.model.model[0].weight.zero_()
    trainer.fit(*data(), epochs=0)
    assert not trainer.model.model[0].weight.any()


def test_weights_that_are_not_there() -> None:
    with pytest.raises(ArgumentError, match="no callback keeps checkpoints"):
        build().test(data()[1], weights="best")
    with pytest.raises(CheckpointError, match="nothing is monitored"):
        fit(build([Checkpoint()])).test(data()[1], weights="best")


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ("Best", CheckpointError, r"weights='Best': there is no such file; did you mean 'best'\?"),
        ("bset", CheckpointError, r"did you mean 'best'\?"),
        ("latest", CheckpointError, r"did you mean 'last'\?"),
        ("elsewhere/my.pt", CheckpointError, r"weights='elsewhere/my.pt': there is no such file$"),
        (
            "logs/a/checkpoints",
            StorageError,
            r"is a folder, .*'best', 'last', or .*\(logs/a/checkpoints/step-0\S+.ckpt",
        ),
        ("logs/a", StorageError, r"one of the files in it \(logs/a/checkpoints/step-0"),
        ("empty", StorageError, "'last', or a file .it holds no weights"),
        (True, ArgumentTypeError, "weights=True: 'best', 'last' or a file's path is needed, not a bool"),
        ({"0.weight": 1}, ArgumentTypeError, "or a file's path is needed, not a dict"),
    ],
)
def test_weights_that_are_misnamed(given: Any, kind: type[Exception], words: str) -> None:
    trainer = fit(build([Checkpoint("val/loss")], running_id="a", epochs=1))
    Path("empty").mkdir()
    before = weights(trainer.model.model)
    for look in (trainer.test, trainer.validate, trainer.predict):
        with pytest.raises(kind, match=words):
            look(data()[1], weights=given)
    assert same(before, weights(trainer.model.model))


def test_check_callback_tests_with_the_best_and_resumes_from_the_last() -> None:
    def run(**options: Any) -> Trainer:
        return fit(build([CheckCallback("loss", mode="max", ckpt_dir="d")], running_id="R1", **options))

    trainer = run()
    last = weights(trainer.model.model)
    figures = trainer.test(data()[1])
    assert not same(last, weights(trainer.model.model))
    assert float(figures["loss"]) == pytest.approx(max(map(float, trainer.history["val"]["loss"])))
    assert equal(fit(build(epochs=5)), run(resume="R1", epochs=5))


def test_check_callback_stops_early() -> None:
    trainer = fit(build([Say([1, 2, 2, 2, 2]), CheckCallback("loss", patience=2, ckpt_dir="d")], epochs=5))
    assert trainer.progress.epoch == 3


# -------------------------------------------------------------------------------------------------------- a STOP file


def test_a_file_named_stop_ends_the_run_cleanly() -> None:
    class Touch(Callback):
        def on_before_train_batch(self, trainer: Any, **batch: Any) -> None:
            if trainer.progress.step == 0:
                (trainer.run_folder.path / "STOP").touch()

    trainer = fit(build([Touch()], resume="auto", running_id="a"))
    assert "STOP" in trainer.stop_reason
    assert not Path("logs/a/STOP").exists()
    assert equal(fit(build()), fit(build(resume="auto", running_id="a")))


# ------------------------------------------------------------------------------------------------- files of one's own


def test_a_checkpoint_saved_and_loaded_by_hand_goes_on_exactly() -> None:
    first = fit(build(epochs=2))
    first.save_checkpoint("mine.ckpt")
    second = build(seed=8)
    second.load_checkpoint("mine.ckpt")
    assert equal(fit(build()), fit(second))


# ----------------------------------------------------------------------------- what hooks draw, gradients, other fits


class Drawing(Callback):
    """Draws a random number whenever an epoch, or a stage or a task of it, begins."""

    def on_before_epoch(self, **epoch: Any) -> None:
        torch.rand(1)

    on_before_train_epochs = on_before_train_epoch = on_before_val_epochs = on_before_val_epoch = on_before_epoch


@pytest.mark.parametrize("batches", [1, 7, 8, 10, 17, 20, 27])
def test_what_replayed_hooks_draw_is_drawn_once(batches: int) -> None:
    whole = fit(build([Drawing()]))
    fit(build([Drawing(), StopAt(batches)], resume="auto", running_id="a"))
    assert equal(whole, fit(build([Drawing()], seed=5, resume="auto", running_id="a")))


class StopBehind(Callback):
    """Stop the run in its second call of an event."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self.calls = 0
        setattr(self, f"on_{event}", self.stop)

    def stop(self, trainer: Any, **arguments: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            trainer.stop("cut")


@pytest.mark.parametrize("event", ["after_train_epoch", "after_train_epochs", "after_val_epoch", "after_val_epochs"])
def test_what_hooks_draw_that_had_not_fired_before_is_drawn(event: str) -> None:
    whole = fit(build([Drawing()]))
    fit(build([Drawing(), StopBehind(event)], resume="auto", running_id="a"))
    assert equal(whole, fit(build([Drawing()], seed=5, resume="auto", running_id="a")))


def test_a_sampler_that_is_told_its_epoch_by_a_hook_goes_on_in_that_epochs_order() -> None:
    def run(*callbacks: Callback, **options: Any) -> Trainer:
        whole, val = data()
        sampler: Any = DistributedSampler(whole.dataset, num_replicas=1, rank=0)

        class Tell(Callback):
            def on_before_epoch(self, epoch_idx: int, **epoch: Any) -> None:
                sampler.set_epoch(epoch_idx)

        trainer = build([Tell(), *callbacks], **options)
        trainer.fit(DataLoader(whole.dataset, 16, sampler=sampler), val)
        return trainer

    whole = run()
    run(StopAt(14), resume="auto", running_id="a")
    assert equal(whole, run(seed=3, resume="auto", running_id="a"))


class EveryFourth(EpochTask):
    def train_step(self, batch_x: Any, batch_y: Any) -> None:
        self.loss(self.model(*batch_x), batch_y, do_optimize=self.progress.batch % 4 == 3)


@pytest.mark.parametrize("batches", [2, 4, 7, 9, 14])
def test_gradients_that_a_step_left_to_add_to_are_kept(batches: int) -> None:
    def run(*callbacks: Callback, **options: Any) -> Trainer:
        trainer = build(callbacks, accumulate=1, **options)
        trainer.fit(train_tasks=EveryFourth(data()[0]))
        return trainer

    whole = run()
    run(StopAt(batches), resume="auto", running_id="a")
    assert equal(whole, run(seed=3, resume="auto", running_id="a"))


def test_without_gradients_between_batches_none_are_kept() -> None:
    trainer = fit(build([StopAt(3)], accumulate=1))
    assert trainer.state_dict()["gradients"] == {}


def test_gradients_of_parameters_that_are_not_there_are_refused() -> None:
    state = build().state_dict()
    with pytest.raises(StateError, match=r"gradients of \['model.9.weight'\]"):
        build().load_state_dict({**state, "gradients": {"model.9.weight": torch.ones(1)}})


def two_fits(trainer: Trainer, first: int = 2) -> list[int]:
    """Train, then fine-tune on other data; how many epochs each call returned."""
    counts = []
    for rows, epochs in ((0, first), (40, 2)):
        history = trainer.fit(loader(rows, rows + 100, batch_size=16, shuffle=True), epochs=epochs)
        counts.append(len(history.get("train", {}).get("loss", [])))
        if trainer.stop_reason == "cut":
            break
    return counts


@pytest.mark.parametrize("batches", [3, 7, 12, 14, 15, 20, 21, 25])
def test_a_script_of_two_fits_goes_on_in_the_one_that_was_cut_off(batches: int) -> None:
    whole = build()
    two_fits(whole)
    two_fits(build([StopAt(batches)], resume="auto", running_id="a"))
    resumed = build(seed=3, resume="auto", running_id="a")
    two_fits(resumed)
    assert equal(whole, resumed)
    again = build(seed=3, resume="auto", running_id="a")
    two_fits(again)  # has ended, and stays so
    assert equal(whole, again)


def test_a_fit_that_had_ended_says_so_and_returns_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    two_fits(build([StopAt(16)], resume="auto", running_id="a"))
    trainer = build(resume="auto", running_id="a")
    trainer.verbose = 1
    assert two_fits(trainer) == [2, 4]
    assert "fit number 1 had ended before: nothing to do until number 2" in capsys.readouterr().out


def test_a_look_at_the_model_behind_a_fit_that_was_passed_over_warns_whose_weights_they_are() -> None:
    two_fits(build([StopAt(16)], resume="auto", running_id="a"))
    trainer, (train, _) = build(resume="auto", running_id="a"), data()[:2]
    trainer.fit(train, epochs=2)
    with pytest.warns(EngineWarning, match="a fit was passed over"):
        trainer.validate(train)
    trainer.fit(train, epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.validate(train)


def test_a_fit_that_asks_for_more_than_that_of_its_number_did_goes_on_with_the_run_as_a_whole() -> None:
    trainer = build(resume="auto", running_id="a")
    two_fits(trainer, 1)  # 3 epochs in all
    other = build(resume="auto", running_id="a")
    other.fit(data()[0], epochs=5)
    assert other.progress.epoch == 5


def test_where_that_would_finish_another_fits_epoch_it_is_told() -> None:
    two_fits(build([StopAt(16)], resume="auto", running_id="a"))
    with pytest.warns(
        EngineWarning, match="within fit number 2 .* fit number 1, .* epochs=2 then, and for epochs=5 now"
    ):
        build(resume="auto", running_id="a").fit(data()[0], epochs=5)


def test_a_fit_that_failed_does_not_count_as_one() -> None:
    class Fail(Callback):
        fails = True

        def on_after_train_batch(self, trainer: Any, **batch: Any) -> None:
            if self.fails and trainer.progress.step == 5:
                self.fails = False
                raise RuntimeError("mine")

    trainer = build([Fail()], resume="auto", running_id="a")
    with pytest.raises(RuntimeError, match="mine"):
        fit(trainer)
    fit(trainer)
    assert len(trainer.state_dict()["fits"]) == 1
    assert fit(build(epochs=4, resume="auto", running_id="a")).progress.epoch == 4


class Interrupt(Callback):
    """Ctrl-C, as a notebook takes it, in the n-th call of an event."""

    def __init__(self, event: str, number: int) -> None:
        super().__init__()
        self.left = number
        setattr(self, f"on_{event}", self.interrupt)

    def interrupt(self, trainer: Any, **arguments: Any) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)


@pytest.mark.usefixtures("notebook")
@pytest.mark.parametrize("batches", [3, 9, 14])
def test_after_an_interruption_the_next_fit_on_the_same_data_goes_on_with_the_open_epoch(batches: int) -> None:
    whole = fit(build())
    trainer, (train, val) = build([Interrupt("after_train_batch", batches), Checkpoint()], running_id="a"), data()
    trainer.fit(train, val)
    torch.rand(3)
    history = trainer.fit(train, val)
    assert equal(whole, trainer)
    assert len(history["train"]["loss"]) == 3 - (batches > 7)
    assert len(trainer.state_dict()["fits"]) == 1
    assert equal(whole, fit(build(resume="auto", running_id="a")))


@pytest.mark.usefixtures("notebook")
def test_after_an_interruption_a_fit_on_other_data_says_that_it_begins_an_epoch() -> None:
    trainer = build([Interrupt("after_train_batch", 9), Checkpoint()])
    fit(trainer)
    with pytest.warns(EngineWarning, match="epoch 2 was left open .* other loaders"):
        fit(trainer)
    assert trainer.progress.epoch == 3


@pytest.mark.usefixtures("notebook")
def test_an_interruption_while_the_state_is_restored_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepepochs_like import trainer as module

    fit(build([StopAt(12)], resume="auto", running_id="a"))
    restore = module.restore_run

    def interrupted(trainer: Any) -> Any:
        opened = restore(trainer)
        os.kill(os.getpid(), signal.SIGINT)
        return opened

    trainer = build(seed=4, resume="auto", running_id="a")
    with monkeypatch.context() as patch:
        patch.setattr(module, "restore_run", interrupted)
        fit(trainer)
    fit(trainer)
    assert equal(fit(build()), trainer)


def test_fewer_epochs_than_are_done_are_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    cut = fit(build([StopAt(22)], resume="auto", running_id="a"))
    trainer = build(resume="auto", running_id="a", epochs=2)
    trainer.verbose = 1
    fit(trainer)
    assert "nothing to do: 2 epochs are done, and 2 were asked for" in capsys.readouterr().out
    assert same(weights(cut.model.model), weights(trainer.model.model))
    assert trainer.progress.epoch == 2
    assert equal(fit(build()), fit(build(resume="auto", running_id="a")))


def test_behind_fewer_epochs_than_are_done_the_open_one_can_be_gone_on_with() -> None:
    fit(build([StopAt(22)], resume="auto", running_id="a"))
    trainer, (train, val) = build(resume="auto", running_id="a", epochs=2), data()
    trainer.fit(train, val)
    trainer.fit(train, val, epochs=1)
    assert equal(fit(build()), trainer)


def test_validation_that_is_owed_at_the_last_step_is_done() -> None:
    def run(**options: Any) -> Trainer:
        return fit(build(options.pop("callbacks", []), **options), max_steps=8, val_every_steps=4)

    whole = run()
    run(callbacks=[StopAt(16)], resume="auto", running_id="a")
    resumed = run(resume="auto", running_id="a")
    assert equal(whole, resumed)
    assert len(resumed.history["val"]["loss"]) == 2


def test_another_learning_rate_than_the_run_began_with_is_told() -> None:
    def run(lr: float) -> Trainer:
        model = mlp()
        opt = torch.optim.SGD(model.parameters(), lr)
        schedule = Optimizer(opt, torch.optim.lr_scheduler.StepLR(opt, 1, 0.5))
        trainer = Trainer(model, F.cross_entropy, schedule, 2, "cpu", resume="auto", running_id="a", verbose=0)
        return fit(trainer)

    run(0.1)
    run(0.1)
    with pytest.warns(EngineWarning, match=r"optimizer '0' was made with lr=0.3; the run began with 0.1, and goes on"):
        run(0.3)


@pytest.mark.parametrize("batches", [2, 3, 8])
def test_an_accelerator_goes_on_within_its_accumulation(batches: int) -> None:
    accelerate = pytest.importorskip("accelerate")

    class Accumulating(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Any) -> None:
            with self.accelerator.accumulate(self.model.model):
                self.loss(self.model(*batch_x), batch_y)

    def run(*callbacks: Callback, **options: Any) -> list[Any]:
        accelerate.state.AcceleratorState._reset_state(True)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3)
        set_seed(0)
        model = mlp()
        model, opt = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        task = Accumulating(list(loader(0, 100, 16)))
        trainer = Trainer(model, F.cross_entropy, opt, 2, accelerator, callbacks=list(callbacks), verbose=0, **options)
        trainer.fit(train_tasks=task)
        return weights(model)

    whole = run()
    run(StopAt(batches), resume="auto", running_id="a")
    assert same(whole, run(resume="auto", running_id="a"))
    accelerate.state.AcceleratorState._reset_state(True)


@pytest.mark.parametrize("every", [9, None])
@pytest.mark.parametrize("cut", [3, 9, 20, 39])
def test_a_run_by_steps_counts_its_epochs_as_the_whole_run_does(cut: int, every: int | None) -> None:
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    data = list(zip(x.split(8), (x.sum(1) > 0).long().split(8), strict=True))

    class Told(Callback):
        def __init__(self) -> None:
            super().__init__()
            self.epochs = 0

        def on_before_fit(self, trainer: Any, epochs: int) -> None:
            self.epochs = epochs

    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.step == cut:
                trainer.stop()

    def make(*more: Callback) -> tuple[Trainer, Told]:
        model, told = nn.Linear(6, 2), Told()
        opt = torch.optim.SGD(model.parameters(), 0.1)
        return Trainer(model, F.cross_entropy, opt, 1, "cpu", [told, *more], verbose=0), told

    whole, told = make()
    whole.fit(data, data, max_steps=40, val_every_steps=every)
    first, _ = make(Stop())
    first.fit(data, data, max_steps=40, val_every_steps=every)
    second, again = make()
    second.load_state_dict(first.state_dict())
    second.fit(data, data, max_steps=40, val_every_steps=every)
    assert again.epochs == told.epochs == second.progress.epoch == whole.progress.epoch
