"""Guards: numbers that are none, memory that runs out, and what a run takes."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepepochs_like import (
    AMP,
    Callback,
    Checkpoint,
    EngineWarning,
    EpochTask,
    FineTune,
    OnOOM,
    Optimizer,
    ResourceMonitor,
    Scheduled,
    StopLoopException,
    StopOnNaN,
    Trainer,
    cosine,
    linear,
    warmup,
)
from deepepochs_like.callbacks.on_oom import is_out_of_memory
from deepepochs_like.callbacks.resources import gpu_memory, memory
from deepepochs_like.errors import ArgumentError, BatchError, NonFiniteLossError
from deepepochs_like.metrics import accuracy
from support.digits import digits, loader, mlp, same, weights


class Bad(nn.Module):
    """Give numbers that are none, from one call on, for some calls."""

    def __init__(self, first: int, kind: float = float("nan"), calls: int = 10**9) -> None:
        super().__init__()
        self.first, self.kind, self.calls, self.called = first, kind, calls, 0

    def forward(self, x: Tensor) -> Tensor:
        self.called += 1
        if self.first <= self.called < self.first + self.calls:
            return torch.cat([x[:, :-1], x[:, -1:] * 0 + self.kind], 1)
        return x


def poisoned(first: int = 4, **options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential()
    for name, layer in (
        ("inner", nn.Linear(64, 16)),
        ("norm", nn.BatchNorm1d(16)),
        ("drop", nn.Dropout(0.1)),
        ("spoil", Bad(first, **options)),
        ("head", nn.Linear(16, 10)),
    ):
        model.add_module(name, layer)
    return model


def trainer(model: nn.Module, *callbacks: Any, loss: Any = F.cross_entropy, **options: Any) -> Trainer:
    opt = options.pop("opt", None) or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = {"epochs": 2, "verbose": 0, **options}
    return Trainer(model, loss, opt, callbacks=list(callbacks), **options)


# ---------------------------------------------------------------------------------------- StopOnNaN


def test_the_first_layer_and_the_first_gradient_are_named() -> None:
    with pytest.raises(NonFiniteLossError) as raised:
        trainer(poisoned(), StopOnNaN()).fit(loader())
    assert raised.value.step == 3
    said = str(raised.value)
    assert "the training loss became nan at batch 3 of epoch 1 (counted from 0), update 3" in said
    assert "is that of 'spoil' (Bad): 32 of 512 numbers NaN, given finite inputs" in said
    assert "the first bad gradient, in the order of back-propagation, is that of 'head.weight'" in said
    assert "the weights are bad already" not in said


def test_it_happens_before_the_update_and_leaves_no_trace() -> None:
    """The run is stopped with the state that it had before the bad batch, generators included."""

    class Leave(Callback):
        def on_after_backward(self, trainer: Any, loss: Any) -> None:
            if trainer.progress.step == 3:
                raise StopLoopException

    def stopped(guard: Callback) -> tuple[Trainer, Tensor]:
        run = trainer(poisoned(), guard)
        torch.manual_seed(1)
        run.fit(loader(shuffle=True))
        return run, torch.rand(3)

    guard = StopOnNaN(answer="stop")
    (run, drawn), (reference, drawn_there) = stopped(guard), stopped(Leave())
    assert run.stop_reason == guard.found
    assert run.progress.step == reference.progress.step == 3
    assert same(weights(run.model.model), weights(reference.model.model))
    assert all(torch.isfinite(value).all() for name, value in run.model.named_parameters())
    assert torch.equal(drawn, drawn_there)
    assert all(p.grad is None for p in run.model.parameters())
    assert not any(module._forward_hooks for module in run.model.modules())
    assert not {"backward", "optimize"} & set(vars(run))


class Steps(Callback):
    """Stop after so many updates."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.updates = updates

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.progress.step == self.updates:
            trainer.stop()


@pytest.mark.parametrize("kind", [float("inf"), float("-inf")])
def test_infinity_and_what_comes_of_it_are_both_named(kind: float) -> None:
    model = poisoned(kind=kind)
    model.add_module("less", Less())
    with pytest.raises(NonFiniteLossError) as raised:
        trainer(model, StopOnNaN()).fit(loader())
    assert "the first bad output, in the order of execution, is that of 'spoil' (Bad): 32 of 512 numbers infinite" in (
        said := str(raised.value)
    )
    assert "the first NaN output, in the order of execution, is that of 'less' (Less)" in said


class Less(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.detach()


def test_a_bad_gradient_of_a_finite_loss_is_seen() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 0).clamp(min=0).sqrt() + x

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), Root(), nn.Linear(16, 10))
    with pytest.raises(NonFiniteLossError) as raised:
        trainer(model, StopOnNaN()).fit(loader())
    said = str(raised.value)
    assert said.startswith("a gradient became bad, with a finite loss, at batch 0 of epoch 1")
    assert "is that of '0.bias' (2 of 4 are bad)" in said or "is that of '0.weight' (2 of 4 are bad)" in said
    assert not any(torch.isnan(p).any() for p in model.parameters())


