"""The functional metrics, against scikit-learn and torchmetrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor
from torchmetrics.functional import classification as tm

from deepepochs_like import metrics
from deepepochs_like.errors import ArgumentError, MetricError
from support.classification import Samples, drawn_samples, samples

AVERAGES = ("micro", "macro", "weighted")
RATIOS: dict[str, Callable[..., Tensor]] = {
    "precision": metrics.precision,
    "recall": metrics.recall,
    "f1": metrics.f1,
    "fbeta": metrics.fbeta,
}


def sklearn_ratio(name: str, targets: Tensor, labels: Tensor, average: str, classes: int, beta: float) -> float:
    """What scikit-learn says, with its word for `micro` of two classes."""
    word = "binary" if classes == 2 and average == "micro" else average
    options: dict[str, Any] = {"average": word, "zero_division": 0}
    if name == "fbeta":
        return float(sk.fbeta_score(targets, labels, beta=beta, **options))
    return float(getattr(sk, f"{name}_score")(targets, labels, **options))


@given(drawn_samples(), st.sampled_from(AVERAGES), st.sampled_from([0.5, 1.0, 2.0]))
def test_ratios_equal_scikit_learn(data: Samples, average: str, beta: float) -> None:
    for name, function in RATIOS.items():
        options = {"beta": beta} if name == "fbeta" else {}
        mine = function(data.scores, data.targets, average=average, **options).item()
        theirs = sklearn_ratio(name, data.targets, data.labels, average, data.classes, beta)
        assert mine == pytest.approx(theirs, abs=1e-12), name


@given(drawn_samples())
def test_accuracy_and_matrix_equal_scikit_learn(data: Samples) -> None:
    matrix = metrics.confusion_matrix(data.scores, data.targets)
    theirs = sk.confusion_matrix(data.targets, data.labels, labels=range(data.classes))
    assert matrix.tolist() == theirs.tolist()
    assert matrix.dtype == torch.int64
    accuracy = sk.accuracy_score(data.targets, data.labels)
    assert metrics.accuracy(data.scores, data.targets).item() == pytest.approx(accuracy, abs=1e-15)
    assert metrics.accuracy(conf_mat=matrix).item() == pytest.approx(accuracy, abs=1e-15)


@given(drawn_samples(), st.sampled_from(AVERAGES))
def test_labels_scores_and_matrix_give_the_same(data: Samples, average: str) -> None:
    matrix = metrics.confusion_matrix(data.scores, data.targets)
    for name, function in RATIOS.items():
        of_scores = function(data.scores, data.targets, average=average)
        assert of_scores == function(conf_mat=matrix, average=average), name
        if int(torch.cat((data.labels, data.targets)).max()) == data.classes - 1:
            assert of_scores == function(data.labels, data.targets, average=average), name


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("classes", [3, 5])
def test_several_classes_agree_with_torchmetrics(classes: int, average: Any) -> None:
    data = samples(3, 80, classes)
    options: dict[str, Any] = {"num_classes": classes, "average": average}
    theirs = {
        "precision": tm.multiclass_precision(data.labels, data.targets, **options),
        "recall": tm.multiclass_recall(data.labels, data.targets, **options),
        "f1": tm.multiclass_f1_score(data.labels, data.targets, **options),
        "fbeta": tm.multiclass_fbeta_score(data.labels, data.targets, beta=1.0, **options),
    }
    for name, function in RATIOS.items():
        mine = function(data.scores, data.targets, average=average).item()
        assert mine == pytest.approx(theirs[name].item(), abs=1e-6), name


def test_two_classes_agree_with_torchmetrics() -> None:
    data = samples(4, 80, 2)
    for mine, theirs in (
        (metrics.precision, tm.binary_precision),
        (metrics.recall, tm.binary_recall),
        (metrics.f1, tm.binary_f1_score),
    ):
        assert mine(data.scores, data.targets).item() == pytest.approx(
            theirs(data.labels, data.targets).item(), abs=1e-6
        )


def test_classes_that_never_occur_do_not_count_in_an_average() -> None:
    matrix = torch.tensor([[2, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert metrics.f1(conf_mat=matrix, average="macro").item() == 1.0
    assert metrics.recall(conf_mat=matrix, average="weighted").item() == 1.0


def test_ratios_without_a_denominator_are_zero() -> None:
    nothing = torch.zeros(3, 3, dtype=torch.int64)
    for average in AVERAGES:
        for function in RATIOS.values():
            assert function(conf_mat=nothing, average=average).item() == 0.0
    assert metrics.accuracy(conf_mat=nothing).item() == 0.0
    assert metrics.accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).item() == 0.0


def test_dense_predictions_count_every_place() -> None:
    scores, targets = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    flat = scores.movedim(1, -1).reshape(-1, 3), targets.flatten()
    assert torch.equal(metrics.confusion_matrix(scores, targets), metrics.confusion_matrix(*flat))
    assert metrics.accuracy(scores, targets) == metrics.accuracy(*flat)


def test_scores_that_are_whole_numbers_are_scores() -> None:
    votes = torch.tensor([[3, 0, 0, 0], [0, 5, 1, 0]])
    assert metrics.confusion_matrix(votes, torch.tensor([0, 2])).shape == (4, 4)
    assert metrics.confusion_matrix(votes[:, :, None], torch.tensor([[0], [2]])).shape == (4, 4)


@pytest.mark.parametrize("as_labels", [False, True])
def test_ignored_targets_do_not_count(as_labels: bool) -> None:
    data = samples(5, 30, 3)
    targets = data.targets.clone()
    targets[::3] = metrics.IGNORED
    kept = targets != metrics.IGNORED
    preds = data.labels if as_labels else data.scores
    assert torch.equal(
        metrics.confusion_matrix(preds, targets, 3), metrics.confusion_matrix(preds[kept], targets[kept], 3)
    )
    assert metrics.accuracy(preds, targets) == metrics.accuracy(preds[kept], targets[kept])


def test_an_ignored_target_is_not_right_even_where_the_prediction_is_ignored_too() -> None:
    labels = torch.tensor([1, -100, -100, 0])
    assert metrics.accuracy(labels, torch.tensor([1, -100, -100, 1])).item() == 0.5


@pytest.mark.parametrize("wrong", [-1, 3, 99])
def test_targets_outside_the_classes_are_an_error_that_counts_them(wrong: int) -> None:
    with pytest.raises(MetricError, match=r"^2 targets or labels lie outside 0\.\.2"):
        metrics.f1(torch.randn(4, 3), torch.tensor([0, wrong, wrong, 2]))


def test_one_floating_score_per_target_is_refused_with_the_fix() -> None:
    for preds in (torch.rand(4), torch.rand(4, 1)):
        with pytest.raises(MetricError, match=r"pass labels, e\.g\. \(scores > 0\.5\)\.long\(\)"):
            metrics.accuracy(preds, torch.tensor([0, 1, 1, 0]))


def test_shapes_that_do_not_go_together_are_named() -> None:
    with pytest.raises(MetricError, match=r"\(4, 3\) and targets \(5,\)"):
        metrics.confusion_matrix(torch.randn(4, 3), torch.zeros(5, dtype=torch.int64))


def test_arguments_are_either_outputs_or_a_matrix() -> None:
    data = samples()
    with pytest.raises(ArgumentError, match="neither"):
        metrics.precision()
    with pytest.raises(ArgumentError, match="not both"):
        metrics.accuracy(data.scores, data.targets, conf_mat=torch.eye(4))
    with pytest.raises(ArgumentError, match="square"):
        metrics.f1(conf_mat=torch.ones(2, 3))
    with pytest.raises(ArgumentError, match="'micro', 'macro', 'weighted'"):
        metrics.f1(data.scores, data.targets, average="macr")


def test_a_matrix_may_be_a_numpy_array() -> None:
    matrix = torch.tensor([[3, 1], [2, 4]])
    assert metrics.f1(conf_mat=matrix.numpy()) == metrics.f1(conf_mat=matrix)  # type: ignore[arg-type]


def test_results_are_float64_scalars() -> None:
    data = samples()
    for value in (metrics.accuracy(data.scores.float(), data.targets), metrics.f1(data.scores.float(), data.targets)):
        assert (value.dtype, value.shape) == (torch.float64, ())


def test_the_meta_device_works() -> None:
    scores, targets = torch.randn(6, 3, device="meta"), torch.zeros(6, dtype=torch.int64, device="meta")
    assert metrics.accuracy(scores, targets).is_meta
    for average in AVERAGES:
        assert metrics.f1(scores, targets, average=average).is_meta
    assert metrics.confusion_matrix(targets, targets).is_meta
