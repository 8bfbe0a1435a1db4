"""Bad input is refused by name: before the first batch where it can be known then, else before any weight changes."""

from __future__ import annotations

import copy
import gc
import inspect
import operator
import pickle
import re
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import deepepochs_like
import deepepochs_like.idle as idle
from deepepochs_like import (
    Callback,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    EpochTask,
    MeanPatch,
    Optimizer,
    TensorBoard,
    Trainer,
    ValuePatch,
)
from deepepochs_like.errors import (
    _CALLED_ELSEWHERE,
    _GOES_ELSEWHERE,
    ArgumentError,
    ArgumentTypeError,
    BatchError,
    CheckpointError,
    EngineError,
    EngineWarning,
    LoaderError,
    LossError,
    MetricError,
    NonFiniteLossError,
    PatchError,
    StepError,
    UnknownFigureError,
    UnknownNameError,
    a_kind,
)
from deepepochs_like.history import History
from deepepochs_like.idle import FIX
from support.loop import CountedLoader, Recorder, batches, net, trainer, unchanged, weights

mse = nn.functional.mse_loss


class Run:
    """A model, a loader that counts what it gives, and assertions about both."""

    def __init__(self, model: nn.Module | None = None, loader: Any = None) -> None:
        self.model = net() if model is None else model
        self.before = weights(self.model)
        self.loader = CountedLoader(batches(3)) if loader is None else loader

    def refuses(self, kind: type[Exception], call: Callable[[], Any], *parts: str) -> str:
        """Assert that `call` raises `kind`, that the message has all parts, and that no weight has changed."""
        with pytest.raises(kind) as caught:
            call()
        assert isinstance(caught.value, EngineError)
        for part in parts:
            assert part in str(caught.value)
        assert unchanged(self.model, self.before), "weights were changed before the error"
        return str(caught.value)

    def refuses_at_once(self, kind: type[Exception], call: Callable[[], Any], *parts: str) -> None:
        """As `refuses`, and not a batch was loaded."""
        self.refuses(kind, call, *parts)
        assert self.loader.given == 0, "a batch was loaded before the error"


@pytest.fixture
def run() -> Run:
    return Run()


# --------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize(
    ("model", "kind", "parts"),
    [
        (nn.Linear, ArgumentTypeError, ["model=Linear: this is a class; pass an instance, Linear(...)"]),
        (mse, ArgumentTypeError, ["model=<function mse_loss", "a torch.nn.Module is needed, not a function"]),
        (None, ArgumentTypeError, ["model=None", "not a NoneType"]),
        ("resnet18", ArgumentTypeError, ["model='resnet18'", "not a str"]),
        ([net()], ArgumentTypeError, ["model=[Linear", "not a list"]),
        ({"g": net(), "d": mse}, ArgumentTypeError, ["model['d']=<function mse_loss", "not a function"]),
        ({"g": nn.Linear}, ArgumentTypeError, ["model['g']=Linear: this is a class"]),
        ({1: net()}, ArgumentTypeError, ["key 1", "strings"]),
        ({}, ArgumentError, ["model is an empty dict", "at least one module"]),
        ({"a.b": net()}, ArgumentError, ["key 'a.b'", "choose another"]),
        ({"": net()}, ArgumentError, ["key ''", "choose another"]),
        ({"a": net(), "keys": net()}, ArgumentError, ["key 'keys'", "choose another"]),
    ],
)
def test_a_model_that_is_no_module(model: Any, kind: type[Exception], parts: list[str]) -> None:
    Run().refuses(kind, lambda: Trainer(model, mse, verbose=0), *parts)


def test_a_model_without_anything_to_train() -> None:
    frozen = net().requires_grad_(False)
    Run(frozen).refuses(
        ArgumentError,
        lambda: Trainer(frozen, mse, device="cpu", verbose=0).fit(batches(1), epochs=1),
        "no parameter that requires a gradient",
    )


def test_several_models_have_no_default_step(run: Run) -> None:
    several = Trainer({"g": run.model, "d": net()}, mse, device="cpu", verbose=0)
    parts = ("several models (g, d)", "no default train step", "step=")
    run.refuses_at_once(ArgumentError, lambda: several.fit(run.loader, epochs=1), *parts)
    run.refuses_at_once(ArgumentError, lambda: several.test(run.loader), "no default test step")

    def step(trainer: Trainer, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.models["g"](*batch_x), batch_y)

    assert len(several.fit(run.loader, epochs=1, step=step)["train"]["loss"]) == 1


# --------------------------------------------------------------------------------------------- optimizer and loss


def test_an_optimizer_that_holds_none_of_the_models_parameters(run: Run) -> None:
    other = torch.optim.SGD(net().parameters(), lr=0.1)
    run.refuses(
        ArgumentError,
        lambda: trainer(run.model, opt=other),
        "opt holds none of the model's parameters",
        "opt=torch.optim.Adam(model.parameters())",
    )


def test_an_optimizer_that_leaves_trainable_parameters_out() -> None:
    model = net()
    with pytest.warns(
        EngineWarning, match=r"opt leaves 1 trainable parameters out: bias; they will not be trained"
    ) as told:
        trainer(model, opt=torch.optim.SGD([model.weight], lr=0.1))
    assert len(told) == 1
    assert "requires_grad_(False)" in str(told[0].message)


def test_many_parameters_left_out_are_counted_and_the_first_named() -> None:
    model = nn.Sequential(*[net(2) for _ in range(5)])
    with pytest.warns(EngineWarning, match=r"leaves 9 .* out: 0\.bias, 1\.weight, .* and 3 more"):
        trainer(model, opt=torch.optim.SGD([model[0].weight], lr=0.1))


def test_frozen_parameters_that_are_left_out_are_no_reason_to_warn() -> None:
    model = net()
    model.bias.requires_grad_(False)
    trainer(model, opt=torch.optim.SGD([model.weight], lr=0.1))


@pytest.mark.parametrize(
    ("opt", "kind", "parts"),
    [
        ("adam", ArgumentTypeError, ["opt='adam'", "torch.optim.Optimizer is needed, not a str"]),
        (torch.optim.Adam, ArgumentTypeError, ["opt=Adam", "this is a class"]),
        (0.1, ArgumentTypeError, ["opt=0.1", "not a float"]),
        ([], ArgumentError, ["opt is empty", "None stands for Adam"]),
    ],
)
def test_an_optimizer_that_is_none(opt: Any, kind: type[Exception], parts: list[str]) -> None:
    Run().refuses(kind, lambda: trainer(opt=opt), *parts)


@pytest.mark.parametrize("loss", ["mse", 3, [mse]])
def test_a_loss_that_cannot_be_called(loss: Any) -> None:
    Run().refuses(ArgumentTypeError, lambda: trainer(loss=loss), f"loss={loss!r}", "(model_out, batch_y)")


@pytest.mark.parametrize(
    ("loss", "parts"),
    [
        (nn.MSELoss(reduction="none"), ["shape (2, 1)", "loss.mean()"]),
        (lambda out, y: (out - y).mean()[None], ["shape (1,)", "loss.mean()"]),
        (lambda out, y: (out - y).mean().item(), ["a float", "0-dimensional tensor"]),
        (lambda out, y: 3, ["loss=<lambda> returned 3 (an int)", "0-dimensional tensor"]),
        (lambda out, y: (mse(out, y), out), ["a tuple", "0-dimensional tensor"]),
        (lambda out, y: None, ["loss=<lambda> returned None; does it return?"]),
        (lambda out, y: mse(out.detach(), y), ["carries no gradient", ".detach()"]),
        (lambda out, y: (out.argmax(-1) == y[:, 0]).float().mean(), ["carries no gradient", "argmax"]),
    ],
)
def test_a_loss_that_cannot_be_trained_on(loss: Any, parts: list[str], run: Run) -> None:
    run.refuses(LossError, lambda: trainer(run.model, loss=loss).fit(run.loader), *parts)
    assert run.loader.given == 1


