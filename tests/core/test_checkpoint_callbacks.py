"""The callbacks that keep checkpoints: when they save, several in one run, and what they say of what is wrong."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from deepepochs_like import (
    Callback,
    CheckCallback,
    Checkpoint,
    CheckpointStore,
    EarlyStopping,
    GradClip,
    Optimizer,
    Timer,
    Trainer,
)
from deepepochs_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    EngineWarning,
    HookError,
    RunLockedError,
    StateError,
    UnknownFigureError,
)
from deepepochs_like.rng import set_seed
from support.digits import loader, mlp, same, weights


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def accuracy(outputs: Any, targets: Any) -> Any:
    return (outputs.argmax(1) == targets).float().mean()


def build(*callbacks: Callback, loss: Any = F.cross_entropy, model: Any = None, **options: Any) -> Trainer:
    set_seed(0)
    model = mlp(dropout=0.3) if model is None else model
    parts = [*model.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    options = {"epochs": 3, "running_id": "a", "metrics": [accuracy], "device": "cpu", "verbose": 0, **options}
    return Trainer(model, loss, torch.optim.Adam(parts, lr=0.02), callbacks=list(callbacks), **options)


def train_dl() -> Any:
    return loader(0, 60, batch_size=16, shuffle=True)


def val_dl() -> Any:
    return loader(60, 100, batch_size=16)


def fit(*callbacks: Callback, **options: Any) -> Trainer:
    trainer = build(*callbacks, **options)
    trainer.fit(train_dl(), val_dl())
    return trainer


def files(folder: str = "logs/a/checkpoints") -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*.ckpt*"))


# ------------------------------------------------------------------------------------------- evaluations within a run


class Look(Callback):
    """Validate behind the third batch of an epoch; the time for a save comes meanwhile."""

    def __init__(self, save: Any = None) -> None:
        super().__init__()
        self.save = save

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            trainer.validate(val_dl())

    def on_after_val_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.running == "val":
            if self.save:
                self.save(trainer)
            for keeper in trainer.callbacks:
                if isinstance(keeper, Checkpoint):
                    keeper._next_time = 0.0


class KilledIn(Callback):
    def on_before_val_epochs(self, trainer: Any, epoch_idx: int = -1, **given: Any) -> None:
        if epoch_idx == 1 and trainer.running == "fit":
            raise KeyboardInterrupt


def test_a_save_that_comes_due_in_a_validation_within_a_fit_is_one_of_the_fit() -> None:
    saved: list[str] = []

    class Heard(Callback):
        def on_checkpoint(self, trainer: Any) -> None:
            saved.append(trainer.running)

    whole = fit(Look(), Heard(), resume="auto", running_id="whole")
    with pytest.raises(KeyboardInterrupt):
        fit(Look(), Heard(), KilledIn(), resume="auto")
    assert set(saved) == {"fit"}
    assert len(saved) > 3, "at the end of three epochs, and within"
    resumed = fit(Look(), Heard(), resume="auto")
    assert same(weights(whole.model.model), weights(resumed.model.model))
    assert whole.history == resumed.history


def test_what_is_due_by_the_clock_is_not_saved_by_a_validation_after_the_run() -> None:
    heard: list[str] = []

    class Heard(Callback):
        def on_checkpoint(self, trainer: Any) -> None:
            heard.append(trainer.running)

    trainer = fit(Heard(), Checkpoint(every_minutes=1e-9, every_steps=1))
    count = len(heard)
    trainer.validate(val_dl())
    assert len(heard) == count


@pytest.mark.parametrize("save", [lambda t: t.save_checkpoint("mine.ckpt"), lambda t: t.state_dict()])
def test_within_an_evaluation_there_is_no_state_to_save(save: Any) -> None:
    with pytest.raises(StateError, match=r"within validate\(\) there is no state"):
        fit(Look(save))
    assert not Path("mine.ckpt").exists()


# ---------------------------------------------------------------------------------------------------- best, and looks


class WeightedLoss(nn.Module):
    """A loss with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(10, 10)

    def forward(self, outputs: Any, targets: Any) -> Any:
        return F.cross_entropy(self.head(outputs), targets)


def test_the_best_weights_are_those_of_the_loss_too() -> None:
    trainer = fit(Checkpoint("val/loss"), loss=WeightedLoss(), epochs=8)
    best = min(trainer.history["val"]["loss"])
    assert trainer.validate(val_dl(), weights="best")["loss"] == best
    last = trainer.validate(val_dl(), weights="last")["loss"]
    assert last == trainer.history["val"]["loss"][-1]


