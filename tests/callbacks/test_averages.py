"""`EMA` and `SWA`: what they average, who sees it, and that nothing of it is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import (
    AMP,
    EMA,
    SWA,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochTask,
    FineTune,
    Trainer,
    load_weights,
    save_weights,
)
from deepepochs_like.callbacks.averaging import Averaging
from deepepochs_like.errors import ArgumentError, EngineWarning


def data(count: int = 40, batch: int = 8, shuffle: bool = False) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch, shuffle=shuffle)


def net(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16) if norm else nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))


def trainer(model: Any, *callbacks: Callback, epochs: int = 3, **options: Any) -> Trainer:
    opt = options.pop("opt", None) or torch.optim.Adam(model.parameters(), 0.01)
    return Trainer(model, F.cross_entropy, opt, epochs, "cpu", list(callbacks), verbose=0, **options)


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def by_hand(kind: str, epochs: int = 3) -> tuple[nn.Module, AveragedModel, list[float]]:
    model = net()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8) if kind == "ema" else None)
    opt, losses = torch.optim.Adam(model.parameters(), 0.01), []
    x, y = data().dataset.tensors  # type: ignore[attr-defined]
    for epoch in range(epochs):
        model.train()
        for batch_x, batch_y in data():
            F.cross_entropy(model(batch_x), batch_y).backward()
            opt.step()
            opt.zero_grad()
            if kind == "ema":
                average.update_parameters(model)
        if kind == "swa" and epoch >= 1:
            average.update_parameters(model)
            state = torch.get_rng_state()  # its dropout draws
            update_bn(data(), average)
            torch.set_rng_state(state)
        list(data())  # torch's loader draws when it is asked for a pass
        looked = average.module if int(average.n_averaged) else model
        looked.eval()
        with torch.no_grad():
            losses.append(F.cross_entropy(looked(x), y).item())
    return model, average, losses


@pytest.mark.parametrize(("kind", "make"), [("ema", lambda: EMA(0.8)), ("swa", lambda: SWA(start=1))])
def test_it_averages_as_torch_does_and_validates_with_the_average(kind: str, make: Any) -> None:
    own, average, losses = by_hand(kind)
    model, callback = net(), make()
    it = trainer(model, callback)
    history = it.fit(data(), data())
    assert equal(model, own)
    assert equal(callback.module, average.module)
    assert history["val"]["loss"] == pytest.approx(losses, abs=1e-6)
    assert it.test(data())["loss"] == pytest.approx(losses[-1], abs=1e-6)
    assert it.validate(data())["loss"] == pytest.approx(losses[-1], abs=1e-6)
    _x, y = data().dataset.tensors  # type: ignore[attr-defined]
    assert F.cross_entropy(it.predict(data()), y).item() == pytest.approx(losses[-1], abs=1e-6)
    assert callback.updates == int(average.n_averaged)


def test_training_and_hooks_between_see_the_weights_in_training() -> None:
    model, ema = net(), EMA(0.8)
    seen = []

    class Look(Callback):
        def on_after_val_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            seen.append(trainer.model.model is ema.module)
            assert trainer.state_dict()["models"]["model"].keys() == model.state_dict().keys()
            assert torch.equal(trainer.state_dict()["models"]["model"]["0.weight"], model[0].weight)

        def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
            seen.append(trainer.model.model is not model)

    it = trainer(model, ema, Look(), epochs=2)
    it.fit(data(8), data(8))
    assert seen == [False, True, False, True]
    assert it.model.model is model
    assert model.training


class StopAt(Callback):
    """Ask for a stop in a batch of an epoch."""

    def __init__(self, stage: str, epoch: int, batch: int) -> None:
        super().__init__()
        self.where = (stage, epoch, batch)

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if (trainer.progress.stage, trainer.progress.epoch, batch_idx) == self.where:
            trainer.stop()

    on_after_val_batch = on_after_train_batch


@pytest.mark.parametrize("where", [("train", 0, 2), ("train", 2, 0), ("val", 1, 1), ("val", 2, 4)])
@pytest.mark.parametrize("make", [lambda: EMA(0.8), lambda: EMA(0.8, every=3), lambda: SWA(start=1)])
def test_a_run_cut_anywhere_goes_on_to_the_same_average(make: Any, where: Any, tmp_path: Path) -> None:
    def run(folder: Path, *more: Callback) -> tuple[Trainer, Averaging]:
        torch.manual_seed(1)
        callback = make()
        it = trainer(net(), callback, *more, folder=folder, resume="auto", running_id="a")
        it.fit(data(shuffle=True), data())
        return it, callback

    whole, average = run(tmp_path / "whole")
    run(tmp_path / "cut", StopAt(*where))
    again, resumed = run(tmp_path / "cut")
    assert equal(again.model.model, whole.model.model)
    assert equal(resumed.module, average.module)
    assert again.history == whole.history
    assert resumed.updates == average.updates


def test_best_means_the_average_of_the_best(tmp_path: Path) -> None:
    it = trainer(net(), EMA(0.8), Checkpoint("val/loss", "max"), epochs=4, folder=tmp_path, running_id="a")
    history = it.fit(data(), data())
    last = it.test(data())["loss"]
    assert it.test(data(), weights="best")["loss"] == pytest.approx(max(history["val"]["loss"]), abs=1e-6)
    torch.manual_seed(7)
    it.fit(data(), data(), epochs=1)
    other = trainer(net(), EMA(0.8), epochs=4)
    other.fit(data(), data())
    torch.manual_seed(7)
    assert other.fit(data(), data(), epochs=1)["val"]["loss"][0] == it.history["val"]["loss"][-1] != last


def test_weights_that_are_loaded_are_what_is_tested(tmp_path: Path) -> None:
    model, ema = net(), EMA(0.8)
    it = trainer(model, ema)
    it.fit(data(), data())
    fresh = nn.Sequential(*net())
    save_weights(fresh, tmp_path / "fresh.pt")
    it.load_weights(tmp_path / "fresh.pt")
    expected = trainer(net(), epochs=1).test(data())["loss"]
    assert it.test(data())["loss"] == pytest.approx(expected)
    it.fit(data(8), epochs=1)
    assert ema.updates == 1, "a new average began"


def test_a_checkpoint_loaded_before_any_fit_is_tested_with_its_average(tmp_path: Path) -> None:
    it = trainer(net(), EMA(0.8))
    it.fit(data(), data())
    it.save_checkpoint(tmp_path / "it.ckpt")
    other = trainer(net(), EMA(0.8))
    other.load_checkpoint(tmp_path / "it.ckpt")
    assert other.test(data())["loss"] == it.test(data())["loss"] != trainer(it.model.model).test(data())["loss"]


def test_the_average_can_be_saved_and_loaded_elsewhere(tmp_path: Path) -> None:
    ema = EMA(0.8)
    it = trainer(net(), ema)
    it.fit(data(), data())
    save_weights(ema.module, tmp_path / "ema.pt")
    model = net()
    load_weights(model, tmp_path / "ema.pt")
    assert trainer(model).test(data())["loss"] == pytest.approx(it.test(data())["loss"])


def test_two_models_are_averaged_each_and_reached_under_their_names() -> None:
    class Two(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Any) -> None:
            self.loss(self.models["head"](self.models["body"](*batch_x)), batch_y, do_optimize=False)
            self.optimize("body")
            self.optimize("head")

        def evaluate_step(self, batch_x: Any, batch_y: Any) -> None:
            self.loss(self.models["head"](self.model.body(*batch_x)), batch_y)

    torch.manual_seed(0)
    models = {"body": nn.Linear(6, 4), "head": nn.Linear(4, 2)}
    opts = {name: torch.optim.SGD(module.parameters(), 0.1) for name, module in models.items()}
    ema = EMA(0.5)
    it = Trainer(models, F.cross_entropy, opts, 2, "cpu", [ema], verbose=0)
    it.fit(train_tasks=Two(data()), val_tasks=Two(data()))
    assert ema.updates == 10, "each model is averaged after its own optimizer's updates"
    x, y = data().dataset.tensors  # type: ignore[attr-defined]
    with torch.no_grad():
        expected = F.cross_entropy(ema.module["head"](ema.module["body"](x)), y)
    assert it.history["val"]["loss"][-1] == pytest.approx(expected.item(), abs=1e-6)


def test_an_update_that_overflowed_is_not_averaged() -> None:
    class Overflow(Callback):
        def on_after_backward(self, trainer: Any, loss: Tensor) -> None:
            if trainer.progress.batch == 0:
                next(iter(trainer.model.parameters())).grad[0, 0] = float("inf")

    ema, amp = EMA(0.8), AMP("fp16")
    trainer(net(False), amp, ema, Overflow(), epochs=1).fit(data())
    assert (amp.skipped, ema.updates) == (1, 4)


def test_the_refresh_of_swa_draws_nothing_and_leaves_the_order_alone() -> None:
    def fit(*callbacks: Callback) -> nn.Module:
        torch.manual_seed(3)
        model = net()
        trainer(model, *callbacks, epochs=4).fit(data(shuffle=True))
        return model

    assert equal(fit(), fit(SWA(start=1)))


def test_swa_says_what_it_cannot_refresh() -> None:
    batches = iter(list(data()) * 3)
    with pytest.raises(ArgumentError, match="can be read once only"):
        trainer(net(), SWA(start=0), epochs=1).fit(batches)


def test_two_averages_of_one_model_are_refused() -> None:
    with pytest.raises(ArgumentError, match="EMA and SWA: evaluation can look at one"):
        trainer(net(), EMA(), SWA(1))


@pytest.mark.parametrize("make", [lambda: EMA(1.0), lambda: EMA(0.9, every=0), lambda: SWA(-1), lambda: SWA(1, 0)])
def test_bad_arguments_are_refused(make: Any) -> None:
    with pytest.raises(ArgumentError, match="needed"):
        make()


def test_early_stopping_restores_the_average_of_the_best_too() -> None:
    it = trainer(net(), EMA(0.8), EarlyStopping("val/loss", 9, "max", restore_best=True), epochs=4)
    history = it.fit(data(), data())
    assert it.test(data())["loss"] == pytest.approx(max(history["val"]["loss"]), abs=1e-6)


def test_one_average_in_two_trainers_begins_anew() -> None:
    ema = EMA(0.8)
    for _ in range(2):
        trainer(net(), ema, epochs=1).fit(data())
        assert ema.updates == 5


def test_weights_loaded_within_a_fit_begin_a_new_average(tmp_path: Path) -> None:
    save_weights(net(), tmp_path / "fresh.pt")

    class Load(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            if epoch_idx == 1:
                trainer.load_weights(tmp_path / "fresh.pt")

    ema = EMA(0.8)
    it = trainer(net(), ema, Load(), epochs=2)
    it.fit(data())
    assert ema.updates == 5
    it.fit(data(), epochs=1)
    assert ema.updates == 10, "and goes on in the next fit"


def test_a_checkpoint_without_the_average_that_is_asked_for_says_so(tmp_path: Path) -> None:
    it = trainer(net(), EMA(0.8))
    it.fit(data())
    it.save_checkpoint(tmp_path / "it.ckpt")
    with pytest.warns(EngineWarning, match=r"no average of EMA\(0\.9\)"):
        trainer(net(), EMA(0.9)).test(data(), weights=tmp_path / "it.ckpt")


def test_of_two_optimizers_the_one_that_overflowed_averages_nothing() -> None:
    class Two(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Any) -> None:
            self.loss(self.models["head"](self.models["body"](*batch_x)), batch_y, do_optimize=False)
            self.optimize("body")
            self.optimize("head")

    class Overflow(Callback):
        def on_after_backward(self, trainer: Any, loss: Tensor) -> None:
            next(iter(trainer.models["head"].parameters())).grad[0, 0] = float("inf")

    models = {"body": nn.Linear(6, 4), "head": nn.Linear(4, 2)}
    opts = {name: torch.optim.SGD(module.parameters(), 0.1) for name, module in models.items()}
    ema = EMA(0.5)
    it = Trainer(models, F.cross_entropy, opts, 1, "cpu", [AMP("fp16"), Overflow(), ema], verbose=0)
    it.fit(train_tasks=Two(data()))
    state = ema.state_dict()
    assert (int(state["body"]["n_averaged"]), int(state["head"]["n_averaged"])) == (5, 0)


def test_batchnorm_that_is_frozen_keeps_its_statistics_in_the_mean_too() -> None:
    """Those of a layer that trains are taken anew."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for mode in (True, False):  # statistics as a pre-trained model has them
        model.train(mode)(torch.randn(64, 6) * 3 + 1)
    frozen = {name: value.clone() for name, value in model[1].named_buffers()}
    swa = SWA(start=0)
    it = Trainer(
        model,
        F.cross_entropy,
        torch.optim.SGD(model.parameters(), 0.1),
        2,
        "cpu",
        [FineTune({0: ["2", "3", "4"]}), swa],
        verbose=0,
    )
    for _ in range(2):  # the second time the layer is held when the average is made, or gone on with
        it.fit(data(), epochs=1)
        layers: Any = swa.module
        assert all(torch.equal(value, frozen[name]) for name, value in layers[1].named_buffers())
        assert not torch.equal(layers[3].running_mean, model[3].running_mean)


