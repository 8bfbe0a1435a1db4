"""Backward passes and steps without what torch puts around them are torch's own, to the last bit."""

from __future__ import annotations

import copy
import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from deepepochs_like import AMP, Callback, Optimizer, Trainer, bare
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, StepError
from support.digits import loader, mlp

OPTIMIZERS = [
    kind
    for name in sorted(torch.optim.__all__)
    if isinstance(kind := getattr(torch.optim, name), type) and issubclass(kind, torch.optim.Optimizer)
]


def batches() -> list[Any]:
    return list(loader(0, 60, 20))


def trained(kind: Any, step: Callable[[Any], None], **options: Any) -> list[Tensor]:
    """The weights and gradients after three updates."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 10, bias=False)) if kind.__name__ == "Muon" else mlp()
    optimizer = kind(net.parameters(), **options)
    for x, y in batches():
        F.cross_entropy(net(x), y).backward()
        step(optimizer)
        optimizer.zero_grad()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("kind", [k for k in OPTIMIZERS if k.__name__ not in ("LBFGS", "SparseAdam", "Optimizer")])
@pytest.mark.parametrize("fused", [False, True])
def test_every_optimizer_of_torch_makes_the_same_update(kind: Any, fused: bool) -> None:
    options = {"lr": 0.01} | ({"fused": True} if fused else {})
    try:
        kind([nn.Parameter(torch.ones(2, 2))], **options)
    except TypeError:
        pytest.skip("it has no fused form")
    plain = trained(kind, lambda o: o.step(), **options)
    mine = trained(kind, lambda o: bare.step(o), **options)
    assert bare.bare_step(kind.step) is not None
    assert all(torch.equal(a, b) for a, b in zip(plain, mine, strict=True))


def test_a_step_is_made_with_gradients_off_and_leaves_them_as_they_were() -> None:
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    F.cross_entropy(net(torch.ones(4, 64)), torch.zeros(4, dtype=torch.int64)).backward()
    bare.step(optimizer)
    assert torch.is_grad_enabled()
    assert not any(value.requires_grad for state in optimizer.state.values() for value in state.values())
    with torch.no_grad():
        bare.step(optimizer)
        assert not torch.is_grad_enabled()


class Own(torch.optim.SGD):
    """An optimizer of the user's."""

    stepped = 0

    def step(self, closure: Any = None) -> Any:
        Own.stepped += 1
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(False)


def test_an_optimizer_of_the_users_own_is_stepped_and_cleared_by_itself() -> None:
    net = mlp()
    optimizer = Own(net.parameters(), lr=0.1)
    net(torch.ones(1, 64)).sum().backward()
    assert bare.bare_step(Own.step) is None
    bare.step(optimizer)
    bare.zero_grad(optimizer)
    assert Own.stepped == 1
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


def heard_by(listen: Callable[[Any, Callable[..., None]], Any]) -> int:
    """How often somebody who listens hears of one step."""
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters())
    heard = 0

    def hear(*ignored: Any) -> None:
        nonlocal heard
        heard += 1

    handle = listen(optimizer, hear)
    net(torch.ones(1, 64)).sum().backward()
    try:
        bare.step(optimizer)
    finally:
        handle.remove()
    return heard


@pytest.mark.parametrize(
    "listen",
    [
        lambda optimizer, hear: optimizer.register_step_pre_hook(hear),
        lambda optimizer, hear: optimizer.register_step_post_hook(hear),
        lambda optimizer, hear: register_optimizer_step_pre_hook(hear),
        lambda optimizer, hear: register_optimizer_step_post_hook(hear),
    ],
)
def test_hooks_on_a_step_are_called_once(listen: Any) -> None:
    assert heard_by(listen) == 1


def test_a_profiler_finds_the_steps_label() -> None:
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 64)).sum().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        bare.step(optimizer)
    assert any(event.key == "Optimizer.step#Adam.step" for event in profile.key_averages())


def test_a_scheduler_notes_the_first_step() -> None:
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    net(torch.ones(1, 64)).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            bare.step(optimizer)
            scheduler.step()


def test_a_step_that_somebody_replaced_is_the_one_that_is_made() -> None:
    optimizer: Any = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    made: list[int] = []
    optimizer.step = lambda: made.append(1)
    bare.step(optimizer)
    assert made == [1]


def counting(function: Any, calls: list[int]) -> Any:
    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return function(*args, **kwargs)

    return counted


@pytest.mark.parametrize("scheduled", ["before", "after", "not"])
def test_a_step_that_somebody_wrapped_is_the_one_that_is_made(scheduled: str) -> None:
    optimizer: Any = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    calls: list[int] = []
    if scheduled == "before":
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step = (
        types.MethodType(counting(optimizer.step.__func__, calls), optimizer)
        if (scheduled != "before")
        else counting(optimizer.step, calls)
    )
    if scheduled == "after":
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(3):
        bare.step(optimizer)
    assert len(calls) == 3