@pytest.mark.parametrize("loss", [lambda: F.cross_entropy, WeightedLoss])
@pytest.mark.parametrize("resume", [False, "auto"])
def test_a_look_at_the_best_weights_makes_no_difference_to_the_next_fit(loss: Any, resume: Any) -> None:
    def run(weights: Any) -> Trainer:
        torch.manual_seed(3)
        # With a memory of its own the model's order of batches depends on no other loader's.
        own = torch.Generator().manual_seed(7)
        trainer = build(Checkpoint("val/loss"), loss=loss(), resume=resume, running_id=f"by-{weights}")
        data = loader(0, 60, batch_size=16, shuffle=True, generator=own), val_dl()
        trainer.fit(*data)
        trainer.test(val_dl(), weights=weights)
        trainer.fit(*data, epochs=4)
        return trainer

    looked, not_looked = run("best"), run(None)
    assert same(weights(looked.model.model), weights(not_looked.model.model))
    assert looked.history == not_looked.history


def test_a_loss_that_does_not_fit_leaves_model_and_loss_as_they_were() -> None:
    class Other(WeightedLoss):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

    fit(Checkpoint("val/loss"), loss=WeightedLoss())
    other = build(Checkpoint("val/loss"), loss=Other())
    before = weights(other.model.model), weights(other.loss.function)
    with pytest.raises(StateError, match="loss: missing bias"):
        other.test(val_dl(), weights="best")
    assert same(before[0], weights(other.model.model))
    assert same(before[1], weights(other.loss.function))


# ------------------------------------------------------------------------------------------------- several in one run


def test_two_keep_the_best_of_two_figures() -> None:
    both = Checkpoint("val/loss"), Checkpoint("val/accuracy", keep_best=2)
    trainer = fit(*both, epochs=8)
    losses, hits = ([float(v) for v in trainer.history["val"][name]] for name in ("loss", "accuracy"))
    for monitor, best in (("val/loss", min(losses)), ("val/accuracy", max(hits))):
        store = CheckpointStore("logs/a/checkpoints", monitor=monitor, mode="min" if monitor == "val/loss" else "max")
        found = store.best()
        assert found is not None
        assert found.figures[monitor] == best
    assert trainer.validate(val_dl(), weights="best")["loss"] == min(losses)
    ranked = sorted(range(8), key=lambda epoch: (-hits[epoch], epoch))
    kept = {7, 6, *ranked[:2], losses.index(min(losses))}
    assert files() == [f"step-{4 * (epoch + 1):012}.ckpt" for epoch in sorted(kept)]


def test_two_save_an_epoch_once_and_both_can_be_gone_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = CheckpointStore.save

    def counted(self: Any, things: Any, step: int, *rest: Any) -> Any:
        saved.append(step)
        return save(self, things, step, *rest)

    monkeypatch.setattr(CheckpointStore, "save", counted)

    def both() -> tuple[Checkpoint, Checkpoint]:
        return Checkpoint("val/loss"), Checkpoint(lambda figures: figures["val/accuracy"], "max")

    whole = fit(*both(), resume="auto", running_id="whole", epochs=4)
    assert saved == [4, 8, 12, 16]
    fit(*both(), resume="auto", epochs=2)
    resumed = fit(*both(), resume="auto", epochs=4)
    assert same(weights(whole.model.model), weights(resumed.model.model))


def test_the_folder_is_free_again_after_a_run_with_two() -> None:
    fit(Checkpoint("val/loss"), CheckCallback("accuracy", mode="max"), epochs=1)
    fit(Checkpoint("val/loss"), CheckCallback("accuracy", mode="max"), resume="auto")


# ------------------------------------------------------------------------------------------------------ CheckCallback


def test_check_callback_tests_the_weights_as_they_are_where_there_is_no_best() -> None:
    trainer = build(CheckCallback("loss"))
    trainer.fit(train_dl(), val_dl(), val_freq=5)
    before = weights(trainer.model.model)
    with pytest.warns(EngineWarning, match="no checkpoint has the figure 'val/loss' yet") as told:
        trainer.test(val_dl())
    assert told[0].filename == __file__
    assert same(before, weights(trainer.model.model))


