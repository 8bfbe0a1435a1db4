"""Medians with quartiles, of ratios within a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    low: float
    median: float
    high: float


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the values lie below, between neighbours in proportion."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values to take a median of")
    ordered = sorted(values)
    return Spread(quantile(ordered, 0.25), quantile(ordered, 0.5), quantile(ordered, 0.75))


def ratios(values: Sequence[float], bases: Sequence[float]) -> list[float]:
    """Each value by the base of the same round."""
    return [value / base for value, base in zip(values, bases, strict=True)]
