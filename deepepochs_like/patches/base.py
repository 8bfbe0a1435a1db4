"""The Patch: one figure as a commutative monoid, so that the parts of an epoch add up to the epoch.

``p + q`` merges two patches without touching either; it is associative and commutative, and an empty patch is its
identity. The same ``+`` merges batches, accumulation windows, ranks and resumed halves, so a figure does not depend on
how the samples were cut into batches.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Mapping, MutableMapping, MutableSequence, MutableSet
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from ..errors import MetricError, PatchError, a_kind
from ..metrics import confusion_counts, matrix_of
from ..types import StateDict, Value, Weight
from .intact import own


class Outputs:
    """One batch's predictions and targets, detached, with what several patches compute from them computed once."""

    __slots__ = ("_matrix", "preds", "targets", "versions", "weight")

    def __init__(self, preds: Any, targets: Any, weight: Weight = 1) -> None:
        # A bare tensor, the usual case, costs one call. What is trained, or a part of it, is copied.
        bare = type(preds) is torch.Tensor
        if bare and (base := preds._base) is not None:
            bare = not (base.is_leaf and base.requires_grad)
        self.preds = preds.detach() if bare else own(preds)
        self.targets = targets.detach() if type(targets) is torch.Tensor else own(targets)
        self.weight = weight
        #: How often predictions and targets had been changed in place when they came, where that was noted.
        self.versions: tuple[int | None, int | None] | None = None
        self._matrix: torch.Tensor | None = None

    def matrix(self) -> torch.Tensor:
        """The batch's confusion matrix, shared likewise.

        Raises:
            MetricError: labels or targets lie outside the classes.
        """
        if self._matrix is None:
            self._matrix = matrix_of(confusion_counts(self.preds, self.targets, look=True))
        return self._matrix


class PatchBase:
    """Base of all patches; subclass it with `load`, `add` and `forward`.

    ``p.load(...)`` makes `p` stand for one batch and returns it; ``p()`` gives the value, a number or a dict of
    numbers; a dict value is shown under name + key. ``p + q``, ``0 + p`` and ``sum([...])`` leave their operands as
    they were, even where a subclass's `add` changes and returns ``self``.

    Args:
        name: the name it is shown under; it beats the key under which a step returns the patch.

    Example:
        >>> class Longest(PatchBase):
        ...     def load(self, text): self.n = len(text); return self
        ...     def add(self, other): self.n = max(self.n, other.n); return self
        ...     def forward(self): return self.n
        >>> (Longest().load('abc') + Longest().load('a'))()
        3
    """

    #: Attributes that are never changed in place once made, so that copies may share them.
    SHARED: ClassVar[frozenset[str]] = frozenset()

    #: Whether a patch of this class takes batch after batch in itself, through ``absorb(outputs)``.
    absorbs: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Where a subclass writes its own load or add, the loop must not take the short cut of a built-in one around it.
        own = vars(cls)
        if "add" in own and "merge_" not in own:
            cls.merge_ = PatchBase.merge_  # type: ignore[method-assign]
        if "absorb" in own or "add" in own or "load" in own:
            cls.absorbs = "absorb" in own

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def load(self, *args: Any, **kwargs: Any) -> Any:
        """Take in one batch in place of what was there, and return self."""
        raise PatchError(f"{type(self).__name__} defines no load(); write one that stores its figures and returns self")

    def forward(self) -> Value:
        """Return the value of everything merged so far: a number, a 0-dimensional tensor or a dict of them."""
        raise PatchError(f"{type(self).__name__} defines no forward(); write one that returns its value")

    def add(self, other: Any) -> Any:
        """Merge `other`, a patch of the same kind; return the result, a new patch or self."""
        raise PatchError(f"{type(self).__name__} defines no add(other); write one that returns the merged patch")

    def __call__(self) -> Value:
        return self.forward()

    def __add__(self, other: Any) -> Any:
        if isinstance(other, int) and other == 0:
            return own_copy(self)
        same_kind(self, other, self.name)
        return own_copy(self).merge_(other)

    __radd__ = __add__

    def merge_(self, other: Any) -> Any:
        """Merge `other` into this patch, which the caller owns, and return the result: the loop's `+`, in O(1).

        `other` stays as it was, and nothing of it is kept that could be changed.
        """
        same_kind(self, other, self.name)
        # A user's add may change other, or keep parts of it: it gets a copy to do that to.
        merged = self.add(own_copy(other))
        if not isinstance(merged, PatchBase):
            raise PatchError(f"{type(self).__name__}.add() returned {shown(merged)}; it must return the merged patch")
        return merged

    def state_dict(self) -> StateDict:
        """The patch's attributes, as tensors, numbers, strings and containers of them.

        Raises:
            PatchError: an attribute cannot be saved; the message names it.
        """
        return {k: saved(v, f"{type(self).__name__}.{k}") for k, v in vars(self).items() if not callable(v)}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Set the attributes that `state_dict` returned; they are copied."""
        mine = vars(self)
        mine.update({k: restored(v, mine.get(k)) for k, v in state_dict.items()})

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


def same_kind(left: Any, right: Any, name: str | None) -> None:
    """Raise `PatchError` unless both are patches of one kind."""
    if type(left) is not type(right):
        called = f" under the name {name!r}" if name else ""
        raise PatchError(
            f"cannot merge {type(left).__name__} with {type(right).__name__}{called}: the patches of one figure must "
            "all be of one kind"
        )


def own_copy(patch: Any) -> Any:
    """Copy a patch so deep that no change to the copy, in place or not, can be seen in the original."""
    twin, shared = copy.copy(patch), type(patch).SHARED
    memo: dict[int, Any] = {id(patch): twin}
    slots = [name for cls in type(patch).__mro__ for name in _slots(cls) if hasattr(patch, name)]
    for name in {*vars(patch), *slots} - shared:
        setattr(twin, name, _copied(getattr(patch, name), memo))
    return twin


def _slots(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    return [name for name in ([slots] if isinstance(slots, str) else slots) if not name.startswith("__")]


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """Copy tensors and all that can change; share functions, classes, models and whatever cannot be copied."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if id(value) in memo:
        return memo[id(value)]
    twin: Any
    if isinstance(value, torch.Tensor):
        twin = value.clone()  # deepcopy refuses tensors with a graph
    elif isinstance(value, tuple):
        items = [_copied(v, memo) for v in value]
        twin = type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    elif isinstance(value, (MutableMapping, MutableSequence, MutableSet)) and not isinstance(value, bytearray):
        memo[id(value)] = twin = copy.copy(value)  # keeps a default_factory, a maxlen, attributes
        twin.clear()
        if isinstance(value, MutableMapping):
            twin.update({k: _copied(v, memo) for k, v in value.items()})
        elif isinstance(value, MutableSequence):
            twin.extend([_copied(v, memo) for v in value])
        else:
            twin |= {_copied(v, memo) for v in value}
    elif isinstance(value, type) or (callable(value) and not is_torchmetric(value)):
        twin = value
    else:
        try:
            twin = copy.deepcopy(value, memo)
        except Exception:  # an open file, a lock, a generator: what cannot be copied cannot be merged either
            twin = value
    memo[id(value)] = twin
    return twin


