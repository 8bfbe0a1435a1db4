"""Check what evaluation mode leaves active: dropout, masks drawn by hand, BatchNorm."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .case import CannotTell, Case, Found, some
from .looking import tensors_in
from .trial import Pass, Trial

_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"} | {
    *("feature_dropout", "native_dropout", "dropout_", "alpha_dropout_", "feature_dropout_", "feature_alpha_dropout_")
}
#: What draws numbers between 0 and 1; and what makes a mask of them.
_DRAWS, _MASKS = {"rand", "rand_like", "uniform_"}, {"bernoulli", "bernoulli_"}
_COMPARE = {"lt", "le", "gt", "ge", "floor", "floor_", "round", "round_", "less", "greater"} | {
    *("__lt__", "__le__", "__gt__", "__ge__", "less_equal", "greater_equal")
}
#: What hands on a mask, and what applies it.
_HANDS_ON = {"float", "to", "type", "type_as", "half", "double", "bfloat16", "view", "reshape", "expand"} | {
    "expand_as",
    *("unsqueeze", "squeeze", "div", "div_", "true_divide", "add", "add_", "sub", "rsub", "neg", "logical_not"),
    *("__truediv__", "__add__", "__radd__", "__sub__", "__rsub__", "__invert__", "bitwise_not", "clone", "detach"),
    *("__itruediv__", "__iadd__", "contiguous", "permute", "transpose", "view_as", "repeat", "cuda", "cpu", "bool"),
}
_APPLIES = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"}
_FILLS = {"masked_fill", "masked_fill_", "where"}


def active_in_evaluation(case: Case) -> Iterator[Found]:
    """Dropout or BatchNorm that evaluation mode does not turn off."""
    trial = case.forward()
    other, one = Trial(trial.modules, trial.loss), trial.passes[0]
    for module in other.modules.values():
        module.eval()
    try:
        watch = _Watch()
        random.seed(0)
        np.random.seed(0)
        before = _others()
        with watch.modules(other):
            _evaluated(other, one, 0, 0, watch)
        # Without the watch, which keeps torch from its fast paths: these round otherwise.
        # A model that gives its own loss may hide things at random on purpose, to have them guessed.
        hides = trial.loss is None
        masked = watch.masked and not hides and (_drawn(other, one) or _drawn(trial.shaken(), one))
        decided = _others() != before and not hides and _differ(*(_evaluated(other, one, 0, seed) for seed in (0, 1)))
    except Exception as error:
        raise CannotTell(f"the model fails in evaluation mode ({type(error).__name__}: {error})") from None
    if watch.dropped:
        yield _random(sorted(watch.dropped))
    elif masked:
        yield _random([f"a random mask in {name}" for name in sorted(watch.masked)])
    elif decided:
        yield _random(["a decision by Python's or NumPy's random numbers in forward()"])
    if watch.normed:
        message = (
            f"BatchNorm goes by the figures of the batch in evaluation, too ({some(sorted(watch.normed))}): what a "
            "sample gets depends on the others beside it, and validation changes the running mean and variance."
        )
        yield "error", message, "Pass training=self.training to F.batch_norm.", {"where": sorted(watch.normed)}


def _random(where: list[str]) -> Found:
    message = (
        f"Dropout stays active in evaluation: {some(where)}. Validation figures and predictions are worse than the "
        "model is, and differ from call to call."
    )
    fix = "Pass training=self.training (and dropout_p=self.p if self.training else 0.0), or use nn.Dropout."
    return "error", message, fix, {"where": where}


def _evaluated(trial: Trial, one: Pass, seed: int, others: int, watch: Any = None) -> list[Tensor]:
    """The outputs in evaluation mode; torch draws from one seed, Python and NumPy from another."""
    torch.manual_seed(seed)
    random.seed(others)
    np.random.seed(others)
    with torch.no_grad():
        if watch is None:
            out = trial.evaluate(one.x)
        else:
            with watch:
                out = trial.evaluate(one.x)
    return [t.detach().clone() for t in tensors_in(out) if t.is_floating_point()]


def _drawn(trial: Trial, one: Pass) -> bool:
    """Whether outputs depend on torch's random numbers in evaluation mode."""
    for module in trial.modules.values():
        module.eval()
    return _differ(*(_evaluated(trial, one, seed, 0) for seed in (0, 1)))