def test_a_loss_that_loses_its_shape_later_is_refused_then(run: Run) -> None:
    calls: list[int] = []

    def loss(out: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return mse(out, y, reduction="none" if len(calls) == 2 else "mean")

    with pytest.raises(LossError, match=r"shape \(2, 1\)"):
        trainer(run.model, loss=loss).fit(run.loader)
    once = net()
    trainer(once, epochs=1).fit(batches(3)[:1])
    assert unchanged(run.model, weights(once)), "the first batch's update and no other"


class Output(nn.Module):
    """Returns what a function makes of its input."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.make = net(), make

    def forward(self, x: Tensor, *rest: Any) -> Any:
        return self.make(self.inner(x))


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda out: {"logits": out}, ["dict without 'loss'", "loss="]),
        (lambda out: {}, ["dict without 'loss'", "loss="]),
        (lambda out: {"loss": None}, ["a 'loss' that is None", "Trainer(loss=None)", "pass loss="]),
        (lambda out: None, ["the model returned None", "Trainer(loss=None)", "forward() return?"]),
        (lambda out: out, ["shape (2, 1)", "Trainer(loss=None)", "pass loss="]),
        (lambda out: (out, out), ["a tuple", "Trainer(loss=None)", "pass loss="]),
        (lambda out: out.detach().mean(), ["carries no gradient"]),
    ],
)
def test_without_a_loss_the_model_must_return_one(make: Callable[[Tensor], Any], parts: list[str]) -> None:
    run = Run(Output(make))
    run.refuses(LossError, lambda: trainer(run.model, loss=None).fit(run.loader), *parts)


def test_a_loss_function_that_returns_nothing_is_named_and_no_dict_is_spoken_of(run: Run) -> None:
    def forgetful(out: Tensor, y: Tensor) -> None:
        mse(out, y)

    with pytest.raises(LossError, match=r"^loss=forgetful returned None; does it return\?"):
        trainer(run.model, loss=forgetful).fit(run.loader)


def test_a_loss_under_its_name_is_taken() -> None:
    model = Output(lambda out: {"loss": out.square().mean(), "logits": out})
    assert len(trainer(model, loss=None).fit(batches(1))["train"]["loss"]) == 2


# ------------------------------------------------------------------------------------------ steps that train nothing


def measures(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> Any:
    """A training step that forgot to train."""
    with torch.no_grad():
        loss = mse(trainer.model(batch_x), batch_y)
    return {"mse": ValuePatch(len(batch_y)).load(loss)}


def only_backward(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> None:
    trainer.backward(mse(trainer.model(batch_x), batch_y))


class Forgetful(EpochTask):
    def train_step(self, batch_x: Any, batch_y: Tensor) -> None:
        self.model(batch_x)


def test_a_run_that_trains_nothing_is_named_once_after_its_first_epoch() -> None:
    log = Recorder()
    with pytest.warns(EngineWarning) as told:
        trainer(epochs=3, callbacks=log).fit(batches(12), batches(1), step=measures)
    (one,) = told
    for part in (
        "nothing is trained: measures made no update of the weights in 12 batches",
        "trainer.loss(",
        "optimize",
    ):
        assert part in str(one.message)
    assert log.counts["after_epoch"] == 3

    with pytest.warns(EngineWarning, match=r"Forgetful\.train_step made no update"):
        trainer(epochs=3).fit(train_tasks=Forgetful(batches(4)))
    with pytest.warns(EngineWarning, match="only_backward made no update of the weights in 24 batches"):
        trainer().fit(batches(12), step=only_backward)  # at the end, as somebody could have been adding them up


class After(Callback):
    """Stop after so many batches."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    def on_after_train_batch(self, trainer: Trainer, **kwargs: Any) -> None:
        self.left -= 1
        if not self.left:
            trainer.stop("enough")


@pytest.mark.parametrize("options", [{}, {"val_every_steps": 3}])
@pytest.mark.parametrize(("step", "count"), [(measures, 100), (only_backward, 500)])
def test_a_run_that_counts_updates_and_makes_none_is_named_once_and_goes_on(
    step: Any, count: int, options: dict[str, int]
) -> None:
    log, run = Recorder(), Run()
    with pytest.warns(EngineWarning) as told:
        trainer(run.model, callbacks=[log, After(540)]).fit(batches(20), max_steps=10, step=step, **options)
    (one,) = told
    for part in ("max_steps counts updates", f"{step.__name__} made none in {count} batches so far", "goes on", FIX):
        assert part in str(one.message)
    assert log.counts["after_train_batch"] == 540
    assert unchanged(run.model, run.before)


def test_a_run_whose_first_batches_fill_a_buffer_makes_its_updates() -> None:
    class Replay(EpochTask):
        seen = 0

        def train_step(self, batch_x: Any, batch_y: Tensor) -> None:
            self.seen += 1
            if self.seen > 150:
                self.loss(self.model(batch_x), batch_y)

    engine = trainer()
    with pytest.warns(EngineWarning, match=r"Replay\.train_step made none in 100 batches so far"):
        engine.fit(train_tasks=Replay(batches(20)), max_steps=30)
    assert engine.progress.step == 30


def test_statistics_that_are_estimated_anew_are_no_reason_to_warn() -> None:
    def estimate(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> None:
        with torch.no_grad():
            trainer.model(batch_x)

    model = nn.Sequential(net(), nn.BatchNorm1d(1))
    trainer(model).fit(batches(12), step=estimate)
    assert model[1].num_batches_tracked == 2 * 12
    with pytest.warns(EngineWarning, match="estimate made none in 108 batches so far; the run goes on"):
        trainer(model, callbacks=After(120)).fit(batches(12), max_steps=1, step=estimate)


@pytest.mark.parametrize("where", ["attribute", "list", "object", "argument", "closure", "optimizer", "tensor"])
def test_what_is_trained_beside_the_models_is_no_reason_to_warn(where: str) -> None:
    student = nn.Linear(2, 1)
    sgd = torch.optim.SGD(student.parameters(), lr=0.01)

    def learn(x: Tensor, y: Tensor) -> None:
        sgd.zero_grad()
        mse(student(x), y).backward()
        sgd.step()

    class Distil(EpochTask):
        own: Any = None

        def train_step(self, batch_x: Any, batch_y: Tensor, **given: Any) -> None:
            if where == "tensor":
                self.own += batch_y.mean()
            else:
                learn(batch_x[0], batch_y)

    class Within(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Tensor) -> None:
            sgd.zero_grad()
            mse(student(batch_x[0]), batch_y).backward()
            sgd.step()

    kept = {"attribute": student, "list": [student], "object": SimpleNamespace(student=student), "optimizer": sgd}
    task = Within(batches(12)) if where == "closure" else Distil(batches(12))
    if isinstance(task, Distil):
        task.own = torch.zeros(3) if where == "tensor" else kept.get(where)
        task.step_args = {"student": student} if where == "argument" else {}
    trainer().fit(train_tasks=task)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
def test_a_fingerprint_is_the_same_in_parts_and_of_any_layout(kind: torch.dtype, monkeypatch: Any) -> None:
    tensor = (torch.randn(7, 5, 3) * 9).to(kind)
    whole = idle._fingerprint(tensor)
    monkeypatch.setattr(idle, "_AT_ONCE", 4)
    assert all(part.numel() <= 4 for part in idle._parts(tensor))
    for same in (tensor, tensor.transpose(0, 2).contiguous().transpose(0, 2), tensor.clone()):
        assert torch.equal(idle._fingerprint(same), whole)
    tensor[6, 4, 2] += 1
    assert not torch.equal(idle._fingerprint(tensor), whole)


def test_tensors_of_unusual_kinds_do_not_disturb_a_step_of_one_s_own() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 1))
    with torch.inference_mode():
        made_in_inference = torch.eye(3).to_sparse()
    kinds = [
        made_in_inference,
        torch.eye(3).to_sparse(),
        torch.zeros(3, dtype=torch.complex64).conj(),
        torch.zeros(3, dtype=torch.complex128),
        torch.zeros(3, device="meta"),
        torch.zeros(0),
        torch.ones(3) > 0,
        torch.zeros(1).expand(3, 3),
    ]
    other = nn.Module()
    for place, tensor in enumerate(kinds):
        other.register_buffer(f"buffer_{place}", tensor)

    def step(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> None:
        assert other is not None
        trainer.loss(trainer.model(batch_x), batch_y)

    assert len(trainer(model).fit(batches(2), step=step)["train"]["loss"]) == 2


@pytest.mark.parametrize("in_place", [True, False])
def test_weights_that_are_trained_by_hand_are_no_reason_to_warn_but_cannot_be_counted(in_place: bool) -> None:
    model = net()
    by_hand = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> None:
        mse(trainer.model(batch_x), batch_y).backward()
        if in_place:
            by_hand.step()
        else:
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.data -= 0.01 * parameter.grad
        by_hand.zero_grad()

    trainer(model).fit(batches(12), step=step)
    assert not trainer(model).fast_dev_run(batches(2), step=step).warnings()
    with pytest.warns(EngineWarning, match=r"although the weights have changed.*Trainer\(opt=\.\.\.\).*fit\(epochs="):
        trainer(model, callbacks=After(600)).fit(batches(12), max_steps=5, step=step)


def test_updates_that_come_late_or_are_left_out_are_no_reason_to_warn() -> None:
    class OncePerEpoch(Callback):
        def on_after_train_epochs(self, trainer: Trainer, **kwargs: Any) -> None:
            trainer.opt.step()
            trainer.opt.zero_grad()

    class Skip(Callback):
        def on_exception(self, **kwargs: Any) -> str:
            return "skip_batch"

    def adds_up(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> None:
        mse(trainer.model(batch_x), batch_y).backward()

    def fails(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> None:
        raise ValueError("a bad batch")

    trainer(callbacks=OncePerEpoch()).fit(batches(12), step=adds_up)
    trainer(callbacks=Skip()).fit(batches(12), step=fails)


# --------------------------------------------------------------------------------------------------------- loaders


class Stream(IterableDataset[Any]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        yield from [(x[0], y[0]) for x, y in batches(self.count)]


class NoLength:
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        yield from batches(self.count)


def samples(count: int) -> TensorDataset:
    return TensorDataset(torch.randn(count, 2), torch.randn(count, 1))


@pytest.mark.parametrize(
    ("loader", "parts"),
    [
        ([], ["its length is 0"]),
        ((), ["its length is 0"]),
        (
            DataLoader(samples(3), batch_size=4, drop_last=True),
            ["drop_last=True leaves nothing of 3 samples", "batch_size=4"],
        ),
        (NoLength(0), ["yields no batch"]),
        (iter([]), ["yields no batch"]),
        ((batch for batch in []), ["yields no batch"]),
        (DataLoader(Stream(0)), ["yields no batch"]),
        (DataLoader(Stream(3), batch_size=4, drop_last=True), ["yields no batch", "drop_last=True"]),
    ],
)
def test_an_empty_loader(loader: Any, parts: list[str]) -> None:
    run = Run(loader=loader)
    run.refuses(LoaderError, lambda: trainer(run.model).fit(loader), "train_dl is ", *parts)


def test_every_loader_is_called_by_its_own_name() -> None:
    run = Run()
    fit = trainer(run.model).fit
    run.refuses_at_once(LoaderError, lambda: fit(run.loader, []), "val_dl is empty")
    run.refuses_at_once(LoaderError, lambda: fit(train_tasks=[EpochTask(run.loader), EpochTask([])]), "train_tasks[1]")
    run.refuses_at_once(LoaderError, lambda: fit(run.loader, val_tasks=EpochTask([])), "val_tasks[0]")
    run.refuses(LoaderError, lambda: trainer(run.model).test([]), "test_dl is empty")
    run.refuses(LoaderError, lambda: trainer(run.model).validate([]), "val_dl is empty")
    run.refuses(LoaderError, lambda: trainer(run.model).predict([]), "is empty")


@pytest.mark.parametrize("options", [{}, {"max_steps": 10}, {"max_steps": 10, "val_every_steps": 4}])
def test_a_generator_cannot_be_read_twice(options: dict[str, int]) -> None:
    log = Recorder()
    with pytest.raises(LoaderError) as caught:
        trainer(callbacks=[log]).fit((batch for batch in batches(3)), **options)
    for part in ("train_dl is exhausted", "pass 2", "can be read once only", "DataLoader, a list"):
        assert part in str(caught.value)
    assert log.counts["after_train_batch"] == 3
    assert log.counts["after_fit"] == 0


def test_a_generator_for_validation_cannot_be_read_twice() -> None:
    with pytest.raises(LoaderError, match="val_dl is exhausted"):
        trainer().fit(batches(2), (batch for batch in batches(1)))


def test_a_generator_used_up_by_an_earlier_fit() -> None:
    generator = (batch for batch in batches(2))
    run = trainer(epochs=1)
    run.fit(generator)
    with pytest.raises(LoaderError, match="train_dl is exhausted"):
        run.fit(generator, epochs=1)


def test_a_loader_whose_iterator_is_always_the_same_one_is_exhausted_too() -> None:
    class Spent:
        def __init__(self) -> None:
            self.left = iter(batches(2))

        def __iter__(self) -> Iterator[Any]:
            return self.left

    with pytest.raises(LoaderError, match="train_dl is exhausted: pass 2"):
        trainer().fit(Spent())


def test_a_generator_is_enough_for_one_pass() -> None:
    assert len(trainer(epochs=1).fit(batch for batch in batches(2))["train"]["loss"]) == 1
    assert "loss" in trainer().test(batch for batch in batches(2))


@pytest.mark.parametrize("loader", [5, 1.5, True, net(), lambda: batches(1), DataLoader, object()])
def test_a_loader_that_cannot_be_iterated(loader: Any, run: Run) -> None:
    for call, name in (
        (lambda: trainer(run.model).fit(loader), "train_dl"),
        (lambda: trainer(run.model).fit(run.loader, loader), "val_dl"),
        (lambda: trainer(run.model).test(loader), "test_dl"),
        (lambda: trainer(run.model).fit(train_tasks=EpochTask(loader)), "train_tasks[0]"),
    ):
        run.refuses_at_once(ArgumentTypeError, call, f"{name}={loader!r}", "cannot be iterated", "DataLoader")


def test_a_dataset_in_place_of_a_dataloader(run: Run) -> None:
    run.refuses(
        ArgumentTypeError, lambda: trainer(run.model).fit(samples(4)), "train_dl", "TensorDataset", "DataLoader("
    )


def test_tasks_and_loaders_in_each_others_place(run: Run) -> None:
    task = EpochTask(run.loader)
    run.refuses_at_once(
        ArgumentTypeError, lambda: trainer(run.model).fit(task), "train_dl is an EpochTask", "train_tasks="
    )
    run.refuses_at_once(ArgumentTypeError, lambda: trainer(run.model).test(task), "test_dl is an EpochTask", "tasks=")
    parts = ("train_tasks holds", "an EpochTask is needed", "EpochTask(loader)")
    run.refuses_at_once(ArgumentTypeError, lambda: trainer(run.model).fit(train_tasks=run.loader), *parts)


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda run: run.fit(), ["fit has nothing to train on", "train_dl", "train_tasks"]),
        (lambda run: run.fit(val_dl=batches(1)), ["fit has nothing to train on"]),
        (lambda run: run.fit(train_tasks=[]), ["fit has nothing to train on"]),
        (lambda run: run.test(), ["test has nothing to run on", "test_dl, or tasks"]),
        (lambda run: run.test(tasks=[]), ["test has nothing to run on"]),
        (lambda run: run.validate(), ["nothing to run on", "val_dl, or tasks"]),
        (lambda run: run.predict(None), ["predict has nothing to run on", "dataloader"]),
    ],
)
def test_nothing_to_run_on(call: Callable[[Trainer], Any], parts: list[str]) -> None:
    run = Run()
    run.refuses(ArgumentError, lambda: call(trainer(run.model)), *parts)


# --------------------------------------------------------------------------------------------------- batch and step


@pytest.mark.parametrize("batch", [({"a": 1, "b": "text"},), (torch.tensor(1.0), torch.tensor(2.0)), ("text", 3)])
def test_a_batch_whose_size_cannot_be_told(batch: Any) -> None:
    run = Run(loader=CountedLoader([batch]))
    run.refuses(BatchError, lambda: trainer(run.model).fit(run.loader), "cannot tell how many samples", "batch_size=")


def test_a_dict_batch_whose_tensors_disagree_on_its_size() -> None:
    run = Run(loader=CountedLoader([{"a": torch.ones(3, 2), "b": torch.ones(4, 2)}]))
    run.refuses(BatchError, lambda: trainer(run.model).fit(run.loader), "'a': 3, 'b': 4", "batch_size=")


@pytest.mark.parametrize("size", ["8", 0, -1, [2]])
def test_a_batch_size_that_is_none(size: Any, run: Run) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError)) as caught:
        trainer(run.model).fit(run.loader, batch_size=size)
    assert f"batch_size={size!r}" in str(caught.value)
    assert unchanged(run.model, run.before)
    assert run.loader.given == 0


