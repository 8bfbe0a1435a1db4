"""What the loop takes and gives: batches of every form, steps, tasks, schedules, steps instead of epochs."""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from deepepochs_like import (
    Callback,
    EpochTask,
    Optimizer,
    StopLoopException,
    TensorDict,
    TensorTuple,
    Trainer,
    ValuePatch,
    metrics,
)
from support.digits import digits, loader, mlp, same, weights

quiet: Any = functools.partial(Trainer, device="cpu", verbose=0)


class Net(nn.Module):
    """Takes inputs by position or by name and remembers what it got."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.got: list[Any] = []

    def forward(self, x: Tensor, scale: Any = 1.0) -> Tensor:
        self.got.append((type(x), type(scale)))
        out: Tensor = self.net(x) * (scale if isinstance(scale, (int, float)) else scale[:, None])
        return out


class OwnLoss(Net):
    """Returns its loss itself, in a dict where it is asked to."""

    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.as_dict = as_dict

    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        loss = F.cross_entropy(self.net(x), y)
        return {"loss": loss, "logits": self.net(x)} if self.as_dict else loss


Pair = namedtuple("Pair", ["x", "y"])


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda x, y: (x, y), TensorTuple),
        (lambda x, y: [x, y], TensorTuple),
        (lambda x, y: Pair(x, y), TensorTuple),
        (lambda x, y: (x, torch.ones(len(x)), y), TensorTuple),
        (lambda x, y: {"x": x, "scale": torch.ones(len(x))}, TensorDict),
        (lambda x, y: (x, None), TensorTuple),
        (lambda x, y: x, TensorTuple),
        (lambda x, y: [x], TensorTuple),
    ],
)
def test_batches_of_every_form_reach_the_step_as_inputs_and_target(make: Any, inputs: type) -> None:
    x, y = digits(30)
    seen: list[Any] = []

    def step(trainer: Trainer, batch_x: Any, batch_y: Any) -> None:
        seen.append((type(batch_x), batch_y, trainer.current_task.batch_weight))
        out = trainer.model(batch_x)
        trainer.loss(out, batch_y)

    def loss(out: Tensor, target: Any) -> Tensor:
        return F.cross_entropy(out, target) if target is not None else out.square().mean()

    history = quiet(Net(), loss, epochs=1).fit([make(x[:20], y[:20]), make(x[20:], y[20:])], step=step)
    assert [s[0] for s in seen] == [inputs, inputs]
    assert [s[2] for s in seen] == [20, 10]
    assert np.isfinite(history["train"]["loss"]).all()


def test_spreading_by_star_and_by_the_model_are_the_same() -> None:
    x, y = digits(10)
    outs = []

    def step(trainer: Trainer, batch_x: Any, batch_y: Any) -> None:
        outs.extend([trainer.model(*batch_x), trainer.model(batch_x), trainer.model(batch_x[0])])
        assert batch_x.shape == (10, 64)
        assert torch.flatten(batch_x).shape == (640,)

    quiet(Net(), F.cross_entropy).test([(x, y)], step=step)
    assert same(outs[:1], outs[1:2])
    assert same(outs[:1], outs[2:])


def test_what_is_no_tensor_passes_through() -> None:
    graph, seen = object(), []

    def step(trainer: Trainer, batch_x: Any, batch_y: Any) -> dict[str, Any]:
        seen.append((batch_x, batch_y))
        return {"n": ValuePatch(1).load(1.0)}

    batch = (graph, "name", 3, None, (torch.ones(2), ["a"]), {"k": torch.ones(2)})
    quiet(mlp(), F.cross_entropy).test([batch], step=step, batch_size=1)
    (inputs, target) = seen[0]
    assert tuple(inputs[:4]) == (graph, "name", 3, None)
    assert inputs[4][1] == ["a"]
    assert set(target) == {"k"}


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_model_may_return_the_loss_itself(as_dict: bool) -> None:
    history = quiet(OwnLoss(as_dict), epochs=2).fit(loader(0, 100), loader(100, 150))
    assert history["train"]["loss"][1] < history["train"]["loss"][0]
    by_name = [{"x": x, "y": y} for x, y in loader(0, 100)]
    assert len(quiet(OwnLoss(as_dict), epochs=2).fit(by_name)["train"]["loss"]) == 2


def test_predict_gives_outputs_in_their_own_structure() -> None:
    x, y = digits(50)

    class Structured(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Any:
            out = self.net(x)
            return {"logits": out, "parts": (out[:, 0], [out.sum()])}

    model = Structured()
    trainer = quiet(model, F.cross_entropy)
    model.train()
    result = trainer.predict(DataLoader(list(zip(x, y, strict=True)), 16))
    assert model.training
    with torch.no_grad():
        expected = model.net(x)
    torch.testing.assert_close(result["logits"], expected)
    torch.testing.assert_close(result["parts"][0], expected[:, 0])
    assert trainer.predict([x[:20], x[20:]])["logits"].shape == (50, 10)
    assert not result["logits"].requires_grad


def test_a_predict_step_of_ones_own_is_used() -> None:
    class Labels(Trainer):
        def predict_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> Any:
            return self.model(batch_x).argmax(1)

    assert Labels(mlp(), F.cross_entropy, device="cpu", verbose=0).predict(loader(0, 50)).shape == (50,)


def step_recorder(name: str, record: list[str]) -> Any:
    def step(self: Any, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        record.append(name)

    return step


@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_the_first_step_that_exists_runs_in_the_order_of_the_contract(stage: str) -> None:
    order = ["task.step", "trainer.step", f"task.{stage}_step", f"trainer.{stage}_step"]
    order += ["task.evaluate_step", "trainer.evaluate_step"] if stage != "train" else []
    for first in range(len(order)):
        record: list[str] = []
        owners: dict[str, dict[str, Any]] = {"task": {}, "trainer": {}}
        for name in order[first:]:
            owner, method = name.split(".")
            owners[owner][method] = step_recorder(name, record)
        task = type("T", (EpochTask,), owners["task"])(loader(0, 8, 8))
        trainer = type("R", (Trainer,), owners["trainer"])(mlp(), F.cross_entropy, device="cpu", verbose=0)
        if stage == "test":
            trainer.test(tasks=task)
        else:
            train = EpochTask(loader(0, 8, 8)) if stage == "val" else task
            trainer.fit(train_tasks=train, val_tasks=task if stage == "val" else None, epochs=1)
        assert order[first] in record


def test_step_args_reach_the_step_also_one_called_step_args() -> None:
    seen: list[Any] = []

    class Task(EpochTask):
        def step(self, batch_x: Any, batch_y: Any, alpha: float, step_args: str) -> None:
            seen.append((alpha, step_args, self.trainer.epochs, self.epochs))

    quiet(mlp(), F.cross_entropy, epochs=7).test(tasks=Task(loader(0, 8, 8), alpha=0.5, step_args="x"))
    assert seen == [(0.5, "x", 7, 7)]


def test_validation_comes_every_val_freq_epochs() -> None:
    history = quiet(mlp(), F.cross_entropy, epochs=5).fit(loader(0, 40), loader(40, 60), val_freq=2)
    assert len(history["train"]["loss"]) == 5
    assert len(history["val"]["loss"]) == 2
    assert history.epochs["val"] == [1, 3]
    assert [("val/loss" in row) for row in history.rows()] == [False, True, False, True, False]


def test_do_val_loss_false_leaves_the_loss_out() -> None:
    trainer = quiet(mlp(), F.cross_entropy, epochs=1, metrics=[metrics.accuracy])
    assert list(trainer.fit(loader(0, 40), loader(40, 60), do_val_loss=False)["val"]) == ["accuracy"]
    assert list(trainer.test(loader(40, 60), do_loss=False)) == ["accuracy"]


def test_max_steps_runs_over_passes_and_validates_on_the_way() -> None:
    model = mlp()
    trainer = quiet(model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.1), metrics=[metrics.accuracy])
    history = trainer.fit(loader(0, 100, 16), loader(100, 150), max_steps=20, val_every_steps=6)
    assert trainer.progress.step == 20
    assert len(history["train"]["loss"]) == len(history["val"]["loss"]) == 4  # after 6, 12, 18 and 20
    by_hand = mlp()
    opt, left = torch.optim.SGD(by_hand.parameters(), 0.1), 20
    while left:
        for x, y in loader(0, 100, 16):
            if left:
                F.cross_entropy(by_hand(x), y).backward()
                opt.step()
                opt.zero_grad()
                left -= 1
    assert same(weights(model), weights(by_hand))


def test_max_steps_without_val_every_steps_validates_after_every_pass() -> None:
    trainer = quiet(mlp(), F.cross_entropy)
    history = trainer.fit(loader(0, 100, 16), loader(100, 150), max_steps=10)
    assert history.epochs["val"] == [0, 1]
    assert trainer.progress.step == 10


def test_max_steps_with_accumulation_counts_updates() -> None:
    trainer = quiet(mlp(), F.cross_entropy, accumulate=3)
    trainer.fit(loader(0, 100, 16), max_steps=5)  # 7 batches a pass: 2 full windows and a short one
    assert trainer.progress.step == 5


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        x, y = digits(32)
        while True:
            yield from zip(x, y, strict=True)


def test_an_endless_loader_without_a_length_trains_by_steps() -> None:
    trainer = quiet(mlp(), F.cross_entropy)
    history = trainer.fit(DataLoader(Endless(), 8), loader(0, 32), max_steps=11, val_every_steps=4)
    assert trainer.progress.step == 11
    assert len(history["val"]["loss"]) == 3


def test_a_list_of_batches_and_a_generator_function_object_are_loaders() -> None:
    batches = list(loader(0, 60))

    class Again:
        def __iter__(self) -> Any:
            yield from batches

    results = [quiet(mlp(), F.cross_entropy, epochs=2).fit(source)["train"]["loss"] for source in (batches, Again())]
    assert results[0] == results[1]


def test_schedulers_step_per_update_per_epoch_and_on_a_figure() -> None:
    rates: dict[str, list[float]] = {}

    def run(name: str, make: Any, **options: Any) -> None:
        model = mlp()
        opt = torch.optim.SGD(model.parameters(), lr=1.0)
        trainer = quiet(model, F.cross_entropy, Optimizer(opt, make(opt), **options), metrics=[metrics.accuracy])
        rates[name] = []

        class Watch(Callback):
            def on_before_epoch(self, trainer: Any, **kwargs: Any) -> None:
                rates[name].append(trainer.opt.get_current_lr()[0])

        trainer.callbacks.append(Watch())
        trainer.fit(loader(0, 64), loader(64, 96), epochs=3)

    step_lr = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    plateau = functools.partial(
        torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, factor=0.1, threshold_mode="abs"
    )
    run("epoch", step_lr)
    run("step", step_lr, sched_on="step")
    run("accuracy", functools.partial(plateau, threshold=10.0), monitor="val/accuracy")
    run("loss", functools.partial(plateau, threshold=10.0), sched_with_loss=True)
    assert rates["epoch"] == [1.0, 0.5, 0.25]
    assert rates["step"] == [1.0, 0.25, 0.0625]
    assert rates["accuracy"] == pytest.approx([1.0, 1.0, 0.1])
    assert rates["loss"] == pytest.approx([1.0, 1.0, 0.1])


def test_several_models_and_optimizers_are_reached_by_name() -> None:
    g, d = nn.Linear(4, 64), nn.Linear(64, 1)

    class Gan(Trainer):
        def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> dict[str, Any]:
            real = batch_x[0]
            fake = self.models["g"](torch.randn(len(real), 4))
            d_loss = self.models["d"](fake.detach()).mean() - self.models["d"](real).mean()
            d_loss.backward()
            self.optimize("d")
            g_loss = -self.models["d"](fake).mean()
            g_loss.backward()
            self.optimize("g")
            self.opt["d"].zero_grad()
            return {"d": ValuePatch(len(real)).load(d_loss), "g": ValuePatch(len(real)).load(g_loss)}

    opts = {"g": torch.optim.SGD(g.parameters(), 0.1), "d": torch.optim.SGD(d.parameters(), 0.1)}
    before = weights(g) + weights(d)
    trainer = Gan({"g": g, "d": d}, opt=opts, epochs=2, device="cpu", verbose=0)
    history = trainer.fit(loader(0, 64))
    assert list(history["train"]) == ["d", "g"]
    after = weights(g) + weights(d)
    assert not any(torch.equal(before[i], after[i]) for i in (0, 1, 2))  # the critic's bias cancels out
    assert set(trainer.state_dict()["models"]) == set(trainer.state_dict()["optimizers"]) == {"g", "d"}
    assert trainer.progress.step == 4


def test_a_loss_that_is_a_module_is_trained_and_saved() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_var = nn.Parameter(torch.zeros(()))

        def forward(self, out: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(out, y) * torch.exp(-self.log_var) + self.log_var

    loss = Weighted()
    trainer = quiet(mlp(), loss, epochs=1)
    trainer.fit(loader(0, 64))
    assert loss.log_var.item() != 0
    assert "log_var" in trainer.state_dict()["loss"]


def test_stop_ends_after_the_batch_and_skips_validation() -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if batch_idx == 1 and trainer.progress.epoch == 1:
                trainer.stop("enough")

    class Raise(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if batch_idx == 1 and trainer.progress.epoch == 1:
                raise StopLoopException("enough")

    for callback in (Stop(), Raise()):
        trainer = quiet(mlp(), F.cross_entropy, epochs=9, callbacks=callback)
        history = trainer.fit(loader(0, 128), loader(128, 160))
        assert len(history["train"]["loss"]) == len(history["val"]["loss"]) == 1
        assert trainer.progress.step == 4 + 2
        assert trainer.stop_reason == "enough"


def test_figures_of_colliding_tasks_are_told_apart_by_name() -> None:
    trainer = quiet(mlp(), F.cross_entropy)
    with pytest.warns(UserWarning, match=r"two test tasks yield a figure 'loss'.*name="):
        trainer.test(tasks=[EpochTask(loader(0, 32)), EpochTask(loader(32, 64))])
    named = trainer.test(tasks=[EpochTask(loader(0, 32), name="a."), EpochTask(loader(32, 64), name="b.")])
    assert list(named) == ["a.loss", "b.loss"]


def test_a_patch_of_a_step_hides_a_figure_of_its_name() -> None:
    def step(trainer: Trainer, batch_x: Any, batch_y: Any) -> dict[str, Any]:
        trainer.loss(trainer.model(batch_x), batch_y)
        return {"loss": ValuePatch(len(batch_y)).load(42.0), "own": ValuePatch(1, name="named").load(1.0)}

    assert quiet(mlp(), F.cross_entropy).test(loader(0, 32), step=step) == {"loss": 42.0, "named": 1.0}


def test_a_custom_step_may_feed_the_figures_itself() -> None:
    def step(trainer: Trainer, batch_x: Any, batch_y: Any) -> None:
        out = trainer.model(batch_x)
        trainer.do_metric(F.cross_entropy(out, batch_y), out, batch_y)

    trainer = quiet(mlp(), F.cross_entropy, metrics=[metrics.accuracy])
    assert trainer.test(loader(0, 100), step=step) == trainer.test(loader(0, 100))


def test_gradients_may_be_accumulated_by_hand() -> None:
    class ByHand(Trainer):
        def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
            last = self.progress.batch % 2 == 1
            self.loss(self.model(*batch_x), batch_y, loss_adjust=0.5, do_optimize=last)

    model, auto = mlp(), mlp()
    opts = [torch.optim.SGD(m.parameters(), 0.1) for m in (model, auto)]
    ByHand(model, F.cross_entropy, opts[0], 2, "cpu", verbose=0).fit(loader(0, 128, 32))
    quiet(auto, F.cross_entropy, opts[1], 2, accumulate=2).fit(loader(0, 128, 32))
    for mine, theirs in zip(weights(model), weights(auto), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_test_inside_a_fit_leaves_the_fit_as_it_was() -> None:
    results: list[Any] = []

    class TestEachEpoch(Callback):
        def on_after_epoch(self, trainer: Any, **kwargs: Any) -> None:
            results.append(trainer.test(loader(100, 150)))

        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                results.append(trainer.test(loader(100, 150)))

    plain, nested = mlp(), mlp()
    histories = []
    for model, callbacks in ((plain, []), (nested, [TestEachEpoch()])):
        opt = torch.optim.SGD(model.parameters(), 0.1)
        histories.append(
            quiet(model, F.cross_entropy, opt, 2, callbacks=callbacks).fit(loader(0, 100), loader(100, 120))
        )
    assert same(weights(plain), weights(nested))
    assert histories[0].state_dict() == histories[1].state_dict()
    assert len(results) == 4


def test_submodules_keep_the_mode_they_had_before_the_run() -> None:
    model = mlp(dropout=0.5)
    model[2].eval()
    quiet(model, F.cross_entropy, epochs=1).fit(loader(0, 64), loader(64, 96))
    assert model.training
    assert not model[2].training


def test_training_batches_may_be_left_where_they_are() -> None:
    seen: list[Any] = []

    def step(trainer: Trainer, batch_x: Any, batch_y: Any) -> None:
        seen.append(batch_x.device.type)

    model = mlp().to("meta")
    opt = torch.optim.SGD(model.parameters(), 0.1)
    for move in (False, True):
        Trainer(model, F.cross_entropy, opt, 1, auto_traindata_to_device=move, verbose=0).fit(
            loader(0, 8, 8), step=step
        )
    assert seen == ["cpu", "meta"]


def test_a_second_device_is_chosen_by_the_models_place() -> None:
    assert Trainer(mlp().to("meta"), F.cross_entropy, verbose=0).device.type == "meta"
    assert Trainer(mlp(), F.cross_entropy, device=torch.device("cpu"), verbose=0).device == torch.device("cpu")
