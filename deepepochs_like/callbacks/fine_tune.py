"""`FineTune`: parts of a model trained from an epoch on; and `freeze` and `unfreeze`, which it is made of."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NoReturn, TypeVar

import torch
from torch import nn

from ..errors import ArgumentError, ArgumentTypeError, a_kind, did_you_mean, refuse_unknown
from .asked import warn_beyond
from .base import Callback

Module = TypeVar("Module", bound=nn.Module)


def freeze(module: Module, bn_eval: bool = True) -> Module:
    """Keep a module from being trained; return it.

    Its parameters need no gradients any more, and have none, so that no optimizer moves them, whatever its momentum or
    weight decay. Layers with running statistics, such as BatchNorm, stay in evaluation mode also when the model is put
    into training mode, so that these do not move either. Dropout goes on as it did.

    Args:
        module: a module, in place.
        bn_eval: whether layers with running statistics are held in evaluation mode.

    Raises:
        ArgumentTypeError: it is no module.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
        >>> net = freeze(net).train()
        >>> net.training, net[1].training, any(p.requires_grad for p in net.parameters())
        (True, False, False)
    """
    _check_module("freeze", module)
    _by_hand(module)
    for parameter in module.parameters():
        _train(parameter, False)
    for layer in _with_statistics(module):
        _hold(layer, bn_eval)
    return module


def unfreeze(module: Module) -> Module:
    """Let a module be trained again; return it.

    All of its parameters get gradients from here on, and its layers with running statistics are in the mode that the
    module is in.

    Args:
        module: a module, in place.

    Raises:
        ArgumentTypeError: it is no module.

    Example:
        >>> net = unfreeze(freeze(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))))
        >>> net[1].training, all(p.requires_grad for p in net.parameters())
        (True, True)
    """
    _check_module("unfreeze", module)
    _by_hand(module)
    for parameter in module.parameters():
        _train(parameter, True)
    for layer in _with_statistics(module):
        if _is_held(layer):
            _hold(layer, False)
            layer.train(module.training or layer is module)
    return module


@dataclass(eq=False)
class _Part:
    """A parameter, and whether it was trained; or a layer, and whether it was held in evaluation mode."""

    it: Any
    was: bool
    #: Whether a layer was in evaluation mode within a model that was not.
    apart: bool = False
    #: What a schedule has made of it since; None where it has not, or somebody else has come after.
    made: bool | None = None

    def take(self, now: bool) -> bool:
        """Tell whether it still is as a schedule has left it, which is over with that."""
        own, self.made = self.made is not None and self.made == now, None
        return own


@dataclass(eq=False)
class _Before:
    """How the models of a trainer were before schedules came, and which those are."""

    tuners: list[Any] = field(default_factory=list)
    parameters: dict[int, _Part] = field(default_factory=dict)
    layers: dict[int, _Part] = field(default_factory=dict)


#: Those of all trainers, of which `freeze` and `unfreeze` know nothing.
_KNOWN: weakref.WeakSet[_Before] = weakref.WeakSet()


def _by_hand(module: nn.Module) -> None:
    """Note that it is no schedule's doing how a module is from here on."""
    changed = {id(one) for one in (*module.parameters(), *module.modules())}
    for before in _KNOWN:
        for part in (*before.parameters.values(), *before.layers.values()):
            if id(part.it) in changed:
                part.made = None


