"""What `trainer.check` must not take for a fault: set-ups out of the ordinary that are as they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedules
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from deepepochs_like import Callback, EpochTask, FineTune, Optimizer, Trainer, freeze
from deepepochs_like.metrics import accuracy, f1

Made = tuple[Trainer, Any, Any]


def data(*columns: Tensor, batch: int = 16) -> tuple[Any, Any]:
    """Loaders over two parts of it."""
    whole = TensorDataset(*columns)
    cut = len(whole) * 3 // 4
    train, val = random_split(whole, [cut, len(whole) - cut], torch.Generator().manual_seed(0))
    return DataLoader(train, batch, shuffle=True), DataLoader(val, batch)


def made(model: nn.Module, loss: Any, loaders: Any, opt: Any = None, **others: Any) -> Made:
    others = {"epochs": 10, "verbose": 0, "device": "cpu", **others}
    return (Trainer(model, loss, opt, **others), *loaders)


def mlp(width: int = 6, outputs: int = 3, *more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, outputs), *more)


def table(count: int = 160, width: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(count, width), torch.arange(count).mul(7) % classes


def an_autoencoder_with_sigmoid() -> Made:
    x = torch.rand(160, 6)
    return made(mlp(6, 6, nn.Sigmoid()), nn.MSELoss(), data(x, x))


def an_autoencoder_with_bce() -> Made:
    x = torch.rand(160, 6)
    return made(mlp(6, 6, nn.Sigmoid()), nn.BCELoss(), data(x, x))


def log_softmax_for_nll() -> Made:
    return made(mlp(6, 3, nn.LogSoftmax(1)), nn.NLLLoss(), data(*table()))


def soft_targets_for_kl() -> Made:
    x, _ = table()
    loss = nn.KLDivLoss(reduction="batchmean")
    return made(mlp(6, 3, nn.LogSoftmax(1)), loss, data(x, torch.randn(160, 3).softmax(1)))


def probabilities_as_targets() -> Made:
    x, _ = table()
    return made(mlp(), nn.CrossEntropyLoss(), data(x, torch.randn(160, 3).softmax(1)))


def several_labels() -> Made:
    x, _ = table()
    return made(mlp(6, 5), nn.BCEWithLogitsLoss(pos_weight=torch.full((5,), 3.0)), data(x, (x[:, :5] > 0).float()))


def smoothed_and_weighted() -> Made:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.0, 3.0]), label_smoothing=0.1)
    return made(mlp(), loss, data(*table()))


def a_class_without_weight() -> Made:
    return made(mlp(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.0, 3.0])), data(*table()))


def a_hinge() -> Made:
    x, _ = table()
    return made(mlp(6, 1, nn.Flatten(0)), lambda out, y: (1 - out * y).relu().mean(), data(x, x[:, 0].sign()))


def several_margins() -> Made:
    return made(mlp(), nn.MultiMarginLoss(), data(*table()))


def a_focal_loss() -> Made:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        logs = -F.cross_entropy(out, y, reduction="none")
        return -((1 - logs.exp()) ** 2 * logs).mean()

    return made(mlp(), loss, data(*table()))


def hard_examples_only() -> Made:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y, reduction="none").topk(8).values.mean()

    return made(mlp(), loss, data(*table(), batch=20))


def the_hardest_two() -> Made:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y, reduction="none").topk(2).values.mean()

    return made(mlp(), loss, data(*table(), batch=20))


def ignored_labels() -> Made:
    x, y = table()
    y[torch.rand(160) < 0.7] = -100
    return made(mlp(), nn.CrossEntropyLoss(), data(x, y))


def another_label_ignored() -> Made:
    x, y = table()
    y[torch.rand(160) < 0.3] = 255
    return made(mlp(), nn.CrossEntropyLoss(ignore_index=255), data(x, y))


def a_segmentation() -> Made:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    return made(model, nn.CrossEntropyLoss(), data(torch.rand(60, 1, 8, 8), torch.randint(3, (60, 8, 8)), batch=8))


def tokens_with_classes_last() -> Made:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
    x = torch.randint(20, (120, 7))
    return made(model, lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten()), data(x, x.roll(-1, 1)))


def squeezed_in_the_loss() -> Made:
    x, _ = table()
    return made(mlp(6, 1), lambda out, y: F.mse_loss(out.squeeze(1), y), data(x, x.sum(1)))


def squeezed_and_converted_in_the_loss() -> Made:
    x, y = table(classes=2)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(out.squeeze(1), y.float())

    return made(mlp(6, 1), loss, data(x, y))


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        mean, log_var = self.encode(x).chunk(2, 1)
        return self.decode(mean + torch.randn_like(mean) * (log_var / 2).exp()), mean, log_var


def a_variational_autoencoder() -> Made:
    def loss(out: tuple[Tensor, ...], x: Tensor) -> Tensor:
        made, mean, log_var = out
        return F.mse_loss(made, x) - 0.5 * (1 + log_var - mean**2 - log_var.exp()).mean()

    x = torch.randn(160, 6)
    return made(VAE(), loss, data(x, x))


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(6, 4)

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(one), self.net(other)


def a_contrastive_loss() -> Made:
    def loss(out: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        one, other = (F.normalize(part, dim=1) for part in out)
        return F.cross_entropy(one @ other.T / 0.1, torch.arange(len(one)))

    x = torch.randn(160, 6)
    return made(Twins(), loss, data(x, x + 0.1 * torch.randn(160, 6), torch.zeros(160)))


def pairs_with_a_margin() -> Made:
    def loss(out: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        far = F.pairwise_distance(*out)
        return torch.where(y > 0, far**2, (1 - far).relu() ** 2).mean()

    return made(Twins(), loss, data(torch.randn(160, 6), torch.randn(160, 6), torch.arange(160).float() % 2))


def two_heads() -> Made:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = self.body(x).relu()
            return {"class": self.one(hidden), "value": self.two(hidden).squeeze(1)}

    def loss(out: dict[str, Tensor], y: Tensor) -> Tensor:
        return F.cross_entropy(out["class"], y[:, 0].long()) + F.mse_loss(out["value"], y[:, 1])

    x, y = table()
    return made(Heads(), loss, data(x, torch.stack([y.float(), x.sum(1)], 1)))


def layers_of_random_depth() -> Made:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.maybe, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            if not self.training or torch.rand(()) < 0.6:
                x = x + self.maybe(x).relu()
            return self.head(x)  # type: ignore[no-any-return]

    return made(Skipping(), nn.CrossEntropyLoss(), data(*table()))


def an_adapter_that_begins_as_nothing() -> Made:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = mlp().requires_grad_(False)
            self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 3, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))  # type: ignore[no-any-return]

    model = Adapted()
    opt = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    return made(model, nn.CrossEntropyLoss(), data(*table()), opt)


def a_head_of_zeros() -> Made:
    model = mlp()
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    return made(model, nn.CrossEntropyLoss(), data(*table()))


def a_lazy_layer() -> Made:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3))
    model(torch.zeros(2, 6))
    return made(model, nn.CrossEntropyLoss(), data(*table()))


def tied_weights() -> Made:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x)).transpose(1, 2)  # type: ignore[no-any-return]

    x = torch.randint(20, (120, 7))
    return made(Tied(), nn.CrossEntropyLoss(), data(x, x.roll(-1, 1)))


def spectral_and_weight_norm() -> Made:
    wrapped = nn.utils.parametrizations
    model = nn.Sequential(wrapped.spectral_norm(nn.Linear(6, 8)), nn.ReLU(), wrapped.weight_norm(nn.Linear(8, 3)))
    return made(model, nn.CrossEntropyLoss(), data(*table()))


def a_normalizing_first_layer() -> Made:
    x, y = table()
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return made(model, nn.CrossEntropyLoss(), data(x * 300 + 1000, y))


def scaled_within_forward() -> Made:
    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), mlp(16))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.float() / 255)  # type: ignore[no-any-return]

    x = torch.randint(256, (160, 1, 4, 4), dtype=torch.uint8)
    return made(Images(), nn.CrossEntropyLoss(), data(x, torch.arange(160) % 3))


def scaled_within_a_model_with_parameters_of_its_own() -> Made:
    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.net = nn.Parameter(torch.zeros(16)), mlp(16)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.flatten(1) / 255 + self.shift)  # type: ignore[no-any-return]

    x = torch.randint(256, (160, 4, 4)).float()
    return made(Images(), nn.CrossEntropyLoss(), data(x, torch.arange(160) % 3))


def windows_of_one_series() -> Made:
    class Windows(Dataset[Any]):
        def __init__(self, series: Tensor, first: int) -> None:
            self.series, self.first = series, first

        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> Any:
            at = self.first + index
            return self.series[at : at + 5], self.series[at + 5 : at + 6]

    series = torch.randn(300)
    train, val = (DataLoader(Windows(series, first), 20) for first in (0, 150))
    return made(mlp(5, 1), nn.MSELoss(), (train, val))


def two_halves_of_one_array() -> Made:
    class Half(Dataset[Any]):
        def __init__(self, x: Tensor, y: Tensor, part: int) -> None:
            self.x, self.y, self.part = x, y, part

        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> Any:
            return self.x[index, self.part], self.y[index]

    x, y = torch.randn(100, 2, 6), torch.arange(100) * 7 % 3
    train, val = (DataLoader(Half(x, y, part), 20) for part in (0, 1))
    return made(mlp(), nn.CrossEntropyLoss(), (train, val))


def scaled_after_a_frozen_layer() -> Made:
    model = nn.Sequential(nn.Linear(6, 6), mlp())
    model[0].requires_grad_(False)
    nn.init.eye_(model[0].weight)
    model[0].weight.data.mul_(100.0)
    opt = torch.optim.Adam(model[1].parameters())
    return made(model, nn.CrossEntropyLoss(), data(*table()), opt)


def one_hot_inputs() -> Made:
    return made(mlp(40), nn.CrossEntropyLoss(), data(F.one_hot(torch.randint(40, (160,)), 40).float(), table()[1]))


def a_bias_column_and_dead_pixels() -> Made:
    x, y = table(width=4)
    return made(mlp(6), nn.CrossEntropyLoss(), data(torch.cat([x, torch.ones(160, 1), torch.zeros(160, 1)], 1), y))


def double_precision() -> Made:
    x, y = table()
    return made(mlp().double(), nn.CrossEntropyLoss(), data(x.double(), y))


def a_backbone_kept_in_eval() -> Made:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU()).requires_grad_(False)
            self.head = nn.Linear(8, 3)

        def train(self, mode: bool = True) -> Kept:
            super().train(mode)
            self.body.eval()
            return self

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))  # type: ignore[no-any-return]

    model = Kept().train()
    return made(model, nn.CrossEntropyLoss(), data(*table()), torch.optim.Adam(model.head.parameters()))


def a_callback_keeps_it_in_eval() -> Made:
    class Still(Callback):
        def on_before_train_epoch(self, trainer: Any, task: Any) -> None:
            trainer.model[0].eval()

    model = nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)).requires_grad_(False), mlp(8))
    opt = torch.optim.Adam(model[1].parameters())
    return made(model, nn.CrossEntropyLoss(), data(*table()), opt, callbacks=[Still()])


def frozen_by_the_library() -> Made:
    body = freeze(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)))
    model = nn.Sequential(body, mlp(8))
    return made(model, nn.CrossEntropyLoss(), data(*table()), torch.optim.Adam(model[1].parameters()))


def fine_tuned_by_a_callback() -> Made:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), mlp(8))
    opt = torch.optim.Adam(model.parameters())
    return made(model, nn.CrossEntropyLoss(), data(*table()), opt, callbacks=[FineTune({0: "1", 3: "*"})])


def after_a_run() -> Made:
    trainer, train, val = made(mlp(6, 3, nn.Dropout(0.1)), nn.CrossEntropyLoss(), data(*table()))
    trainer.fit(train, val, epochs=1)
    return trainer, train, val


def after_a_validation() -> Made:
    trainer, train, val = made(mlp(6, 3, nn.Dropout(0.1)), nn.CrossEntropyLoss(), data(*table()))
    trainer.validate(val)
    return trainer, train, val


def groups_and_decay() -> Made:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))
    thick, thin = ([p for p in model.parameters() if (p.ndim > 1) is wide] for wide in (True, False))
    groups = [{"params": thick, "weight_decay": 0.1}, {"params": thin, "weight_decay": 0.0, "lr": 1e-2}]
    return made(model, nn.CrossEntropyLoss(), data(*table()), torch.optim.AdamW(groups, lr=1e-3))


def a_plateau() -> Made:
    model = mlp()
    opt = torch.optim.SGD(model.parameters(), lr=0.5)
    watched = Optimizer(opt, schedules.ReduceLROnPlateau(opt, patience=2), monitor="val/loss")
    return made(model, nn.CrossEntropyLoss(), data(*table()), watched)


def a_rate_that_rises_from_zero() -> Made:
    model = mlp()
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = schedules.LambdaLR(opt, lambda step: min(step / 8, max(0.0, (80 - step) / 72)))
    return made(model, nn.CrossEntropyLoss(), data(*table()), Optimizer(opt, schedule, sched_on="step"))


def a_cycle_of_restarts() -> Made:
    model = mlp()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = schedules.CosineAnnealingWarmRestarts(opt, 2, T_mult=2)
    return made(model, nn.CrossEntropyLoss(), data(*table()), Optimizer(opt, schedule))


def an_epoch_count_that_nobody_gave() -> Made:
    model = mlp()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = Optimizer(opt, schedules.CosineAnnealingLR(opt, 40), sched_on="step")
    return made(model, nn.CrossEntropyLoss(), data(*table()), schedule, epochs=1000)


class Squares(Dataset[Any]):
    """A dataset that makes its samples, with noise."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        x = torch.randn(3, generator=torch.Generator().manual_seed(self.first + index))
        return x + 0.01 * torch.randn(3), float(x.sum())


