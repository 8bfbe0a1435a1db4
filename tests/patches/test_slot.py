"""`Slot`: what metrics a task takes, under which names, and what is said of them in their first epoch."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.functional.classification import multiclass_auroc

from deepepochs_like import Trainer, metrics
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, EngineWarning, MetricError, PatchError
from deepepochs_like.figures import Figures
from deepepochs_like.patches import (
    ConfusionMetrics,
    ConfusionPatch,
    MeanPatch,
    Outputs,
    PatchBase,
    TensorPatch,
    ValuePatch,
)
from deepepochs_like.patches.slot import Slot, check_kind
from support.classification import cut, samples
from support.figures import feed, run_batch


def run_epoch(*slots: Slot, sizes: list[int] | None = None, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """One epoch of 40 samples in batches of 16, 16 and 8."""
    figures = Figures(slots)
    for preds, targets in cut(samples(seed, 40), sizes or [16, 16, 8]):
        run_batch(figures, outputs=(changes.get("preds", lambda p: p)(preds), targets), weight=len(targets))
    return figures.read()


@contextmanager
def said() -> Iterator[list[str]]:
    """The warnings given inside."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    messages.extend(str(w.message) for w in caught if issubclass(w.category, EngineWarning))
    assert len(messages) == len(caught)


# Names.


def right(preds: Tensor, targets: Tensor) -> Tensor:
    return (preds.argmax(1) == targets).double().mean()


def renamed(name: str) -> Callable[..., Any]:
    def function(preds: Tensor, targets: Tensor) -> dict[str, Any]:
        return {"a": preds.sum(), "b": {"c": 1}}

    function.__name__ = name
    return function


class Functor:
    def __call__(self, preds: Tensor, targets: Tensor) -> Tensor:
        return preds.sum()


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        (right, ["right"]),
        (partial(metrics.f1, average="macro"), ["f1"]),
        (partial(partial(right)), ["right"]),
        (renamed("R."), ["R.a", "R.bc"]),
        (renamed(""), ["a", "bc"]),
        (Functor(), ["Functor"]),
        (lambda p, t: 0.5, ["<lambda>"]),
        (ConfusionMetrics(["f1", "accuracy"]), ["C.f1", "C.acc"]),
        (ConfusionMetrics(["f1"], name=""), ["f1"]),
        (ConfusionMetrics(["f1"], name=None), ["ConfusionMetricsf1"]),
        (ConfusionPatch(metrics.recall), ["recall"]),
        (MeanPatch(right, name="share"), ["share"]),
        (TensorPatch(partial(right)), ["right"]),
    ],
)
def test_figures_are_shown_under_the_metrics_name_and_the_keys_of_its_dict(metric: Any, names: list[str]) -> None:
    assert list(run_epoch(Slot(metric))) == names


@pytest.mark.parametrize("kind", ["tensor", "mean", "confusion"])
def test_a_kind_is_how_functions_are_added_up(kind: str) -> None:
    function: Any = metrics.accuracy if kind != "confusion" else (lambda m: m.trace() / m.sum())
    slot = Slot(function, kind)
    (value,) = run_epoch(slot).values()
    data = samples(0, 40)
    assert value == pytest.approx(float(metrics.accuracy(data.scores, data.targets)), rel=1e-6)
    assert type(slot.patch).__name__.lower() == f"{kind}patch"


def test_a_users_patch_class_gets_metric_and_batch_size_by_name() -> None:
    class Total(PatchBase):
        def __init__(self, batch_size: int, metric: Any, name: str | None = None) -> None:
            super().__init__(name)
            self.metric, self.weight = metric, batch_size

        def load(self, preds: Tensor, targets: Tensor) -> Total:
            self.total = self.metric(preds, targets) * self.weight
            return self

        def add(self, other: Total) -> Total:
            self.total += other.total
            return self

        def forward(self) -> Tensor:
            return self.total

    data = samples(0, 40)
    slot = Slot(right, Total)
    (value,) = run_epoch(slot).values()
    assert value == pytest.approx(float(right(data.scores, data.targets)) * 40)
    state = slot.state_dict()
    resumed = Slot(right, Total)
    resumed.load_state_dict(state)
    assert resumed.patch().item() == pytest.approx(value)


def test_a_subclass_of_a_built_in_patch_keeps_its_own_load() -> None:
    class Doubled(MeanPatch):
        def load(self, preds: Any, targets: Any) -> Any:
            return super().load(preds * 2, targets)

    (value,) = run_epoch(Slot(lambda p, t: p.mean(), Doubled)).values()
    assert value == pytest.approx(2 * float(samples(0, 40).scores.mean()))


