"""The batch source: a loader turned into a positioned stream of batches."""

from .source import BatchSource

__all__ = ["BatchSource"]