class FineTune(Callback):
    """Train parts of the model from an epoch on, and leave the others as they are until then.

    ``FineTune({0: 'head', 3: 'layer4', 6: '*'})`` trains the head alone for three epochs, then ``layer4``, too, and
    everything from the seventh epoch on. What no part of the schedule names is never trained. What is not trained yet
    is frozen as `freeze` does it, BatchNorm included. Everything follows from the number of the epoch, so that a run
    that is resumed goes on exactly.

    The optimizer has to hold all parameters that are ever trained, from the beginning: those that are frozen cost it
    nothing. After the run the model stays as the last epoch had it; `unfreeze` releases it. Once this is taken out of
    ``trainer.callbacks``, the next run has the model trained, frozen and held as it was when this came, except what
    `freeze`, `unfreeze` or a `requires_grad` of one's own has changed after the last epoch that this was there for.

    Args:
        schedule: epoch (counted from 0, which has to be there) to the name of a part, or a list of names: of a module
            (``'layer4'``, with all that is in it), of a parameter, or a pattern (``'layer[34]'``, ``'*.bias'``, ``'*'``
            for everything). Where there are several models, names begin with the model's: ``'critic.head'``.
        bn_eval: whether frozen layers with running statistics are held in evaluation mode.
        priority: its place among the callbacks.

    Raises:
        ArgumentError, ArgumentTypeError: the schedule is none. When the trainer is made: a name is nowhere in the
            model, or the optimizer does not hold a parameter that is to be trained.

    Example:
        >>> from deepepochs_like import FineTune, Trainer
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)); before = net[0].weight.clone()
        >>> trainer = Trainer(net, torch.nn.functional.mse_loss, callbacks=[FineTune({0: '1', 1: '*'})], verbose=0)
        >>> fit = trainer.fit([(torch.ones(4, 2), torch.ones(4, 1))], max_steps=1)  # an epoch
        >>> torch.equal(net[0].weight, before)
        True
        >>> fit = trainer.fit([(torch.ones(4, 2), torch.ones(4, 1))], max_steps=1)  # an epoch
        >>> torch.equal(net[0].weight, before)
        False
    """

    part_of_training = True

    def __init__(
        self,
        schedule: Mapping[int, str | Sequence[str]],
        *,
        bn_eval: bool = True,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("FineTune", unknown, FineTune.__init__)
        super().__init__(priority)
        self.schedule, self.bn_eval = _check_schedule(schedule), bn_eval

    def attach(self, trainer: Any) -> None:
        """Refuse names that are nowhere in the model, and parameters that no optimizer would ever move."""
        named = list(_parameters(trainer))
        for pattern in (pattern for patterns in self.schedule.values() for pattern in patterns):
            if not any(_matches(name, pattern) for name, _ in named):
                parts = {prefix for name, _ in named for prefix in _prefixes(name)}
                raise ArgumentError(
                    f"FineTune: {pattern!r} is no part of the model with parameters{did_you_mean(pattern, parts)}; "
                    f"there are {', '.join(sorted({name.partition('.')[0] for name, _ in named}))}"
                )
        held = {id(p) for group in trainer.opt.param_groups for p in group["params"]}
        lost = [name for name, p in named if id(p) not in held and self._since(name) is not None]
        if lost:
            raise ArgumentError(
                f"FineTune: the optimizer does not hold {_listed(lost)}, which the schedule is to train; make it of "
                "all of model.parameters(), before anything is frozen: what is frozen costs it nothing"
            )
        self._remember(trainer)

    def _remember(self, trainer: Any) -> _Before:
        """Keep how everything is before a schedule changes it; on the execution, as there may be other trainers."""
        before: _Before = vars(trainer.execution).setdefault("before_tuning", _Before())
        _KNOWN.add(before)
        if all(tuner is not self for tuner in before.tuners):
            before.tuners.append(self)
        for _, parameter in _parameters(trainer):  # one that came since the last run is added
            before.parameters.setdefault(id(parameter), _Part(parameter, parameter.requires_grad))
        for _, model in _models(trainer):
            for layer in _with_statistics(model):
                apart = _mode_of(model, layer) and not layer.training
                before.layers.setdefault(id(layer), _Part(layer, _is_held(layer), apart))
        return before

    def detach(self, trainer: Any) -> None:
        """Leave everything as it was when this was attached first: nobody else would release what is frozen."""
        before: _Before = vars(trainer.execution).get("before_tuning", _Before())
        if all(tuner is not self for tuner in before.tuners):
            return
        before.tuners[:] = [tuner for tuner in before.tuners if tuner is not self]
        if not before.tuners:
            del trainer.execution.before_tuning
        for part in before.parameters.values():
            if part.take(part.it.requires_grad):
                _train(part.it, part.was)
        modes = {id(layer): _mode_of(m, layer) for _, m in _models(trainer) for layer in _with_statistics(m)}
        for part in before.layers.values():
            held = _is_held(part.it)
            if part.take(held):
                _hold(part.it, part.was)
                if held and not part.was:
                    part.it.train(modes.get(id(part.it), True) and not part.apart)

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        late = next((epoch for epoch in self.schedule if epoch >= epochs), 0)
        parts = [part for epoch, patterns in self.schedule.items() if epoch >= epochs for part in patterns]
        fix = "what else it names stays frozen. Fit for more epochs, or name an earlier one"
        warn_beyond(trainer, epochs, f"FineTune's schedule for {_listed(parts)}", late, fix)

    def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
        """Freeze and release by the epoch's number alone, so that a resumed run needs no state for it."""
        before, named = self._remember(trainer), list(_parameters(trainer))
        # A tied parameter has several names, of which one is enough.
        trained = {id(p) for name, p in named if self._trains(name, epoch_idx)}
        for _, parameter in named:
            _train(parameter, id(parameter) in trained)
            before.parameters[id(parameter)].made = parameter.requires_grad
        for path, model in _models(trainer):
            for name, layer in model.named_modules():
                if _has_statistics(layer):
                    inside = [n for n, _ in (*layer.named_parameters(recurse=False), *layer.named_buffers())]
                    names = [f"{path}{name}{'.' if name else ''}{n}" for n in inside]
                    held = self.bn_eval and not any(self._trains(n, epoch_idx) for n in names)
                    _hold(layer, held)
                    before.layers[id(layer)].made = held
        if epoch_idx in self.schedule and trainer.verbose:
            count = sum(p.numel() for p in {id(p): p for _, p in named}.values() if p.requires_grad)
            parts = ", ".join(self.schedule[epoch_idx])
            trainer.print(f"epoch {epoch_idx + 1}: {parts} trained from here on, {count:,} numbers in all")

    def _since(self, name: str) -> int | None:
        """The epoch from which a parameter is trained; None for never."""
        epochs = (e for e, patterns in self.schedule.items() if any(_matches(name, p) for p in patterns))
        return min(epochs, default=None)

    def _trains(self, name: str, epoch: int) -> bool:
        since = self._since(name)
        return since is not None and since <= epoch


def _check_module(where: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(f"{where}({module!r}): a torch.nn.Module is needed, not {a_kind(module)}")


def _check_schedule(given: Any) -> dict[int, list[str]]:
    """A schedule as lists of names, by ascending epoch."""
    if not isinstance(given, Mapping):
        raise ArgumentTypeError(f"schedule={given!r}: a dict is needed, such as {{0: 'head', 3: '*'}}")
    schedule: dict[int, list[str]] = {}
    for epoch, names in given.items():
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ArgumentError(f"schedule: {epoch!r} is no epoch; an int from 0 on is needed")
        listed = [names] if isinstance(names, str) else list(names) if isinstance(names, Sequence) else [names]
        if not listed or not all(isinstance(name, str) and name for name in listed):
            raise ArgumentError(f"schedule: epoch {epoch} has {names!r}; a name or a list of names is needed")
        schedule[epoch] = listed
    if 0 not in schedule:
        raise ArgumentError("schedule: nothing is named for epoch 0, so that there would be nothing to train in it")
    return dict(sorted(schedule.items()))


def _models(trainer: Any) -> Iterator[tuple[str, nn.Module]]:
    """The models as the script made them, each with what its names begin with."""
    for name, handle in trainer.models.items():
        model = handle.trained_module
        if trainer.accelerator is not None:
            model = trainer.accelerator.unwrap_model(model)
        yield ("" if len(trainer.models) == 1 else f"{name}."), model


def _parameters(trainer: Any) -> Iterator[tuple[str, nn.Parameter]]:
    for path, model in _models(trainer):
        for name, parameter in model.named_parameters(remove_duplicate=False):
            yield f"{path}{name}", parameter


def _prefixes(name: str) -> list[str]:
    """A name and all that it lies in: ``a.b.c``, ``a.b``, ``a``."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def _matches(name: str, pattern: str) -> bool:
    return any(prefix == pattern or fnmatchcase(prefix, pattern) for prefix in _prefixes(name))


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _train(parameter: nn.Parameter, on: bool) -> None:
    """Have a parameter trained or not; one that is not has no gradient left, which an optimizer would follow."""
    if parameter.requires_grad != on and (parameter.is_floating_point() or parameter.is_complex()):
        parameter.requires_grad_(on)
    if not on:
        parameter.grad = None


def _with_statistics(module: nn.Module) -> Iterator[nn.Module]:
    return (layer for layer in module.modules() if _has_statistics(layer))


def _has_statistics(layer: nn.Module) -> bool:
    """Whether a layer keeps running statistics, as BatchNorm does."""
    return isinstance(getattr(layer, "running_mean", None), torch.Tensor)


def _mode_of(model: nn.Module, layer: nn.Module) -> bool:
    """Whether a layer of a model would be in training mode, if it were as the model is."""
    return model.training or layer is model


def _is_held(layer: nn.Module) -> bool:
    own = vars(layer).get("train")
    return isinstance(own, partial) and own.func is _stay


def _hold(layer: nn.Module, on: bool) -> None:
    """Hold a layer in evaluation mode, or let go of it; it can still be copied and saved."""
    if on:
        layer.eval()
        vars(layer)["train"] = partial(_stay, layer)
    elif _is_held(layer):
        del vars(layer)["train"]


def _stay(layer: nn.Module, mode: bool = True) -> nn.Module:
    """What `train` of a layer is while it is held."""
    layer.training = False
    return layer