def test_bad_data_is_told_from_a_bad_layer() -> None:
    x, y = digits(64)
    x[40, 3] = float("nan")
    with pytest.raises(NonFiniteLossError, match="the batch's inputs hold 1 numbers that are not finite"):
        trainer(mlp(), StopOnNaN()).fit([(x[:32], y[:32]), (x[32:], y[32:])])


def test_a_loss_that_is_bad_by_itself_is_told_from_the_layers() -> None:
    def loss(preds: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(preds, targets) + (preds.sum() * 0 - 1).log()

    with pytest.raises(
        NonFiniteLossError, match="the outputs of all layers are finite, so that it comes from the loss"
    ):
        trainer(mlp(), StopOnNaN(), loss=loss).fit(loader())


def test_chance_is_said_to_be_chance() -> None:
    with pytest.raises(NonFiniteLossError, match="run again, gave a finite loss: chance"):
        trainer(poisoned(calls=1), StopOnNaN()).fit(loader())


def test_looks_in_between_cost_nothing_and_find_the_weights() -> None:
    looked: list[int] = []

    class Guard(StopOnNaN):
        def _is_fine(self, trainer: Any, loss: Tensor) -> bool:
            looked.append(trainer.progress.batch)
            return super()._is_fine(trainer, loss)

    with pytest.raises(NonFiniteLossError) as raised:
        trainer(poisoned(first=2), Guard(every=4)).fit(loader())
    assert looked == [0, 4]
    assert "the weights are bad already: inner.weight, inner.bias, norm.weight, norm.bias and 2 more" in str(
        raised.value
    )


def test_what_only_the_figures_show_is_noted_on_their_error() -> None:
    guard = StopOnNaN(every=100)
    with pytest.raises(NonFiniteLossError) as raised:
        trainer(poisoned(first=2), guard).fit(loader())
    notes = "\n".join(raised.value.__notes__)
    assert "StopOnNaN: 6 of 6 parameters are not finite by now: inner.weight" in notes
    assert guard.found in notes


def test_a_step_of_ones_own_and_several_models() -> None:
    models = {"encoder": nn.Linear(64, 16), "decoder": nn.Sequential(nn.Linear(16, 64), Bad(3))}
    steps: list[int] = []

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        steps.append(trainer.progress.batch)
        out = trainer.models["decoder"](trainer.models["encoder"](batch_x))
        loss = ((out - batch_x[0]) ** 2).mean()
        trainer.backward(loss)
        trainer.optimize()
        trainer.do_metric(loss)

    opt = torch.optim.SGD([p for m in models.values() for p in m.parameters()], lr=0.1)
    run = Trainer(models, F.mse_loss, opt, 1, callbacks=[StopOnNaN()], verbose=0)
    with pytest.raises(NonFiniteLossError) as raised:
        run.fit(loader(), step=step)
    assert "is that of 'decoder.1' (Bad)" in str(raised.value)
    assert "is that of 'decoder.0." in str(raised.value)
    assert steps == [0, 1, 2, 2]


class Adversaries(Trainer):
    """Two updates a batch, of two optimizers; the second loss is that of the generator, through the critic."""

    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        batch_x = batch_x[0]
        self.add_figure("seen", 1.0, weight=1)
        fake = self.models["g"](batch_x)
        loss = F.softplus(self.models["d"](fake.detach())).mean() + F.softplus(-self.models["d"](batch_x)).mean()
        self.backward(loss)
        self.optimize("d")
        self.opt["d"].zero_grad()
        loss = F.softplus(-self.models["d"](self.models["tail"](self.models["g"](batch_x)))).mean()
        self.backward(loss)
        self.optimize("g")
        self.do_metric(loss, fake, batch_y)


def adversaries(bad_call: int, *callbacks: Any, **options: Any) -> Adversaries:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 64))
    models = {
        "g": generator,
        "tail": nn.Sequential(nn.Identity(), Bad(bad_call)),
        "d": nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1)),
    }
    opts = {name: torch.optim.Adam(model.parameters(), 0.01) for name, model in models.items() if name != "tail"}
    return Adversaries(models, F.mse_loss, opts, 1, "cpu", list(callbacks), verbose=0, **options)


def test_of_several_losses_in_a_batch_it_is_the_bad_one_that_is_looked_into() -> None:
    guard = StopOnNaN(answer="stop")
    run = adversaries(3, guard)
    run.fit(loader(0, 160))
    assert "the training loss became nan at batch 2" in guard.found
    assert "with the batch's loss number 2" in guard.found
    assert "is that of 'tail.1' (Bad)" in guard.found
    assert "chance" not in guard.found


