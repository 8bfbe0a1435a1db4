"""`ValuePatch`, `MeanPatch` and the loop's own loss: sample-weighted means, exact in float64."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepepochs_like.errors import MetricError, PatchError
from deepepochs_like.patches import MeanPatch, Outputs, RunningLoss, TensorPatch, ValuePatch

floats = st.floats(-1e6, 1e6)
weighted = st.lists(st.tuples(floats, st.integers(1, 1000)), min_size=1, max_size=200)


def exact_mean(pairs: list[tuple[float, int]]) -> float:
    total = sum((Fraction(value) * weight for value, weight in pairs), Fraction(0))
    return float(total / sum(weight for _, weight in pairs))


def scale(pairs: list[tuple[float, int]]) -> float:
    return max(abs(value) for value, _ in pairs) + 1e-30


@given(weighted)
def test_the_mean_is_the_exact_one_to_rounding(pairs: list[tuple[float, int]]) -> None:
    for as_weight in (int, float, torch.tensor, np.int64):
        mean = sum(ValuePatch(as_weight(weight)).load(value) for value, weight in pairs)()
        assert float(mean) == pytest.approx(exact_mean(pairs), abs=1e-12 * scale(pairs))


@given(weighted)
def test_the_loops_loss_is_the_exact_mean_to_rounding(pairs: list[tuple[float, int]]) -> None:
    for as_weight in (int, torch.tensor):
        loss = RunningLoss()
        for value, weight in pairs:
            loss.add(torch.tensor(value, dtype=torch.float64), as_weight(weight))
        mean = loss.mean()
        assert mean is not None
        assert mean.item() == pytest.approx(exact_mean(pairs), abs=1e-12 * scale(pairs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_values_of_any_type_are_widened_before_they_are_weighted(dtype: torch.dtype) -> None:
    value = torch.tensor(1, dtype=dtype)
    total = sum(ValuePatch(weight).load(value) for weight in (1000, 60_000.5, torch.tensor(9000.0)))
    assert total().dtype == torch.float64
    assert total().item() == 1.0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.bool])
def test_weights_of_narrow_types_do_not_overflow(dtype: torch.dtype) -> None:
    total = sum(ValuePatch(torch.tensor(1, dtype=dtype)).load(1.0) for _ in range(300))
    assert float(total.sums[""][1]) == 300.0
    heavy = ValuePatch(torch.tensor(60_000.0, dtype=torch.float16)).load(2.0)
    assert (heavy + heavy)().item() == 2.0


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.uint8, np.int32, np.array])
def test_weights_of_numpy_are_added_up_exactly(kind: Any) -> None:
    numbers = [100.0 + n % 101 for n in range(3000)] if kind is not np.float32 else [20000.3 + n for n in range(3000)]
    patch, losses, expected, total = ValuePatch(1), RunningLoss(), 0.0, 0.0
    for n, weight in enumerate(map(kind, numbers)):
        patch.take_value(torch.tensor(n % 7.0), weight)
        losses.add(torch.tensor(n % 7.0), weight)
        expected, total = expected + n % 7.0 * float(weight), total + float(weight)
    assert float(patch()) == pytest.approx(expected / total, rel=1e-13)  # type: ignore[arg-type]
    mean = losses.mean()
    assert mean is not None
    assert float(mean) == pytest.approx(expected / total, rel=1e-13)
    assert float(losses.state_dict()["weight"]) == pytest.approx(total, rel=1e-13)


def test_keys_of_dicts_may_differ_between_batches() -> None:
    total = ValuePatch(1).load({"a": 1.0}) + ValuePatch(3).load({"a": 5.0, "b": 2.0}) + ValuePatch(2).load({"b": 7.0})
    assert {key: float(value) for key, value in total().items()} == {"a": 4.0, "b": 4.0}


def test_dicts_in_dicts_are_laid_out_flat() -> None:
    assert ValuePatch(1).load({"a": {"x": 1.0, "y": {"z": 2}}, "b": 3})().keys() == {"ax", "ayz", "b"}


@pytest.mark.parametrize("zero", [0, 0.0, torch.tensor(0), torch.tensor(0.0)])
def test_a_batch_without_weight_adds_nothing_even_where_its_mean_is_nan(zero: Any) -> None:
    nan = ValuePatch(zero).load(torch.tensor(math.nan))
    assert (ValuePatch(2).load(torch.tensor(3.0)) + nan)().item() == 3.0
    assert math.isnan(nan().item())
    loss = RunningLoss()
    loss.add(torch.tensor(3.0), 2)
    loss.add(torch.tensor(math.nan), zero)
    mean = loss.mean()
    assert mean is not None
    assert mean.item() == 3.0


def test_values_with_dimensions_are_averaged_place_by_place() -> None:
    total = ValuePatch(1).load(torch.tensor([1.0, 2.0])) + ValuePatch(3).load(torch.tensor([5.0, 2.0]))
    assert total().tolist() == [4.0, 2.0]


def test_no_graph_is_kept() -> None:
    value = torch.ones((), requires_grad=True) * 2
    patch = ValuePatch(torch.ones((), requires_grad=True) * 2).load({"a": value})
    assert not patch()["a"].requires_grad
    assert not MeanPatch(lambda p, t: p.sum(), 1).load(value, None)().requires_grad


@pytest.mark.parametrize("wrong", [None, "4", [1]])
def test_a_weight_that_is_no_number_is_named(wrong: Any) -> None:
    with pytest.raises(PatchError, match="batch_size="):
        ValuePatch(wrong).load(1.0)


@pytest.mark.parametrize("wrong", [None, "x", [1.0], (1.0,), np.array(["a"])])
def test_a_value_that_is_no_number_is_named(wrong: Any) -> None:
    with pytest.raises(MetricError, match=r"metric 'v' returned .* \(an? \w+\)"):
        ValuePatch(1, "v").load(wrong)
    with pytest.raises(MetricError, match=r"metric 'worst' returned .* under 'k'"):
        MeanPatch(worst := lambda p, t: {"k": wrong}, 1, name="worst").load(torch.ones(1), None)
    with pytest.raises(MetricError, match="metric '<lambda>' returned"):
        MeanPatch(lambda p, t: wrong, 1).absorb(Outputs(torch.ones(1), None))
    assert callable(worst)


@pytest.mark.parametrize("make", [lambda v: v, lambda v: {"a": v}])
@pytest.mark.parametrize("value", [torch.tensor(1 + 2j), 1 + 2j, np.complex64(1 + 2j)])
@pytest.mark.parametrize("kind", [MeanPatch, TensorPatch])
def test_a_complex_figure_is_refused_by_name(kind: Any, value: Any, make: Any) -> None:
    def spectrum(preds: Any, targets: Any) -> Any:
        return make(value)

    with pytest.raises(MetricError, match=r"metric 'spectrum' returned .*a figure is a real number; return \.abs\(\)"):
        kind(spectrum).load(torch.ones(2), torch.ones(2))()


def test_a_mean_without_batch_size_weighs_by_samples() -> None:
    def mean(preds: torch.Tensor, targets: Any) -> torch.Tensor:
        return preds.mean()

    total = MeanPatch(mean).load(torch.ones(3), None) + MeanPatch(mean).load(torch.full((1,), 5.0), None)
    assert total().item() == 2.0


def test_the_meta_device_works() -> None:
    value = torch.ones((), device="meta")
    assert (ValuePatch(2).load(value) + ValuePatch(torch.tensor(1, device="meta")).load(value))().is_meta
    loss = RunningLoss()
    loss.add(value, 2)
    loss.add(value, torch.tensor(2, device="meta"))
    mean = loss.mean()
    assert mean is not None
    assert mean.is_meta


def test_a_value_and_its_weight_may_be_on_different_devices() -> None:
    here, there = torch.ones(()), torch.ones((), device="meta")
    for value, weight in ((here, there), (1.0, there), (there, here), (there, 2)):
        patch = ValuePatch(weight).load({"a": value, "b": value})
        assert all(mean.is_meta for mean in patch().values())
        assert all(mean.is_meta for mean in (ValuePatch(1).load({"a": 1.0, "b": 1.0}) + patch)().values())
        assert all(mean.is_meta for mean in (patch + ValuePatch(1).load({"a": 1.0, "b": 1.0}))().values())


def test_the_first_bad_loss_is_noted_with_its_place() -> None:
    for place in (0, 5, 63, 64, 130):
        loss = RunningLoss()
        for batch in range(140):
            loss.add(torch.tensor(math.inf if batch == place else math.nan if batch > place else 1.0), 1)
        bad = loss.first_bad()
        assert bad == (place, math.inf)


@pytest.mark.parametrize("half", [0, 1, 63, 64, 70])
def test_the_loss_goes_on_from_a_state_which_stays_as_it_was(half: int) -> None:
    losses = [torch.tensor(float(n)) for n in range(100)]
    straight, first, second = RunningLoss(), RunningLoss(), RunningLoss()
    for n, loss in enumerate(losses):
        straight.add(loss, n % 3)
    for n, loss in enumerate(losses[:half]):
        first.add(loss, n % 3)
    state = first.state_dict()
    before = str(state)
    second.load_state_dict(state)
    for n, loss in enumerate(losses[half:], half):
        second.add(loss, n % 3)
    mean, expected = second.mean(), straight.mean()
    assert mean is not None
    assert expected is not None
    assert mean.item() == pytest.approx(expected.item(), rel=1e-12)
    assert second.count == 100
    assert str(state) == before


def test_a_loss_before_the_first_batch_is_none() -> None:
    assert RunningLoss().mean() is None
    assert RunningLoss().first_bad() is None
