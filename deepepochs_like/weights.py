"""Weights in and out of files: `.pt` and `.safetensors`, strictly or by name and shape."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import storage
from .errors import ArgumentError, CheckpointError, StateError, StorageError
from .utils.extras import need

#: What torch's wrappers put before the names of a module's weights.
_PREFIXES = ("module.", "_orig_mod.")
#: Where files of this library and of others keep a model's weights among other things.
_NESTED = ("models", "model_state", "state_dict", "model_state_dict", "model", "weights")


@dataclass
class WeightsReport:
    """What `load_weights` took of a file.

    Attributes:
        taken: names that were loaded.
        skipped: names in the file that were not, each with the reason.
        missing: names of the model that the file had nothing for.
    """

    taken: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"weights: {len(self.taken)} taken, {len(self.skipped)} skipped, {len(self.missing)} missing"]
        lines += [f"  taken    {name}" for name in self.taken]
        lines += [f"  skipped  {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines + [f"  missing  {name}" for name in self.missing])


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a model's weights and buffers, so that the file is there whole or not at all.

    Args:
        model: names are saved without the prefixes of `torch.compile` and parallel wrappers.
        path: ``.pt`` or ``.pth``, which ``torch.load(path, weights_only=True)`` reads, too; or ``.safetensors`` (with
            the extra of that name).

    Raises:
        ArgumentError: another ending.
        CheckpointError: the disk refuses; a file that was there before is as it was.
    """
    path = Path(path)
    kind = _kind(path)
    own = model.state_dict()
    bare = _bare_names(own)
    state = {bare[name]: value for name, value in own.items()}
    if kind == "pt":
        storage.write_sealed(path, state, {"kind": "deepepochs_like weights", "format": 1})
        return path
    safetensors = need("safetensors.torch", "safetensors", "writing .safetensors")
    wrong = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise ArgumentError(f"{path}: .safetensors holds tensors only; {', '.join(wrong)} is none; use .pt")
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    storage.write_bytes(path, safetensors.save(tensors, metadata={"format": "pt"}))
    return path


def load_weights(model: nn.Module, path: str | os.PathLike[str], strict: bool = True) -> WeightsReport:
    """Load weights from a file of `save_weights`, a checkpoint of this library or of DeepEpochs, or any state_dict.

    The prefixes ``module.`` and ``_orig_mod.`` are ignored on both sides. Nothing in a file is ever run.

    Args:
        model: what they are loaded into.
        path: ``.pt``, ``.pth``, ``.ckpt``, ``.bin`` or ``.safetensors``.
        strict: every name and shape has to fit, else nothing is loaded. Without it what fits by name and shape is
            loaded; print the report to see what.

    Raises:
        CheckpointError: there is no such file.
        StorageError: it is damaged, or holds something that loading would have to run.
        StateError: it does not fit; or without `strict`: nothing in it fits. The model is as it was.
    """
    state = read_weights(Path(path))
    own = model.state_dict()
    bare, theirs = _bare_names(own), _bare_names(state)
    names = {short: name for name, short in bare.items()}
    report = WeightsReport(missing=[name for name in own if bare[name] not in set(theirs.values())])
    chosen: dict[str, Any] = {}
    for name, value in state.items():
        mine = names.get(theirs[name])
        if mine is None:
            report.skipped[name] = "the model has no such name"
        elif _shape(value) != _shape(own[mine]):
            report.skipped[name] = f"shape {_shape(value)}, the model's is {_shape(own[mine])}"
        else:
            chosen[mine] = value
            report.taken.append(mine)
    if strict and (report.skipped or report.missing):
        raise StateError(f"{path} does not fit the model; strict=False loads what does.\n{_misfits(report)}")
    if not chosen:
        raise StateError(f"{path}: nothing in it fits the model.\n{_misfits(report)}")
    model.load_state_dict(chosen, strict=False)
    return report


def read_weights(path: Path) -> dict[str, Any]:
    """Read a file's weights by name, flat; several models' are named ``model.weight``.

    Raises:
        CheckpointError, StorageError: there is no such file, or it can't be trusted.
        StateError: there are no weights in it.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        safetensors = need("safetensors.torch", "safetensors", "reading .safetensors")
        try:
            content: Any = safetensors.load_file(path)
        except Exception as error:  # its own kinds of errors differ between versions
            raise StorageError(f"{path} cannot be read: {error}") from error
    elif storage.is_sealed(path):
        content = storage.read_sealed(path)[0]
    else:
        with storage.opened(path) as (file, _):
            content = storage.load_archive(path, file)
    state = weights_in(content)
    if not state:
        raise StateError(f"{path} holds no weights by name")
    return state


def weights_in(content: Any) -> dict[str, Any]:
    """The weights in a file's content: it may be a state_dict, or hold one, or one per model, among other things."""
    if not isinstance(content, Mapping):
        return {}
    for key in _NESTED:
        inner = content.get(key)
        if isinstance(inner, Mapping) and inner:
            if key == "models" and all(isinstance(part, Mapping) for part in inner.values()):
                parts: Mapping[str, Any] = inner
                if list(parts) == ["model"]:
                    return dict(parts["model"])
                return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
            return dict(inner)
    return {str(name): value for name, value in content.items()} if _is_state(content) else {}


def _is_state(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in content.values())


def _misfits(report: WeightsReport) -> str:
    lines = [f"  {name}: {reason}" for name, reason in report.skipped.items()]
    return "\n".join(lines + [f"  {name}: missing in the file" for name in report.missing])


def _bare_names(names: Iterable[str]) -> dict[str, str]:
    """Names without the wrappers' prefixes; as they are where two would be the same."""
    bare = {name: _bare(name) for name in names}
    return bare if len(set(bare.values())) == len(bare) else {name: name for name in bare}


def _bare(name: str) -> str:
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, changed = name[len(prefix) :], True
    return name.replace("._orig_mod.", ".")


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _kind(path: Path) -> str:
    if path.suffix in (".pt", ".pth"):
        return "pt"
    if path.suffix == ".safetensors":
        return "safetensors"
    raise ArgumentError(
        f"{path}: weights are saved as .pt, .pth or .safetensors, not {path.suffix or 'without ending'}"
    )
