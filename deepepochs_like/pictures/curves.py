"""The curves of a history: with characters, by matplotlib, and as SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, did_you_mean
from ..utils.scales import printable
from ..utils.svg import COLOURS, line_svg
from ..utils.textchart import line_chart
from .delivery import Chart, deliver, grid_svg, take_texts_as_they_are

#: The colour of a stage, in every picture.
STAGES = {"train": COLOURS[0], "val": COLOURS[1]}

Curves = dict[str, dict[str, tuple[list[float], list[float]]]]


def curves_of(history: Mapping[str, Mapping[str, Any]], figures: str | Sequence[str] | None = None) -> Curves:
    """The figures of a history that are numbers: ``{figure: {stage: (epochs, values)}}``, epochs counted from 1.

    Args:
        history: a `History`.
        figures: the names of those that are wanted; by default all.

    Raises:
        ArgumentError: one of them is not there; the message lists those that are.

    Example:
        >>> from deepepochs_like import History
        >>> history = History(); history.record("train", 0, {"loss": 0.5}); curves_of(history)
        {'loss': {'train': ([1], [0.5])}}
    """
    rows: Any = history.rows() if hasattr(history, "rows") else []
    found: Curves = {}
    for row in rows:
        for key, value in row.items():
            stage, slash, name = key.partition("/")
            if slash and np.ndim(value) == 0:
                xs, ys = found.setdefault(name, {}).setdefault(stage, ([], []))
                xs.append(row["epoch"])
                ys.append(float(value))
    wanted = list(found) if figures is None else [figures] if isinstance(figures, str) else list(figures)
    for name in wanted:
        if name not in found:
            there = f"; there are {', '.join(found)}" if found else "; the history holds none"
            raise ArgumentError(f"figures={figures!r}: no figure {name!r}{did_you_mean(name, found) or there}")
    return {name: found[name] for name in wanted}


def chart_history(
    history: Any,
    figures: str | Sequence[str] | None = None,
    width: int | None = None,
    height: int = 8,
    ascii: bool | None = None,
) -> Chart:
    """Draw the curves of a history with characters; see `History.chart`.

    Example:
        >>> from deepepochs_like import History
        >>> history = History(); history.record("train", 0, {"loss": 0.5}); history.record("train", 1, {"loss": 0.25})
        >>> print(chart_history(history, width=34, height=3, ascii=True))
        loss
         0.5 +*****
             |     *******
        0.25 +            ***** train 0.25
             ++---------------+
              1               2 epoch
    """
    options: dict[str, Any] = {"width": width, "height": height, "ascii": ascii}
    curves = curves_of(history, figures)
    pictures = [line_chart(stages, title=name, x_label="epoch", **options) for name, stages in curves.items()]
    chart = Chart("\n\n".join(pictures or [line_chart({}, **options)]))
    chart.svg = "".join(curve_svg(name, stages) for name, stages in curves.items())
    return chart


def plot_history(
    history: Any, path: Any = None, *, figures: str | Sequence[str] | None = None, show: bool = False
) -> Any:
    """Draw the curves of a history, one picture per figure; see `History.plot`.

    Example:
        >>> from deepepochs_like import History
        >>> history = History(); history.record("train", 0, {"loss": 0.5})
        >>> [axes.get_title("left") for axes in plot_history(history).axes]
        ['loss']
    """
    curves = curves_of(history, figures)
    return deliver(
        "history.plot",
        lambda **how: draw_curves(curves, "epoch", **how),
        lambda: chart_history(history, figures),
        lambda: grid_svg([curve_svg(name, stages) for name, stages in curves.items()]),
        path,
        show,
    )


def curve_svg(name: str, stages: Any, x_label: str = "epoch") -> str:
    """One figure's curves as SVG, each stage in its colour."""
    return line_svg(stages, title=name, x_label=x_label, colours=STAGES)


def draw_curves(curves: Mapping[str, Any], x_label: str, make: Callable[..., Any]) -> Any:
    """One plot per figure, at most three in a row."""
    columns = min(len(curves), 3) or 1
    rows = -(-len(curves) // columns) or 1
    figure = make(figsize=(4.4 * columns, 3.1 * rows), layout="constrained")
    for position, (name, lines) in enumerate(curves.items(), 1):
        axes = figure.add_subplot(rows, columns, position)
        for index, (label, (xs, ys)) in enumerate(lines.items()):
            colour = STAGES.get(label, COLOURS[index % len(COLOURS)])
            marker = "o" if len(xs) <= 40 else ""
            axes.plot(xs, ys, marker=marker, markersize=3, linewidth=1.6, color=colour, label=f" {printable(label)}")
        axes.set_title(printable(name), fontsize=11, fontweight="bold", loc="left")
        axes.set_xlabel(x_label, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8)
    take_texts_as_they_are(figure)
    return figure
