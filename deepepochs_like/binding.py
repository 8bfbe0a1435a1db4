"""What a task runs a stage with: its loader, its metrics and its step, checked and found once per run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from .bound import Bound
from .checks import check_batch_size, check_figure_names, check_keyword, warn_collision
from .data import BatchSource
from .patches.slot import Slot
from .task import EpochTask, Steps, listify
from .types import Stage


def bind_tasks(
    trainer: Any,
    stage: Stage,
    tasks: Sequence[EpochTask],
    metrics: Sequence[Any],
    names: Sequence[str],
    function: Any = None,
) -> None:
    """Bind tasks to a stage: loaders checked, metrics made into slots, steps resolved once.

    Raises:
        LoaderError: a loader is known to be empty.
        ArgumentTypeError: a metric, a loader or a keyword is none.
    """
    for task, name in zip(tasks, names, strict=True):
        source = BatchSource(task.dataloader, name)
        source.check()
        check_batch_size(task.batch_size)
        distinct = {id(m): m for m in [*listify(task.metrics), *metrics]}.values()
        slots = [Slot(m, trainer.metric_patch, trainer.said, probe=stage == "train") for m in distinct]
        check_figure_names((slot.name for slot in slots), f"{type(task).__name__} over {name}")
        step = resolve_step(task, trainer, stage, function)
        for keyword in task.step_args:
            check_keyword(
                keyword,
                ("dataloader", "metrics", "do_loss", "batch_size", "name"),
                type(task).__name__,
                partial(_accepts, step),
            )
        default = _is_default(step)
        if trainer.compiled_step is not None:
            step = trainer.compiled_step.of(step, stage, default)
        task.bind(trainer, Bound(stage, source, slots, step, default))


def resolve_step(task: EpochTask, trainer: Any, stage: Stage, function: Any = None) -> Callable[..., Any]:
    """Return the step a stage runs: the first that its task or trainer defines, else the default one."""
    if function is not None:
        return partial(function, trainer)
    default = "train_step" if stage == "train" else "predict_step" if stage == "predict" else "evaluate_step"
    names = ["predict_step"] if stage == "predict" else ["step", f"{stage}_step", "evaluate_step"]
    for name in names[: names.index(default) + 1]:
        for owner in (task, trainer):
            if name in vars(owner) or getattr(type(owner), name, None) is not getattr(Steps, name, None):
                return getattr(owner, name)  # type: ignore[no-any-return]
    return getattr(trainer, default)  # type: ignore[no-any-return]


def _accepts(step: Any, keyword: str) -> bool:
    """Tell whether a step names `keyword` among its arguments."""
    parameters = inspect.signature(step).parameters
    return keyword in parameters or (
        not _is_default(step) and any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    )


def _is_default(step: Any) -> bool:
    """Tell whether a step is one of those that run where no other is written."""
    return getattr(step, "__func__", None) in (Steps.train_step, Steps.evaluate_step, Steps.predict_step)


def merge_tasks(tasks: Sequence[EpochTask], results: Sequence[Mapping[str, Any]], said: set[str]) -> dict[str, Any]:
    """Put the figures of a stage's tasks together; where names collide the later task wins, and it is said once."""
    merged: dict[str, Any] = {}
    for task, result in zip(tasks, results, strict=True):
        for name, value in result.items():
            if name in merged and f"collision:{task.stage}:{name}" not in said:
                said.add(f"collision:{task.stage}:{name}")
                warn_collision(name, task.stage)
            merged[name] = value
    return merged
