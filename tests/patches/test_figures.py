"""`Figures` and the read-out: what steps return, one batch's figures, the epoch's, and a state half-way."""

from __future__ import annotations

import io
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from deepepochs_like import Callback, Checkpoint, Trainer, handles, metrics
from deepepochs_like.errors import (
    EngineWarning,
    LossError,
    MetricError,
    NonFiniteLossError,
    PatchError,
    StateError,
    StepError,
)
from deepepochs_like.figures import Figures
from deepepochs_like.patches import (
    ConfusionMetrics,
    ConfusionPatch,
    MeanPatch,
    PatchBase,
    TensorPatch,
    TorchMetricPatch,
    ValuePatch,
)
from deepepochs_like.patches.slot import Slot
from deepepochs_like.readout import read_out
from support.classification import cut, samples
from support.figures import batch_figures, run_batch


def slots() -> list[Slot]:
    """A metric of every kind, and two collections, whose names are both empty."""
    return [
        Slot(metrics.accuracy, "mean"),
        Slot(lambda p, t: metrics.f1(p, t, average="macro"), "tensor"),
        Slot(ConfusionMetrics(["recall"], average="macro")),
        Slot(MetricCollection({"tm_acc": MulticlassAccuracy(4, average="micro")})),
        Slot(MetricCollection({"tm_f1": MulticlassF1Score(4)})),
    ]


class Longest(PatchBase):
    """A user's patch that changes itself."""

    def load(self, values: list[float]) -> Longest:
        self.values = values
        return self

    def add(self, other: Longest) -> Longest:
        self.values.extend(other.values)
        return self

    def forward(self) -> float:
        return float(len(self.values))


def feed(figures: Figures, batch: tuple[Tensor, Tensor]) -> None:
    """A step: loss, outputs, and a patch of every kind."""
    preds, targets = batch
    n = len(targets)
    run_batch(
        figures,
        preds.mean(),
        batch,
        {
            "value": ValuePatch(n).load({"a": preds.mean(), "b": 1.0}),
            "mean": MeanPatch(metrics.accuracy, n).load(preds, targets),
            "tensor": TensorPatch(metrics.accuracy).load(preds, targets),
            "ignored": ConfusionMetrics(["accuracy"]).load(preds, targets),
            "torchmetrics": TorchMetricPatch(MulticlassAccuracy(4)).load(preds, targets),
            "longest": Longest().load(preds.flatten().tolist()),
        },
        n,
    )