def saved(value: Any, where: str) -> Any:
    """Turn a value into what loads with ``weights_only=True``.

    Raises:
        PatchError: that cannot be done; the message says `where`.
    """
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().as_subclass(torch.Tensor)
    if isinstance(value, (int, float, str)):  # NumPy's float64 and str_, members of an IntEnum
        return next(kind(value) for kind in (int, float, str) if isinstance(value, kind))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        items = {saved(k, f"a key of {where}"): saved(v, f"{where}[{k!r}]") for k, v in value.items()}
        return Counter(items) if type(value) is Counter else items
    if isinstance(value, (list, tuple, deque)):
        parts = [saved(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, (set, frozenset)):
        return {saved(v, f"a member of {where}") for v in value}
    raise PatchError(
        f"{where} is {a_kind(value)}, which a checkpoint cannot hold; keep tensors, numbers, strings or "
        "containers of them, or override state_dict and load_state_dict"
    )


def restored(value: Any, like: Any = None) -> Any:
    """Copy what `saved` returned, giving a container the type of `like`, which stands where it will."""
    if isinstance(like, torch.Tensor) and isinstance(value, torch.Tensor):
        return value.to(like.device, copy=True)
    if type(value) is dict and isinstance(like, Mapping):
        items = {k: restored(v, like.get(k)) for k, v in value.items()}
        if not isinstance(like, MutableMapping):
            return items
        twin = copy.copy(like)
        twin.clear()
        twin.update(items)
        return twin
    if type(value) is tuple and isinstance(like, tuple) and len(value) == len(like):
        parts = [restored(v, part) for v, part in zip(value, like, strict=True)]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    if type(value) is list and isinstance(like, (list, deque)):
        items_like = like[0] if like else None
        parts = [restored(v, items_like) for v in value]
        return deque(parts, like.maxlen) if isinstance(like, deque) else parts
    if type(value) is set and isinstance(like, frozenset):
        return frozenset(value)
    return _copied(value, {})


def metric_name(metric: Any) -> str:
    """The name a metric is shown under.

    It is what `rename` set (which may be ``''``), else its function's or class's own name; for a MetricCollection
    ``''``, so that its figures keep the collection's names.
    """
    if is_torchmetric(metric) and hasattr(metric, "compute_groups"):
        return str(getattr(metric, "__name__", ""))
    while isinstance(metric, partial) and not hasattr(metric, "__name__"):
        metric = metric.func
    return str(getattr(metric, "__name__", type(metric).__name__))


def is_torchmetric(value: Any) -> bool:
    """Tell a Metric or MetricCollection by its class, without importing torchmetrics."""
    names = {(c.__module__.split(".")[0], c.__name__) for c in type(value).__mro__}
    return ("torchmetrics", "Metric") in names or ("torchmetrics", "MetricCollection") in names


def check_value(value: Any, name: str) -> Any:
    """Return `value`, a number or a dict of numbers; dicts in a dict are laid out flat, key + key.

    Raises:
        MetricError: it is neither; the message names the metric and what it returned.
    """
    if _is_number(value):
        return value
    if not isinstance(value, Mapping):
        _refuse_complex(value, name)
        raise MetricError(f"metric {name!r} returned {shown(value)}; a number, a tensor or a dict of them is needed")
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update({f"{key}{k}": v for k, v in check_value(item, name).items()})
        elif _is_number(item):
            flat[f"{key}"] = item
        else:
            _refuse_complex(item, name)
            raise MetricError(
                f"metric {name!r} returned {shown(item)} under {key!r}; each figure must be a number or a tensor"
            )
    return flat


def _refuse_complex(value: Any, name: str) -> None:
    if isinstance(value, complex) or "complex" in str(getattr(value, "dtype", "")):
        raise MetricError(
            f"metric {name!r} returned {shown(value)}: a figure is a real number; return .abs(), .real or .imag, or a "
            "dict of them"
        )


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.dtype.is_complex
    if isinstance(value, (float, int)):
        return True
    return isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biuf"


def shown(value: Any) -> str:
    """A value as messages show it: cut short, with its type."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({a_kind(value)})"
