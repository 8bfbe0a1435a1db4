"""The learning-rate finder: what it tries, what it suggests, and that it leaves no trace."""

from __future__ import annotations

import builtins
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from deepepochs_like import (
    AMP,
    EMA,
    Callback,
    Checkpoint,
    EpochTask,
    GradClip,
    GradientAccumulation,
    LRFindCallback,
    LRFinder,
    Optimizer,
    Optimizers,
    Trainer,
)
from deepepochs_like.callbacks.lr_find import take_rate
from deepepochs_like.callbacks.lr_finding import Average, finding_of
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, StepError
from deepepochs_like.metrics import accuracy
from support.digits import digits, loader
from support.traces import account, differences, digest


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))


class Noisy(Dataset[Any]):
    def __init__(self) -> None:
        self.x, self.y = digits(128)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index] + 0.01 * torch.rand(()), self.y[index]


def made(model: nn.Module | None = None, opt: Any = None, callbacks: Any = None, **options: Any) -> Trainer:
    model = net() if model is None else model
    opt = torch.optim.Adam(model.parameters(), 1e-3) if opt is None else opt
    return Trainer(model, F.cross_entropy, opt, 2, "cpu", callbacks, accuracy, **{"verbose": 0, **options})


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained"])
def test_it_leaves_no_trace(workers: int, trained: bool, tmp_path: Path) -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=20)
    callbacks = [AMP("bf16"), GradClip(1.0), Checkpoint("val/loss")]
    trainer = made(model, Optimizer(opt, schedule, "step"), callbacks, folder=tmp_path)
    order = RandomSampler(range(128), generator=torch.Generator().manual_seed(2))
    train_dl: DataLoader[Any] = DataLoader(Noisy(), 32, sampler=order, num_workers=workers)
    if trained:
        trainer.fit(train_dl, loader(128, 200), epochs=1)
    before = account(tmp_path, trainer=trainer, train=train_dl)
    finding = trainer.find_lr(train_dl, steps=12 if workers else 30)
    after = account(tmp_path, trainer=trainer, train=train_dl)
    assert len(finding.lrs) > 8
    assert differences(before, after) == {}
    assert digest(before) == digest(after)


def test_rates_grow_by_one_factor_and_losses_are_those_of_a_loop_by_hand() -> None:
    model, batches = nn.Linear(64, 10), list(loader(0, 160))
    opt = torch.optim.SGD(model.parameters(), 0.01, momentum=0.5)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    finding = made(model, opt).find_lr(batches, low=1e-4, high=1.0, steps=17, diverge=1e9)
    assert finding.lrs == pytest.approx([1e-4 * 10 ** (4 * i / 16) for i in range(17)])
    assert finding.stopped == "up to 1"
    losses, hand = [], nn.Linear(64, 10)
    hand.load_state_dict(start)
    by_hand = torch.optim.SGD(hand.parameters(), 0.01, momentum=0.5)
    for index, lr in enumerate(finding.lrs):
        by_hand.param_groups[0]["lr"] = lr
        loss = F.cross_entropy(hand(batches[index % 5][0]), batches[index % 5][1])
        losses.append(loss.item())
        by_hand.zero_grad()
        loss.backward()
        by_hand.step()
    assert finding.losses == losses


def test_the_average_is_corrected_for_its_beginning() -> None:
    average = Average(0.9)
    values = [3.0, 1.0, 2.0, 5.0]
    for count, value in enumerate(values, 1):
        weights = [0.1 * 0.9 ** (count - 1 - i) for i in range(count)]
        expected = sum(w * v for w, v in zip(weights, values, strict=False)) / (1 - 0.9**count)
        assert average.add(value) == pytest.approx(expected)


