"""Which functions can be called once more, without anybody's noticing."""

from __future__ import annotations

import builtins
import dis
import inspect
import types
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

#: Modules whose functions change nothing but what they are given.
_MODULES = frozenset(("math", "torch", "torch.nn", "torch.nn.functional", "torch.linalg", "torch.special", "torch.fft"))
_BUILTINS = frozenset(
    one.__name__
    for one in (
        *(abs, all, any, callable, divmod, enumerate, filter, getattr, hasattr, hash, isinstance, issubclass, len),
        *(map, max, min, pow, range, repr, reversed, round, sorted, sum, zip, bool, bytes, complex, dict, float),
        *(frozenset, int, list, set, slice, str, tuple, type),
    )
)
#: Operations by which a function leaves something behind.
_WRITES = ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE", "STORE_NAME")
#: What torch has that does leave something behind, or talks to other processes.
_LASTING = frozenset(
    ("distributed", "backward", "save", "seed", "manual_seed", "register_buffer", "register_parameter")
)
_PLAIN = (type(None), bool, int, float, complex, str, torch.Tensor, torch.dtype, torch.device)


def can_replay(function: Any) -> bool:
    """Whether a call changes nothing but its arguments and the generators, as far as its code tells for certain.

    It is a function, a module, or any other callable that reads plain values, tensors and what is like itself, and
    writes to nothing but its own variables. Of anything else the answer is no.

    Example:
        >>> seen = []
        >>> can_replay(lambda out, y: (out - y).abs().mean()), can_replay(lambda out, y: seen.append(y))
        (True, False)
    """
    return _harmless(function, set())


def _harmless(value: Any, seen: set[int]) -> bool:
    """Whether a value can be read, and called, without changing anything."""
    if isinstance(value, _PLAIN) or id(value) in seen:
        return True
    seen.add(id(value))
    if isinstance(value, tuple):
        return all(_harmless(one, seen) for one in value)
    if isinstance(value, types.ModuleType):
        return value.__name__ in _MODULES
    if isinstance(value, partial):
        return all(_harmless(one, seen) for one in (value.func, value.args, *value.keywords.values()))
    if isinstance(value, type):
        return _harmless_class(value, seen)
    if isinstance(value, types.MethodType):
        return _harmless_function(value.__func__, value.__self__, seen)
    if isinstance(value, types.FunctionType):
        return _harmless_function(value, None, seen)
    if isinstance(value, types.BuiltinFunctionType):
        return _of_torch(value) or _is_builtin(value)
    if isinstance(value, torch.jit.ScriptFunction):  # it knows no variables but its own
        return True
    if isinstance(value, nn.Module):
        return _harmless_module(value, seen)
    call = getattr(type(value), "__call__", None)  # noqa: B004
    return isinstance(call, types.FunctionType) and _harmless_function(call, value, seen)


def _of_torch(value: Any) -> bool:
    name = getattr(value, "__module__", None) or ""
    return name == "torch" or (name.startswith("torch.") and not name.startswith("torch.distributed"))


def _is_builtin(value: Any) -> bool:
    name = getattr(value, "__name__", "")
    return (name in _BUILTINS and getattr(builtins, name) is value) or getattr(value, "__module__", "") == "math"


def _is_exception(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def _harmless_class(kind: type, seen: set[int]) -> bool:
    if issubclass(kind, torch.autograd.Function):
        return _harmless_function(kind.forward, None, seen)
    return _is_builtin(kind) or _is_exception(kind)


def _harmless_module(module: nn.Module, seen: set[int]) -> bool:
    """Whether a module's forward pass changes nothing in it, and none of its hooks could."""
    for part in module.modules():
        if part._forward_hooks or part._forward_pre_hooks or hasattr(part, "running_mean"):
            return False
        if not type(part).__module__.startswith("torch.nn.modules.") and not _harmless_function(
            type(part).forward, part, seen
        ):
            return False
    return True


def _harmless_function(function: Any, owner: Any, seen: set[int]) -> bool:
    """Whether a function's code writes to nothing of others', and all that it names is harmless; `owner` is `self`."""
    if not isinstance(function, types.FunctionType):
        return False
    if _of_torch(function):
        return True
    compiled_from = getattr(function, "_torchdynamo_orig_callable", None)
    if compiled_from is not None:
        return _harmless(compiled_from, seen)
    try:
        outside = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # not there yet
        return False
    codes = list(_codes(function.__code__))
    if not all(_only_reads(code, function.__name__ == "forward" and owner is None) for code in codes):
        return False
    names = {name for code in codes for name in code.co_names}
    if names & _LASTING or any(name.endswith("_") and not name.endswith("__") for name in names):
        return False
    outside += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    outside += [function.__globals__[name] for name in names if name in function.__globals__]
    strange = {name for name in names if hasattr(builtins, name) and name not in function.__globals__} - _BUILTINS
    if not all(_is_exception(getattr(builtins, name)) for name in strange):
        return False
    return all(_harmless(value, seen) for value in outside if value is not owner) and (
        owner is None or all(_harmless_attribute(owner, name, seen) for name in names)
    )


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _only_reads(code: types.CodeType, has_context: bool) -> bool:
    """Whether code writes to its own variables alone; the context of an `autograd.Function` counts as one."""
    if any(const == "out" or (isinstance(const, tuple) and "out" in const) for const in code.co_consts):
        return False  # where results are to be put
    for one in dis.get_instructions(code):
        # What a variable names may be somebody else's.
        if one.opname.startswith("INPLACE_") or (one.opname == "BINARY_OP" and one.argrepr.endswith("=")):
            return False
        if one.opname in _WRITES or (one.opname in ("STORE_ATTR", "DELETE_ATTR") and not has_context):
            return False
        if one.opname == "STORE_DEREF" and one.argval not in code.co_cellvars:
            return False
        if one.opname == "IMPORT_NAME" and one.argval not in _MODULES:
            return False
    return True


def _harmless_attribute(owner: Any, name: str, seen: set[int]) -> bool:
    """Whether what an object has under a name, if anything, is harmless; a property could do whatever it likes."""
    static = inspect.getattr_static(owner, name, None)
    if isinstance(static, types.FunctionType):
        return id(static) in seen or _of_torch(static) or _harmless_method(static, owner, seen)
    if isinstance(static, (property, types.GetSetDescriptorType)):
        return False
    return (static is None and not hasattr(owner, name)) or _harmless(getattr(owner, name), seen)


def _harmless_method(function: types.FunctionType, owner: Any, seen: set[int]) -> bool:
    seen.add(id(function))
    return _harmless_function(function, owner, seen)
