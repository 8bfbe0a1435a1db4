"""The figures that an epoch will have, where that is known before it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from inspect import getattr_static
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

#: What code has to name to give figures of its own.
_TELLS = {"add_figure", "current_task"}
#: From how many objects on code is not followed further.
_MANY = 10_000


def foreseen(trainer: Any, stage: str) -> tuple[list[str], list[str]] | None:
    """The figures of a stage: their names, and what those may begin with that only the run will tell.

    Returns:
        None where they cannot be known: a step, a callback, a loss, a metric or a model may add others.
    """
    tasks = trainer.stage_tasks.get(stage, [])
    if not all(_is_ours(type(one)) for one in (trainer, *tasks, *trainer.callbacks)):
        return None
    if not all(task.has_default_step(stage) for task in tasks):
        return None
    models = [handle.trained_module for handle in trainer.models.values()]
    metrics = [slot.metric for task in tasks for slot in task.slots_of(stage)]
    try:
        if may_tell([trainer.loss.function, *metrics, *models, *(optimizer.opt for optimizer in trainer.opt)]):
            return None
    except Exception:  # an object that does not let itself be looked at
        return None
    losses, named = asked_for(trainer, stage)
    added = [name for callback in trainer.callbacks for name in getattr(callback, "adds_figures", ())]
    return [*losses, *named], [*named, *added]


def asked_for(trainer: Any, stage: str) -> tuple[list[str], list[str]]:
    """The names of the losses and metrics that a stage's tasks are to yield."""
    tasks = trainer.stage_tasks.get(stage, [])
    losses = [f"{task.name or ''}loss" for task in tasks if stage == "train" or task.do_loss]
    return losses, [f"{task.name or ''}{slot.name}" for task in tasks for slot in task.slots_of(stage)]


def may_tell(things: Iterable[Any]) -> bool:
    """Whether functions and objects, or any that they use, could give a trainer figures: False only where it is sure.

    What is installed, and this package's own, does not.
    """
    todo, seen = list(things), dict[int, Any]()
    while todo:
        thing = todo.pop()
        if thing is None or id(thing) in seen or isinstance(thing, (Tensor, ModuleType, str, bytes, int, float)):
            continue
        if isinstance(thing, (dict, list, tuple)) and not thing:
            continue
        seen[id(thing)] = thing
        if len(seen) > _MANY or hasattr(type(thing), "add_figure"):
            return True
        todo.append(getattr_static(thing, "__wrapped__", None))  # a decorator's
        if isinstance(thing, FunctionType):
            names = set[str]() if _is_foreign(thing.__module__) else _names(thing.__code__)
            if names & _TELLS:
                return True
            todo += _used_by(thing, names)
        else:
            todo += _parts_of(thing)
    return False


def _used_by(function: FunctionType, names: set[str]) -> list[Any]:
    """What a function reaches by its names: globals, what modules hold of them, defaults, and what it closes over."""
    found = [function.__globals__[name] for name in names if name in function.__globals__]
    modules = [one for one in found if isinstance(one, ModuleType) and not _is_foreign(one.__name__)]
    held = [vars(module)[name] for module in modules for name in names if name in vars(module)]
    closed = [content for cell in function.__closure__ or () for content in _content(cell)]
    return [*found, *held, *closed, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _content(cell: Any) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # not filled yet
        return []


def _parts_of(thing: Any) -> list[Any]:
    """What an object consists of: items, attributes, and the functions of a class of somebody's own."""
    if isinstance(thing, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, (property, staticmethod, classmethod)):
        return [getattr(thing, name, None) for name in ("fget", "fset", "__func__")]
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, (list, tuple, set, frozenset)):
        return list(thing)
    kind = thing if isinstance(thing, type) else type(thing)
    own = [part for cls in kind.__mro__ if not _is_foreign(cls.__module__) for part in vars(cls).values()]
    if isinstance(thing, nn.Module) or hasattr(thing, "_optimizer_step_post_hooks"):  # hooks may be anybody's
        return [*own, *vars(thing).values()]
    return own if isinstance(thing, type) or not own else [*own, *getattr(thing, "__dict__", {}).values()]


def _names(code: CodeType) -> set[str]:
    """The names that code uses, of functions within it, too."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith(f"{__package__}.")


def _is_foreign(module: str | None) -> bool:
    """Whether a module is Python's own, this package's, or installed."""
    top = (module or "").partition(".")[0]
    if top == "__main__":
        return False
    if top in sys.stdlib_module_names or top == __package__:
        return True
    path = getattr(sys.modules.get(top), "__file__", None) or ""
    return "site-packages" in path or "dist-packages" in path
