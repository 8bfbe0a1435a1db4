"""`trainer.explain()`: which hook of which callback runs when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from .data import BatchSource
from .errors import ArgumentTypeError, a_kind
from .events import EVENTS, by_priority, listens, method_of
from .task import EpochTask

_HEADINGS = {
    "before_fit": "once, before the run",
    "before_epoch": "every epoch",
    "before_train_epoch": "every training task",
    "before_train_batch": "every training batch",
    "after_train_epoch": "every training task, when it is over",
    "before_val_epochs": "every epoch in which validation is due",
    "before_val_epoch": "every validation task",
    "before_val_batch": "every validation batch",
    "after_val_epoch": "every validation task, when it is over",
    "after_epoch": "every epoch, when it is over",
    "after_fit": "once, after the run",
    "before_test_epochs": "in test",
    "on_exception": "on an error, and at the end of every run",
}


def explain_run(trainer: Any, loaders: Sequence[Any] = (), named: Mapping[str, Any] | None = None) -> str:
    """Describe the run of a trainer as text: model, device, steps, loaders, and every hook in the order it fires in."""
    sizes = {name: sum(p.numel() for p in handle.model.parameters()) for name, handle in trainer.models.items()}
    lines = [
        f"{name}: {type(trainer.models[name].model).__name__}, {count:,} parameters, on {trainer.device}"
        for name, count in sizes.items()
    ]
    lines += [
        f"optimizer {name}: {optimizer!r}, on every {'update' if optimizer.sched_on == 'step' else 'epoch'}"
        if optimizer.scheduler
        else f"optimizer {name}: {optimizer!r}"
        for name, optimizer in trainer.opt.items()
    ]
    if trainer.accumulate > 1:
        lines.append(f"the weights are updated every {trainer.accumulate} batches")
    if trainer.compile is not None:
        lines.append(f"through torch.compile: {', '.join(f'{k}={v!r}' for k, v in trainer.compile.items())}")
    lines += explain_loaders(trainer, loaders, named)
    lines.append("")
    return "\n".join(lines + explain_hooks(trainer.callbacks))


def explain_loaders(trainer: Any, loaders: Sequence[Any], named: Mapping[str, Any] | None = None) -> list[str]:
    """Say which way the batches of loaders take, and why; of none given, of those of the last run.

    Raises:
        ArgumentTypeError: one is no loader, or holds several.
    """
    given = {f"loader {number}": loader for number, loader in enumerate(loaders, 1)} | dict(named or {})
    sources = [_source(name, loader) for name, loader in given.items()]
    if not given:
        sources = [task.source_of(stage) for stage, tasks in trainer.stage_tasks.items() for task in tasks]
    lines = []
    for source in sources:
        source.look()
        lines.append(f"{source.name}: {source.path}")
    return lines


def _source(name: str, given: Any) -> BatchSource:
    if isinstance(given, (list, tuple)) and any(isinstance(one, (DataLoader, EpochTask)) for one in given):
        raise ArgumentTypeError(
            f"explain: {name} is {a_kind(given)} of loaders; pass them one by one: explain(train_dl, val_dl)"
        )
    return BatchSource(given.dataloader if isinstance(given, EpochTask) else given, name)


def explain_hooks(callbacks: Sequence[Any]) -> list[str]:
    """List the events somebody listens to, in order, with the callbacks in theirs."""
    lines: list[str] = []
    heading = ""
    for event in EVENTS:
        heading = _HEADINGS.get(event, heading)
        heard = [type(c).__name__ for c in by_priority(callbacks, event) if listens(c, event)]
        if heard:
            if heading:
                lines.append(f"{heading}:")
                heading = ""
            lines.append(f"  {method_of(event)}({', '.join(EVENTS[event])}): {', then '.join(heard)}")
    return lines or ["no callback listens to any event"]
