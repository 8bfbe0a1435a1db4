"""Every optimizer of torch that can step here: saved in mid-epoch and resumed, it ends at the same bits."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler

from deepepochs_like import Callback, Optimizer, Trainer
from deepepochs_like.errors import EngineWarning, StateError
from deepepochs_like.rng import set_seed
from support.digits import loader, same, weights

#: Those whose gradients or parameters are of a special kind, and the base.
ELSEWHERE = {"Optimizer", "SparseAdam"}
KINDS = sorted(name for name, kind in vars(torch.optim).items() if inspect.isclass(kind) and name not in ELSEWHERE)


class StopAt(Callback):
    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.progress.step == self.batch:
            trainer.stop("cut")


class WithClosure(Trainer):
    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        opt, model = self.opt[0].opt, self.model.model

        def closure() -> Any:
            opt.zero_grad()
            loss = F.cross_entropy(model(*batch_x), batch_y)
            loss.backward()
            return loss

        self.do_metric(loss=opt.step(closure))


def fit(make: Any, *callbacks: Callback, folder: Any, kind: type[Trainer] = Trainer, bias: bool = True) -> Trainer:
    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 8, bias=bias), nn.Dropout(0.2), nn.Linear(8, 10, bias=bias))
    opt, resume = make(model), {"resume": "auto", "running_id": "a", "folder": folder}
    trainer = kind(model, F.cross_entropy, opt, 2, "cpu", list(callbacks), verbose=0, **resume)
    trainer.fit(loader(0, 60, batch_size=16, shuffle=True))
    return trainer


def check(make: Any, tmp_path: Path, **options: Any) -> None:
    whole = fit(make, folder=tmp_path / "whole", **options)
    fit(make, StopAt(6), folder=tmp_path / "cut", **options)
    resumed = fit(make, folder=tmp_path / "cut", **options)
    assert same(weights(whole.model.model), weights(resumed.model.model))
    assert str(whole.opt.state_dict()) == str(resumed.opt.state_dict())
    assert whole.history == resumed.history


@pytest.mark.parametrize("name", KINDS)
def test_it_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    kind: Any = getattr(torch.optim, name)
    options: dict[str, Any] = {"kind": WithClosure} if name == "LBFGS" else {}
    options["bias"] = name != "Muon"  # which takes matrices only
    check(lambda model: kind(model.parameters()), tmp_path, **options)


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_a_momentum_goes_on_to_the_same_bits(options: dict[str, Any], tmp_path: Path) -> None:
    check(lambda model: torch.optim.SGD(model.parameters(), lr=0.1, **options), tmp_path)


def test_schedules_that_count_or_hold_others_go_on_to_the_same_bits(tmp_path: Path) -> None:
    def make(model: nn.Module) -> Optimizer:
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        parts = [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.MultiStepLR(opt, [2, 2, 4])]
        return Optimizer(opt, lr_scheduler.SequentialLR(opt, parts, milestones=[3]), "step")

    check(make, tmp_path)


class Lookahead(Optimizer):
    """A rule with numbers and weights of its own; `k` and `began` are no state."""

    def __init__(self, opt: torch.optim.Optimizer, began: float = 0.0) -> None:
        super().__init__(opt)
        self.k, self.n, self.began, self.params = 3, 0, began, [p for g in opt.param_groups for p in g["params"]]
        self.slow = [p.detach().clone() for p in self.params]

    def step(self) -> None:
        super().step()
        self.n += 1
        if self.n % self.k == 0:
            with torch.no_grad():
                for fast, slow in zip(self.params, self.slow, strict=True):
                    fast.copy_(slow.lerp_(fast, 0.5))


class Saved(Lookahead):
    """The same with a state."""

    def state_dict(self) -> Any:
        return {**super().state_dict(), "n": self.n, "slow": [slow.clone() for slow in self.slow]}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.n, self.slow = state["n"], [slow.clone() for slow in state["slow"]]


def test_what_a_derived_class_keeps_and_no_state_holds_is_named_once(tmp_path: Path) -> None:
    def make(began: float) -> Any:
        return lambda model: Lookahead(torch.optim.SGD(model.parameters(), lr=0.1), began)

    fit(make(1.0), StopAt(6), folder=tmp_path)
    with pytest.warns(
        EngineWarning, match=r"Lookahead had another value of n, slow when .* Override state_dict"
    ) as told:
        fit(make(2.0), folder=tmp_path)
    assert len(told) == 1


def test_a_derived_class_that_saves_its_own_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(lambda model: Saved(torch.optim.SGD(model.parameters(), lr=0.1)), tmp_path)


def test_a_derived_class_that_keeps_nothing_of_its_own_is_not_warned_of(tmp_path: Path) -> None:
    class Plain(Optimizer):
        def step(self) -> None:
            super().step()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(lambda model: Plain(torch.optim.SGD(model.parameters(), lr=0.1)), tmp_path)


def test_a_state_of_other_shapes_is_refused_and_named() -> None:
    left, right = nn.Linear(3, 2), nn.Linear(4, 2)
    opt = torch.optim.Adam(left.parameters())
    left(torch.ones(1, 3)).sum().backward()
    opt.step()
    with pytest.raises(StateError, match=r"'exp_avg' of parameter 0 has shape \(2, 3\) in the state; .* \(2, 4\)"):
        Optimizer(torch.optim.Adam(right.parameters())).load_state_dict(Optimizer(opt).state_dict())


def test_states_of_other_optimizers_may_have_any_shape() -> None:
    class Own(torch.optim.SGD):
        """An optimizer that keeps something under a well-known name, in a shape of its own."""

    Own.__module__ = "elsewhere"
    net = nn.Linear(3, 2)
    first, second = (Optimizer(Own(net.parameters(), lr=0.1)) for _ in range(2))
    first.opt.state[net.weight]["momentum_buffer"] = torch.ones(5)
    second.load_state_dict(first.state_dict())
    assert second.opt.state[net.weight]["momentum_buffer"].shape == (5,)
