"""`LRFinding`: what the losses of a sweep over learning rates suggest, and how that is shown."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.plots import new_figure
from ..utils.textchart import line_chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The first points of a sweep are not looked at for suggestions: their average is of few losses.
_SKIP = 0.1
#: By this share of itself the loss has to fall, or nothing is suggested.
_LEAST_FALL = 0.02


@dataclass(frozen=True)
class LRFinding:
    """What a sweep over learning rates has found; printed it is a chart.

    Attributes:
        lrs: the learning rates that were tried, ascending: those of the first parameter group that is trained.
        losses: the loss of the batches before the update with each.
        smoothed: their running average, corrected for its beginning.
        suggestion: the rate at which the loss falls fastest, in the upper half of its fall; None where there is none.
        valley: the middle (on the log scale) from where it has fallen by a quarter to where it is lowest, or None.
        stopped: why the sweep ended where it did.

    Example:
        >>> rates = [10 ** (i / 10 - 4) for i in range(41)]
        >>> finding = finding_of(rates, [1 - 0.9 / (1 + (0.01 / lr) ** 2) for lr in rates], smoothing=0)
        >>> round(finding.suggestion, 4), round(finding.valley, 4)
        (0.01, 0.0708)
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float] = field(repr=False)
    suggestion: float | None
    valley: float | None
    stopped: str = ""

    def chart(self, width: int | None = None, height: int = 12) -> str:
        """Draw the smoothed loss over the learning rate with characters, at most `width` columns wide."""
        points = [(math.log10(lr), loss) for lr, loss in zip(self.lrs, _cut(self.smoothed), strict=True)]
        if not points:
            return "no learning rate could be tried"
        curve = ([x for x, _ in points], [y for _, y in points])
        return line_chart({"loss": curve}, title="loss over log10(learning rate)", width=width, height=height)

    def __str__(self) -> str:
        return f"{self.chart()}\n{self.words()}"

    def words(self) -> str:
        """What is suggested, in a line."""
        if not self.lrs:
            at_fault = "; no update had been made, so that it is not the rate's fault" if self.stopped else ""
            return f"no learning rate is suggested: {self.stopped or 'none was tried'}{at_fault}"
        tried = f"{len(self.lrs)} rates tried; {self.stopped}" if self.stopped else f"{len(self.lrs)} rates tried"
        if self.suggestion is None or self.valley is None:
            return f"no learning rate is suggested, as the loss does not fall at any ({tried})"
        return f"suggested learning rate {self.suggestion:.2e} (steepest), {self.valley:.2e} (valley); {tried}"

    def show(self, width: int | None = None) -> None:
        """Print the chart and the suggestion."""
        sys.stdout.write(f"{self.chart(width)}\n{self.words()}\n")

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw losses and suggestions with matplotlib; with `path` into a file, whose name says its format.

        Returns:
            The figure, to save or to show.

        Raises:
            ModuleNotFoundError: matplotlib is not installed: ``pip install 'deepepochs_like[plot]'``.
        """
        figure = new_figure("LRFinding.plot", figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(self.lrs, self.losses, color="0.75", linewidth=1, label="loss")
        axes.plot(self.lrs, self.smoothed, color="tab:blue", label="smoothed")
        for name, lr, mark in (("steepest", self.suggestion, "o"), ("valley", self.valley, "v")):
            if lr is not None:
                at = int(np.argmin(np.abs(np.log(self.lrs) - math.log(lr))))
                axes.plot([lr], [self.smoothed[at]], mark, color="tab:red", label=f"{name}: {lr:.2e}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        if self.smoothed:
            low, high = min(*self.losses, *self.smoothed), max(_cut(self.smoothed))
            axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.1 * (high - low or 1))
        axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure


def _cut(smoothed: Sequence[float]) -> list[float]:
    """The curve without the top of its divergence, beside which all else would be flat."""
    if not smoothed:
        return []
    bottom = int(np.argmin(smoothed))
    before = smoothed[: bottom + 1]
    top = max(before) + 0.5 * (max(before) - min(before) or abs(before[-1]) or 1.0)
    return [min(loss, top) for loss in smoothed]


def finding_of(lrs: Sequence[float], losses: Sequence[float], smoothing: float, stopped: str = "") -> LRFinding:
    """Work out what the losses of a sweep suggest.

    Args:
        lrs: the learning rates, ascending.
        losses: the finite loss at each.
        smoothing: what the running average keeps of itself at each step, from 0 (nothing) to below 1.
        stopped: why the sweep ended.
    """
    average, smoothed = Average(smoothing), []
    for loss in losses:
        smoothed.append(average.add(loss))
    steepest, valley = _suggest(np.asarray(lrs), np.asarray(smoothed), smoothing)
    return LRFinding(list(lrs), list(losses), smoothed, steepest, valley, stopped)


def _suggest(lrs: Any, smoothed: Any, keep: float) -> tuple[float | None, float | None]:
    """Where the loss falls fastest while the greater part of its fall is still to come, and the middle of its fall.

    The running average lags behind by keep / (1 - keep) steps; averaged once more, backwards, it does not.
    """
    skip = int(_SKIP * len(lrs))
    if len(lrs) - skip < 3:
        return None, None
    x, y = np.log10(lrs[skip:]), smoothed[skip:]
    bottom, average = int(np.argmin(y)), Average(keep)
    y = np.asarray([average.add(loss) for loss in y[bottom::-1]])[::-1]
    top = int(np.argmax(y))
    fall = y[top] - y[bottom]
    if bottom - top < 2 or fall < _LEAST_FALL * max(abs(y[top]), 1e-12):
        return None, None
    slope = np.gradient(y, x[: bottom + 1])
    slope[:top], slope[y < y[bottom] + fall / 2] = np.inf, np.inf
    begins = int(np.max(np.nonzero(y >= y[top] - fall / 4)[0]))
    return float(10 ** x[int(np.argmin(slope))]), float(10 ** ((x[begins] + x[bottom]) / 2))


class Average:
    """A running average, divided by the weight that it has seen (as Adam corrects its moments, arXiv:1412.6980).

    Args:
        keep: the share of it that stays at each step.

    Example:
        >>> average = Average(0.5); average.add(1.0), round(average.add(4.0), 6)
        (1.0, 3.0)
    """

    def __init__(self, keep: float) -> None:
        self.keep, self.sum, self.weight = keep, 0.0, 0.0

    def add(self, value: float) -> float:
        """Take a value in, and return the average."""
        self.sum = self.keep * self.sum + (1 - self.keep) * value
        self.weight = self.keep * self.weight + (1 - self.keep)
        return self.sum / self.weight
