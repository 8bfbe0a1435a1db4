"""What is tried out on a trainer leaves no trace: everything is what it was, byte for byte."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from deepepochs_like import (
    AMP,
    EMA,
    Callback,
    Checkpoint,
    EngineWarning,
    EpochTask,
    FineTune,
    GradClip,
    GradientAccumulation,
    Optimizer,
    StopOnNaN,
    Trainer,
)
from deepepochs_like.errors import ArgumentError
from deepepochs_like.metrics import accuracy
from deepepochs_like.probe import First, untouched
from deepepochs_like.snapshot import Snapshot
from support.digits import digits, loader
from support.traces import account, differences, digest


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10))


class Noisy(Dataset[Any]):
    """Digits with noise from a generator of its own, the global ones, and a count of what was asked for."""

    def __init__(self, count: int = 96) -> None:
        self.x, self.y = digits(count)
        self.asked, self.log = 0, [0]
        self.noise, self.more = np.random.default_rng(3), random.Random(4)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.asked += 1
        self.log.append(index)
        noise = self.noise.random() + self.more.random() + random.random() + np.random.rand()
        return self.x[index] + 0.01 * noise + 0.01 * torch.rand(()), self.y[index]


class Turning(Sampler[int]):
    """A sampler with a state: each pass begins one further."""

    def __init__(self, count: int) -> None:
        self.count, self.first, self.order = count, 0, torch.arange(count)

    def __iter__(self) -> Iterator[int]:
        self.first += 1
        self.order.copy_(self.order.roll(1))
        return iter(self.order.tolist())

    def __len__(self) -> int:
        return self.count


def adam(model: nn.Module) -> Any:
    groups = [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[1:].parameters()}]
    opt = torch.optim.Adam(groups, lr=0.002)
    return Optimizer(opt, torch.optim.lr_scheduler.OneCycleLR(opt, [0.02, 0.01], total_steps=40), sched_on="step")


def sgd(model: nn.Module) -> Any:
    opt = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    return Optimizer(opt, torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0), sched_with_loss=True)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


LOADERS: dict[str, Callable[[], Any]] = {
    "in memory": lambda: loader(0, 96, shuffle=True),
    "generator": lambda: loader(0, 96, shuffle=True, generator=generator()),
    "sampler": lambda: DataLoader(Noisy(), 32, sampler=RandomSampler(range(96), generator=generator())),
    "weighted": lambda: DataLoader(Noisy(), 32, sampler=WeightedRandomSampler([0.1] * 96, 96, generator=generator())),
    "own sampler": lambda: DataLoader(Noisy(), 32, sampler=Turning(96)),
    "list": lambda: list(loader(0, 96)),
    "workers": lambda: DataLoader(Noisy(), 32, shuffle=True, num_workers=1, generator=generator()),
}


class Everything(Callback):
    """Has a state, and listens: it must not be called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.mean, self.rng = torch.zeros(3), torch.Generator().manual_seed(1)

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self.seen.append(epochs)

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.seen.append(batch_idx)
        self.mean += torch.rand(3, generator=self.rng)

    def on_cleanup(self, trainer: Any) -> None:
        self.seen = [-1]

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen), "mean": self.mean}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen, self.mean = state_dict["seen"], state_dict["mean"]


def made(folder: Path, opt: Callable[[Any], Any] = adam, **options: Any) -> Trainer:
    model = net()
    callbacks = [Everything(), *options.pop("callbacks", [])]
    return Trainer(
        model, F.cross_entropy, opt(model), 5, "cpu", callbacks, accuracy, folder=folder, verbose=0, **options
    )


