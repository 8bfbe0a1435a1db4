"""`TorchMetricPatch`: a `torchmetrics.Metric` or `MetricCollection` as a patch."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import PatchError
from ..types import StateDict, Value, Weight
from .base import Outputs, PatchBase, check_value, is_torchmetric, metric_name, own_copy, restored, same_kind, saved


class TorchMetricPatch(PatchBase):
    """A torchmetrics object as a patch; the object given is a pattern, neither updated nor called itself.

    Two patches merge by the reduction of each state (sum, mean, max, min, cat, or a function of the stacked states), in
    wrapped metrics too. The object is updated when a batch is over, and so are the weights: a batch that is skipped
    because this update fails has been trained on. torchmetrics validates its inputs by reading them back;
    ``validate_args=False`` spares that.

    Args:
        metric: a `torchmetrics.Metric` or `MetricCollection`.
        batch_size: taken for symmetry with the other patches.
        name: see `PatchBase`; by default the class's name; the figures of a collection keep the collection's names.
    """

    def __init__(self, metric: Any, batch_size: Weight | None = None, name: str | None = None) -> None:
        super().__init__(name)
        self.batch_size = batch_size
        self.metric = metric.clone()
        self.metric.reset()
        self._device: torch.device | None = None
        #: Whether it holds anything, which wrappers of their own kind do not tell.
        self._holds = False

    def load(self, preds: Any, targets: Any) -> Any:
        """Take in a batch."""
        self.metric.reset()
        return self.absorb(Outputs(preds, targets))

    def absorb(self, outputs: Outputs) -> Any:
        """Take in one more batch, in place."""
        if isinstance(outputs.preds, torch.Tensor) and outputs.preds.device != self._device:
            self._device = outputs.preds.device
            self.metric.to(self._device)
        self.metric.update(outputs.preds, outputs.targets)
        self._holds = True
        return self

    def forward(self) -> Value:
        if not self._holds:
            name = self.name or metric_name(self.metric)
            raise PatchError(f"TorchMetricPatch {name} holds nothing yet: load a batch before reading it")
        value: Value = check_value(self.metric.compute(), self.name or metric_name(self.metric))
        return value

    def empty(self) -> Any:
        """A patch like this one that has seen nothing: the identity of `+`."""
        twin = own_copy(self)
        twin.metric.reset()
        twin._holds = False
        return twin

    def add(self, other: Any) -> Any:
        return own_copy(self).merge_(other)

    def merge_(self, other: Any) -> Any:
        same_kind(self, other, self.name)
        mine, theirs = _untied(self.metric), _untied(other.metric)
        if {k: type(v) for k, v in mine.items()} != {k: type(v) for k, v in theirs.items()}:
            raise PatchError(f"cannot merge torchmetrics {_names(mine)} with {_names(theirs)}: the metrics differ")
        for key, part in mine.items():
            if hasattr(part, _SEEN):
                raise PatchError(
                    f"{type(part).__name__} takes the last updates, in their order, so two of them cannot be merged"
                )
            if theirs[key].update_called:
                _merge_states(part, theirs[key])
        self._holds = self._holds or other._holds
        return self

    def state_dict(self) -> StateDict:
        """The states of the metric and how often each was updated."""
        parts = {}
        for key, part in _untied(self.metric).items():
            where = f"{type(part).__name__}."
            states = {name: saved(getattr(part, name), where + name) for name in part._defaults}
            parts[key] = {"updates": part._update_count, "states": states, "seen": getattr(part, _SEEN, None)}
        return {"name": self.name, "parts": parts, "holds": self._holds}

    def load_state_dict(self, state_dict: StateDict) -> None:
        parts, given = _untied(self.metric), state_dict["parts"]
        if {k: set(v._defaults) for k, v in parts.items()} != {k: set(v["states"]) for k, v in given.items()}:
            raise PatchError(f"the state is of torchmetrics {list(given)}; the metric at hand is {_names(parts)}")
        for key, part in parts.items():
            for name, value in given[key]["states"].items():
                setattr(part, name, restored(value))
            part._update_count, part._computed = given[key]["updates"], None
            if hasattr(part, _SEEN):
                setattr(part, _SEEN, given[key]["seen"])
        self.name, self._device, self._holds = state_dict["name"], None, _held(state_dict)


#: What `torchmetrics.wrappers.Running` counts beside its states.
_SEEN = "_num_vals_seen"


def _held(state_dict: StateDict) -> bool:
    """Whether a state is of a patch that held anything; one of an earlier version tells by its updates."""
    updated = any(part["updates"] for part in state_dict["parts"].values())
    return bool(state_dict.get("holds", updated))


def _parts(metric: Any) -> dict[str, Any]:
    """The single metrics in a metric, a wrapper of metrics or a collection, by their place in it."""
    parts = [
        (name, part) for name, part in metric.named_modules() if is_torchmetric(part) and hasattr(part, "_defaults")
    ]
    # A wrapper may answer with the states of what it wraps, which count once: those of the innermost metric.
    single = {id(part._defaults): name for name, part in parts}
    return {name: part for name, part in parts if single[id(part._defaults)] == name}


def _untied(metric: Any) -> dict[str, Any]:
    """The single metrics, each with states of its own: a collection shares them within a compute group."""
    if hasattr(metric, "compute_groups"):
        metric.items(keep_base=True, copy_state=True)
    return _parts(metric)


def _names(parts: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {type(part).__name__}" if name else type(part).__name__ for name, part in parts.items())


def _merge_states(mine: Any, theirs: Any) -> None:
    """Merge the states of one metric by each state's own reduction."""
    weights = (mine._update_count, theirs._update_count)
    merged = {}
    for name, reduction in mine._reductions.items():
        a, b = getattr(mine, name), getattr(theirs, name)
        if not weights[0]:
            merged[name] = list(b) if isinstance(b, list) else b.clone()
        elif isinstance(a, list):
            merged[name] = [*a, *(b if isinstance(b, list) else [b])]
        else:
            b = torch.cat([torch.atleast_1d(t) for t in b]) if isinstance(b, list) else b
            merged[name] = _reduced(reduction, a, b, weights, f"{type(mine).__name__}.{name}")
    for name, state in merged.items():
        setattr(mine, name, state)
    mine._update_count, mine._computed = sum(weights), None


def _reduced(reduction: Any, a: torch.Tensor, b: torch.Tensor, weights: tuple[int, int], where: str) -> torch.Tensor:
    kind = getattr(reduction, "__name__", "")
    if kind == "dim_zero_sum":
        return a + b
    if kind == "dim_zero_mean":
        return (a * weights[0] + b * weights[1]) / sum(weights)
    if kind == "dim_zero_max":
        return torch.maximum(a, b)
    if kind == "dim_zero_min":
        return torch.minimum(a, b)
    if kind == "dim_zero_cat":
        return torch.cat((torch.atleast_1d(a), torch.atleast_1d(b)))
    if reduction is None:
        raise PatchError(f"{where} has no reduction (dist_reduce_fx=None), so two of them cannot be merged")
    reduced: torch.Tensor = reduction(torch.stack((a, b)))
    return reduced
