"""`History`: what every epoch came to."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from .errors import UnknownFigureError, did_you_mean, meant_figure
from .types import StateDict

#: What the picture of the learning rates is called.
RATE = "lr"


class Result(dict[str, Any]):
    """Figures by name, as NumPy values; printed as plain numbers.

    Example:
        >>> Result(loss=np.float64(0.25))
        {'loss': 0.25}
    """

    def __repr__(self) -> str:
        return repr({name: _plain(value) for name, value in self.items()})

    def _repr_html_(self) -> str:
        from .pictures import figures_html

        return figures_html({name: _plain(value) for name, value in self.items()})


class History(dict[str, dict[str, list[Any]]]):
    """``{'train': {name: [value per epoch]}, 'val': {...}}``; a stage that never ran is absent.

    Values are NumPy scalars (arrays for figures that are not scalar), one per epoch in which the stage ran. The
    learning rates of all parameter groups stand beside the stages, in `learning_rates`.

    Example:
        >>> history = History(); history.record('train', 0, {'loss': 0.5}); print(history.table())
        epoch  train loss
            1      0.5000
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: stage -> the epochs in which it ran.
        self.epochs: dict[str, list[int]] = {}
        #: stage -> name -> the epoch each of its values belongs to.
        self._of: dict[str, dict[str, list[int]]] = {}
        #: The learning rates that the epochs ended with, before schedulers that run by epochs: ``{'lr': [0.1, ...]}``,
        #: or ``{'lr/<optimizer>.<group>': ...}`` where there are several.
        self.learning_rates: dict[str, list[float]] = {}
        #: The epoch, counted from 0, that each of them belongs to.
        self.rate_epochs: dict[str, list[int]] = {}

    def record_rates(self, epoch: int, rates: Mapping[str, float]) -> None:
        """Append the learning rates that an epoch ended with; a group that joins in later begins later.

        Example:
            >>> history = History(); history.record_rates(0, {"lr": 0.1}); history.record_rates(1, {"lr": 0.05})
            >>> history.learning_rates
            {'lr': [0.1, 0.05]}
        """
        for name, rate in rates.items():
            self.learning_rates.setdefault(name, []).append(rate)
            self.rate_epochs.setdefault(name, []).append(epoch)

    def record(self, stage: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Append one epoch's figures."""
        self.epochs.setdefault(stage, []).append(epoch)
        figures, epochs = self.setdefault(stage, {}), self._of.setdefault(stage, {})
        for name, value in metrics.items():
            figures.setdefault(name, []).append(value)
            epochs.setdefault(name, []).append(epoch)

    def __missing__(self, name: str) -> NoReturn:
        """Say where a figure stands that was asked for as if it were a stage.

        Raises:
            UnknownFigureError: always; it is a KeyError.
        """
        stage, _, figure = (meant_figure(str(name)) or f"train/{name}").partition("/")
        stage = "" if str(name).startswith("test") else stage  # no history holds its figures
        guess = f"; did you mean history[{stage!r}][{figure!r}]?" if figure in self.get(stage, {}) else ""
        guess = "; did you mean history.learning_rates?" if name == RATE and not guess else guess
        raise UnknownFigureError(f"history has no {name!r}{guess or did_you_mean(str(name), self) or _there(self)}")

    def __repr__(self) -> str:
        lines = self.table().split("\n")
        if len(lines) > 21:
            lines = [lines[0], f"... {len(lines) - 21} earlier epochs", *lines[-20:]]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from .pictures import history_html

        return history_html(self)

    def chart(
        self,
        figures: str | Sequence[str] | None = None,
        *,
        width: int | None = None,
        height: int = 8,
        ascii: bool | None = None,
    ) -> str:
        """Draw the curves with characters, one picture per figure, to print in a terminal or a log.

        Args:
            figures: the names of those to draw, ``'lr'`` among them; by default all, and learning rates that changed.
            width: columns, from 20 on; by default those of the terminal, at most 100.
            height: lines of each picture, from 3 on.
            ascii: whether to keep to ASCII; by default where standard output takes nothing else, or TERM is ``dumb``.

        Raises:
            ArgumentError: a figure is not there, or `width` or `height` too small.

        Example:
            >>> history = History(); history.record("train", 0, {"loss": 2}); history.record("train", 1, {"loss": 1})
            >>> print(history.chart(width=34, height=3, ascii=True))
            loss
            2 +******
              |      ***********
            1 +                 ****** train 1
              ++---------------------+
               1                     2 epoch
        """
        from .pictures import chart_history

        return chart_history(self._drawn(figures), figures, width, height, ascii)

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        figures: str | Sequence[str] | None = None,
        show: bool = False,
    ) -> Any:
        """Draw the curves, one picture per figure with the stages in it.

        No window opens and no backend is chosen, unless `show` says so: it works where there is no screen.

        Args:
            path: a file to write, ``'curves.png'``, or ``.pdf``, ``.svg``, ``.txt``; the last two need no matplotlib.
            figures: the names of those to draw, ``'lr'`` among them; by default all, and learning rates that changed.
            show: open a window, or show it in the notebook; where there is no screen, print it as text.

        Returns:
            The matplotlib figure; where that is not installed, the curves drawn with characters, with a warning.

        Raises:
            ArgumentError: a figure is not there.
            ModuleNotFoundError: matplotlib is not installed, and the path is not one of a file that does without.
        """
        from .pictures import plot_history

        return plot_history(self._drawn(figures), path, figures=figures, show=show)

    def _drawn(self, figures: Any) -> Any:
        """What is drawn: itself, with the learning rates as one figure more, and the groups as its stages."""
        asked = figures is not None and RATE in ([figures] if isinstance(figures, str) else list(figures))
        changed = figures is None and any(len(set(rates)) > 1 for rates in self.learning_rates.values())
        if not (asked or changed) or any(RATE in of_stage for of_stage in self.values()):
            return self
        drawn = History(self)
        drawn._of = {stage: dict(of) for stage, of in self._of.items()}
        for name, rates in self.learning_rates.items():
            group = name.partition("/")[2].replace("/", " ") or RATE
            drawn[group] = {**drawn.get(group, {}), RATE: rates}
            drawn._of[group] = {**drawn._of.get(group, {}), RATE: self.rate_epochs[name]}
        return drawn

    def since(self, lengths: Mapping[str, Mapping[str, int]]) -> History:
        """Return what was recorded after `lengths` was taken."""
        part = History()
        for stage, figures in self.items():
            before = lengths.get(stage, {})
            new = {name: values[before.get(name, 0) :] for name, values in figures.items()}
            if len(self.epochs[stage]) > before.get("", 0):
                part[stage] = {name: values for name, values in new.items() if values}
                part.epochs[stage] = self.epochs[stage][before.get("", 0) :]
                part._of[stage] = {name: self._of[stage][name][before.get(name, 0) :] for name in part[stage]}
        done = lengths.get(RATE, {})
        for name, rates in self.learning_rates.items():
            for epoch, rate in zip(
                self.rate_epochs[name][done.get(name, 0) :], rates[done.get(name, 0) :], strict=True
            ):
                part.record_rates(epoch, {name: rate})
        return part

    def lengths(self) -> dict[str, dict[str, int]]:
        """How many values there are by now, for `since`."""
        there = {s: {"": len(self.epochs[s]), **{n: len(v) for n, v in f.items()}} for s, f in self.items()}
        return there | {RATE: {name: len(rates) for name, rates in self.learning_rates.items()}}

    def rows(self) -> list[dict[str, Any]]:
        """One dict per epoch, ``{'epoch': 1, 'train/loss': ..., 'val/acc': ...}``, as a data frame takes it."""
        rows: dict[int, dict[str, Any]] = {}
        for stage, figures in self.items():
            for name, values in figures.items():
                for epoch, value in zip(self._of[stage][name], values, strict=True):
                    rows.setdefault(epoch, {"epoch": epoch + 1})[f"{stage}/{name}"] = value
        return [rows[epoch] for epoch in sorted(rows)]

    def table(self, digits: int = 4) -> str:
        """All scalar figures as text, one line per epoch, the numbers as the console writes them."""
        rows = self.rows()
        names = [
            n
            for n in dict.fromkeys(k for row in rows for k in row)
            if n != "epoch" and any(np.ndim(r.get(n, 0)) == 0 for r in rows)
        ]
        lines = [["epoch", *(name.replace("/", " ", 1) for name in names)]]
        for row in rows:
            lines.append(
                [
                    str(row["epoch"]),
                    *(_written(row[n], digits) if n in row and np.ndim(row[n]) == 0 else "-" for n in names),
                ]
            )
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )

    def state_dict(self) -> StateDict:
        """The figures as numbers and lists, and of what kind they are where that is not what is made of those."""
        figures = {s: {n: [_plain(v) for v in values] for n, values in f.items()} for s, f in self.items()}
        of = {s: {n: list(e) for n, e in names.items()} for s, names in self._of.items()}
        kinds = {s: {n: k for n, v in f.items() if (k := [_kind(x) for x in v]) != _kinds(v)} for s, f in self.items()}
        rates = {name: [list(self.rate_epochs[name]), list(v)] for name, v in self.learning_rates.items()}
        epochs = {s: list(e) for s, e in self.epochs.items()}
        return {"figures": figures, "epochs": epochs, "of": of, "kinds": kinds, "rates": rates}

    def load_state_dict(self, state: StateDict) -> None:
        """Replace everything by what `state_dict` returned."""
        self.clear()
        kinds = state.get("kinds", {})
        for stage, figures in state["figures"].items():
            for name, values in figures.items():
                of = kinds.get(stage, {}).get(name) or [None] * len(values)
                self.setdefault(stage, {})[name] = [_array(v, k) for v, k in zip(values, of, strict=True)]
        self.epochs = {s: list(e) for s, e in state["epochs"].items()}
        self._of = {s: {n: list(e) for n, e in names.items()} for s, names in state["of"].items()}
        rates = state.get("rates", {})
        self.rate_epochs = {name: list(epochs) for name, (epochs, _) in rates.items()}
        self.learning_rates = {name: list(values) for name, (_, values) in rates.items()}


