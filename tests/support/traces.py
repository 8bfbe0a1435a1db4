"""A byte-exact account of all that a trainer, its loaders and this process hold, to tell that nothing has changed."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import random
import threading
import types
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch

_SCALARS = (int, float, bool, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, Path)
_BY_NAME = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, weakref.ref, threading.Thread)


def account(folder: Path | None = None, **roots: Any) -> dict[str, str]:
    """Map the path of everything that is reached from `roots` to a digest of it; the global generators and the files
    in `folder` included."""
    found: dict[str, str] = {}
    keep: list[Any] = []
    generators = [random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()]
    if torch.cuda.is_initialized():
        generators.append(torch.cuda.get_rng_state_all())
    found["generators"] = _content(generators)
    seen: dict[int, str] = {}
    for name, root in roots.items():
        _walk(root, name, found, seen, keep)
    if folder is not None:
        found["files"] = repr(sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
    found["folder"] = repr(sorted(os.listdir(".")))
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[Any, Any]]:
    """What is not the same in two accounts."""
    return {k: (before.get(k), after.get(k)) for k in {**before, **after} if before.get(k) != after.get(k)}


def digest(found: dict[str, str]) -> str:
    """One hash over an account."""
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _content(value: Any) -> str:
    """A digest of a state that has been made for this, wherever it lies."""
    hashed = hashlib.sha256()
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, (list, tuple)):
            parts += part
        elif isinstance(part, dict):
            parts += part.items()
        else:
            raw = part.cpu().numpy() if isinstance(part, torch.Tensor) else part
            hashed.update(raw.tobytes() if isinstance(raw, np.ndarray) else repr(raw).encode())
    return hashed.hexdigest()


def _walk(one: Any, path: str, found: dict[str, str], seen: dict[int, str], keep: list[Any]) -> None:
    if isinstance(one, _SCALARS):
        found[path] = f"{type(one).__name__} {one!r}"
        return
    if id(one) in seen:  # who refers to the same object has to do so afterwards
        found[path] = f"as {seen[id(one)]}"
        return
    seen[id(one)] = path
    keep.append(one)
    parts: dict[str, Any] = {}
    kind = f"{type(one).__module__}.{type(one).__qualname__} {id(one):x}"
    if isinstance(one, torch.Tensor):
        with torch._C.DisableTorchFunctionSubclass():
            kind += f" {one.dtype} {one.device} {one.requires_grad} {one.data_ptr():x}"
            if not hasattr(one, "cls_to_become"):  # else it has neither a shape nor contents yet
                data = one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
                kind += f" {tuple(one.shape)} {hashlib.sha256(data.tobytes()).hexdigest()}"
            parts["grad"] = one.grad if one.is_leaf else None
    elif isinstance(one, np.ndarray):
        kind += f" {one.dtype} {one.shape} {hashlib.sha256(one.tobytes()).hexdigest()}"
    elif isinstance(one, torch.Generator):
        kind += _content(one.get_state())
    elif isinstance(one, random.Random):
        kind += _content(one.getstate())
    elif isinstance(one, (np.random.Generator, np.random.RandomState)):
        kind += _content((one.bit_generator if isinstance(one, np.random.Generator) else one._bit_generator).state)
    elif isinstance(one, (io.IOBase, *_BY_NAME)):
        found[path] = kind
        return
    elif isinstance(one, types.MethodType):
        found[path] = f"method {one.__name__}"  # made anew whenever it is asked for
        del seen[id(one)]
        _walk(one.__self__, f"{path}()", found, seen, keep)
        return
    elif isinstance(one, functools.partial):
        parts |= {"func": one.func, "args": one.args, "keywords": one.keywords}
    elif type(one).__module__.split(".")[0] in ("_thread", "threading", "multiprocessing", "queue", "logging"):
        found[path] = kind
        return
    found[path] = kind
    if isinstance(one, dict):
        found[path] += f" {len(one)}"
        for number, (key, value) in enumerate(one.items()):
            _walk(key, f"{path}<{number}>", found, seen, keep)
            _walk(value, f"{path}[{number}]", found, seen, keep)
    elif isinstance(one, (list, tuple, set, frozenset)) or type(one).__name__ == "deque":
        found[path] += f" {len(one)}"
        for number, value in enumerate(one):
            _walk(value, f"{path}[{number}]", found, seen, keep)
    try:
        parts |= {f".{name}": value for name, value in object.__getattribute__(one, "__dict__").items()}
        found[f"{path}.__dict__"] = repr([name for name in parts if name.startswith(".")])
    except (AttributeError, TypeError):
        pass
    for name, value in parts.items():
        _walk(value, f"{path}{name}", found, seen, keep)
