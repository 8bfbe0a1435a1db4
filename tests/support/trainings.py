"""Small trainings of many kinds, drawn from a seed: healthy as they are, and made to have faults planted in them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Optimizer, Trainer
from deepepochs_like.doctor import Diagnosis

VOCABULARY = 30


class Tokens(nn.Module):
    """A transformer over tokens: a score per class, or per token."""

    def __init__(self, size: int, classes: int, per_token: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, size)
        self.place = nn.Parameter(torch.randn(16, size) * 0.02)
        layer = nn.TransformerEncoderLayer(size, 2, 2 * size, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head, self.per_token = nn.Linear(size, classes), per_token

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.encoder(self.embed(tokens) + self.place[: tokens.shape[1]])
        scores: Tensor = self.head(hidden if self.per_token else hidden.mean(1))
        return scores.transpose(1, 2) if self.per_token else scores


class Recurrent(nn.Module):
    """A GRU over sequences of vectors, whose last state is classified."""

    def __init__(self, width: int, size: int, classes: int) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(width, size, batch_first=True), nn.Linear(size, classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.gru(x)[0][:, -1])
        return scores


class TwoInputs(nn.Module):
    """A table and a category."""

    def __init__(self, width: int, size: int, classes: int) -> None:
        super().__init__()
        self.embed, self.first = nn.Embedding(7, 4), nn.Linear(width + 4, size)
        self.head = nn.Linear(size, classes)

    def forward(self, table: Tensor, category: Tensor) -> Tensor:
        both = torch.cat([table, self.embed(category)], 1)
        scores: Tensor = self.head(self.first(both).relu())
        return scores


class OwnLoss(nn.Module):
    """A model that is given a dict and returns one, with its loss."""

    def __init__(self, width: int, size: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, size), nn.GELU(), nn.LayerNorm(size))
        self.head = nn.Linear(size, classes)

    def forward(self, x: Tensor, label: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.body(x))
        return {"logits": logits, "loss": F.cross_entropy(logits, label)}


class Residual(nn.Module):
    """A residual block whose last layer begins as nothing."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(size, size), nn.Linear(size, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.last(self.first(x).relu())
        return out


