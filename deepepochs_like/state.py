"""The state of a trainer: all that a run needs to go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from .errors import StateError
from .fits import check_rates, interrupted, loaders, rates, rates_in
from .history import rates_by_name
from .idle import Idle
from .rng import rng_state, set_rng_state
from .types import StateDict
from .utils.warn import warn

FORMAT = 1


def trainer_state(trainer: Any) -> StateDict:
    """Gather the state of a trainer; see `Trainer.state_dict`."""
    progress, pending = trainer.progress, trainer.pending or {}
    # Until its task has begun again, an open epoch is what it was when its state was taken.
    inside = progress.stage in ("train", "val") and not (pending.get("open") and not progress.begun)
    opened = open_epoch(trainer) if inside else pending.get("open")
    window = None if trainer.execution.window is None else trainer.execution.window.state_dict(parameters(trainer))
    closing = [_plain(trainer.train_metrics), _plain(trainer.val_metrics)] if progress.stage == "end" else None
    return {
        "format": FORMAT,
        "models": {name: handle.trained_module.state_dict() for name, handle in trainer.models.items()},
        "loss": trainer.loss.function.state_dict() if isinstance(trainer.loss.function, nn.Module) else None,
        "optimizers": trainer.opt.state_dict(),
        "callbacks": {key: callback.state_dict() for key, callback in keyed(trainer.callbacks).items()},
        "optional": [key for key, callback in keyed(trainer.callbacks).items() if _is_optional(callback)],
        "history": trainer.history.state_dict(),
        "progress": {"epoch": progress.epoch + (progress.stage == "end"), "step": progress.step},
        "closing": closing,
        "open": opened,
        "window": window,
        "gradients": gradients(trainer) if window is None else {},
        "accelerator": getattr(trainer.accelerator, "step", None),
        "fits": [dict(record) for record in progress.fits],
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
    named = {f"{m}.{n}": p for m, handle in trainer.models.items() for n, p in handle.trained_module.named_parameters()}
    if isinstance(trainer.loss.function, nn.Module):
        named.update({f"loss.{n}": p for n, p in trainer.loss.function.named_parameters()})
    return named


def gradients(trainer: Any) -> StateDict:
    """The gradients that steps have left to add to, by parameter; between most batches there are none."""
    return {name: p.grad for name, p in parameters(trainer).items() if p.grad is not None}


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
        check_module(f"model {name!r}", handle.trained_module, state["models"][name])
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
    if lost_names := sorted(set(state.get("gradients") or {}) - set(parameters(trainer))):
        raise StateError(f"the state has gradients of {lost_names}, which the model has not")
    lost, optional = _lost_callbacks(trainer, state), state.get("optional", [])
    if needed := [key for key in lost if key not in optional]:
        here = list(keyed(trainer.callbacks))
        raise StateError(f"the state has callbacks {needed}, which the trainer has not (it has {here})")


def _is_optional(callback: Any) -> bool:
    """Whether a run can go on without a callback: one that only writes down what it sees."""
    return bool(getattr(callback, "optional_state", False))


def _lost_callbacks(trainer: Any, state: Mapping[str, Any]) -> list[str]:
    """The callbacks that a state has something of, and the trainer has not."""
    here = keyed(trainer.callbacks)
    return [key for key, saved in state["callbacks"].items() if saved and key not in here]


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
    for key in _lost_callbacks(trainer, state):  # those that are optional, or it would have been an error
        warn(
            f"the checkpoint holds the state of {key}, which this trainer has not: what that wrote of the run stops at "
            f"update {state['progress']['step']}. The run goes on without it"
        )
    made = {} if trainer.progress.fits or trainer.progress.step else rates(trainer)
    if "made" in state:  # read from the disk for a fit that has begun
        check_rates(state["fits"], state["made"], rates_in(state))
        made = {}
    for name, handle in trainer.models.items():
        handle.trained_module.load_state_dict(state["models"][name])
    if state["loss"] is not None:
        trainer.loss.function.load_state_dict(state["loss"])
    trainer.opt.load_state_dict(state["optimizers"])
    trainer.history.load_state_dict(state["history"])
    trainer.progress.epoch, trainer.progress.step = state["progress"]["epoch"], state["progress"]["step"]
    trainer.progress.stage, trainer.progress.task, trainer.progress.batch = "", 0, 0
    trainer.progress.began = state["open"]["began"] if state["open"] else trainer.progress.step
    _load_gradients(trainer, state)
    trainer.progress.fits = [dict(record) for record in state.get("fits", [])]
    if state["closing"] is not None:  # taken when the epoch was over but for its schedulers
        trainer.history.record_rates(state["progress"]["epoch"] - 1, rates_by_name(trainer.opt))
        for optimizer in trainer.opt:
            optimizer.step_after_epoch(*state["closing"])
    trainer.pending = {k: state[k] for k in ("callbacks", "sources", "open", "rng")}
    trainer.pending |= {"base": state.get("base", (0, 0)), "made": made, "rates": rates_in(state)}
    trainer.progress.left = None
    restore_callbacks(trainer)
    set_rng_state(state["rng"])


def _load_gradients(trainer: Any, state: StateDict) -> None:
    """Restore the gradients between two batches, and what counts those that are added up."""
    named, saved = parameters(trainer), state.get("gradients") or {}
    if trainer.execution.window is not None:
        trainer.execution.window.load_state_dict(state["window"], named)
    if state["window"] is None:
        for name, parameter in named.items():
            parameter.grad = saved[name].detach().clone().to(parameter.device) if name in saved else None
    if trainer.accelerator is not None and state.get("accelerator") is not None:
        trainer.accelerator.step = state["accelerator"]


def advance(trainer: Any) -> None:
    """End an epoch: step the schedulers that run by epochs, and count it."""
    progress = trainer.progress
    _let_go(trainer)
    progress.opened = None
    trainer.history.record_rates(progress.epoch, rates_by_name(trainer.opt))
    for optimizer in trainer.opt:
        optimizer.step_after_epoch(trainer.train_metrics, trainer.val_metrics)
    progress.epoch, progress.stage, progress.began = progress.epoch + 1, "", progress.step


def restore_callbacks(trainer: Any) -> None:
    """Give callbacks the state that was loaded; again after before_fit, which may have begun them anew."""
    for key, callback in keyed(trainer.callbacks).items():
        if trainer.pending["callbacks"].get(key):
            callback.load_state_dict(trainer.pending["callbacks"][key])


def restore_run(trainer: Any) -> None:
    """Restore what only a run can: callbacks after before_fit, loaders in mid-pass, generators last.

    The state is kept until the run has come to where it was taken; `progress.opened` is the epoch that was open.

    Raises:
        StateError: there are fewer or more tasks than when the state was taken.
    """
    trainer.passed = False
    for optimizer in trainer.opt:  # before_fit may have replaced a step
        optimizer.find_target()
    if not trainer.stopping:
        _restore(trainer)
        trainer.idle = Idle.of(trainer)


def _restore(trainer: Any) -> None:
    if trainer.resuming is not None:  # read when the fit began, loaded now: no before_fit can undo it
        load_trainer_state(trainer, trainer.resuming)
        trainer.resuming, trainer.resumed = None, True
    pending = trainer.pending
    if pending is None:
        trainer.resumed = True  # with nothing to go on from the run has begun; a second fit goes on from the first
        return
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
    pending["restored"] = True
    for callback in trainer.callbacks:
        if reason := callback.ended():
            trainer.stop(reason)
    trainer.progress.opened = pending["open"]
    _replay(trainer, pending["open"])


def _replay(trainer: Any, opened: StateDict | None) -> None:
    """Set the generators again behind those hooks that have fired before the state was taken, and fire once more."""
    pending, hooks = trainer.pending, trainer.hooks

    def behind(again: bool, last: bool, **arguments: Any) -> None:
        if trainer.pending is not pending:
            return
        pending["entered"] = True
        if again:
            set_rng_state(pending["rng"])
        if last:
            _let_go(trainer)

    hooks.before_epoch = (*hooks.before_epoch, partial(behind, opened is not None, opened is None))
    if opened is None:
        return
    begun, of_stage = opened["figures"] is not None, hooks.stages[opened["stage"]]
    over = opened["task"] >= len(trainer.stage_tasks[opened["stage"]])
    of_stage.before_epochs = (*of_stage.before_epochs, partial(behind, bool(opened["task"] or begun), over))
    saved = pending["sources"].get(opened["stage"], [])[opened["task"] :]
    first = begun and bool(saved) and saved[0]["start"] and not saved[0]["position"]  # it was within the first batch
    of_stage.before_epoch = (*of_stage.before_epoch, partial(behind, bool(opened["batch"] or first), True))


def _let_go(trainer: Any) -> None:
    """From here on the run itself is what a state is made of."""
    if trainer.pending is not None and "restored" in trainer.pending:
        trainer.pending = None


def leave(trainer: Any) -> None:
    """Keep, at the end of a fit, what the next one may go on with: an epoch that was not begun, or interrupted."""
    progress, pending = trainer.progress, trainer.pending
    if progress.fits:
        progress.fits[-1]["ended"] = not interrupted(trainer)
    if pending is not None and "restored" in pending and "entered" not in pending:
        if interrupted(trainer):
            return
        trainer.pending = None
        kept = pending if pending["open"] and not trainer.stopping else None
    elif interrupted(trainer) and progress.stage in ("train", "val"):
        callbacks = {key: callback.state_dict() for key, callback in keyed(trainer.callbacks).items()}
        kept = {"callbacks": callbacks, "sources": sources(trainer), "open": open_epoch(trainer), "rng": rng_state()}
    else:
        return
    if kept is not None:
        trainer.progress.left = _own({**kept, "loaders": loaders(trainer.stage_tasks)})


def _own(value: Any) -> Any:
    """Containers of one's own, with the same tensors in them."""
    if isinstance(value, dict):
        return {key: item if key == "loaders" else _own(item) for key, item in value.items()}
    return [_own(item) for item in value] if isinstance(value, list) else value


def _plain(figures: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in (figures or {}).items()}
