"""Callbacks: what watches and steers a run. See `deepepochs_like.callbacks.base` for the loop and its events."""

from __future__ import annotations

import importlib
from typing import Any

from .base import Callback
from .check import CheckCallback
from .checkpoint import Checkpoint
from .default import DefaultCallback
from .early_stopping import EarlyStopping
from .stop_file import StopFile

#: Names that are loaded when they are first asked for, each with its module.
LATER: dict[str, str] = {
    "AMP": ".amp",
    "EMA": ".ema",
    "GradClip": ".grad_clip",
    "GradClipCallback": ".grad_clip",
    "GradientAccumulation": ".accumulation",
    "SWA": ".swa",
    "FineTune": ".fine_tune",
    "OnOOM": ".on_oom",
    "ResourceMonitor": ".resources",
    "Scheduled": ".scheduled",
    "StopOnNaN": ".stop_on_nan",
    "Logger": ".logger",
    "JSONLLogger": ".jsonl",
    "CSVLogger": ".csv_file",
    "TensorBoard": ".tensorboard",
    "LogCallback": ".log",
    "MLflowLogger": ".mlflow_logger",
    "Report": ".report",
    "BatchSizeFinder": ".batch_size_finder",
    "LRFindCallback": ".lr_find",
    "LRFinder": ".lr_find",
    "Timer": ".timer",
    "Profile": ".profile",
    "Analyze": ".analyze",
    "AnalyzeCallback": ".analyze",
    "Interpret": ".interpret",
    "InterpreteCallback": ".interprete_callback",
    # end of LATER
}

__all__ = ["Callback", "CheckCallback", "Checkpoint", "DefaultCallback", "EarlyStopping", "StopFile", *LATER]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(LATER[name], __name__), name)
    return value
