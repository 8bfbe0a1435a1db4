"""The doctor: look at a training before it is run, and name what will silently go wrong."""

from .diagnosis import Diagnosis, Finding
from .examine import examine
from .table import CHECKS

__all__ = ["CHECKS", "Diagnosis", "Finding", "examine"]