def test_groups_keep_their_ratios_and_schedulers_rest() -> None:
    model, seen = net(), []
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1:].parameters(), "lr": 0.02}]
    opt = torch.optim.SGD(groups)
    schedule = torch.optim.lr_scheduler.LinearLR(opt, 0.1, total_iters=3)

    class Look(Callback):
        part_of_training = True

        def on_before_optimize(self, trainer: Any, optimize_index: Any) -> None:
            seen.append([group["lr"] for group in opt.param_groups])

    finding = made(model, Optimizer(opt, schedule, "step"), [Look()]).find_lr(loader(0, 96), steps=10, high=1.0)
    assert [first for first, _ in seen] == finding.lrs
    assert all(second / first == pytest.approx(0.2) for first, second in seen)
    assert [group["lr"] for group in opt.param_groups] == pytest.approx([0.01, 0.002])
    assert seen.pop() is not None


def test_one_of_several_optimizers_can_be_swept_and_tensor_rates_too() -> None:
    model, seen = net(), []
    opts = {
        "first": torch.optim.SGD(model[0].parameters(), torch.tensor(0.5)),
        "rest": torch.optim.SGD(model[1:].parameters(), 0.1),
    }

    class Look(Callback):
        part_of_training = True

        def on_before_optimize(self, trainer: Any, optimize_index: Any) -> None:
            seen.append([float(opt.param_groups[0]["lr"]) for opt in opts.values()])

    trainer = made(model, opts, [Look()])
    finding = trainer.find_lr(loader(0, 96), steps=10, high=1.0, opt="first")
    assert [first for first, _ in seen] == pytest.approx(finding.lrs)
    assert {rest for _, rest in seen} == {0.1}
    rate = opts["first"].param_groups[0]["lr"]
    assert isinstance(rate, Tensor)
    assert float(rate) == 0.5
    with pytest.raises(ArgumentError, match=r"opt='secnd'.*'first', 'rest'"):
        trainer.find_lr(loader(0, 96), opt="secnd")
    with pytest.raises(ArgumentError, match="opt=2"):
        trainer.find_lr(loader(0, 96), opt=2)


def twins(every: int = 1, **options: Any) -> tuple[Trainer, dict[str, list[float]]]:
    """Two models with an optimizer each, of which 'd' is updated last, and 'g' every so many batches; their losses."""
    heard: dict[str, list[float]] = {"g": [], "d": []}

    class Twins(Trainer):
        def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
            for name in ("g", "d"):
                if name == "d" or len(heard["d"]) % every == every - 1:
                    loss = F.cross_entropy(self.models[name](*batch_x), batch_y)
                    self.backward(loss)
                    self.optimize(name)
                    heard[name].append(float(loss.detach()))

    models = {"g": net(), "d": nn.Linear(64, 10)}
    opts = {name: torch.optim.SGD(model.parameters(), 0.1) for name, model in models.items()}
    return Twins(models, F.cross_entropy, opts, 1, "cpu", **{"verbose": 0, **options}), heard


@pytest.mark.parametrize(("opt", "name"), [("g", "g"), ("d", "d"), (0, "g"), (None, "g")])
def test_of_several_losses_it_is_that_of_the_first_optimizer_swept(opt: Any, name: str) -> None:
    trainer, heard = twins()
    finding = trainer.find_lr(loader(0, 160), steps=8, low=1e-4, high=1e-1, opt=opt)
    assert finding.lrs == pytest.approx([1e-4 * 1e3 ** (i / 7) for i in range(8)])
    assert finding.losses == pytest.approx(heard[name])


def test_the_rate_waits_for_an_optimizer_that_is_updated_now_and_then() -> None:
    trainer, heard = twins(every=3)
    finding = trainer.find_lr(loader(0, 192), steps=6, low=1e-4, high=1e-1, opt="g")
    assert finding.lrs == pytest.approx([1e-4 * 1e3 ** (i / 5) for i in range(6)])
    assert finding.losses == pytest.approx(heard["g"])
    assert len(heard["d"]) == 18
    with pytest.raises(StepError, match="after 1000 batches no weight of optimizer 'g' has been updated"):
        twins(every=1001)[0].find_lr([next(iter(loader(0, 4)))], opt="g")