def test_check_callback_without_best_keeps_the_last_and_tests_that() -> None:
    trainer = fit(CheckCallback("loss", save_best=False), epochs=8)
    assert files() == ["step-000000000028.ckpt", "step-000000000032.ckpt"]
    last = weights(trainer.model.model)
    fresh = build(CheckCallback("loss", save_best=False), model=mlp(dropout=0.3))
    fresh.test(val_dl())
    assert same(last, weights(fresh.model.model))


# -------------------------------------------------------------------------------------------------- lock, place, files


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_gives_the_lock_back() -> None:
    trainer = build(Checkpoint())
    trainer.fit(train_dl())
    with pytest.raises(EngineWarning, match="nothing to do"):
        trainer.fit(train_dl())
    trainer.fit(train_dl(), epochs=1)
    assert trainer.progress.epoch == 4


def test_a_run_stays_where_it_began_when_the_process_goes_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    class Go(Callback):
        def on_before_epoch(self, trainer: Any, **given: Any) -> None:
            os.chdir(elsewhere)

    trainer = fit(Go(), CheckCallback("loss", ckpt_dir="runs"))
    best = min(trainer.history["val"]["loss"])
    assert trainer.validate(val_dl(), weights="best")["loss"] == best
    trainer.test(val_dl())
    trainer.fit(train_dl(), val_dl(), epochs=1)
    assert not list(elsewhere.iterdir())
    assert len(files(str(tmp_path / "runs/a/checkpoints"))) >= 2


def test_a_file_stop_that_lies_there_since_the_last_run_is_not_for_this_one() -> None:
    fit(Checkpoint())
    Path("logs/a/STOP").touch()
    trainer = fit(resume="auto", epochs=5)
    assert trainer.progress.epoch == 5
    assert not Path("logs/a/STOP").exists()


def test_figures_that_are_arrays_stay_of_their_kind() -> None:
    trainer = build(Checkpoint(), metrics=[])
    trainer.fit(train_dl())
    trainer.history.record("train", 3, {"loss": np.float32(0.1), "counts": np.arange(3, dtype=np.float32)})
    trainer.history.record("train", 4, {"counts": np.ones((2, 2), dtype=np.int64), "loss": 0.5})
    state = trainer.history.state_dict()
    other = build()
    other.history.load_state_dict(state)
    again = other.history["train"]
    assert [v.dtype for v in again["counts"]] == [np.float32, np.int64]
    assert [np.asarray(v).dtype for v in again["loss"]] == [np.float64] * 3 + [np.float32, np.float64]
    assert all(np.array_equal(a, b) for a, b in zip(trainer.history["train"]["counts"], again["counts"], strict=True))
    assert other.history.state_dict() == state


# ----------------------------------------------------------------------------------------------------------- messages


def test_a_misspelt_figure_is_asked_back() -> None:
    with pytest.raises(ArgumentError, match=r"did you mean 'val/accuracy'\? If not, pass mode="):
        Checkpoint("val/acuracy")
    with pytest.raises(ArgumentError, match=r"does not say what is better; pass mode="):
        EarlyStopping("val/dist")


def test_a_figure_that_no_epoch_yields_is_refused_after_the_first_epoch_by_its_number() -> None:
    class Own(Callback):
        """It may add figures."""

    with pytest.raises(UnknownFigureError, match="did you mean 'val/accuracy'") as caught:
        fit(Checkpoint("val/acuracy", "max"), Own())
    assert "epoch 1" in caught.value.__notes__[0]


@pytest.mark.parametrize("watch", [Checkpoint, EarlyStopping])
@pytest.mark.parametrize("slip", ["acuracy", "acurracy", "accuarcy"])
def test_a_slip_in_a_figure_s_name_is_refused_before_the_first_batch(watch: Any, slip: str) -> None:
    def nothing(batch: Any) -> Any:
        raise AssertionError("a batch was loaded")

    wrong = (
        rf"'val/{slip}': no epoch yields this figure; did you mean 'val/accuracy'\?; there are train/loss, train/acc"
    )
    untouched = DataLoader(TensorDataset(torch.zeros(8, 64)), 4, collate_fn=nothing)
    with pytest.raises(UnknownFigureError, match=wrong):
        build(watch(f"val/{slip}", mode="max"), GradClip(1.0)).fit(untouched, untouched)
    with pytest.raises(UnknownFigureError, match=r"'val/loss': .* there are train/loss, train/accuracy, val/accuracy"):
        build(watch("val/loss")).fit(untouched, untouched, do_val_loss=False)