def a_dataset_that_makes_its_samples() -> Made:
    train, val = DataLoader(Squares(0, 64), 8, shuffle=True), DataLoader(Squares(500, 32), 8)
    model = nn.Sequential(mlp(3, 1), nn.Flatten(0))
    return made(model, lambda out, y: F.mse_loss(out, y.float()), (train, val))


def workers() -> Made:
    x, y = table()
    train = DataLoader(TensorDataset(x[:120], y[:120]), 16, shuffle=True, num_workers=2)
    return made(mlp(), nn.CrossEntropyLoss(), (train, DataLoader(TensorDataset(x[120:], y[120:]), 16, num_workers=1)))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield torch.randn(6), int(torch.randint(3, ()))


def an_endless_stream() -> Made:
    return made(mlp(), nn.CrossEntropyLoss(), (DataLoader(Endless(), 16), None))


def weighted_sampling() -> Made:
    x, y = table()
    sampler = WeightedRandomSampler(torch.rand(120).tolist(), 120)
    train = DataLoader(TensorDataset(x[:120], y[:120]), 16, sampler=sampler)
    return made(mlp(), nn.CrossEntropyLoss(), (train, DataLoader(TensorDataset(x[120:], y[120:]), 16)))


def parts_by_samplers() -> Made:
    whole = TensorDataset(*table())
    order = torch.randperm(160).tolist()
    train, val = (DataLoader(whole, 16, sampler=SubsetRandomSampler(part)) for part in (order[:120], order[120:]))
    return made(mlp(), nn.CrossEntropyLoss(), (train, val))