@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained"])
@pytest.mark.parametrize("opt", [adam, sgd])
@pytest.mark.parametrize("data", [name for name in LOADERS if name != "workers"])
def test_nothing_changes(data: str, opt: Callable[[Any], Any], trained: bool, tmp_path: Path) -> None:
    trainer, train_dl = made(tmp_path, opt), LOADERS[data]()
    if trained:
        trainer.fit(train_dl, loader(96, 160), epochs=1)
        trainer.model.model[0].weight.grad = torch.full_like(trainer.model.model[0].weight, 0.5)
    val_dl = loader(96, 160)
    trainer.model.model[1].eval()
    trainer.model.model[4].bias.requires_grad_(False)
    before = account(tmp_path, trainer=trainer, train=train_dl, val=val_dl)
    with untouched(trainer, train_dl, val_dl):
        history = trainer.fit(train_dl, val_dl, epochs=2)
        changed = differences(before, account(tmp_path, trainer=trainer, train=train_dl, val=val_dl))
    after = account(tmp_path, trainer=trainer, train=train_dl, val=val_dl)
    assert len(history["train"]["loss"]) == 2
    assert len(changed) > 20, "it has not been trained within"
    assert differences(before, after) == {}
    assert digest(before) == digest(after)


@pytest.mark.parametrize("persistent", [False, True])
def test_nothing_changes_with_workers(persistent: bool, tmp_path: Path) -> None:
    trainer = made(tmp_path)
    options: Any = {"num_workers": 1, "persistent_workers": persistent, "generator": generator()}
    train_dl: DataLoader[Any] = DataLoader(Noisy(64), 32, shuffle=True, **options)
    own = None
    if persistent:
        for _ in train_dl:  # somebody's own workers, which go on
            pass
        own = train_dl._iterator
        workers = [worker.pid for worker in own._workers]  # type: ignore[union-attr]
    before = account(tmp_path, trainer=trainer, train=train_dl)
    with untouched(trainer, train_dl):
        trainer.fit(train_dl, epochs=1)
    assert differences(before, account(tmp_path, trainer=trainer, train=train_dl)) == {}
    if own is not None:
        assert train_dl._iterator is own
        assert [worker.pid for worker in own._workers if worker.is_alive()] == workers  # type: ignore[attr-defined]
        assert len(list(train_dl)) == 2
        own._shutdown_workers()  # type: ignore[attr-defined]