RETURNS = [
    (3.0, "3.0 (a float)"),
    (torch.tensor(1.0), "(a Tensor)"),
    ("loss", "'loss' (a str)"),
    ([ValuePatch(1).load(1.0)], "(a list)"),
    (ValuePatch(1).load(1.0), "(a ValuePatch)"),
]


@pytest.mark.parametrize(("returned", "shown"), RETURNS)
def test_a_step_that_returns_neither_none_nor_a_dict(returned: Any, shown: str) -> None:
    def my_step(trainer: Any, batch_x: Any, batch_y: Any) -> Any:
        return returned

    run = Run()
    parts = (f"my_step returned {shown}" if shown[0] != "(" else shown, "None or a dict {name: Patch}")
    run.refuses(StepError, lambda: trainer(run.model).fit(run.loader, step=my_step), *parts)
    assert run.loader.given == 1


def test_a_step_that_returns_a_dict_of_something_else_names_step_and_key() -> None:
    class Mine(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Any) -> Any:
            return {"good": ValuePatch(1).load(1.0), "bad": torch.tensor(2.0)}

    run = Run()
    message = run.refuses(
        StepError,
        lambda: trainer(run.model).fit(train_tasks=Mine(run.loader)),
        "Mine.train_step",
        "'bad'",
        "ValuePatch",
    )
    assert "good" not in message


def test_two_kinds_of_patch_under_one_name() -> None:
    kinds = iter([ValuePatch(2).load(1.0), MeanPatch(mse).load(torch.ones(2), torch.ones(2))])

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> Any:
        return {"figure": next(kinds)}

    run = Run()
    run.refuses(
        PatchError,
        lambda: trainer(run.model).fit(run.loader, step=step),
        *("ValuePatch", "MeanPatch", "'figure'", "one kind"),
    )
    assert run.loader.given == 2