def test_what_the_bad_loss_is_made_of_may_have_come_before_the_good_one() -> None:
    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        good, bad = (trainer.models[name](batch_x).square().mean() for name in ("good", "bad"))
        trainer.backward(good)
        trainer.backward(bad)
        trainer.optimize()

    models = {"good": nn.Linear(64, 2), "bad": nn.Sequential(nn.Linear(64, 2), Bad(2))}
    guard = StopOnNaN(answer="stop")
    opt = torch.optim.SGD([p for model in models.values() for p in model.parameters()], 0.1)
    Trainer(models, F.mse_loss, opt, 1, "cpu", [guard], verbose=0).fit(loader(0, 96), step=step)
    assert "is that of 'bad.1' (Bad)" in guard.found


def test_losses_are_counted_in_each_batch_anew() -> None:
    guard = StopOnNaN(answer="stop")
    run = adversaries(3, guard)
    run.fit(loader(0, 32), epochs=5)
    assert "batch 0 of epoch 3 (counted from 0), update 2, with the batch's loss number 2" in guard.found
    assert "is that of 'tail.1' (Bad)" in guard.found


def test_the_second_look_leaves_figures_logs_and_optimizers_as_they_were() -> None:
    class Heard(Callback):
        def __init__(self) -> None:
            super().__init__()
            self.batches = 0

        def on_train_metrics(self, trainer: Any, loss: Any, model_out: Any, batch_y: Any, task: Any) -> None:
            self.batches += 1

    heard = Heard()
    run = adversaries(3, StopOnNaN(answer="stop"), heard, metrics=lambda preds, targets: preds.mean())
    steps: list[Any] = []
    run.opt["d"].opt.register_step_post_hook(lambda *step: steps.append(step))
    run.fit(loader(0, 160))
    assert (len(steps), heard.batches) == (3, 2), "of the third batch the critic's update alone"
    state = run.state_dict()
    assert state["open"]["figures"]["patches"]["seen"]["state"]["sums"][""][1] == 3
    assert "step" not in vars(run.opt["d"].opt), "nothing is left on the optimizer"
    assert not {"backward", "optimize", "fire_metrics", "add_figure", "log"} & set(vars(run))


def test_updates_that_a_step_makes_by_itself_are_not_made_again() -> None:
    class ByHand(Trainer):
        def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
            loss = self.models["a"](batch_x[0]).square().mean()
            loss.backward()
            self.opt["a"].step()
            self.opt["a"].zero_grad()
            self.backward(self.models["b"](batch_x[0]).square().mean())
            self.optimize("b")

    torch.manual_seed(0)
    models = {"a": nn.Linear(64, 2), "b": nn.Sequential(nn.Linear(64, 2), Bad(3))}
    opts = {name: torch.optim.Adam(model.parameters(), 0.01) for name, model in models.items()}
    run = ByHand(models, F.mse_loss, opts, 1, "cpu", [StopOnNaN(answer="stop")], verbose=0)
    run.fit(loader(0, 160))
    state = run.opt["a"].opt.state_dict()["state"]
    assert {float(of["step"]) for of in state.values()} == {3.0}


def test_accumulation_is_looked_at_batch_by_batch() -> None:
    with pytest.raises(NonFiniteLossError, match="at batch 3 of epoch 1"):
        trainer(poisoned(), StopOnNaN(), accumulate=4).fit(loader())


def test_a_run_in_bf16_is_run_again_in_bf16() -> None:
    with pytest.raises(NonFiniteLossError, match="is that of 'spoil'"):
        trainer(poisoned(), AMP("bf16"), StopOnNaN()).fit(loader())


def test_a_healthy_run_is_not_changed() -> None:
    torch.manual_seed(3)
    guarded = trainer(mlp(dropout=0.1), StopOnNaN())
    with_guard = guarded.fit(loader(shuffle=True), loader(200, 300))
    torch.manual_seed(3)
    bare = trainer(mlp(dropout=0.1))
    without = bare.fit(loader(shuffle=True), loader(200, 300))
    assert with_guard["train"]["loss"] == without["train"]["loss"]
    assert same(weights(guarded.model.model), weights(bare.model.model))


@pytest.mark.parametrize("bad", [False, True])
def test_sparse_gradients_are_looked_at(bad: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(10, 8, sparse=True), Bad(2 if bad else 10**9), nn.Linear(8, 2))
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    data = [(torch.randint(0, 10, (4, 3)), torch.randint(0, 2, (4,))) for _ in range(3)]
    run = trainer(model, StopOnNaN(), opt=opt, epochs=1)
    if not bad:
        run.fit(data)
        return
    with pytest.raises(NonFiniteLossError, match=r"is that of '1' \(Bad\).*is that of '2\.weight' \(3 of 3"):
        run.fit(data)


def test_a_layer_without_a_name_and_a_model_with_its_own_loss() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(64))

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x * self.scale).sum() * float("nan")

    with pytest.raises(NonFiniteLossError) as raised:
        trainer(Own(), StopOnNaN(), loss=None).fit(loader())
    assert "is that of 'the model itself' (Own): 1 of 1 numbers NaN" in str(raised.value)
    assert "is that of 'scale' (1 of 1 are bad)" in str(raised.value)