def test_a_window_that_several_optimizers_share_is_of_their_own_losses() -> None:
    trainer, heard = twins(accumulate=2)
    finding = trainer.find_lr(loader(0, 128), steps=4, low=1e-4, high=1e-1, opt="g")
    assert len(finding.lrs) == 4
    windows = zip(heard["g"][::2], heard["g"][1::2], strict=True)
    assert finding.losses == pytest.approx([(first + second) / 2 for first, second in windows])


def test_a_window_that_only_the_end_of_a_pass_closes_is_of_their_own_losses_too() -> None:
    trainer, heard = twins(accumulate=8)
    finding = trainer.find_lr(loader(0, 96), steps=4, low=1e-4, high=1e-1, opt="g")  # 3 batches in a pass
    assert finding.losses == pytest.approx([sum(heard["g"][i : i + 3]) / 3 for i in range(0, 12, 3)])
    assert "optimize" not in vars(trainer)


def test_a_window_in_which_the_swept_optimizer_makes_no_update_is_none() -> None:
    heard: list[float] = []

    class First(Trainer):
        def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
            for name in ("g", "d") if self.progress.step % 2 else ("d",):
                loss = F.cross_entropy(self.models[name](*batch_x), batch_y)
                self.backward(loss)
                self.optimize(name)
                heard.extend([float(loss.detach())] * (name == "g"))

    models = {"g": net(), "d": nn.Linear(64, 10)}
    opts = {name: torch.optim.SGD(model.parameters(), 0.1) for name, model in models.items()}
    trainer = First(models, F.cross_entropy, opts, 1, "cpu", verbose=0, accumulate=2)
    finding = trainer.find_lr(loader(0, 128), steps=3, low=1e-4, high=1e-1, opt="g")
    assert finding.losses == pytest.approx([(heard[i] + heard[i + 1]) / 2 for i in (0, 2, 4)])


def test_a_sweep_is_one_epoch_wherever_the_run_is() -> None:
    trainer, seen = made(), []

    class Look(Callback):
        part_of_training = True

        def on_before_epoch(self, trainer: Any, epoch_idx: int, **tasks: Any) -> None:
            seen.append((epoch_idx, trainer.progress.step))

    trainer.callbacks.append(Look())
    trainer.fit(loader(0, 96), epochs=2)
    assert len(trainer.find_lr(loader(0, 96), steps=10, high=1.0).lrs) == 10
    assert seen == [(0, 0), (1, 3), (2, 6)]


def test_it_stops_where_the_loss_diverges_or_is_not_finite() -> None:
    model = nn.Linear(64, 10)
    trainer = made(model, torch.optim.SGD(model.parameters(), 0.1))
    finding = trainer.find_lr(loader(0, 160), high=1e6)
    assert len(finding.lrs) < 100
    assert "diverged" in finding.stopped
    assert finding.smoothed[-1] > 4 * min(finding.smoothed)

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        broken = trainer.progress.step == 7
        loss = F.cross_entropy(trainer.model(batch_x), batch_y)
        trainer.backward(loss * (math.nan if broken else 1.0))
        trainer.optimize()

    finding = trainer.find_lr(loader(0, 160), step=step)
    assert len(finding.losses) == len(finding.lrs) == len(finding.smoothed) == 7
    assert finding.stopped.endswith("the loss was nan")
    assert all(map(math.isfinite, finding.losses))


def several() -> Trainer:
    model = net()
    parts = [
        torch.optim.SGD(model[0].parameters(), 0.1),
        torch.optim.Adam([*model[1].parameters(), *model[4].parameters()]),
    ]
    return made(
        model, Optimizers([Optimizer(parts[0], torch.optim.lr_scheduler.StepLR(parts[0], 1)), Optimizer(parts[1])])
    )


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        x, y = digits(96)
        yield from zip(x, y, strict=True)


