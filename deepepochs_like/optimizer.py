"""`Optimizer`: a torch optimizer with its schedule. `Optimizers`: all that a trainer steps, by index or by name."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .errors import ArgumentError, ArgumentTypeError, StateError, a_kind, did_you_mean, meant_figure
from .types import StateDict
from .utils.warn import warn

#: What schedulers add to an optimizer's groups; it says nothing about which optimizer it is.
_OF_SCHEDULERS = {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
#: What torch's own optimizers keep per parameter, in its shape; others, and other states, have any shape.
_SHAPED = {
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "exp_inf",
    "momentum_buffer",
    "square_avg",
    "grad_avg",
    "acc_delta",
}
_SHAPED |= {"sum", "ax", "prev"}
#: What `Optimizer` itself has as attributes; a class derived from it may have more.
_OURS = {"opt", "scheduler", "sched_on", "sched_with_loss", "monitor", "target", "step", "zero_grad"}
_OURS |= {"_run_counts", "_count_hooks", "_began"}
#: How many numbers of a tensor are looked at, about, to tell whether it has changed; and items of a container at most.
_LOOKED_AT, _ITEMS = 100, 10_000


class Optimizer:
    """A torch optimizer and the schedule of its learning rate.

    Args:
        opt: the torch optimizer.
        scheduler: a torch scheduler over `opt`, or None.
        sched_on: ``'epoch'`` steps it after each epoch's validation, ``'step'`` after each update of the weights.
        sched_with_loss: hand it the loss (of validation, else of training; ``'step'``: of the batch).
        monitor: hand it this figure instead, e.g. ``'val/acc'`` or ``'train/loss'`` (``'epoch'`` only).

    Raises:
        ArgumentTypeError: `opt` is no torch optimizer, or `scheduler` no scheduler of it.
        ArgumentError: `sched_on` is neither, or a scheduler that needs a figure is given none.

    Example:
        >>> net = torch.nn.Linear(2, 1); adam = torch.optim.Adam(net.parameters())
        >>> Optimizer(adam, torch.optim.lr_scheduler.StepLR(adam, 10)).get_current_lr()
        0.001
    """

    #: What is called after every update, and its hooks on the torch optimizer.
    _run_counts: tuple[Callable[..., None], ...] = ()
    _count_hooks: tuple[Any, ...] = ()
    #: Signs of what a derived class had of its own when the first run began.
    _began: dict[str, int] | None = None

    def __init__(
        self,
        opt: torch.optim.Optimizer,
        scheduler: Any = None,
        sched_on: Literal["epoch", "step"] = "epoch",
        sched_with_loss: bool = False,
        monitor: str | None = None,
    ) -> None:
        _check(opt)
        if sched_on not in ("epoch", "step"):
            raise ArgumentError(
                f"sched_on={sched_on!r}: 'epoch' or 'step' is needed{did_you_mean(str(sched_on), ['epoch', 'step'])}"
            )
        if scheduler is not None and not hasattr(scheduler, "step"):
            raise ArgumentTypeError(f"scheduler={scheduler!r}: {a_kind(scheduler)} has no step()")
        if monitor is not None and (sched_on == "step" or monitor.partition("/")[0] not in ("train", "val")):
            meant = meant_figure(monitor) if sched_on == "epoch" else None
            raise ArgumentError(
                f"monitor={monitor!r}: 'train/<figure>' or 'val/<figure>' is needed, with sched_on='epoch'"
                f"{f'; did you mean {meant!r}?' if meant else ''}"
            )
        if isinstance(scheduler, ReduceLROnPlateau) and not (sched_with_loss or monitor):
            raise ArgumentError(
                "ReduceLROnPlateau needs a figure to watch: pass sched_with_loss=True or monitor='val/...'"
            )
        self.opt, self.scheduler = opt, scheduler
        self.sched_on, self.sched_with_loss, self.monitor = sched_on, sched_with_loss, monitor

    if not TYPE_CHECKING:  # to a type checker they would say that any attribute can be set

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "opt":
                _check(value)
            super().__setattr__(name, value)
            if name in ("opt", "step", "zero_grad") and "opt" in vars(self):
                self.find_target()

        def __delattr__(self, name: str) -> None:
            super().__delattr__(name)
            if name in ("step", "zero_grad"):
                self.find_target()

    def __getstate__(self) -> dict[str, Any]:
        """What copies and files hold: a run's counting of updates is none of theirs."""
        state = {key: value for key, value in vars(self).items() if key not in ("_run_counts", "_count_hooks")}
        if isinstance(counted := state.get("step"), _CountedStep):
            state |= {"step": counted.given}
            if counted.given is None:
                del state["step"]
        return state

    def find_target(self) -> None:
        """Find out what is to be stepped: the torch optimizer, or this, where a `step` or `zero_grad` is its own.

        Whatever it is, in a run it is what counts the updates.
        """
        kind, own = type(self), vars(self)
        if isinstance(counted := own.get("step"), _CountedStep):
            del own["step"]
            own |= {} if counted.given is None else {"step": counted.given}
        plain = kind.step is _STEP and kind.zero_grad is _ZERO_GRAD
        self.target: Any = self.opt if plain and "step" not in own and "zero_grad" not in own else self
        if self._run_counts and self.target is self:
            own["step"] = _CountedStep(self, own.get("step"))
        inner = getattr(self.opt, "optimizer", self.opt)  # inside what an Accelerator made of it
        if [hook[:2] for hook in self._count_hooks] != [(inner, count) for count in self._run_counts]:
            for *_, handle in self._count_hooks:
                handle.remove()
            self._count_hooks = tuple(
                (inner, count, inner.register_step_post_hook(count)) for count in self._run_counts
            )

    def count_by(self, count: Callable[..., None]) -> None:
        """Call `count` after every update from now on, whoever asks for it: a run does while it lasts.

        A step that a derived class or a script has put in the place of torch's is an update, too, when it returns.
        """
        if self._began is None:
            self._began = self._signs()
        self._run_counts = (*self._run_counts, count)
        self.find_target()

    def count_no_more(self, count: Callable[..., None]) -> None:
        """Undo one `count_by`."""
        self._run_counts = tuple(other for other in self._run_counts if other != count)
        self.find_target()

    def _signs(self) -> dict[str, int]:
        """Signs of the numbers and tensors that a derived class keeps, where it has no way of its own to save them."""
        kind = type(self)
        saves = kind.state_dict is not Optimizer.state_dict or kind.load_state_dict is not Optimizer.load_state_dict
        if kind is Optimizer or saves:
            return {}
        words = {name: _words(value, self.opt.param_groups) for name, value in vars(self).items() if name not in _OURS}
        return {name: zlib.crc32(value.encode()) for name, value in words.items() if value is not None}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The torch optimizer's parameter groups."""
        return self.opt.param_groups

    def step(self) -> None:
        """Update the weights."""
        self.opt.step()

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self.opt.zero_grad()

    def step_after_update(self, loss: torch.Tensor | None) -> None:
        """Advance a scheduler that runs by steps."""
        if self.scheduler is not None and self.sched_on == "step":
            self.scheduler.step(*([loss.detach()] if self.sched_with_loss and loss is not None else []))

    def step_after_epoch(self, train: Mapping[str, Any], val: Mapping[str, Any]) -> None:
        """Advance a scheduler that runs by epochs, with the figure it watches.

        Raises:
            ArgumentError: the figure does not exist, and the message lists those there are; or it is no number.
        """
        if self.scheduler is None or self.sched_on != "epoch":
            return
        if not (self.monitor or self.sched_with_loss):
            return self.scheduler.step()  # type: ignore[no-any-return]
        figures = {f"train/{k}": v for k, v in train.items()} | {f"val/{k}": v for k, v in val.items()}
        wanted = self.monitor or ("val/loss" if "val/loss" in figures else "train/loss")
        if getattr(figures.get(wanted), "ndim", 0):
            raise ArgumentError(
                f"the scheduler watches {wanted!r}, which is a tensor of shape {tuple(figures[wanted].shape)}, and a "
                "number is needed; let the metric return one, e.g. by .mean()"
            )
        if wanted in figures:
            self.scheduler.step(figures[wanted])
        elif (
            self.monitor is None or val or not self.monitor.startswith("val/")
        ):  # an epoch without validation has no val figures
            raise ArgumentError(
                f"the scheduler watches {wanted!r}, which no epoch yields{did_you_mean(wanted, figures)}; "
                f"there are {', '.join(figures) or 'no figures'}"
            )

    def get_current_lr(self) -> float:
        """The learning rate of the first parameter group, as it will be used next."""
        return float(self.opt.param_groups[0]["lr"])

    def get_last_lr(self) -> list[float]:
        """Every group's learning rate as the scheduler set it last; without one, the current ones."""
        if self.scheduler is None:
            return [float(group["lr"]) for group in self.opt.param_groups]
        return [float(lr) for lr in self.scheduler.get_last_lr()]

    def state_dict(self) -> StateDict:
        """The states of the optimizer and, apart from it, of the scheduler.

        What a derived class keeps beside them is not in it: that is for a `state_dict` and `load_state_dict` of its own
        to add. There are but signs of what of it has changed since training began, so that loading can tell.
        """
        state: StateDict = {
            "opt": self.opt.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
        }
        began = self._began or {}
        changed = {
            key: sign for key, sign in self._signs().items() if self._began is not None and began.get(key) != sign
        }
        return {**state, "unsaved": changed} if changed else state

    def check_state(self, state: StateDict, where: str = "optimizer") -> None:
        """Raise `StateError` if `state` does not fit, before anything is loaded."""
        mine, theirs = self.opt.state_dict()["param_groups"], state["opt"]["param_groups"]
        sizes = [[len(g["params"]) for g in groups] for groups in (mine, theirs)]
        if sizes[0] != sizes[1]:
            raise StateError(f"{where} holds parameter groups of sizes {sizes[0]}; the state has {sizes[1]}")
        for mine_group, their_group in zip(mine, theirs, strict=True):
            own, saved_keys = set(mine_group) - _OF_SCHEDULERS, set(their_group) - _OF_SCHEDULERS
            # Versions of torch add an option or two; another kind of optimizer both has and lacks some.
            if own - saved_keys and saved_keys - own:
                raise StateError(
                    f"{where} is another kind of optimizer than the state's: {type(self.opt).__name__} has "
                    f"{sorted(own - saved_keys)}, the state {sorted(saved_keys - own)}"
                )
        if (self.scheduler is None) != (state["scheduler"] is None):
            has, state_has = ("no scheduler", "one") if self.scheduler is None else ("a scheduler", "none")
            raise StateError(f"{where} has {has}; the state has {state_has}")
        parameters = [p for g in self.opt.param_groups for p in g["params"]]
        shaped = _SHAPED if type(self.opt).__module__.startswith("torch.optim.") else set()
        for index, saved in state["opt"]["state"].items():
            if index not in range(len(parameters)):
                raise StateError(
                    f"{where}: the state is damaged: of {len(parameters)} parameters it has number {index}"
                )
            for key, value in saved.items():
                if key in shaped and isinstance(value, torch.Tensor) and value.shape != parameters[index].shape:
                    raise StateError(
                        f"{where}: {key!r} of parameter {index} has shape {tuple(value.shape)} in the state; "
                        f"the parameter has {tuple(parameters[index].shape)}"
                    )

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned.

        Raises:
            StateError: the groups, the shapes or the presence of a scheduler differ; nothing was changed.
        """
        self.check_state(state)
        self.opt.load_state_dict(state["opt"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        signs = self._signs()
        if lost := [name for name, sign in state.get("unsaved", {}).items() if name in signs and signs[name] != sign]:
            warn(
                f"{type(self).__name__} had another value of {', '.join(lost)} when the state was taken; the state "
                "does not hold it, so where its steps go by it the run does not go on exactly. Override state_dict and "
                "load_state_dict"
            )

    def __repr__(self) -> str:
        scheduler = type(self.scheduler).__name__ if self.scheduler else None
        return f"Optimizer({type(self.opt).__name__}, scheduler={scheduler})"


#: What those two are: whoever replaces one of them is to be heard.
_STEP, _ZERO_GRAD = Optimizer.step, Optimizer.zero_grad


class _CountedStep:
    """A step that is not torch's, which is counted: it need not call the torch optimizer's, whose hook would count it.

    Args:
        optimizer: whose `step` it is.
        given: what its `step` is as an attribute; None where it is its class's.
    """

    def __init__(self, optimizer: Optimizer, given: Any) -> None:
        self.optimizer, self.given = optimizer, given

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step = self.given or MethodType(type(self.optimizer).step, self.optimizer)
        result: Any = step(*args, **kwargs)
        for count in self.optimizer._run_counts:
            count()
        return result


def _check(opt: Any) -> None:
    """Raise `ArgumentTypeError` if `opt` is no torch optimizer."""
    if isinstance(opt, type):
        raise ArgumentTypeError(f"opt={opt.__name__}: this is a class; pass {opt.__name__}(model.parameters(), ...)")
    if hasattr(opt, "get_last_lr"):
        raise ArgumentTypeError(f"opt is {a_kind(opt)}, a scheduler; pass Optimizer(optimizer, scheduler)")
    if not isinstance(opt, torch.optim.Optimizer):
        raise ArgumentTypeError(f"opt={opt!r}: a torch.optim.Optimizer is needed, not {a_kind(opt)}")


def _words(value: Any, groups: list[dict[str, Any]], depth: int = 4) -> str | None:
    """A value in words that are the same in another process; None where it may be no state, or is not looked at.

    Weights are no state of an optimizer's, wherever it keeps them.
    """
    if type(value) is torch.Tensor:
        special = value.layout is not torch.strided or value.is_meta or value.is_nested or value.is_quantized
        if special or any(value is parameter for group in groups for parameter in group["params"]):
            return None
        flat = value.detach().reshape(-1)
        return f"{tuple(value.shape)} {flat[:: max(1, len(flat) // _LOOKED_AT)].tolist()}"
    if type(value) in (bool, int, float, str, type(None)):
        return repr(value)
    if not isinstance(value, (list, tuple, dict)) or len(value) > _ITEMS or not depth:
        return None
    items = [*value, *value.values()] if isinstance(value, dict) else value
    words = [_words(item, groups, depth - 1) for item in items]
    return None if None in words else repr(words)


class Optimizers(list[Optimizer]):
    """A list of `Optimizer`, reached by index or, where they were given as a dict, by name.

    Args:
        optimizers: torch optimizers or `Optimizer` objects: one, a list, or a dict of them.

    Example:
        >>> nets = {'g': torch.nn.Linear(2, 1), 'd': torch.nn.Linear(1, 1)}
        >>> both = Optimizers({name: torch.optim.SGD(net.parameters(), 0.1) for name, net in nets.items()})
        >>> both.get_current_lr(), both['d'] is both[1]
        ([0.1, 0.1], True)
    """

    def __init__(self, optimizers: Any) -> None:
        if isinstance(optimizers, Mapping):
            names, given = list(optimizers), list(optimizers.values())
        else:
            given = list(optimizers) if isinstance(optimizers, (list, tuple)) else [optimizers]
            names = [str(i) for i in range(len(given))]
        super().__init__(o if isinstance(o, Optimizer) else Optimizer(o) for o in given)
        self.names: list[str] = names
        self._find_by_step()

    def _find_by_step(self) -> None:
        #: Those whose scheduler runs by steps.
        self.by_step = [o for o in self if o.scheduler is not None and o.sched_on == "step"]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            if index not in self.names:
                raise ArgumentError(
                    f"no optimizer {index!r}{did_you_mean(index, self.names)}; there are {', '.join(self.names)}"
                )
            index = self.names.index(index)
        return super().__getitem__(index)

    def __setitem__(self, index: Any, optimizer: Any) -> None:
        """Put another optimizer in the place of one; in a run its updates are counted as the other's were."""
        if isinstance(index, slice):
            raise ArgumentError("optimizers are replaced one by one: trainer.opt[index_or_name] = optimizer")
        old = self[index]
        new = optimizer if isinstance(optimizer, Optimizer) else Optimizer(optimizer)
        super().__setitem__(next(i for i, one in enumerate(self) if one is old), new)
        for count in old._run_counts if new is not old else ():
            new.count_by(count)
            old.count_no_more(count)
        self._find_by_step()

    def items(self) -> Iterator[tuple[str, Optimizer]]:
        """Pairs of name (or index) and optimizer."""
        return zip(self.names, self, strict=True)

    def step(self) -> None:
        """Update the weights by every optimizer."""
        for optimizer in self:
            optimizer.step()

    def zero_grad(self) -> None:
        """Clear the gradients of every optimizer."""
        for optimizer in self:
            optimizer.zero_grad()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers, in order."""
        return [group for optimizer in self for group in optimizer.param_groups]

    def get_current_lr(self) -> list[float]:
        """The learning rate in use, of every optimizer's first group."""
        return [optimizer.get_current_lr() for optimizer in self]

    def get_last_lr(self) -> list[list[float]]:
        """The learning rates that the schedulers set last, per optimizer and group."""
        return [optimizer.get_last_lr() for optimizer in self]

    def state_dict(self) -> StateDict:
        """The states of all, by name."""
        return {name: optimizer.state_dict() for name, optimizer in self.items()}

    def check_state(self, state: StateDict) -> None:
        """Raise `StateError` if `state` does not fit, before anything is loaded."""
        if set(state) != set(self.names):
            raise StateError(f"the optimizers are named {self.names}; the state has {list(state)}")
        for name, optimizer in self.items():
            optimizer.check_state(state[name], f"optimizer {name!r}")

    def load_state_dict(self, state: StateDict) -> None:
        """Restore all, or none.

        Raises:
            StateError: names, groups or shapes differ; nothing was changed.
        """
        self.check_state(state)
        for name, optimizer in self.items():
            optimizer.load_state_dict(state[name])
