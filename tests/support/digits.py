"""Small real data and models for the tests: scikit-learn's digits."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 10


def digits(count: int = 1797, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The first `count` digits, scaled to 0..1, and their labels."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x[:count] / 16.0, dtype=dtype), torch.tensor(y[:count])


def loader(first: int = 0, last: int = 200, batch_size: int = 32, **options: Any) -> DataLoader[Any]:
    """A DataLoader over digits `first` to `last`."""
    x, y = digits(last)
    return DataLoader(TensorDataset(x[first:], y[first:]), batch_size=batch_size, **options)


def mlp(seed: int = 0, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A small classifier, the same for the same seed."""
    torch.manual_seed(seed)
    layers = [nn.Linear(64, 16), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else []), nn.Linear(16, CLASSES)]
    return nn.Sequential(*layers).to(dtype)


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of a model's parameters and buffers."""
    return [value.detach().clone() for value in model.state_dict().values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether two lists of tensors are equal to the bit."""
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