def _others() -> tuple[Any, str]:
    """Where Python's and NumPy's global generators are."""
    return random.getstate(), str(np.random.get_state())


def _differ(some_outputs: list[Tensor], others: list[Tensor]) -> bool:
    if len(some_outputs) != len(others):
        return True
    pairs = zip(some_outputs, others, strict=True)
    return any(a.shape != b.shape or not _near(a, b) for a, b in pairs)


def _near(one: Tensor, other: Tensor) -> bool:
    size = float(one.nan_to_num().abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4 * size, equal_nan=True)


class _Watch(TorchFunctionMode):
    """Notes which functions draw masks at random, and in which module they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.within: list[str] = []
        self.dropped: set[str] = set()
        self.masked: set[str] = set()
        self.normed: set[str] = set()
        #: Tensors drawn at random, and masks made of them; kept, so that no other gets the identity of one.
        self.drawn: dict[int, Tensor] = {}
        self.masks: dict[int, Tensor] = {}

    def modules(self, trial: Trial) -> Any:
        """A context in which it is known whose forward() is running."""
        return _Within(self, trial)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        where = self.within[-1] if self.within else "the model"
        if name in _DROPOUTS and _drops(args, kwargs):
            self.dropped.add(f"{name} in {where}")
        elif name == "scaled_dot_product_attention" and float(kwargs.get("dropout_p", (*args, 0, 0, 0, 0, 0)[4])) > 0:
            self.dropped.add(f"the dropout_p of scaled_dot_product_attention in {where}")
        elif name == "batch_norm" and func is F.batch_norm and _moves(func, args, kwargs):
            self.normed.add(where)
        else:
            self._follow(name, args, kwargs, out, where)
        return out

    def _follow(self, name: str, args: Any, kwargs: Any, out: Any, where: str) -> None:
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if isinstance(out, Tensor) and name in _MASKS | _DRAWS:
            (self.masks if name in _MASKS else self.drawn)[id(out)] = out
            return
        masks, drawn = [a for a in given if id(a) in self.masks], [a for a in given if id(a) in self.drawn]
        if not masks and not drawn:
            return
        others = [a for a in given if a.ndim and id(a) not in self.masks and id(a) not in self.drawn]
        applied = (name in _APPLIES and others) or (name in _FILLS and _zeroes(args, given))
        decides = name in ("item", "__bool__", "__float__", "tolist")  # forward() goes one way or another
        if decides or (masks and applied):
            self.masked.add(where)
        elif isinstance(out, Tensor) and name in _COMPARE:
            self.masks[id(out)] = out
        elif isinstance(out, Tensor) and (name in _HANDS_ON or name in _APPLIES):
            (self.masks if masks else self.drawn)[id(out)] = out


class _Within:
    """Hooks that note whose forward() is running."""

    def __init__(self, watch: _Watch, trial: Trial) -> None:
        self.watch, self.trial, self.handles = watch, trial, list[Any]()

    def __enter__(self) -> None:
        for name, part in self.trial.named_modules():
            if isinstance(part, torch.jit.ScriptModule):  # takes no hooks
                continue

            def enter(_: nn.Module, args: Any, name: str = name) -> None:
                self.watch.within.append(name)

            self.handles.append(part.register_forward_pre_hook(enter))
            self.handles.append(part.register_forward_hook(self._leave, always_call=True))

    def _leave(self, *_: Any) -> None:
        self.watch.within.pop()

    def __exit__(self, *_: Any) -> None:
        for handle in self.handles:
            handle.remove()


def _drops(args: Any, kwargs: Any) -> bool:
    """Whether a dropout function drops something: it is called as (input, p, training)."""
    p = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    training = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
    return bool(training) and p > 0


def _moves(function: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    given = inspect.signature(function).bind(*args, **kwargs)
    given.apply_defaults()
    return bool(given.arguments["training"]) and given.arguments["running_mean"] is not None


def _zeroes(args: Any, given: list[Tensor]) -> bool:
    """Whether a mask fills with zeros, as dropout does; with other numbers it hides tokens."""
    floating = any(a.is_floating_point() and a.ndim for a in given)
    zero = any(not isinstance(a, bool) and isinstance(a, (int, float)) and a == 0 for a in args)
    return floating and (zero or any(a.is_floating_point() and not bool(a.any()) for a in given))
