"""`TensorPatch`: a metric computed once, over all predictions and targets of the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar

import torch

from ..errors import EngineError, MetricError, PatchError
from ..metrics import accuracy, of_matrix
from ..tensors import concat
from ..types import StateDict, Value, Weight
from .base import Outputs, PatchBase, check_value, metric_name, own_copy, restored, same_kind, saved
from .confusion import ConfusionPatch
from .intact import copied, refuse, version_of, what_changed


class TensorPatch(PatchBase):
    """Keep every batch's predictions and targets, and compute the metric once over all of them: exact for any metric.

    Where they cannot be concatenated the metric gets the lists of batches, save one of `deepepochs_like.metrics`, whose
    counts are added up. Merging is O(1): merged patches share their batches in a tree that is walked once, when the
    value is read. Batches are not copied: tensors that were changed in place since they came are refused with a
    `PatchError`. A metric gets copies, which it may change.

    Args:
        metric: ``(preds, targets)`` to a number or a dict of numbers.
        batch_size: taken for symmetry with the other patches; the samples themselves are the weight.
        name: see `PatchBase`; by default the metric's name.

    Example:
        >>> worst = lambda p, t: (p - t).abs().max()
        >>> batches = (torch.ones(2), torch.zeros(2)), (torch.ones(1), torch.ones(1))
        >>> sum(TensorPatch(worst).load(*batch) for batch in batches)().item()
        1.0
    """

    SHARED: ClassVar[frozenset[str]] = frozenset({"tree"})

    def __init__(
        self, metric: Callable[[Any, Any], Any], batch_size: Weight | None = None, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.metric, self.batch_size = metric, batch_size
        #: None, a leaf [preds, targets, their versions], or a pair (tree, tree); never changed once made, so that
        #: patches may share it.
        self.tree: Any = None
        #: The batches put together, while they are read together with other patches.
        self.joined: Joined | None = None

    def load(self, preds: Any, targets: Any) -> Any:
        """Take in a batch, detached; only what shares memory with something that is trained is copied."""
        self.tree = None
        outputs = Outputs(preds, targets)
        outputs.versions = version_of(outputs.preds), version_of(outputs.targets)
        return self.absorb(outputs)

    def absorb(self, outputs: Outputs) -> Any:
        """Take in one more batch, in place."""
        leaf = [outputs.preds, outputs.targets, outputs.versions]
        self.tree = leaf if self.tree is None else (self.tree, leaf)
        return self

    def forward(self) -> Value:
        if self.joined is None:
            value = self._of_batches(self.leaves())
        elif (by_matrix := of_matrix(self.metric)) is not None:
            value = by_matrix(self.joined.outputs().matrix())
        else:
            outputs = self.joined.outputs()
            value = self.metric(outputs.preds, outputs.targets)
        return check_value(value, self.name or metric_name(self.metric))  # type: ignore[no-any-return]

    def _of_batches(self, leaves: list[Any]) -> Any:
        """The metric's value where nobody has put the batches together."""
        if not leaves:
            raise PatchError(f"TensorPatch {self.name or ''} holds nothing yet: load a batch before reading it")
        by_matrix = _by_matrix(self.metric)
        if len(leaves) == 1:  # those of the library change nothing
            return self.metric(*(map(copied, leaves[0]) if by_matrix is None else leaves[0]))
        preds, targets = _joined(leaves)
        if not (isinstance(preds, list) and isinstance(targets, list) and preds[:1] and preds[0] is leaves[0][0]):
            return self.metric(preds, targets)
        if by_matrix is not None:
            counted = ConfusionPatch(None)
            for leaf in leaves:
                counted.absorb(Outputs(*leaf))
            return by_matrix(counted.matrix())
        try:
            return self.metric(copied(preds), copied(targets))
        except (EngineError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            raise MetricError(
                f"metric {self.name or metric_name(self.metric)!r} failed ({type(error).__name__}: {error}) on lists "
                "of batches, which it gets as their shapes differ and they cannot be put together; have the metric "
                "take lists, pad the batches, or use metric_patch='mean' or 'confusion'"
            ) from error

    def follow(self, leader: Any) -> None:
        """Stand for the same batches as another patch."""
        self.tree = leader.tree

    @contextmanager
    def reading(self, others: Sequence[Any]) -> Iterator[None]:
        """Put the batches together once, where they can be, for this patch and others that stand for the same."""
        joined, patches = Joined.of(self.leaves()), [self, *others]
        for patch in patches:
            patch.joined = joined
        try:
            yield
        finally:
            for patch in patches:
                patch.joined = None

    def leaves(self) -> list[Any]:
        """The batches, in the order in which they were merged.

        Raises:
            PatchError: one was changed in place since it came; the message says which.
        """
        found = self._found()
        refuse(self._spoilt(found))
        return _alike(found)

    def _spoilt(self, found: list[Any], ended: bool = True) -> str | None:
        """What is wrong with the batches, or was with those that a state held; see `what_changed`."""
        told = next((leaf.spoilt for leaf in found if type(leaf) is _Restored and leaf.spoilt), None)
        return told or what_changed(self.name or metric_name(self.metric), found, ended)

    def _found(self) -> list[Any]:
        """The leaves of the tree, as they are."""
        found: list[Any] = []
        stack = [self.tree] if self.tree is not None else []
        while stack:
            node = stack.pop()
            if isinstance(node, tuple):
                stack.extend((node[1], node[0]))
            else:
                found.append(node)
        return found

    def empty(self) -> Any:
        """A patch like this one that has seen nothing: the identity of `+`."""
        twin = own_copy(self)
        twin.tree = None
        return twin

    def add(self, other: Any) -> Any:
        return own_copy(self).merge_(other)

    def merge_(self, other: Any) -> Any:
        same_kind(self, other, self.name)
        if other.tree is not None:
            self.tree = other.tree if self.tree is None else (self.tree, other.tree)
        return self

    def state_dict(self) -> StateDict:
        """The batches so far, concatenated where they can be; where they were changed in place, that is noted."""
        found = self._found()
        spoilt, leaves = self._spoilt(found, ended=False), _alike(found)
        if len(leaves) > 1 and all(_appendable(part) for leaf in leaves for part in leaf):
            with suppress(*_RAGGED):
                leaves = [[concat([leaf[i] for leaf in leaves]) for i in (0, 1)]]
        where = f"{type(self).__name__} {self.name or metric_name(self.metric)!r}:"
        kept = [[saved(p, f"{where} preds"), saved(t, f"{where} targets")] for p, t in leaves]
        return {"name": self.name, "leaves": kept, "spoilt": spoilt}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.name, self.tree = state_dict["name"], None
        for parts in state_dict["leaves"]:
            leaf = _Restored(parts)
            leaf.spoilt = state_dict.get("spoilt")
            self.tree = leaf if self.tree is None else (self.tree, leaf)


class _Restored(list[Any]):
    """A leaf that comes from a state."""

    #: What was wrong with the batches when the state was taken.
    spoilt: str | None = None


def _alike(found: list[Any]) -> list[Any]:
    """Predictions and targets of leaves.

    What a state held has plain containers, perhaps on another device: it takes after the batches that came later.
    """
    like = next((leaf for leaf in found if type(leaf) is not _Restored), None)
    if like is None or type(found[0]) is not _Restored:
        return [leaf[:2] for leaf in found]
    return [leaf[:2] if type(leaf) is not _Restored else list(map(restored, leaf, like)) for leaf in found]


class Joined:
    """Batches put together, with what several metrics compute from them computed once.

    Args:
        leaves: the batches.
        outputs: the same as one.
    """

    def __init__(self, leaves: list[Any], outputs: Outputs) -> None:
        self.leaves, self._outputs, self._versions = leaves, outputs, self._now(outputs)

    @classmethod
    def of(cls, leaves: list[Any]) -> Joined | None:
        """Put batches together; None where they cannot be, or where it is no gain."""
        if len(leaves) < 2:
            return None
        outputs = cls._made(leaves)
        if not (isinstance(outputs.preds, torch.Tensor) and isinstance(outputs.targets, torch.Tensor)):
            return None
        return cls(leaves, outputs)

    @staticmethod
    def _made(leaves: list[Any]) -> Outputs:
        with torch.inference_mode(False):  # what is made in it does not count the changes made to it
            return Outputs(*_joined(leaves))

    @staticmethod
    def _now(outputs: Outputs) -> list[int]:
        return [outputs.preds._version, outputs.targets._version]

    def outputs(self) -> Outputs:
        """The batches as one; put together anew where a metric has changed them in place."""
        if self._now(self._outputs) != self._versions:
            self._outputs = self._made(self.leaves)
            self._versions = self._now(self._outputs)
        return self._outputs


#: What `concat` raises for values that do not go together.
_RAGGED = (RuntimeError, TypeError, KeyError, ValueError)


def _by_matrix(metric: Any) -> Callable[[torch.Tensor], Any] | None:
    """What computes one of the library's own metrics from a confusion matrix; None for others."""
    if (metric.func if isinstance(metric, partial) and not metric.args else metric) is accuracy:
        return lambda matrix: metric(conf_mat=matrix)
    return of_matrix(metric)


def _joined(leaves: list[Any]) -> tuple[Any, Any]:
    """All batches as one, or lists of batches where either part cannot be concatenated."""
    preds, targets = [p for p, _ in leaves], [t for _, t in leaves]
    if len(leaves) == 1:
        return preds[0], targets[0]
    try:
        return concat(preds), concat(targets)
    except torch.OutOfMemoryError:
        raise
    except _RAGGED:  # ragged shapes, mixed structures
        return preds, targets


def _appendable(value: Any) -> bool:
    """Tell whether concatenating gives a value of the same make, which more can be appended to."""
    if isinstance(value, torch.Tensor):
        return value.ndim > 0
    if isinstance(value, Mapping):
        return all(map(_appendable, value.values()))
    if isinstance(value, tuple):
        return all(map(_appendable, value))
    return value is None