def test_a_class_whose_step_is_wrapped_later_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    bare.step(optimizer)
    calls: list[int] = []
    monkeypatch.setattr(torch.optim.SGD, "step", counting(torch.optim.SGD.step, calls))
    bare.step(optimizer)
    assert len(calls) == 1


def test_clearing_and_backpropagation_that_somebody_replaced_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer: Any = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    calls: list[int] = []
    optimizer.zero_grad = counting(optimizer.zero_grad, calls)
    bare.zero_grad(optimizer)
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", counting(torch.optim.Optimizer.zero_grad, calls))
    bare.zero_grad(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))
    monkeypatch.setattr(torch.autograd, "backward", counting(torch.autograd.backward, calls))
    bare.backward(torch.ones((), requires_grad=True) * 2)
    assert len(calls) == 3


def gradients(net: nn.Module, backward: Callable[[Any], None], loss: Tensor) -> list[Tensor | None]:
    backward(loss)
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_are_those_of_a_plain_backward(dtype: torch.dtype) -> None:
    net = mlp().to(dtype)
    twin, (x, y) = copy.deepcopy(net), batches()[0]
    mine = gradients(net, bare.backward, F.cross_entropy(net(x.to(dtype)), y))
    plain = gradients(twin, lambda loss: loss.backward(), F.cross_entropy(twin(x.to(dtype)), y))
    assert all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(mine, plain, strict=True))


def test_a_backward_pass_is_logged_where_torch_is_asked_to(caplog: pytest.LogCaptureFixture) -> None:
    loss = F.cross_entropy(mlp()(torch.ones(4, 64)), torch.zeros(4, dtype=torch.int64))
    with caplog.at_level("DEBUG", "torch.autograd.graph"):
        bare.backward(loss)
    assert any("AddmmBackward" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "loss",
    [
        torch.ones(2, requires_grad=True) * 2,
        torch.ones((), requires_grad=True, dtype=torch.complex64) * 2,
        torch.ones(()),
    ],
)
def test_what_cannot_be_backpropagated_is_torchs_own_error(loss: Tensor) -> None:
    with pytest.raises(RuntimeError) as plain:
        loss.backward()  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError) as mine:
        bare.backward(loss)
    assert str(mine.value) == str(plain.value)


