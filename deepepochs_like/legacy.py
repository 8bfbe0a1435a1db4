"""Checkpoints that DeepEpochs wrote, read without running code from them."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import StateError, StorageError, a_kind
from .optimizer import Optimizer
from .state import check_module
from .storage import load_archive


def load_deepepochs(trainer: Any, path: str | os.PathLike[str]) -> None:
    """Give a trainer the model, optimizers, schedulers and epoch of a checkpoint of DeepEpochs.

    It is a file with ``model_state``, ``opt_state``, ``epoch`` and ``best_value``, or, where training went through an
    Accelerator, a folder with ``meta.ckpt`` and what `accelerator.save_state` wrote. Everything is read and checked
    before anything is changed; only tensors, numbers, strings and containers of them are read, so that nothing in a
    file is ever run. An Accelerator restores the random generators too.

    Raises:
        FileNotFoundError: there is no such file.
        StateError: it cannot be read, or does not fit; the message names what, and nothing was changed.
    """
    path = Path(path)
    if path.is_dir():
        epoch = _load_folder(trainer, path)
    else:
        epoch = _load_file(trainer, path)
    progress = trainer.progress
    progress.epoch, progress.stage, progress.task, progress.batch = epoch + 1, "", 0, 0
    trainer.pending = trainer.progress.left = (
        None  # what an earlier load_state_dict left to restore belongs to another state
    )


def _load_file(trainer: Any, path: Path) -> int:
    content = _read(path)
    epoch = _epoch(content, path)
    for key, kind, needed in (("model_state", Mapping, "a dict of tensors"), ("opt_state", list, "a list")):
        if not isinstance(content.get(key), kind):
            raise StateError(
                f"{path} is no checkpoint of DeepEpochs: {key!r} is {_shown(content, key)}; {needed} is needed"
            )
    module, optimizers = trainer.model.model, content["opt_state"]
    state = _uncompiled(content["model_state"])
    check_module("the model", module, state)
    if len(optimizers) != len(trainer.opt):
        raise StateError(f"the checkpoint has {len(optimizers)} optimizers; the trainer has {len(trainer.opt)}")
    loaded = []
    for (name, optimizer), saved in zip(trainer.opt.items(), optimizers, strict=True):
        if not isinstance(saved, Mapping) or not {"opt_state", "sched_state"} <= set(saved):
            raise StateError(
                f"{path}: optimizer {name} is {saved!r:.60}; a dict of 'opt_state' and 'sched_state' is needed"
            )
        own = {"opt": saved["opt_state"], "scheduler": saved["sched_state"]}
        _check_optimizer(f"optimizer {name!r}", optimizer, own)
        loaded.append(own)
    module.load_state_dict(state)
    for optimizer, own in zip(trainer.opt, loaded, strict=True):
        optimizer.load_state_dict(own)
    return epoch


def _load_folder(trainer: Any, folder: Path) -> int:
    if not (folder / "meta.ckpt").is_file():
        raise StateError(f"{folder} is a folder without meta.ckpt, so no checkpoint of DeepEpochs with an Accelerator")
    accelerator = trainer.accelerator
    if accelerator is None:
        raise StateError(f"{folder} was written through an Accelerator; pass one as the trainer's device to load it")
    epoch = _epoch(_read(folder / "meta.ckpt"), folder / "meta.ckpt")
    if list(folder.glob("custom_checkpoint_*.pkl")) or accelerator._custom_objects:
        raise StateError(
            f"{folder}: objects registered with accelerator.register_for_checkpointing are unpickled, which can run "
            "any code; load them yourself with accelerator.load_state, if you trust the folder"
        )
    # With FSDP, DeepSpeed and Megatron the parts lie in files of their own, which only their plugins understand.
    if str(accelerator.distributed_type).rpartition(".")[2] in ("NO", "MULTI_CPU", "MULTI_GPU"):
        _check_folder(accelerator, folder)
    accelerator.load_state(os.fspath(folder))
    return epoch


def _check_folder(accelerator: Any, folder: Path) -> None:
    """Compare what the Accelerator's folder holds with what the script has prepared."""
    for number, model in enumerate(accelerator._models):
        file = folder / f"model{f'_{number}' if number else ''}.safetensors"
        if file.exists():
            from safetensors.torch import load_file  # comes with accelerate

            try:
                state = load_file(file)
            except Exception as error:
                raise StateError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
        else:
            state = _read(folder / f"pytorch_model{f'_{number}' if number else ''}.bin")
        check_module(f"model {number}", model, {**_tied(model, state), **state})
    for number, prepared in enumerate(accelerator._optimizers):
        state = _read(folder / f"optimizer{f'_{number}' if number else ''}.bin")
        _check_optimizer(f"optimizer {number}", Optimizer(prepared), {"opt": state, "scheduler": None})
    for number, scheduler in enumerate(accelerator._schedulers):
        state = _read(folder / f"scheduler{f'_{number}' if number else ''}.bin")
        _check_scheduler(f"scheduler {number}", getattr(scheduler, "scheduler", scheduler), state)


