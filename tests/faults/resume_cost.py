"""What it costs to reach a position deep in a pass, in CPU time: ``python tests/faults/resume_cost.py``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from deepepochs_like.data import BatchSource

BATCH_SIZE = 8
SAMPLES = 8_000_800
FAR, NEAR = 1_000_000, 10
#: Seconds that reaching FAR may cost more than reaching NEAR; where indices are shuffled, a permutation on top of it.
LIMITS = {"shuffled": 0.2, "sequential": 0.1}


class Counted(Dataset[int]):
    """Indices; counts how many it is asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> int:
        self.asked += 1
        return index


def source(shuffle: bool, seed: int = 4) -> BatchSource:
    return BatchSource(
        DataLoader(Counted(), BATCH_SIZE, shuffle=shuffle, generator=torch.Generator().manual_seed(seed)), "train_dl"
    )


def state_at(shuffle: bool, position: int) -> dict[str, Any]:
    """The state of a pass at a position. What is drawn in a pass is drawn with its first batch."""
    begun = source(shuffle)
    next(begun.stream())
    begun.position = position
    return begun.state_dict()


def expected(shuffle: bool, position: int) -> list[int]:
    """The indices of the batch at a position, by torch's own sampler, which draws behind the loader's base seed."""
    generator = torch.Generator().manual_seed(4)
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    order = torch.randperm(SAMPLES, generator=generator) if shuffle else torch.arange(SAMPLES)
    return order[position * BATCH_SIZE : (position + 1) * BATCH_SIZE].tolist()


def cpu_seconds(work: Callable[[], Any], repetitions: int) -> float:
    def once() -> float:
        began = time.process_time()
        work()
        return time.process_time() - began

    return statistics.median(once() for _ in range(repetitions))


def reach(shuffle: bool, position: int, repetitions: int) -> float:
    """Seconds from a state to the first batch behind it; that it is the one at the position is asserted."""
    state, wanted = state_at(shuffle, position), expected(shuffle, position)
    resumed: list[tuple[BatchSource, Any]] = []

    def load() -> None:
        one = source(shuffle, seed=99)
        one.load_state_dict(state)
        resumed.append((one, next(one.stream())))

    seconds = cpu_seconds(load, repetitions)
    for one, batch in resumed:
        assert batch.tolist() == wanted, f"batch {position} is not the one that was to come"
        assert one.position == position
        assert one.loader.dataset.asked == BATCH_SIZE, "samples of skipped batches were loaded"
    return seconds


def run(full: bool) -> dict[str, Any]:
    """Measure and compare with the limits.

    Returns:
        ``{'injected': cases, 'landed': {case: positions reached}, 'survived': cases, 'detail': the figures}``.

    Raises:
        AssertionError: a position is not reached, or costs more than it may.
    """
    repetitions = 7 if full else 3
    permutation = cpu_seconds(lambda: torch.randperm(SAMPLES), repetitions)
    landed: dict[str, int] = {}
    figures = [f"torch.randperm({SAMPLES:,}) {permutation:.3f} s"]
    for case, allowance in LIMITS.items():
        near, far = (reach(case == "shuffled", position, repetitions) for position in (NEAR, FAR))
        limit = allowance + (permutation if case == "shuffled" else 0)
        landed[case] = 2 * repetitions
        figures.append(f"{case}: batch {NEAR} {near:.3f} s, batch {FAR:,} {far:.3f} s (at most {limit:.3f} s more)")
        assert far - near <= limit, "; ".join(figures)
        assert case != "shuffled" or near > permutation / 2, "the permutation is not in what was measured"
    return {"injected": len(LIMITS), "landed": landed, "survived": len(landed), "detail": "; ".join(figures)}


if __name__ == "__main__":
    print(run(full=True)["detail"])
