"""Healthy trainings drawn from a seed: families of models, and what people put around them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from deepepochs_like import EMA, SWA, Callback, EarlyStopping, GradClip, Optimizer, Trainer, cosine, warmup
from deepepochs_like.doctor import Diagnosis
from deepepochs_like.metrics import accuracy

VOCABULARY = 40
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU, nn.LeakyReLU)


class Rows(Dataset[Any]):
    """A dataset of the user's own that says nothing of what it holds."""

    def __init__(self, columns: list[Tensor]) -> None:
        self._held = columns

    def __len__(self) -> int:
        return len(self._held[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(column[index] for column in self._held)


class Stream(IterableDataset[Any]):
    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return (self.rows[i] for i in range(len(self.rows)))


@dataclass
class Setup:
    """A training that is still to be built; faults change parts of it."""

    family: str
    seed: int
    dice: random.Random
    model: nn.Module
    loss: Any
    columns: list[Tensor]
    #: 'classes', 'numbers', 'binary', 'labels' (several), 'tokens' (a class per place), 'own' (the model's own loss).
    task: str
    classes: int = 0
    names: tuple[str, ...] = ()
    batch: int = 16
    epochs: int = 10
    lr: float = 1e-3
    optimizer: str = "Adam"
    kind: str = "tensors"
    drop_last: bool = True
    val_options: dict[str, Any] = field(default_factory=dict)
    scheduler: Callable[[Any, Setup, int], tuple[Any, str]] | None = None
    parameters: Callable[[nn.Module], Any] = lambda model: [p for p in model.parameters() if p.requires_grad]
    after_optimizer: Callable[[nn.Module], None] = lambda model: None
    split: Callable[[Any, Setup], tuple[Any, Any]] | None = None
    callbacks: list[Any] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)
    accumulate: int = 1

    def parts(self) -> tuple[Any, Any]:
        columns: Any = self.columns
        data: Any = TensorDataset(*columns) if self.kind == "tensors" else Rows(columns)
        if self.kind == "list":
            data = list(zip(*columns, strict=True))
        if self.names:
            data = [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]
        if self.split is not None:
            return self.split(data, self)
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(self.seed)).tolist()
        cut = len(data) * 3 // 4
        return Subset(data, order[:cut]), Subset(data, order[cut:])

    def loaders(self) -> tuple[Any, Any]:
        train, val = self.parts()
        val_dl = DataLoader(val, self.batch * 2, **self.val_options)
        if self.kind == "stream":
            return DataLoader(Stream(train), self.batch), val_dl
        return DataLoader(train, self.batch, shuffle=True, drop_last=self.drop_last), val_dl

    def build(self) -> tuple[Trainer, Any, Any]:
        train, val = self.loaders()
        given = {"SGD": {"momentum": 0.9}, "AdamW": {"weight_decay": 0.0}}.get(self.optimizer, {})
        opt = getattr(torch.optim, self.optimizer)(self.parameters(self.model), lr=self.lr, **given)
        self.after_optimizer(self.model)
        steps = -(-len(self.parts()[0]) // (self.batch * self.accumulate))
        if self.kind != "stream":
            steps = -(-len(train) // self.accumulate)
        scheduler, unit = self.scheduler(opt, self, steps) if self.scheduler else (None, "epoch")
        trainer = Trainer(
            self.model,
            self.loss,
            Optimizer(opt, scheduler, sched_on=unit),  # type: ignore[arg-type]
            epochs=self.epochs,
            device="cpu",
            callbacks=self.callbacks,
            metrics=self.metrics,
            accumulate=self.accumulate,
            verbose=0,
        )
        return trainer, train, val

    def check(self) -> Diagnosis:
        trainer, train, val = self.build()
        return trainer.check(train, val)


class Net(nn.Module):
    """A body and a head: every family has its last layer under this name."""

    def __init__(self, body: nn.Module, head: nn.Module, end: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.body, self.head, self.end = body, head, end

    def forward(self, *inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(*inputs))
        return out if self.end is None else self.end(out)


class Block(nn.Module):
    """A residual block; its last part may begin as nothing."""

    def __init__(self, size: int, dice: random.Random) -> None:
        super().__init__()
        self.norm, self.first, self.act = nn.LayerNorm(size), nn.Linear(size, 2 * size), dice.choice(ACTIVATIONS)()
        self.last, how = nn.Linear(2 * size, size), dice.choice(["plain", "zero", "gate"])
        self.gate = nn.Parameter(torch.zeros(())) if how == "gate" else None
        if how == "zero":
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = self.last(self.act(self.first(self.norm(x))))
        return x + (out if self.gate is None else self.gate * out)


class Experts(nn.Module):
    """A mixture of experts of which each sample goes to one (or two)."""

    def __init__(self, size: int, dice: random.Random) -> None:
        super().__init__()
        count = dice.choice([2, 3, 4, 8, 12])
        self.router, self.top, self.way = nn.Linear(size, count), dice.choice([1, 1, 2]), dice.choice("isd")
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.router(x).softmax(-1).topk(self.top, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            weight = (gates * mine).sum(-1, keepdim=True)
            rows = mine.any(-1)
            if self.way == "d":  # all experts see all samples
                out = out + weight * expert(x)
            elif self.way == "s" or bool(rows.any()):
                out = out.index_add(0, rows.nonzero().flatten(), weight[rows] * expert(x[rows]))
        return x + out


class Attention(nn.Module):
    def __init__(self, size: int, causal: bool, p: float) -> None:
        super().__init__()
        self.qkv, self.out, self.causal, self.p = nn.Linear(size, 3 * size), nn.Linear(size, size), causal, p
        self.fixed = False

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        p = self.p if self.training or self.fixed else 0.0
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, dropout_p=p)
        mixed: Tensor = self.out(out.transpose(1, 2).flatten(2))
        return mixed


class Words(nn.Module):
    """A transformer over tokens, or over patches of numbers."""

    def __init__(self, size: int, dice: random.Random, causal: bool, first: nn.Module, pool: bool) -> None:
        super().__init__()
        self.first, self.place, self.pool = first, nn.Parameter(torch.zeros(16, size)), pool
        count = dice.choice([1, 2])
        self.mixers = nn.ModuleList(Attention(size, causal, dice.choice([0.0, 0.1])) for _ in range(count))
        self.blocks = nn.ModuleList(Block(size, dice) for _ in range(count))
        self.norm, self.drop = nn.LayerNorm(size), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.first(x) + self.place[: x.shape[1]])
        for mixer, block in zip(self.mixers, self.blocks, strict=True):
            x = block(x + mixer(x))
        x = self.norm(x)
        return x.mean(1) if self.pool else x


class Recurrent(nn.Module):
    def __init__(self, rnn: nn.RNNBase, last: bool) -> None:
        super().__init__()
        self.rnn, self.last = rnn, last

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.rnn(x)[0]
        return out[:, -1] if self.last else out


class Graph(nn.Module):
    """Two rounds of messages along the edges, and a mean over nodes."""

    def __init__(self, width: int, size: int, pool: bool) -> None:
        super().__init__()
        self.first, self.second, self.pool = nn.Linear(width, size), nn.Linear(size, size), pool

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        near = edges / edges.sum(-1, keepdim=True).clamp(min=1)
        hidden = self.second(near @ self.first(nodes).relu()).relu()
        return hidden.mean(-2) if self.pool else hidden


class TwoInputs(nn.Module):
    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.embed, self.first = nn.Embedding(9, 4), nn.Linear(width + 4, size)

    def forward(self, table: Tensor, category: Tensor) -> Tensor:
        return self.first(torch.cat([table, self.embed(category)], 1)).relu()


class OwnLoss(nn.Module):
    """A model that gives its loss beside its scores."""

    def __init__(self, width: int, size: int, classes: int) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(width, size), nn.GELU()), nn.Linear(size, classes)

    def forward(self, x: Tensor, label: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.body(x))
        return {"logits": logits, "loss": F.cross_entropy(logits, label)}


class Variational(nn.Module):
    """A variational autoencoder that draws its code in evaluation, too."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(width, size), nn.ReLU()), nn.Linear(size, 8)
        self.decoder = nn.Sequential(nn.Linear(4, size), nn.ReLU(), nn.Linear(size, width))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        mean, log = self.head(self.body(x)).chunk(2, 1)
        out = self.decoder(mean + torch.randn_like(mean) * (log / 2).exp())
        return {"out": out, "loss": F.mse_loss(out, x) - 1e-2 * (1 + log - mean**2 - log.exp()).mean()}


class LowRank(nn.Module):
    """A frozen layer with an addition that begins as nothing."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(size, size), nn.Linear(size, 2, bias=False), nn.Linear(2, size)
        self.base.requires_grad_(False)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def _deep(dice: random.Random, width: int, size: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    norm = dice.choice([None, nn.BatchNorm1d, nn.LayerNorm])
    for _ in range(dice.choice([1, 2, 3])):
        layers += [nn.Linear(width, size), *([norm(size)] if norm else []), dice.choice(ACTIVATIONS)()]
        layers += [nn.Dropout(dice.choice([0.1, 0.5]))] if dice.random() < 0.5 else []
        width = size
    return nn.Sequential(*layers)


def _convolutions(dice: random.Random, channels: int, size: int, dims: int, stride: int = 2) -> nn.Sequential:
    conv, norm = (nn.Conv1d, nn.BatchNorm1d) if dims == 1 else (nn.Conv2d, nn.BatchNorm2d)
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [conv(channels, size, 3, stride, 1), dice.choice([norm, lambda n: nn.GroupNorm(2, n)])(size)]
        layers += [dice.choice(ACTIVATIONS[:2])()]
        channels = size
    return nn.Sequential(*layers)


def _own(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda out, y: loss(out, y)


FAMILIES = (
    *("mlp", "regression", "several", "binary", "labels", "cnn", "segmentation", "conv1d", "text", "language", "vit"),
    *("rnn", "tagging", "graphs", "experts", "residual", "autoencoder", "variational", "two inputs", "own", "low rank"),
    *("nll", "margin"),
)


def setup(seed: int) -> Setup:
    """A healthy training; families take turns."""
    family, dice = FAMILIES[seed % len(FAMILIES)], random.Random(seed)
    torch.manual_seed(seed)
    count, width, size = dice.choice([160, 240, 400]), dice.choice([4, 8, 20]), dice.choice([8, 16, 32])
    classes = dice.choice([2, 3, 5, 10])
    x, y = torch.randn(count, width), torch.randint(classes, (count,))
    ce = dice.choice(
        [nn.CrossEntropyLoss(), F.cross_entropy, _own(F.cross_entropy), nn.CrossEntropyLoss(reduction="mean")]
    )
    numbers = dice.choice([nn.MSELoss(), F.l1_loss, nn.HuberLoss(), _own(F.mse_loss), nn.SmoothL1Loss()])
    head = nn.Linear(size, classes)
    task, columns, loss, names = "classes", [x, y], ce, ()
    model: nn.Module
    if family == "mlp":
        model = Net(_deep(dice, width, size), head)
    elif family == "regression":
        flat = dice.random() < 0.5
        model = Net(_deep(dice, width, size), nn.Linear(size, 1), (lambda out: out.squeeze(-1)) if flat else None)
        target = x.sum(1) / width**0.5
        task, columns, loss = "numbers", [x, target if flat else target[:, None]], numbers
    elif family == "several":
        model = Net(_deep(dice, width, size), nn.Linear(size, 3))
        task, columns, loss = "numbers", [x, torch.randn(count, 3)], numbers
    elif family == "binary":
        model = Net(_deep(dice, width, size), nn.Linear(size, 1), lambda out: out.squeeze(-1))
        task, columns = "binary", [x, (x[:, 0] > 0).float()]
        loss = dice.choice([nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits])
    elif family == "labels":
        model = Net(_deep(dice, width, size), nn.Linear(size, 4))
        task, columns, loss = "labels", [x, (x[:, :4] > 0.3).float()], nn.BCEWithLogitsLoss()
    elif family == "cnn":
        body = nn.Sequential(_convolutions(dice, 3, size, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model, columns = Net(body, head), [torch.randn(count, 3, 8, 8), y]
    elif family == "segmentation":
        model = Net(_convolutions(dice, 1, size, 2, 1), nn.Conv2d(size, classes, 1))
        task, columns = "tokens", [torch.rand(count, 1, 6, 6), torch.randint(classes, (count, 6, 6))]
    elif family == "conv1d":
        body = nn.Sequential(_convolutions(dice, width, size, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())
        model, columns = Net(body, head), [torch.randn(count, width, 12), y]
    elif family == "text":
        body = Words(size, dice, False, nn.Embedding(VOCABULARY, size), True)
        model, columns = Net(body, head), [torch.randint(VOCABULARY, (count, 7)), y]
    elif family == "language":
        tokens = torch.randint(VOCABULARY, (count, 9))
        body, classes = Words(size, dice, True, nn.Embedding(VOCABULARY, size), False), VOCABULARY
        model = Net(body, nn.Linear(size, VOCABULARY), lambda out: out.transpose(1, 2))
        task, columns = "tokens", [tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()]
    elif family == "vit":
        body = Words(size, dice, False, nn.Linear(width, size), True)
        if dice.random() < 0.5:
            nn.init.zeros_(head.weight)
        model, columns = Net(body, head), [torch.randn(count, 6, width), y]
    elif family in ("rnn", "tagging"):
        kind, two = dice.choice([nn.RNN, nn.GRU, nn.LSTM]), dice.random() < 0.5
        rnn = kind(width, size, num_layers=dice.choice([1, 2]), batch_first=True, bidirectional=two)
        head = nn.Linear(size * (1 + two), classes)
        if family == "rnn":
            model, columns = Net(Recurrent(rnn, True), head), [torch.randn(count, 6, width), y]
        else:
            model = Net(Recurrent(rnn, False), head, lambda out: out.transpose(1, 2))
            task, columns = "tokens", [torch.randn(count, 6, width), torch.randint(classes, (count, 6))]
    elif family == "graphs":
        edges = (torch.rand(count, 7, 7) < 0.4).float()
        model, columns = Net(Graph(width, size, True), head), [torch.randn(count, 7, width), edges, y]
    elif family == "experts":
        model = Net(nn.Sequential(nn.Linear(width, size), nn.GELU(), Experts(size, dice)), head)
    elif family == "residual":
        blocks = [Block(size, dice) for _ in range(dice.choice([1, 2, 4]))]
        model = Net(nn.Sequential(nn.Linear(width, size), *blocks), head)
        if dice.random() < 0.5:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
    elif family == "autoencoder":
        model = Net(_deep(dice, width, size), nn.Linear(size, width))
        task, columns, loss = "numbers", [x, x], numbers
    elif family == "variational":
        model, task, columns, loss, names = Variational(width, size), "own", [x], None, ("x",)
    elif family == "two inputs":
        model, columns = Net(TwoInputs(width, size), head), [x, torch.randint(9, (count,)), y]
    elif family == "own":
        model, task, loss, names = OwnLoss(width, size, classes), "own", None, ("x", "label")
    elif family == "low rank":
        first = nn.Linear(width, size).requires_grad_(False)
        model = Net(nn.Sequential(first, nn.ReLU(), LowRank(size), nn.ReLU(), LowRank(size)), head)
    elif family == "nll":
        model, loss = (
            Net(_deep(dice, width, size), head, lambda out: out.log_softmax(-1)),
            dice.choice([nn.NLLLoss(), F.nll_loss]),
        )
    else:
        model, loss = Net(_deep(dice, width, size), head), nn.MultiMarginLoss()
    made = Setup(family, seed, dice, model, loss, columns, task, classes, names)
    made.batch, made.epochs = dice.choice([8, 16, 20]), dice.choice([5, 12, 30])
    made.lr, made.optimizer = dice.choice([1e-3, 1e-2]), dice.choice(["Adam", "AdamW", "SGD", "RMSprop"])
    made.kind = dice.choice(["tensors", "tensors", "rows", "list"])
    made.drop_last = True
    return made


class Quiet(Callback):
    """A callback of the user's own that only looks."""

    def on_after_train_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int) -> None:
        pass


def _schedules(opt: Any, made: Setup, steps: int) -> tuple[Any, str]:
    """A schedule in the unit that it is stepped in."""
    by_step, dice = made.dice.random() < 0.5, made.dice
    total, unit = (steps * made.epochs, "step") if by_step else (made.epochs, "epoch")
    tenth = max(1, total // 10)
    kind = dice.choice(["cosine", "cycle", "step", "linear", "warm", "ours", "poly", "sequence", "exponential"])
    if kind == "cosine":
        return schedules.CosineAnnealingLR(opt, total), unit
    if kind == "cycle":
        return schedules.OneCycleLR(opt, 0.01, total), unit
    if kind == "step":
        return schedules.StepLR(opt, max(1, total // 3)), unit
    if kind == "linear":
        return schedules.LinearLR(opt, 1.0, 0.01, total), unit
    if kind == "warm":
        return schedules.LambdaLR(opt, lambda n: min(1.0, (n + 1) / (tenth + 1))), unit
    if kind == "ours":
        return (warmup(tenth) >> cosine(total - tenth)).scheduler(opt), unit
    if kind == "poly":
        return schedules.PolynomialLR(opt, total, 2.0), unit
    if kind == "exponential":
        return schedules.ExponentialLR(opt, 0.1 ** (1 / total)), unit
    rise = schedules.LinearLR(opt, 0.1, total_iters=tenth)
    return schedules.SequentialLR(opt, [rise, schedules.CosineAnnealingLR(opt, total - tenth)], [tenth]), unit


def dressed(seed: int) -> Setup:
    """A healthy training with a schedule, callbacks and metrics, as they may come."""
    made = setup(seed)
    dice = made.dice
    made.scheduler = _schedules if dice.random() < 0.7 else None
    made.accumulate = dice.choice([1, 1, 2, 4])
    steps = max(1, len(made.parts()[0]) // (made.batch * made.accumulate)) * made.epochs
    if dice.random() < 0.4:
        made.callbacks.append(dice.choice([GradClip(1.0), GradClip(5.0), GradClip(max_value=0.5)]))
    if dice.random() < 0.3:
        made.callbacks.append(EMA(1 - 5 / max(10, steps)) if dice.random() < 0.6 else SWA(made.epochs // 2))
    if dice.random() < 0.3:
        made.callbacks.append(EarlyStopping("val/loss", 3))
    if dice.random() < 0.2:
        made.callbacks.append(Quiet())
    if made.task == "classes" and dice.random() < 0.5:
        made.metrics = [accuracy]
    if dice.random() < 0.15 and made.family != "variational" and not made.names:
        made.kind = "stream"
        if made.scheduler is not None and made.callbacks:
            made.scheduler = None
    if dice.random() < 0.3 and not any(isinstance(m, nn.BatchNorm1d) for m in made.model.modules()):
        made.drop_last = False
    return made
