"""The event table: every hook's name and arguments; and the checks made when a callback is attached.

Read from top to bottom it is the order in which a run fires them. A callback implements ``on_<event>``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .errors import ArgumentTypeError, HookError, did_you_mean

#: How the names of this library's modules begin: their hooks are right, and every run would look at them again.
_OURS = __name__.partition(".")[0] + "."

EVENTS: dict[str, tuple[str, ...]] = {
    "before_fit": ("trainer", "epochs"),
    "before_epoch": ("trainer", "train_tasks", "val_tasks", "epoch_idx"),
    "before_train_epochs": ("trainer", "tasks", "epoch_idx"),
    "before_train_epoch": ("trainer", "task"),
    "before_train_batch": ("trainer", "batch_x", "batch_y", "batch_idx"),
    "before_train_forward": ("trainer",),
    "after_train_forward": ("trainer", "model_out"),
    "before_backward": ("trainer", "loss"),
    "after_backward": ("trainer", "loss"),
    "before_optimize": ("trainer", "optimize_index"),
    "after_optimize": ("trainer", "optimize_index"),
    "train_metrics": ("trainer", "loss", "model_out", "batch_y", "task"),
    "after_train_batch": ("trainer", "metrics", "batch_idx"),
    "after_train_epoch": ("trainer", "task", "metrics"),
    "after_train_epochs": ("trainer", "tasks", "metrics", "epoch_idx"),
    "before_val_epochs": ("trainer", "tasks", "epoch_idx"),
    "before_val_epoch": ("trainer", "task"),
    "before_val_batch": ("trainer", "batch_x", "batch_y", "batch_idx"),
    "before_val_forward": ("trainer",),
    "after_val_forward": ("trainer", "model_out"),
    "val_metrics": ("trainer", "loss", "model_out", "batch_y", "task"),
    "after_val_batch": ("trainer", "metrics", "batch_idx"),
    "after_val_epoch": ("trainer", "task", "metrics"),
    "after_val_epochs": ("trainer", "tasks", "metrics", "epoch_idx"),
    "after_epoch": ("trainer", "train_tasks", "val_tasks", "train_metrics", "val_metrics", "epoch_idx"),
    "on_checkpoint": ("trainer",),
    "after_fit": ("trainer",),
    "before_test_epochs": ("trainer", "tasks"),
    "before_test_epoch": ("trainer", "task"),
    "before_test_batch": ("trainer", "batch_x", "batch_y", "batch_idx"),
    "before_test_forward": ("trainer",),
    "after_test_forward": ("trainer", "model_out"),
    "test_metrics": ("trainer", "loss", "model_out", "batch_y", "task"),
    "after_test_batch": ("trainer", "metrics", "batch_idx"),
    "after_test_epoch": ("trainer", "task", "metrics"),
    "after_test_epochs": ("trainer", "tasks", "metrics"),
    "on_exception": ("trainer", "exception"),
    "on_cleanup": ("trainer",),
}

F = TypeVar("F", bound=Callable[..., Any])


def method_of(event: str) -> str:
    """The name of the method that listens to an event."""
    return event if event.startswith("on_") else f"on_{event}"


def unheard(method: F) -> F:
    """Mark a hook of the base class: an event whose method is this one has no listener."""
    method.unheard = method  # type: ignore[attr-defined]  # by identity: functools.wraps copies a function's attributes
    return method


def _unheard(method: Any) -> bool:
    """Tell whether a method is the base class's own, not one that merely wraps it."""
    function = getattr(method, "__func__", method)
    return getattr(function, "unheard", None) is function


def listens(callback: Any, event: str) -> bool:
    """Tell whether `callback` really overrides the event's hook."""
    method = getattr(callback, method_of(event), None)
    return method is not None and not _unheard(method)