def test_what_is_no_metric_or_no_kind_is_named() -> None:
    with pytest.raises(ArgumentTypeError, match="neither a function, a torchmetrics object nor a patch"):
        Slot(3)
    with pytest.raises(ArgumentError, match=r"metric_patch='tensr'.*did you mean 'tensor'"):
        Slot(right, "tensr")
    with pytest.raises(ArgumentTypeError, match="metric_patch=<class 'int'>"):
        Slot(right, int)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="metric_patch=ValuePatch"):
        check_kind(ValuePatch(1))
    with pytest.raises(ArgumentTypeError, match=r"ValuePatch\(metric=\.\.\., batch_size=\.\.\.\)"):
        Slot(right, ValuePatch)
    with pytest.raises(ArgumentTypeError, match="ValuePatch cannot be a pattern"):
        Slot(ValuePatch(1))


@pytest.mark.parametrize(
    "metric", [metrics.f1, partial(metrics.f1, average="macro"), ConfusionMetrics(), MulticlassAccuracy(4)]
)
def test_a_slot_can_be_copied_and_pickled(metric: Any) -> None:
    slot, data = Slot(metric), samples(0, 40)
    feed(slot, Outputs(data.scores, data.targets))
    for twin in (copy.deepcopy(slot), pickle.loads(pickle.dumps(slot))):
        assert twin.name == slot.name
        assert str(twin.patch()) == str(slot.patch())


def test_a_load_that_forgets_to_return_self_is_named() -> None:
    class Forgetful(PatchBase):
        def __init__(self, metric: Any, batch_size: int) -> None:
            super().__init__()

        def load(self, preds: Any, targets: Any) -> None:
            pass

    with pytest.raises(PatchError, match=r"Forgetful\.load\(\) returned None"):
        run_epoch(Slot(right, Forgetful))


def test_a_pattern_is_not_changed() -> None:
    pattern = ConfusionMetrics()
    run_epoch(Slot(pattern))
    assert pattern.counts is None


# A mean over batches that is not the epoch's value.


def auc(preds: Tensor, targets: Tensor) -> Tensor:
    return multiclass_auroc(preds.softmax(1), targets, num_classes=4)


