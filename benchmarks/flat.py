"""Whether memory grows with batches: ``python -m benchmarks.flat PATCH BATCHES`` prints the peak in MB."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

from .fresh import answer, high_water_mark

#: Patches whose state does not grow; the tensor patch keeps what the model gave, by design.
PATCHES = ("loss", "mean", "confusion", "torchmetrics")
#: Batches in an epoch, the one and the other.
FEW, MANY = 100, 100_000


def growth(few: int = FEW, many: int = MANY, patches: Sequence[str] = PATCHES) -> dict[str, tuple[float, float]]:
    """The peaks of fresh processes that train an epoch of few batches and one of many, in MB."""
    command = ("-m", "benchmarks.flat")
    return {
        patch: (answer(sys.executable, *command, patch, str(few)), answer(sys.executable, *command, patch, str(many)))
        for patch in patches
    }


def main() -> None:
    """Train an epoch of batches that are made as they are needed."""
    import torch
    from torch import Tensor, nn
    from torchmetrics.classification import MulticlassF1Score

    from deepepochs_like import Trainer
    from deepepochs_like.metrics import accuracy, f1

    patch, count = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)

    class Batches:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            x, y = torch.ones(8, 4), torch.arange(8) % 3
            return ((x, y) for _ in range(count))

    metrics = {"loss": [], "mean": [accuracy], "confusion": [f1], "torchmetrics": [MulticlassF1Score(3)]}[patch]
    chosen = patch if patch in ("mean", "confusion") else "tensor"
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = nn.functional.cross_entropy
    Trainer(model, loss, optimizer, 1, "cpu", verbose=0, metrics=metrics, metric_patch=chosen).fit(Batches())
    print(json.dumps(high_water_mark()))


if __name__ == "__main__":
    main()
