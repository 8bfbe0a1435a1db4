"""Weights in and out of files: `.pt` and `.safetensors`, strictly or by name and shape."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import storage
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    StateError,
    StorageError,
    a_kind,
    chain,
    did_you_mean,
)
from .utils.extras import need

#: What torch's wrappers call the module inside.
_WRAPPERS = ("module", "_orig_mod")
#: Where files of this library and of others keep a model's weights among other things.
_NESTED = ("models", "model_state", "state_dict", "model_state_dict", "model", "weights")

#: How files of weights end, and how many of a folder's are named.
_ENDINGS, _SHOWN = (".ckpt", ".pt", ".pth", ".bin", ".safetensors"), 4


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

    Example:
        >>> import tempfile
        >>> one, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_weights(one, f'{folder}/one.pt')
        ...     report = load_weights(other, path)
        >>> torch.equal(one.weight, other.weight)
        True
    """
    path = Path(path)
    kind = _kind(path)
    state = _unwrapped(model)
    if kind == "pt":
        storage.write_sealed(path, state, {"kind": "deepepochs_like weights", "format": 1})
        return path
    safetensors = need("safetensors.torch", "safetensors", "writing .safetensors")
    wrong = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise ArgumentError(f"{path}: .safetensors holds tensors only; {', '.join(wrong)} is none; use .pt")
    try:
        data = safetensors.save({k: v.contiguous().clone() for k, v in state.items()}, metadata={"format": "pt"})
    except Exception as error:  # layouts and kinds of numbers that the format does not have
        raise ArgumentError(f"{path}: .safetensors cannot hold these weights ({error}); use .pt") from error
    storage.write_bytes(path, data)
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

    Example:
        >>> import tempfile
        >>> one, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_weights(one, f'{folder}/one.pt')
        ...     report = load_weights(other, path)
        >>> torch.equal(one.weight, other.weight)
        True
    """
    return take_weights(model, read_weights(Path(path)), str(path), strict)


def take_weights(model: nn.Module, state: Mapping[str, Any], where: str, strict: bool = True) -> WeightsReport:
    """Load weights that were read into the model; see `load_weights`.

    Args:
        model: what they are loaded into.
        state: the weights by name; a state_dict's `_metadata` is heeded.
        where: what messages call the place they come from.
        strict: as in `load_weights`.
    """
    own = model.state_dict(keep_vars=True)
    pairs = _matched(own, state)
    report, chosen = WeightsReport(), {}
    for name, value in state.items():
        mine = pairs.get(name)
        if mine is None:
            report.skipped[name] = "the model has no such name"
        elif not _fits(value, own[mine]):
            report.skipped[name] = f"{_shown(value)}, the model's is {_shown(own[mine])}"
        else:
            chosen[mine] = value
    report.taken = [name for name in own if name in chosen]
    # Weights under two names are there with one of them: other libraries save them once.
    there = {id(own[name]) for name in chosen if isinstance(own[name], torch.Tensor)}
    found = set(pairs.values())
    report.missing = [name for name, value in own.items() if name not in found and id(value) not in there]
    if strict and (report.skipped or report.missing):
        raise StateError(f"{where} does not fit the model; strict=False loads what does.\n{_misfits(report)}")
    if not chosen:
        raise StateError(f"{where}: nothing in it fits the model.\n{_misfits(report)}")
    _load(model, with_metadata(chosen, _versions(pairs, getattr(state, "_metadata", None))), where)
    return report


def read_weights(path: Path) -> dict[str, Any]:
    """Read a file's weights by name, flat; several models' are named ``model.weight``.

    Raises:
        CheckpointError, StorageError: there is no such file, or it can't be trusted.
        StateError: there are no weights in it.
    """
    state = weights_in(read_content(path))
    if not state:
        raise StateError(f"{path} holds no weights by name")
    return state


def weights_file(which: Any) -> Path:
    """Return the file that ``weights=`` names, where that is neither 'best' nor 'last'.

    Raises:
        ArgumentTypeError: it is no path.
        CheckpointError, StorageError: there is no such file, or it is a folder.
    """
    if not isinstance(which, (str, os.PathLike)):
        kind = a_kind(which)
        raise ArgumentTypeError(f"weights={which!r:.80}: 'best', 'last' or a file's path is needed, not {kind}")
    path = Path(which)
    if not path.exists():
        hint = did_you_mean(str(which).lower(), ("best", "last"))
        raise CheckpointError(f"weights={str(which)!r}: there is no such file{hint}")
    if path.is_dir():
        files = sorted(str(f) for f in path.rglob("*") if f.suffix in _ENDINGS and f.is_file())
        more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
        there = (
            f"one of the files in it ({', '.join(files[:_SHOWN])}{more})" if files else "a file (it holds no weights)"
        )
        raise StorageError(f"weights={str(which)!r} is a folder, not a file: pass 'best', 'last', or {there}")
    return path


def read_content(path: Path) -> Any:
    """Read what a file of weights holds, without running anything in it.

    Raises:
        CheckpointError, StorageError: there is no such file, or it can't be trusted.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        safetensors = need("safetensors.torch", "safetensors", "reading .safetensors")
        with storage.opened(path):  # it is a file, and no pipe to wait on
            try:
                return safetensors.load_file(path)
            except Exception as error:  # its own kinds of errors differ between versions
                raise StorageError(f"{path} cannot be read: {error}") from error
    if storage.is_sealed(path):
        return storage.read_sealed(path)[0]
    with storage.opened(path) as (file, _):
        return storage.load_archive(path, file)