class Buckets(Sampler[list[int]]):
    """Batches of the user's own making, other ones in each pass."""

    def __init__(self, count: int) -> None:
        self.count, self.passes, self.draw = count, 0, np.random.default_rng(0)

    def __iter__(self) -> Iterator[list[int]]:
        self.passes += 1
        for part in self.draw.permutation(self.count).reshape(-1, 10):
            yield part.tolist()

    def __len__(self) -> int:
        return self.count // 10


def batches_of_their_own_making() -> Made:
    x, y = table()
    train = DataLoader(TensorDataset(x[:120], y[:120]), batch_sampler=Buckets(120))
    return made(mlp(), nn.CrossEntropyLoss(), (train, DataLoader(TensorDataset(x[120:], y[120:]), 16)))


def several_parts_joined() -> Made:
    x, y = table()
    one, two = TensorDataset(x[:60], y[:60]), TensorDataset(x[60:120], y[60:120])
    train = DataLoader(ConcatDataset([one, two]), 16, shuffle=True)
    return made(mlp(), nn.CrossEntropyLoss(), (train, DataLoader(TensorDataset(x[120:], y[120:]), 16)))


def a_table_with_many_equal_rows() -> Made:
    x = torch.randint(2, (400, 3)).float()
    y = (x.sum(1) > 1).long()
    train, val = TensorDataset(x[:300], y[:300]), TensorDataset(x[300:], y[300:])
    return made(mlp(3, 2), nn.CrossEntropyLoss(), (DataLoader(train, 16, shuffle=True), DataLoader(val, 16)))


