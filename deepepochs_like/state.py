"""The state of a trainer: all that a run needs to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .errors import StateError
from .rng import rng_state, set_rng_state
from .types import StateDict

FORMAT = 1


def trainer_state(trainer: Any) -> StateDict:
    """Gather the state of a trainer; see `Trainer.state_dict`."""
    progress, pending = trainer.progress, trainer.pending or {}
    opened = open_epoch(trainer) if progress.stage in ("train", "val") else pending.get("open")
    closing = [_plain(trainer.train_metrics), _plain(trainer.val_metrics)] if progress.stage == "end" else None
    return {
        "format": FORMAT,
        "models": {name: handle.model.state_dict() for name, handle in trainer.models.items()},
        "loss": trainer.loss.function.state_dict() if isinstance(trainer.loss.function, nn.Module) else None,
        "optimizers": trainer.opt.state_dict(),
        "callbacks": {key: callback.state_dict() for key, callback in keyed(trainer.callbacks).items()},
        "history": trainer.history.state_dict(),
        "progress": {"epoch": progress.epoch + (progress.stage == "end"), "step": progress.step},
        "closing": closing,
        "open": opened,
        "window": None
        if trainer.execution.window is None
        else trainer.execution.window.state_dict(parameters(trainer)),
        "sources": sources(trainer),
        "rng": rng_state(),
    }


def open_epoch(trainer: Any) -> StateDict:
    """The epoch in progress: what is done of it, and so what is still owed."""
    progress, tasks = trainer.progress, trainer.stage_tasks[trainer.progress.stage]
    figures = None
    if progress.begun:
        task = tasks[progress.task]
        source = task.source_of(progress.stage)
        last = source.length is None or source.position >= source.length or progress.step >= task.step_limit
        figures = task.figures.state_dict(ended=last)
    return {
        "stage": progress.stage,
        "task": progress.task,
        "batch": progress.batch,
        "began": progress.began,
        "results": [_plain(result) for result in trainer.stage_results],
        "train_metrics": _plain(trainer.train_metrics),
        "figures": figures,
    }


def sources(trainer: Any) -> StateDict:
    """Where every loader is: stages, tasks in a stage, and the open pass of each."""
    here = {
        s: [t.source_of(s).state_dict() for t in tasks]
        for s, tasks in trainer.stage_tasks.items()
        if s in ("train", "val")
    }
    return here


def keyed(callbacks: list[Any]) -> dict[str, Any]:
    """Callbacks by their state's key; of several with one key the later ones are numbered."""
    named: dict[str, Any] = {}
    for callback in callbacks:
        key, n = callback.state_key(), 2
        while key in named:
            key, n = f"{callback.state_key()}#{n}", n + 1
        named[key] = callback
    return named


def parameters(trainer: Any) -> dict[str, nn.Parameter]:
    """All parameters in training, by ``model.name``."""
    named = {f"{m}.{n}": p for m, handle in trainer.models.items() for n, p in handle.model.named_parameters()}
    if isinstance(trainer.loss.function, nn.Module):
        named.update({f"loss.{n}": p for n, p in trainer.loss.function.named_parameters()})
    return named


def check_state(trainer: Any, state: Any) -> None:
    """Raise `StateError`, naming what does not fit, before anything is loaded."""
    if not isinstance(state, Mapping) or "format" not in state:
        raise StateError(f"this is no trainer's state_dict: {type(state).__name__} without 'format'")
    if state["format"] != FORMAT:
        raise StateError(f"the state has format {state['format']}; this version reads format {FORMAT}")
    mine, theirs = set(trainer.models), set(state["models"])
    if mine != theirs:
        raise StateError(f"the trainer's models are {sorted(mine)}; the state has {sorted(theirs)}")
    for name, handle in trainer.models.items():
        check_module(f"model {name!r}", handle.model, state["models"][name])
    loss = trainer.loss.function
    if isinstance(loss, nn.Module) != (state["loss"] is not None):
        raise StateError("the loss is a module in only one of the trainer and the state")
    if isinstance(loss, nn.Module):
        check_module("loss", loss, state["loss"])
    trainer.opt.check_state(state["optimizers"])
    window = state["window"]
    if window is not None and trainer.execution.window is None:
        raise StateError(
            f"the state holds an accumulation window open after {window['batches']} batches; Trainer(accumulate=...) "
            "is 1"
        )
    if window is not None and (lost_names := sorted(set(window["gradients"]) - set(parameters(trainer)))):
        raise StateError(f"the open accumulation window has gradients of {lost_names}, which the model has not")
    here = keyed(trainer.callbacks)
    lost = [key for key, saved in state["callbacks"].items() if saved and key not in here]
    if lost:
        raise StateError(f"the state has callbacks {lost}, which the trainer has not (it has {list(here)})")


