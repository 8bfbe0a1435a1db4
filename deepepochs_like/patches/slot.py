"""`Slot`: one metric of a task, as the patch that adds it up over an epoch."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import ArgumentError, ArgumentTypeError, EngineError, PatchError, a_kind, did_you_mean
from ..metrics import check_labels
from ..rng import rng_state, set_rng_state
from ..shapes import broadcast, watched
from ..tensors import batch_size, concat, map_tensors
from ..types import StateDict, Weight
from ..utils.warn import warn
from .base import Outputs, PatchBase, check_value, is_torchmetric, metric_name, shown
from .confusion import ConfusionMetrics, ConfusionPatch
from .intact import copied
from .tensor import TensorPatch
from .torchmetric import TorchMetricPatch
from .value import MeanPatch

KINDS: dict[str, type[PatchBase]] = {"tensor": TensorPatch, "mean": MeanPatch, "confusion": ConfusionPatch}


class Slot:
    """A metric with the accumulator of its epoch so far.

    In its first epoch a slot looks at its metric more closely: one that is computed only when the epoch is read is
    tried on the first batch, and one that is averaged over batches is compared with its value over two of them.

    Args:
        metric: a function ``(preds, targets)``, a torchmetrics object, or a patch that serves as a pattern.
        kind: how functions are added up: ``'tensor'``, ``'mean'``, ``'confusion'`` or a Patch class that takes
            ``(metric, batch_size)``.
        said: warnings given already; this one's are added to them.
        probe: whether a metric that is computed only when it is read is tried on the first batch.

    Raises:
        ArgumentTypeError, ArgumentError: the metric cannot be called, or the kind is none of these.
    """

    def __init__(
        self,
        metric: Any,
        kind: str | type[PatchBase] = "tensor",
        said: set[str] | None = None,
        probe: bool = False,
    ) -> None:
        self.metric, self.kind = metric, kind
        self._class = _patch_class(metric, kind)
        self.name = _slot_name(metric)
        self.said: set[str] = set() if said is None else said
        #: Built-in patches take batches in themselves; of others each batch makes one, which is merged.
        self.patch: Any = None
        self.taken = False
        self._next: Any = None
        self.reset()
        #: The first batches, while the metric is looked at; None once it is known.
        late = isinstance(self.patch, (TensorPatch, ConfusionPatch, TorchMetricPatch))
        self._early: list[Outputs] | None = [] if isinstance(self.patch, MeanPatch) or (late and probe) else None

    def make(self, weight: Weight) -> Any:
        """A fresh patch for a batch of the given weight."""
        return self.metric.empty() if self._class is None else self._class(metric=self.metric, batch_size=weight)

    def reset(self) -> None:
        """Begin a new epoch."""
        first, self.taken = self.make(1), False
        self._absorbs: bool = first.absorbs
        self._measures = self._absorbs and type(first).absorb is MeanPatch.absorb
        self.patch = first if self._absorbs else None

    @property
    def family(self) -> str | None:
        """What slots have in common whose accumulators hold the same, so that one keeps it for all; None is alone."""
        kind = type(self.patch)
        return "tensor" if kind is TensorPatch else "confusion" if kind in (ConfusionPatch, ConfusionMetrics) else None

    @property
    def prepares(self) -> bool:
        """Whether `prepare` has something to do with the next batch."""
        counted = isinstance(self.patch, ConfusionPatch)
        return self._early is not None or self._measures or not self._absorbs or counted

    def follow(self, leader: Slot) -> None:
        """Take over what a slot of the same family has kept."""
        self.taken = leader.taken
        self.patch.follow(leader.patch)

    def prepare(self, outputs: Outputs) -> None:
        """Do all that may fail with a batch; `take` then only adds it up. Between the two the weights are updated.

        A torchmetrics object is updated by `take` only, as it could not be put back: of its mistakes the first batch
        tells, on which it is tried where that is asked for.
        """
        if self._early is not None and not self._measures:
            self._look(self._early, outputs)
        if self._measures:
            self._next = self.patch.measure(outputs)
            if self._early is not None and len(self._early) < 2:
                self._look_at_mean(self._early, outputs)
        elif isinstance(self.patch, ConfusionPatch):
            check_labels(outputs.preds, outputs.targets)
        elif not self._absorbs:
            self._next = self._of(outputs)

    def prepare_first(self, outputs: Outputs) -> None:
        """Do the same with the first batch of an epoch, and see whether the metric mixes up samples in it."""
        if broadcast(outputs.preds, outputs.targets, self.said, self.metric) is None:
            self.prepare(outputs)
            return
        if self._early is None and not self._measures and self._absorbs:
            self._early = []  # or it would not be called before the epoch is over
        with watched(outputs.preds, outputs.targets, self.said, self.metric):
            self.prepare(outputs)

    def take(self, outputs: Outputs) -> None:
        """Take in one batch, which `prepare` has seen."""
        self.taken = True
        if self._measures:
            try:
                self.patch.take_value(self._next, outputs.weight)
            except RuntimeError as error:
                if misfit := self._misfit():
                    raise PatchError(misfit) from error
                raise
        elif self._absorbs:
            self.patch = self.patch.absorb(outputs)
        else:
            self.patch = self._next if self.patch is None else self.patch.merge_(self._next)

    def _of(self, outputs: Outputs) -> Any:
        """The patch of one batch alone."""
        patch = self.make(outputs.weight)
        if self._absorbs:
            return patch.absorb(outputs)
        loaded = patch.load(outputs.preds, outputs.targets)
        if not isinstance(loaded, PatchBase):
            raise PatchError(f"{type(patch).__name__}.load() returned {shown(loaded)}; it must return self")
        return loaded

    def of_batch(self, outputs: Outputs) -> Any:
        """The metric's value on one batch alone."""
        return self._of(outputs)()

    def _look(self, early: list[Outputs], outputs: Outputs) -> None:
        """Look at one of the first batches."""
        if isinstance(self.patch, MeanPatch):
            if len(early) < 2:
                early.append(outputs)
            return
        self._early = None
        try:
            with _generators_kept():
                self.of_batch(Outputs(copied(outputs.preds), copied(outputs.targets), outputs.weight))
        except (ArithmeticError, ValueError) as error:  # what a batch may lack and an epoch has: a class, a positive
            if isinstance(error, EngineError):
                raise
            self._say(
                f"metric {self.name!r} failed on the first batch alone ({type(error).__name__}: {error}); training "
                "goes on, and it is computed over the whole epoch at its end"
            )

    def _look_at_mean(self, early: list[Outputs], outputs: Outputs) -> None:
        """Look at what an averaged metric gives for one of the first two batches: a mean takes one number each."""
        early.append(outputs)
        shape = shape_per_sample(self.patch.metric, self._next, outputs)
        if shape is not None:
            raise PatchError(
                f"metric {self.name!r} returned a tensor of shape {shape}, with values for each sample of the batch; "
                "metric_patch='mean' averages one number per batch: end it in .mean()"
            )
        if misfit := self._misfit():
            raise PatchError(misfit)

    def _misfit(self) -> str:
        """What is wrong with a value that cannot be added to those before; nothing where that is not its shape."""
        value = self._next if isinstance(self._next, Mapping) else {"": self._next}
        for key, item in value.items():
            now = torch.Size(getattr(item, "shape", ()))
            before = self.patch.sums[key][0].shape if key in self.patch.sums else now
            if before.numel() != now.numel():
                return (
                    f"metric {self.name!r} returned a tensor of shape {tuple(now)}, and of shape {tuple(before)} for "
                    "batches before; metric_patch='mean' averages numbers, or tensors of one shape: end it in .mean()"
                )
        return ""

    def check_mean(self) -> None:
        """Warn, once, of a metric that is averaged over batches although it is not a mean over samples.

        To be called when an epoch is read, which may wait for the device; from the second time on it does nothing.
        """
        early, self._early = self._early, None
        if early is None or len(early) != 2 or not isinstance(self.patch, MeanPatch):
            return
        try:
            with _generators_kept():
                first, second, whole = (self._value(outputs) for outputs in (*early, _both(*early)))
        except Exception:  # batches that cannot be put together give nothing to compare with
            return
        weights = [float(outputs.weight) for outputs in early]
        if not all(_is_mean(first[k], second[k], whole[k], weights) for k in whole if k in first and k in second):
            self._say(
                f"metric {self.name!r} is averaged over batches (metric_patch='mean'), but its value over an epoch is "
                "not that mean: it depends on how the samples are cut into batches. Use metric_patch='tensor', or "
                "'confusion' with a function of the confusion matrix"
            )

    def _value(self, outputs: Outputs) -> dict[str, Any]:
        value = check_value(self.patch.metric(copied(outputs.preds), copied(outputs.targets)), self.name)
        return dict(value) if isinstance(value, Mapping) else {"": value}

    def _say(self, message: str) -> None:
        if message not in self.said:
            self.said.add(message)
            warn(message)

    def state_dict(self) -> StateDict | None:
        """The accumulator's state; None before the first batch."""
        return self.patch.state_dict() if self.taken else None

    def load_state_dict(self, state: StateDict | None, device: torch.device | None = None) -> None:
        """Restore the accumulator, its tensors on `device`."""
        if state is not None:
            self.taken = True
            if self.patch is None:
                self.patch = self.make(1)
            self.patch.load_state_dict(state if device is None else map_tensors(state, lambda t: t.to(device)))


