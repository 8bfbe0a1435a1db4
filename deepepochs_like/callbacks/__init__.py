"""Callbacks: what watches and steers a run. See `deepepochs_like.callbacks.base` for the loop and its events."""

from .base import Callback
from .default import DefaultCallback

__all__ = ["Callback", "DefaultCallback"]