def test_a_name_that_may_be_a_figure_of_its_own_is_refused_after_the_first_epoch() -> None:
    wrong = r"'val/acc': no epoch yields this figure; did you mean 'val/accuracy'\?; there are train/loss, train/acc"
    with pytest.raises(UnknownFigureError, match=wrong) as caught:
        fit(Checkpoint("val/acc", "max"))
    assert "epoch 1" in caught.value.__notes__[0]


class Reports(nn.Module):
    """A model that gives a figure of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.trainer = mlp(), [None]

    def forward(self, x: torch.Tensor) -> Any:
        trainer: Any = self.trainer[0]
        trainer.add_figure("extra", 1.0)
        return self.net(x)


def cache_nothing(function: Any) -> Any:
    """A function of the standard library's around another."""
    return functools.lru_cache(maxsize=0)(function)


def helper(trainer: Trainer) -> None:
    trainer.add_figure("extra", 1.0)


@pytest.mark.parametrize("who", ["loss", "decorated", "model", "hook", "metric", "dict", "clip", "timer", "step"])
def test_a_figure_that_the_run_may_still_yield_is_waited_for(who: str) -> None:
    told: list[Trainer] = []

    def loss(preds: Any, targets: Any) -> Any:
        helper(told[0])
        return F.cross_entropy(preds, targets)

    def judge(preds: Any, targets: Any) -> float:
        if told[0].current_task is not None and not told[0].current_task.figures.released:
            helper(told[0])
        return 1.0

    def in_parts(preds: Any, targets: Any) -> dict[str, float]:
        return {"/one": 1.0}

    def step(trainer: Trainer, batch_x: Any, batch_y: Any) -> Any:
        trainer.loss(trainer.model(batch_x), batch_y)
        helper(trainer)

    figure = {"dict": "in_parts/one", "clip": "grad_norm", "timer": "time.data"}.get(who, "extra")
    model = Reports() if who == "model" else mlp()
    if who == "hook":
        model.register_forward_hook(lambda *call: helper(told[0]))
    others: list[Any] = {"clip": [GradClip(1.0)], "timer": [Timer(None, figures=True)]}.get(who, [])
    kept = {"metric": judge, "dict": in_parts}.get(who)
    trainer = Trainer(
        model,
        {"loss": loss, "decorated": cache_nothing(loss)}.get(who, F.cross_entropy),
        epochs=1,
        metrics=kept,
        metric_patch="mean",
        callbacks=[EarlyStopping(f"train/{figure}", mode="min"), *others],
        device="cpu",
        verbose=0,
    )
    told.append(trainer)
    if isinstance(model, Reports):
        model.trainer[0] = trainer
    history = trainer.fit(train_dl(), step=step if who == "step" else None)
    assert figure in history["train"]