def test_a_tensor_of_another_kind_and_a_function_mode_are_asked() -> None:
    called: list[str] = []

    class Loss(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(getattr(func, "__name__", ""))
            return super().__torch_function__(func, types, args, kwargs or {})

    weight = torch.ones((), requires_grad=True)
    bare.backward((weight * 2).as_subclass(Loss))
    assert "backward" in called
    with torch.device("cpu"):
        bare.backward(weight * 3)
    assert weight.grad == 5


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.parametrize("where", ["class", "object"])
def test_a_step_of_the_optimizer_that_a_script_derives_from_ours_is_the_one_that_is_called(
    precision: str | None, where: str
) -> None:
    class Idle(Optimizer):
        def step(self) -> None:
            self.zero_grad()
            Optimizer.step(self)

    net = torch.nn.Linear(64, 10)
    before = net.weight.detach().clone()
    optimizer = (Idle if where == "class" else Optimizer)(torch.optim.SGD(net.parameters(), 0.1))
    trainer = Trainer(net, F.cross_entropy, optimizer, 1, "cpu", [AMP(precision)] if precision else [], verbose=0)
    if where == "object":
        optimizer.step = lambda: Idle.step(optimizer)  # type: ignore[assignment, arg-type, method-assign]
    trainer.fit(loader(0, 64))
    assert torch.equal(net.weight, before)
    if precision is not None:
        trainer = Trainer(net, F.cross_entropy, optimizer, 1, "cpu", AMP("fp16"), verbose=0)
        with pytest.raises(StepError, match="would not be called"):
            trainer.fit(loader(0, 64))


class SignSGD(Optimizer):
    """A rule of its own, for which the torch optimizer only holds the weights."""

    def step(self) -> None:
        with torch.no_grad():
            for group in self.opt.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


class Often(Optimizer):
    """A rule that steps torch's optimizer twice."""

    def step(self) -> None:
        super().step()
        super().step()


class AtEpoch(Callback):
    """Calls a function before an epoch, or before the fit."""

    def __init__(self, act: Callable[[Any], None], epoch: int | None = None) -> None:
        super().__init__()
        self.act, self.epoch = act, epoch

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        if self.epoch is None:
            self.act(trainer)

    def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
        if self.epoch == epoch_idx:
            self.act(trainer)


def sgd_trainer(kind: type[Optimizer], *callbacks: Callback, epochs: int = 2, train: Any = Trainer) -> Any:
    net = mlp()
    optimizer = kind(torch.optim.SGD(net.parameters(), 0.1))
    return train(net, F.cross_entropy, optimizer, epochs, "cpu", list(callbacks), verbose=0)


class StepsItself(Trainer):
    """A step that calls the optimizer's own."""

    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        F.cross_entropy(self.model(*batch_x), batch_y).backward()
        self.opt[0].step()
        self.opt.zero_grad()


@pytest.mark.parametrize("train", [Trainer, StepsItself])
@pytest.mark.parametrize("kind", [Optimizer, SignSGD, Often])
def test_a_step_of_a_derived_class_is_one_update_whatever_it_calls(kind: type[Optimizer], train: Any) -> None:
    trainer = sgd_trainer(kind, train=train)
    trainer.fit(batches())
    assert trainer.progress.step == 6
    assert "step" not in vars(trainer.opt[0])
    assert not trainer.opt[0].opt._optimizer_step_post_hooks
    trainer.fit(batches(), max_steps=4)
    assert trainer.progress.step == 10


def test_a_test_within_a_run_leaves_its_updates_counted() -> None:
    trainer = sgd_trainer(SignSGD, AtEpoch(lambda trainer: trainer.test(batches()), 1), epochs=3)
    trainer.fit(batches())
    assert trainer.progress.step == 9


def test_a_copy_made_in_a_run_steps_itself_and_counts_for_nobody() -> None:
    copies: list[Any] = []
    trainer = sgd_trainer(SignSGD, AtEpoch(lambda trainer: copies.append(copy.deepcopy(trainer.opt[0])), 1))
    trainer.fit(batches())
    (twin,) = copies
    assert "step" not in vars(twin)
    before = [p.detach().clone() for p in trainer.model.model.parameters()]
    for parameter in twin.opt.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    twin.step()
    assert all(map(torch.equal, before, trainer.model.model.parameters()))
    assert trainer.progress.step == 6


@pytest.mark.parametrize("what", ["torch's", "the whole", "by name"])
def test_an_optimizer_replaced_in_a_run_is_the_one_that_steps(what: str) -> None:
    def replace(trainer: Any) -> None:
        adam = torch.optim.Adam(trainer.model.model.parameters(), 0.01)
        replaced.append(trainer.opt[0])
        if what == "torch's":
            trainer.opt[0].opt = adam
        else:
            trainer.opt["0" if what == "by name" else 0] = Optimizer(adam) if what == "the whole" else adam

    replaced: list[Any] = []
    trainer = sgd_trainer(Optimizer, AtEpoch(replace, 1))
    inner = trainer.opt[0].opt
    trainer.fit(batches())
    assert trainer.progress.step == 6
    assert not inner._optimizer_step_post_hooks
    assert not trainer.opt[0].opt._optimizer_step_post_hooks
    net = mlp()
    for opt in (torch.optim.SGD(net.parameters(), 0.1), torch.optim.Adam(net.parameters(), 0.01)):
        for x, y in batches():
            F.cross_entropy(net(x), y).backward()
            opt.step()
            opt.zero_grad()
    assert all(map(torch.equal, net.parameters(), trainer.model.model.parameters()))


def test_only_a_torch_optimizer_can_take_the_place_of_one() -> None:
    trainer = sgd_trainer(Optimizer)
    inner = trainer.opt[0].opt
    with pytest.raises(ArgumentTypeError, match=r"a torch\.optim\.Optimizer is needed"):
        trainer.opt[0].opt = "adam"
    with pytest.raises(ArgumentError, match="one by one"):
        trainer.opt[:] = []
    assert trainer.opt[0].opt is inner


@pytest.mark.parametrize("epoch", [None, 0])
def test_a_step_put_in_the_place_of_an_optimizers_in_a_hook_is_called_and_counted(epoch: int | None) -> None:
    def patch(trainer: Any) -> None:
        trainer.opt[0].step = lambda: called.append(1)

    called: list[int] = []
    trainer = sgd_trainer(Optimizer, AtEpoch(patch, epoch))
    trainer.fit(batches())
    assert (len(called), trainer.progress.step) == (6, 6)
    del trainer.opt[0].step
    assert trainer.opt[0].target is trainer.opt[0].opt


@pytest.mark.parametrize("early", [True, False])
def test_a_step_put_in_the_place_of_our_class_is_called(early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def patch(trainer: Any = None) -> None:
        monkeypatch.setattr(Optimizer, "step", lambda self: called.append(self))

    called: list[Any] = []
    trainer = sgd_trainer(Optimizer, *([] if early else [AtEpoch(patch)]))
    if early:
        patch()
    trainer.fit(batches())
    assert len(called) == trainer.progress.step == 6