def test_wrong_arguments_of_stop_on_nan() -> None:
    with pytest.raises(ArgumentError, match="every=0"):
        StopOnNaN(0)
    with pytest.raises(ArgumentError, match="did you mean 'raise'"):
        StopOnNaN(answer="raize")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- OnOOM


class Tight(nn.Module):
    """A layer for which memory runs out with more than so many samples, forward or backward."""

    def __init__(self, most: int, backward: bool = False) -> None:
        super().__init__()
        self.most, self.backward = most, backward

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) <= self.most:
            return x
        if not self.backward:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        x = x.clone()
        if x.requires_grad:
            x.register_hook(self.fail)
        return x

    def fail(self, gradient: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def tight(most: int, backward: bool = False, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 16), Tight(most, backward), nn.Tanh(), nn.Linear(16, 10)).double()


def double_loader(last: int = 200, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    x, y = digits(last, torch.float64)
    return list(zip(x.split(size), y.split(size), strict=True))


def compare(most: int, backward: bool, loss: Any = F.cross_entropy, **options: Any) -> tuple[OnOOM, Trainer]:
    """Train with and without memory running out, and compare all there is to compare."""
    oom = OnOOM("halve")
    given = {"metrics": accuracy, **options}
    halved, whole = trainer(tight(most, backward), oom, loss=loss, **given), trainer(tight(10**9), loss=loss, **given)
    got, want = halved.fit(double_loader()), whole.fit(double_loader())
    assert got["train"]["loss"] == pytest.approx(want["train"]["loss"], rel=1e-12)
    assert got["train"]["accuracy"] == want["train"]["accuracy"]
    for mine, theirs in zip(weights(halved.model.model), weights(whole.model.model), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-11, atol=1e-13)
    assert halved.progress.step == whole.progress.step
    return oom, halved


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("most", [31, 16, 9, 5], ids=lambda most: f"{most} fit")
def test_parts_have_the_gradient_of_the_whole(most: int, backward: bool) -> None:
    oom, _ = compare(most, backward)
    assert oom.halved == 12 if most >= 8 else 14


def test_parts_of_unequal_size_weigh_as_much_as_they_have() -> None:
    x, y = digits(33, torch.float64)
    runs = [trainer(tight(most), OnOOM("halve"), epochs=1) for most in (20, 10**9)]
    for run in runs:
        run.fit([(x, y)])
    left, right = (weights(run.model.model) for run in runs)
    assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-13) for a, b in zip(left, right, strict=True))


def test_within_an_accumulation_window_it_is_exact() -> None:
    oom, _ = compare(16, False, accumulate=3)
    assert oom.halved == 12


def test_a_window_that_begins_with_such_a_batch_can_fail_in_its_backward_pass() -> None:
    batches = double_loader(72, 24)
    uneven = [batches[0], (batches[1][0][:8], batches[1][1][:8])]
    runs = [trainer(tight(most, True), OnOOM("halve"), accumulate=2, epochs=2) for most in (12, 10**9)]
    for run in runs:
        run.fit(uneven)
    left, right = (weights(run.model.model) for run in runs)
    assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-13) for a, b in zip(left, right, strict=True))


def test_a_window_with_gradients_in_it_cannot() -> None:
    (x, y), second = double_loader()[:2]
    said = refused(tight(16, True), [(x[:8], y[:8]), second], accumulate=3)
    assert "being added to those of the 1 batches before it in the accumulation window" in said


def notes(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def refused(model: nn.Module, data: Any, oom: OnOOM | None = None, **options: Any) -> str:
    """The notes on the error that a batch ended with which was not to be trained in parts."""
    step = options.pop("step", None)
    tasks = options.pop("tasks", None)
    run = trainer(model, oom or OnOOM("halve"), **options)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        run.fit(None if tasks else data, train_tasks=tasks, step=step)
    return notes(raised.value)


def test_batchnorm_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), Tight(16), nn.Linear(16, 10))
    said = refused(model, loader())
    assert "the batch of 32 samples is not trained in parts: 1 (BatchNorm1d) normalises over the whole batch" in said


