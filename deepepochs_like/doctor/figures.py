"""Checks of the figures' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from ..patches import MeanPatch, Outputs, TensorPatch
from ..patches.base import PatchBase
from ..patches.slot import Slot, shape_per_sample
from ..tensors import detached
from .case import Case, Found, some


def metric_names(case: Case) -> Iterator[Found]:
    """Metrics that hide each other, or the loss, because they share a name."""
    for stage, tasks in case.metrics.items():
        of_task: dict[str, str] = {}
        for number, (prefix, metrics) in enumerate(tasks):
            distinct = list({id(m): m for m in metrics}.values())
            names = [name for metric in distinct for name in names_of(case, metric)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                message = f"Several metrics of {stage} are called {some(twice)}: the last one hides the others."
                fix = "Name them apart: @rename('...') on the function, or a patch with name='...'."
                yield "error", message, fix, {"names": twice, "stage": stage}
            if "loss" in names:
                message = (
                    f"A metric of {stage} is called 'loss': it takes the place of the loss in history and display."
                )
                yield "error", message, "Give it another name, such as rename('my_loss').", {"names": ["loss"]}
            figures = {f"{prefix}{name}" for name in ["loss", *names]}
            shared = sorted(figures & of_task.keys())
            if shared:
                message = (
                    f"Task {number} of {stage} has figures of the names that {of_task[shared[0]]} has: {some(shared)}. "
                    "The later one's are kept."
                )
                fix = "Give each task a name, which is put before its figures: EpochTask(loader, name='a.')."
                yield "error", message, fix, {"names": shared, "stage": stage}
            of_task |= dict.fromkeys(figures - of_task.keys(), f"task {number}")


def metric_per_sample(case: Case) -> Iterator[Found]:
    """Metrics that give a value for each sample of a batch, where a number for all of them is meant."""
    trial = case.forward()
    one = trial.passes[0]
    outputs, told = Outputs(detached(one.out), one.y, one.size), set()
    for metric in [metric for tasks in case.metrics.values() for _, metrics in tasks for metric in metrics]:
        metric = _own(metric)
        slot = None if metric is None else Slot(metric, case.trainer.metric_patch)
        if slot is None or slot.name in told or not isinstance(slot.patch, (TensorPatch, MeanPatch)):
            continue
        told.add(slot.name)
        try:
            shape = shape_per_sample(slot.patch.metric, slot.of_batch(outputs), outputs)
        except Exception:  # one that fails says so in its run
            continue
        if shape is None:
            continue
        message = (
            f"The metric {slot.name!r} gives a tensor of shape {shape} for a batch of {one.size}: values for each "
            "sample, and no number for all of them."
        )
        averaged = isinstance(slot.patch, MeanPatch)
        about = " metric_patch='mean' refuses it." if averaged else " Display and monitors leave such a figure out."
        yield ("error" if averaged else "warning"), message + about, "End it in .mean().", {"shape": shape}


def _own(metric: Any) -> Any:
    """The metric, or a copy of one that may count its calls; None where it cannot be copied."""
    try:
        return deepcopy(metric) if _keeps_something(metric) else metric
    except Exception:
        return None


def names_of(case: Case, metric: Any) -> list[str]:
    """Give the names of a metric's figures; of one that gives a dict those of its items, where it can be tried."""
    if _keeps_something(metric):
        try:
            metric = deepcopy(metric)
        except Exception:
            return [Slot(metric, case.trainer.metric_patch).name]
    slot = Slot(metric, case.trainer.metric_patch)
    trial = case.trial
    if trial is None or not trial.passes:
        return [slot.name]
    one = trial.passes[0]
    try:
        value = slot.of_batch(Outputs(detached(one.out), one.y, one.size))
    except Exception:
        return [slot.name]
    return [f"{slot.name}{key}" for key in value] if isinstance(value, Mapping) else [slot.name]


def _keeps_something(metric: Any) -> bool:
    """Whether a metric is an object of the user's own, which may count its calls; functions and patches are not."""
    return (
        not hasattr(metric, "__code__")
        and not isinstance(metric, (type, PatchBase))
        and bool(getattr(metric, "__dict__", {}))
    )
