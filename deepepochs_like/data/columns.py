"""Samples that lie in memory as tensors, taken by a list of indices at once instead of one by one.

`columns_of` knows the datasets whose samples can be taken so that the batch is, bit for bit, what torch's
`default_collate` makes of the samples: the same values, types, strides and containers, and in memory of its own. Of
anything else it says why not, and also of what somebody has changed in torch's classes or in one of their objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset
from torch.utils.data._utils import collate

from ..errors import a_kind

#: What decides how samples are made and collated, as torch has it.
_COLLATES = dict(collate.default_collate_fn_map)
_METHODS = [
    (TensorDataset, "__getitem__", TensorDataset.__getitem__),
    (TensorDataset, "__getitems__", getattr(TensorDataset, "__getitems__", None)),
    (StackDataset, "__getitem__", StackDataset.__getitem__),
    (StackDataset, "__getitems__", StackDataset.__getitems__),
    (Subset, "__getitem__", Subset.__getitem__),
    (Subset, "__getitems__", Subset.__getitems__),
    (ConcatDataset, "__getitem__", ConcatDataset.__getitem__),
    (ConcatDataset, "__getitems__", getattr(ConcatDataset, "__getitems__", None)),
]
#: As many parts of a ConcatDataset are still quicker to take apart than samples are to fetch.
MOST_PARTS = 16


class Unsure(Exception):
    """Why samples (or those of one batch) are not taken at once."""


#: An object, of what it was found under which attribute, and the tensors in it with their versions.
Leaf = tuple[Any, Any, str, tuple[Tensor, ...], list[int]]


class Columns(Protocol):
    """A dataset as tensors whose first dimension counts its samples."""

    #: Whether a sample is one bare tensor, not a tuple of them.
    single: bool

    @property
    def watched(self) -> bool:
        """Whether `leaves` shows a change of the data, so that batches may be taken before their turn."""

    def take(self, at: Tensor) -> list[Tensor]:
        """One tensor per column with the samples of these indices (int64, 1-D), copied.

        Raises:
            Unsure: an index is out of range, or the samples cannot be put together.
        """

    def leaves(self) -> list[Leaf]:
        """The tensors that the data consists of, and what picks samples from them, as they are now."""

    def structure(self) -> list[Any]:
        """The datasets within and what says which of their samples count, to be compared by identity."""

    def likes(self) -> list[Tensor]:
        """A sample of each column, for its type and size."""


def columns_of(dataset: Any) -> Columns:
    """The columns of a dataset in memory.

    Raises:
        Unsure: it is none of the kinds known here; the message says why.
    """
    if collate.default_collate_fn_map != _COLLATES:
        raise Unsure("default_collate_fn_map has been changed")
    if changed := [f"{kind.__name__}.{name}" for kind, name, own in _METHODS if getattr(kind, name, None) is not own]:
        raise Unsure(f"{changed[0]} has been replaced")
    if {"__getitem__", "__getitems__"} & set(getattr(dataset, "__dict__", ())):
        raise Unsure("the dataset has a way of its own to get samples")
    kind = type(dataset)
    if kind is TensorDataset:
        return _Whole(dataset, "tensors")
    if kind is StackDataset and type(dataset.datasets) is tuple:
        return _Whole(dataset, "datasets")
    if kind is Tensor:
        return _Whole(dataset, "", (dataset,))
    if kind is np.ndarray:
        return _of_array(dataset)
    if kind is Subset:
        return _Part(dataset)
    if kind is ConcatDataset:
        return _Parts(dataset)
    if kind in (list, tuple):
        return _Samples(dataset)
    raise Unsure(f"{kind.__name__} makes its samples by code of its own; those of a TensorDataset(x, y) would be cut")


class _Whole:
    """Tensors of one length: those under a dataset's attribute, or a bare one."""

    def __init__(self, dataset: Any, name: str, bare: tuple[Tensor, ...] = ()) -> None:
        self.dataset, self.name, self.bare, self.single = dataset, name, bare, bool(bare)
        for tensor in self._tensors():
            _check_column(tensor, len(dataset))

    @property
    def watched(self) -> bool:
        tensors = self._tensors()
        if type(tensors) is not tuple or any(tensor.requires_grad for tensor in tensors):
            return False  # one of a list can be replaced; rows of what requires a gradient belong to one backward pass
        # What is in memory that NumPy has, too, can be changed without torch's counting it.
        return all(tensor.untyped_storage().resizable() for tensor in tensors)

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.bare or getattr(self.dataset, self.name)

    def take(self, at: Tensor) -> list[Tensor]:
        tensors = self._tensors()
        if any(tensor.requires_grad for tensor in tensors):
            raise Unsure("a tensor in it is part of a computation")
        check_range(at, len(tensors[0]))
        return [tensor.index_select(0, at.to(tensor.device)) for tensor in tensors]

    def leaves(self) -> list[Leaf]:
        tensors = self._tensors()
        owner, versions = None if self.bare else self.dataset, [tensor._version for tensor in tensors]
        return [(tensors, owner, self.name, tensors, versions)]

    def structure(self) -> list[Any]:
        return []

    def likes(self) -> list[Tensor]:
        return [tensor[0] for tensor in self._tensors()]