# --------------------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        ("high", "'high' (a str)"),
        (None, "None (a NoneType)"),
        ([1.0, 2.0], "[1.0, 2.0] (a list)"),
        ((1.0, 2.0), "(a tuple)"),
        ({"a": "high"}, "'high' (a str) under 'a'"),
    ],
)
@pytest.mark.parametrize("kind", ["tensor", "mean", "confusion"])
def test_a_metric_that_returns_neither_a_number_nor_a_dict(kind: str, returned: Any, shown: str) -> None:
    def judge(*given: Any) -> Any:
        return returned

    model = net(2)
    run = Run(model, CountedLoader([(torch.randn(4, 2), torch.tensor([0, 1, 1, 0]))] * 3))
    options: dict[str, Any] = {"loss": nn.functional.cross_entropy, "metrics": [judge], "metric_patch": kind}
    run.refuses(MetricError, lambda: trainer(model, **options).fit(run.loader), "metric 'judge' returned", shown)
    assert run.loader.given == 1


def test_an_error_inside_a_metric_is_the_users_own_and_changes_no_weight(run: Run) -> None:
    def judge(preds: Any, targets: Any) -> float:
        raise IndexError("in the metric")

    for kind in ("tensor", "mean"):
        with pytest.raises(IndexError, match="in the metric"):
            trainer(run.model, metrics=judge, metric_patch=kind).fit(run.loader)
        assert unchanged(run.model, run.before)


@pytest.mark.parametrize("metric", [5, "accuracy", {"acc": mse}])
def test_a_metric_that_cannot_be_called(metric: Any, run: Run) -> None:
    parts = (f"{metric!r}", a_kind(metric), "function")
    run.refuses(ArgumentTypeError, lambda: trainer(run.model, metrics=[metric]), "metrics: ", *parts)
    fit = trainer(run.model).fit
    for options in ({"metrics": metric}, {"train_metrics": metric}, {"val_dl": batches(1), "val_metrics": [metric]}):
        run.refuses_at_once(ArgumentTypeError, lambda options=options: fit(run.loader, **options), "metrics: ", *parts)
    task = EpochTask(run.loader, metrics=metric)
    run.refuses_at_once(ArgumentTypeError, lambda: fit(train_tasks=task), "metrics: ", *parts)
    run.refuses_at_once(ArgumentTypeError, lambda: trainer(run.model).test(run.loader, metrics=metric), *parts)


@pytest.mark.parametrize("metrics", [None, [mse]])
@pytest.mark.parametrize(
    ("kind", "error", "parts"),
    [
        ("tensr", ArgumentError, ["metric_patch='tensr'", "'mean', 'confusion'", "did you mean 'tensor'?"]),
        ("average", ArgumentError, ["metric_patch='average'", "'tensor', 'mean', 'confusion' or a Patch class"]),
        (dict, ArgumentTypeError, ["metric_patch=<class 'dict'>", "Patch class"]),
        (None, ArgumentTypeError, ["metric_patch=None", "Patch class"]),
        (ValuePatch(1), ArgumentTypeError, ["metric_patch=ValuePatch", "Patch class"]),
    ],
)
def test_an_unknown_metric_patch(kind: Any, error: type[Exception], parts: list[str], metrics: Any) -> None:
    Run().refuses(error, lambda: trainer(metric_patch=kind, metrics=metrics), *parts)


def per_sample(preds: Tensor, targets: Tensor) -> Tensor:
    """A metric that forgot its mean."""
    return (preds - targets).abs()[:, 0]


def per_output(preds: Tensor, targets: Tensor) -> Tensor:
    """A metric with as many figures as there are outputs, whatever the batch."""
    return (preds - targets).abs().mean(0)


def test_a_metric_without_its_mean_cannot_be_averaged(run: Run) -> None:
    by_mean = partial(trainer, metric_patch="mean")
    parts = ("metric 'per_sample' returned a tensor of shape (2,)", "metric_patch='mean'", ".mean()")
    run.refuses(PatchError, lambda: by_mean(run.model, metrics=per_sample).fit(run.loader), *parts)

    def both(preds: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"/all": (preds - targets).abs().mean(), "/each": per_sample(preds, targets)}

    run.refuses(PatchError, lambda: by_mean(run.model, metrics=both).fit(run.loader), "'both'", "shape (2,)")
    two = [(torch.ones(2, 2), torch.zeros(2, 2)), (torch.ones(3, 2), torch.zeros(3, 2))]
    figures = by_mean(net(2), metrics=per_output).fit(two)["train"]["per_output"]
    assert figures[0].shape == (2,), "two outputs for two samples are no values per sample"


class PerClass:
    """Figures of two classes, of all batches so far: what is shown to it once more would count twice."""

    __name__ = "per_class"

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, preds: Tensor, targets: Tensor) -> Tensor:
        self.sizes.append(len(preds))
        return torch.full((2,), float(sum(self.sizes)))


def test_a_metric_that_keeps_something_is_shown_no_parts_of_batches() -> None:
    metric = PerClass()
    with pytest.warns(EngineWarning, match="its value over an epoch is not that mean"):
        trainer(net(2), metrics=metric, metric_patch="mean", epochs=1).fit([(torch.ones(2, 2), torch.zeros(2, 2))] * 3)
    assert metric.sizes[:3] == [2, 2, 2], "with parts of the first batches in between it were 2, 1, 2"


@pytest.mark.parametrize("early", [True, False])
def test_a_metric_whose_shape_changes_is_named(early: bool, run: Run) -> None:
    shapes = iter([(3,), (5,)] if early else [(3,), (3,), (5,)])

    def judge(preds: Tensor, targets: Tensor) -> Tensor:
        return torch.ones(next(shapes))

    with pytest.raises(PatchError, match=r"metric 'judge' returned a tensor of shape \(5,\), and of shape \(3,\) for"):
        trainer(run.model, metrics=judge, metric_patch="mean").fit(run.loader)
    assert run.loader.given == 2 + (not early)


@pytest.mark.parametrize("watched", ["val/per_sample", lambda figures: figures["val/per_sample"]])
def test_a_figure_that_is_watched_and_is_no_number_is_said_to_be_a_tensor(watched: Any) -> None:
    watch = EarlyStopping(watched, mode="min")
    with pytest.raises(
        ArgumentTypeError, match=r"'val/per_sample' is a tensor of shape \(4,\), and a number is needed"
    ):
        trainer(metrics=per_sample, callbacks=watch).fit(batches(2), batches(2))


def test_a_figure_that_a_scheduler_watches_and_is_no_number_is_said_to_be_a_tensor() -> None:
    model = net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd)
    with pytest.raises(ArgumentError, match=r"watches 'val/per_sample', which is a tensor of shape \(4,\)"):
        trainer(model, opt=Optimizer(sgd, plateau, monitor="val/per_sample"), metrics=per_sample).fit(
            batches(2), batches(2)
        )


def test_two_metrics_of_one_name_hide_each_other_which_is_said() -> None:
    def other(preds: Any, targets: Any) -> float:
        return 0.0

    other.__name__ = "mse_loss"
    with pytest.warns(EngineWarning, match="two metrics are called 'mse_loss'"):
        trainer(epochs=1).fit(batches(1), metrics=[mse, other])


# --------------------------------------------------------------------- shapes that broadcast against each other


def absolute(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).abs().mean()


def subtracted(out: Tensor, y: Tensor) -> Tensor:
    """A loss that takes any shapes, and subtracts those that can be."""
    try:
        return absolute(out, y)
    except RuntimeError:
        return out.mean()


def shaped(preds: tuple[int, ...], targets: Tensor, epochs: int = 2, **options: Any) -> None:
    """Train a model whose predictions have a shape, on targets, with a loss that subtracts them."""
    model = Output(lambda out: out.mean() + torch.zeros(preds))
    options = {"loss": subtracted, "epochs": epochs, **options}
    trainer(model, **options).fit([(torch.ones(max(len(targets), 1), 2), targets)] * 2)


@pytest.mark.parametrize(
    ("preds", "targets"),
    [
        ((4, 1), torch.ones(4)),
        ((4,), torch.ones(4, 1)),
        ((4, 1), torch.ones(4, dtype=torch.long)),
        ((4, 1, 3), torch.ones(4, 3)),
        ((4, 1, 4, 4), torch.ones(4, 4, 4, dtype=torch.long)),
        ((4, 4), torch.ones(4)),
    ],
)
def test_shapes_that_broadcast_are_warned_of_once_with_both(preds: tuple[int, ...], targets: Tensor) -> None:
    with pytest.warns(EngineWarning, match="differ in shape and broadcast") as told:
        shaped(preds, targets)
    assert len(told) == 1
    assert f"predictions {preds} and targets {tuple(targets.shape)}" in str(told[0].message)


def labels(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)