def _there(history: Mapping[str, Any]) -> str:
    return f"; there are {', '.join(map(repr, history))}" if history else ", as no epoch is over yet"


def rates_by_name(optimizers: Any) -> dict[str, float]:
    """The learning rates of ``trainer.opt``: ``{'lr': ...}``, or ``{'lr/<optimizer>.<group>': ...}``.

    The optimizer's name is in it where there are several of them; where a group is one of several, its name, or its
    number if it has none of its own.

    Example:
        >>> from deepepochs_like import Trainer
        >>> rates_by_name(Trainer(torch.nn.Linear(2, 1), verbose=0).opt)
        {'lr': 0.001}
    """
    rates: dict[str, float] = {}
    for name, optimizer in optimizers.items():
        groups = optimizer.param_groups
        for group_name, group in zip(_names(groups), groups, strict=True):
            parts = [name] if len(optimizers) > 1 else []
            parts += [group_name] if len(groups) > 1 else []
            rates["/".join([RATE, ".".join(parts)]) if parts else RATE] = float(group["lr"])
    return rates


def _names(groups: Sequence[Any]) -> list[str]:
    if len(groups) == 1:
        return [""]
    from .pictures.rates import group_names

    return group_names(groups)


def _written(figure: Any, digits: int) -> str:
    """As the console writes a figure (`Words.number`): ``3.00e-05`` where the decimals would hide or swamp it."""
    value = float(figure)
    if value and math.isfinite(value) and not 10.0 ** -max(digits - 1, min(digits, 1)) <= abs(value) < 1e6:
        return f"{value:.{max(digits - 2, 2)}e}"
    return f"{value:.{digits}f}"


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def as_figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """Figures out of a state, as NumPy values again."""
    return {name: _array(value) for name, value in values.items()}


def _array(value: Any, kind: str | None = None) -> Any:
    if isinstance(value, list) or kind:
        return np.asarray(value, kind)[()]
    return np.float64(value)


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, (np.ndarray, np.generic)) else "float64"


def _kinds(values: list[Any]) -> list[str]:
    """What the values would be that are made of plain numbers and lists."""
    return [_kind(_array(_plain(value))) for value in values]
