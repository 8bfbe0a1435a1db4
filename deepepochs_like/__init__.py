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
    from .callbacks.accumulation import GradientAccumulation
    from .callbacks.amp import AMP
    from .callbacks.analyze import Analyze, AnalyzeCallback
    from .callbacks.batch_size_finder import BatchSizeFinder
    from .callbacks.csv_file import CSVLogger
    from .callbacks.ema import EMA
    from .callbacks.fine_tune import FineTune, freeze, unfreeze
    from .callbacks.grad_clip import GradClip, GradClipCallback
    from .callbacks.interpret import Interpret
    from .callbacks.interprete_callback import InterpreteCallback
    from .callbacks.jsonl import JSONLLogger
    from .callbacks.log import LogCallback
    from .callbacks.logger import Logger
    from .callbacks.lr_find import LRFindCallback, LRFinder
    from .callbacks.mlflow_logger import MLflowLogger
    from .callbacks.on_oom import OnOOM
    from .callbacks.profile import Profile
    from .callbacks.report import Report
    from .callbacks.resources import ResourceMonitor
    from .callbacks.scheduled import Scheduled
    from .callbacks.stop_on_nan import StopOnNaN
    from .callbacks.swa import SWA
    from .callbacks.tensorboard import TensorBoard
    from .callbacks.timer import Timer
    from .doctor import Diagnosis, Finding
    from .pictures import contact_sheet, learning_rates, plot_learning_rates
    from .schedules import Schedule, constant, cosine, linear, one_cycle, polynomial, warmup
    from .summary import Summary
    from .utils.plots import SeriesPlots, plot_confusion
    from .utils.schedule import LinearCosineScheduler
    from .utils.textchart import confusion_table, line_chart
    from .utils.yaml_file import load_yaml

    __version__: str

#: Names that are loaded when they are first asked for, each with its module: few scripts use them.
_LATER = {
    "Summary": ".summary",
    "InterpreteCallback": ".callbacks.interprete_callback",
    "Interpret": ".callbacks.interpret",
    "AnalyzeCallback": ".callbacks.analyze",
    "Analyze": ".callbacks.analyze",
    "Profile": ".callbacks.profile",
    "Timer": ".callbacks.timer",
    "Diagnosis": ".doctor",
    "Finding": ".doctor",
    "LRFinder": ".callbacks.lr_find",
    "LRFindCallback": ".callbacks.lr_find",
    "BatchSizeFinder": ".callbacks.batch_size_finder",
    "FineTune": ".callbacks.fine_tune",
    "OnOOM": ".callbacks.on_oom",
    "ResourceMonitor": ".callbacks.resources",
    "Schedule": ".schedules",
    "Scheduled": ".callbacks.scheduled",
    "StopOnNaN": ".callbacks.stop_on_nan",
    "constant": ".schedules",
    "cosine": ".schedules",
    "freeze": ".callbacks.fine_tune",
    "linear": ".schedules",
    "one_cycle": ".schedules",
    "polynomial": ".schedules",
    "unfreeze": ".callbacks.fine_tune",
    "warmup": ".schedules",
    "SWA": ".callbacks.swa",
    "GradientAccumulation": ".callbacks.accumulation",
    "GradClipCallback": ".callbacks.grad_clip",
    "GradClip": ".callbacks.grad_clip",
    "EMA": ".callbacks.ema",
    "AMP": ".callbacks.amp",
    "Logger": ".callbacks.logger",
    "JSONLLogger": ".callbacks.jsonl",
    "CSVLogger": ".callbacks.csv_file",
    "TensorBoard": ".callbacks.tensorboard",
    "LogCallback": ".callbacks.log",
    "MLflowLogger": ".callbacks.mlflow_logger",
    "LinearCosineScheduler": ".utils.schedule",
    "SeriesPlots": ".utils.plots",
    "load_yaml": ".utils.yaml_file",
    "plot_learning_rates": ".pictures",
    "line_chart": ".utils.textchart",
    "learning_rates": ".pictures",
    "contact_sheet": ".pictures",
    "confusion_table": ".utils.textchart",
    "Report": ".callbacks.report",
    "plot_confusion": ".utils.plots",
}

__all__ = [
    "AMP",
    "EMA",
    "SWA",
    "Analyze",
    "AnalyzeCallback",
    "BatchSizeFinder",
    "CSVLogger",
    "Callback",
    "CallbackException",
    "CheckCallback",
    "Checkpoint",
    "CheckpointStore",
    "ConfusionMetrics",
    "ConfusionPatch",
    "DefaultCallback",
    "Diagnosis",
    "EarlyStopping",
    "EngineError",
    "EngineWarning",
    "EpochTask",
    "Finding",
    "FineTune",
    "Generators",
    "GradClip",
    "GradClipCallback",
    "GradientAccumulation",
    "History",
    "Interpret",
    "InterpreteCallback",
    "JSONLLogger",
    "LRFindCallback",
    "LRFinder",
    "LinearCosineScheduler",
    "LogCallback",
    "Logger",
    "LoopException",
    "MLflowLogger",
    "MeanPatch",
    "Moveing",
    "OnOOM",
    "Optimizer",
    "Optimizers",
    "PatchBase",
    "Profile",
    "Report",
    "ResourceMonitor",
    "Schedule",
    "Scheduled",
    "SeriesPlots",
    "StopLoopException",
    "StopOnNaN",
    "Summary",
    "TensorBoard",
    "TensorDict",
    "TensorPatch",
    "TensorTuple",
    "Timer",
    "TopKQueue",
    "Trainer",
    "TrainerBase",
    "ValuePatch",
    "batch_size",
    "batches",
    "concat",
    "concat_dicts",
    "confusion_table",
    "constant",
    "contact_sheet",
    "cosine",
    "ddict",
    "detach_clone",
    "flatten_dict",
    "freeze",
    "groupby_apply",
    "learning_rates",
    "line_chart",
    "linear",
    "listify",
    "load_weights",
    "load_yaml",
    "make_runningid",
    "metrics",
    "one_cycle",
    "patches",
    "plot_confusion",
    "plot_learning_rates",
    "polynomial",
    "rename",
    "save_weights",
    "set_seed",
    "sum_dicts",
    "to_numpy",
    "unfreeze",
    "warmup",
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
