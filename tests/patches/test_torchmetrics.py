"""`TorchMetricPatch`: torchmetrics objects as patches, never called, merged by each state's own reduction."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torchmetrics import MaxMetric, MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)
from torchmetrics.regression import MeanSquaredError, PearsonCorrCoef
from torchmetrics.wrappers import ClasswiseWrapper, Running

from deepepochs_like.errors import MetricError, PatchError
from deepepochs_like.patches import Outputs, TorchMetricPatch
from deepepochs_like.patches.slot import Slot
from support.classification import cut, cuts, samples
from support.figures import feed

COUNT = 48


class Weighted(Metric):
    """A mean of predictions, weighted by targets: two arguments, like torchmetrics' MeanMetric."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()

    def update(self, preds: Tensor, targets: Tensor) -> None:
        self.mean.update(preds.max(1).values, targets + 1.0)

    def compute(self) -> Tensor:
        return self.mean.compute()


class AllReductions(Metric):
    """One state of every reduction there is."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), "sum")
        self.add_state("mean", torch.zeros(()), "mean")
        self.add_state("high", torch.tensor(-torch.inf), "max")
        self.add_state("low", torch.tensor(torch.inf), "min")
        self.add_state("each", [], "cat")
        self.add_state("joined", torch.zeros(0), "cat")
        self.add_state("norm", torch.zeros(()), lambda stacked: stacked.square().sum(0).sqrt())

    def update(self, preds: Tensor, targets: Tensor) -> None:
        values = preds.max(1).values.float()
        self.total = self.total + values.sum()
        self.mean = (self.mean * (self._update_count - 1) + values.mean()) / self._update_count
        self.high, self.low = torch.maximum(self.high, values.max()), torch.minimum(self.low, values.min())
        self.each.append(values)
        self.joined = torch.cat((self.joined, values))
        self.norm = (self.norm.square() + values.square().sum()).sqrt()

    def compute(self) -> dict[str, Tensor]:
        each, joined = torch.cat(list(self.each)), self.joined
        return {
            **{name: getattr(self, name) for name in ("total", "mean", "high", "low", "norm")},
            "median": each.median(),
            "count": torch.tensor(len(joined) + 0.0),
        }


class NoReduction(Metric):
    """A state that nobody can merge."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("newest", torch.zeros(()))

    def update(self, preds: Tensor, targets: Tensor) -> None:
        self.newest = preds.sum()

    def compute(self) -> Tensor:
        return self.newest


def collection() -> MetricCollection:
    return MetricCollection(
        {
            "acc": MulticlassAccuracy(4, average="micro"),
            "f1": MulticlassF1Score(4),
            "p": MulticlassPrecision(4),
            "r": MulticlassRecall(4),
        }
    )


METRICS: dict[str, Callable[[], Any]] = {
    "accuracy": lambda: MulticlassAccuracy(4, average="micro"),
    "macro F1": lambda: MulticlassF1Score(4, average="macro"),
    "weighted mean": Weighted,
    "all reductions": AllReductions,
    "collection": collection,
    "groups given": lambda: MetricCollection(
        {"p": MulticlassPrecision(4), "r": MulticlassRecall(4)}, compute_groups=[["p", "r"]]
    ),
    "no groups": lambda: MetricCollection([MulticlassPrecision(4), MulticlassRecall(4)], compute_groups=False),
    "prefix": lambda: MetricCollection([MulticlassPrecision(4)], prefix="v_", postfix="!"),
    "wrapped": lambda: ClasswiseWrapper(MulticlassAccuracy(4, average=None)),
    "wrapped in a collection": lambda: MetricCollection({"c": ClasswiseWrapper(MulticlassF1Score(4, average=None))}),
    "composed": lambda: MulticlassAccuracy(4, average="micro") + 1,
}
EVEN = [8] * 6  # batches of one size, for the state that is a mean over updates


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return torch.allclose(left, right, rtol=1e-5)


def torchmetrics_own(make: Callable[[], Any], batches: list[tuple[Tensor, Tensor]]) -> Any:
    metric = make()
    for batch in batches:
        metric.update(*batch)
    return metric.compute()


@pytest.mark.parametrize("name", METRICS)
def test_absorbed_and_merged_figures_are_torchmetrics_own(name: str) -> None:
    make, batches = METRICS[name], cut(samples(1, COUNT), EVEN)
    expected, pattern = torchmetrics_own(make, batches), make()
    absorbed = TorchMetricPatch(pattern)
    for batch in batches:
        absorbed = absorbed.absorb(Outputs(*batch))
    assert same(absorbed(), expected)
    parts = [TorchMetricPatch(pattern).load(*batch) for batch in batches]
    assert same(sum(parts)(), expected)
    assert same(((parts[0] + parts[1]) + (parts[2] + (parts[3] + parts[4])) + parts[5])(), expected)
    # Merging and updating may take turns.
    mixed = (parts[0] + parts[1]).absorb(Outputs(*batches[2])).merge_(parts[3] + parts[4]).absorb(Outputs(*batches[5]))
    assert same(mixed(), expected)
    assert same(TorchMetricPatch(pattern).merge_(sum(parts))(), expected)


@pytest.mark.parametrize("name", METRICS)
def test_a_batchs_own_figure_is_torchmetrics_own(name: str) -> None:
    slot, batches = Slot(METRICS[name]()), cut(samples(1, COUNT), EVEN)
    for batch in batches:
        outputs = Outputs(*batch)
        feed(slot, outputs)
        assert same(slot.of_batch(outputs), torchmetrics_own(METRICS[name], [batch]))
    assert same(slot.patch(), torchmetrics_own(METRICS[name], batches))