@pytest.mark.parametrize(
    ("build", "train_dl"),
    [
        (made, [(digits(32))]),
        (made, DataLoader(Stream(), 32)),
        (several, loader(0, 96)),
        (lambda: made(callbacks=[EMA(), GradientAccumulation({0: 8})]), loader(0, 64)),
        (lambda: made(callbacks=[AMP("fp16")]), loader(0, 96)),
    ],
    ids=["one batch", "stream", "several optimizers", "window longer than the loader", "loss scaler"],
)
@pytest.mark.parametrize("tool", ["find_lr", "find_batch_size"])
def test_it_leaves_no_trace_in_unusual_runs(build: Any, train_dl: Any, tool: str) -> None:
    trainer, options = build(), {"steps": 12} if tool == "find_lr" else {"most": 16}
    given = train_dl.dataset if tool == "find_batch_size" and not isinstance(train_dl, list) else train_dl
    if tool == "find_batch_size" and isinstance(train_dl, list):
        given = list(zip(*train_dl[0], strict=True))  # samples, not batches
    before = account(trainer=trainer, train=given)
    finding = getattr(trainer, tool)(given, **options)
    assert differences(before, account(trainer=trainer, train=given)) == {}
    assert len(finding.lrs) == 12 if tool == "find_lr" else finding.suggestion == 16


def test_a_loss_that_is_nan_at_once_is_not_the_rates_fault() -> None:
    trainer = Trainer(net(), lambda out, y: F.cross_entropy(out, y) * math.nan, verbose=0, device="cpu")
    before = account(trainer=trainer)
    finding = trainer.find_lr(loader(0, 96))
    assert differences(before, account(trainer=trainer)) == {}
    assert finding.suggestion is finding.valley is None
    assert str(finding).splitlines() == [
        "no learning rate could be tried",
        "no learning rate is suggested: at 1.00e-07 the loss was nan; no update had been made, so that it is not the "
        "rate's fault",
    ]


def test_a_loss_below_zero_does_not_end_it_at_once() -> None:
    model = nn.Linear(64, 10)

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.model(batch_x), batch_y)

    trainer = Trainer(
        model, lambda p, t: F.cross_entropy(p, t) - 10, torch.optim.SGD(model.parameters(), 0.1), verbose=0
    )
    assert len(trainer.find_lr(loader(0, 160), step=step, high=0.1, steps=40).lrs) == 40


def test_what_it_suggests_trains_well() -> None:
    def reached(lr: float) -> float:
        model = net()
        trainer = made(model, torch.optim.SGD(model.parameters(), lr, momentum=0.9))
        torch.manual_seed(1)
        trainer.fit(loader(0, 1200, shuffle=True), epochs=2)
        return float(trainer.validate(loader(1200, 1797))["accuracy"])

    model = net()
    torch.manual_seed(1)
    finding = made(model, torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)).find_lr(
        loader(0, 1200, shuffle=True)
    )
    assert finding.suggestion is not None
    assert finding.valley is not None
    best = max(reached(lr) for lr in (0.003, 0.01, 0.03, 0.1, 0.3))
    assert reached(finding.suggestion) > best - 0.06
    assert reached(finding.valley) > best - 0.06


def test_suggestions_lie_where_a_known_curve_falls() -> None:
    rates = [10 ** (i / 20 - 6) for i in range(141)]
    losses = [2.3 - 2 / (1 + (0.01 / lr) ** 2) + (10 * (lr - 3) if lr > 3 else 0) for lr in rates]
    for smoothing in (0.0, 0.9):
        finding = finding_of(rates, losses, smoothing)
        assert finding.suggestion == pytest.approx(0.01, rel=0.7)
        assert finding.valley is not None
        assert 0.02 < finding.valley < 0.4
    flat = finding_of(rates, [2.3] * 141, 0.9)
    assert (flat.suggestion, flat.valley) == (None, None)
    assert "does not fall" in flat.words()
    rising = finding_of(rates, [1 + lr for lr in rates], 0.9)
    assert rising.suggestion is None
    assert finding_of([1e-3], [1.0], 0.9).suggestion is None