@pytest.mark.parametrize("who", ["gradient", "size", "loader", "collate", "schedule", "loss"])
@pytest.mark.parametrize("name", ["extra", "losses", "acuracy5"])
def test_a_figure_that_code_around_the_run_adds_is_waited_for(
    who: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add() -> None:
        if told[0].running and told[0].current_task is not None:
            told[0].add_figure(name, 1.0)

    def rate(step: int) -> float:
        if told:
            add()
        return 1.0

    def size(batch_x: Any, batch_y: Any) -> int:
        add()
        return len(batch_y)

    def collate(samples: Any) -> Any:
        add()
        return default_collate(samples)

    class Adding:
        def __iter__(self) -> Any:
            for batch in train_dl():
                add()
                yield batch

        def __len__(self) -> int:
            return len(train_dl())

    class Installed(nn.CrossEntropyLoss):
        """One of a package."""

        def forward(self, preds: Any, targets: Any) -> Any:
            add()
            return super().forward(preds, targets)

    told: list[Trainer] = []
    monkeypatch.setattr(Installed, "__module__", "some_package.losses")
    model, data = mlp(), train_dl()
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    schedule = Optimizer(sgd, torch.optim.lr_scheduler.LambdaLR(sgd, rate), sched_on="step")
    trainer = Trainer(
        model,
        Installed() if who == "loss" else F.cross_entropy,
        schedule if who == "schedule" else sgd,
        epochs=1,
        callbacks=[EarlyStopping(f"train/{name}", mode="min")],
        device="cpu",
        verbose=0,
    )
    told.append(trainer)
    if who == "gradient":
        next(model.parameters()).register_hook(lambda gradient: add())
    loaders = {"loader": Adding(), "collate": DataLoader(data.dataset, 8, collate_fn=collate)}
    history = trainer.fit(loaders.get(who, data), batch_size=size if who == "size" else None)
    assert history["train"][name][-1] == 1.0


def test_a_function_that_raises_a_bare_key_error_is_named() -> None:
    def mine(figures: Any) -> float:
        raise KeyError

    with pytest.raises(UnknownFigureError, match=r"monitor=mine: the function raised a KeyError; there are train/loss"):
        fit(Checkpoint(mine, "max"))


@pytest.mark.parametrize("answer", [None, "good", [1, 2]])
def test_a_function_that_returns_no_number_is_named(answer: Any) -> None:
    def mine(figures: Any) -> Any:
        return answer

    with pytest.raises(ArgumentTypeError, match=r"monitor=mine: the function returned .*; a number is needed"):
        fit(Checkpoint(mine, "max"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Checkpoint(kep_last=3), r"Checkpoint takes no argument 'kep_last'; did you mean 'keep_last'"),
        (lambda: EarlyStopping(patienc=3), r"EarlyStopping takes no argument 'patienc'; did you mean 'patience'"),
        (
            lambda: CheckCallback("loss", patince=3),
            r"CheckCallback takes no argument 'patince'; did you mean 'patience'",
        ),
        (lambda: CheckpointStore("x", keep_lats=3), r"CheckpointStore takes no argument 'keep_lats'; did you mean"),
    ],
)
def test_a_misspelt_keyword_is_asked_back(make: Any, said: str) -> None:
    with pytest.raises(ArgumentTypeError, match=said):
        make()


def test_a_misspelt_resume_is_asked_back() -> None:
    with pytest.raises(CheckpointError, match="did you mean 'auto'"):
        fit(resume="atuo")


def test_the_lock_says_what_to_do() -> None:
    class Second(Callback):
        def on_after_epoch(self, trainer: Any, **figures: Any) -> None:
            with pytest.raises(RunLockedError, match="another running_id"):
                fit(resume="auto")

    fit(Second(), resume="auto", epochs=1)


def test_a_run_of_another_model_says_what_to_do() -> None:
    fit(Checkpoint())
    other = nn.Sequential(nn.Linear(64, 3), nn.Linear(3, 10))
    with pytest.raises(StateError) as caught:
        fit(resume="auto", model=other)
    path = next(iter(Path("logs/a/checkpoints").glob("*12.ckpt"))).absolute()
    notes = " ".join(caught.value.__notes__)
    assert "take another running_id" in notes
    assert f"load_weights({str(path)!r}, strict=False)" in notes
    assert len(caught.value.__notes__) == 2


def test_a_callback_of_the_run_that_is_missing_says_what_to_do() -> None:
    fit(EarlyStopping(), Checkpoint())
    with pytest.raises(StateError, match="EarlyStopping") as caught:
        fit(resume="auto")
    assert "build the trainer as it was, with its model, optimizer and callbacks" in caught.value.__notes__[0]


def test_where_all_is_damaged_it_says_what_to_do() -> None:
    fit(Checkpoint())
    for path in Path("logs/a/checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-9])
    for resume in ("auto", True):
        with pytest.raises(CheckpointError, match="put a good copy of one there, or move the folder away"):
            fit(resume=resume)


def test_auto_does_not_begin_anew_over_a_run_of_deepepochs() -> None:
    Path("logs/a").mkdir(parents=True)
    Path("logs/a/checkpoint-x.ckpt").write_bytes(b"old")
    with pytest.raises(CheckpointError, match=r"trainer\.load_checkpoint\('.*checkpoint-x\.ckpt'\)"):
        fit(resume="auto")
    assert not Path("logs/a/checkpoints").exists()


class Saves(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"x": 1}


class Loads(Callback):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing over."""


@pytest.mark.parametrize(("kind", "lacks"), [(Saves, "no load_state_dict"), (Loads, "no state_dict")])
def test_a_state_that_goes_one_way_only_is_refused_when_attached(kind: type[Callback], lacks: str) -> None:
    with pytest.raises(HookError, match=f"{kind.__name__} has .*{lacks}"):
        build(kind())


def test_one_half_of_a_state_may_be_inherited() -> None:
    class More(EarlyStopping):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "more": 1}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(More(), epochs=1)
