"""What is wrong, said at once: checks of arguments before a run, and of the loss in its first batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .errors import ArgumentError, ArgumentTypeError, LossError, a_kind, nearest
from .optimizer import Optimizers
from .patches.base import metric_name, shown
from .shapes import warn_broadcast
from .utils.warn import warn

STEPS = ("step", "train_step", "val_step", "test_step", "evaluate_step", "predict_step")
_OTHERS_STEPS = {"training_step": "train_step", "validation_step": "val_step", "eval_step": "evaluate_step"}


def check_models(model: Any) -> dict[str, nn.Module]:
    """Return the models by name; a single one is called ``'model'``.

    Raises:
        ArgumentTypeError: something is no module, or a name no string.
    """
    models = dict(model) if isinstance(model, Mapping) else {"model": model}
    if not models:
        raise ArgumentError("model is an empty dict: at least one module is needed")
    for name, module in models.items():
        where = "model" if not isinstance(model, Mapping) else f"model[{name!r}]"
        if not isinstance(name, str):
            raise ArgumentTypeError(f"model has the key {name!r}: names must be strings")
        if isinstance(model, Mapping) and (not name or "." in name or hasattr(nn.ModuleDict, name)):
            raise ArgumentError(f"model has the key {name!r}: torch takes no such name for a module; choose another")
        if isinstance(module, type):
            raise ArgumentTypeError(
                f"{where}={module.__name__}: this is a class; pass an instance, {module.__name__}(...)"
            )
        if not isinstance(module, nn.Module):
            raise ArgumentTypeError(f"{where}={module!r}: a torch.nn.Module is needed, not {a_kind(module)}")
    return models


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return `value` if it is an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(f"{name}={value!r}: an int is needed, not {a_kind(value)}")
    if value < least:
        raise ArgumentError(f"{name}={value}: at least {least} is needed")
    return value


def check_loss_function(loss: Any) -> None:
    """Refuse what is no loss: a class instead of an instance, or something that cannot be called."""
    if isinstance(loss, type):
        raise ArgumentTypeError(f"loss={loss.__name__}: this is a class; pass an instance, {loss.__name__}()")
    if loss is not None and not callable(loss):
        raise ArgumentTypeError(f"loss={loss!r}: a function (model_out, batch_y) -> scalar tensor is needed, or None")


def check_batch_size(value: Any) -> None:
    """Refuse a ``batch_size=`` that weighs nothing: what is needed is a positive number or a function."""
    if value is None or callable(value) or isinstance(value, torch.Tensor):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(
            f"batch_size={value!r}: an int, or a function (batch_x, batch_y) -> int, is needed, not a "
            f"{type(value).__name__}"
        )
    if not value > 0:
        raise ArgumentError(f"batch_size={value}: what a batch weighs must be at least 1")


def check_optimizers(optimizers: Optimizers, models: Mapping[str, nn.Module], loss: Any) -> None:
    """Compare what the optimizers hold with what can be trained.

    Raises:
        ArgumentError: they hold none of the model's parameters. Some left out are a warning that names them.
    """
    named = {
        f"{m}.{n}" if len(models) > 1 else n: p for m, module in models.items() for n, p in module.named_parameters()
    }
    if isinstance(loss, nn.Module):
        named.update({f"loss.{n}": p for n, p in loss.named_parameters()})
    held = {id(p) for group in optimizers.param_groups for p in group["params"]}
    trainable = {n: p for n, p in named.items() if p.requires_grad}
    if trainable and not any(id(p) in held for p in named.values()):
        raise ArgumentError(
            "opt holds none of the model's parameters, so training would change nothing; build it from the model that "
            "is passed: opt=torch.optim.Adam(model.parameters())"
        )
    left_out = [n for n, p in trainable.items() if id(p) not in held]
    if left_out:
        names = ", ".join(left_out[:6]) + (f" and {len(left_out) - 6} more" if len(left_out) > 6 else "")
        warn(
            f"opt leaves {len(left_out)} trainable parameters out: {names}; they will not be trained. Add them to the "
            "optimizer, or say that this is meant with requires_grad_(False)"
        )


def check_step_names(owner: Any, base: type) -> None:
    """Refuse a method whose name is nearly that of a step, e.g. ``trian_step`` or Lightning's ``training_step``.

    A private method, one that cannot take a batch, and one beside a real step of that name, which may call it, pass.
    """
    for cls in type(owner).__mro__:
        if cls is base or not issubclass(cls, base):
            continue
        for name, member in vars(cls).items():
            if name.startswith("_") or name in STEPS or hasattr(base, name) or not _takes_a_batch(member):
                continue
            meant = _OTHERS_STEPS.get(name) or nearest(name, STEPS, 0.85)
            if not meant:
                continue
            real = STEPS if meant == "step" else ("step", meant)
            if not any(_is_overridden(owner, base, step) for step in real):
                raise ArgumentTypeError(
                    f"{cls.__name__}.{name} is no step that is ever called; did you mean {meant!r}? "
                    f"Steps are {', '.join(STEPS)}"
                )


def _takes_a_batch(member: Any) -> bool:
    """Tell whether something of a class is a method with room for self, batch_x and batch_y."""
    if not inspect.isfunction(member):
        return False
    parameters = list(inspect.signature(member).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) >= 3 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _is_overridden(owner: Any, base: type, name: str) -> bool:
    return name in vars(owner) or getattr(type(owner), name, None) is not getattr(base, name, None)


def check_figure_names(names: Iterable[str], where: str) -> None:
    """Warn of metrics of one task that share a name."""
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            warn(
                f"{where}: two metrics are called {name!r}, and the later one hides the other; "
                "name one with rename('...')"
            )
        seen.add(name)


def check_keyword(name: str, allowed: Iterable[str], where: str, accepted: Callable[[str], bool]) -> None:
    """Refuse a keyword for the steps that is nearly an argument of `where`, unless a step names it."""
    meant = nearest(name, allowed, 0.8)
    if meant and not accepted(name):
        raise ArgumentTypeError(
            f"{where} takes no argument {name!r}; did you mean {meant!r}? (keywords are passed on to the steps)"
        )


def check_loss(loss: Any, model_out: Any, batch_y: Any, training: bool, trainer: Any) -> None:
    """Check a loss before anything is done with it.

    Raises:
        LossError: it is no scalar tensor, or has no gradient although it is to be trained on.
    """
    if not isinstance(loss, torch.Tensor):
        raise LossError(_no_tensor(loss, model_out, trainer.loss.function))
    if loss.ndim:
        raise LossError(
            f"the loss has shape {tuple(loss.shape)}; a single number per batch is needed: reduce it, e.g. loss.mean()"
            + (
                ""
                if trainer.loss.function
                else " (with Trainer(loss=None) the model's output is the loss; else pass loss=)"
            )
        )
    if training and not loss.requires_grad:
        raise LossError(
            "the loss carries no gradient: no parameter that requires one was used, or the output was detached on the "
            "way (.item(), .detach(), torch.no_grad(), argmax)"
        )
    warn_broadcast(model_out, batch_y, trainer.said, trainer.loss.function, loss)


def _no_tensor(loss: Any, model_out: Any, function: Any) -> str:
    """What to say of a loss that is no tensor: whose it is, and what it takes."""
    if function is not None:
        returned = f"loss={metric_name(function)} returned {shown(loss)}; a 0-dimensional tensor is needed"
        return f"loss={metric_name(function)} returned None; does it return?" if loss is None else returned
    if isinstance(model_out, dict) and loss is None:
        found = "a 'loss' that is None" if "loss" in model_out else "a dict without 'loss'"
        return f"the model returned {found}, and Trainer(loss=None) takes the loss from there; add it, or pass loss="
    if loss is None:
        return "the model returned None, and Trainer(loss=None) takes the loss from it; does its forward() return?"
    return (
        f"the loss is {shown(loss)}; a 0-dimensional tensor is needed (with Trainer(loss=None) the model returns its "
        "loss; else pass loss=)"
    )


def warn_collision(name: str, stage: str) -> None:
    """Warn of a figure that two tasks of one stage both yield."""
    warn(
        f"two {stage} tasks yield a figure {name!r}; the later task's is kept. EpochTask(..., name='a.') puts a name "
        "before a task's figures"
    )