def a_series_in_order() -> Made:
    wave = torch.sin(torch.arange(210) / 10)
    x, y = wave.unfold(0, 10, 1)[:-1], wave[10:].unsqueeze(1)
    train, val = TensorDataset(x[:150], y[:150]), TensorDataset(x[150:], y[150:])
    return made(mlp(10, 1), nn.MSELoss(), (DataLoader(train, 16), DataLoader(val, 16)))


def a_single_batch_in_a_list() -> Made:
    x, y = table()
    return made(mlp(), nn.CrossEntropyLoss(), ([(x[:120], y[:120])], [(x[120:], y[120:])]))


def a_graph_with_masks() -> Made:
    x, y = table(40)
    masks = torch.arange(40) < 5, torch.arange(40) >= 30

    def loss(out: Tensor, y: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(out[y[1]], y[0][y[1]])

    return made(mlp(), loss, [[(x, (y, mask))] for mask in masks])


def samples_by_themselves() -> Made:
    x, y = table()
    return made(mlp(), nn.CrossEntropyLoss(), data(x[:40], y[:40], batch=1))


def tasks_with_names() -> Made:
    trainer, train, val = made(mlp(), nn.CrossEntropyLoss(), data(*table()), metrics=[accuracy, f1])
    return trainer, [EpochTask(train, name="a."), EpochTask(train, name="b.")], [EpochTask(val, name="a.")]


def a_normalized_embedding() -> Made:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        near = out @ out.T
        same = (y[:, None] == y[None]).float()
        return F.binary_cross_entropy_with_logits(near, same)

    class Normal(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(x, dim=1)

    return made(mlp(6, 4, Normal()), loss, data(*table()))


def a_penalty_on_the_weights() -> Made:
    model = mlp()

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y) + 1e-4 * sum(p.square().sum() for p in model.parameters())

    return made(model, loss, data(*table()))


def counts_with_poisson() -> Made:
    x, _ = table()
    return made(mlp(6, 1, nn.Flatten(0)), nn.PoissonNLLLoss(), data(x, torch.poisson(x[:, 0].exp())))


def quantiles() -> Made:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        error, q = y - out, torch.tensor([0.1, 0.5, 0.9])
        return torch.maximum(q * error, (q - 1) * error).mean()

    x, _ = table()
    return made(mlp(6, 3), loss, data(x, x.sum(1, keepdim=True)))


ODDITIES: tuple[Callable[[], Made], ...] = tuple(
    value for value in list(globals().values()) if getattr(value, "__annotations__", {}) == {"return": "Made"}
)


@pytest.mark.parametrize("oddity", ODDITIES, ids=lambda oddity: oddity.__name__)
def test_an_oddity_is_no_fault(oddity: Callable[[], Made]) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        trainer, train, val = oddity()
        if isinstance(train, list) and isinstance(train[0], EpochTask):
            diagnosis = trainer.check(train_tasks=train, val_tasks=val)
        else:
            diagnosis = trainer.check(train, val)
        assert not list(diagnosis), f"seed {seed}: {diagnosis}"
        failed = [reason for reason in diagnosis.left_out.values() if "failed" in reason or "copied" in reason]
        assert not failed, str(diagnosis)


def test_there_are_many() -> None:
    assert len(ODDITIES) >= 60