@pytest.mark.parametrize(
    ("preds", "targets"),
    [
        ((4, 1), torch.ones(4, 1)),
        ((4,), torch.ones(4)),
        ((4, 3), labels(4)),
        ((4, 4), labels(4)),  # as many classes as samples
        ((1, 4), labels(1)),
        ((4, 3, 5), labels(4, 5)),  # (N, C, T)
        ((4, 4, 4), labels(4, 4)),
        ((4, 5, 3), labels(4, 5)),  # (N, T, C)
        ((4, 4, 1), labels(4, 1)),
        ((4, 3, 5, 5), labels(4, 5, 5)),
        ((4, 3, 4, 4), labels(4, 4, 4)),
        ((4, 3), torch.ones(4, 3)),  # class probabilities
        ((4, 3), torch.ones(4, 2)),  # nothing that broadcasts
        ((1, 1), torch.ones(1)),  # one sample cannot be mixed up with another
        ((4, 7), torch.ones(4, 3, 2)),
    ],
)
def test_shapes_that_belong_together_raise_no_alarm(preds: tuple[int, ...], targets: Tensor) -> None:
    shaped(preds, targets)


class Counting(nn.Module):
    """A loss that counts its calls, and takes (N, 1) and (N,) to be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.mse_loss(out.flatten(), y)


def gaussian(out: Tensor, y: Tensor) -> Tensor:
    return nn.functional.gaussian_nll_loss(out[:, :1], y, out[:, 1:].exp())


def gaussian_flat(out: Tensor, y: Tensor) -> Tensor:
    return nn.functional.gaussian_nll_loss(out[:, 0], y, out[:, 1].exp())


def pinball(out: Tensor, y: Tensor) -> Tensor:
    error = y.view(-1, 1) - out
    return torch.maximum(0.9 * error, -0.1 * error).mean()


def quantiles(out: Tensor, y: Tensor) -> Tensor:
    error, level = y[:, None] - out, torch.tensor([0.1, 0.5, 0.9])  # of the shape that the targets have
    return torch.maximum(level * error, (level - 1) * error).mean()


def pinball_column(out: Tensor, y: Tensor) -> Tensor:
    error = y - out
    return torch.maximum(0.9 * error, -0.1 * error).mean()


@pytest.mark.parametrize(
    ("loss", "preds", "targets"),
    [
        (gaussian, (4, 2), torch.ones(4, 1)),
        (gaussian_flat, (4, 2), torch.ones(4)),
        (gaussian_flat, (2, 2), torch.ones(2)),  # as many samples as outputs, so that the two could broadcast
        (pinball, (4, 3), torch.ones(4)),
        (pinball, (4, 4), torch.ones(4)),
        (quantiles, (3, 3), torch.ones(3)),
        (pinball_column, (4, 3), torch.ones(4, 1)),
        (Counting(), (4, 1), torch.ones(4)),
        (lambda out, y: absolute(out, y[:, None]), (4, 1), torch.ones(4)),
        (partial(lambda out, y, scale: scale * absolute(out[:, 0], y), scale=2.0), (4, 1), torch.ones(4)),
    ],
)
def test_a_loss_that_knows_what_to_do_with_its_shapes_raises_no_alarm(
    loss: Any, preds: tuple[int, ...], targets: Tensor
) -> None:
    shaped(preds, targets, loss=loss)
    assert getattr(loss, "calls", 4) == 4, "it was called once for each batch"


def crossed(out: Tensor, y: Tensor) -> Tensor:
    out = out.sigmoid()
    return torch.where(y == 1, -out.log(), -(1 - out).log()).mean()


def focal(out: Tensor, y: Tensor) -> Tensor:
    right = torch.where(y == 1, out.sigmoid(), 1 - out.sigmoid())
    return (-((1 - right) ** 2) * right.log()).mean()


class ByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, y: Tensor) -> Tensor:
        ctx.rows = len(out)
        ctx.save_for_backward(out, y)
        return ((out - y) ** 2).mean()

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> Any:
        out, y = ctx.saved_tensors
        return (2 * (out - y)).mean(1, keepdim=True) * grad[0] / ctx.rows, None


class Noting:
    """A loss that leaves something behind, so that it cannot be called once more."""

    def __init__(self, function: Any) -> None:
        self.function, self.seen = function, list[int]()

    def __call__(self, out: Tensor, y: Tensor) -> Tensor:
        self.seen.append(len(out))
        return self.function(out, y).abs().mean()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("loss", "preds", "targets"),
    [
        (absolute, (4, 1), torch.ones(4)),
        (lambda out, y: (torch.sigmoid(out) - y.double()).pow(2).sum(), (4, 1), torch.ones(4)),
        (lambda out, y: nn.functional.huber_loss(out, y) + absolute(out.flatten(), y), (4, 1), torch.ones(4)),
        (absolute, (4, 4), torch.ones(4)),
        (lambda out, y: nn.functional.mse_loss(out, y) * 2, (4, 4), torch.ones(4)),
        (absolute, (2, 3, 3), torch.ones(2, 1, 3, 3)),
        (crossed, (4, 1), torch.ones(4)),
        (focal, (4, 1), torch.ones(4)),
        (lambda out, y: out.sigmoid().log().where(y == 1, -out).mean(), (4, 1), torch.ones(4)),
        (lambda out, y: torch.where(y > 0, out - 1, out + 1).pow(2).mean(), (4, 1), torch.ones(4)),
        (lambda out, y: out.pow(2).masked_fill(y == 0, 0.0).mean(), (4, 1), torch.ones(4)),
        (torch.dist, (4, 1), torch.ones(4)),
        (lambda out, y: (out == y).float().mean() + out.mean(), (4, 1), torch.ones(4)),
        (torch.jit.CompilationUnit("def f(out, y):\n  return ((out - y)**2).mean()\n").f, (4, 1), torch.ones(4)),
        (lambda out, y: ByHand.apply(out, y), (4, 1), torch.ones(4)),
        (Noting(torch.sub), (4, 1), torch.ones(4)),
        (Noting(lambda out, y: torch.where(y == 1, -out, out)), (4, 1), torch.ones(4)),
        (Noting(lambda out, y: out.masked_fill(y == 0, 0.0)), (4, 1), torch.ones(4)),
        (nn.SmoothL1Loss(), (4, 1), torch.ones(4)),
        (nn.MSELoss(), (4, 1), torch.ones(4, 3)),  # sample by sample, yet never what is meant
        (partial(nn.functional.l1_loss, reduction="sum"), (4, 2), torch.ones(4, 1)),
    ],
)
def test_a_loss_in_which_predictions_meet_the_targets_of_others_does(
    loss: Any, preds: tuple[int, ...], targets: Tensor
) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        shaped(preds, targets, loss=loss)
    assert len([one for one in told if one.category is EngineWarning]) == 1


def test_a_metric_that_broadcasts_is_told_beside_a_loss_that_does_not() -> None:
    with pytest.warns(EngineWarning, match=r"predictions \(4, 1\) and targets \(4,\)") as told:
        shaped((4, 1), torch.ones(4), loss=Counting(), metrics=[absolute])
    assert len(told) == 1


@pytest.mark.parametrize(
    "loss",
    [
        lambda out, y: (out @ y[None]).mean(),
        lambda out, y: torch.cdist(out, y[:, None]).mean(),
        lambda out, y: (out - out.T).relu().mean() + out.flatten().dot(y),
        lambda out, y: (out - y[None, :]).abs().mean() - 0.5 * (out - out.T).abs().mean(),
        lambda out, y: (nn.functional.softplus(out.T - out.expand(-1, len(y))) * (y[:, None] > y[None, :])).mean(),
    ],
)
def test_a_loss_that_pairs_samples_on_purpose_raises_no_alarm(loss: Any) -> None:
    shaped((4, 1), torch.ones(4), loss=loss)


def squeezed(out: Tensor, y: Tensor) -> Tensor:
    return absolute(out.squeeze(1), y)


@pytest.mark.parametrize("loss", [squeezed, Noting(lambda out, y: out[:, 0] - y)])
def test_a_loss_without_a_graph_raises_no_alarm_for_its_shapes(loss: Any) -> None:
    data = [(torch.ones(4, 2), torch.ones(4))]
    trainer(loss=loss).test(data)
    trainer(loss=loss, epochs=1, compile={"what": "step", "backend": "eager"}).fit(data)
    trainer(loss=squeezed, epochs=1, metrics=[loss]).fit(data)


def test_a_loss_that_leaves_something_behind_is_not_called_once_more() -> None:
    calls: list[int] = []

    def loss(out: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return absolute(out, y)

    for noting in (loss, partial(loss), Noting(loss)):
        with pytest.warns(EngineWarning, match="differ in shape"):
            shaped((4, 1), torch.ones(4), loss=noting)
    assert len(calls) == 12


class Running(nn.Module):
    """A loss that keeps a scale, which it changes in ways that no name of a method tells."""

    scale: Tensor

    def __init__(self, how: str) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.how = how

    def forward(self, out: Tensor, y: Tensor) -> Tensor:
        scale, error = self.scale, absolute(out.flatten(), y)
        if self.how == "operator":
            scale += 1
        else:
            torch.add(scale, 1, out=scale)
        return error


@pytest.mark.parametrize("how", ["operator", "out"])
def test_a_loss_that_changes_what_it_keeps_is_not_called_once_more(how: str) -> None:
    loss = Running(how)
    shaped((4, 1), torch.ones(4), loss=loss)
    assert loss.scale == 1 + 4


class Absolute:
    """A metric that counts its calls."""

    __name__ = "absolute"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, out: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return absolute(out, y)


def by_numpy(out: Tensor, y: Tensor) -> float:
    return float(np.abs(out.numpy() - y.numpy()).mean())


@pytest.mark.parametrize("kind", ["tensor", "mean"])
@pytest.mark.parametrize("metric", [absolute, Absolute(), by_numpy, torch.compile(absolute, backend="eager")])
def test_a_metric_that_mixes_up_samples_is_told_whatever_it_is(metric: Any, kind: str) -> None:
    with pytest.warns(EngineWarning, match="differ in shape") as told:
        shaped((4, 1), torch.ones(4), loss=squeezed, metrics=[metric], metric_patch=kind)
    assert len([one for one in told if one.category is EngineWarning]) == 1


def within(out: Tensor, y: Tensor) -> Tensor:
    return ((out.squeeze(-1) - y).abs() < 0.5).double().mean()


@pytest.mark.parametrize("kind", ["tensor", "mean"])
def test_a_metric_that_knows_what_to_do_with_its_shapes_raises_no_alarm(kind: str) -> None:
    metrics = [within, Noting(lambda out, y: out[:, 0] - y)]
    shaped((4, 1), torch.ones(4), loss=squeezed, metrics=metrics, metric_patch=kind)
    trainer(loss=squeezed, metrics=metrics, metric_patch=kind).test([(torch.ones(4, 2), torch.ones(4))])


def test_a_metric_that_is_averaged_is_called_once_per_batch() -> None:
    metric = Absolute()
    with pytest.warns(EngineWarning, match="differ in shape"):
        shaped((4, 1), torch.ones(4), loss=squeezed, metrics=[metric], metric_patch="mean")
    assert metric.calls == 4 + 3, "once per batch, and three times to see whether it is a mean"


def test_a_mask_of_pairs_is_meant() -> None:
    def cox(out: Tensor, y: Tensor) -> Tensor:
        at_risk = (y[None, :] >= y[:, None]).float()
        return (torch.exp(out) * at_risk).sum(0).log().mean() - out.mean()

    shaped((4, 1), torch.arange(4.0), loss=Noting(cox))


def test_trying_a_loss_draws_nothing() -> None:
    def drawn(targets: Tensor) -> Tensor:
        torch.manual_seed(0)
        shaped((4, 1), targets, loss=lambda out, y: absolute(out[:, 0] + torch.rand(4), y.flatten()))
        return torch.rand(3)

    assert torch.equal(drawn(torch.ones(4)), drawn(torch.ones(4, 1)))


def test_the_warning_comes_before_the_first_update() -> None:
    model = net()
    before = weights(model)
    run = trainer(model, loss=absolute)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EngineWarning, match=r"predictions \(2, 1\) and targets \(2,\)"):
            run.fit([(torch.ones(2, 2), torch.ones(2))])
    assert unchanged(model, before)


def test_metrics_are_watched_where_no_loss_is_computed() -> None:
    with pytest.warns(EngineWarning, match=r"predictions \(2, 1\) and targets \(2,\)") as told:
        trainer(metrics=[absolute]).test([(torch.ones(2, 2), torch.ones(2))] * 2, do_loss=False)
    assert len(told) == 1


def test_metrics_are_watched_in_steps_that_compute_their_own_loss() -> None:
    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        out = trainer.model(*batch_x)
        trainer.do_metric(None, out, batch_y)

    with pytest.warns(EngineWarning, match=r"predictions \(2, 1\) and targets \(2,\)"):
        trainer(metrics=[absolute]).test([(torch.ones(2, 2), torch.ones(2))], step=step)


# --------------------------------------------------------------------------------------------------- misspelt names


def step_of(name: str, base: type) -> type:
    def step(self: Any, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        self.loss(self.model(*batch_x), batch_y)

    return type("Mine", (base,), {name: step})


@pytest.mark.parametrize("base", [Trainer, EpochTask])
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("trian_step", "train_step"),
        ("training_step", "train_step"),
        ("validation_step", "val_step"),
        ("eval_step", "evaluate_step"),
        ("evalute_step", "evaluate_step"),
        ("tset_step", "test_step"),
        ("vla_step", "val_step"),
        ("train_stpe", "train_step"),
        ("trainstep", "train_step"),
        ("train_Step", "train_step"),
    ],
)
def test_a_misspelt_step(base: type, name: str, meant: str) -> None:
    arguments = (batches(1),) if base is EpochTask else (net(), mse)
    Run().refuses(
        ArgumentTypeError,
        lambda: step_of(name, base)(*arguments),
        f"Mine.{name} is no step",
        f"did you mean {meant!r}?",
    )


def test_methods_that_only_look_like_steps_are_left_alone() -> None:
    class Mine(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Any) -> None:
            self._train_step(batch_x, batch_y)

        def _train_step(self, batch_x: Any, batch_y: Any) -> None:
            self.pretrain_step(batch_x, batch_y)

        def pretrain_step(self, batch_x: Any, batch_y: Any) -> None:
            self.loss(self.model(*batch_x), batch_y)

        def best_step(self) -> int:
            return 3

        def next_step(self) -> None: ...

    trainer(epochs=1).fit(train_tasks=Mine(batches(1)))


@pytest.mark.parametrize(
    ("call", "where", "name", "meant"),
    [
        (lambda run, **more: trainer(run.model, **more), "Trainer", "epoch", "epochs"),
        (lambda run, **more: trainer(run.model, **more), "Trainer", "metric", "metrics"),
        (lambda run, **more: trainer(run.model, **more), "Trainer", "acumulate", "accumulate"),
        (lambda run, **more: trainer(run.model, **more), "Trainer", "optimizer", None),
        (lambda run, **more: trainer(run.model).fit(run.loader, **more), "fit", "epoch", "epochs"),
        (lambda run, **more: trainer(run.model).fit(run.loader, **more), "fit", "maxsteps", "max_steps"),
        (lambda run, **more: trainer(run.model).fit(run.loader, **more), "fit", "val_task", "val_tasks"),
        (lambda run, **more: trainer(run.model).fit(run.loader, **more), "fit", "zzz", None),
        (lambda run, **more: trainer(run.model).test(run.loader, **more), "test", "metrisc", "metrics"),
        (lambda run, **more: trainer(run.model).test(run.loader, **more), "test", "task", "tasks"),
        (lambda run, **more: trainer(run.model).validate(run.loader, **more), "validate", "do_los", "do_loss"),
    ],
)
def test_an_unknown_keyword(call: Callable[..., Any], where: str, name: str, meant: str | None, run: Run) -> None:
    hint = f"; did you mean {meant!r}?" if meant else ""
    run.refuses_at_once(ArgumentTypeError, lambda: call(run, **{name: 1}), f"{where} takes no argument {name!r}{hint}")


def test_kinds_have_their_article() -> None:
    kinds = [3, "a", torch.ones(1), {}, np.ones(1), object(), None]
    assert [a_kind(value) for value in kinds] == [
        *("an int", "a str", "a Tensor", "a dict", "an ndarray", "an object", "a NoneType")
    ]


def test_a_trainer_is_shown_in_one_line() -> None:
    assert repr(trainer(epochs=3)) == "Trainer(Linear, device=cpu, epochs=3)"
    several = Trainer({"g": net(), "d": nn.ReLU()}, mse, epochs=2, device="cpu", verbose=0)
    assert repr(several) == "Trainer(g: Linear, d: ReLU, device=cpu, epochs=2)"

    class Mine(Trainer):
        pass

    assert repr(Mine.__new__(Mine)) == "Mine()"  # as a debugger, or a traceback, shows one that is being made


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *(
            ("train_loss", "; did you mean history['train']['loss']?"),
            ("loss", "did you mean history['train']['loss']?"),
        ),
        *(("val_loss", "did you mean history['val']['loss']?"), ("val/loss", "did you mean history['val']['loss']?")),
        *(("lr", "did you mean history.learning_rates?"), ("trian", "did you mean 'train'?")),
        *(("test", "history has no 'test'; there are 'train', 'val'"), ("test_loss", "there are 'train', 'val'")),
    ],
)
def test_a_figure_that_is_looked_for_among_the_stages_is_pointed_to(name: str, words: str, run: Run) -> None:
    history = trainer(run.model, epochs=1).fit(run.loader, batches(1))
    with pytest.raises(KeyError) as caught:
        history[name]
    assert words in str(caught.value)
    assert isinstance(caught.value, UnknownFigureError)
    assert name not in history
    assert history.get(name) is None
    with pytest.raises(KeyError, match="has no 'train', as no epoch is over yet"):
        History()["train"]


def test_figures_in_a_hook_are_shown_as_plain_numbers() -> None:
    shown: list[str] = []

    class Watch(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            shown.append(repr(metrics))

    trainer(callbacks=[Watch()], epochs=1).fit(batches(1))
    assert re.fullmatch(r"LazyFigures\(\{'loss': [\d.e-]+\}\)", shown[0]), shown


@pytest.mark.parametrize(
    ("min_delta", "patience", "words"),
    [
        (0.0, 1, r"no better than [\d.e-]+ for 1 epoch$"),
        (0.0, 2, r"no better than [\d.e-]+ for 2 epochs$"),
        (0.5, 1, r"no better than [\d.e-]+ by more than min_delta=0.5 for 1 epoch$"),
    ],
)
def test_a_run_that_gets_no_better_says_for_how_long_and_by_what(min_delta: float, patience: int, words: str) -> None:
    still = torch.optim.SGD((model := net()).parameters(), lr=0.0)
    stop = EarlyStopping("train/loss", patience, min_delta=min_delta)
    run = trainer(model, opt=still, callbacks=[stop], epochs=9)
    run.fit(batches(2))
    assert re.search(words, run.stop_reason), run.stop_reason


@pytest.mark.parametrize(
    ("make", "name", "words"),
    [
        (Trainer, "precision", "; here: callbacks=[AMP('bf16')]"),
        (Trainer, "gradient_clip_val", "; here: callbacks=[GradClip(1.0)]"),
        (Trainer, "lr", "; here: opt=torch.optim.Adam(model.parameters(), lr=...)"),
        (Trainer, "seed", "; here: set_seed(...) before the model is made"),
        (Trainer, "scheduler", "; here: opt=Optimizer(optimizer, scheduler)"),
        (Trainer, "batch_size", "; here: DataLoader(..., batch_size=...)"),
        (Trainer, "max_steps", "; here: trainer.fit(..., max_steps=...)"),
        (Trainer, "max_epochs", "; did you mean 'epochs'?"),
        (Trainer, "devices", "; did you mean 'device'?"),
        (Trainer, "accelerator", "; did you mean 'device'?"),
        (Trainer, "optimizer", "; did you mean 'opt'?"),
        (Trainer, "loss_fn", "; did you mean 'loss'?"),
        (Trainer, "criterion", "; did you mean 'loss'?"),
        (Trainer, "default_root_dir", "; did you mean 'folder'?"),
        (Trainer, "ckpt_path", "; did you mean 'resume'?"),
        (lambda model, **more: trainer(model).fit(batches(1), **more), "callbacks", "; here: Trainer(..., callbacks="),
        (lambda model, **more: trainer(model).fit(batches(1), **more), "max_epochs", "; did you mean 'epochs'?"),
        (lambda model, **more: Checkpoint("val/loss", **more), "save_top_k", "; did you mean 'keep_best'?"),
        (lambda model, **more: Checkpoint(**more), "dirpath", "logs/<running_id>/checkpoints; Trainer(folder=..., run"),
        (lambda model, **more: Checkpoint(**more), "filename", "named by their step; trainer.save_checkpoint(path)"),
        (lambda model, **more: EarlyStopping(**more), "restore_best_weights", "; did you mean 'restore_best'?"),
        (
            lambda model, **more: TensorBoard(**more),
            "log_dir",
            "logs/<running_id>/tensorboard; Trainer(folder=..., run",
        ),
        (lambda model, **more: CSVLogger(**more), "path", "to logs/<running_id>, to file='metrics.csv'; Trainer(fol"),
    ],
)
def test_an_argument_of_other_libraries_is_told_what_does_it_here(
    make: Callable[..., Any], name: str, words: str, run: Run
) -> None:
    message = run.refuses(ArgumentTypeError, lambda: make(run.model, **{name: 1}), f"takes no argument {name!r}; ")
    assert words in message


def test_what_an_unknown_argument_is_told_to_write_can_be_written() -> None:
    kinds = [Trainer.__init__, Trainer.fit, Trainer.test, Checkpoint.__init__, EarlyStopping.__init__]
    taken = {name for kind in kinds for name in inspect.signature(kind).parameters}
    assert set(_CALLED_ELSEWHERE.values()) <= taken
    for owner, table in _GOES_ELSEWHERE.items():
        kind = operator.attrgetter(owner)(deepepochs_like)
        own = set(inspect.signature(kind).parameters)
        assert not own & set(table), f"{owner} takes these by itself"
        for words in table.values():
            for name in re.findall(r"(?<![\w.])([A-Za-z_]+)\(|(?<=trainer\.)(\w+)", words):
                assert [
                    a for a in name if a and (hasattr(deepepochs_like, a) or hasattr(Trainer, a) or a == "DataLoader")
                ]


def test_an_unknown_keyword_like_no_other_is_told_those_there_are(run: Run) -> None:
    message = run.refuses(
        ArgumentTypeError, lambda: trainer(run.model).fit(run.loader, zzz=1), "it takes train_dl, val_dl"
    )
    assert "self" not in message


@pytest.mark.parametrize(("name", "meant"), [("metric", "metrics"), ("do_los", "do_loss"), ("batchsize", "batch_size")])
def test_a_misspelt_keyword_of_a_task(name: str, meant: str, run: Run) -> None:
    task = EpochTask(run.loader, **{name: 1})
    run.refuses_at_once(
        ArgumentTypeError,
        lambda: trainer(run.model).fit(train_tasks=task),
        f"EpochTask takes no argument {name!r}",
        f"did you mean {meant!r}?",
    )


def test_a_tasks_keywords_for_its_steps_are_passed_on() -> None:
    seen: list[Any] = []

    class Mine(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Any, metric: Any, teacher: Any) -> None:
            seen.append((metric, teacher))

    trainer(epochs=1).fit(train_tasks=Mine(batches(1), metric=1, teacher="t"))
    assert seen == [(1, "t")]


def test_an_unknown_attribute_of_a_task() -> None:
    task = EpochTask(batches(1))
    with pytest.raises(UnknownNameError, match="EpochTask has no attribute 'modle', and is not in a run"):
        task.modle  # noqa: B018
    assert not hasattr(task, "modle")
    trainer(epochs=1).fit(train_tasks=task)
    with pytest.raises(
        UnknownNameError, match="neither EpochTask nor Trainer has an attribute 'modle'; did you mean 'model'"
    ):
        task.modle  # noqa: B018
    assert isinstance(task.model.model, nn.Linear)
    assert getattr(task, "nothing_like_it", 5) == 5


def worth(task: EpochTask) -> float:
    run = trainer(epochs=1)
    run.fit(train_tasks=task)
    return float(run.test(batches(1))["loss"])


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda task: pickle.loads(pickle.dumps(task))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_task_can_be_copied_and_pickled(duplicate: Callable[[EpochTask], EpochTask], used: bool) -> None:
    task = EpochTask(batches(2), batch_size=2, name="a.", metrics=[mse])
    if used:
        worth(task)
    twin = duplicate(task)
    assert type(twin) is EpochTask
    assert (twin.name, twin.batch_size, twin.metrics, len(twin.dataloader)) == ("a.", 2, [mse], 2)
    assert worth(twin) == worth(EpochTask(batches(2), name="a."))


# ------------------------------------------------------------------------------------------------- non-finite losses


def losses(*values: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss that takes these values, one per batch."""
    left = iter(values)
    return lambda out, y: out.sum() * 0 + next(left)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_stops_the_run_when_figures_are_read(value: float) -> None:
    log = Recorder()
    with pytest.raises(NonFiniteLossError) as caught:
        trainer(callbacks=[log], loss=losses(1, 2, value, 3, value)).fit(batches(5))
    error = caught.value
    for part in (f"became {value} at batch 2 of the epoch", "learning rate", "check_finite=False"):
        assert part in str(error)
    assert error.step == 2
    assert error.value == pytest.approx(value, nan_ok=True)
    assert log.counts["after_train_batch"] == 5
    assert log.counts["after_train_epoch"] == log.counts["after_fit"] == 0
    assert log.counts["on_exception"] == log.counts["on_cleanup"] == 1
    assert "batch" not in error.__notes__[0], "the message says which"


