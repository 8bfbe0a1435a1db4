"""The workloads: which data, which model, how long, and which figures are reported."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from .loops import CLASSES

SEQUENCE = 64

Loaders = tuple[Any, Any]
#: The class that holds tensors: TensorDataset, or one like it.
Holder = Callable[..., TensorDataset]


class Plain(TensorDataset):
    """A TensorDataset under another name, which nothing can be known about."""


@dataclass(frozen=True)
class Workload:
    """What every contender has to do.

    Args:
        name: what it is chosen by.
        title: what the table says of it.
        rows: of the training and the validation set; None for all there are.
        make_sets: rows of training and validation to two datasets; a third argument is the class that holds tensors.
        make_model: the model, its weights drawn from the generator as it stands.
        epochs: passes over the data.
        batch_size: samples per batch.
        heavy: whether macro precision, recall, F1 and the confusion matrix are reported beside loss and accuracy.
        per_sample: targets per sample.
        workers: processes that load the data.
        save_every: updates between two checkpoints; None for none.
        rounds: how often it is measured, if nothing else is asked for; the less a run's time repeats, the more.
    """

    name: str
    title: str
    rows: tuple[int, int]
    make_sets: Callable[..., tuple[Dataset[Any], Dataset[Any]]]
    make_model: Callable[[], nn.Module]
    epochs: int = 5
    batch_size: int = 32
    heavy: bool = False
    per_sample: int = 1
    workers: int = 0
    save_every: int | None = None
    rounds: int = 21

    def loaders(self, holder: Holder = TensorDataset) -> Loaders:
        """The loaders of training and validation, in a fixed order; the same objects whenever they are asked for."""
        return _loaders(self, holder)

    def model(self, seed: int = 0) -> nn.Module:
        """A model with the weights of `seed`."""
        torch.manual_seed(seed)
        return self.make_model()

    @property
    def steps(self) -> int:
        """Updates in all epochs."""
        return self.epochs * len(self.loaders()[0])


@cache
def _loaders(work: Workload, holder: Holder) -> Loaders:
    train, val = (
        DataLoader(part, batch_size=work.batch_size, num_workers=work.workers)
        for part in work.make_sets(*work.rows, holder)
    )
    return train, val


@cache
def digits() -> tuple[Tensor, Tensor]:
    """1797 digits of 64 pixels, scaled to 0..1, shuffled once, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


def _split(x: Tensor, y: Tensor, train: int, val: int, holder: Holder) -> tuple[Any, Any]:
    return holder(x[:train], y[:train]), holder(x[train : train + val], y[train : train + val])


def flat_digits(train: int, val: int, holder: Holder = TensorDataset) -> tuple[Any, Any]:
    """The digits as rows of 64."""
    return _split(*digits(), train, val, holder)


def large_digits(train: int, val: int, holder: Holder = TensorDataset) -> tuple[Any, Any]:
    """The digits as pictures of 28 × 28."""
    x, y = digits()
    x = x[: train + val].view(-1, 1, 8, 8)
    return _split(F.interpolate(x, size=28, mode="bilinear"), y, train, val, holder)


def mlp() -> nn.Module:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def cnn() -> nn.Module:
    """Two convolutions and a linear layer, for pictures of 28 × 28."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 7 * 7, CLASSES),
    )  # fmt: skip


class Augmented(Dataset[Any]):
    """Pictures shifted by up to two pixels and made noisy, each in the way that its index says.

    What is drawn depends on nothing but the index, so that every contender sees the same pictures whoever loads them.
    """

    def __init__(self, pictures: Dataset[Any], rows: int) -> None:
        self.pictures, self.rows = pictures, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.pictures[index]
        own = torch.Generator().manual_seed(index)
        down, right = torch.randint(-2, 3, (2,), generator=own).tolist()
        return x.roll((down, right), (1, 2)) + 0.1 * torch.randn(x.shape, generator=own), y


def augmented_digits(train: int, val: int, holder: Holder = TensorDataset) -> tuple[Any, Any]:
    """The large digits; those of training are augmented when they are loaded."""
    training, validation = large_digits(train, val, holder)
    return Augmented(training, train), validation


@cache
def text() -> tuple[Tensor, int]:
    """Python's own help topics as numbers of characters, and how many different ones there are."""
    source = inspect.getsource(importlib.import_module("pydoc_data.topics"))
    source = "".join(character for character in source if character.isascii())
    number = {character: i for i, character in enumerate(sorted(set(source)))}
    return torch.tensor([number[character] for character in source]), len(number)


def sequences(train: int, val: int, holder: Holder = TensorDataset) -> tuple[Any, Any]:
    """Stretches of text, each with itself one character further on as the target."""
    count = (train + val) * SEQUENCE
    characters = text()[0][: count + 1]
    return _split(characters[:-1].view(-1, SEQUENCE), characters[1:].view(-1, SEQUENCE), train, val, holder)


class LanguageModel(nn.Module):
    """Four transformer layers of width 64 that look back only; scores (N, characters, sequence)."""

    def __init__(self, characters: int, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, width)
        self.place = nn.Parameter(0.02 * torch.randn(SEQUENCE, width))
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(width, characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(SEQUENCE))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layers(self.embed(x) + self.place, mask=self.mask, is_causal=True)
        out: Tensor = self.out(hidden)
        return out.transpose(1, 2)


def language_model() -> nn.Module:
    """A model of characters."""
    return LanguageModel(text()[1])


_W1 = Workload(
    "w1", "digits through a 64-32-10 MLP, batch 32, Adam, 5 epochs; loss and accuracy", (1437, 360), flat_digits, mlp
)
_W4 = Workload(
    "w4",
    "a transformer of 4 layers on text, 64 characters, batch 16; loss and accuracy",
    (16 * 28, 16 * 4),  # a second: what disturbs a machine for longer disturbs all who run by turns
    sequences,
    language_model,
    epochs=1,
    batch_size=16,
    per_sample=SEQUENCE,
    rounds=12,
)

WORKLOADS = {
    work.name: work
    for work in (
        _W1,
        Workload(
            "w2",
            "digits of 28 × 28 through a small CNN, batch 64; loss and accuracy",
            (1437, 360),
            large_digits,
            cnn,
            epochs=2,
            batch_size=64,
            rounds=11,
        ),
        replace(
            _W1, name="w3", title="w1 and macro F1, precision, recall, confusion matrix of every epoch", heavy=True
        ),
        _W4,
        Workload(
            "w5",
            "w2 with every sample augmented in 2 worker processes; loss and accuracy",
            (1437, 360),
            augmented_digits,
            cnn,
            epochs=2,
            batch_size=64,
            workers=2,
            rounds=3,
        ),
        replace(
            _W4,
            name="w6",
            title="w4 with 110 steps and a checkpoint every 100",
            rows=(16 * 110, 16 * 10),
            save_every=100,
            rounds=2,
        ),
    )
}


def quick(work: Workload) -> Workload:
    """The same in little, to see whether everything runs; its times mean nothing."""
    train, val = work.batch_size * 2 - 3, work.batch_size
    return replace(work, rows=(train, val), epochs=1, save_every=work.save_every and 1)
