"""What patches cost: merging is linear in the batches, and only `TensorPatch` grows with them."""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from deepepochs_like import metrics
from deepepochs_like.patches import (
    ConfusionMetrics,
    ConfusionPatch,
    MeanPatch,
    Outputs,
    RunningLoss,
    TensorPatch,
    TorchMetricPatch,
    ValuePatch,
)
from deepepochs_like.patches.slot import Slot
from support.figures import feed

MERGES: dict[str, Callable[[list[Any]], Any]] = {
    "the loop's merge": lambda parts: reduce(lambda mine, other: mine.merge_(other), parts, parts[0].empty()),
    "sum": sum,
}


def merge_time(merge: Callable[[list[Any]], Any], parts: list[TensorPatch]) -> float:
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        total = merge(parts)
        took = time.process_time() - start
        assert len(total.leaves()) == len(parts)
        return took
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("how", MERGES)
def test_twice_the_batches_take_at_most_twice_the_time_and_a_bit(how: str) -> None:
    leaf = torch.ones(1)
    parts = [TensorPatch(metrics.accuracy).load(leaf, leaf) for _ in range(64_000)]
    counts, times = [16_000, 32_000, 64_000], dict.fromkeys([16_000, 32_000, 64_000], float("inf"))
    for _ in range(5):  # interleaved, and the best of each counts: what else the machine does only adds
        for count in counts:
            times[count] = min(times[count], merge_time(MERGES[how], parts[:count]))
    assert times[32_000] <= 2.6 * times[16_000]
    assert times[64_000] <= 2.6 * times[32_000]


def absorbing(patch: Any) -> Callable[[], None]:
    outputs = [Outputs(torch.eye(3), torch.arange(3), weight) for weight in (3, torch.tensor(3))]

    def absorb() -> None:
        for given in outputs:
            patch.absorb(given)

    return absorb


def adding(patch: ValuePatch) -> Callable[[], None]:
    value = ValuePatch(3).load({"a": torch.ones(()), "b": 1.0})

    def add() -> None:
        patch.merge_(value).merge_(value)

    return add


def losing(losses: RunningLoss) -> Callable[[], None]:
    loss = torch.ones(())

    def lose() -> None:
        losses.add(loss, 3)
        losses.add(loss, 3)

    return lose


def taking(slot: Slot) -> Callable[[], None]:
    outputs = Outputs(torch.eye(3), torch.arange(3), 3)

    def take() -> None:
        feed(slot, outputs)
        feed(slot, outputs)

    return take


def total(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return preds


def per_class(preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return preds.mean(0)


FLAT: dict[str, Callable[[], Callable[[], None]]] = {
    "ValuePatch": lambda: adding(ValuePatch(1).load(0.0)),
    "MeanPatch": lambda: absorbing(MeanPatch(total)),
    "ConfusionPatch": lambda: absorbing(ConfusionPatch(metrics.accuracy)),
    "ConfusionMetrics": lambda: absorbing(ConfusionMetrics()),
    "RunningLoss": lambda: losing(RunningLoss()),
    "Slot": lambda: taking(Slot(per_class, "mean")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAT)
def test_a_hundred_thousand_batches_take_no_more_memory_than_a_hundred(name: str) -> None:
    take = FLAT[name]()
    for _ in range(64):
        take()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(50_000):
        take()
    gc.collect()
    assert sys.getallocatedblocks() - before < 1000


def test_torchmetrics_that_keep_totals_stay_flat() -> None:
    """torchmetrics' own update takes ten times as long, so fewer batches must do."""
    take = absorbing(TorchMetricPatch(MulticlassAccuracy(3, validate_args=False)))
    take()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(2000):
            take()
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 50_000