def half_precision_loss(preds: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(preds.float(), targets).bfloat16()


def several(preds: Tensor, targets: Tensor) -> dict[str, Any]:
    return {"acc": metrics.accuracy(preds, targets), "f1": metrics.f1(preds, targets, average="macro")}


@pytest.mark.parametrize(
    "metric",
    [
        partial(metrics.f1, average="macro"),
        partial(metrics.precision, average="macro"),
        partial(metrics.recall, average="macro"),
        auc,
        several,
        lambda p, t: (p.argmax(1) == t).sum(),
    ],
)
def test_a_metric_that_is_no_mean_over_samples_is_said_once(metric: Callable[..., Any]) -> None:
    slot = Slot(metric, "mean")
    with said() as messages:
        for _ in range(3):
            run_epoch(slot)
    assert len(messages) == 1
    assert f"metric '{slot.name}' is averaged over batches" in messages[0]
    assert "metric_patch='tensor'" in messages[0]
    assert "'confusion'" in messages[0]


@pytest.mark.parametrize(
    "metric",
    [
        metrics.accuracy,
        metrics.f1,  # micro, of several classes: the accuracy
        metrics.precision,
        cross_entropy,
        half_precision_loss,
        lambda p, t: (p - p.mean(1, keepdim=True)).mean(),  # zero but for rounding
        lambda p, t: {"right": right(p, t), "vector": p.mean(0), "count": 1},
        lambda p, t: float("nan"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_mean_over_samples_is_passed_over_in_silence(metric: Callable[..., Any], dtype: torch.dtype) -> None:
    with said() as messages:
        for seed in range(5):
            run_epoch(Slot(metric, "mean"), seed=seed, preds=lambda p: p.to(dtype))
    assert messages == []


def test_what_is_said_is_shared_by_all_slots_of_a_trainer() -> None:
    shared: set[str] = set()
    macro = partial(metrics.f1, average="macro")
    with said() as messages:
        run_epoch(Slot(macro, "mean", shared))
        run_epoch(Slot(macro, "mean", shared))
    assert len(messages) == 1


@pytest.mark.parametrize("kind", ["tensor", "confusion"])
def test_other_kinds_are_not_compared(kind: str) -> None:
    with said() as messages:
        run_epoch(Slot(lambda *given: 0.0, kind), Slot(ConfusionMetrics(average="macro")))
    assert messages == []


def test_the_comparison_costs_three_calls_in_the_first_epoch_and_none_later() -> None:
    calls = []

    def counted(preds: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(preds))
        return right(preds, targets)

    slot = Slot(counted, "mean")
    run_epoch(slot)
    assert calls == [16, 16, 8, 16, 16, 32]
    calls.clear()
    run_epoch(slot)
    assert calls == [16, 16, 8]


def test_no_outputs_are_kept_after_the_first_epoch() -> None:
    slot = Slot(right, "mean")
    run_epoch(slot)
    assert slot._early is None
    assert Slot(right, "tensor")._early is None
    run_epoch(one := Slot(right, "mean"), sizes=[40])
    assert one._early is None


def test_batches_that_cannot_be_put_together_are_not_compared() -> None:
    slot = Slot(lambda p, t: p.square().sum(), "mean")
    figures = Figures([slot])
    with said() as messages:
        for width in (2, 3):
            run_batch(figures, outputs=(torch.ones(4, width), torch.zeros(4, width)), weight=4)
        figures.read()
    assert messages == []


@pytest.mark.parametrize(("kind", "draws"), [("mean", 3), ("tensor", 1)])
def test_looking_at_a_metric_leaves_the_random_generators_alone(kind: str, draws: int) -> None:
    def noisy(preds: Tensor, targets: Tensor) -> Tensor:
        return torch.rand(())

    torch.manual_seed(0)
    expected = [torch.rand(()) for _ in range(draws + 1)][-1]
    torch.manual_seed(0)
    with said():
        run_epoch(Slot(noisy, kind, probe=True))
    assert torch.rand(()) == expected


# The first batch.


@pytest.mark.parametrize("kind", ["tensor", "confusion"])
@pytest.mark.parametrize("wrong", [None, "0.5", [0.5]])
def test_a_metric_that_gives_no_number_fails_on_the_first_batch(kind: str, wrong: Any) -> None:
    slot = Slot(lambda *outputs: wrong, kind, probe=True)
    with pytest.raises(MetricError, match="metric '<lambda>' returned"):
        slot.prepare(Outputs(torch.eye(4), torch.arange(4)))
    assert not slot.taken


def test_labels_out_of_range_fail_on_the_first_batch() -> None:
    with pytest.raises(MetricError, match="lie outside"):
        Slot(ConfusionMetrics(), probe=True).prepare(Outputs(torch.eye(2), torch.tensor([0, 5])))


def test_a_metric_that_fails_on_one_batch_alone_is_said_once_and_goes_on() -> None:
    def needs_all(preds: Tensor, targets: Tensor) -> Tensor:
        if len(preds) < 40:
            raise ValueError("only one class")
        return right(preds, targets)

    shared: set[str] = set()
    with said() as messages:
        for _ in range(2):
            values = run_epoch(Slot(needs_all, "tensor", shared, probe=True))
    assert list(values) == ["needs_all"]
    assert len(messages) == 1
    assert "metric 'needs_all' failed on the first batch alone (ValueError: only one class)" in messages[0]


def test_a_mistake_in_a_metric_is_an_error_on_the_first_batch() -> None:
    with pytest.raises(TypeError):
        Slot(lambda preds: 0.0, "tensor", probe=True).prepare(Outputs(torch.eye(4), torch.arange(4)))


def test_a_metric_is_tried_once_per_slot_and_only_where_that_is_asked_for() -> None:
    calls = []

    def counted(preds: Tensor, targets: Tensor) -> float:
        calls.append(len(preds))
        return 0.0

    slot = Slot(counted, "tensor", probe=True)
    for _ in range(2):
        run_epoch(slot)
    assert calls == [16, 40, 40]
    calls.clear()
    run_epoch(Slot(counted, "tensor"))
    assert calls == [40]


# Within a run.


def run_of(metric: Any, kind: Any, **options: Any) -> tuple[Trainer, torch.nn.Module]:
    net = torch.nn.Linear(3, 4)
    return Trainer(net, cross_entropy, epochs=2, metrics=[metric], metric_patch=kind, verbose=0, **options), net


def loader_of(count: int = 24) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(count, 3, generator=generator), torch.randint(0, 4, (count,), generator=generator)
    return list(zip(x.split(8), y.split(8), strict=True))


def test_a_trainer_says_once_that_a_metric_is_no_mean_over_samples() -> None:
    trainer, _ = run_of(partial(metrics.f1, average="macro"), "mean")
    with said() as messages:
        trainer.fit(loader_of(), loader_of())
        trainer.fit(loader_of(), loader_of(), epochs=1)
        trainer.test(loader_of())
    assert len(messages) == 1


@pytest.mark.parametrize("kind", ["tensor", "confusion", "mean"])
def test_a_metric_that_gives_no_number_fails_before_the_first_update(kind: str) -> None:
    trainer, net = run_of(lambda *given: "high", kind)
    before = net.weight.clone()
    with pytest.raises(MetricError, match="'high'"):
        trainer.fit(loader_of())
    assert torch.equal(net.weight, before)


def test_figures_do_not_depend_on_how_the_epoch_is_cut() -> None:
    whole = [tuple(torch.cat(part) for part in zip(*loader_of(), strict=True))]
    kinds = [(partial(metrics.f1, average="macro"), "tensor"), (metrics.accuracy, "mean"), (ConfusionMetrics(), "mean")]
    for metric, kind in kinds:
        trainer, _ = run_of(metric, kind)
        assert trainer.test(whole) == pytest.approx(trainer.test(loader_of()), rel=1e-6)