def _slot_name(metric: Any) -> str:
    if isinstance(metric, PatchBase):
        if metric.name is not None:
            return metric.name
        metric = getattr(metric, "metric", None) or metric
    return metric_name(metric)


def _patch_class(metric: Any, kind: Any) -> Any:
    """The class that adds a metric up; None where the metric is itself a patch to make others from."""
    if isinstance(metric, PatchBase):
        if not metric.absorbs or not hasattr(metric, "empty"):
            raise ArgumentTypeError(
                f"metrics: {type(metric).__name__} cannot be a pattern for every batch (it has no empty() and "
                "absorb()); return it from a step, or pass its class as metric_patch"
            )
        return None
    if is_torchmetric(metric):
        return TorchMetricPatch
    if isinstance(metric, type):
        raise ArgumentTypeError(f"metrics: {metric.__name__} is a class; pass an instance, {metric.__name__}(...)")
    if not callable(metric):
        raise ArgumentTypeError(
            f"metrics: {metric!r} ({a_kind(metric)}) is neither a function, a torchmetrics object nor a patch"
        )
    return check_kind(kind)


def check_kind(kind: Any) -> type[PatchBase]:
    """Return the Patch class that a ``metric_patch`` stands for.

    Raises:
        ArgumentTypeError, ArgumentError: it stands for none, or for one that is not made from a metric.
    """
    needed = f"metric_patch={kind!r}: 'tensor', 'mean', 'confusion' or a Patch class is needed"
    if isinstance(kind, str):
        if kind not in KINDS:
            raise ArgumentError(needed + did_you_mean(kind, KINDS))
        return KINDS[kind]
    patch_class = kind
    if not (isinstance(patch_class, type) and issubclass(patch_class, PatchBase)):
        raise ArgumentTypeError(needed)
    try:
        inspect.signature(patch_class).bind(metric=None, batch_size=1)
    except TypeError as error:
        name = patch_class.__name__
        raise ArgumentTypeError(
            f"metric_patch={name}: it is made as {name}(metric=..., batch_size=...), which it does not take ({error})"
        ) from None
    return patch_class


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the random generators as they were, whatever a metric draws from them."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