def test_in_a_later_epoch_batches_are_counted_from_its_start() -> None:
    with pytest.raises(NonFiniteLossError, match="batch 1 of the epoch"):
        trainer(loss=losses(1, 2, 3, float("nan"))).fit(batches(2))


def test_check_finite_false_goes_on() -> None:
    history = trainer(loss=losses(1, float("nan"), 3, 5), check_finite=False).fit(batches(2))
    assert history["train"]["loss"] == [pytest.approx(float("nan"), nan_ok=True), 4.0]


def test_only_training_losses_must_be_finite() -> None:
    run = trainer(loss=losses(1, float("nan"), float("inf")), epochs=1)
    assert np.isnan(run.fit(batches(1), batches(1))["val"]["loss"][0])
    assert np.isinf(run.test(batches(1))["loss"])


# ------------------------------------------------------------------------------------------ numbers, devices, resume


INTS = [
    ("1", ArgumentTypeError, "an int is needed, not a str"),
    (1.0, ArgumentTypeError, "an int is needed, not a float"),
    (True, ArgumentTypeError, "an int is needed, not a bool"),
    (None, ArgumentTypeError, "an int is needed, not a NoneType"),
    (0, ArgumentError, "at least 1 is needed"),
    (-3, ArgumentError, "at least 1 is needed"),
]