@pytest.mark.parametrize("half", range(5))
def test_an_epoch_cut_off_goes_on_from_its_state(half: int) -> None:
    batches = cut(samples(3, 40), [10, 10, 10, 10])
    straight, first, second = Figures(slots()), Figures(slots()), Figures(slots())
    for batch in batches:
        feed(straight, batch)
    for batch in batches[:half]:
        feed(first, batch)
    file = io.BytesIO()
    torch.save(first.state_dict(ended=half == 4), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    before = str(state)
    second.load_state_dict(state, torch.device("cpu"))
    for batch in batches[half:]:
        feed(second, batch)
    assert second.read() == pytest.approx(straight.read(), rel=1e-12)
    assert str(state) == before


def test_a_state_of_another_device_follows_the_batches() -> None:
    batch = (torch.randn(4, 3, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta"))
    first, second = Figures([Slot(metrics.accuracy, "mean")]), Figures([Slot(metrics.accuracy, "mean")])
    run_batch(first, outputs=(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)), weight=4)
    second.load_state_dict(first.state_dict(), torch.device("meta"))
    run_batch(second, outputs=batch, weight=4)
    assert second.slots[0].patch().is_meta


def test_a_patch_that_no_step_returns_again_after_a_resume_is_missed_by_name() -> None:
    first, second = Figures([]), Figures([])
    first.take_patches({"tokens": ValuePatch(1).load(1.0)}, "step")
    second.load_state_dict(first.state_dict())
    with pytest.warns(EngineWarning, match="returned no tokens since the run was resumed"):
        assert second.read() == {}


def test_the_accumulator_is_never_the_steps_own_patch() -> None:
    figures = Figures([])
    mine, kept = ValuePatch(1), Longest().load([1.0])
    for value in (1.0, 2.0, 6.0):
        figures.take_patches({"v": mine.load(value), "n": kept.load([value])}, "step")
    assert figures.read() == {"v": 3.0, "n": 3.0}
    assert mine().item() == 6.0  # type: ignore[union-attr]
    assert kept.values == [6.0]
    kept.values.append(7.0)
    assert figures.read()["n"] == 3.0


def test_of_two_patches_with_one_name_in_a_step_the_later_counts() -> None:
    figures = Figures([])
    for _ in range(2):
        patches = {"a": ValuePatch(1, "x").load(1.0), "b": ValuePatch(1, "x").load(5.0)}
        run_batch(figures, patches=patches)
        assert batch_figures(figures) == {"x": 5.0}
    assert figures.read() == {"x": 5.0}


def test_a_steps_patch_stands_in_for_the_loss_or_metric_of_its_name() -> None:
    figures = Figures([Slot(metrics.accuracy)])
    patches = {"accuracy": ValuePatch(1).load(7.0), "loss": ValuePatch(1).load(9.0)}
    run_batch(figures, torch.tensor(1.0), (torch.eye(2), torch.arange(2)), patches)
    assert list(batch_figures(figures).items()) == [("loss", 9.0), ("accuracy", 7.0)]
    assert list(figures.read().items()) == [("loss", 9.0), ("accuracy", 7.0)]


def test_patches_of_one_name_must_stay_of_one_kind() -> None:
    figures = Figures([])
    figures.take_patches({"x": ValuePatch(1).load(1.0)}, "step")
    with pytest.raises(PatchError, match="cannot merge ValuePatch with Longest under the name 'x'"):
        figures.take_patches({"x": Longest().load([1.0])}, "step")


@pytest.mark.parametrize("wrong", [1.0, torch.ones(()), {"x": 1.0}, {"x": ValuePatch}])
def test_what_is_no_dict_of_patches_is_named_with_the_step(wrong: Any) -> None:
    with pytest.raises(StepError, match=r"Task\.step returned"):
        Figures([]).take_patches(wrong, "Task.step")


def test_a_patch_that_gives_no_number_is_named() -> None:
    class Nothing(Longest):
        def forward(self) -> Any:
            return None

    figures = Figures([])
    figures.take_patches({"n": Nothing().load([1.0])}, "step")
    for read in (figures.read, lambda: batch_figures(figures)):
        with pytest.raises(MetricError, match="'n' returned None"):
            read()


def test_a_batchs_figures_are_computed_from_what_it_left_however_late() -> None:
    figures, left, expected = Figures([Slot(metrics.accuracy)]), [], []
    for batch in cut(samples(3, 40), [10, 10, 10]):
        feed(figures, batch)
        expected.append(batch_figures(figures))
        left.append((figures.loss, figures.outputs, figures.returned))
    for batch_left, then in zip(left, expected, strict=True):
        assert figures.of(*batch_left) == then
        assert then["accuracy"] == then["mean"]
        assert all(isinstance(value, Tensor) and value.ndim == 0 for value in then.values())
    assert len({float(then["loss"]) for then in expected}) == 4


def test_a_batch_that_left_nothing_has_no_figures() -> None:
    figures = Figures([Slot(metrics.accuracy)])
    feed(figures, cut(samples(3, 40), [40])[0])
    run_batch(figures)
    assert batch_figures(figures) == {}


@pytest.mark.parametrize("kind", ["tensor", "mean", "confusion"])
def test_outputs_of_a_batch_that_is_not_brought_to_its_end_count_in_nothing(kind: str) -> None:
    figures = Figures([Slot(metrics.accuracy, kind), Slot(ConfusionMetrics(["accuracy"])), Slot(MulticlassAccuracy(2))])
    right, wrong = (torch.eye(2), torch.arange(2)), (torch.eye(2), 1 - torch.arange(2))
    run_batch(figures, outputs=right, weight=2)
    figures.take_outputs(*wrong, 2)
    run_batch(figures, outputs=right, weight=2)
    assert figures.read() == {"accuracy": 1.0, "C.acc": 1.0, "MulticlassAccuracy": 1.0}


def test_a_glance_shows_what_is_kept_as_sums() -> None:
    figures = Figures(slots())
    feed(figures, cut(samples(3, 40), [40])[0])
    assert list(figures.glance()) == ["loss", "accuracy", "valuea", "valueb", "mean"]


def test_names_are_put_behind_the_prefix() -> None:
    figures = Figures([Slot(metrics.accuracy)], prefix="a.")
    run_batch(figures, torch.tensor(1.0), (torch.eye(2), torch.arange(2)))
    assert list(figures.read()) == list(batch_figures(figures)) == ["a.loss", "a.accuracy"]


def test_a_loss_that_is_not_finite_is_an_error_when_it_is_read() -> None:
    for check in (True, False):
        figures = Figures([], check_finite=check)
        for loss in (1.0, math.inf, math.nan):
            figures.losses.add(torch.tensor(loss), 1)
            figures.batches += 1
        if not check:
            assert math.isnan(figures.read()["loss"])
            continue
        with pytest.raises(NonFiniteLossError, match="became inf at batch 1") as caught:
            figures.read()
        assert (caught.value.step, caught.value.value) == (1, math.inf)


class HalvesIt(Trainer):
    def step(self, batch_x: Any, batch_y: Any) -> None:
        loss = self.loss(self.model(batch_x), batch_y)
        loss /= 2


class AveragesIt(Trainer):
    average: Any = None

    def step(self, batch_x: Any, batch_y: Any) -> None:
        loss = self.loss(self.model(batch_x), batch_y)
        self.average = loss.detach() if self.average is None else self.average.mul_(0.9).add_(loss.detach(), alpha=0.1)


class SumsIt(Callback):
    total: Any = None

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if self.total is None:
            self.total = metrics["loss"]
        else:
            self.total += metrics["loss"]

    on_after_test_batch = on_after_train_batch


def batches_of(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(torch.full((2, 3), float(number)), torch.ones(2, 1)) for number in range(count)]


@pytest.mark.parametrize("stage", ["train", "test"])
@pytest.mark.parametrize(("kind", "callbacks"), [(HalvesIt, []), (AveragesIt, []), (Trainer, [SumsIt])])
def test_a_loss_that_is_changed_in_place_is_refused_with_the_fix(kind: Any, callbacks: Any, stage: str) -> None:
    net = torch.nn.Linear(3, 1)
    trainer = kind(net, mse_loss, epochs=1, verbose=0, callbacks=[callback() for callback in callbacks])
    run = trainer.fit if stage == "train" else trainer.test
    with pytest.raises(PatchError, match=r"loss: the one of batch 0 .* changed in place .*loss\.clone\(\)"):
        run(batches_of())


class ChangesItsLoss(Trainer):
    """Changes in place what a batch gave, and stops behind the second."""

    stops = True

    def step(self, batch_x: Any, batch_y: Any) -> None:
        out = self.model(batch_x)
        loss = self.loss(out, batch_y)
        if self.stops:
            self.change(out, loss)
            if self.progress.batch == 1:
                self.stop("enough")

    def change(self, out: Tensor, loss: Tensor) -> None:
        loss.clamp_(max=1e9)


class ChangesItsOutput(ChangesItsLoss):
    def change(self, out: Tensor, loss: Tensor) -> None:
        out.add_(1.0)


@pytest.mark.parametrize("kind", [ChangesItsLoss, ChangesItsOutput])
def test_what_was_changed_in_place_is_saved_and_refused_when_the_epoch_is_read(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def made(**options: Any) -> Any:
        wanted = [largest] if kind is ChangesItsOutput else []
        return kind(torch.nn.Linear(3, 1), mse_loss, epochs=1, metrics=wanted, verbose=0, running_id="r", **options)

    stopped = made(callbacks=[Checkpoint()])
    stopped.fit(batches_of(4))
    assert stopped.progress.batch == 2
    assert [path for path in tmp_path.rglob("*.ckpt") if path.stat().st_size]
    resumed = made(callbacks=[Checkpoint()], resume="auto")
    resumed.stops = False
    with pytest.raises(PatchError, match=r"of batch 0 .*changed in place after"):
        resumed.fit(batches_of(4))
    assert resumed.progress.batch == 4


def test_losses_of_which_one_was_changed_are_missing_from_no_figure_that_is_read_later() -> None:
    figures = Figures([])
    losses = [torch.tensor(float(number)) for number in range(64)]
    for loss in losses[:-1]:
        figures.losses.add(loss, 1, loss._version)
    losses[2].mul_(2)
    with pytest.raises(PatchError, match="loss: the one of batch 2 "):
        figures.losses.add(losses[-1], 1, 0)
    figures.losses.add(torch.zeros(()), 1, 0)
    for _ in range(2):
        with pytest.raises(PatchError, match="loss: the one of batch 2 "):
            figures.read()


def test_losses_that_cannot_be_added_up_are_missing_from_no_figure_that_is_read_later() -> None:
    losses = Figures([]).losses
    for _ in range(63):
        losses.add(torch.ones(()), 1)
    with pytest.raises(TypeError):
        losses.add(torch.ones(()), "much")  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(TypeError):
            losses.mean()


def test_a_state_of_losses_that_does_not_say_whether_they_are_right_is_loaded() -> None:
    figures, later = Figures([]), Figures([])
    figures.losses.add(torch.tensor(3.0), 1)
    state = figures.state_dict()
    del state["loss"]["spoilt"]
    later.load_state_dict(state)
    assert later.read() == {"loss": 3.0}


def test_a_patch_of_a_step_that_was_changed_in_place_is_saved_and_refused_when_it_is_read() -> None:
    figures, later = Figures([]), Figures([])
    preds = torch.ones(2)
    figures.add("p", TensorPatch(largest).load(preds, torch.ones(2)))
    kept = figures.patches["p"].leaves()[0][0]
    kept.mul_(2)
    later.load_state_dict(figures.state_dict(ended=True))
    with pytest.raises(PatchError, match=r"predictions of batch 0 .*changed in place"):
        later.read()


class Labelled(Tensor):
    """A tensor of a class of its own."""


def test_a_loss_of_a_class_of_its_own_is_looked_at_closely_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []
    monkeypatch.setattr(handles, "check_loss", lambda loss, *others: looks.append(loss))
    trainer = Trainer(torch.nn.Linear(3, 1), lambda out, y: mse_loss(out, y).as_subclass(Labelled), epochs=1, verbose=0)
    trainer.fit(batches_of())
    assert len(looks) == 1
    assert type(looks[0]) is Labelled


def test_losses_that_are_places_of_one_tensor_are_not_taken_for_changed() -> None:
    figures, all_of_them = Figures([]), torch.zeros(3)
    for number in range(3):
        all_of_them[number] = number
        loss = all_of_them[number]
        figures.losses.add(loss.detach(), 1, loss._version)
    assert figures.read() == {"loss": 1.0}


def test_a_loss_that_is_no_tensor_after_the_first_batch_is_named() -> None:
    def sometimes(out: Tensor, y: Tensor) -> Any:
        return mse_loss(out, y) if out.sum() != 0 else 0.0

    batches = [(torch.ones(2, 3), torch.ones(2, 1)), (torch.zeros(2, 3), torch.ones(2, 1))]
    trainer = Trainer(torch.nn.Linear(3, 1, bias=False), sometimes, epochs=1, verbose=0)
    with pytest.raises(LossError, match=r"loss=sometimes returned 0\.0 .*a 0-dimensional tensor is needed"):
        trainer.fit(batches)


def test_nothing_is_read_back_before_the_read_out() -> None:
    """On the meta device there is nothing to read, and trying to is an error."""
    figures = Figures(
        [
            Slot(metrics.accuracy, "mean"),
            Slot(lambda p, t: metrics.f1(p, t, average="macro"), "tensor", probe=True),
            Slot(metrics.accuracy, "confusion", probe=True),
            Slot(ConfusionMetrics(), probe=True),
        ]
    )
    for _ in range(70):
        preds, targets = torch.randn(4, 3, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
        patches = {"v": ValuePatch(4).load(preds.mean())}
        run_batch(figures, preds.mean(), (preds, targets), patches, torch.ones((), device="meta"))
        assert all(value.is_meta for value in batch_figures(figures).values())


def test_the_read_out_gives_numpy_values() -> None:
    figures = {
        "int": 3,
        "bool": torch.tensor(True),
        "half": torch.tensor(0.5, dtype=torch.bfloat16),
        "big": torch.tensor(2**40),
        "vector": torch.tensor([1.0, 2.0]),
        "bfloat16": torch.ones(2, dtype=torch.bfloat16),
        "numpy": np.float32(0.5),
        "array": np.ones(2),
        "graph": torch.ones((), requires_grad=True) * 3,
        "meta": torch.ones((), device="meta"),
    }
    values, extra = read_out(figures, torch.tensor(1.0))
    assert list(values) == list(figures)
    assert extra == 1.0
    for name, number in {"int": 3, "bool": 1, "half": 0.5, "big": 2**40, "numpy": 0.5, "graph": 3}.items():
        assert type(values[name]) is np.float64
        assert values[name] == number
    assert math.isnan(values["meta"])
    assert values["vector"].tolist() == [1.0, 2.0]
    assert values["bfloat16"].dtype == np.float32
    assert values["array"].tolist() == [1.0, 1.0]


def of_batches(figures: Figures, count: int) -> None:
    for number in range(count):
        figures.take_outputs(torch.full((2, 3), float(number)), torch.tensor([0, 1]), 2)
        for slot in figures.fed:
            slot.take(figures.outputs)
        figures.batches += 1


def spoil(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return preds.zero_().sum() + targets.fill_(7).sum()


def largest(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return preds.max() + targets.max()


@pytest.mark.parametrize("order", [[spoil, largest], [largest, spoil]])
def test_a_metric_that_changes_what_it_is_given_changes_no_other(order: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figures = Figures([Slot(metric) for metric in order])
        of_batches(figures, 3)
    assert figures.read()["largest"] == 3.0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("probe", [False, True])
def test_a_metric_that_works_in_place_leaves_the_batch_as_it_was(count: int, probe: bool) -> None:
    figures = Figures([Slot(spoil, probe=probe), Slot(largest, probe=probe)])
    preds, targets = torch.arange(6.0).view(2, 3), torch.tensor([0, 1])
    for _ in range(count):
        run_batch(figures, outputs=(preds, targets), weight=2)
        batch_figures(figures)
    assert figures.read()["largest"] == 6.0
    assert preds.sum() == 15.0
    assert targets.tolist() == [0, 1]


def test_a_torchmetric_that_works_in_place_is_tried_on_a_copy() -> None:
    class Spoils(MulticlassAccuracy):
        def update(self, preds: Tensor, target: Tensor) -> None:
            preds.neg_()
            super().update(preds, target)

    figures, preds = Figures([Slot(Spoils(2, average="micro"), probe=True)]), torch.eye(2)
    run_batch(figures, outputs=(preds, torch.tensor([1, 0])), weight=2)
    assert figures.read() == {"Spoils": 1.0}


class Refilled:
    """A loader that fills one pair of buffers again for every batch."""

    def __init__(self, rows: int = 2, room: int = 2) -> None:
        self.rows, self.room = rows, room

    def __iter__(self) -> Any:
        x, y = torch.empty(self.room, 3), torch.empty(self.room, dtype=torch.int64)
        for number in range(3):
            x.fill_(number), y.fill_(number)
            yield x[: self.rows], y[: self.rows]


class RefillsItsOutput(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.out = torch.nn.Linear(3, 3), torch.empty(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.net.bias, x, self.net.weight.t(), out=self.out)


@pytest.mark.parametrize("room", [2, 5])
def test_a_loader_that_fills_its_batches_again_is_refused_with_the_fix(room: int) -> None:
    trainer = Trainer(torch.nn.Linear(3, 3), cross_entropy, metrics=[largest], verbose=0)
    with pytest.raises(PatchError, match=r"'largest': the targets of batch 0 .*\.clone\(\).*metric_patch='mean'"):
        trainer.test(Refilled(room=room))
    trainer = Trainer(torch.nn.Linear(3, 3), cross_entropy, metrics=[right], metric_patch="mean", verbose=0)
    trainer.test(Refilled(room=room))


def test_a_model_that_fills_its_output_again_is_refused_with_the_fix() -> None:
    batches = [(torch.full((2, 3), float(number)), torch.tensor([0, 1])) for number in range(3)]
    trainer = Trainer(RefillsItsOutput(), cross_entropy, metrics=[largest], verbose=0)
    with pytest.raises(PatchError, match="'largest': the predictions of batch 0"):
        trainer.test(batches)


def test_a_dict_of_outputs_that_was_changed_is_refused() -> None:
    figures = Figures([Slot(lambda p, t: p["a"].sum())])
    outputs = {"a": torch.ones(2)}
    run_batch(figures, outputs=(outputs, None))
    outputs["a"].zero_()
    with pytest.raises(PatchError, match="the predictions of batch 0"):
        figures.read()


def test_batches_cut_from_one_tensor_may_be_changed_before_they_are_taken_in() -> None:
    class Relabels(Callback):
        def on_before_test_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
            batch_y[batch_y == 2] = -100

    x, y = torch.ones(6, 3), torch.tensor([0, 2, 1, 2, 0, 2])
    batches = list(zip(x.split(2), y.split(2), strict=True))
    trainer = Trainer(torch.nn.Linear(3, 3), cross_entropy, metrics=[left], callbacks=[Relabels()], verbose=0)
    assert trainer.test(batches)["left"] == 0.5


def test_columns_of_one_tensor_may_be_changed_before_they_are_taken_in() -> None:
    figures, table = Figures([Slot(largest)]), torch.zeros(2, 6)
    for number, targets in enumerate(table.split(2, dim=1)):
        targets.fill_(number)
        run_batch(figures, outputs=(torch.zeros(2, 2), targets), weight=2)
    assert figures.read()["largest"] == 2.0


def test_columns_that_are_filled_again_for_every_batch_are_refused() -> None:
    figures, table = Figures([Slot(largest)]), torch.zeros(2, 6)
    for number in range(3):
        run_batch(figures, outputs=(torch.zeros(2, 2), table[:, 1:3].fill_(number)), weight=2)
    with pytest.raises(PatchError, match=r"the targets of batch 0 .*fills the same memory again"):
        figures.read()


@pytest.mark.parametrize("part", [lambda out: out[:, :1], lambda out: out.t()[:1], lambda out: {"a": out[:, :1]}])
def test_a_part_of_a_tensor_that_was_changed_is_refused_as_it_cannot_be_told(part: Any) -> None:
    figures = Figures([Slot(lambda p, t: 0.0)])
    for _ in range(2):
        out = torch.zeros(3, 2)
        run_batch(figures, outputs=(part(out), torch.zeros(())), weight=3)
        out.sigmoid_()
    with pytest.raises(PatchError, match=r"predictions of batch 0 .* part of a larger .*cannot be told.*\.clone\(\)"):
        figures.read()


def test_parts_of_one_tensor_are_refused_where_the_last_was_changed_after_it_came() -> None:
    figures, every = Figures([Slot(largest)]), torch.zeros(6)
    for targets in every.split(2):
        run_batch(figures, outputs=(torch.zeros(2), targets), weight=2)
        targets.fill_(3)
    with pytest.raises(PatchError, match=r"targets of batch 0 .*cannot be told"):
        figures.read()


def test_a_batch_that_is_made_ready_while_a_state_is_taken_spoils_nothing() -> None:
    figures, later, every = Figures([Slot(largest)]), Figures([Slot(largest)]), torch.arange(6.0)
    first, second, third = every.split(2)
    for targets in (first, second):
        run_batch(figures, outputs=(torch.zeros(2), targets), weight=2)
    third.fill_(9)
    later.load_state_dict(figures.state_dict())
    assert later.read()["largest"] == 3.0


class Constant(torch.nn.Module):
    """What it gives out is what it learns, or a part of it."""

    def __init__(self, part: Any) -> None:
        super().__init__()
        self.c, self.part = torch.nn.Parameter(torch.zeros(2, 1)), part

    def forward(self, x: Tensor) -> Any:
        return self.part(self.c)


def error(preds: Any, targets: Tensor) -> Tensor:
    return ((preds["a"] if isinstance(preds, dict) else preds) - targets).abs().mean()


def error_of(preds: Any, targets: Tensor) -> Tensor:
    return mse_loss(preds["a"] if isinstance(preds, dict) else preds, targets)


@pytest.mark.parametrize("part", [lambda c: c, lambda c: c[:1].expand(2, 1), lambda c: c[:, :1], lambda c: {"a": c}])
def test_outputs_that_are_trained_themselves_count_as_they_were(part: Any) -> None:
    def trained(kind: str) -> Any:
        model = Constant(part)
        opt = torch.optim.SGD(model.parameters(), 0.3)
        trainer = Trainer(model, error_of, opt, 2, metrics=[error], metric_patch=kind, verbose=0)
        return trainer.fit(batches_of())["train"]["error"]

    assert trained("tensor") == pytest.approx(trained("mean"))


def left(preds: Tensor, targets: Tensor) -> Tensor:
    return (targets != -100).double().mean()


def right(preds: Tensor, targets: Tensor) -> Tensor:
    return (preds.argmax(1) == targets).double().mean()


@pytest.mark.parametrize("count", [1, 3])
def test_a_test_in_inference_mode_gives_the_same_figures(count: int) -> None:
    wanted = [largest, spoil, right, metrics.f1]
    trainer = Trainer(torch.nn.Linear(3, 3), cross_entropy, metrics=wanted, verbose=0)
    batches = [(torch.randn(2, 3), torch.tensor([0, 1])) for _ in range(count)]
    expected = trainer.test(batches)
    with torch.inference_mode():
        assert trainer.test(batches) == expected


def test_batches_of_different_lengths_are_counted_by_the_librarys_own_metrics() -> None:
    wanted: list[Any] = [metrics.accuracy, metrics.confusion_matrix, partial(metrics.f1, average="macro")]
    apart, flat = Figures([Slot(metric) for metric in wanted]), Figures([Slot(metric) for metric in wanted])
    for length in (5, 7, 6):
        preds, targets = torch.randn(2, 3, length), torch.randint(0, 3, (2, length))
        run_batch(apart, outputs=(preds, targets), weight=2)
        run_batch(flat, outputs=(preds.transpose(1, 2).reshape(-1, 3), targets.flatten()), weight=2)
    found, expected = apart.read(), flat.read()
    assert found["confusion_matrix"].tolist() == expected["confusion_matrix"].tolist()
    assert {name: found[name] for name in ("accuracy", "f1")} == {n: expected[n] for n in ("accuracy", "f1")}


def test_a_metric_that_takes_no_lists_is_named_where_batches_differ_in_length() -> None:
    figures = Figures([Slot(largest)])
    for length in (5, 7):
        run_batch(figures, outputs=(torch.ones(2, length), torch.ones(2, length)), weight=2)
    with pytest.raises(
        MetricError, match=r"'largest' failed \(AttributeError.*on lists of batches.*metric_patch='mean'"
    ):
        figures.read()


def test_figures_read_in_mid_epoch_go_on() -> None:
    figures, straight = (Figures([Slot(largest), Slot(metrics.f1), Slot(metrics.confusion_matrix)]) for _ in range(2))
    for _ in range(3):
        of_batches(figures, 2)
        figures.read()
    for _ in range(3):
        of_batches(straight, 2)
    left, right = figures.read(), straight.read()
    assert left["confusion_matrix"].tolist() == right["confusion_matrix"].tolist()
    assert left["confusion_matrix"].sum() == 12
    assert left["f1"] == right["f1"]


def test_metrics_that_share_what_is_kept_go_on_from_a_state() -> None:
    wanted = [largest, metrics.f1, ConfusionPatch(metrics.accuracy), ConfusionMetrics()]
    straight, first, second = (Figures([Slot(metric) for metric in wanted]) for _ in range(3))
    of_batches(straight, 3)
    of_batches(straight, 2)
    of_batches(first, 3)
    second.load_state_dict(first.state_dict())
    of_batches(second, 2)
    assert second.read() == straight.read()


def test_a_metric_whose_outputs_were_anothers_is_refused_where_it_keeps_its_own() -> None:
    state = Figures([Slot(largest), Slot(metrics.f1)]).state_dict()
    with pytest.raises(StateError, match="'f1'"):
        Figures([Slot(largest, "mean"), Slot(metrics.f1)]).load_state_dict(state)