def test_a_run_goes_on_as_if_nothing_had_been_tried_out(tmp_path: Path) -> None:
    results = []
    for tried in (False, True):
        trainer, train_dl = made(tmp_path), LOADERS["own sampler"]()
        for _ in range(2):
            torch.manual_seed(7)
            random.seed(7)
            np.random.seed(7)
            if tried:
                with untouched(trainer, train_dl):
                    trainer.fit(train_dl, max_steps=7, val_every_steps=7)
            trainer.fit(train_dl, loader(96, 160), epochs=2)
        results.append(trainer.state_dict())
    kept = [flat(state) for state in results]
    assert len(kept[0]) > 50
    assert kept[0] == kept[1]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The numbers in a state, tensors as their bytes."""
    if isinstance(value, Tensor):
        return {path: value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()}
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{path}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for index, part in enumerate(value) for k, v in flat(part, f"{path}/{index}").items()}
    return {path: value}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, StopIteration])
def test_nothing_changes_behind_an_error(error: type[BaseException], tmp_path: Path) -> None:
    trainer, train_dl = made(tmp_path), LOADERS["own sampler"]()
    calls = []

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.model(batch_x), batch_y)
        calls.append(1)
        if len(calls) == 5:
            raise error("now")

    before = account(tmp_path, trainer=trainer, train=train_dl)
    with pytest.raises(error, match="now"), untouched(trainer, train_dl):
        trainer.fit(train_dl, epochs=3, step=step)
    assert differences(before, account(tmp_path, trainer=trainer, train=train_dl)) == {}


def test_nothing_changes_behind_ctrl_c(tmp_path: Path) -> None:
    trainer, train_dl = made(tmp_path), LOADERS["in memory"]()

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.model(batch_x), batch_y)
        signal.raise_signal(signal.SIGINT)

    before = account(tmp_path, trainer=trainer, train=train_dl)
    with pytest.raises(SystemExit) as left, untouched(trainer, train_dl):
        trainer.fit(train_dl, epochs=3, step=step)
    assert left.value.code == 130
    assert differences(before, account(tmp_path, trainer=trainer, train=train_dl)) == {}


def test_ctrl_c_waits_until_all_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, train_dl = made(tmp_path), LOADERS["in memory"]()
    before = account(tmp_path, trainer=trainer, train=train_dl)
    plain = Snapshot.put_back

    def interrupted(self: Snapshot) -> None:
        signal.raise_signal(signal.SIGINT)
        plain(self)

    monkeypatch.setattr(Snapshot, "put_back", interrupted)
    with pytest.raises(KeyboardInterrupt), untouched(trainer, train_dl):
        trainer.fit(train_dl, epochs=1)
    assert differences(before, account(tmp_path, trainer=trainer, train=train_dl)) == {}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_no_run_folder_is_made_and_no_checkpoint_is_missed(tmp_path: Path) -> None:
    trainer = made(tmp_path / "runs", callbacks=[Checkpoint("val/loss")], resume="auto", running_id="a")
    train_dl = loader(0, 96)
    with untouched(trainer, train_dl):
        trainer.fit(train_dl, loader(96, 160), epochs=2)
    assert list(tmp_path.iterdir()) == []
    trainer.fit(train_dl, loader(96, 160), epochs=1)
    kept = account(tmp_path, trainer=trainer)
    with untouched(trainer, train_dl):
        trainer.fit(train_dl, epochs=2)
    assert differences(kept, account(tmp_path, trainer=trainer)) == {}


def test_those_take_part_without_which_training_is_not_the_same(tmp_path: Path) -> None:
    other = Everything()
    trainer = made(tmp_path, callbacks=[AMP("bf16"), GradClip(0.1), other], accumulate=2)
    train_dl = loader(0, 96)
    before = account(tmp_path, trainer=trainer)
    with untouched(trainer, train_dl):
        assert [type(callback).__name__ for callback in trainer.callbacks[:-1]] == ["AMP", "GradClip"]
        trainer.fit(train_dl, epochs=2)
        assert trainer.progress.step == 4
    assert differences(before, account(tmp_path, trainer=trainer)) == {}
    assert other.seen == []


def test_an_open_window_and_an_open_epoch_are_there_again(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if batch_idx == 4:
                trainer.stop()

    trainer, train_dl = made(tmp_path, callbacks=[Stop()], accumulate=2), loader(0, 192)
    trainer.fit(train_dl, epochs=1)
    assert trainer.execution.window is not None
    assert trainer.execution.window.batches == 1
    before = account(tmp_path, trainer=trainer, train=train_dl)
    with untouched(trainer, train_dl):
        trainer.fit(train_dl, epochs=2)
    assert differences(before, account(tmp_path, trainer=trainer, train=train_dl)) == {}


def test_a_loaded_state_is_still_gone_on_from(tmp_path: Path) -> None:
    first, data = made(tmp_path), loader(0, 96, shuffle=True, generator=generator())
    first.fit(data, epochs=1)
    state = first.state_dict()
    results = []
    for tried in (False, True):
        trainer, train_dl = made(tmp_path), loader(0, 96, shuffle=True, generator=generator())
        trainer.load_state_dict(deepcopy(state))
        if tried:
            with untouched(trainer, train_dl):
                trainer.fit(train_dl, epochs=1)
        trainer.fit(train_dl, epochs=2)
        results.append([value.clone() for value in trainer.model.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_weights_that_are_looked_at_give_way_to_those_of_training_as_before(tmp_path: Path) -> None:
    trainer, train_dl = made(tmp_path), loader(0, 96)
    trainer.save_weights(tmp_path / "first.pt")
    trainer.fit(train_dl, epochs=1)
    reached = trainer.model.model[0].weight.clone()
    trainer.test(loader(96, 160), weights=tmp_path / "first.pt")
    looked_at = trainer.model.model[0].weight.clone()
    with untouched(trainer, train_dl):
        trainer.fit(train_dl, max_steps=2)
    assert torch.equal(trainer.model.model[0].weight, looked_at)
    began = []

    class Look(Callback):
        def on_before_fit(self, trainer: Any, epochs: int) -> None:
            began.append(trainer.model.model[0].weight.clone())

    trainer.callbacks.append(Look())
    trainer.fit(train_dl, epochs=1)
    assert torch.equal(began[0], reached)


def test_lazy_layers_are_lazy_again(tmp_path: Path) -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(10))
    opt = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    trainer = Trainer(model, F.cross_entropy, opt, 1, "cpu", verbose=0)
    before = account(trainer=trainer)
    with untouched(trainer):
        trainer.fit(loader(0, 96))
        assert type(model[0]) is nn.Linear
    assert differences(before, account(trainer=trainer)) == {}
    assert type(model[0]) is nn.LazyLinear
    assert len(trainer.fit(loader(0, 96))["train"]["loss"]) == 1


class Own(Trainer):
    """A trainer with attributes, and steps that change them, log and write."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.count, self.memory, self.table = 0, {"losses": []}, np.zeros(3)  # type: ignore[var-annotated]

    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        self.count += 1
        self.table += 1
        loss = self.loss(self.model(batch_x), batch_y)
        self.memory["losses"].append(loss.detach())
        self.log({"count": self.count})
        self.writer.add_scalar("count", self.count)


