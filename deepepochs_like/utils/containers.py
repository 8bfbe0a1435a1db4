"""Lists and dicts of figures: made, flattened, put together and taken off the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set, ValuesView
from typing import Any

import numpy as np
import torch

from ..errors import ArgumentError, UnknownNameError, a_kind, did_you_mean


def listify(value: Any) -> list[Any]:
    """Return a list: [] for None, the items of a sequence, set or iterator, else [value].

    Strings, dicts, modules and whatever else is one thing to its user stay whole; tensors and arrays give the items of
    their first dimension, if they have one.

    Example:
        >>> listify(None), listify("ab"), listify((1, 2)), listify({"a": 1})
        ([], ['ab'], [1, 2], [{'a': 1}])
    """
    if value is None:
        return []
    if isinstance(value, (str, bytes)):
        return [value]
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return list(value) if value.ndim else [value]
    return list(value) if isinstance(value, (Sequence, Set, ValuesView, Iterator)) else [value]


class ddict(dict[str, Any]):
    """A dict whose keys are attributes too; dicts put into it become such dicts themselves.

    A key that is also a method's name (``items``) is reached as ``d["items"]`` only.

    Example:
        >>> options = ddict(lr=0.1, model={"width": 8}); options.model.width
        8
        >>> options.model.depth = 2; options["model"]["depth"], hasattr(options, "seed")
        (2, False)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.update(*args, **kwargs)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, ddict(value) if type(value) is dict else value)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise UnknownNameError(
                f"there is no key {name!r}{did_you_mean(name, map(str, self))}; "
                f"there are {', '.join(map(str, self)) or 'none'}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        getattr(self, name)
        del self[name]

    def __or__(self, other: Any) -> Any:
        return ddict(dict(self) | dict(other)) if isinstance(other, Mapping) else NotImplemented

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value of `key`, which is `default` from now on if there was none."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Take over the items of a mapping or of pairs, and keywords."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def copy(self) -> ddict:
        """Return a copy that shares the values, as `dict.copy` does."""
        return ddict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return ddict, (dict(self),)


def flatten_dict(d: Mapping[Any, Any], parent_key: str = "", sep: str = ".") -> dict[str, Any]:
    """Flatten nested dicts, joining keys with `sep`; of two equal joined keys the later wins, empty dicts vanish.

    Example:
        >>> flatten_dict({"lr": 0.1, "model": {"width": 8}})
        {'lr': 0.1, 'model.width': 8}
    """
    flat: dict[str, Any] = {}
    for key, value in d.items():
        name = f"{parent_key}{sep}{key}" if parent_key else key
        if isinstance(value, Mapping):
            flat.update(flatten_dict(value, str(name), sep))
        else:
            flat[name] = value
    return flat


def _all_keys(dicts: Sequence[Mapping[Any, Any]], what: str) -> list[Any]:
    if not dicts:
        raise ArgumentError(f"{what} got an empty list: at least one dict is needed")
    return list(dict.fromkeys(key for one in dicts for key in one))


def concat_dicts(dicts: Sequence[Mapping[Any, Any]], to_np: bool = True) -> dict[Any, list[Any]]:
    """Turn a list of dicts into a dict of lists; a key that a dict lacks counts as 0 there.

    Args:
        dicts: one or more dicts.
        to_np: turn the values into NumPy arrays, as `to_numpy` does.

    Raises:
        ArgumentError: there is no dict.

    Example:
        >>> concat_dicts([{"a": 1, "b": 2}, {"a": 3}], to_np=False)
        {'a': [1, 3], 'b': [2, 0]}
    """
    values = {key: [one.get(key, 0) for one in dicts] for key in _all_keys(dicts, "concat_dicts")}
    return {key: [_array_of(v) for v in column] for key, column in values.items()} if to_np else values


def _array_of(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _array_of(item) for key, item in value.items()}
    return [_array_of(item) for item in value] if isinstance(value, (list, tuple)) else to_numpy(value)


def sum_dicts(dicts: Sequence[Mapping[Any, Any]], to_np: bool = False) -> ddict:
    """Add dicts up key by key; a key that a dict lacks counts as 0 there.

    Args:
        dicts: one or more dicts of numbers, tensors or arrays.
        to_np: turn the sums into NumPy values.

    Raises:
        ArgumentError: there is no dict, or a value is nothing that can be added up.

    Example:
        >>> sum_dicts([{"a": 1, "b": 2}, {"a": 3}])
        {'a': 4, 'b': 2}
    """
    total = ddict()
    for key in _all_keys(dicts, "sum_dicts"):
        column = [one[key] for one in dicts if key in one]
        for value in column:
            if not isinstance(value, (int, float, complex, torch.Tensor, np.ndarray, np.generic)):
                raise ArgumentError(f"sum_dicts: {key!r} is {value!r}, {a_kind(value)}; numbers or tensors are needed")
        total[key] = sum(column[1:], start=column[0])
    return ddict({key: to_numpy(value)[()] for key, value in total.items()}) if to_np else total


def to_numpy(data: Any) -> Any:
    """Turn tensors and numbers into NumPy arrays, off the graph and off the device.

    Tensors keep their dtype (bfloat16, which NumPy lacks, becomes float32); everything else becomes float64, None NaN.
    Lists and tuples become lists of arrays, dicts dicts of arrays: there an inner list becomes one array.

    Raises:
        ArgumentError: something is no number.

    Example:
        >>> to_numpy({"loss": torch.tensor(0.5), "sizes": [1, 2]})
        {'loss': array(0.5, dtype=float32), 'sizes': array([1., 2.])}
    """
    if isinstance(data, Mapping):
        return {k: to_numpy(v) if isinstance(v, Mapping) else _to_array(v) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [_to_array(item) for item in data]
    return _to_array(data)


def _to_array(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).resolve_conj().resolve_neg().numpy()
    if isinstance(value, (list, tuple)):
        value = [_to_array(item) for item in value]
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"to_numpy: {value!r}, {a_kind(value)}, is no number and holds none: {error}") from error


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested dicts, lists and tuples.

    Example:
        >>> [tensor.item() for tensor in tensors_in({"a": torch.tensor(1), "b": [2, (torch.tensor(3),)]})]
        [1, 3]
    """
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):  # a packed sequence is one, too
        for item in value:
            yield from tensors_in(item)


def detach_clone(data: Any) -> Any:
    """Copy every tensor in nested lists, tuples and dicts, off the graph; what is no tensor passes through.

    Tuples become lists and mappings dicts; what comes out shares no memory with what went in.

    Example:
        >>> weight = torch.ones(2, requires_grad=True); kept = detach_clone({"w": (weight,)})
        >>> kept["w"][0].requires_grad, kept["w"][0].data_ptr() == weight.data_ptr()
        (False, False)
    """
    if isinstance(data, torch.Tensor):
        return data.detach().clone()
    if isinstance(data, (list, tuple)):
        return [detach_clone(item) for item in data]
    if isinstance(data, Mapping):
        return {key: detach_clone(value) for key, value in data.items()}
    return data
