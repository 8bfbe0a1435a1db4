"""Classification outputs for the tests, and ways to cut them into batches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Scores (N, C) and class indices (N,)."""

    scores: Tensor
    targets: Tensor

    @property
    def labels(self) -> Tensor:
        """The predicted classes."""
        return self.scores.argmax(1)

    @property
    def classes(self) -> int:
        """How many classes there are, whether they occur or not."""
        return self.scores.shape[1]


def samples(
    seed: int = 0, count: int = 60, classes: int = 4, occurring: int | None = None, skill: float = 1.0
) -> Samples:
    """Draw scores and targets, of the first `occurring` classes, the scores better than chance by `skill`."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, occurring or classes, (count,), generator=generator)
    scores = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    scores[:, occurring or classes :] -= 100.0
    return Samples(scores + skill * torch.nn.functional.one_hot(targets, classes), targets)


def cut(data: Samples, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Cut the samples into batches of the given sizes; what is left is the last batch."""
    sizes = sizes if sum(sizes) == len(data.targets) else [*sizes, len(data.targets) - sum(sizes)]
    return list(zip(data.scores.split(sizes), data.targets.split(sizes), strict=True))


def cuts(count: int) -> st.SearchStrategy[list[int]]:
    """Ways to cut `count` samples into batches: their sizes, of which the sum is `count`."""
    points = st.sets(st.integers(1, count - 1), max_size=8).map(lambda inner: [0, *sorted(inner), count])
    return points.map(lambda p: [b - a for a, b in pairwise(p)])


def drawn_samples(count: int = 40) -> st.SearchStrategy[Samples]:
    """Samples of 2 to 5 classes of which some may be absent."""
    return st.builds(
        lambda seed, classes, absent, skill: samples(seed, count, classes, max(1, classes - absent), skill),
        st.integers(0, 10_000),
        st.integers(2, 5),
        st.integers(0, 2),
        st.sampled_from([0.0, 1.0, 5.0]),
    )