class OwnTask(EpochTask):
    """A task with a memory of its own, and a module that it calls in training mode."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.teacher, self.outputs = net(), torch.zeros(10)

    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        self.outputs += self.teacher(*batch_x).detach().sum(0)
        self.loss(self.model(batch_x), batch_y)


def test_trainers_and_tasks_of_the_users_own_are_put_back() -> None:
    model, train_dl = net(), loader(0, 96)
    trainer = Own(model, F.cross_entropy, device="cpu", verbose=0)
    before = account(trainer=trainer)
    with untouched(trainer, train_dl):
        trainer.fit(train_dl, epochs=2)
        assert trainer.count == 6
    assert differences(before, account(trainer=trainer)) == {}
    trainer, task = Trainer(model, F.cross_entropy, device="cpu", verbose=0), OwnTask(train_dl)
    before = account(trainer=trainer, task=task)
    with untouched(trainer, task):
        trainer.fit(train_tasks=task, epochs=2)
    assert differences(before, account(trainer=trainer, task=task)) == {}


def test_a_module_as_loss_several_optimizers_and_shared_weights_are_put_back() -> None:
    class Centre(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centre = nn.Parameter(torch.zeros(10))
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
            self.seen: Tensor

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.seen += 1
            return F.cross_entropy(outputs - self.centre, targets)

    first, loss = nn.Linear(64, 64), Centre()
    second = nn.Linear(64, 64)
    second.weight = first.weight
    model = nn.Sequential(first, second, nn.Linear(64, 10))
    opts = {"model": torch.optim.AdamW(model.parameters()), "loss": torch.optim.RMSprop(loss.parameters())}
    trainer = Trainer(model, loss, opts, 2, "cpu", verbose=0)
    before = account(trainer=trainer)
    with untouched(trainer):
        trainer.fit(loader(0, 96))
        assert loss.seen == 6
    assert differences(before, account(trainer=trainer)) == {}


def test_an_iterator_is_refused_before_anything_is_taken_from_it() -> None:
    trainer, batches = Trainer(net(), F.cross_entropy, verbose=0), iter(list(loader(0, 96)))
    with pytest.raises(ArgumentError, match="only once"), untouched(trainer, batches):
        pass
    assert len(list(batches)) == 3


def test_within_a_run_there_is_nothing_to_try_out() -> None:
    class Within(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            with untouched(trainer):
                pass

    trainer = Trainer(net(), F.cross_entropy, device="cpu", callbacks=[Within()], verbose=0)
    with pytest.raises(ArgumentError, match="before fit"):
        trainer.fit(loader(0, 64), epochs=1)


def test_in_before_fit_a_run_can_be_tried_out(tmp_path: Path) -> None:
    class Before(Callback):
        def on_before_fit(self, trainer: Any, epochs: int) -> None:
            train_dl, folder = trainer.stage_tasks["train"][0].dataloader, trainer.run_folder
            with untouched(trainer, train_dl):
                trainer.fit(train_dl, max_steps=5, val_every_steps=5)
            assert trainer.run_folder is folder
            assert folder._lock is not None, "another process could write to the run"

    results = []
    for callbacks in ([], [Before(), Checkpoint()]):
        trainer = made(tmp_path, callbacks=callbacks)
        torch.manual_seed(3)
        history = trainer.fit(loader(0, 96, shuffle=True), loader(96, 160), epochs=2)
        results.append((history.state_dict(), trainer.model.model[0].weight.clone()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_a_stream_without_a_length_is_read_and_put_back() -> None:
    class Stream(IterableDataset[Any]):
        def __init__(self) -> None:
            self.passes, self.rng = 0, np.random.RandomState(1)

        def __iter__(self) -> Iterator[Any]:
            self.passes += 1
            x, y = digits(64)
            for index in range(64):
                yield x[index] + float(self.rng.rand()), y[index]

    train_dl: DataLoader[Any] = DataLoader(Stream(), 32)
    trainer = Trainer(net(), F.cross_entropy, device="cpu", verbose=0)
    before = account(trainer=trainer, train=train_dl)
    with untouched(trainer, train_dl):
        trainer.fit(train_dl, epochs=2)
    assert differences(before, account(trainer=trainer, train=train_dl)) == {}


class Numbers(IterableDataset[Any]):
    """Digits that know how often they were gone through; in workers that go on, those know it."""

    def __init__(self) -> None:
        self.passes, (self.x, self.y) = 0, digits(64)

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return ((self.x[index] * 0 + self.passes, self.y[index]) for index in range(64))


def test_workers_that_are_running_are_not_asked() -> None:
    train_dl: DataLoader[Any] = DataLoader(Numbers(), 32, num_workers=1, persistent_workers=True)
    assert float(next(iter(train_dl))[0][0, 0]) == 1
    own, trainer = train_dl._iterator, Trainer(net(), F.cross_entropy, device="cpu", verbose=0)
    started: list[Any] = []

    class Look(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            started[:] = train_dl._iterator._workers  # type: ignore[union-attr]

    with untouched(trainer, train_dl, callbacks=[Look()]):
        trainer.fit(train_dl, max_steps=1)
    assert started
    assert not any(worker.is_alive() for worker in started)
    assert train_dl._iterator is own
    assert float(next(iter(train_dl))[0][0, 0]) == 2
    own._shutdown_workers()  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:FineTune.* does nothing in this fit")
def test_what_is_frozen_and_its_gradients_are_put_back() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    trainer = Trainer(model, F.cross_entropy, opt, 2, "cpu", [FineTune({0: "4", 1: "*"})], verbose=0)
    teacher = nn.Linear(64, 10)  # no optimizer clears its gradients
    trainer.teacher = teacher  # type: ignore[attr-defined]
    teacher.weight.grad = torch.ones_like(teacher.weight)

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.model(batch_x) + trainer.teacher(*batch_x), batch_y)

    before = account(trainer=trainer)
    with untouched(trainer):
        trainer.fit(loader(0, 96), epochs=1, step=step)
        assert not model[0].weight.requires_grad
        assert bool((teacher.weight.grad != 1).any())
    assert differences(before, account(trainer=trainer)) == {}


def test_a_module_that_only_the_data_refers_to_is_put_back() -> None:
    class Encoded(Dataset[Any]):
        def __init__(self) -> None:
            self.encoder, self.rates = nn.Linear(64, 400), np.ones(3)

        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> Any:
            with torch.no_grad():
                self.encoder.weight += 1
            self.rates += 1
            return self.encoder(torch.ones(64))[:64].detach(), index % 10

    train_dl, trainer = DataLoader(Encoded(), 16), Trainer(net(), F.cross_entropy, device="cpu", verbose=0)
    before = account(trainer=trainer, train=train_dl)
    with untouched(trainer, train_dl):
        trainer.fit(train_dl, epochs=1)
    assert differences(before, account(trainer=trainer, train=train_dl)) == {}


def test_a_snapshot_holds_containers_slots_and_cycles() -> None:
    class Slotted:
        __slots__ = ("gone", "value")

        def __init__(self) -> None:
            self.value = [1]

    from collections import OrderedDict, defaultdict, deque

    slotted, cycle = Slotted(), {}  # type: ignore[var-annotated]
    cycle["self"] = cycle
    held = {
        "deque": deque([1, 2], maxlen=3),
        "set": {1, 2},
        "ordered": OrderedDict(a=1, b=2),
        "default": defaultdict(list, {"a": [1]}),
        "tuple": ([1], torch.ones(2, dtype=torch.complex64), np.array(["a", None], dtype=object)),
        "slotted": slotted,
        "cycle": cycle,
        "bits": torch.tensor([float("nan"), -0.0]),
    }
    before = account(held=held)
    snapshot = Snapshot()
    snapshot.take(held)
    held["deque"].append(3)  # type: ignore[attr-defined]
    held["set"].clear()  # type: ignore[attr-defined]
    held["ordered"].move_to_end("a")  # type: ignore[attr-defined]
    held["default"]["b"].append(2)  # type: ignore[index]
    held["default"]["a"].append(2)  # type: ignore[index]
    held["tuple"][0].append(2)  # type: ignore[index]
    held["tuple"][1].zero_()  # type: ignore[index]
    held["tuple"][2][0] = "b"  # type: ignore[index]
    slotted.value = []
    held["bits"].fill_(1)  # type: ignore[attr-defined]
    del cycle["self"]
    snapshot.put_back()
    assert differences(before, account(held=held)) == {}
    assert slotted.value == [1]


def test_of_data_only_what_is_small_is_copied() -> None:
    small, large = torch.zeros(4), torch.zeros(100_000)
    data = [small, large, numbers := list(range(5000))]
    snapshot = Snapshot()
    snapshot.take(data, data=True)
    numbers.append(5000)
    for tensor in (small, large):
        tensor.fill_(1)
    snapshot.put_back()
    assert (float(small.sum()), float(large.sum()), len(numbers)) == (0.0, 100_000.0, 5000)


def test_a_model_that_the_data_refers_to_is_put_back() -> None:
    model = nn.Sequential(nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 10))

    class Encoded(Dataset[Any]):
        def __init__(self) -> None:
            self.x, self.y = digits(64)
            self.encoder, self.weight = model, model[0].weight

        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> Any:
            return self.x[index], self.y[index]

    train_dl = DataLoader(Encoded(), 16)
    trainer = Trainer(model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.1), 1, "cpu", verbose=0)
    before = account(trainer=trainer, train=train_dl)
    with untouched(trainer, train_dl):
        trainer.fit(train_dl)
    assert differences(before, account(trainer=trainer, train=train_dl)) == {}


def test_data_of_earlier_runs_is_not_copied() -> None:
    x = torch.zeros(4000, 64)
    train_dl = DataLoader(TensorDataset(x, torch.zeros(4000, dtype=torch.int64)), 2000)
    trainer = Trainer(net(), F.cross_entropy, device="cpu", verbose=0)
    for given in (train_dl, [(x, torch.zeros(4000, dtype=torch.int64))]):
        trainer.fit(given, epochs=1)
        snapshot = Snapshot()
        snapshot.take(trainer)
        x[0, 0] += 1
        snapshot.put_back()
        assert float(x[0, 0]) != 0.0, "it has been copied and put back"
        x.zero_()


def test_what_cannot_be_put_back_does_not_keep_the_rest_from_it() -> None:
    class Stubborn(np.random.RandomState):
        def set_state(self, state: Any) -> None:
            raise ValueError("no")

    held = [torch.zeros(1), Stubborn(), torch.zeros(1)]
    snapshot = Snapshot()
    snapshot.take(held)
    for tensor in (held[0], held[2]):
        tensor.fill_(1)
    with pytest.raises(ValueError, match="no"):
        snapshot.put_back()
    assert [float(held[0]), float(held[2])] == [0.0, 0.0]


def test_first_batches_end_the_workers_they_started() -> None:
    train_dl: DataLoader[Any] = DataLoader(Noisy(64), 8, num_workers=1, persistent_workers=True)
    assert len(list(First(train_dl, 2))) == 2
    assert not any(worker.is_alive() for worker in train_dl._iterator._workers)  # type: ignore[union-attr]


def test_warnings_of_a_run_without_a_trace_are_none(recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    trainer = made(tmp_path)
    with untouched(trainer):
        trainer.fit(loader(0, 64), epochs=1)
    assert not [one for one in recwarn if issubclass(one.category, EngineWarning)]


def test_averages_schedules_of_windows_and_guards_are_put_back(tmp_path: Path) -> None:
    callbacks = [AMP("fp16", init_scale=1024.0), EMA(), GradientAccumulation({0: 2}), StopOnNaN()]
    trainer, train_dl = made(tmp_path, callbacks=callbacks), loader(0, 96)
    for _ in range(2):
        before = account(tmp_path, trainer=trainer, train=train_dl)
        trainer.find_lr(train_dl, steps=6)
        trainer.fast_dev_run(train_dl, loader(96, 160))
        trainer.overfit_batch(train_dl, 6)
        assert differences(before, account(tmp_path, trainer=trainer, train=train_dl)) == {}
        trainer.fit(train_dl, loader(96, 160), epochs=1)


def test_what_an_accelerator_prepared_is_put_back() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = net()
    model, opt, train_dl = (accelerator := accelerate.Accelerator(cpu=True)).prepare(
        model, torch.optim.Adam(model.parameters()), loader(0, 96, shuffle=True)
    )
    trainer = Trainer(model, F.cross_entropy, opt, 1, accelerator, verbose=0)
    before = account(trainer=trainer, train=train_dl)
    with untouched(trainer, train_dl):
        trainer.fit(train_dl, epochs=2)
    assert differences(before, account(trainer=trainer, train=train_dl)) == {}


def test_a_compiled_step_is_put_back() -> None:
    trainer = Trainer(net(), F.cross_entropy, None, 1, "cpu", verbose=0, compile={"what": "step", "backend": "eager"})
    before = account(trainer=trainer)
    with untouched(trainer):
        trainer.fit(loader(0, 96), epochs=2)
    assert differences(before, account(trainer=trainer)) == {}
    assert len(trainer.fit(loader(0, 96))["train"]["loss"]) == 1


def test_what_methods_and_partial_functions_hold_is_put_back() -> None:
    from functools import partial

    class Owner:
        def __init__(self) -> None:
            self.count = 0

        def method(self) -> None: ...

    first, second = Owner(), Owner()
    snapshot = Snapshot()
    snapshot.take({"method": first.method, "partial": partial(print, second)})
    first.count = second.count = 1
    snapshot.put_back()
    assert (first.count, second.count) == (0, 0)