def _check_column(tensor: Any, length: int) -> None:
    """Raise `Unsure` unless taking rows of a tensor gives what stacking its rows gives."""
    if type(tensor) is not Tensor:
        raise Unsure(f"it holds {a_kind(tensor)}")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        raise Unsure("a tensor in it is not an ordinary one")
    if tensor.requires_grad or tensor.is_inference() or tensor.is_conj() or tensor.is_neg():
        raise Unsure("a tensor in it is part of a computation")
    if not tensor.ndim or not len(tensor) or len(tensor) != length or not tensor.is_contiguous():
        raise Unsure("a tensor in it is empty, of another length or not contiguous")
    # A batch of images may be laid out channels last by the one way and not by the other, which changes rounding.
    stacked, zero = torch.stack([tensor[0], tensor[0]]), torch.zeros(2, dtype=torch.int64, device=tensor.device)
    if stacked.stride() != tensor.index_select(0, zero).stride():
        raise Unsure("a tensor in it is laid out in an order of its own")


def _of_array(array: Any) -> _Whole:
    if array.ndim < 2 or not array.flags.c_contiguous or not array.flags.writeable:
        raise Unsure("an array of fewer than two dimensions, not contiguous or not writable")
    try:
        tensors = (torch.from_numpy(array),)
    except TypeError as error:
        raise Unsure(f"torch has no such array ({error})") from None
    return _Whole(array, "", tensors)


class _Part:
    """A `Subset`."""

    def __init__(self, dataset: Any) -> None:
        self.whole, self.dataset = columns_of(dataset.dataset), dataset
        self.single = self.whole.single
        if type(dataset.indices) not in (list, tuple, range, np.ndarray, Tensor):
            raise Unsure(f"the indices of the Subset are {a_kind(dataset.indices)}")

    @property
    def watched(self) -> bool:
        return self.whole.watched

    def take(self, at: Tensor) -> list[Tensor]:
        mapping = self.dataset.indices
        check_range(at, len(mapping))
        if isinstance(mapping, Tensor):
            return self.whole.take(as_indices(mapping[at.to(mapping.device)].cpu()))
        if isinstance(mapping, np.ndarray):
            return self.whole.take(as_indices(mapping[at.numpy()]))
        return self.whole.take(as_indices([mapping[index] for index in at.tolist()]))

    def leaves(self) -> list[Leaf]:
        part, mapping = self.dataset, self.dataset.indices
        counted = (mapping,) if type(mapping) is Tensor else ()
        indices: Leaf = (mapping, part, "indices", counted, [tensor._version for tensor in counted])
        return [*self.whole.leaves(), indices, (part.dataset, part, "dataset", (), [])]

    def structure(self) -> list[Any]:
        return [self.dataset.dataset, self.dataset.indices, *self.whole.structure()]

    def likes(self) -> list[Tensor]:
        return self.whole.likes()


