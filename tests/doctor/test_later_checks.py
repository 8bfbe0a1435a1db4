"""What the later checks of the doctor must name, and what they must leave alone, one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from deepepochs_like import EMA, SWA, Diagnosis, GradClip, GradientAccumulation, Optimizer, Trainer, constant, warmup

ROWS = 120


def look(model: nn.Module, loss: Any = None, data: Any = None, opt: Any = None, **given: Any) -> Diagnosis:
    """Check a training of ten epochs, six updates each."""
    loader = data if data is not None else DataLoader(table(), 20, shuffle=True)
    options: dict[str, Any] = {"epochs": 10, "device": "cpu", "verbose": 0, **given}
    return Trainer(model, loss or nn.CrossEntropyLoss(), opt, **options).check(loader)


def table(targets: Tensor | None = None) -> TensorDataset:
    return TensorDataset(torch.randn(ROWS, 6), torch.arange(ROWS) * 7 % 3 if targets is None else targets)


def mlp(*more: nn.Module, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), act(), *more, nn.Linear(16, 3))


class After(nn.Module):
    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# Targets.


class Stream(IterableDataset[Any]):
    def __init__(self, targets: list[int]) -> None:
        self.targets_ = targets

    def __iter__(self) -> Iterator[Any]:
        return ((torch.randn(6), target) for target in self.targets_)


def test_targets_of_a_stream_are_looked_at_further_than_the_first_batches() -> None:
    assert look(mlp(), data=DataLoader(Stream([1] * 400), 20)).names == ["targets_all_alike"]
    rare = [1] * 300 + [0] * 4 + [1] * 96
    assert look(mlp(), data=DataLoader(Stream(rare), 20)).names == []


def test_a_rare_class_is_no_fault() -> None:
    y = torch.zeros(ROWS, dtype=torch.long)
    y[7] = 1
    assert "targets_all_alike" not in look(nn.Linear(6, 2), data=DataLoader(table(y), 10)).names


def test_targets_that_the_loss_does_not_ask_for_are_no_fault() -> None:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        return (out.std(0) - 1).square().mean()

    assert look(mlp(), loss, DataLoader(table(torch.zeros(ROWS)), 20, shuffle=True)).names == []


def test_targets_of_one_value_are_said_with_it() -> None:
    found = look(mlp(), data=DataLoader(table(torch.full((ROWS,), 2)), 20, shuffle=True))["targets_all_alike"]
    assert found.severity == "error"
    assert "are 2 in all 120 samples" in found.message


# Evaluation.


@pytest.mark.parametrize(
    "function",
    [
        lambda own, x: F.dropout(x, 0.3),
        lambda own, x: F.dropout1d(x[:, None], 0.3)[:, 0],
        lambda own, x: x * (torch.rand(x.shape) > 0.3),
        lambda own, x: x * 2 if random.random() < 0.3 else x,
        lambda own, x: x if torch.rand(()) < 0.7 else -x,
        lambda own, x: x if torch.rand(1).item() < 0.7 else -x,
    ],
)
def test_what_is_dropped_in_evaluation_too_is_said(function: Any) -> None:
    assert look(mlp(After(function))).names == ["active_in_evaluation"]


@pytest.mark.parametrize(
    "function",
    [
        lambda own, x: F.dropout(x, 0.3, own.training),
        lambda own, x: F.dropout(x, 0.0),
        lambda own, x: x + 0.1 * torch.randn_like(x),  # as in a variational autoencoder
        lambda own, x: x * (torch.rand(x.shape) > 0.3) if own.training else x,
        lambda own, x: x[torch.rand(len(x)).argsort().argsort().argsort().argsort() * 0 + torch.arange(len(x))],
        lambda own, x: x + F.gumbel_softmax(torch.zeros_like(x)),
    ],
)
def test_random_numbers_that_are_no_dropout_are_no_fault(function: Any) -> None:
    assert look(mlp(After(function))).names == []


def test_batch_norm_by_hand_that_goes_on_in_evaluation() -> None:
    class Norm(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=True)

    found = look(mlp(Norm(16)))
    assert found.names == ["active_in_evaluation"]
    assert "'2'" in found[0].message or " (2)" in found[0].message
    assert look(mlp(nn.BatchNorm1d(16, track_running_stats=False))).names == []


# Zeros.


def zeroed(model: Any, *places: int, bias: bool = True) -> Any:
    for place in places:
        nn.init.zeros_(model[place].weight)
        if bias:
            nn.init.zeros_(model[place].bias)
    return model


def test_a_last_layer_of_zeros_is_no_fault() -> None:
    assert look(zeroed(mlp(), 2)).names == []
    assert look(zeroed(mlp(act=nn.Tanh), 2)).names == []


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid])
def test_layers_of_zeros_that_let_nothing_through(act: type[nn.Module], bias: bool) -> None:
    assert look(zeroed(mlp(act=act), 0, 2, bias=bias)).names == ["zero_initialized"]
    assert look(zeroed(mlp(act=act), 0, bias=bias)).names == ["zero_initialized"]


def test_a_low_rank_addition_of_two_zeros_is_one_and_of_one_is_none() -> None:
    class Low(nn.Module):
        def __init__(self, down: float) -> None:
            super().__init__()
            self.base = nn.Linear(16, 16).requires_grad_(False)
            self.down, self.up = nn.Parameter(torch.randn(16, 2) * down), nn.Parameter(torch.zeros(2, 16))

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + x @ self.down @ self.up

    assert look(mlp(Low(0.1))).names == []
    assert look(mlp(Low(0.0))).names == ["zero_initialized"]


# Clipping.


def test_limits_that_leave_nothing_and_limits_that_are_usual() -> None:
    for clip in (GradClip(1e-6), GradClip(max_value=1e-7), GradClip(1e-4)):
        assert look(mlp(), callbacks=[clip]).names == ["clipping_too_tight"]
    for clip in (GradClip(0.1), GradClip(1.0), GradClip(5.0), GradClip(max_value=0.5), GradClip(float("inf"))):
        assert look(mlp(), callbacks=[clip]).names == []
    assert look(mlp(), callbacks=[GradClip(1e6)]).names == ["clipping_without_effect"]


# Horizons: the run has 60 updates.


def test_averages_that_are_longer_than_the_run() -> None:
    assert look(mlp(), callbacks=[EMA(0.99999)]).names == ["average_outlasts_run"]
    assert look(mlp(), callbacks=[EMA(0.99, every=30)]).names == ["average_outlasts_run"]
    assert look(mlp(), callbacks=[SWA(10)]).names == ["average_outlasts_run"]
    for callback in (EMA(0.9), EMA(0.99), SWA(5)):
        assert look(mlp(), callbacks=[callback]).names == []


def test_nothing_is_said_of_a_run_whose_length_is_not_known() -> None:
    trainer = Trainer(mlp(), nn.CrossEntropyLoss(), device="cpu", verbose=0, callbacks=[EMA(0.99999)])
    found = trainer.check(DataLoader(table(), 20, shuffle=True))
    assert found.names == []
    assert "average_outlasts_run" in found.left_out
    assert trainer.check(DataLoader(table(), 20, shuffle=True), max_steps=50).names == ["average_outlasts_run"]


def test_warm_ups_that_are_longer_than_the_run() -> None:
    def with_(make: Callable[[Any], Any], unit: str = "step") -> list[str]:
        net = mlp()
        opt = torch.optim.Adam(net.parameters())
        return look(net, opt=Optimizer(opt, make(opt), sched_on=unit)).names  # type: ignore[arg-type]

    assert with_(lambda opt: schedules.LinearLR(opt, 0.01, total_iters=500)) == ["warmup_outlasts_run"]
    assert with_(lambda opt: (warmup(500) >> constant(1)).scheduler(opt)) == ["warmup_outlasts_run"]
    assert with_(lambda opt: schedules.LambdaLR(opt, lambda n: min((n + 1) / 400, 20 / (n + 1) ** 0.5))) == [
        "warmup_outlasts_run"
    ]
    assert with_(lambda opt: schedules.LinearLR(opt, 0.01, total_iters=12)) == []
    assert with_(lambda opt: schedules.LinearLR(opt, 0.1, total_iters=3), "epoch") == []
    assert with_(lambda opt: schedules.LambdaLR(opt, lambda n: 10 ** (n / 30 - 2))) == []  # a search for a rate


def test_more_batches_per_update_than_there_are() -> None:
    assert look(mlp(), accumulate=7).names == ["accumulation_beyond_epoch"]
    assert look(mlp(), callbacks=[GradientAccumulation({0: 2, 5: 8})]).names == ["accumulation_beyond_epoch"]
    assert look(mlp(), accumulate=6).names == []


# A single sample.


def test_a_last_batch_of_one_is_a_fault_where_it_fails_alone() -> None:
    data = TensorDataset(torch.randn(61, 6), torch.arange(61) % 3)
    norm = mlp(nn.BatchNorm1d(16))
    assert look(norm, data=DataLoader(data, 20, shuffle=True)).names == ["batch_of_one_with_batchnorm"]
    assert look(norm, data=DataLoader(data, 20, shuffle=True, drop_last=True)).names == []
    assert look(mlp(), data=DataLoader(data, 20, shuffle=True)).names == []
    trainer = Trainer(norm, nn.CrossEntropyLoss(), epochs=10, device="cpu", verbose=0)
    val = DataLoader(TensorDataset(torch.randn(21, 6), torch.arange(21) % 3), 20)
    assert trainer.check(DataLoader(table(), 20, shuffle=True), val).names == []
    batches = [(torch.randn(n, 6), torch.arange(n) % 3) for n in (8, 8, 1)]
    assert look(norm, data=batches).names == ["batch_of_one_with_batchnorm"]


def test_a_batch_that_is_a_set_of_points_is_no_single_sample() -> None:
    points = [(torch.randn(30, 6), torch.arange(30) % 3) for _ in range(8)]
    loader = DataLoader(points, 1, shuffle=True, collate_fn=lambda items: items[0])  # type: ignore[arg-type]
    assert look(mlp(nn.BatchNorm1d(16)), data=loader).names == []


# Experts.


class Experts(nn.Module):
    def __init__(self, count: int, used: int) -> None:
        super().__init__()
        self.router = nn.Linear(6, used)
        self.experts = nn.ModuleList(nn.Linear(6, 3) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        gate, chosen = self.router(x).softmax(1).max(1)
        out = torch.zeros(len(x), 3)
        for number, expert in enumerate(self.experts):
            if bool((mine := chosen == number).any()):
                out[mine] = gate[mine, None] * expert(x[mine])
        return out


@pytest.mark.parametrize("count", [2, 8, 24])
def test_experts_that_a_batch_does_not_choose_are_alive(count: int) -> None:
    model = Experts(count, count)
    with torch.no_grad():
        model.router.bias[0] = 3.0  # one of them is chosen nearly always
    assert look(model, data=DataLoader(table(), 4, shuffle=True)).names == []


def test_a_layer_beside_the_experts_that_is_not_used_is_named() -> None:
    model = nn.Sequential(Experts(4, 4))
    model[0].spare = nn.Linear(2, 2)  # type: ignore[assignment]
    found = look(model, data=DataLoader(table(), 4, shuffle=True))
    assert found.names == ["parameters_without_gradient"]
    assert found[0].evidence["parameters"] == ["0.spare.weight", "0.spare.bias"]


# No trace.


class Counted(Dataset[Any]):
    """A dataset that counts and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked, self.log, self.noise = 0, list[int](), Noise()

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        self.log.append(index)
        return self.noise(torch.ones(6)), index * 7 % 3


