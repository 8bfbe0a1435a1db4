"""What objects hold, all the way down, remembered so that it can be put back into the very same objects."""

from __future__ import annotations

import io
import multiprocessing.process
import random
import threading
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

#: What nothing is looked for in: it has no contents, or they are not ours to change.
_CLOSED = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.GeneratorType),
    *(weakref.ref, io.IOBase, threading.Thread, multiprocessing.process.BaseProcess, _BaseDataLoaderIter),
)
_CLOSED_MODULES = frozenset(
    (
        *("_io", "_thread", "asyncio", "concurrent", "enum", "inspect", "io", "logging", "matplotlib"),
        *("multiprocessing", "pathlib", "queue", "re", "socket", "subprocess", "tensorboard", "threading", "weakref"),
    )
)
_CLOSED_WITHIN_TORCH = ("torch._C", "torch._dynamo", "torch._inductor", "torch.fx", "torch.utils.tensorboard")
_PLAIN = frozenset({int, float, bool, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
#: What data is called by those who hold it, and what is none, though data may refer to it.
_DATA = frozenset({"dataset", "dataloader", "loader", "_held", "known"})
_NO_DATA = (nn.Module, torch.optim.Optimizer, DataLoader, Sampler)
#: Of data, tensors up to so many bytes are copied, and containers up to so many items are looked into. What is larger
#: is the data itself, which nobody changes by reading it, and which may fill the memory.
MOST_BYTES, MOST_ITEMS = 1 << 16, 1000


class Snapshot:
    """Remember objects with all that they refer to; `put_back` makes them what they were, byte for byte.

    Containers and attributes get the same objects back, tensors and arrays the same bytes in the same memory, with
    gradients, flags and classes (a lazy layer becomes lazy again), generators their states. Tensors are kept in the
    computer's own memory. Functions, threads, files and whatever has no contents stay as they are.

    Args:
        closed: objects to leave alone, with all that only they refer to.

    Example:
        >>> held = {"weights": torch.zeros(2), "names": ["a"]}; snapshot = Snapshot(); snapshot.take(held)
        >>> held["weights"] += 1; held["names"].append("b"); held["new"] = 1
        >>> snapshot.put_back(); held
        {'weights': tensor([0., 0.]), 'names': ['a']}
    """

    def __init__(self, closed: Collection[Any] = ()) -> None:
        self._seen: dict[int, Any] = {id(one): one for one in closed}
        self._undo: list[Callable[[], None]] = []
        self._left: list[tuple[Any, bool]] = []

    def take(self, *roots: Any, data: bool = False) -> None:
        """Remember `roots`, and all that they refer to.

        Args:
            *roots: any objects.
            data: whether they are data, of which large tensors and long containers are not copied.
        """
        self._left += [(root, data) for root in roots]
        while self._left:
            one, is_data = self._left.pop()
            if type(one) in _PLAIN or id(one) in self._seen:
                continue
            self._seen[id(one)] = one  # kept, so that no other object gets its id
            self._remember(one, is_data)

    def close(self, *objects: Any) -> None:
        """Leave objects alone that have not been met yet."""
        self._seen.update({id(one): one for one in objects})

    def put_back(self) -> None:
        """Make everything what it was; what fails for one object is raised when all others are done."""
        failed: Exception | None = None
        with torch.no_grad():
            for undo in self._undo:
                try:
                    undo()
                except Exception as error:
                    failed = failed or error
        if failed is not None:
            raise failed

    def _remember(self, one: Any, data: bool) -> None:
        if isinstance(one, torch.Tensor):
            self._tensor(one, data)
        elif isinstance(one, np.ndarray):
            self._array(one, data)
        elif (undo := _generator(one)) is not None:
            self._undo.append(undo)
        elif isinstance(one, types.MethodType):
            self._left.append((one.__self__, data))
        elif isinstance(one, partial):
            self._left += [(part, data) for part in (one.func, one.args, one.keywords)]
        elif not _is_closed(one):
            self._container(one, data)
            self._attributes(one, (data or isinstance(one, Dataset)) and not isinstance(one, _NO_DATA))

    def _tensor(self, tensor: torch.Tensor, data: bool) -> None:
        with torch._C.DisableTorchFunctionSubclass():
            if data and tensor.numel() * tensor.element_size() > MOST_BYTES:
                del self._seen[id(tensor)]  # somebody to whom it is no data may still come
                return
            self._undo.append(_of_tensor(tensor))
            if tensor.is_leaf:
                self._left.append((tensor.grad, data))
        self._attributes(tensor, data)

    def _array(self, array: np.ndarray[Any, Any], data: bool) -> None:
        if array.flags.writeable and not (data and array.nbytes > MOST_BYTES):
            self._undo.append(partial(np.copyto, array, array.copy()))

    def _container(self, one: Any, data: bool) -> None:
        items: list[Any] = []
        if isinstance(one, dict):
            items = [part for pair in one.items() for part in pair]
            self._undo.append(partial(_refill, one, list(one.items())))
        elif isinstance(one, (tuple, frozenset)):
            items = list(one)
        elif isinstance(one, (list, deque, set)):
            items = list(one)
            self._undo.append(partial(_again, one, items))
        if not (data and len(items) > MOST_ITEMS):
            self._left += [(item, data) for item in items]

    def _attributes(self, one: Any, data: bool) -> None:
        attributes = _dict_of(one)
        if attributes is not None:
            self._undo.append(partial(_reset, one, type(one), attributes, list(attributes.items())))
            for name, value in attributes.items():
                self._left.append((value, data or name in _DATA))
        for cls in type(one).__mro__:
            for name, slot in vars(cls).items():
                if isinstance(slot, types.MemberDescriptorType) and not name.startswith("__"):
                    self._slot(one, slot, data)

    def _slot(self, one: Any, slot: Any, data: bool) -> None:
        try:
            value = slot.__get__(one, type(one))
        except AttributeError:
            return
        if type(one).__module__.partition(".")[0] not in ("torch", "numpy", "builtins", "collections", "functools"):
            self._undo.append(partial(_reset_slot, one, slot, value))
        self._left.append((value, data))


def _is_closed(one: Any) -> bool:
    home = str(type(one).__module__)
    return (
        isinstance(one, _CLOSED) or home.partition(".")[0] in _CLOSED_MODULES or home.startswith(_CLOSED_WITHIN_TORCH)
    )


def _dict_of(one: Any) -> dict[str, Any] | None:
    """The dict of an object's own attributes, where it has one, whatever its class makes of asking for attributes."""
    try:
        attributes = object.__getattribute__(one, "__dict__")
    except (AttributeError, TypeError):
        return None
    return attributes if isinstance(attributes, dict) else None


def _generator(one: Any) -> Callable[[], None] | None:
    """What gives a random generator its state back; None for anything else."""
    if isinstance(one, torch.Generator):
        return partial(_set_state, one, one.get_state())
    if isinstance(one, random.Random):
        return partial(one.setstate, one.getstate())
    if isinstance(one, np.random.RandomState):
        return partial(one.set_state, one.get_state(legacy=False))
    if isinstance(one, np.random.Generator):
        one = one.bit_generator
    if isinstance(one, np.random.BitGenerator):
        return partial(setattr, one, "state", one.state)
    return None


def _set_state(generator: torch.Generator, state: torch.Tensor) -> None:
    generator.set_state(state)


def _of_tensor(tensor: torch.Tensor) -> Callable[[], None]:
    """What makes a tensor what it is now: its memory, the bytes in it, gradient, flags and class."""
    memory, flag = tensor.data, tensor.requires_grad
    grad = tensor.grad if tensor.is_leaf else None
    plain = tensor.device.type != "meta" and not is_lazy(tensor)
    kept = memory.detach().to("cpu", copy=True) if plain and not tensor.is_inference() else None
    kind, leaf = type(tensor), tensor.is_leaf

    def put_back() -> None:
        with torch._C.DisableTorchFunctionSubclass():
            if not _is_same_memory(tensor, memory):
                tensor.data = memory
            if type(tensor) is not kind:
                tensor.__class__ = kind
            if kept is not None:
                memory.copy_(kept)
            if leaf:
                if not tensor.is_leaf:
                    tensor.detach_()
                if tensor.requires_grad != flag:
                    tensor.requires_grad_(flag)
                if tensor.grad is not grad:
                    tensor.grad = grad

    return put_back


def _is_same_memory(tensor: torch.Tensor, memory: torch.Tensor) -> bool:
    if tensor.shape != memory.shape or tensor.dtype != memory.dtype or tensor.device != memory.device:
        return False
    if tensor.layout != torch.strided:
        return True
    try:
        return tensor.data_ptr() == memory.data_ptr() and tensor.stride() == memory.stride()
    except RuntimeError:  # a tensor without memory of its own
        return True


def _reset(one: Any, kind: type, attributes: dict[str, Any], items: list[tuple[str, Any]]) -> None:
    if type(one) is not kind and not isinstance(one, torch.Tensor):
        one.__class__ = kind
    _refill(attributes, items)


def _reset_slot(one: Any, slot: Any, value: Any) -> None:
    try:
        same = slot.__get__(one, type(one)) is value
    except AttributeError:
        same = False
    if not same:
        slot.__set__(one, value)


def _refill(mapping: dict[Any, Any], items: list[tuple[Any, Any]]) -> None:
    """Give a dict its items back, in their order; one that has them is not touched."""
    if len(mapping) == len(items) and all(
        key is kept and value is former for (key, value), (kept, former) in zip(mapping.items(), items, strict=True)
    ):
        return
    plain: Any = OrderedDict if isinstance(mapping, OrderedDict) else dict
    plain.clear(mapping)
    for key, value in items:
        plain.__setitem__(mapping, key, value)


def _again(container: Any, items: list[Any]) -> None:
    """Give a list, a deque or a set its items back; one that has them is not touched."""
    if len(container) == len(items) and all(map(_is, container, items)):
        return
    plain: Any = next(kind for kind in (list, deque, set) if isinstance(container, kind))
    plain.clear(container)
    (plain.update if plain is set else plain.extend)(container, items)


def _is(one: Any, other: Any) -> bool:
    return one is other
