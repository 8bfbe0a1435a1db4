"""A figure that is watched: its value after an epoch, and whether that is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from .display.words import direction
from .errors import ArgumentError, ArgumentTypeError, UnknownFigureError, did_you_mean, meant_figure, nearest
from .foreseen import foreseen, is_mistaken

#: Figures that most runs have, for suggestions.
_COMMON = ("loss", "accuracy", "error", "precision", "recall", "f1", "auroc", "perplexity")


class Monitor:
    """A figure of an epoch, by name or as a function of all of them.

    Args:
        what: ``'train/<figure>'`` or ``'val/<figure>'``, or a function of ``{'train/loss': ..., 'val/loss': ...}``.
        mode: ``'min'`` or ``'max'``; None goes by the name.

    Raises:
        ArgumentTypeError, ArgumentError: `what` is neither, or `mode` is needed.
    """

    def __init__(self, what: str | Callable[[dict[str, float]], Any], mode: str | None) -> None:
        if not (isinstance(what, str) or callable(what)):
            raise ArgumentTypeError(
                f"monitor={what!r}: a name such as 'val/loss' is needed, or a function of the figures"
            )
        if isinstance(what, str) and (what.partition("/")[0] not in ("train", "val") or not what.partition("/")[2]):
            full = meant_figure(what) or f"val/{nearest(what, _COMMON, cutoff=0.75) or what}"
            hint = f"; did you mean {full!r}?" if what.strip("/") not in ("", "train", "val") else ""
            raise ArgumentError(f"monitor={what!r}: 'train/<figure>' or 'val/<figure>' is needed{hint}")
        self.what = what
        self.name: str = what if isinstance(what, str) else getattr(what, "__name__", "score").strip("<>")
        if mode not in (None, "min", "max"):
            raise ArgumentError(f"mode={mode!r}: 'min' or 'max' is needed{did_you_mean(str(mode), ['min', 'max'])}")
        told = {-1: "min", 1: "max", 0: None}[direction(self.name)]
        if mode is None and told is None:
            stage, _, figure = self.name.rpartition("/")
            meant = nearest(figure, _COMMON, cutoff=0.75)
            hint = f"; did you mean {f'{stage}/{meant}'.lstrip('/')!r}? If not," if meant and stage else ";"
            raise ArgumentError(
                f"monitor={self.name!r}: its name does not say what is better{hint} pass mode='min' or 'max'"
            )
        self.mode: str = mode or told or "min"

    def begin(self, trainer: Any) -> None:
        """Refuse a figure of which it is sure before a run that it will not be there; others have the first epoch.

        Raises:
            ArgumentError: it is one of validation, and there is nothing to validate on.
            UnknownFigureError: no epoch will have it.
        """
        if not isinstance(self.what, str):
            return
        if self.what.startswith("val/") and not trainer.stage_tasks.get("val"):
            raise ArgumentError(f"monitor={self.name!r}, but this fit has nothing to validate on: pass val_dl")
        if is_mistaken(trainer, self.name):
            self._refuse([f"{stage}/{name}" for stage in ("train", "val") for name in foreseen(trainer, stage)])

    def _refuse(self, figures: Collection[str]) -> NoReturn:
        raise UnknownFigureError(
            f"monitor={self.name!r}: no epoch yields this figure{did_you_mean(self.name, figures)}; there are "
            f"{', '.join(figures) or 'none'}"
        )

    def figures(self, trainer: Any) -> dict[str, float]:
        """The monitored figure by name where it is a function's; empty for one that the epoch has by itself.

        Raises:
            UnknownFigureError: the function asked for a figure that is not there.
            ArgumentTypeError: it returned something other than a number.
        """
        if isinstance(self.what, str):
            return {}
        there = figures_of(trainer)
        try:
            value = self.what(dict(there))
        except KeyError as error:
            _refuse_tensor(trainer, str(error.args[0]) if error.args else "", f"monitor={self.name}")
            if not trainer.val_metrics and trainer.stage_tasks.get("val"):
                return {}  # not an epoch with validation
            asked = f"there is no figure {error}" if error.args else "the function raised a KeyError"
            raise UnknownFigureError(f"monitor={self.name}: {asked}; there are {', '.join(there)}") from error
        try:
            return {self.name: float(value)}
        except (TypeError, ValueError, RuntimeError) as error:
            raise ArgumentTypeError(
                f"monitor={self.name}: the function returned {value!r:.80}; a number is needed"
            ) from error

    def check(self, trainer: Any, figures: Mapping[str, float]) -> None:
        """Raise `UnknownFigureError` where the epoch should have the figure, and has it not.

        Raises:
            UnknownFigureError: there is no such figure.
            ArgumentTypeError: it is there, and no number.
        """
        if self.name in figures or not isinstance(self.what, str):
            return
        if self.what.startswith("val/") and not trainer.val_metrics:
            return  # not an epoch with validation
        _refuse_tensor(trainer, self.name, f"monitor={self.name!r}")
        self._refuse(figures)

    def value(self, trainer: Any) -> float | None:
        """The figure after an epoch; None where this epoch had no validation.

        Raises:
            UnknownFigureError: it should be there, and is not.
            ArgumentTypeError: it is no number.
        """
        figures = {**figures_of(trainer), **self.figures(trainer)}
        self.check(trainer, figures)
        return figures.get(self.name)

    def better(self, value: float, best: float, by: float = 0.0) -> bool:
        """Tell whether `value` is better than `best` by more than `by`. NaN never is; all else is better than it."""
        if math.isnan(value):
            return False
        if math.isnan(best):
            return True
        return value < best - by if self.mode == "min" else value > best + by


def _refuse_tensor(trainer: Any, name: str, who: str) -> None:
    """Raise `ArgumentTypeError` where the epoch has a figure of this name that is not a single number."""
    stage, _, figure = name.partition("/")
    value = {"train": trainer.train_metrics, "val": trainer.val_metrics}.get(stage, {}).get(figure)
    if getattr(value, "ndim", 0):
        raise ArgumentTypeError(
            f"{who}: the figure {name!r} is a tensor of shape {tuple(value.shape)}, and a number is needed; let the "
            "metric return one, e.g. by .mean()"
        )


def figures_of(trainer: Any) -> dict[str, float]:
    """The figures of the epoch that has just ended that are single numbers, as ``{'train/loss': ...}``."""
    parts = (("train", trainer.train_metrics), ("val", trainer.val_metrics))
    return {f"{s}/{n}": float(v) for s, part in parts for n, v in part.items() if getattr(v, "ndim", 0) == 0}