def by_priority(callbacks: Sequence[Any], event: str) -> list[Any]:
    """Order callbacks for an event: before_* ascending by priority, ties in list order; all others the reverse.

    Callbacks that keep checkpoints come last in on_checkpoint whatever their priority.
    """
    ordered = sorted(callbacks, key=lambda c: c.priority)
    if not event.startswith("before_"):
        ordered.reverse()
    if event == "on_checkpoint":
        ordered.sort(key=lambda c: bool(getattr(c, "keeps_checkpoints", False)))
    return ordered


def detach_removed(trainer: Any) -> None:
    """Detach the callbacks that have been taken out of ``trainer.callbacks``; not within a run, which they go on with.

    It comes before anything is planned, tried out or run without them.
    """
    if not trainer.running:
        for callback in list(trainer.attached):
            if all(callback is not other for other in trainer.callbacks):
                trainer.attached = [other for other in trainer.attached if other is not callback]
                callback.detach(trainer)


def attach_added(trainer: Any) -> None:
    """Attach the callbacks that have come to ``trainer.callbacks`` since, before they are given a state.

    Each is among ``trainer.attached`` when that is done, unlike in a run, where all are before.

    Raises:
        ArgumentTypeError, HookError: see `check_callback`.
    """
    for callback in trainer.callbacks:
        if all(callback is not other for other in trainer.attached):
            check_callback(callback)
            callback.attach(trainer)
            trainer.attached = [*trainer.attached, callback]


def check_callback(callback: Any) -> None:
    """Check a callback when it is attached.

    Raises:
        ArgumentTypeError: it is no Callback (an instance is needed, not the class).
        HookError: a method named ``on_*`` is no event, or cannot be called with the event's arguments.
    """
    if isinstance(callback, type):
        raise ArgumentTypeError(f"callbacks: {callback.__name__} is a class; pass an instance, {callback.__name__}()")
    if not hasattr(callback, "priority") or not hasattr(callback, "on_cleanup"):
        raise ArgumentTypeError(f"callbacks: {callback!r} is no Callback; subclass deepepochs_like.Callback")
    if isinstance(callback.priority, bool) or not isinstance(callback.priority, (int, float)):
        raise ArgumentTypeError(f"{type(callback).__name__}: priority={callback.priority!r}: a number is needed")
    both = ("state_dict", "load_state_dict")
    own = [name for name in both if (method := getattr(callback, name, None)) is not None and not _unheard(method)]
    if len(own) == 1:
        other = both[own[0] == both[0]]
        raise HookError(f"{type(callback).__name__} has {own[0]}, but no {other}: what is saved has to be loaded again")
    events = {method_of(event): event for event in EVENTS}
    for name in dir(callback):
        if not name.startswith("on_") or (method := getattr(callback, name, None)) is None:
            continue
        if not callable(method):
            if name in events:
                raise HookError(f"{type(callback).__name__}.{name} is {method!r}; a method (or None) is needed")
            continue
        if name not in events:
            hint = did_you_mean(name, events)
            raise HookError(f"{type(callback).__name__}.{name} is no event{hint or ';'} methods named on_* are hooks")
        _check_signature(callback, name, EVENTS[events[name]])


def _check_signature(callback: Any, name: str, arguments: tuple[str, ...]) -> None:
    method = getattr(callback, name)
    if _unheard(method) or (getattr(method, "__module__", "") or "").startswith(_OURS):
        return
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):  # a builtin: nothing to check it by
        return
    where, called = f"{type(callback).__name__}.{name}", f"{name}({', '.join(arguments)})"
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY or (
            parameter.name in named and parameter.default is parameter.empty and parameter.name not in arguments
        ):
            hint = did_you_mean(parameter.name, arguments)
            raise HookError(
                f"{where} takes {parameter.name!r}, which the event does not give{hint} (it is called as {called}, "
                "by keyword)"
            )
    if not any(p.kind is p.VAR_KEYWORD for p in parameters) and (missing := [a for a in arguments if a not in named]):
        raise HookError(
            f"{where} does not take {', '.join(map(repr, missing))}; it is called as {called}: add it, or **kwargs"
        )
