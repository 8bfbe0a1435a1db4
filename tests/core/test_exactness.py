"""The numbers are those of a hand-written loop: weights to the bit, figures over the whole epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import EpochTask, Optimizer, Trainer, ValuePatch, metrics
from deepepochs_like.execution.window import Window
from support.digits import digits, loader, mlp, same, weights


def accuracy(preds: Tensor, targets: Tensor) -> Tensor:
    return (preds.argmax(1) == targets).double().mean()


def hand_written(model: nn.Module, opt: Any, train: Any, val: Any, epochs: int, schedule: Any = None) -> list[Any]:
    """Train as one would by hand; the figures are computed over all outputs of the epoch."""
    rows = []
    for _ in range(epochs):
        row: dict[str, Any] = {}
        for stage, dl in (("train", train), ("val", val)):
            model.train(stage == "train")
            outs, losses = [], []
            with torch.set_grad_enabled(stage == "train"):
                for x, y in dl:
                    out = model(x)
                    loss = F.cross_entropy(out, y)
                    if stage == "train":
                        loss.backward()
                        opt.step()
                        opt.zero_grad()
                        if schedule is not None:
                            schedule.step()
                    outs.append((out.detach(), y))
                    losses.append(loss.detach().double() * len(y))
            out, y = torch.cat([o for o, _ in outs]), torch.cat([t for _, t in outs])
            row[stage] = {"loss": float(sum(losses)) / len(y), "accuracy": float(accuracy(out, y))}
        rows.append(row)
    return rows


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("shuffle", [False, True])
def test_weights_equal_a_hand_written_loop_to_the_bit_and_figures_an_epoch(optimizer: Any, shuffle: bool) -> None:
    results = []
    for ours in (False, True):
        model = mlp(dropout=0.2)
        opt = optimizer(model.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 30)
        torch.manual_seed(5)
        train, val = loader(0, 210, shuffle=shuffle), loader(210, 300, batch_size=40)
        if ours:
            trainer = Trainer(
                model, F.cross_entropy, Optimizer(opt, schedule, "step"), 3, metrics=[accuracy], verbose=0, device="cpu"
            )
            history = trainer.fit(train, val)
            rows = [{s: {n: v[i] for n, v in history[s].items()} for s in ("train", "val")} for i in range(3)]
        else:
            rows = hand_written(model, opt, train, val, 3, schedule)
        results.append((rows, weights(model), torch.get_rng_state()))
    (rows, by_hand, generator), (our_rows, our_weights, our_generator) = results
    assert same(by_hand, our_weights)
    assert torch.equal(generator, our_generator), "the engine drew random numbers of its own"
    for row, our_row in zip(rows, our_rows, strict=True):
        for stage in ("train", "val"):
            assert our_row[stage]["accuracy"] == row[stage]["accuracy"]
            assert our_row[stage]["loss"] == pytest.approx(row[stage]["loss"], rel=1e-12)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    window=st.integers(2, 5),
    reduction=st.sampled_from(["plain", "weighted"]),
)
def test_an_accumulated_update_is_that_of_the_big_batch(sizes: list[int], window: int, reduction: str) -> None:
    x, y = digits(sum(sizes), torch.float64)
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    model, big = mlp(dtype=torch.float64), mlp(dtype=torch.float64)
    opt, big_opt = (torch.optim.SGD(m.parameters(), lr=0.5) for m in (model, big))
    token_weight = {"plain": lambda t: len(t), "weighted": lambda t: float((t + 1).sum())}[reduction]

    def step(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> None:
        out, each = trainer.model(*batch_x), 1.0 + batch_y
        if reduction == "plain":
            trainer.loss(out, batch_y)
        else:
            trainer.loss((out, each), batch_y, weight=each.sum())

    def loss(out: Any, targets: Tensor) -> Tensor:
        if reduction == "plain":
            return F.cross_entropy(out, targets)
        logits, each = out
        return (F.cross_entropy(logits, targets, reduction="none") * each).sum() / each.sum()

    trainer = Trainer(model, loss, opt, 1, accumulate=window, verbose=0, device="cpu")
    history = trainer.fit(batches, step=step)
    total, seen = 0.0, 0.0
    for i in range(0, len(batches), window):
        bx, by = (torch.cat(part) for part in zip(*batches[i : i + window], strict=True))
        each = torch.ones(len(by), dtype=torch.float64) if reduction == "plain" else 1.0 + by
        value = (F.cross_entropy(big(bx), by, reduction="none") * each).sum() / each.sum()
        value.backward()
        big_opt.step()
        big_opt.zero_grad()
        total, seen = total + value.item() * token_weight(by), seen + token_weight(by)
    for mine, theirs in zip(weights(model), weights(big), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    assert trainer.progress.step == -(-len(batches) // window)
    assert history["train"]["loss"][0] == pytest.approx(total / seen, rel=1e-9)


def test_an_accumulated_update_in_float32_equals_the_big_batch_to_1e6() -> None:
    x, y = digits(100)
    sizes = [32, 7, 32, 20, 9]
    model, big = mlp(), mlp()
    opts = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, big)]
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    Trainer(model, F.cross_entropy, opts[0], 1, accumulate=3, verbose=0, device="cpu").fit(batches)
    for part in (batches[:3], batches[3:]):
        bx, by = (torch.cat(p) for p in zip(*part, strict=True))
        F.cross_entropy(big(bx), by).backward()
        opts[1].step()
        opts[1].zero_grad()
    for mine, theirs in zip(weights(model), weights(big), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_windows_begin_anew_after_a_short_one_at_the_end_of_an_epoch() -> None:
    x, y = digits(50, torch.float64)
    batches = list(zip(x.split(10), y.split(10), strict=True))
    model, big = mlp(dtype=torch.float64), mlp(dtype=torch.float64)
    opts = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (model, big)]
    trainer = Trainer(model, F.cross_entropy, opts[0], 3, accumulate=3, verbose=0, device="cpu")
    trainer.fit(batches)
    for _ in range(3):
        for part in (batches[:3], batches[3:]):
            bx, by = (torch.cat(p) for p in zip(*part, strict=True))
            F.cross_entropy(big(bx), by).backward()
            opts[1].step()
            opts[1].zero_grad()
    assert trainer.progress.step == 6
    for mine, theirs in zip(weights(model), weights(big), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_figures_do_not_depend_on_how_the_samples_are_cut_into_batches(sizes: list[int]) -> None:
    x, y = digits(sum(sizes), torch.float64)
    model = mlp(dtype=torch.float64)
    names = [metrics.accuracy, metrics.f1]

    def figures(batches: Any, patch: str) -> dict[str, Any]:
        return Trainer(model, F.cross_entropy, metrics=names, metric_patch=patch, verbose=0, device="cpu").test(batches)

    for patch in ("tensor", "confusion"):
        whole, cut = figures([(x, y)], patch), figures(list(zip(x.split(sizes), y.split(sizes), strict=True)), patch)
        assert whole.keys() == cut.keys() == {"loss", "accuracy", "f1"}
        for name in whole:
            assert cut[name] == pytest.approx(whole[name], rel=1e-12)


def test_losses_of_many_batches_add_up_in_float64() -> None:
    value = 0.1
    batches = [(torch.full((1, 1), value),)] * 1000

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return x.mean() + 0 * self.w

    history = Trainer(Same(), epochs=1, verbose=0, device="cpu").fit(batches)
    assert history["train"]["loss"][0] == pytest.approx(float(np.float32(value)), rel=1e-14)


def test_a_step_counts_updates_whatever_the_number_of_optimizers() -> None:
    model = mlp()
    opts = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    trainer = Trainer(model, F.cross_entropy, opts, 2, verbose=0, device="cpu")
    trainer.fit(loader(0, 100))
    assert trainer.progress.step == 2 * 4


def test_manual_optimisation_is_counted_too() -> None:
    model = mlp()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(trainer: Trainer, batch_x: Any, batch_y: Tensor) -> dict[str, Any]:
        loss = F.cross_entropy(trainer.model(*batch_x), batch_y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return {"loss": ValuePatch(len(batch_y)).load(loss)}

    trainer = Trainer(model, F.cross_entropy, opt, verbose=0, device="cpu")
    history = trainer.fit(loader(0, 100), step=step, max_steps=6)
    assert trainer.progress.step == 6
    assert len(history["train"]["loss"]) == 2


def test_metrics_of_one_stage_meet_in_one_history_in_the_order_of_the_contract() -> None:
    def own(preds: Tensor, targets: Tensor) -> Tensor:
        return accuracy(preds, targets)

    def general(preds: Tensor, targets: Tensor) -> Tensor:
        return accuracy(preds, targets)

    model = mlp()
    task = EpochTask(loader(0, 64), metrics=[own])
    trainer = Trainer(model, F.cross_entropy, epochs=1, metrics=accuracy, verbose=0, device="cpu")
    history = trainer.fit(train_tasks=task, val_dl=loader(64, 100), metrics=[general], train_metrics=[metrics.f1])
    assert list(history["train"]) == ["loss", "own", "f1", "general", "accuracy"]
    assert list(history["val"]) == ["loss", "general", "accuracy"]


def test_a_float64_model_keeps_float64_figures() -> None:
    x, y = digits(64, torch.float64)
    model = mlp(dtype=torch.float64)
    result = Trainer(model, F.cross_entropy, verbose=0, device="cpu").test([(x[:13], y[:13]), (x[13:], y[13:])])
    with torch.no_grad():
        expected = float(F.cross_entropy(model(x), y))
    assert result["loss"] == pytest.approx(expected, rel=1e-14)


def test_batch_size_may_be_an_int_or_a_function_of_the_bare_input() -> None:
    x, y = digits(30)
    seen: list[Any] = []

    def size(batch_x: Any, batch_y: Any) -> int:
        seen.append(type(batch_x))
        return 2 * batch_x.shape[0]

    batches = [(x[:10], y[:10]), (x[10:], y[10:])]
    model = mlp()
    by_function = Trainer(model, F.cross_entropy, verbose=0, device="cpu").test(batches, batch_size=size)
    plain = Trainer(model, F.cross_entropy, verbose=0, device="cpu").test(batches)
    equal = Trainer(model, F.cross_entropy, verbose=0, device="cpu").test(batches, batch_size=7)
    with torch.no_grad():
        means = [float(F.cross_entropy(model(bx), by)) for bx, by in batches]
    assert seen == [Tensor, Tensor]
    assert by_function["loss"] == pytest.approx(plain["loss"], rel=1e-12)
    assert equal["loss"] == pytest.approx(np.mean(means), rel=1e-6)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Several threads may sum in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_dataloader_with_drop_last_trains_on_what_it_yields() -> None:
    x, y = digits(70)
    model = mlp()
    dl = DataLoader(TensorDataset(x, y), batch_size=32, drop_last=True)
    trainer = Trainer(model, F.cross_entropy, epochs=1, verbose=0, device="cpu")
    trainer.fit(dl)
    assert trainer.progress.step == 2


@pytest.mark.parametrize("kind", [np.float16, np.uint8, np.int32])
def test_a_window_adds_up_weights_of_numpy_as_pythons(kind: Any) -> None:
    window, plain = Window(3), Window(3)
    for batch, weight in enumerate((250, 199, 101)):
        loss = torch.tensor(1.5)
        assert window.scaled(loss, kind(weight), batch) == plain.scaled(loss, int(kind(weight)), batch)
    assert window.total == plain.total
