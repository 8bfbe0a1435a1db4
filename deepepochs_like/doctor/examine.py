"""Gather what the checks look at, make them all, and leave everything as it was."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..binding import resolve_step
from ..errors import ArgumentError, ArgumentTypeError, did_you_mean
from ..task import EpochTask, Steps, listify
from ..types import Stage
from .case import CannotTell, Case
from .diagnosis import Diagnosis, Finding
from .looking import Seen, generators_kept, look_into, quietly, remembered
from .table import CHECKS
from .trial import Trial

#: How many epochs a trainer is made with where nobody says how many: it says nothing about the run.
UNSAID = 1000


def examine(
    trainer: Any,
    parts: dict[Stage, tuple[Any, Any, Sequence[Any]]],
    epochs: int | None,
    max_steps: int | None,
    batch_size: Any,
    step: Any,
    batches: int,
    skip: Iterable[str],
) -> Diagnosis:
    """Make all checks.

    Args:
        trainer: whose training it is.
        parts: the loader, the tasks and the metrics of every stage.
        epochs: of the run; None stands for the trainer's, where it was given some.
        max_steps: updates of the run.
        batch_size: what a batch weighs, or None.
        step: the function that is the step of every stage, or None.
        batches: how many batches of each loader are looked at.
        skip: names of checks to leave out.

    Raises:
        ArgumentError, ArgumentTypeError: there is no such check, or nothing to look at.
    """
    began = time.perf_counter()
    skipped = {skip} if isinstance(skip, str) else set(skip)
    for name in skipped - set(CHECKS):
        raise ArgumentError(f"skip={name!r}: there is no such check{did_you_mean(name, CHECKS)}")
    case = _case_of(trainer, parts, epochs, max_steps, batch_size, batches)
    findings: list[Finding] = []
    left_out = dict.fromkeys(sorted(skipped), "skipped, as asked for")
    with quietly(), _untouched(case), torch.enable_grad():
        _try_out(case, step)
        for name, check in CHECKS.items():
            if name in skipped:
                continue
            try:
                found = check.function(case)
                for one in found:
                    findings.append(Finding(name, *one))
            except CannotTell as reason:
                left_out[name] = str(reason)
            except Exception as error:  # a check that fails must not keep the others back
                left_out[name] = f"it failed itself ({type(error).__name__}: {error})"
    made = [name for name in CHECKS if name not in left_out]
    return Diagnosis(findings, left_out, made, time.perf_counter() - began)


def _case_of(
    trainer: Any,
    parts: dict[Stage, tuple[Any, Any, Sequence[Any]]],
    epochs: int | None,
    max_steps: int | None,
    batch_size: Any,
    batches: int,
) -> Case:
    """Look into the loaders and put the case together."""
    seen: dict[str, list[Seen]] = {}
    metrics: dict[str, list[tuple[str, list[Any]]]] = {}
    for stage, (loader, tasks, wanted) in parts.items():
        named = [] if loader is None else [(EpochTask(loader, batch_size=batch_size), f"{stage}_dl")]
        for number, task in enumerate(listify(tasks)):
            if not isinstance(task, EpochTask):
                raise ArgumentTypeError(f"{stage}_tasks holds {task!r}: an EpochTask is needed")
            named.append((task, f"{stage}_tasks[{number}]"))
        common = [*(m for part in wanted for m in listify(part)), *trainer.metrics]
        metrics[stage] = [(task.name or "", [*listify(task.metrics), *common]) for task, _ in named]
        with quietly():
            seen[stage] = [look_into(task.dataloader, name, task, batches) for task, name in named]
    if not seen["train"] and not seen["val"]:
        raise ArgumentError("check has nothing to look at: pass train_dl, or train_tasks")
    given = epochs if epochs is not None else None if trainer.epochs == UNSAID else trainer.epochs
    case = Case(trainer, seen["train"], seen["val"], metrics, given, max_steps)
    case.modules = {
        "" if len(trainer.models) == 1 else name: _uncompiled(handle.trained_module)
        for name, handle in trainer.models.items()
    }
    if isinstance(trainer.loss.function, nn.Module):
        case.modules["loss"] = trainer.loss.function
    return case


def _uncompiled(module: Any) -> Any:
    """What `torch.compile` was given: to compile a copy takes longer than all checks."""
    return getattr(module, "_orig_mod", module)


def _try_out(case: Case, function: Any) -> None:
    """Try the first training task that runs the default step; say why, where there is none."""
    trainer = case.trainer
    if len(trainer.models) > 1:
        case.untried = "with several models the step is the user's own, and cannot be seen into"
        return
    default = [seen for seen in case.train if _is_default(resolve_step(seen.task, trainer, "train", function))]
    if not case.train or not default:
        case.untried = "the training step is the user's own, and cannot be seen into"
        if not case.train:
            case.untried = "there is no training loader"
        return
    looked = [seen for seen in default if seen.batches]
    if not looked:
        case.untried = default[0].why
        return
    models = {name: module for name, module in case.modules.items() if module is not trainer.loss.function}
    try:
        trial = Trial(models, trainer.loss.function)
    except Exception as error:
        case.untried = f"the model cannot be copied ({type(error).__name__}: {str(error).splitlines()[0]})"
        return
    case.tried_on = looked[0]
    trial.run(looked[0].batches, looked[0].task.batch_size, trainer.batch_device("train"))
    if isinstance(trial.failed, torch.OutOfMemoryError):
        case.untried = "memory does not suffice for a copy of the model beside it"
    else:
        case.trial = trial


def _is_default(step: Any) -> bool:
    return getattr(step, "__func__", None) is Steps.train_step


@contextmanager
def _untouched(case: Case) -> Iterator[None]:
    """Leave generators, buffers and modes as they are, also where a loss or a hook reaches the models themselves."""
    buffers = [(b, b.detach().clone()) for m in case.modules.values() for b in m.buffers()]
    grads = [(p, p.grad) for _, p in case.named_parameters()]
    modes = [(part, part.training) for module in case.modules.values() for part in module.modules()]
    loaders = [seen.loader for seen in [*case.train, *case.val]]
    with remembered(case.trainer.loss.function), generators_kept(*loaders):
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode
            with torch.no_grad():
                for buffer, value in buffers:
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)
            for parameter, grad in grads:
                parameter.grad = grad
