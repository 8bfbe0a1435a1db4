"""Callbacks: what watches and steers a run. See `deepepochs_like.callbacks.base` for the loop and its events."""

from .base import Callback
from .check import CheckCallback
from .checkpoint import Checkpoint
from .default import DefaultCallback
from .early_stopping import EarlyStopping
from .stop_file import StopFile

__all__ = ["Callback", "CheckCallback", "Checkpoint", "DefaultCallback", "EarlyStopping", "StopFile"]