class _Parts:
    """A `ConcatDataset`."""

    def __init__(self, dataset: Any) -> None:
        if len(dataset.datasets) > MOST_PARTS:
            raise Unsure(f"a ConcatDataset of more than {MOST_PARTS} parts")
        self.parts, self.dataset = [columns_of(part) for part in dataset.datasets], dataset
        if any(type(part) is _Samples for part in self.parts):
            raise Unsure("a part of the ConcatDataset is a list")
        self.single = self.parts[0].single
        shapes = [(part.single, [_kind(like) for like in part.likes()]) for part in self.parts]
        if any(shape != shapes[0] for shape in shapes):
            raise Unsure("the parts of the ConcatDataset are of different kinds")
        try:
            self.take(torch.zeros(1, dtype=torch.int64))
        except NotImplementedError as error:  # of some types it can take rows, but put none into their places
            raise Unsure(f"torch cannot put the parts of the ConcatDataset together ({error})") from None

    @property
    def watched(self) -> bool:
        return all(part.watched for part in self.parts)

    def take(self, at: Tensor) -> list[Tensor]:
        ends = self.dataset.cumulative_sizes
        check_range(at, ends[-1])
        owners = torch.bucketize(at, torch.tensor(ends), right=True)
        columns = [like.new_empty((len(at), *like.shape)) for like in self.likes()]
        for number, (part, start) in enumerate(zip(self.parts, [0, *ends], strict=False)):
            places = (owners == number).nonzero()[:, 0]
            if len(places):
                for column, rows in zip(columns, part.take(at[places] - start), strict=True):
                    column.index_copy_(0, places.to(column.device), rows)
        return columns

    def leaves(self) -> list[Leaf]:
        return [leaf for part in self.parts for leaf in part.leaves()]

    def structure(self) -> list[Any]:
        return [*self.dataset.datasets, *(held for part in self.parts for held in part.structure())]

    def likes(self) -> list[Tensor]:
        return self.parts[0].likes()


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.device


class _Samples:
    """A list of tensors, or of tuples of tensors and numbers; they are looked at batch by batch."""

    watched = False

    def __init__(self, dataset: Sequence[Any]) -> None:
        if not dataset:
            raise Unsure("it is empty")
        self.dataset, self.single = dataset, type(dataset[0]) is Tensor
        self.likes()

    def take(self, at: Tensor) -> list[Tensor]:
        check_range(at, len(self.dataset))
        samples = [self.dataset[index] for index in at.tolist()]
        if self.single:
            return [_stacked(samples)]
        if len(set(map(type, samples))) > 1 or type(samples[0]) not in (tuple, list) or not samples[0]:
            raise Unsure("the samples are neither tensors nor tuples")
        if len(set(map(len, samples))) > 1:
            raise Unsure("the samples are tuples of different lengths")
        return list(map(_stacked, zip(*samples, strict=True)))

    def leaves(self) -> list[Leaf]:
        return []

    def structure(self) -> list[Any]:
        return []

    def likes(self) -> list[Tensor]:
        return [column[0] for column in self.take(torch.zeros(1, dtype=torch.int64))]


def _stacked(column: Sequence[Any]) -> Tensor:
    """One tensor of the same item of several samples, as `default_collate` makes it."""
    kinds = set(map(type, column))
    if kinds == {Tensor} and column[0].layout is torch.strided and not column[0].is_nested:
        try:
            return torch.stack(column)  # type: ignore[arg-type]  # a tuple does as well
        except RuntimeError as error:
            raise Unsure(f"tensors cannot be stacked: {error}") from None
    if kinds == {int}:
        return torch.tensor(column)
    if kinds == {float}:
        return torch.tensor(column, dtype=torch.float64)
    raise Unsure("the samples hold other things than tensors and numbers")


def check_range(at: Tensor, length: int) -> None:
    """Raise `Unsure` unless all indices are those of a dataset of this length."""
    ends: list[Any] = [end.tolist() for end in torch.aminmax(at)]
    if ends[0] < 0 or ends[1] >= length:
        raise Unsure("an index is out of range")


def as_indices(indices: Any) -> Tensor:
    """Numbers as a tensor of indices (int64).

    Raises:
        Unsure: they are none.
    """
    try:
        array = np.asarray(indices)
    except (TypeError, ValueError) as error:
        raise Unsure(f"the indices are no whole numbers ({error})") from None
    if array.dtype.kind != "i" or array.ndim != 1 or not array.size:
        raise Unsure("the indices are no whole numbers")
    return torch.from_numpy(array.astype(np.int64))
