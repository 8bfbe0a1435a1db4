"""Patches: the figures of an epoch as things that add up. See `deepepochs_like.patches.base` for the laws."""

from .base import Outputs, PatchBase
from .confusion import ConfusionMetrics, ConfusionPatch
from .running import RunningLoss
from .tensor import TensorPatch
from .torchmetric import TorchMetricPatch
from .value import MeanPatch, ValuePatch

__all__ = [
    "ConfusionMetrics",
    "ConfusionPatch",
    "MeanPatch",
    "Outputs",
    "PatchBase",
    "RunningLoss",
    "TensorPatch",
    "TorchMetricPatch",
    "ValuePatch",
]