def shape_per_sample(metric: Any, value: Any, outputs: Outputs) -> tuple[int, ...] | None:
    """The shape of what a metric returned, where its first dimension grows with the batch; None where it does not.

    A shape may be that of the batch by chance, as of a figure per class: parts of the batch tell.

    Args:
        metric: ``(preds, targets)`` to a number, a tensor or a dict of them.
        value: what it returned for the batch.
        outputs: the batch.
    """
    shapes = _shapes(value)
    if not shapes:
        return None
    try:
        size = int(batch_size(outputs.preds, outputs.targets))
        shapes = {key: shape for key, shape in shapes.items() if shape[0] % size == 0}
        parts = {size - 1, size // 2}
        if not shapes or 0 in parts:  # of a single sample nothing can be told
            return None
        metric = copy.deepcopy(metric)  # one that keeps something is not to see batches twice
        for part in parts:
            preds, targets = (_first(x, part, size) for x in (outputs.preds, outputs.targets))
            with _generators_kept():
                fewer = _shapes(metric(preds, targets))
            shapes = {k: s for k, s in shapes.items() if k in fewer and fewer[k][0] * size == s[0] * part}
    except Exception:  # a batch without samples to count, or a metric that fails on a part: it cannot be told
        return None
    return next(iter(shapes.values()), None)


def _shapes(value: Any) -> dict[str, tuple[int, ...]]:
    items = value if isinstance(value, Mapping) else {"": value}
    return {key: tuple(item.shape) for key, item in items.items() if getattr(item, "ndim", 0) and item.shape[0]}


def _first(value: Any, count: int, size: int) -> Any:
    """Copies of the first samples, in every tensor that has one for each: a metric may change them."""
    return map_tensors(value, lambda t: t[:count].clone() if t.ndim and t.shape[0] == size else t.clone())


def _both(first: Outputs, second: Outputs) -> Outputs:
    return Outputs(concat([first.preds, second.preds]), concat([first.targets, second.targets]))


def _is_mean(first: Any, second: Any, whole: Any, weights: list[float]) -> bool:
    """Tell whether a metric's value over two batches is their weighted mean, but for rounding; NaNs tell nothing."""
    values = [torch.as_tensor(value) for value in (first, second, whole)]
    if any(value.is_meta or value.shape != values[0].shape for value in values):
        return True
    eps = max(torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0 for value in values)
    one, two, both = (value.detach().cpu().double() for value in values)
    mean = (one * weights[0] + two * weights[1]) / sum(weights)
    largest = torch.maximum(torch.maximum(one.abs(), two.abs()), both.abs())
    return not bool(((mean - both).abs() > max(1e-4, 8 * eps) * largest + 8 * eps).any())
