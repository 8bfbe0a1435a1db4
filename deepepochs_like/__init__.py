"""Train, test and remember PyTorch models: ``Trainer(model, loss, opt).fit(train_dl, val_dl)``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import metrics, patches
from .callbacks import Callback, CheckCallback, Checkpoint, DefaultCallback, EarlyStopping
from .checkpoint import CheckpointStore
from .compat import Moveing, TrainerBase, batch_size
from .errors import CallbackException, EngineError, EngineWarning, LoopException, StopLoopException
from .history import History
from .optimizer import Optimizer, Optimizers
from .patches import ConfusionMetrics, ConfusionPatch, MeanPatch, PatchBase, TensorPatch, ValuePatch
from .rng import Generators, set_seed
from .task import EpochTask
from .tensors import TensorDict, TensorTuple, concat
from .trainer import Trainer
from .utils.containers import concat_dicts, ddict, detach_clone, flatten_dict, listify, sum_dicts, to_numpy
from .utils.names import make_runningid, rename
from .utils.samples import batches, groupby_apply
from .utils.trackers import TopKQueue
from .weights import load_weights, save_weights

if TYPE_CHECKING:
    from .utils.plots import SeriesPlots, plot_confusion
    from .utils.schedule import LinearCosineScheduler
    from .utils.yaml_file import load_yaml

    __version__: str

#: Names that are loaded when they are first asked for, each with its module: few scripts use them.
_LATER = {
    "LinearCosineScheduler": ".utils.schedule",
    "SeriesPlots": ".utils.plots",
    "load_yaml": ".utils.yaml_file",
    "plot_confusion": ".utils.plots",
}

__all__ = [
    "Callback",
    "CallbackException",
    "CheckCallback",
    "Checkpoint",
    "CheckpointStore",
    "ConfusionMetrics",
    "ConfusionPatch",
    "DefaultCallback",
    "EarlyStopping",
    "EngineError",
    "EngineWarning",
    "EpochTask",
    "Generators",
    "History",
    "LinearCosineScheduler",
    "LoopException",
    "MeanPatch",
    "Moveing",
    "Optimizer",
    "Optimizers",
    "PatchBase",
    "SeriesPlots",
    "StopLoopException",
    "TensorDict",
    "TensorPatch",
    "TensorTuple",
    "TopKQueue",
    "Trainer",
    "TrainerBase",
    "ValuePatch",
    "batch_size",
    "batches",
    "concat",
    "concat_dicts",
    "ddict",
    "detach_clone",
    "flatten_dict",
    "groupby_apply",
    "listify",
    "load_weights",
    "load_yaml",
    "make_runningid",
    "metrics",
    "patches",
    "plot_confusion",
    "rename",
    "save_weights",
    "set_seed",
    "sum_dicts",
    "to_numpy",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        value = getattr(importlib.import_module(_LATER[name], __name__), name)
    elif name == "__version__":
        # Written down once, in pyproject.toml, and read from what was installed.
        value = importlib.import_module("importlib.metadata").version("deepepochs_like")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
