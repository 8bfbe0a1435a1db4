"""Bad input is refused by name: before the first batch where it can be known then, else before any weight changes."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from deepepochs_like import Callback, EpochTask, MeanPatch, Trainer, ValuePatch
from deepepochs_like.errors import (
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
    UnknownNameError,
)
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
        (lambda out, y: 3, ["the loss is 3, a int", "0-dimensional tensor"]),
        (lambda out, y: (mse(out, y), out), ["a tuple", "0-dimensional tensor"]),
        (lambda out, y: None, ["None"]),
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
        (lambda out: out, ["shape (2, 1)", "Trainer(loss=None)", "pass loss="]),
        (lambda out: (out, out), ["a tuple", "Trainer(loss=None)", "pass loss="]),
        (lambda out: out.detach().mean(), ["carries no gradient"]),
    ],
)
def test_without_a_loss_the_model_must_return_one(make: Callable[[Tensor], Any], parts: list[str]) -> None:
    run = Run(Output(make))
    run.refuses(LossError, lambda: trainer(run.model, loss=None).fit(run.loader), *parts)


def test_a_loss_under_its_name_is_taken() -> None:
    model = Output(lambda out: {"loss": out.square().mean(), "logits": out})
    assert len(trainer(model, loss=None).fit(batches(1))["train"]["loss"]) == 2


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
    parts = (f"{metric!r}", f"a {type(metric).__name__}", "function")
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


def pinball_column(out: Tensor, y: Tensor) -> Tensor:
    error = y - out
    return torch.maximum(0.9 * error, -0.1 * error).mean()


@pytest.mark.parametrize(
    ("loss", "preds", "targets"),
    [
        (gaussian, (4, 2), torch.ones(4, 1)),
        (gaussian_flat, (4, 2), torch.ones(4)),
        (pinball, (4, 3), torch.ones(4)),
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


@pytest.mark.parametrize(
    ("loss", "preds", "targets"),
    [
        (absolute, (4, 1), torch.ones(4)),
        (lambda out, y: (torch.sigmoid(out) - y.double()).pow(2).sum(), (4, 1), torch.ones(4)),
        (lambda out, y: nn.functional.huber_loss(out, y) + absolute(out.flatten(), y), (4, 1), torch.ones(4)),
        (absolute, (4, 4), torch.ones(4)),
        (absolute, (2, 3, 3), torch.ones(2, 1, 3, 3)),
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
    ],
)
def test_a_loss_that_pairs_samples_on_purpose_raises_no_alarm(loss: Any) -> None:
    shaped((4, 1), torch.ones(4), loss=loss)


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