@pytest.mark.parametrize("name", ["epochs", "accumulate"])
@pytest.mark.parametrize(("value", "kind", "part"), INTS)
def test_counts_of_the_trainer(name: str, value: Any, kind: type[Exception], part: str) -> None:
    Run().refuses(kind, lambda: trainer(**{name: value}), f"{name}={value!r}: {part}")


@pytest.mark.parametrize("name", ["val_freq", "max_steps", "val_every_steps"])
@pytest.mark.parametrize(("value", "kind", "part"), INTS)
def test_counts_of_fit(name: str, value: Any, kind: type[Exception], part: str, run: Run) -> None:
    if value is None and name != "val_freq":
        pytest.skip("None is what stands for none")
    options = {name: value} if name != "val_every_steps" else {name: value, "max_steps": 4}
    run.refuses_at_once(
        kind, lambda: trainer(run.model).fit(run.loader, batches(1), **options), f"{name}={value!r}: {part}"
    )


@pytest.mark.parametrize(("value", "kind"), [("2", ArgumentTypeError), (1.5, ArgumentTypeError), (-1, ArgumentError)])
def test_epochs_of_fit(value: Any, kind: type[Exception], run: Run) -> None:
    run.refuses_at_once(kind, lambda: trainer(run.model).fit(run.loader, epochs=value), f"epochs={value!r}")


