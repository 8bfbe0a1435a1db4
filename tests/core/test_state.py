"""`state_dict` holds all that a run needs: cut anywhere, it goes on to the same bits."""

from __future__ import annotations

import io
import multiprocessing
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset, WeightedRandomSampler

from deepepochs_like import Callback, EpochTask, Optimizer, StopLoopException, Trainer, ValuePatch, metrics
from deepepochs_like.errors import EngineWarning, StateError
from deepepochs_like.rng import rng_state
from support.digits import digits, loader, mlp, same, weights


class Counting(Callback):
    """A callback with a state: how many batches and epochs it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = self.epochs = 0

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.batches += 1

    def on_after_epoch(self, trainer: Any, **figures: Any) -> None:
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches, self.epochs = state_dict["batches"], state_dict["epochs"]


class CutAfter(Callback):
    """Stop after so many batches of training and validation, and keep the state, as a file would."""

    def __init__(self, batches: int) -> None:
        super().__init__(priority=-1)  # last of the after_* hooks: the others have seen the batch
        self.left, self.state = batches, b""

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.left -= 1
        if not self.left:
            buffer = io.BytesIO()
            torch.save(trainer.state_dict(), buffer)
            self.state = buffer.getvalue()
            trainer.stop("cut")

    def on_after_val_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.on_after_train_batch(trainer, metrics, batch_idx)


class Noisy(Dataset[Any]):
    """Digits with augmentation drawn from all three global generators."""

    def __init__(self, count: int) -> None:
        self.x, self.y = digits(count)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.rand(64) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return self.x[index] + noise, self.y[index]


def loaders(kind: str) -> tuple[Any, Any]:
    """A training and a validation loader of the kind."""
    x, y = digits(76)
    data, val = TensorDataset(x[:60], y[:60]), loader(60, 76, batch_size=8)
    own = torch.Generator().manual_seed(3)
    rows = TensorDataset(*[part.view(-1, 4, *part.shape[1:]) for part in (x[:60], y[:60])])
    return {
        "shuffled": lambda: DataLoader(data, 16, shuffle=True),
        "own generator": lambda: DataLoader(data, 16, shuffle=True, generator=own),
        "sampler's generator": lambda: DataLoader(data, 16, sampler=RandomSampler(data, generator=own)),
        "weighted": lambda: DataLoader(
            data, 16, sampler=WeightedRandomSampler(torch.arange(1.0, 61.0), 60), drop_last=True
        ),
        "augmented": lambda: DataLoader(Noisy(60), 16, shuffle=True),
        "no batches": lambda: DataLoader(rows, None, shuffle=True),
        "list": lambda: list(zip(x[:60].split(16), y[:60].split(16), strict=True)),
    }[kind](), val


def step(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> dict[str, Any]:
    logits = trainer.model(*batch_x)
    trainer.loss(logits, batch_y)
    return {"peak": ValuePatch(len(batch_y)).load(logits.max())}


def build(callbacks: list[Callback], accumulate: int, patch: str) -> Trainer:
    model = mlp(dropout=0.3)
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = Optimizer(opt, torch.optim.lr_scheduler.StepLR(opt, 3, 0.5), "step")
    return Trainer(
        model,
        F.cross_entropy,
        schedule,
        callbacks=callbacks,
        metrics=[metrics.accuracy],
        metric_patch=patch,
        accumulate=accumulate,
        verbose=0,
        device="cpu",
    )


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


KINDS = ["shuffled", "own generator", "sampler's generator", "weighted", "augmented", "no batches", "list"]


@settings(deadline=None, max_examples=60)
@given(
    cut=st.integers(1, 17),
    kind=st.sampled_from(KINDS),
    accumulate=st.sampled_from([1, 3]),
    patch=st.sampled_from(["tensor", "mean", "confusion"]),
    rounds=st.sampled_from([{"epochs": 3}, {"max_steps": 8, "val_every_steps": 3}]),
)
def test_a_run_cut_anywhere_and_resumed_equals_one_that_was_not(
    cut: int, kind: str, accumulate: int, patch: str, rounds: dict[str, int]
) -> None:
    seed_all(1)
    whole = build([Counting()], accumulate, patch)
    seed_all(2)
    expected = whole.fit(*loaders(kind), step=step, **rounds)
    generators = rng_state()

    seed_all(1)
    knife = CutAfter(cut)
    first = build([Counting(), knife], accumulate, patch)
    seed_all(2)
    first.fit(*loaders(kind), step=step, **rounds)
    if not knife.state:  # the run was shorter than the cut
        return
    seed_all(1)
    second = build([Counting()], accumulate, patch)
    seed_all(9)
    train, val = loaders(kind)
    seed_all(10)  # whatever is drawn before a resume must not matter
    second.load_state_dict(torch.load(io.BytesIO(knife.state), weights_only=True))
    history = second.fit(train, val, step=step, **rounds)
    assert _numbers(rng_state()) == _numbers(generators)

    assert same(weights(whole.model.model), weights(second.model.model))
    assert _numbers(whole.opt.state_dict()) == _numbers(second.opt.state_dict())
    assert history.state_dict() == expected.state_dict()
    assert second.history.state_dict() == whole.history.state_dict()
    assert second.progress == whole.progress
    assert second.callbacks[0].state_dict() == whole.callbacks[0].state_dict()


def _numbers(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    return [_numbers(v) for v in value] if isinstance(value, (list, tuple)) else value


def test_two_tasks_cut_in_the_second_go_on_there() -> None:
    def tasks() -> dict[str, Any]:
        return {
            "train_tasks": [EpochTask(loader(0, 40, 16, shuffle=True), name="a."), EpochTask(loader(40, 90, 16))],
            "val_tasks": [EpochTask(loader(90, 100, 8), name="a."), EpochTask(loader(100, 120, 8))],
        }

    results = []
    for cut in (None, 5, 8, 9):
        seed_all(1)
        knife = CutAfter(cut or 999)
        trainer = build([Counting(), knife], 1, "mean")
        seed_all(2)
        trainer.fit(**tasks(), epochs=2)
        if cut is not None:
            trainer = build([Counting()], 1, "mean")
            trainer.load_state_dict(torch.load(io.BytesIO(knife.state), weights_only=True))
            trainer.fit(**tasks(), epochs=2)
        results.append((weights(trainer.model.model), trainer.history.state_dict(), trainer.callbacks[0].state_dict()))
    for cut_run in results[1:]:
        assert same(cut_run[0], results[0][0])
        assert cut_run[1:] == results[0][1:]


EVENTS_TO_CUT_IN = [
    *("before_epoch", "before_train_epochs", "before_train_epoch", "after_train_epoch", "after_train_epochs"),
    *("before_val_epochs", "before_val_epoch", "after_val_epoch", "after_val_epochs", "after_epoch", "on_checkpoint"),
]


@pytest.mark.parametrize("way", ["save", "stop", "raise"])
@pytest.mark.parametrize("event", EVENTS_TO_CUT_IN)
def test_a_run_cut_between_two_batches_in_any_hook_goes_on_to_the_same_bits(event: str, way: str) -> None:
    states: list[bytes] = []

    class Knife(Callback):
        calls = 0

        def cut(self, trainer: Any, **arguments: Any) -> None:
            self.calls += 1
            if self.calls != 2:
                return
            if way == "save":
                states.append(_saved(trainer).getvalue())
            elif way == "stop":
                trainer.stop("cut")
            else:
                raise StopLoopException("cut")

    def run(callbacks: list[Callback], state: bytes = b"") -> Trainer:
        seed_all(1)
        trainer = build(callbacks, 1, "tensor")
        opt = trainer.opt[0].opt
        trainer.opt[0].scheduler, trainer.opt[0].sched_on = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5), "epoch"
        trainer.opt.by_step.clear()
        seed_all(2)
        train, val = loaders("own generator")
        if state:
            trainer.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
            again = torch.load(_saved(trainer), weights_only=True)
            assert _numbers(again["open"]) == _numbers(torch.load(io.BytesIO(state), weights_only=True)["open"])
        trainer.fit(train, val, epochs=3)
        return trainer

    knife = Knife()
    setattr(knife, event if event.startswith("on_") else f"on_{event}", knife.cut)
    cut = run([knife])
    state = states[0] if states else _saved(cut).getvalue()
    whole, resumed = run([]), run([], state)
    assert same(weights(whole.model.model), weights(resumed.model.model))
    assert whole.opt.get_current_lr() == resumed.opt.get_current_lr()
    assert whole.history.state_dict() == resumed.history.state_dict()


def test_a_stage_that_is_new_in_a_resumed_run_begins_anew() -> None:
    first = build([], 1, "mean")
    first.fit(loader(0, 60), epochs=1)
    second = build([], 1, "mean")
    second.load_state_dict(torch.load(_saved(first), weights_only=True))
    assert len(second.fit(loader(0, 60), loader(60, 80), epochs=2)["val"]["loss"]) == 1


def test_a_state_of_another_optimizer_is_refused() -> None:
    state = build([], 1, "mean").state_dict()
    model = mlp(dropout=0.3)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    schedule = Optimizer(sgd, torch.optim.lr_scheduler.StepLR(sgd, 3, 0.5), "step")
    with pytest.raises(StateError, match="another kind of optimizer"):
        Trainer(model, F.cross_entropy, schedule, verbose=0, device="cpu").load_state_dict(state)


def test_workers_and_outputs_do_not_outlive_a_run() -> None:
    trainer = build([CutAfter(2)], 1, "tensor")
    trainer.fit(DataLoader(Noisy(60), 16, num_workers=2), epochs=1)
    assert not multiprocessing.active_children()
    assert trainer.state_dict()["open"]["batch"] == 2
    trainer.fit(loader(0, 60), epochs=1)
    slots = [slot for task in trainer.stage_tasks["train"] for slot in task._bound["train"].slots]
    assert [slot.patch.leaves() for slot in slots] == [[]]


def test_a_finished_run_resumed_does_nothing_and_with_more_epochs_equals_a_longer_run() -> None:
    def run(trainer: Trainer, epochs: int) -> Trainer:
        trainer.fit(loader(0, 60, shuffle=True), loader(60, 80), epochs=epochs)
        return trainer

    seed_all(0)
    longer = run(build([], 1, "mean"), 4)
    seed_all(0)
    shorter = run(build([], 1, "mean"), 2)
    state = torch.load(_saved(shorter), weights_only=True)
    finished = build([], 1, "mean")
    finished.load_state_dict(state)
    run(finished, 2)
    assert same(weights(finished.model.model), weights(shorter.model.model))
    assert finished.history.state_dict() == shorter.history.state_dict()
    more = build([], 1, "mean")
    more.load_state_dict(state)
    run(more, 4)
    assert same(weights(more.model.model), weights(longer.model.model))
    assert more.history.state_dict() == longer.history.state_dict()


def test_a_second_fit_in_one_process_equals_one_long_fit() -> None:
    long, short = build([], 1, "mean"), build([], 1, "mean")
    seed_all(0)
    long.fit(loader(0, 60, shuffle=True), loader(60, 80), epochs=3)
    seed_all(0)
    train, val = loader(0, 60, shuffle=True), loader(60, 80)
    first, second = short.fit(train, val, epochs=1), short.fit(train, val, epochs=2)
    assert same(weights(long.model.model), weights(short.model.model))
    assert [len(part["train"]["loss"]) for part in (first, second)] == [1, 2]
    assert short.history.state_dict() == long.history.state_dict()


def test_state_that_does_not_fit_is_refused_by_name_and_nothing_changes() -> None:
    donor = build([Counting()], 1, "mean")
    donor.fit(loader(0, 40), epochs=1)
    state = donor.state_dict()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"format": 99}, "format 99"),
        ({"models": {"model": {k: v for k, v in state["models"]["model"].items() if k != "0.bias"}}}, "0.bias"),
        ({"models": {"model": {**state["models"]["model"], "0.bias": torch.zeros(3)}}}, "0.bias"),
        ({"models": {"other": state["models"]["model"]}}, "other"),
        ({"optimizers": {}}, "optimizers"),
        ({"callbacks": {"Unknown": {"a": 1}}}, "Unknown"),
        ({"window": {"batches": 1, "total": 1.0, "first": 1, "gradients": {}}}, "accumulate"),
    ]
    for change, named in cases:
        trainer = build([Counting()], 1, "mean")
        before, progress = weights(trainer.model.model), str(trainer.progress)
        with pytest.raises(StateError, match=named):
            trainer.load_state_dict({**state, **change})
        assert same(before, weights(trainer.model.model))
        assert str(trainer.progress) == progress
        assert trainer.pending is None


def test_an_iterator_that_cannot_be_positioned_says_so_by_name() -> None:
    x, y = digits(64)

    class Stream:
        def __iter__(self) -> Any:
            return zip(x.split(8), y.split(8), strict=True)

    knife = CutAfter(3)
    first = build([knife], 1, "mean")
    first.fit(Stream(), epochs=1)
    second = build([], 1, "mean")
    second.load_state_dict(torch.load(io.BytesIO(knife.state), weights_only=True))
    with pytest.warns(EngineWarning, match=r"train_dl \(Stream\) cannot be positioned"):
        second.fit(Stream(), epochs=1)
    whole = build([], 1, "mean")
    whole.load_state_dict(build([], 1, "mean").state_dict())
    assert second.progress.step == 8


def test_a_skipped_sample_is_not_loaded() -> None:
    class Watched(Noisy):
        def __init__(self, count: int) -> None:
            super().__init__(count)
            self.seen: list[int] = []

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            self.seen.append(index)
            return super().__getitem__(index)

    knife, data = CutAfter(3), Watched(64)
    seed_all(0)
    first = build([knife], 1, "mean")
    first.fit(DataLoader(data, 8, shuffle=True), epochs=1)
    before, data.seen = data.seen, []
    second = build([], 1, "mean")
    second.load_state_dict(torch.load(io.BytesIO(knife.state), weights_only=True))
    second.fit(DataLoader(data, 8, shuffle=True), epochs=1)
    assert len(before) == 24
    assert sorted(before + data.seen) == list(range(64))


def test_two_callbacks_of_one_class_keep_their_own_states() -> None:
    trainer = build([Counting(), Counting()], 1, "mean")
    trainer.fit(loader(0, 40), epochs=1)
    assert set(trainer.state_dict()["callbacks"]) >= {"Counting", "Counting#2"}


def _saved(trainer: Trainer) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(trainer.state_dict(), buffer)
    buffer.seek(0)
    return buffer