def test_a_window_of_several_batches_is_one_rate() -> None:
    model, batches = nn.Linear(64, 10), list(loader(0, 160))
    trainer = made(model, torch.optim.SGD(model.parameters(), 0.1), accumulate=2)
    finding = trainer.find_lr(batches, steps=6, low=1e-9, high=1e-8)
    with torch.no_grad():  # at these rates the weights stay where they are
        losses = [float(F.cross_entropy(model(x), y)) for x, y in batches]
    windows = [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2, losses[4]]
    assert finding.losses == pytest.approx([*windows, *windows], rel=1e-4)
    assert len(finding.lrs) == 6


class OwnTask(EpochTask):
    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        self.loss(self.model(batch_x) * step_args["scale"], batch_y)


def test_steps_of_tasks_are_run_and_metrics_are_not() -> None:
    def fail(preds: Tensor, targets: Tensor) -> Tensor:
        raise ValueError("a metric was computed")

    trainer, task = made(), OwnTask(loader(0, 96), metrics=fail, scale=0.0)
    before = account(trainer=trainer, task=task)
    finding = trainer.find_lr(task, steps=8)
    assert finding.losses == pytest.approx([math.log(10)] * 8)
    assert differences(before, account(trainer=trainer, task=task)) == {}


def test_steps_without_a_loss_or_an_update_are_named() -> None:
    def no_loss(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        F.cross_entropy(trainer.model(batch_x), batch_y).backward()
        trainer.optimize()

    def no_update(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.model(batch_x), batch_y, do_optimize=False)

    with pytest.raises(StepError, match="no loss to sweep over"):
        made().find_lr(loader(0, 96), step=no_loss)
    with pytest.raises(StepError, match="no weight has been updated"):
        made(nn.Linear(64, 10)).find_lr(list(loader(0, 32, batch_size=4)), step=no_update)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"low": 1.0, "high": 0.1}, ArgumentError, r"low=1.0, high=0.1"),
        ({"low": 0.0}, ArgumentError, "low=0.0"),
        ({"steps": 1}, ArgumentError, "steps=1"),
        ({"steps": 10.0}, ArgumentTypeError, "steps=10.0"),
        ({"high": "1"}, ArgumentTypeError, "high='1'"),
        ({"smoothing": 1.0}, ArgumentError, "smoothing=1.0"),
        ({"diverge": 1}, ArgumentError, "diverge=1"),
        ({"max_lr": 1}, ArgumentTypeError, "max_lr"),
    ],
)
def test_arguments_are_checked_before_any_work(options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        made().find_lr([], **options)
    with pytest.raises(error, match=words):
        LRFinder(**options)


def test_it_is_drawn_into_a_file_and_in_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    finding = made().find_lr(loader(0, 1200, shuffle=True))
    assert finding.suggestion is not None
    figure = finding.plot(tmp_path / "lr.png")
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [line.get_label().split(":")[0] for line in axes.lines] == ["loss", "smoothed", "steepest", "valley"]
    assert list(axes.lines[1].get_ydata()) == finding.smoothed
    finding.show(60)
    said = capsys.readouterr().out
    assert max(map(len, finding.chart(60).splitlines())) <= 60
    assert f"{finding.suggestion:.2e} (steepest)" in said
    assert str(finding).endswith(finding.words())
    finding_of([], [], 0.9, "at 1e-07 the loss was nan").plot()
    assert "no learning rate could be tried" in str(finding_of([], [], 0.9))


def test_without_matplotlib_the_chart_is_there_and_the_plot_says_what_to_install(monkeypatch: Any) -> None:
    plain = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name, name="matplotlib")
        return plain(name, *args, **options)

    import importlib

    monkeypatch.setattr(builtins, "__import__", without)
    imported = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name, package=None: _absent(name, package, imported))
    finding = finding_of([0.1, 0.2, 0.3], [3.0, 2.0, 1.0], 0.0)
    assert "log10" in str(finding)
    with pytest.raises(ModuleNotFoundError, match=r"deepepochs_like\[plot\]"):
        finding.plot()