def _read(path: Path) -> Any:
    """Load a file that may come from anywhere: tensors, numbers, strings and containers of them."""
    try:
        if zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return load_archive(path, file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old formats would make no difference to anybody
            return torch.load(path, map_location="cpu", weights_only=True)
    except StorageError as error:
        raise StateError(str(error)) from error
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        holds = f"it holds {found[1]}, and loading that could run code" if found else "it is damaged, or no torch file"
        raise StateError(f"{path} is refused: {holds}") from error
    except Exception as error:  # whatever unpickling makes of bytes that are no checkpoint
        raise StateError(f"{path} cannot be read: {type(error).__name__} {str(error).partition('.')[0]}") from error


def _epoch(content: Any, path: Path) -> int:
    if not isinstance(content, Mapping):
        raise StateError(f"{path} is no checkpoint of DeepEpochs: it holds {a_kind(content)}, no dict")
    epoch = content.get("epoch")
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise StateError(
            f"{path} is no checkpoint of DeepEpochs: 'epoch' is {_shown(content, 'epoch')}; an int is needed"
        )
    return epoch


def _uncompiled(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """DeepEpochs saved a compiled model under the names inside torch.compile's wrapper."""
    prefix = "_orig_mod."
    if state and all(isinstance(name, str) and name.startswith(prefix) for name in state):
        return {name[len(prefix) :]: value for name, value in state.items()}
    return state


def _check_optimizer(where: str, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Raise `StateError` unless an optimizer's and its scheduler's state fit."""
    try:
        optimizer.check_state(state, where)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise StateError(
            f"{where}: the checkpoint's state of it is damaged ({type(error).__name__}: {error})"
        ) from error
    if optimizer.scheduler is not None:
        _check_scheduler(f"the scheduler of {where}", optimizer.scheduler, state["scheduler"])


def _check_scheduler(where: str, scheduler: Any, state: Any) -> None:
    if not isinstance(state, Mapping):
        raise StateError(f"{where}: the checkpoint's state of it is {a_kind(state)}, no dict")
    public = {key for key in state if not str(key).startswith("_") and key != "verbose"}  # torch has dropped verbose
    if unknown := sorted(public - set(scheduler.state_dict())):
        raise StateError(f"{where} is {a_kind(scheduler)}, which has no {', '.join(unknown)} as in the checkpoint")


def _tied(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights that share memory with one in the file, which holds each memory once."""
    own = {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}
    there = {own[name].data_ptr() for name in state if name in own}
    return {name: value for name, value in own.items() if name not in state and value.data_ptr() in there}


def _shown(content: Mapping[str, Any], key: str) -> str:
    return f"{a_kind(content[key])}" if key in content else "not in it"