def check_module(where: str, module: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise `StateError`, naming the keys that are missing, unexpected or of another shape."""
    own = module.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [
        f"{k}: {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state
        and isinstance(own[k], torch.Tensor)
        and isinstance(state[k], torch.Tensor)
        and own[k].shape != state[k].shape
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{label} {', '.join(keys)}"
            for label, keys in (("missing", missing), ("unexpected", unexpected), ("shapes", shapes))
            if keys
        ]
        raise StateError(f"the state does not fit {where}: {'; '.join(parts)}")


def load_trainer_state(trainer: Any, state: StateDict) -> None:
    """Check everything, then load everything; see `Trainer.load_state_dict`."""
    check_state(trainer, state)
    for name, handle in trainer.models.items():
        handle.model.load_state_dict(state["models"][name])
    if state["loss"] is not None:
        trainer.loss.function.load_state_dict(state["loss"])
    trainer.opt.load_state_dict(state["optimizers"])
    trainer.history.load_state_dict(state["history"])
    trainer.progress.epoch, trainer.progress.step = state["progress"]["epoch"], state["progress"]["step"]
    trainer.progress.stage, trainer.progress.task, trainer.progress.batch = "", 0, 0
    trainer.progress.began = state["open"]["began"] if state["open"] else trainer.progress.step
    if trainer.execution.window is not None:
        trainer.execution.window.load_state_dict(state["window"], parameters(trainer))
    if state["closing"] is not None:  # taken when the epoch was over but for its schedulers
        for optimizer in trainer.opt:
            optimizer.step_after_epoch(*state["closing"])
    trainer.pending = {k: state[k] for k in ("callbacks", "sources", "open", "rng", "window")}
    restore_callbacks(trainer)
    set_rng_state(state["rng"])


def advance(trainer: Any) -> None:
    """End an epoch: step the schedulers that run by epochs, and count it."""
    progress = trainer.progress
    for optimizer in trainer.opt:
        optimizer.step_after_epoch(trainer.train_metrics, trainer.val_metrics)
    progress.epoch, progress.stage, progress.began = progress.epoch + 1, "", progress.step


def restore_callbacks(trainer: Any) -> None:
    """Give callbacks the state that was loaded; again after before_fit, which may have begun them anew."""
    for key, callback in keyed(trainer.callbacks).items():
        if trainer.pending["callbacks"].get(key):
            callback.load_state_dict(trainer.pending["callbacks"][key])


def restore_run(trainer: Any) -> StateDict | None:
    """Restore what only a run can: callbacks after before_fit, loaders in mid-pass, generators last.

    Returns:
        The epoch that was open, or None.

    Raises:
        StateError: there are fewer or more tasks than when the state was taken.
    """
    if trainer.resuming is not None:  # read when the fit began, loaded now: no before_fit can undo it
        load_trainer_state(trainer, trainer.resuming)
        trainer.resuming, trainer.resumed = None, True
    pending = trainer.pending
    if pending is None:
        trainer.resumed = True  # with nothing to go on from the run has begun; a second fit goes on from the first
        return None
    restore_callbacks(trainer)
    for stage, saved in pending["sources"].items():
        tasks = trainer.stage_tasks[stage]
        if not saved:  # a stage that the run did not have
            continue
        if len(tasks) != len(saved):
            raise StateError(f"the state was taken with {len(saved)} {stage} tasks; there are {len(tasks)}")
        for task, source_state in zip(tasks, saved, strict=True):
            task.source_of(stage).load_state_dict(source_state)
    set_rng_state(pending["rng"])
    trainer.pending = None
    for callback in trainer.callbacks:
        if reason := callback.ended():
            trainer.stop(reason)
    opened: StateDict | None = pending["open"]
    return opened


def _plain(figures: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in (figures or {}).items()}