def _absent(name: str, package: Any, imported: Any) -> Any:
    if name.startswith("matplotlib"):
        raise ModuleNotFoundError(name, name="matplotlib")
    return imported(name, package)


def test_the_callback_leaves_the_run_as_it_would_have_been(tmp_path: Path) -> None:
    results = []
    for callbacks in ([], [LRFinder(steps=20), Checkpoint()]):
        trainer = made(callbacks=callbacks, folder=tmp_path)
        torch.manual_seed(3)
        trainer.fit(loader(0, 96, shuffle=True), loader(96, 160), epochs=2)
        results.append((trainer.history.state_dict(), [value.clone() for value in trainer.model.state_dict().values()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(one, other) for one, other in zip(results[0][1], results[1][1], strict=True))
    finding = callbacks[0].finding  # type: ignore[attr-defined]
    assert finding is not None
    assert len(finding.lrs) == 20


def test_the_callback_applies_its_suggestion_to_groups_and_schedules() -> None:
    model, finder = net(), LRFinder(apply=True)
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1:].parameters(), "lr": 0.02}]
    opt = torch.optim.SGD(groups, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    trainer = made(model, Optimizer(opt, schedule), [finder])
    trainer.fit(loader(0, 1200, shuffle=True), epochs=2)
    assert finder.finding is not None
    suggested = finder.finding.suggestion
    assert suggested is not None
    assert schedule.base_lrs == pytest.approx([suggested, suggested / 5])
    assert [group["lr"] for group in opt.param_groups] == pytest.approx([suggested / 4, suggested / 20])
    finder.finding = None
    trainer.fit(loader(0, 96), epochs=1)
    assert finder.finding is None, "a run that goes on is not swept again"


def test_a_rate_is_taken_over_by_nested_schedules() -> None:
    opt = torch.optim.SGD(net().parameters(), 0.1)
    parts = [torch.optim.lr_scheduler.LinearLR(opt, 0.1, total_iters=2), torch.optim.lr_scheduler.ConstantLR(opt, 1.0)]
    chain = torch.optim.lr_scheduler.SequentialLR(opt, parts, [2])
    take_rate([Optimizer(opt, chain)], 1.0)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.1)
    for _ in range(3):
        opt.step()
        chain.step()
    assert opt.param_groups[0]["lr"] == pytest.approx(1.0)


SCHEDULES = {
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(o, [0.01, 0.001], [0.1, 0.02], 4, cycle_momentum=False),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, [0.1, 0.02], total_steps=20),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 8, eta_min=0.01),
    "CosineAnnealingWarmRestarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 5, eta_min=0.01),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=4),
            torch.optim.lr_scheduler.CosineAnnealingLR(o, 8, eta_min=0.01),
        ],
        [4],
    ),
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
}


def rates_of(schedule: Any, rate: float | None) -> list[list[float]]:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.1, 0.02)]
    opt = torch.optim.SGD(groups, momentum=0.9)
    scheduler, rates = schedule(opt), []
    if rate is not None:
        take_rate([Optimizer(opt, scheduler, "step")], rate)
    for _ in range(14):
        rates.append([group["lr"] for group in opt.param_groups])
        opt.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("rate", [3.0, 0.004])
def test_a_schedule_keeps_its_proportions_and_its_peak_is_the_rate(name: str, rate: float) -> None:
    before, after = rates_of(SCHEDULES[name], None), rates_of(SCHEDULES[name], rate)
    assert max(first for first, _ in after) == pytest.approx(rate)
    for former, taken in zip(before, after, strict=True):
        assert taken == pytest.approx([one * rate / 0.1 for one in former])


def test_a_plateau_falls_in_proportion_too() -> None:
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0, min_lr=0.05)
    take_rate([Optimizer(opt, scheduler, sched_with_loss=True)], 0.002)
    for _ in range(4):
        opt.step()
        scheduler.step(1.0)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.001)