@dataclass
class Training:
    """What a trainer and a fit are made of; faults change parts of it before it is built."""

    kind: str
    seed: int
    model: nn.Module
    loss: Any
    columns: list[Tensor]
    classes: int
    names: tuple[str, ...] = ()
    batch: int = 16
    epochs: int = 12
    lr: float = 1e-3
    optimizer: str = "Adam"
    train: dict[str, Any] = field(default_factory=lambda: {"shuffle": True, "drop_last": True})
    val: dict[str, Any] = field(default_factory=dict)
    scheduler: Callable[[torch.optim.Optimizer, Training, int], Any] | None = None
    sched_on: Any = "epoch"
    #: Gives the parameters that the optimizer gets.
    parameters: Callable[[nn.Module], Any] = lambda model: model.parameters()
    split: Callable[[Any, Training], tuple[Any, Any]] | None = None
    callbacks: list[Any] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)
    accumulate: int = 1
    trainer_class: type[Trainer] = Trainer

    def dataset(self) -> Any:
        if not self.names:
            return TensorDataset(*self.columns)
        return [dict(zip(self.names, row, strict=True)) for row in zip(*self.columns, strict=True)]

    def loaders(self) -> tuple[Any, Any]:
        data = self.dataset()
        if self.split is not None:
            train, val = self.split(data, self)
        else:
            generator = torch.Generator().manual_seed(self.seed)
            train, val = random_split(data, [0.75, 0.25], generator)
        return DataLoader(train, self.batch, **self.train), DataLoader(val, 2 * self.batch, **self.val)

    def trainer(self, steps_per_epoch: int) -> Trainer:
        given = {"SGD": {"momentum": 0.9}, "AdamW": {"weight_decay": 0.0}}.get(self.optimizer, {})
        opt = getattr(torch.optim, self.optimizer)(self.parameters(self.model), lr=self.lr, **given)
        scheduler = self.scheduler(opt, self, steps_per_epoch) if self.scheduler else None
        return self.trainer_class(
            self.model,
            self.loss,
            Optimizer(opt, scheduler, sched_on=self.sched_on),
            epochs=self.epochs,
            device="cpu",
            callbacks=self.callbacks,
            metrics=self.metrics,
            accumulate=self.accumulate,
            verbose=0,
        )

    def check(self, **others: Any) -> Diagnosis:
        train, val = self.loaders()
        steps = -(-len(train) // self.accumulate)
        return self.trainer(steps).check(train, val, **others)


def _mlp(dice: random.Random, width: int, outputs: int) -> nn.Module:
    size = dice.choice([8, 24, 64])
    layers: list[nn.Module] = [nn.Linear(width, size)]
    layers += dice.choice([[], [nn.BatchNorm1d(size)], [nn.LayerNorm(size)]])
    layers += [dice.choice([nn.ReLU, nn.Tanh, nn.GELU])(), nn.Dropout(dice.choice([0.1, 0.5]))]
    if dice.random() < 0.4:
        layers += [Residual(size)]
    return nn.Sequential(*layers, nn.Linear(size, outputs))


def _cnn(dice: random.Random, outputs: int) -> nn.Module:
    size = dice.choice([4, 8])
    return nn.Sequential(
        *(nn.Conv2d(1, size, 3, padding=1), nn.BatchNorm2d(size), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(size, 2 * size, 3, padding=1), nn.BatchNorm2d(2 * size), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(2 * size, outputs)),
    )


CLASSIFIERS = ("mlp", "cnn", "transformer", "recurrent", "two inputs")
KINDS = (*CLASSIFIERS, "regression", "several targets", "binary", "tokens", "own loss")


def training(kind: str, seed: int) -> Training:
    """A healthy training of a kind."""
    dice = random.Random(f"{kind} {seed}")
    torch.manual_seed(seed + 1000 * KINDS.index(kind))
    count, width = dice.choice([160, 256, 400]), dice.choice([3, 8, 20])
    classes = dice.choice([2, 3, 10]) if count > 200 else dice.choice([2, 4])
    x, y = torch.randn(count, width), torch.randint(classes, (count,))
    cross_entropy = dice.choice([nn.CrossEntropyLoss(), F.cross_entropy, lambda out, y: F.cross_entropy(out, y)])
    made = {
        "batch": dice.choice([8, 16, 20]),
        "epochs": dice.choice([6, 12, 30]),
        "optimizer": dice.choice(["Adam", "AdamW", "SGD", "RMSprop"]),
        "lr": dice.choice([1e-3, 1e-2]),
    }
    size = dice.choice([8, 16])
    model: nn.Module
    columns: list[Tensor]
    if kind == "mlp":
        model, columns = _mlp(dice, width, classes), [x, y]
    elif kind == "cnn":
        model, columns = _cnn(dice, classes), [torch.rand(count, 1, 8, 8), y]
    elif kind == "transformer":
        model, columns = Tokens(size, classes, False), [torch.randint(VOCABULARY, (count, 6)), y]
    elif kind == "recurrent":
        model, columns = Recurrent(width, size, classes), [torch.randn(count, 5, width), y]
    elif kind == "two inputs":
        model, columns = TwoInputs(width, size, classes), [x, torch.randint(7, (count,)), y]
    elif kind == "regression":
        flat = dice.random() < 0.5
        model, columns = _mlp(dice, width, 1), [x, x[:, :1] + 0.1 * torch.randn(count, 1)]
        if flat:
            model, columns[1] = nn.Sequential(model, nn.Flatten(0)), columns[1].squeeze(1)
        cross_entropy = dice.choice([nn.MSELoss(), F.l1_loss, nn.HuberLoss(), lambda out, y: ((out - y) ** 2).mean()])
    elif kind == "several targets":
        model, columns, cross_entropy = _mlp(dice, width, 4), [x, torch.randn(count, 4)], nn.SmoothL1Loss()
    elif kind == "binary":
        model, columns = nn.Sequential(_mlp(dice, width, 1), nn.Flatten(0)), [x, (x[:, 0] > 0).float()]
        cross_entropy = dice.choice([nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits])
    elif kind == "tokens":
        tokens = torch.randint(VOCABULARY, (count, 9))
        targets = tokens[:, 1:].clone()
        targets[torch.arange(count) % 5 == 0, -3:] = -100
        model, columns, classes = Tokens(size, VOCABULARY, True), [tokens[:, :-1].contiguous(), targets], VOCABULARY
        cross_entropy = dice.choice([nn.CrossEntropyLoss(), F.cross_entropy])
    else:
        model, columns, cross_entropy = OwnLoss(width, size, classes), [x, y], None
        return Training(kind, seed, model, None, columns, classes, ("x", "label"), **made)
    return Training(kind, seed, model, cross_entropy, columns, classes, **made)