def weights_in(content: Any, levels: int = 3) -> dict[str, Any]:
    """The weights in a file's content: it may be a state_dict, or hold one, or one per model, among other things.

    Args:
        content: what was read.
        levels: how deep to look; a file may hold itself.
    """
    if not isinstance(content, Mapping) or not levels:
        return {}
    for key in _NESTED:
        inner = content.get(key)
        if key == "models" and isinstance(inner, Mapping) and list(inner) != ["model"]:
            parts = {model: weights_in(part, 1) for model, part in inner.items()}
            found = {f"{model}.{name}": value for model, part in parts.items() for name, value in part.items()}
            versions = [(m, getattr(part, "_metadata", {}).items()) for m, part in parts.items()]
            found = with_metadata(found, {f"{m}.{k}".rstrip("."): v for m, part in versions for k, v in part})
        else:
            found = weights_in(inner, levels - 1)
        if found:
            return found
    is_state = any(isinstance(value, torch.Tensor) for value in content.values())
    if not is_state:
        return {}
    return with_metadata({str(name): value for name, value in content.items()}, getattr(content, "_metadata", None))


def with_metadata(state: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """A state_dict with the versions of its modules, as torch keeps them."""
    ordered = OrderedDict(state)
    if metadata:
        ordered._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]  # torch's own place
    return ordered


