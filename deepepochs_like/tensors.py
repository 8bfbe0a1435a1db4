"""`TensorTuple` and `TensorDict`: what a step gets as ``batch_x``; and nested containers of tensors.

A step may be written for the unpacked inputs, ``self.model(*batch_x)``, or, where there is one input, for that tensor
itself, ``batch_x.shape``; both read well and both are in use, so a `TensorTuple` of one tensor answers to both.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from .copies import can_overlap, send
from .errors import BatchError, UnknownNameError, a_kind


class _Castable:
    """What both kinds of batch do to all their tensors at once; the result is a batch of the same kind and indices."""

    def _each(self, function: Callable[[torch.Tensor], Any]) -> Any:
        raise NotImplementedError

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or cast every tensor, as `Tensor.to` does."""
        return self._each(lambda t: t.to(*args, **kwargs))

    def cpu(self) -> Any:
        """Move every tensor to the CPU."""
        return self._each(operator.methodcaller("cpu"))

    def cuda(self, *args: Any, **kwargs: Any) -> Any:
        """Move every tensor to a CUDA device, as `Tensor.cuda` does."""
        return self._each(lambda t: t.cuda(*args, **kwargs))

    def clone(self) -> Any:
        """Copy every tensor."""
        return self._each(operator.methodcaller("clone"))

    def detach(self) -> Any:
        """Take every tensor off the graph."""
        return self._each(operator.methodcaller("detach"))

    def float(self) -> Any:
        """Cast every tensor to float32."""
        return self._each(operator.methodcaller("float"))

    def double(self) -> Any:
        """Cast every tensor to float64."""
        return self._each(operator.methodcaller("double"))

    def half(self) -> Any:
        """Cast every tensor to float16."""
        return self._each(operator.methodcaller("half"))

    def bfloat16(self) -> Any:
        """Cast every tensor to bfloat16."""
        return self._each(operator.methodcaller("bfloat16"))

    def int(self) -> Any:
        """Cast every tensor to int32."""
        return self._each(operator.methodcaller("int"))

    def long(self) -> Any:
        """Cast every tensor to int64."""
        return self._each(operator.methodcaller("long"))

    def bool(self) -> Any:
        """Cast every tensor to bool."""
        return self._each(operator.methodcaller("bool"))

    @property
    def data(self) -> Any:
        """Every tensor's data, off the graph."""
        return self._each(operator.attrgetter("data"))

    @property
    def device(self) -> torch.device:
        """The device of the first tensor; the CPU where there is none."""
        found: list[torch.device] = []
        self._each(lambda t: found.append(t.device))
        return found[0] if found else torch.device("cpu")


#: Protocols by which other libraries read a tensor. Any other dunder name that is asked for (by copy, pickle, ...) is
#: about the tuple, not about what it holds.
_TENSOR_PROTOCOLS = frozenset(
    {"__array__", "__array_priority__", "__array_wrap__", "__cuda_array_interface__", "__dlpack__", "__dlpack_device__"}
)


