"""Curves that grow while a program runs, and confusion matrices as pictures; matplotlib is the extra ``plot``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError
from .extras import need
from .textchart import is_whole, normalized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: With more classes than that, the numbers in a confusion matrix could not be read.
MOST_NUMBERS = 40


def new_figure(what: str, **options: Any) -> Figure:
    """Make a figure that belongs to nobody but its holder, or to pyplot where a script uses that to show windows.

    Where pyplot has not been imported, or draws to files only, it would do nothing but keep the figure alive for ever.
    """
    figure_module = need("matplotlib.figure", "plot", what)
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None and getattr(pyplot.switch_backend, "__module__", None):
        backends = need("matplotlib.backends", "plot", what)
        files_only = backends.backend_registry.list_builtin(backends.BackendFilter.NON_INTERACTIVE)
        if pyplot.get_backend().lower() not in files_only:
            return pyplot.figure(**options)  # type: ignore[no-any-return]
    return figure_module.Figure(**options)  # type: ignore[no-any-return]


class SeriesPlots:
    """Plots of series that grow by one point at a time, redrawn at each where there is a window to draw in.

    Args:
        plots: one entry per plot: a series' name, or a list of names for several series in one plot.
        colums: plots per row.
        figsize: width and height in inches.

    Attributes:
        fig: the matplotlib figure, to save (``plots.fig.savefig("curves.png")``) or to show.

    Raises:
        ArgumentError: `plots` is empty or no list.

    Example:
        >>> plots = SeriesPlots(["loss", ["train", "val"]]); plots.add(0.9, [0.1, 0.2]); plots.add(0.5, [0.4, 0.3])
        >>> [len(axes.lines) for axes in plots.fig.axes]
        [1, 2]
    """

    def __init__(
        self, plots: Sequence[str | Sequence[str]], colums: int = 1, figsize: tuple[float, float] | None = None
    ) -> None:
        if not isinstance(plots, (list, tuple)) or not plots:
            raise ArgumentError(f"plots={plots!r}: a list of names is needed, as in ['loss', ['train', 'val']]")
        if isinstance(colums, bool) or not isinstance(colums, int) or colums < 1:
            raise ArgumentError(f"colums={colums!r}: an int of at least 1 is needed")
        self.plots = [[plot] if isinstance(plot, str) else list(plot) for plot in plots]
        self.colums, self.figsize = min(colums, len(plots)), figsize
        self.x: list[int] = []
        self.ys: list[list[list[float]]] = [[[] for _ in names] for names in self.plots]
        self.fig: Any = None
        self.live = True

    def start(self) -> None:
        """Make the figure, with no points yet; `add` does it by itself."""
        rows = -(-len(self.plots) // self.colums)
        self.fig = new_figure("SeriesPlots", figsize=self.figsize)
        self._lines = []
        for position, names in enumerate(self.plots, 1):
            axes = self.fig.add_subplot(rows, self.colums, position)
            self._lines.append([axes.plot([], [], label=name)[0] for name in names])
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend()

    def add(self, *values: Any) -> None:
        """Add a point to every series: one number per plot, or a list of numbers where a plot has several series.

        Raises:
            ArgumentError: the values do not match the plots; nothing was added.
        """
        given = [list(value) if isinstance(value, (list, tuple)) else [value] for value in values]
        if [len(v) for v in given] != [len(names) for names in self.plots]:
            shape = ", ".join(repr(names[0]) if len(names) == 1 else repr(names) for names in self.plots)
            raise ArgumentError(f"add{values!r}: one value for each of {shape} is needed")
        numbers = [[float(number) for number in plot] for plot in given]
        if self.fig is None:
            self.start()
        self.x.append(len(self.x) + 1)
        for series, lines, new in zip(self.ys, self._lines, numbers, strict=True):
            for points, line, number in zip(series, lines, new, strict=True):
                points.append(number)
                line.set_data(self.x, points)
        for axes in self.fig.axes:
            axes.relim()
            axes.autoscale_view()
        if self.live and getattr(self.fig.canvas, "required_interactive_framework", None):
            self.fig.show()
            self.fig.canvas.draw_idle()
            self.fig.canvas.flush_events()

    def ioff(self) -> None:
        """End live drawing; the figure stays."""
        self.live = False


def plot_confusion(
    c_matrix: Any,
    class_num: int,
    class_names: Sequence[str] | None = None,
    norm_dec: int = 2,
    cmap: str = "Blues",
    info: str = "",
    *,
    normalize: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw a confusion matrix, rows = targets, with its numbers in it as far as they can be read.

    `confusion_table` writes it as text.

    Args:
        c_matrix: an array or tensor (C, C).
        class_num: C.
        class_names: labels of rows and columns; by default 0 to C - 1.
        norm_dec: decimals of the numbers, where they are no integers.
        cmap: name of a matplotlib colour map.
        info: what to add to the title.
        normalize: show shares: ``'true'`` of each target's samples, ``'pred'`` of each prediction's, ``'all'`` of all.
        path: a file to write it to, ``'confusion.png'``.

    Returns:
        The figure, to save (``figure.savefig("confusion.png")``) or to show.

    Raises:
        ArgumentError: the matrix is not (C, C), there are not C names, or `normalize` is none of the three.

    Example:
        >>> figure = plot_confusion(torch.tensor([[3, 1], [0, 2]]), 2, ["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['3', '1', '0', '2']
    """
    matrix = np.asarray(c_matrix.detach().cpu() if hasattr(c_matrix, "detach") else c_matrix)
    names = [str(i) for i in range(class_num)] if class_names is None else [str(name) for name in class_names]
    if matrix.shape != (class_num, class_num) or len(names) != class_num:
        raise ArgumentError(
            f"c_matrix has shape {matrix.shape} and there are {len(names)} class names; class_num={class_num} needs "
            f"({class_num}, {class_num}) and {class_num}"
        )
    total, counts = matrix.sum(), is_whole(matrix)
    matrix = normalized(matrix, normalize)
    whole = counts and normalize is None
    # Beyond the classes that fit into the default size each gets the room that its number needs.
    side = 0.5 * min(class_num, MOST_NUMBERS) + 1.5
    figure = new_figure("plot_confusion", **({"figsize": (side * 1.1, side)} if class_num > 8 else {}))
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap=cmap)
    long = max(map(len, names), default=0) > 3 and class_num > 4
    turned: dict[str, Any] = {"rotation": 45, "ha": "right"} if long else {}
    axes.set_xticks(range(class_num), names, **turned)
    axes.set_yticks(range(class_num), names)
    middle = (matrix.max(initial=0) + matrix.min(initial=0)) / 2
    for (row, column), value in np.ndenumerate(matrix) if class_num <= MOST_NUMBERS else ():
        text = str(int(value)) if whole else f"{value:.{norm_dec}f}"
        # Light on the dark half of the colour map, dark on the light one.
        axes.text(column, row, text, ha="center", va="center", color="white" if value > middle else "black")
    axes.set(xlabel="Prediction", ylabel="Target")
    axes.set_title(f"Confusion matrix - ({int(total) if counts else round(float(total), norm_dec)}) \n{info}")
    for shown in (axes.title, *axes.get_xticklabels(), *axes.get_yticklabels()):
        shown.set_parse_math(False)  # a dollar sign in a name begins no formula
    if path is not None:
        figure.savefig(path, dpi=150, bbox_inches="tight")
    return figure