def test_a_model_in_which_samples_see_each_other_is_refused() -> None:
    class Centre(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    model = nn.Sequential(nn.Linear(64, 16), Centre(), Tight(16), nn.Linear(16, 10))
    assert "depends on the others in the batch" in refused(model, loader())


def test_dropout_is_no_reason_to_refuse() -> None:
    model = nn.Sequential(nn.Linear(64, 16), nn.Dropout(0.3), Tight(16), nn.Linear(16, 10))
    run = trainer(model, OnOOM("halve"), epochs=1)
    run.fit(loader())
    assert run.callbacks[0].halved == 6


def test_an_error_behind_the_parts_is_its_own() -> None:
    class Fail(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer(tight(16), OnOOM("halve"), Fail()).fit(double_loader())


def test_a_step_of_ones_own_is_refused_by_name() -> None:
    def my_step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.model(batch_x), batch_y)

    class Mine(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Any) -> None:
            self.loss(self.model(batch_x), batch_y)

    assert "my_step is no default step" in refused(tight(16), double_loader(), step=my_step)
    assert "Mine.train_step is no default step" in refused(tight(16), None, tasks=Mine(double_loader()))


def test_losses_that_are_no_mean_over_samples_are_refused() -> None:
    def total(preds: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(preds, targets, reduction="sum")

    def contrast(preds: Tensor, targets: Tensor) -> Tensor:
        return (preds @ preds.T).logsumexp(1).mean()

    weight = torch.linspace(0.1, 3, 10, dtype=torch.float64)

    def weighted(preds: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(preds, targets, weight)

    for loss, name in ((total, "total"), (contrast, "contrast"), (weighted, "weighted")):
        assert f"{name} is no mean over samples" in refused(tight(16), double_loader(), loss=loss)
    x, y = double_loader()[0]
    ignoring = nn.CrossEntropyLoss(ignore_index=int(y[-1]))
    assert "ignores some of its targets" in refused(tight(16), [(x, y)], loss=ignoring)
    assert "the model computes its own loss" in refused(OwnLoss(), double_loader(), loss=None)


@pytest.mark.parametrize(
    "make", [lambda w: nn.CrossEntropyLoss(weight=w), lambda w: partial(F.cross_entropy, weight=w)]
)
def test_weights_of_classes_are_refused_though_the_samples_tried_are_of_one_class(make: Any) -> None:
    x, y = digits(32, torch.float64)
    loss = make(torch.linspace(0.1, 3, 10, dtype=torch.float64))
    assert "weighs classes" in refused(tight(16), [(x, y * 0)], loss=loss)


@pytest.mark.parametrize(
    "loss", [F.cross_entropy, partial(F.cross_entropy, ignore_index=7), lambda p, t: F.cross_entropy(p, t)]
)
def test_a_target_that_is_ignored_is_refused_wherever_it_stands(loss: Any) -> None:
    x, y = digits(32, torch.float64)
    y = y.clone()
    y[17] = 7 if isinstance(loss, partial) else -100
    assert "ignores some of its targets" in refused(tight(16), [(x, y)], loss=loss)


def squares(preds: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(preds[:, 0], targets.to(preds.dtype))


@pytest.mark.parametrize(
    ("targets", "loss"),
    [
        (torch.full((32,), 156, dtype=torch.uint8), squares),
        (torch.full((32,), -100, dtype=torch.int32), squares),
        (torch.full((32, 10), -100), nn.MSELoss()),
        (torch.full((32, 10), -100), F.mse_loss),
        (torch.full((32, 10), -100), partial(F.mse_loss, reduction="mean")),
    ],
)
def test_numbers_that_are_no_index_are_trained_in_parts(targets: Tensor, loss: Any) -> None:
    oom = OnOOM("halve")
    trainer(tight(16), oom, loss=loss, epochs=1).fit([(digits(32, torch.float64)[0], targets)])
    assert oom.halved == 1


def test_a_loss_that_says_that_it_ignores_nothing_is_believed() -> None:
    class Squares(nn.Module):
        ignore_index = None

        def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
            return squares(preds, targets)

    oom = OnOOM("halve")
    data = [(digits(32, torch.float64)[0], torch.full((32,), -100))]
    trainer(tight(16), oom, loss=Squares(), epochs=1).fit(data)
    assert oom.halved == 1


def test_an_index_that_is_told_is_ignored_in_targets_of_eight_bits_too() -> None:
    x, y = digits(32, torch.float64)
    loss = partial(F.cross_entropy, ignore_index=int(y[0]))
    assert "ignores some of its targets" in refused(tight(16), [(x, y.to(torch.uint8))], loss=loss)


def test_samples_are_tried_from_all_over_the_batch() -> None:
    def sorted_by_class(preds: Tensor, targets: Tensor) -> Tensor:
        weight = 1.0 + (targets > 4).to(preds.dtype)
        return (F.cross_entropy(preds, targets, reduction="none") * weight).sum() / weight.sum()

    x, y = digits(32, torch.float64)
    order = y.argsort()
    assert "is no mean over samples" in refused(tight(16), [(x[order], y[order])], loss=sorted_by_class)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64)), "0.parametrizations.weight.0._u"),
        (nn.Sequential(nn.Unflatten(1, (4, 16)), nn.InstanceNorm1d(4, track_running_stats=True), nn.Flatten()), "0.1"),
    ],
    ids=["spectral norm", "running statistics"],
)
def test_a_layer_that_every_forward_pass_changes_is_refused_by_name(layer: nn.Module, name: str) -> None:
    model = nn.Sequential(layer, *tight(16)).double()
    before = {key: value.clone() for key, value in model.named_buffers()}
    assert f"'{name}" in refused(model, double_loader(32))
    assert before.keys() == dict(model.named_buffers()).keys()


class OwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = tight(16)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), y)


def test_batches_that_cannot_be_cut_are_refused() -> None:
    x, y = double_loader()[0]
    assert "beside 32 of them it holds a tensor (1, 10)" in refused(
        tight(16), [(x, torch.zeros(1, 10))], loss=broadcast
    )
    assert "it is a single sample" in refused(tight(0), [(x[:1], y[:1])])
    assert "there is not enough memory for a single sample" in refused(tight(0, True), [(x, y)])


def broadcast(preds: Tensor, targets: Tensor) -> Tensor:
    return ((preds - targets) ** 2).mean()


def test_weights_of_ones_own_are_those_of_the_parts() -> None:
    """A mean over tokens: parts weigh as many tokens as they have."""

    def tokens(batch_x: Any, batch_y: Tensor) -> int:
        return int((batch_y != 0).sum())

    def loss(preds: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(preds, targets, ignore_index=0)

    runs = [trainer(tight(most), OnOOM("halve"), loss=loss, epochs=2) for most in (10, 10**9)]
    histories = [run.fit(double_loader(), batch_size=tokens) for run in runs]
    assert histories[0]["train"]["loss"] == pytest.approx(histories[1]["train"]["loss"], rel=1e-12)
    left, right = (weights(run.model.model) for run in runs)
    assert all(torch.allclose(a, b, rtol=1e-11, atol=1e-13) for a, b in zip(left, right, strict=True))


def test_other_callbacks_have_one_batch_and_a_state_between_batches() -> None:
    states: list[dict[str, Any]] = []
    heard: list[tuple[str, int]] = []

    class Listen(Callback):
        def on_train_metrics(self, trainer: Any, loss: Any, model_out: Any, batch_y: Any, task: Any) -> None:
            heard.append(("metrics", len(model_out)))

        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            heard.append(("after", batch_idx))
            assert float(metrics["loss"]) > 0
            states.append(copy.deepcopy(trainer.state_dict()))

    whole = trainer(tight(16), OnOOM("halve"), Listen(), metrics=accuracy, epochs=1)
    history = whole.fit(double_loader())
    assert heard == [h for i in range(7) for h in (("metrics", 32 if i < 6 else 8), ("after", i))]
    resumed = trainer(tight(16, seed=5), OnOOM("halve"), metrics=accuracy, epochs=1)
    resumed.load_state_dict(states[3])
    again = resumed.fit(double_loader())
    assert again["train"]["loss"] == history["train"]["loss"]
    assert same(weights(whole.model.model), weights(resumed.model.model))
    assert resumed.callbacks[0].halved == 6


def test_a_stop_in_a_hook_behind_it_is_kept() -> None:
    run = trainer(tight(16), OnOOM("halve"), Steps(2))
    run.fit(double_loader())
    assert (run.progress.step, run.progress.batch) == (2, 2)


def test_mixed_precision_goes_with_it() -> None:
    model = tight(16).float()
    run = trainer(model, AMP("bf16"), OnOOM("halve"), epochs=1)
    run.fit(loader())
    assert run.callbacks[1].halved == 6


def test_skipping_leaves_out_and_says_so() -> None:
    x, y = digits(72, torch.float64)
    batches = [(x[:8], y[:8]), (x[8:40], y[8:40]), (x[40:48], y[40:48])]
    run = trainer(tight(16), OnOOM("skip"), epochs=1)
    oom = run.callbacks[0]
    with pytest.warns(EngineWarning, match=r"1 batch was left out in epoch 1, .* was batch 1 .* of 32 samples"):
        run.fit(batches)
    without = trainer(tight(10**9), epochs=1)
    without.fit([batches[0], batches[2]])
    assert same(weights(run.model.model), weights(without.model.model))
    assert (oom.skipped, oom.halved) == (1, 0)
    assert oom.state_dict() == {"skipped": 1, "halved": 0}


def test_it_is_said_once_an_epoch_how_many_were_skipped() -> None:
    x, y = digits(120, torch.float64)
    sizes = [8, 32, 32, 32, 16]
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    run = trainer(tight(16), OnOOM("skip"), epochs=2)
    with pytest.warns(EngineWarning) as caught:
        run.fit(batches)
    said = [str(one.message) for one in caught]
    assert len(said) == 2
    assert "3 batches were left out in epoch 1, 3 so far; the first was batch 1" in said[0]
    assert "3 batches were left out in epoch 2, 6 so far" in said[1]


class Dies(Callback):
    """Raise an error of the script's own, at a batch that is trained."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.progress.step == self.at:
            raise KeyError("of the script")


def test_what_was_left_out_is_said_though_the_run_dies_of_something_else() -> None:
    run = trainer(tight(16), OnOOM("skip"), Dies(3), epochs=3)
    with pytest.warns(EngineWarning) as caught, pytest.raises(KeyError, match="of the script"):
        run.fit([*double_loader(96), *double_loader(16, 8)])
    assert len(caught) == 2
    assert "3 batches were left out in epoch 1, 3 so far" in str(caught[0].message)
    assert "3 batches were left out in epoch 2, 6 so far; the first was batch 0" in str(caught[1].message)
    assert {one.filename for one in caught} == {__file__}


def test_an_evaluation_that_dies_says_so_too() -> None:
    class Late(Callback):
        def on_after_test_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            raise KeyError("of the script")

    def loss(preds: Tensor, targets: Tensor) -> Tensor:
        if len(preds) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return F.cross_entropy(preds, targets)

    x, y = digits(40, torch.float64)
    run = trainer(tight(10**9), OnOOM("skip"), Late(), loss=loss)
    with pytest.warns(EngineWarning, match="1 batch was left out in the test"), pytest.raises(KeyError):
        run.test([(x[:32], y[:32]), (x[32:], y[32:])])


def endless(size: int = 32) -> Any:
    while True:
        yield from double_loader(64, size)


@pytest.mark.parametrize("data", [double_loader, lambda: iter(double_loader())], ids=["list", "iterator"])
def test_an_epoch_of_which_no_batch_fits_is_an_error(data: Any) -> None:
    with pytest.raises(BatchError, match=r"every batch of stage 'train' in epoch 1.*take smaller batches"):
        trainer(tight(4), OnOOM("skip"), epochs=2).fit(data())


@pytest.mark.parametrize("data", [double_loader, endless])
def test_updates_that_never_come_are_not_waited_for(data: Any) -> None:
    with pytest.raises(torch.OutOfMemoryError) as raised:
        trainer(tight(4), OnOOM("skip")).fit(data(), max_steps=5, val_every_steps=3)
    assert "without a single update; take smaller batches" in notes(raised.value)


def test_an_evaluation_of_which_no_batch_fits_is_an_error() -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(BatchError, match="every batch of stage 'test' in the test"):
        trainer(nn.Sequential(nn.Linear(64, 10), Never()), OnOOM("skip")).test(loader(0, 40))


def test_it_is_said_at_the_end_of_the_epoch() -> None:
    said: list[str] = []
    run = trainer(tight(16), OnOOM("halve"), epochs=1, verbose=1, show_info=False, log_batch=False)
    run.print = lambda *words, **options: said.append(" ".join(map(str, words)))
    run.fit(double_loader())
    assert "epoch 1: batches for which memory ran out: 6 trained in parts" in said


def test_raising_says_what_can_be_done() -> None:
    said = refused(tight(16), double_loader(), OnOOM())
    assert "memory ran out in a batch of 32 samples: take smaller ones, with Trainer(accumulate=n)" in said


def test_an_update_that_ran_out_of_memory_is_never_passed_over() -> None:
    class Greedy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step()
            raise torch.OutOfMemoryError("CUDA out of memory")

    for answer in ("skip", "halve"):
        model = tight(10**9)
        said = refused(model, double_loader(), OnOOM(answer), opt=Greedy(model.parameters(), lr=0.1))  # type: ignore[arg-type]
        assert "Greedy ran out of memory half-way through an update" in said


def test_what_a_failed_batch_held_is_free_before_the_parts_begin() -> None:
    held: list[Any] = []
    alive: list[int] = []

    class Keeps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            alive.append(sum(ref() is not None for ref in held))
            big = x.repeat(1, 4)
            held.append(weakref.ref(big))
            if len(x) > 16:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return x + big[:, :16]

    model = nn.Sequential(nn.Linear(64, 16), Keeps(), nn.Linear(16, 10))
    gc.disable()
    try:
        run = trainer(model, OnOOM("halve"), epochs=1)
        run.fit(loader(0, 32))
    finally:
        gc.enable()
    assert run.callbacks[0].halved == 1
    assert alive[1] == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_other_errors_are_not_its_business() -> None:
    run = trainer(nn.Linear(3, 10), OnOOM("skip"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run.fit(loader())
    assert run.callbacks[0].skipped == 0


def test_out_of_memory_between_batches_leaves() -> None:
    class Loader:
        def __iter__(self) -> Any:
            yield double_loader()[0]
            raise MemoryError("no more")

    with pytest.raises(MemoryError) as raised:
        trainer(tight(64), OnOOM("skip")).fit(Loader())
    assert "no batch can be left out" in notes(raised.value)


def test_evaluation_can_be_skipped_and_not_halved() -> None:
    class Eval(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 16:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return x

    model = nn.Sequential(nn.Linear(64, 10), Eval())
    run = trainer(model, OnOOM("halve"))
    with pytest.raises(torch.OutOfMemoryError) as raised:
        run.test(loader())
    assert "stage 'test', which is not trained on" in notes(raised.value)
    run = trainer(model, OnOOM("skip"))
    with pytest.warns(EngineWarning, match="1 batch was left out in the test"):
        figures = run.test(loader(0, 40))
    assert figures["loss"] == pytest.approx(run.test(loader(32, 40))["loss"])


def test_wrong_arguments_of_on_oom() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'halve'"):
        OnOOM("half")  # type: ignore[arg-type]


# --------------------------------------------------------------------------------- ResourceMonitor


def test_figures_of_what_a_run_takes() -> None:
    logged: list[tuple[dict[str, Any], int]] = []

    class Log(Callback):
        def log_figures(self, trainer: Any, figures: Any, step: int) -> None:
            logged.append((dict(figures), step))

    monitor, threads = ResourceMonitor(), threading.active_count()
    said: list[str] = []
    run = trainer(mlp(), monitor, Log(), verbose=1, show_info=False, log_batch=False)
    run.print = lambda *words, **options: said.append(" ".join(map(str, words)))
    run.fit(loader(), loader(200, 300))
    assert threading.active_count() == threads
    assert [figures["epoch"] for figures in monitor.epochs] == [1, 2]
    for figures in monitor.epochs:
        assert 10 < figures["rss"] <= figures["rss_peak"] < 10**6
        assert 100 < figures["samples_per_s"] < 10**8
    assert [step for _, step in logged] == [7, 14]
    assert set(logged[0][0]) == {"resources/rss", "resources/rss_peak", "resources/samples_per_s"}
    assert monitor.summary() in said
    assert monitor.summary().startswith("memory at most ")


def test_samples_are_counted_once_in_an_epoch_that_was_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepepochs_like.callbacks import resources

    clock = iter(np.arange(100.0))
    monkeypatch.setattr(resources, "perf_counter", lambda: float(next(clock)))
    first = trainer(mlp(), ResourceMonitor(), Steps(9))
    first.fit(loader())
    assert [figures["samples_per_s"] for figures in first.callbacks[0].epochs] == [200]
    second = trainer(mlp(), ResourceMonitor())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.fit(loader())
    assert [figures["samples_per_s"] for figures in second.callbacks[0].epochs] == [200, 200 - 64]
    assert [figures["epoch"] for figures in second.callbacks[0].epochs] == [1, 2]


def test_memory_of_the_process_is_what_the_kernel_says() -> None:
    before = memory()
    block = np.ones(40 * 2**20, dtype=np.uint8)
    after = memory()
    assert after["rss"] - before["rss"] > 30
    assert after["rss_peak"] >= after["rss"]
    assert block.sum() == 40 * 2**20
    assert gpu_memory(torch.device("cpu")) == {}


# ------------------------------------------------------------------------------------ all together


def together(folder: Any, *others: Any) -> Trainer:
    model = tight(16)
    opt = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    callbacks = [
        *(StopOnNaN(every=3), OnOOM("halve"), ResourceMonitor(), FineTune({0: "3", 1: "*"})),
        *(Scheduled(linear(3)), Checkpoint(every_steps=4), *others),
    ]
    scheduled = Optimizer(opt, (warmup(4) >> cosine(17)).scheduler(opt), sched_on="step")
    options = {"metrics": accuracy, "resume": "auto", "running_id": "run", "folder": folder, "verbose": 0}
    return Trainer(model, F.cross_entropy, scheduled, 3, callbacks=callbacks, **options)


@pytest.mark.parametrize("killed_at", [5, 9, 18])
def test_a_killed_run_with_all_of_them_goes_on_exactly(tmp_path: Path, killed_at: int) -> None:
    class Kill(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.step == killed_at:
                raise KeyboardInterrupt

    whole = together(tmp_path / "whole")
    history = whole.fit(double_loader())
    with pytest.raises(KeyboardInterrupt):
        together(tmp_path / "killed", Kill()).fit(double_loader())
    again = together(tmp_path / "killed")
    resumed = again.fit(double_loader())
    assert again.progress.step == whole.progress.step == 21
    assert same(weights(whole.model.model), weights(again.model.model))
    assert resumed["train"]["loss"][-1] == history["train"]["loss"][-1]
    kinds = {type(c).__name__: c for c in again.callbacks}
    assert kinds["OnOOM"].halved == 18
    assert [figures["epoch"] for figures in kinds["ResourceMonitor"].epochs] == [1, 2, 3]


def hooks_of(callback: Callback) -> set[str]:
    from deepepochs_like.events import EVENTS, listens

    return {event for event in EVENTS if listens(callback, event)}


@pytest.mark.parametrize("make", [OnOOM, ResourceMonitor, StopOnNaN])
def test_guards_listen_to_no_more_than_they_need(make: Callable[[], Callback]) -> None:
    per_batch = {event for event in hooks_of(make()) if "batch" in event or "forward" in event or "optimize" in event}
    assert not per_batch
    assert ("after_backward" in hooks_of(make())) is (make is StopOnNaN)