class TensorTuple(_Castable, tuple):  # type: ignore[type-arg]  # holds whatever the loader yields, tensors or not
    """The inputs of a batch. Iteration, length and indexing are the tuple's.

    A tuple of one tensor also answers as that tensor to attributes, arithmetic, torch functions, and to indices that no
    tuple takes (``x[:, 0]``, ``x[mask]``):

        >>> x = TensorTuple((torch.ones(2, 3),))
        >>> x.shape, torch.flatten(x).shape, (x / 2).sum().item(), len(x)
        (torch.Size([2, 3]), torch.Size([6]), 3.0, 1)

    What moves, casts or copies (``x.to(device)``, ``x.float()``, ``x.clone()``, ...) gives a TensorTuple again, so that
    both readings go on.

    Attributes:
        indices: the samples' indices in the dataset where the source knows them, else None.
    """

    indices: Any = None

    def __getattr__(self, name: str) -> Any:
        if len(self) == 1 and (name in _TENSOR_PROTOCOLS or not (name.startswith("__") and name.endswith("__"))):
            return getattr(self[0], name)
        raise UnknownNameError(
            f"batch_x holds {len(self)} inputs, so it has no attribute {name!r} of its own; unpack it first: "
            "a, b, ... = batch_x"
        )

    def __getitem__(self, index: Any) -> Any:
        if len(self) == 1 and not isinstance(index, (int, np.integer, slice)):
            return bare(self)[bare(index)]
        part = tuple.__getitem__(self, index)
        return self._like(part) if isinstance(index, slice) else part

    def _each(self, function: Callable[[torch.Tensor], Any]) -> TensorTuple:
        return self._like(map_tensors(tuple(self), function))

    def _like(self, items: Any) -> TensorTuple:
        new = TensorTuple(items)
        if self.indices is not None:
            new.indices = self.indices
        return new

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*(bare(a) for a in args), **{k: bare(v) for k, v in (kwargs or {}).items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return (TensorTuple, (tuple(self),), self.__dict__ or None)

    def __repr__(self) -> str:
        return f"TensorTuple{tuple.__repr__(self)}"

    __hash__ = tuple.__hash__


def _as_tensor(name: str) -> Callable[..., Any]:
    """Make the operator `name` act on the one tensor, and stay the tuple's for another tuple."""
    of_tuple, of_tensor = getattr(tuple, name, None), getattr(torch.Tensor, name)

    def method(self: TensorTuple, *others: Any) -> Any:
        with_tuple = bool(others) and isinstance(others[0], tuple) and type(others[0]) is not TensorTuple
        if of_tuple and (len(self) != 1 or with_tuple):
            return of_tuple(self, *others)
        if with_tuple:
            return NotImplemented  # (a, b) + batch_x: Python asks this side first, but it is the tuple's to answer
        return of_tensor(bare(self), *map(bare, others))

    method.__name__ = name
    return method


# fmt: off
_ONE_SIDED = ("eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "abs", "invert", "float", "int", "complex", "index")
_TWO_SIDED = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift",
              "rshift")
# fmt: on
for _name in (*_ONE_SIDED, *_TWO_SIDED, *(f"r{_name}" for _name in _TWO_SIDED)):
    setattr(TensorTuple, f"__{_name}__", _as_tensor(f"__{_name}__"))


def bare(value: Any) -> Any:
    """Replace a TensorTuple of one by what it holds, also inside lists and tuples; leave anything else alone."""
    if isinstance(value, TensorTuple):
        if len(value) != 1:
            raise BatchError(
                f"batch_x holds {len(value)} inputs and stands where one tensor is needed; unpack it first"
            )
        return tuple.__getitem__(value, 0)
    if type(value) in (list, tuple):
        return type(value)(bare(v) for v in value)
    return value


class TensorDict(_Castable, dict[str, Any]):
    """The inputs of a dict batch, for ``self.model(**batch_x)``.

    What moves, casts or copies its tensors gives a TensorDict again.

    Attributes:
        indices: the samples' indices in the dataset where the source knows them, else None.

    Example:
        >>> TensorDict(ids=torch.tensor([1, 2]), text=["a", "b"]).float()
        {'ids': tensor([1., 2.]), 'text': ['a', 'b']}
    """

    indices: Any = None

    def _each(self, function: Callable[[torch.Tensor], Any]) -> TensorDict:
        new = TensorDict(map_tensors(dict(self), function))
        if self.indices is not None:
            new.indices = self.indices
        return new


def map_tensors(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """Apply `function` to every tensor in nested tuples, lists and mappings; other leaves pass through.

    Containers keep their type: named tuples, TensorTuples and subclasses of dict (model outputs) included.
    """
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple):
        items = [map_tensors(v, function) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [map_tensors(v, function) for v in value]
    if isinstance(value, Mapping):
        pairs = {k: map_tensors(v, function) for k, v in value.items()}
        return pairs if type(value) is dict else type(value)(pairs)  # type: ignore[call-arg]
    return value


_detach = operator.methodcaller("detach")


def detached(value: Any) -> Any:
    """Detach every tensor in `value` from the graph, without copying."""
    return value.detach() if isinstance(value, torch.Tensor) else map_tensors(value, _detach)


def concat(values: Sequence[Any]) -> Any:
    """Put the same structure from several batches together, along the first dimension.

    Tensors and arrays are concatenated (0-dimensional ones stacked), numbers become a tensor; tuples, dicts and lists
    of tensors are put together item by item; other lists, of whatever belongs to the samples, are joined. Nones become
    one None, and a list of anything else (strings, graphs) stays as it is.

    Raises:
        BatchError: there is nothing to put together, or the structures differ.
        RuntimeError: torch cannot concatenate the tensors, e.g. for their shapes.

    Example:
        >>> concat([{"a": torch.ones(2)}, {"a": torch.zeros(1)}])["a"]
        tensor([1., 1., 0.])
    """
    values = list(values)
    if not values:
        raise BatchError("concat got an empty list: there is nothing to put together")
    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.stack(values) if first.ndim == 0 else torch.cat(values)
    if isinstance(first, np.ndarray):
        return np.stack(values) if first.ndim == 0 else np.concatenate(values)
    if isinstance(first, tuple) or (isinstance(first, list) and first and isinstance(first[0], torch.Tensor)):
        _check_alike(values, lambda v: (isinstance(v, type(first)), len(v) if isinstance(v, (tuple, list)) else None))
        items = [concat(column) for column in zip(*values, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    if isinstance(first, Mapping):
        _check_alike(values, lambda v: set(v) if isinstance(v, Mapping) else None)
        joined = {k: concat([v[k] for v in values]) for k in first}
        return joined if type(first) is dict else type(first)(joined)  # type: ignore[call-arg]
    if isinstance(first, list) and all(isinstance(v, list) for v in values):
        return [item for value in values for item in value]
    if all(isinstance(v, (int, float, complex, np.generic)) for v in values):
        return torch.as_tensor(np.array(values)) if isinstance(first, np.generic) else torch.tensor(values)
    return None if all(v is None for v in values) else values


def _check_alike(values: list[Any], shape: Callable[[Any], Any]) -> None:
    first = shape(values[0])
    for number, value in enumerate(values):
        if shape(value) != first:
            raise BatchError(
                f"batches differ in structure, so they cannot be put together: {a_kind(values[0])} of "
                f"{len(values[0])} in the first, {value!r:.60} in number {number} (counted from 0)"
            )


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor in `value`, and every object that knows how to move itself (a graph, a packed sequence)."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (torch.Tensor, PackedSequence)):
        if can_overlap(value, device):
            return send(value, device)
        return value.to(device, non_blocking=True)  # type: ignore[arg-type]  # PackedSequence hands it on, unannotated
    if isinstance(value, tuple):
        items = [to_device(v, device) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [to_device(v, device) for v in value]
    if type(value) is dict:
        return {k: to_device(v, device) for k, v in value.items()}
    if callable(getattr(value, "to", None)):
        return value.to(device)
    return map_tensors(value, lambda t: to_device(t, device))


def batch_size(batch_x: Any, batch_y: Any = None, dim: int = 0) -> int:
    """Tell how many samples a batch holds.

    It is the first dimension of the first input; for a dict all tensors must agree on theirs; where the inputs hold
    no tensor (or array) with a dimension, it is the target's.

    Args:
        batch_x: the inputs.
        batch_y: the target.
        dim: the dimension that counts samples.

    Raises:
        BatchError: nothing tells, or the tensors of a dict disagree; pass ``batch_size=`` as an int or a function.

    Example:
        >>> batch_size((torch.zeros(3, 2), torch.zeros(3, 5)))
        3
    """
    if isinstance(batch_x, Mapping):
        sizes = {k: int(v.shape[dim]) for k, v in batch_x.items() if _has_dimension(v, dim)}
        if len(set(sizes.values())) > 1:
            raise BatchError(
                f"the tensors of a dict batch disagree on dimension {dim}: {sizes}; say how many samples it "
                "holds with batch_size=, an int or a function (batch_x, batch_y) -> int"
            )
        candidates = list(sizes.values())
    else:
        items = batch_x if isinstance(batch_x, (tuple, list)) else (batch_x,)
        candidates = [n for item in items if (n := _dimension(item, dim)) is not None][:1]
    if not candidates and (n := _dimension(batch_y, dim)) is not None:
        candidates = [n]
    if not candidates:
        raise BatchError(
            f"cannot tell how many samples a batch of {type(batch_x).__name__} holds: no tensor in it has a dimension "
            f"{dim}; pass batch_size=, an int or a function (batch_x, batch_y) -> int"
        )
    return candidates[0]


def _has_dimension(item: Any, dim: int) -> bool:
    return isinstance(item, (torch.Tensor, np.ndarray)) and -item.ndim <= dim < item.ndim


def _dimension(item: Any, dim: int) -> int | None:
    """The size of a tensor in a dimension, or of the first one in a nested container."""
    if isinstance(item, (torch.Tensor, np.ndarray)):
        return int(item.shape[dim]) if _has_dimension(item, dim) else None
    if isinstance(item, Mapping):
        return batch_size(item, dim=dim) if any(_has_dimension(v, dim) for v in item.values()) else None
    if isinstance(item, (tuple, list)):
        return next((n for part in item if (n := _dimension(part, dim)) is not None), None)
    return None


def refuse_empty(batch: Any) -> Any:
    """Raise `BatchError`: a batch without samples has no mean."""
    shape = f"a tensor of shape {tuple(batch.shape)}" if isinstance(batch, torch.Tensor) else f"{batch!r}"
    raise BatchError(f"a batch holds no samples ({shape}); leave empty batches out in the loader or its collate_fn")