class Noise:
    """A transform with a generator of its own."""

    def __init__(self) -> None:
        self.generator, self.calls = torch.Generator().manual_seed(3), 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + torch.randn(6, generator=self.generator)


def test_datasets_that_count_and_draw_are_as_before() -> None:
    data = Counted()
    before = data.noise.generator.get_state()
    found = look(mlp(), data=DataLoader(data, 10, shuffle=True))
    assert not found.left_out
    assert (data.asked, data.log, data.noise.calls) == (0, [], 0)
    assert torch.equal(data.noise.generator.get_state(), before)


def test_losses_and_metrics_that_count_are_as_before() -> None:
    calls, number = list[int](), 0

    def loss(out: Tensor, y: Tensor) -> Tensor:
        nonlocal number
        number += 1
        calls.append(number)
        return F.cross_entropy(out, y)

    class Score:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, preds: Tensor, targets: Tensor) -> Tensor:
            self.calls += 1
            return preds.mean()

        def loss(self, out: Tensor, y: Tensor) -> Tensor:
            self.calls += 1
            return F.cross_entropy(out, y)

    score = Score()
    for function in (loss, score.loss):
        assert look(mlp(), function, metrics=[score]).names == []
        assert (calls, number, score.calls) == ([], 0, 0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_compiled_model_is_looked_at_as_it_was_before() -> None:
    net = nn.Sequential(*mlp(), nn.Softmax(1))
    found = look(torch.compile(net))  # type: ignore[arg-type]
    assert found.names == ["softmax_before_loss"]
    assert found.seconds < 2  # to compile a copy takes longer


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_scripted_model_is_no_fault() -> None:
    assert look(torch.jit.script(mlp())).names == []  # type: ignore[no-untyped-call]