def test_no_epochs_at_all_are_allowed_in_fit() -> None:
    log = Recorder()
    assert trainer(callbacks=[log]).fit(batches(1), epochs=0) == {}
    assert log.heard == ["before_fit", "after_fit", "on_cleanup"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"epochs": 2, "max_steps": 4}, ["epochs=2 and max_steps=4", "one or the other"]),
        ({"val_freq": 2, "max_steps": 4}, ["val_freq=2 counts epochs", "val_every_steps"]),
        ({"val_every_steps": 4}, ["val_every_steps goes with max_steps", "val_freq"]),
        ({"max_steps": 4, "train_tasks": EpochTask(batches(1))}, ["max_steps takes one training task, got 2"]),
    ],
)
def test_arguments_that_contradict_each_other(options: dict[str, Any], parts: list[str], run: Run) -> None:
    run.refuses_at_once(ArgumentError, lambda: trainer(run.model).fit(run.loader, batches(1), **options), *parts)


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ("gpu", ArgumentError),
        ("cudaa", ArgumentError),
        ("cuda:99", ArgumentError),
        ("", ArgumentError),
        (True, ArgumentTypeError),
        (1.5, ArgumentTypeError),
        (["cpu"], ArgumentTypeError),
    ],
)
def test_a_device_that_is_none(device: Any, kind: type[Exception]) -> None:
    model = net()
    Run(model).refuses(kind, lambda: Trainer(model, mse, device=device, verbose=0), f"device={device!r}")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        *(("gpu", "did you mean 'cuda'? device=None takes CUDA"), ("GPU", "did you mean 'cuda'?")),
        *(("gpu:1", "did you mean 'cuda:1'?"), ("cuda:x", "did you mean 'cuda:0'?"), ("1", "did you mean 'cuda:1'?")),
        *(("CUDA", "did you mean 'cuda'?"), ("cuad", "did you mean 'cuda'?"), ("Cpu", "did you mean 'cpu'?")),
        *(("auto", "here: device=None takes CUDA where there is one, else the CPU"), ("tpu", "no such name is known")),
        ("meta", "device='meta' holds shapes and no data"),
    ],
)
def test_a_device_that_is_none_is_told_which_is_meant(device: str, words: str) -> None:
    message = Run().refuses(ArgumentError, lambda: Trainer(net(), mse, device=device, verbose=0), words)
    assert len(message) < 160


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="it is there")
def test_a_device_that_torch_was_built_without_is_refused_in_one_sentence() -> None:
    message = Run().refuses(ArgumentError, lambda: Trainer(net(), mse, device="mps", verbose=0), "device=None takes")
    assert len(message) < 200


def test_a_model_that_is_on_meta_may_stay_there() -> None:
    assert Trainer(net().to("meta"), mse, device="meta", verbose=0).device.type == "meta"


@pytest.mark.parametrize(
    ("resume", "kind", "words"),
    [
        (None, ArgumentTypeError, "a run's id or a path is needed"),
        (1.5, ArgumentTypeError, "a run's id or a path is needed"),
        (["a"], ArgumentTypeError, "a run's id or a path is needed"),
        ("auto", ArgumentError, "pass running_id"),
        ("..", ArgumentError, "begin with a letter"),
        ("a\\b", ArgumentError, "cannot be in a run's name"),
        ("nowhere/at/all", CheckpointError, "there is no such file or folder"),
    ],
)
def test_a_resume_that_is_none(resume: Any, kind: type[Exception], words: str) -> None:
    Run().refuses(kind, lambda: trainer(resume=resume), f"resume={resume!r}", words)


@pytest.mark.parametrize("name", ["", "..", "a/b", True, 1.5])
def test_a_running_id_that_is_none(name: Any) -> None:
    kind = ArgumentTypeError if not isinstance(name, str) else ArgumentError
    Run().refuses(kind, lambda: trainer(running_id=name), f"running_id={name!r}")


def test_what_was_refused_changes_nothing_and_can_be_tried_again(run: Run) -> None:
    once = trainer(run.model)
    for wrong in ({"epochs": -1}, {"val_dl": 5}, {"metrics": 5}, {"zzz": 1}, {"max_steps": 0}):
        with pytest.raises(EngineError):
            once.fit(run.loader, **wrong)
    assert (once.running, once.history, run.loader.given) == ("", {}, 0)
    assert len(once.fit(run.loader)["train"]["loss"]) == 2


# ----------------------------------------------------------------------------------------- what newcomers try first


def test_a_class_in_place_of_an_instance_is_named(run: Run) -> None:
    class Metric:
        def __call__(self, preds: Any, targets: Any) -> float:
            return 0.0

    run.refuses(ArgumentTypeError, lambda: Trainer(run.model, nn.MSELoss, verbose=0), "loss=MSELoss", "MSELoss()")
    run.refuses(ArgumentTypeError, lambda: trainer(run.model, metrics=Metric), "Metric is a class", "Metric(...)")


def test_a_scheduler_in_place_of_an_optimizer_is_told_where_it_belongs(run: Run) -> None:
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(run.model.parameters(), lr=0.1), 1)
    run.refuses(
        ArgumentTypeError, lambda: trainer(run.model, opt=scheduler), "StepLR", "Optimizer(optimizer, scheduler)"
    )


def test_tensors_arrays_and_modules_are_no_loaders(run: Run) -> None:
    for wrong in (torch.ones(4, 2), torch.ones(4, 2).numpy(), nn.ModuleList([run.model])):
        run.refuses_at_once(
            ArgumentTypeError,
            lambda wrong=wrong: trainer(run.model).fit(wrong),
            "train_dl is a",
            "DataLoader(TensorDataset",
        )


def test_a_forgotten_loss_is_thought_of(run: Run) -> None:
    with pytest.raises(TypeError) as caught:
        Trainer(run.model, verbose=0, device="cpu").fit(run.loader)
    assert any("was loss= forgotten?" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("optimizer", "opt"), ("criterion", "loss"), ("max_epochs", "epochs"), ("accelerator", "device")],
)
def test_what_other_libraries_call_an_argument_is_understood(name: str, meant: str, run: Run) -> None:
    options: dict[str, Any] = {name: None}
    run.refuses(ArgumentTypeError, lambda: Trainer(run.model, **options), f"did you mean {meant!r}?")


def test_a_figure_that_is_not_there_is_named_with_those_that_are() -> None:
    class Looks(Callback):
        def on_after_epoch(self, trainer: Any, train_metrics: Any, val_metrics: Any, **others: Any) -> None:
            with pytest.raises(KeyError, match="no figure 'los'; did you mean 'loss'"):
                train_metrics["los"]
            with pytest.raises(KeyError, match="that stage did not run"):
                val_metrics["loss"]
            assert val_metrics.get("loss") is None

    trainer(callbacks=[Looks()], epochs=1).fit(batches(1))


def test_a_callback_class_made_for_one_run_is_not_kept() -> None:
    def trial() -> weakref.ref[nn.Module]:
        model = net()

        class Watch(Callback):
            def on_before_fit(self, trainer: Any, epochs: int) -> None:
                model(torch.ones(1, 2))

        Trainer(model, nn.functional.mse_loss, epochs=1, callbacks=Watch(), verbose=0).fit(
            [(torch.ones(2, 2), torch.ones(2, 1))]
        )
        return weakref.ref(model)

    models = [trial() for _ in range(3)]
    gc.collect()
    assert [model() for model in models] == [None] * 3
