"""`ConfusionPatch` and `ConfusionMetrics`: any figure of the epoch's matrix, from one matrix per batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor

from deepepochs_like import metrics
from deepepochs_like.errors import ArgumentError, MetricError, PatchError
from deepepochs_like.figures import Figures
from deepepochs_like.patches import ConfusionMetrics, ConfusionPatch, Outputs
from deepepochs_like.patches.slot import Slot
from support.classification import Samples, cut, cuts, drawn_samples, samples


@given(data=drawn_samples(40), sizes=cuts(40), average=st.sampled_from(["micro", "macro", "weighted"]))
def test_all_figures_equal_scikit_learn_on_the_whole(data: Samples, sizes: list[int], average: str) -> None:
    figures = sum(ConfusionMetrics(average=average, beta=2.0).load(*batch) for batch in cut(data, sizes))()
    word = "binary" if data.classes == 2 and average == "micro" else average
    options: dict[str, Any] = {"average": word, "zero_division": 0}
    expected = {
        "acc": sk.accuracy_score(data.targets, data.labels),
        "p": sk.precision_score(data.targets, data.labels, **options),
        "r": sk.recall_score(data.targets, data.labels, **options),
        "f1": sk.f1_score(data.targets, data.labels, **options),
        "fb": sk.fbeta_score(data.targets, data.labels, beta=2.0, **options),
    }
    assert {key: float(value) for key, value in figures.items()} == pytest.approx(expected, abs=1e-12)
    assert list(figures) == list(expected)


@given(sizes=cuts(40))
def test_labels_teach_the_number_of_classes_as_they_come(sizes: list[int]) -> None:
    data = samples(9, 40, 5)
    order = data.targets.argsort()
    labels, targets = data.labels[order].split(sizes), data.targets[order].split(sizes)
    total = sum(ConfusionPatch(metrics.f1).load(p, t) for p, t in zip(labels, targets, strict=True))
    assert total.matrix().tolist() == sk.confusion_matrix(data.targets, data.labels, labels=range(5)).tolist()


def test_a_metric_gets_the_matrix_by_name_where_it_has_that_argument_else_by_position() -> None:
    data = samples()
    matrix = metrics.confusion_matrix(data.scores, data.targets)

    def positional(matrix: Tensor) -> Tensor:
        return matrix.trace()

    def keyword_only(*, conf_mat: Tensor) -> Tensor:
        return conf_mat.trace()

    for metric in (positional, keyword_only, lambda m: m.trace(), torch.trace):
        assert ConfusionPatch(metric).load(data.scores, data.targets)() == matrix.trace()
    macro = partial(metrics.f1, average="macro")
    assert ConfusionPatch(macro).load(data.scores, data.targets)() == macro(conf_mat=matrix)


def test_the_metric_may_change_the_matrix_it_gets() -> None:
    def spoil(matrix: Tensor) -> Tensor:
        return matrix.fill_diagonal_(0).sum()

    patch = ConfusionPatch(spoil).load(torch.eye(3), torch.arange(3))
    assert patch().item() == 0
    assert patch.matrix().trace() == 3
    patch.matrix().zero_()
    assert patch.matrix().trace() == 3


def counted(monkeypatch: pytest.MonkeyPatch, where: str) -> list[Any]:
    """The calls of `confusion_counts` that a module makes from now on."""
    calls: list[Any] = []
    count = metrics.confusion_counts

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args)
        return count(*args, **kwargs)

    monkeypatch.setattr(where, counting)
    return calls


def taken_in(figures: Figures, batches: int) -> dict[str, Any]:
    """The figures of so many batches of three samples."""
    for _ in range(batches):
        figures.take_outputs(torch.eye(3), torch.arange(3), 3)
        for slot in figures.fed:
            slot.take(figures.outputs)
    return figures.read()


def test_small_batches_are_counted_together_once_for_all_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, "deepepochs_like.metrics.confusion_counts")
    figures = taken_in(Figures([Slot(ConfusionPatch(metrics.accuracy)), Slot(ConfusionMetrics())]), 100)
    assert len(calls) == 2
    assert figures["accuracy"] == figures["C.f1"] == 1.0


def test_metrics_over_kept_outputs_share_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, "deepepochs_like.patches.base.confusion_counts")
    wanted = [partial(metrics.f1, average="macro"), metrics.precision, metrics.recall, metrics.confusion_matrix]
    figures = taken_in(Figures([Slot(metric) for metric in wanted]), 5)
    assert len(calls) == 1
    assert figures["f1"] == 1.0
    assert figures["confusion_matrix"].tolist() == [[5, 0, 0], [0, 5, 0], [0, 0, 5]]


def test_merging_and_keeping_a_state_counts_what_was_kept() -> None:
    first, second = (ConfusionPatch(metrics.accuracy).load(torch.eye(3), torch.arange(3)) for _ in range(2))
    state = second.state_dict()
    third = ConfusionPatch(metrics.accuracy)
    third.load_state_dict(state)
    assert (first + second).matrix().trace() == (first + third).matrix().trace() == 6
    assert first.matrix().trace() == third.matrix().trace() == 3


def test_predictions_of_any_size_go_together() -> None:
    patch = ConfusionPatch(metrics.accuracy)
    for height in (2, 3, 2):
        patch.absorb(Outputs(torch.rand(2, 4, height, 5), torch.zeros(2, height, 5).long()))
    assert patch.matrix().sum() == 70


def test_labels_out_of_range_are_an_error_when_the_figure_is_read() -> None:
    good, bad = torch.tensor([0, 1]), torch.tensor([0, 7])
    patch = ConfusionMetrics().load(torch.eye(2), good).absorb(Outputs(torch.eye(2), bad))
    with pytest.raises(MetricError, match=r"^1 targets or labels lie outside 0\.\.1"):
        patch()


def test_ignored_targets_do_not_count() -> None:
    patch = ConfusionPatch(metrics.accuracy).load(torch.eye(3), torch.tensor([0, -100, 1]))
    assert patch.matrix().sum() == 2
    assert patch().item() == 0.5


def test_one_floating_score_per_target_is_refused_with_the_fix() -> None:
    with pytest.raises(MetricError, match=r"pass labels, e\.g\. \(scores > 0\.5\)\.long\(\)"):
        ConfusionMetrics().load(torch.rand(3), torch.tensor([0, 1, 1]))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"'acuracy' is none of .* did you mean 'accuracy'"):
        ConfusionMetrics(["acuracy"])
    with pytest.raises(ArgumentError, match="average='mean'"):
        ConfusionMetrics(average="mean")
    with pytest.raises(PatchError, match="give it a function"):
        ConfusionPatch(None).load(torch.eye(2), torch.arange(2))()
    with pytest.raises(MetricError, match="metric 'roc' returned"):
        ConfusionPatch(lambda m: "x", name="roc").load(torch.eye(2), torch.arange(2))()


def test_only_the_figures_asked_for_are_given_in_their_order() -> None:
    figures = ConfusionMetrics(("f1", "accuracy")).load(torch.eye(2), torch.arange(2))()
    assert list(figures) == ["f1", "acc"]


def test_the_meta_device_works() -> None:
    scores, targets = torch.randn(4, 3, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    total = ConfusionMetrics().load(scores, targets) + ConfusionMetrics().load(scores, targets)
    assert all(value.is_meta for value in total().values())