@settings(max_examples=20)
@given(sizes=cuts(COUNT))
def test_metrics_that_keep_every_score_do_not_depend_on_the_cut(sizes: list[int]) -> None:
    data = samples(2, COUNT, 2)
    scores = data.scores.softmax(1)[:, 1]
    patches = [
        TorchMetricPatch(BinaryAUROC()).load(p, t)
        for p, t in zip(scores.split(sizes), data.targets.split(sizes), strict=True)
    ]
    whole = BinaryAUROC()
    whole.update(scores, data.targets)
    assert same(sum(patches)(), whole.compute())


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("half", [0, 1, 4, 6])
def test_a_state_saved_half_way_goes_on_and_stays_as_it_was(name: str, half: int) -> None:
    batches = cut(samples(1, COUNT), EVEN)
    first, second = TorchMetricPatch(METRICS[name]()), TorchMetricPatch(METRICS[name]())
    for batch in batches[:half]:
        first = first.absorb(Outputs(*batch))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    before = str(state)
    second.load_state_dict(state)
    for batch in batches[half:]:
        second = second.absorb(Outputs(*batch))
    assert same(second(), torchmetrics_own(METRICS[name], batches))
    assert str(state) == before


@pytest.mark.parametrize("name", METRICS)
def test_the_object_given_is_neither_updated_nor_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("forward was called")

    monkeypatch.setattr(Metric, "forward", fail)
    monkeypatch.setattr(MetricCollection, "forward", fail)
    mine = METRICS[name]()
    batches = cut(samples(1, COUNT), EVEN)
    mine.update(*batches[0])
    before = str(mine.metric_state)
    slot = Slot(mine)
    for batch in batches:
        feed(slot, Outputs(*batch))
    slot.of_batch(Outputs(*batches[0]))
    slot.reset()
    assert str(mine.metric_state) == before


def test_figures_are_named_after_the_class_and_those_of_a_collection_by_the_collection() -> None:
    assert Slot(MulticlassF1Score(4)).name == "MulticlassF1Score"
    batch = cut(samples(1, COUNT), EVEN)[0]
    assert Slot(collection()).name == ""
    assert list(Slot(collection()).of_batch(Outputs(*batch))) == ["acc", "f1", "p", "r"]
    assert list(Slot(METRICS["prefix"]()).of_batch(Outputs(*batch))) == ["v_MulticlassPrecision!"]
    assert Slot(TorchMetricPatch(collection())).name == ""
    assert Slot(TorchMetricPatch(MaxMetric(), name="top")).name == "top"


def test_a_metric_that_gives_no_number_is_named() -> None:
    class Curve(MulticlassAccuracy):
        def compute(self) -> Any:
            return (torch.ones(2), torch.ones(2))

    with pytest.raises(MetricError, match="metric 'Curve' returned"):
        TorchMetricPatch(Curve(4)).load(*cut(samples(1, COUNT), EVEN)[0])()


def test_states_without_a_reduction_can_be_taken_in_but_not_merged() -> None:
    batch = torch.ones(2), torch.ones(2)
    patches = [TorchMetricPatch(NoReduction()).load(*batch) for _ in range(2)]
    assert patches[0].absorb(Outputs(*batch))().item() == 2.0
    with pytest.raises(PatchError, match=r"NoReduction\.newest has no reduction"):
        patches[0] + patches[1]
    preds = torch.randn(8), torch.randn(8)
    with pytest.raises(PatchError, match="PearsonCorrCoef"):
        TorchMetricPatch(PearsonCorrCoef()).load(*preds) + TorchMetricPatch(PearsonCorrCoef()).load(*preds)


def test_different_metrics_do_not_merge() -> None:
    accuracy, squares = TorchMetricPatch(MulticlassAccuracy(4)), TorchMetricPatch(MeanSquaredError())
    with pytest.raises(PatchError, match="cannot merge torchmetrics MulticlassAccuracy with MeanSquaredError"):
        accuracy + squares
    with pytest.raises(PatchError, match="the state is of torchmetrics"):
        accuracy.load_state_dict(squares.state_dict())


@pytest.mark.parametrize("half", range(7))
def test_a_running_metric_gives_its_window_also_after_a_resume(half: int) -> None:
    def make() -> Any:
        return Running(MulticlassAccuracy(4, average="micro"), window=2)

    batches = cut(samples(1, COUNT), EVEN)
    first, second = Slot(make()), Slot(make())
    for batch in batches[:half]:
        feed(first, Outputs(*batch))
    second.load_state_dict(first.state_dict())
    for batch in batches[half:]:
        feed(second, Outputs(*batch))
    assert same(second.patch(), torchmetrics_own(make, batches))
    parts = [TorchMetricPatch(make()).load(*batch) for batch in batches[:2]]
    with pytest.raises(PatchError, match="Running takes the last updates"):
        parts[0] + parts[1]


def test_a_patch_that_has_seen_nothing_says_so() -> None:
    with pytest.raises(PatchError, match="TorchMetricPatch Running holds nothing yet"):
        TorchMetricPatch(Running(SumMetric()))()
    for name in METRICS:
        with pytest.raises(PatchError, match="holds nothing yet"):
            TorchMetricPatch(METRICS[name]())()
