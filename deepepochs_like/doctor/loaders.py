"""Checks of loaders: empty, the same batch again, sorted, shuffled, cut short, and overlapping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from ..data.resume import length_of
from .case import CannotTell, Case, Found
from .looking import MANY, Seen, tensors_in


def loader_fails(case: Case) -> Iterator[Found]:
    """A loader that is empty, or fails on its first batches."""
    for seen in [*case.train, *case.val]:
        if seen.error:
            message = seen.error[0].upper() + seen.error[1:].rstrip(".") + "."
            yield "error", message, "Iterate over the loader by itself: for batch in loader: ...", {"loader": seen.name}


def same_batch(case: Case) -> Iterator[Found]:
    """The same inputs in every batch, or in every sample of a batch."""
    for seen in case.train:
        tensors = [_inputs(batch) for batch in seen.batches]
        if not tensors or not tensors[0]:
            continue
        several = [_several(one) for one in tensors]
        if len(tensors) > 1 and max(several) > 1 and all(_equal(tensors[0], other) for other in tensors[1:]):
            message = f"The first {len(tensors)} batches of {seen.name} have the same inputs."
            fix = "Let the loader go on: look for a dataset that ignores its index, or an iterator made anew each time."
            yield "error", message, fix, {"loader": seen.name}
        elif several[0] >= 4 and all(bool((t == t[:1]).all()) for t in tensors[0] if t.ndim):
            message = f"All {several[0]} samples of a batch of {seen.name} have the same inputs."
            fix = "Look for a dataset whose __getitem__ ignores its index, or a collate_fn that repeats a sample."
            yield "error", message, fix, {"loader": seen.name, "samples": several[0]}


def _inputs(batch: Any) -> list[Tensor]:
    """The inputs of a batch: all but the target, where there is one."""
    parts = batch[:-1] if isinstance(batch, (list, tuple)) and len(batch) > 1 else batch
    return [t for t in tensors_in(parts) if t.numel()]


def _several(tensors: list[Tensor]) -> int:
    return max((int(t.shape[0]) for t in tensors if t.ndim), default=0)


def _equal(some_tensors: list[Tensor], others: list[Tensor]) -> bool:
    return len(some_tensors) == len(others) and all(map(torch.equal, some_tensors, others))


def train_not_shuffled(case: Case) -> Iterator[Found]:
    """Training data in an order in which the labels are sorted."""
    for seen in case.train:
        if seen.order != "sequential" or len(seen.batches) < 2:
            continue
        labels = _labels(seen)
        if labels is None or labels.numel() < 8:
            continue
        classes, changes = int(labels.unique().numel()), int((labels[1:] != labels[:-1]).sum())
        if 2 <= classes <= max(2, labels.numel() // 4) and changes <= max(classes - 1, 1.2 * (classes - 1)):
            message = (
                f"{seen.name} is not shuffled, and its labels are sorted: {classes} classes in {changes + 1} blocks. "
                "Batches of one class after the other teach the model to forget."
            )
            yield (
                "error",
                message,
                "Pass shuffle=True to the training loader.",
                {"classes": classes, "blocks": changes + 1},
            )


def _labels(seen: Seen) -> Tensor | None:
    """All labels in order, or those of samples here and there."""
    labels = seen.targets
    if labels is None and isinstance(seen.loader, DataLoader) and (count := length_of(seen.loader.dataset)):
        items = [seen.loader.dataset[i * (count - 1) // 23] for i in range(24)] if count >= 96 else []
        found = [item[-1] for item in items if isinstance(item, (list, tuple)) and len(item) > 1]
        try:
            labels = torch.as_tensor([int(one) for one in found]) if found and all(map(_whole, found)) else None
        except (TypeError, ValueError):
            labels = None
    if labels is None or labels.ndim != 1 or not bool((labels == labels.round()).all()):
        return None
    return labels if labels.unique().numel() <= 1000 else None


def _whole(label: Any) -> bool:
    if isinstance(label, Tensor):
        return label.ndim == 0 and not label.is_floating_point()
    return isinstance(label, (int, np.integer))


def val_shuffled(case: Case) -> Iterator[Found]:
    """Validation in a random order."""
    for seen in case.val:
        if seen.order == "shuffled" and not _same_sampler(seen):
            message = f"{seen.name} is shuffled: harmless to the figures, but it draws from the generators of training."
            yield "hint", message, "Leave shuffle=True out of validation loaders.", {"loader": seen.name}


def _same_sampler(seen: Seen) -> bool:
    """A SubsetRandomSampler is how a part of a dataset is chosen, not how it is shuffled."""
    return type(getattr(seen.loader, "sampler", None)).__name__ == "SubsetRandomSampler"


def val_drop_last(case: Case) -> Iterator[Found]:
    """Validation that leaves its last samples out."""
    for seen in case.val:
        loader = seen.loader
        if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler or not loader.drop_last:
            continue
        count, size = length_of(loader.sampler), int(loader.batch_size or 1)
        if count and count % size:
            message = f"{seen.name} has drop_last=True: {count % size} of {count} samples are never validated on."
            yield "warning", message, "Leave drop_last=True out of validation loaders.", {"left_out": count % size}


def val_overlaps_train(case: Case) -> Iterator[Found]:
    """Samples that are both trained and validated on."""
    untold = []
    for val in case.val:
        for train in case.train:
            found = _overlap(train, val)
            if found is None:
                untold.append(f"{val.name} and {train.name}")
                continue
            shared, count, how = found
            if shared:
                message = (
                    f"{shared} of the {count} samples of {val.name} are also in {train.name} ({how}): validation "
                    "figures will be too good."
                )
                fix = (
                    "Split once, into parts without common samples: train, val = random_split(data, [0.8, 0.2], "
                    "generator) gives both; two calls overlap."
                )
                yield "error", message, fix, {"shared": shared, "samples": count}
    if untold:
        raise CannotTell(f"it is not known which samples are in {', '.join(untold)}")


def _overlap(train: Seen, val: Seen) -> tuple[int, int, str] | None:
    """How many of the validation samples are trained on, of how many, and how that is known; None where it is not."""
    if train.loader is val.loader:
        count = len(val.members[1]) if val.members else length_of(val.loader) or 1
        return count, count, "it is the same loader"
    if isinstance(train.loader, (list, tuple)) and isinstance(val.loader, (list, tuple)):
        return _of_batches(train.loader, val.loader)
    if train.members is None or val.members is None:
        return None
    (base, mine), (other, theirs) = train.members, val.members
    if base is other or _same_content(base, other):
        shared = int(torch.isin(theirs, mine).sum())
        return shared, len(theirs), "by their indices in one dataset"
    if isinstance(base, (list, tuple)) and isinstance(other, (list, tuple)):
        kinds = (tuple, list, dict, torch.Tensor)
        known = {id(base[i]) for i in mine.tolist() if isinstance(base[i], kinds)}
        return sum(id(other[i]) in known for i in theirs.tolist()), len(theirs), "the same objects"
    by_rows = _by_rows(base, mine, other, theirs) if _settings(base) == _settings(other) else None
    return by_rows or _by_items(train, val)


def _of_batches(train: Any, val: Any) -> tuple[int, int, str]:
    """Batches that are in both lists: all of their tensors are equal, targets and masks included."""
    mine = [list(tensors_in(batch)) for batch in train[:50]]
    theirs = [list(tensors_in(batch)) for batch in val[:50]]
    sizes = [_several(batch) for batch in theirs]
    shared = sum(
        size for batch, size in zip(theirs, sizes, strict=True) if batch and any(_equal(batch, m) for m in mine)
    )
    return shared, sum(sizes), "the same batches"


def _arrays(dataset: Any) -> dict[str, Any]:
    """What a dataset holds per sample: tensors and arrays as long as it is."""
    if isinstance(dataset, TensorDataset):
        return {str(i): t for i, t in enumerate(dataset.tensors)}
    count = length_of(dataset)
    held = getattr(dataset, "__dict__", {}).items()
    return {k: v for k, v in held if isinstance(v, (Tensor, np.ndarray)) and v.ndim and len(v) == count}


def _settings(dataset: Any) -> dict[str, Any]:
    """Numbers and words that a dataset of its own kind goes by: an offset, a part."""
    held = getattr(dataset, "__dict__", {}).items()
    return {k: v for k, v in held if isinstance(v, (int, float, str, range)) and not isinstance(v, bool)}


def _same_content(one: Any, other: Any) -> bool:
    """Whether two datasets of a class hold the same, as two with different transforms of one file do."""
    if type(one) is not type(other) or isinstance(one, (list, tuple)) or length_of(one) != length_of(other):
        return False
    if _settings(one) != _settings(other):
        return False
    mine, theirs = _arrays(one), _arrays(other)
    if mine.keys() != theirs.keys():
        return False
    if not mine:
        lists = [(v, vars(other).get(k)) for k, v in getattr(one, "__dict__", {}).items() if isinstance(v, list)]
        lists = [(a, b) for a, b in lists if len(a) == length_of(one)]
        return bool(lists) and all(a is b or _lists_equal(a, b) for a, b in lists)
    return all(_arrays_equal(mine[key], theirs[key]) for key in mine)


def _lists_equal(one: list[Any], other: Any) -> bool:
    try:
        return len(one) <= MANY and bool(one == other)
    except (RuntimeError, ValueError):  # of tensors or arrays
        return False


def _arrays_equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other) or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.equal(one, other) if isinstance(one, Tensor) else np.array_equal(one, other))


def _by_rows(base: Any, mine: Tensor, other: Any, theirs: Tensor) -> tuple[int, int, str] | None:
    """Equal samples in two datasets, more of them than there are equal ones within the training set."""
    columns = [list(_arrays(dataset).values()) for dataset in (base, other)]
    if not columns[0] or len(columns[0]) != len(columns[1]) or max(len(mine), len(theirs)) > 5 * MANY:
        return None
    tensors = [[torch.as_tensor(c) for c in one] for one in columns]
    if any(a.shape[1:] != b.shape[1:] or a.dtype != b.dtype for a, b in zip(*tensors, strict=True)):
        return 0, len(theirs), ""
    if sum(t[0].numel() for t in tensors[0]) < 3:
        return None
    known, asked = _marks(tensors[0], mine), _marks(tensors[1], theirs)
    among = 1 - known.unique().numel() / max(len(known), 1)
    shared = int(torch.isin(asked, known).sum())
    often = shared > (3 * among + 0.005) * len(theirs)
    return shared if often else 0, len(theirs), "by their content"


def _by_items(train: Seen, val: Seen) -> tuple[int, int, str] | None:
    """The same of datasets that have to be asked for each sample."""
    if not train.items or not val.items:
        return None
    known, asked = [list(map(_bytes, seen.items or [])) for seen in (train, val)]
    distinct = set(known)
    shared = sum(mark in distinct for mark in asked)
    often = shared > (3 * (1 - len(distinct) / len(known)) + 0.005) * len(asked)
    return shared if often else 0, len(asked), "by their content"


def _bytes(item: Any) -> Any:
    """What a sample is known by."""
    if isinstance(item, (list, tuple)):
        return tuple(map(_bytes, item))
    if isinstance(item, dict):
        return tuple((key, _bytes(value)) for key, value in item.items())
    if isinstance(item, Tensor):
        item = item.detach().cpu().numpy()
    if isinstance(item, (np.ndarray, np.generic)):
        return hash(item.tobytes())
    return item if isinstance(item, (int, float, str, bytes)) else id(item)


def _marks(tensors: list[Tensor], rows: Tensor) -> Tensor:
    """A number for each row, the same for the same content, of up to 64 values of each tensor."""
    marks = torch.zeros(len(rows), dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for tensor in tensors:
        flat = tensor.reshape(len(tensor), -1)
        chosen = torch.randperm(flat.shape[1], generator=generator)[:64]
        part = flat[rows.to(flat.device)][:, chosen.to(flat.device)].cpu()
        bits = part.double().contiguous().view(torch.int64) if part.is_floating_point() else part.long()
        factors = torch.randint(-(2**62), 2**62, (len(chosen),), generator=generator)
        marks += ((bits ^ (bits >> 29)) * factors).sum(1)
    return marks