def test_what_a_former_schedule_left_in_the_groups_is_no_peak() -> None:
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1, momentum=0.9)
    torch.optim.lr_scheduler.OneCycleLR(opt, 5.0, total_steps=16)
    del opt.param_groups[0]["initial_lr"]
    opt.param_groups[0]["lr"] = 0.1
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 3)
    take_rate([Optimizer(opt, scheduler)], 0.3)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_the_callback_applies_its_suggestion_to_the_peak(name: str) -> None:
    model, finder, rates = net(), LRFinder(steps=60, apply=True), []
    opt = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[1:].parameters()}], 0.1, momentum=0.9)

    class Look(Callback):
        def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
            rates.append([group["lr"] for group in opt.param_groups])

    trainer = made(model, Optimizer(opt, SCHEDULES[name](opt), "step"), [finder, Look()])
    trainer.fit(loader(0, 8 * 32), epochs=2)
    assert finder.finding is not None
    suggested = finder.finding.suggestion
    assert suggested is not None
    assert max(first for first, _ in rates) == pytest.approx(suggested)
    assert max(second for _, second in rates) == pytest.approx(suggested / 5)


def test_a_resumed_run_is_not_swept(tmp_path: Path) -> None:
    first = made(callbacks=[Checkpoint()], folder=tmp_path, running_id="a")
    first.fit(loader(0, 96), epochs=1)
    finder = LRFinder(apply=True)
    second = made(callbacks=[Checkpoint(), finder], folder=tmp_path, running_id="a", resume="auto")
    second.fit(loader(0, 96))
    assert finder.finding is None
    assert second.opt[0].get_current_lr() == 1e-3


def test_deepepochs_callback_sweeps_instead_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    find, train_dl = LRFindCallback(max_batch=40, min_lr=1e-5, max_lr=2), loader(0, 1200, shuffle=True)
    trainer = made(callbacks=[find], verbose=1)
    before = [value.clone() for value in trainer.model.state_dict().values()]
    assert trainer.fit(train_dl) == {}
    assert find.lrs[0] == pytest.approx(1e-5)
    assert find.lrs == pytest.approx([1e-5 * 2e5 ** (i / 39) for i in range(40)][: len(find.lrs)])
    assert len(find.lrs) == len(find.losses)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.state_dict().values(), strict=True))
    assert trainer.progress.step == 0
    assert trainer.opt[0].get_current_lr() == 1e-3
    assert "log10(learning rate)" in capsys.readouterr().out


def test_deepepochs_callback_stops_at_ten_times_the_best_loss() -> None:
    model = nn.Linear(64, 10)
    find = LRFindCallback(max_lr=1e6)
    made(model, torch.optim.SGD(model.parameters(), 0.1), [find]).fit(loader(0, 160))
    assert find.losses[-1] > 10 * min(find.losses)
    assert all(loss <= 10 * min(find.losses[: index + 1]) for index, loss in enumerate(find.losses[:-1]))
    for options, words in (
        ({"opt_id": 3}, "opt_id=3"),
        ({"min_lr": 5, "max_lr": 1}, "min_lr=5"),
        ({"max_batch": 0}, "max"),
    ):
        with pytest.raises(ArgumentError, match=words):
            made(callbacks=[LRFindCallback(**options)]).fit(loader(0, 96))  # type: ignore[arg-type]


@pytest.mark.parametrize("tool", ["find_lr", "overfit_batch", "fast_dev_run"])
@pytest.mark.parametrize("interactive", [False, True])
def test_ctrl_c_ends_it_without_a_trace(interactive: bool, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepepochs_like.signals.interactive", lambda: interactive)

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.model(batch_x), batch_y)
        signal.raise_signal(signal.SIGINT)

    trainer, train_dl = made(), loader(0, 96, shuffle=True)
    before = account(trainer=trainer, train=train_dl)
    with pytest.raises(KeyboardInterrupt if interactive else SystemExit) as left:
        getattr(trainer, tool)(train_dl, step=step)
    assert interactive or left.value.code == 130
    assert differences(before, account(trainer=trainer, train=train_dl)) == {}