def test_an_average_that_never_begins_is_said() -> None:
    with pytest.warns(EngineWarning, match=r"SWA\(start=3\) does nothing in this fit.*the last one is 2"):
        trainer(net(), SWA(start=3)).fit(data())
    trainer(net(), SWA(start=2)).fit(data())
    trainer(net(), SWA(start=9)).fit(data(), max_steps=2)


@pytest.mark.parametrize(("epochs", "verbose"), [(9, 0), (None, 0), (None, 1)])
def test_an_average_that_a_later_fit_may_begin_is_no_reason_to_warn(epochs: int | None, verbose: int) -> None:
    said: list[str] = []
    model, swa = net(), SWA(start=1)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    count = {} if epochs is None else {"epochs": epochs}  # by default as many as say nothing of what is planned
    it = Trainer(model, F.cross_entropy, opt, device="cpu", callbacks=[swa], verbose=verbose, **count)
    it.print = lambda *words, **options: said.append(" ".join(map(str, words)))
    it.fit(data(), epochs=1)
    it.fit(data(), epochs=1)
    assert (sum("SWA(start=1) does nothing in this fit" in line for line in said), swa.updates) == (verbose, 1)


def test_an_average_of_a_later_phase_is_told_once_and_is_no_warning() -> None:
    said: list[str] = []
    swa = SWA(start=2)
    it = trainer(net(), swa, epochs=9)
    it.verbose, it.print = 1, lambda *words, **options: said.append(" ".join(map(str, words)))
    for _ in range(3):
        it.fit(data(), epochs=1)
    assert (sum("SWA(start=2) does nothing in this fit" in line for line in said), swa.updates) == (1, 1)
