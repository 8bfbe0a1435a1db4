"""The figures that an epoch is to have, and monitored names that are surely none of them."""

from __future__ import annotations

from typing import Any

from .errors import nearest


def foreseen(trainer: Any, stage: str) -> list[str]:
    """The names of the losses and metrics that a stage's tasks are to yield; there may be others."""
    tasks = trainer.stage_tasks.get(stage, [])
    losses = [f"{task.name or ''}loss" for task in tasks if stage == "train" or task.do_loss]
    return [*losses, *(f"{task.name or ''}{slot.name}" for task in tasks for slot in task.slots_of(stage))]


def is_mistaken(trainer: Any, name: str) -> bool:
    """Tell whether a monitored name is surely misspelt, or asks for the loss of a stage that computes none.

    Any code that a run calls may add figures: hooks, loaders, schedules. So a name that could be another figure's is
    left to the first epoch, and every name where the steps, tasks, callbacks or the loss are not all known ones.

    Args:
        trainer: whose fit begins, its tasks bound.
        name: ``'train/<figure>'`` or ``'val/<figure>'``.
    """
    stage, _, figure = name.partition("/")
    figures = foreseen(trainer, stage)
    if figure in figures or not _is_plain(trainer, stage):
        return False
    if figure == "loss":  # a name that add_figure does not take
        return not any(figure.startswith(own) for own in figures)  # a metric may give several, named after it
    meant = nearest(figure, figures, cutoff=0.75)
    return meant is not None and _is_slip(figure, meant)


def _is_slip(name: str, meant: str) -> bool:
    """Whether a word is another with letters doubled, left out or swapped inside; ``mse`` and ``mae`` are two words."""
    words = name.isalpha() and meant.isalpha() and min(len(name), len(meant)) >= 3
    return words and (name[0], name[-1], set(name)) == (meant[0], meant[-1], set(meant))


def _is_plain(trainer: Any, stage: str) -> bool:
    """Whether a stage runs the default steps, with tasks, callbacks and a loss of this package or of torch."""
    tasks, loss = trainer.stage_tasks.get(stage, []), trainer.loss.function
    parts = [*map(type, (trainer, *tasks, *trainer.callbacks)), loss if hasattr(loss, "__name__") else type(loss)]
    ours = all(str(part.__module__).partition(".")[0] in (__package__, "torch", "builtins") for part in parts)
    return ours and all(task.has_default_step(stage) for task in tasks)