def _versions(pairs: Mapping[str, str], metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a file notes of its modules, by the model's names for them; a wrapper's is that of the module inside."""
    found: dict[str, Any] = {}
    for name, own in pairs.items() if metadata else ():
        theirs, mine = name.split(".")[:-1], own.split(".")[:-1]
        while True:
            noted = (metadata or {}).get(".".join(theirs))
            if isinstance(noted, Mapping):
                found.setdefault(".".join(mine), noted)
            if theirs and mine and theirs[-1] == mine[-1]:
                theirs, mine = theirs[:-1], mine[:-1]
            elif mine and mine[-1] in _WRAPPERS:
                mine = mine[:-1]
            elif theirs and theirs[-1] in _WRAPPERS:
                theirs = theirs[:-1]
            else:
                break
    return found


def _load(model: nn.Module, chosen: dict[str, Any], where: str) -> None:
    """Load what was found to fit; where a module of the user's own refuses it, put back what was there."""
    own = model.state_dict()
    before = {name: deepcopy(own[name]) for name in chosen if not _is_lazy(own[name])}
    try:
        model.load_state_dict(chosen, strict=False)
    except BaseException as error:
        try:
            model.load_state_dict(with_metadata(before, getattr(own, "_metadata", None)), strict=False)
        except BaseException as later:  # a module that does not take its own state either
            chain(error, later)
        if isinstance(error, Exception):
            raise StateError(f"{where} does not fit the model: {error}") from error
        raise


def _misfits(report: WeightsReport) -> str:
    lines = [f"  {name}: {reason}" for name, reason in report.skipped.items()]
    return "\n".join(lines + [f"  {name}: missing in the file" for name in report.missing])


def _unwrapped(model: nn.Module) -> dict[str, Any]:
    """A module's state on the CPU, by the names that it has without wrappers around it or around a part of it."""
    wrapped = set()
    for name, part in model.named_modules(remove_duplicate=False):
        if isinstance(part, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            wrapped.add(f"{name}.module" if name else "module")
        elif "_orig_mod" in part._modules:
            wrapped.add(f"{name}._orig_mod" if name else "_orig_mod")
    own = model.state_dict(keep_vars=True)
    moved = {id(v): v.detach().cpu() if isinstance(v, torch.Tensor) else v for v in own.values()}  # tied ones once

    def bare(name: str) -> str:
        parts = name.split(".")
        return ".".join(part for i, part in enumerate(parts) if ".".join(parts[: i + 1]) not in wrapped)

    versions = {bare(name): noted for name, noted in getattr(own, "_metadata", {}).items()}  # the inside comes last
    return with_metadata({bare(name): moved[id(value)] for name, value in own.items()}, versions)


def _matched(own: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, str]:
    """For names in a file the model's: under the reading of both sides' prefixes in which the most fits.

    A module may itself be called ``module``: names are taken as they are where that does as well.
    """
    best, most = dict[str, str](), (-1, -1)
    for mine in _readings(own):
        names = {short: name for name, short in mine.items()}
        for theirs in _readings(state):
            pairs = {name: names[short] for name, short in theirs.items() if short in names}
            fits = sum(_fits(state[name], own[mine]) for name, mine in pairs.items())
            if (fits, len(pairs)) > most:
                best, most = pairs, (fits, len(pairs))
    return best


def _readings(names: Iterable[str]) -> list[dict[str, str]]:
    """What names can stand for: themselves, without a compiler's and a wrapper's prefix, without any of them."""
    names = list(names)
    readings: list[Callable[[str], str]] = [str, lambda name: _without(name, ("_orig_mod",))]
    if all(_without(name, ("_orig_mod",)).startswith("module.") for name in names):
        readings.append(lambda name: _without(name, ("_orig_mod",)).removeprefix("module."))
    readings.append(lambda name: _without(name, _WRAPPERS))
    found = []
    for reading in readings:
        bare = {name: reading(name) for name in names}
        if len(set(bare.values())) == len(bare) and bare not in found:
            found.append(bare)
    return found


def _without(name: str, wrappers: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in wrappers)


def _fits(value: Any, own: Any) -> bool:
    if isinstance(value, torch.Tensor) and isinstance(own, torch.Tensor):
        return _is_lazy(own) or value.shape == own.shape
    return not isinstance(value, torch.Tensor) and not isinstance(own, torch.Tensor)


def _is_lazy(own: Any) -> bool:
    """Whether it has no shape yet, and takes the one that it is given."""
    return bool(nn.parameter.is_lazy(own))


def _shown(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"{a_kind(value)}"


def _kind(path: Path) -> str:
    if path.suffix in (".pt", ".pth"):
        return "pt"
    if path.suffix == ".safetensors":
        return "safetensors"
    has = f"not {path.suffix}" if path.suffix else "and this has no ending"
    raise ArgumentError(f"{path}: weights are saved as .pt, .pth or .safetensors, {has}")
