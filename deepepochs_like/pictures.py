"""Pictures of a run: curves, learning rates, contact sheets; by matplotlib where it is installed, else without.

Figures are made without pyplot, so that no window opens and no backend is chosen, on any machine. A path that ends with
``.svg`` or ``.txt`` needs no matplotlib.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ArgumentError, ArgumentTypeError, EngineWarning, did_you_mean
from .utils.extras import need
from .utils.notebook import in_notebook
from .utils.scales import as_lines, printable
from .utils.svg import COLOURS, as_image, escaped, line_svg, png_address
from .utils.textchart import line_chart

#: The colour of a stage, in every picture.
STAGES = {"train": COLOURS[0], "val": COLOURS[1]}

#: How many characters a prediction, a target or a value has under an image.
_LABEL = 16

Curves = dict[str, dict[str, tuple[list[float], list[float]]]]


class Chart(str):
    """A picture made of characters, which shows itself as such at a prompt, and as a drawing in a notebook.

    Example:
        >>> Chart("a picture")
        a picture
    """

    svg: str = ""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str | None:
        return self.svg or None


def __getattr__(name: str) -> Any:
    if name == "Picture":  # by this name figures are pickled
        return _picture_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _picture_class() -> Any:
    """Matplotlib's figure, as one that notebooks show even where pyplot is not in use."""
    figure_class = need("matplotlib.figure", "plot", "a picture")

    def _repr_png_(self: Any) -> bytes:
        import io

        file = io.BytesIO()
        self.savefig(file, format="png", dpi=80)
        return file.getvalue()

    return type("Picture", (figure_class.Figure,), {"_repr_png_": _repr_png_, "__module__": __name__})


# Curves of a history


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
    chart.svg = "".join(_curve_svg(name, stages) for name, stages in curves.items())
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
    return _deliver(
        "history.plot",
        lambda **how: _draw_curves(curves, "epoch", **how),
        lambda: chart_history(history, figures),
        lambda: grid_svg([_curve_svg(name, stages) for name, stages in curves.items()]),
        path,
        show,
        depth=5,  # History.plot stands in between
    )


def _curve_svg(name: str, stages: Any, x_label: str = "epoch") -> str:
    return line_svg(stages, title=name, x_label=x_label, colours=STAGES)


def _draw_curves(curves: Mapping[str, Any], x_label: str, make: Callable[..., Any]) -> Any:
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
    _take_texts_as_they_are(figure)
    return figure


def _take_texts_as_they_are(figure: Any) -> None:
    """Keep matplotlib from reading a dollar sign in a name as the beginning of a formula."""
    for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        text.set_parse_math(False)


def grid_svg(pictures: Sequence[str], columns: int = 3, width: int = 440, height: int = 240) -> str:
    """Put drawings of one size into one, row by row.

    Example:
        >>> grid_svg(["<svg/>"] * 4).count("<svg ")
        1
    """
    columns = max(min(columns, len(pictures)), 1)
    rows = max(-(-len(pictures) // columns), 1)
    size = f'width="{columns * width}" height="{rows * height}"'
    placed = [
        one.replace("<svg ", f'<svg x="{index % columns * width}" y="{index // columns * height}" ', 1)
        for index, one in enumerate(pictures)
    ]
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} color="#1a1a1a">{background}{"".join(placed)}</svg>\n'


# Learning rates


def learning_rates(optimizer: Any, count: int) -> dict[str, list[float]]:
    """The learning rates of the next `count` steps (or epochs) of an optimizer's schedule, which stays where it is.

    Args:
        optimizer: an `Optimizer`, or ``trainer.opt``.
        count: how many.

    Returns:
        One list per parameter group, the first being what is in use now. Without a scheduler they do not change.

    Raises:
        ArgumentTypeError: `optimizer` is none.
        ArgumentError: `count` is no int from 1 on; or the schedule goes by a figure, which nobody knows beforehand.

    Example:
        >>> from deepepochs_like import Optimizer
        >>> sgd = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> learning_rates(Optimizer(sgd, torch.optim.lr_scheduler.StepLR(sgd, 2, 0.5)), 4)
        {'lr': [1.0, 1.0, 0.5, 0.5]}
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"count={count!r}: an int from 1 on is needed")
    pairs: list[Any] = list(optimizer.items()) if hasattr(optimizer, "items") else [("", optimizer)]
    rates: dict[str, list[float]] = {}
    for name, one in pairs:
        if not hasattr(one, "scheduler") or not hasattr(one, "opt"):
            raise ArgumentTypeError(f"optimizer={one!r}: an Optimizer is needed, as trainer.opt or trainer.opt[0]")
        if one.scheduler is not None and (one.sched_with_loss or one.monitor):
            message = f"{type(one.scheduler).__name__} goes by a figure, which nobody knows beforehand"
            raise ArgumentError(f"{message}; Report() draws the learning rates that a run had")
        prefix = f"{name} " if len(pairs) > 1 else ""
        rates |= {f"{prefix}{group}": values for group, values in _foreseen(one, count).items()}
    return rates


def rate_names(groups: Sequence[Any]) -> list[str]:
    """What the learning rates of an optimizer's groups are called.

    Example:
        >>> rate_names([{}]), rate_names([{}, {"name": "head"}])
        (['lr'], ['lr 0', 'lr head'])
    """
    return ["lr"] if len(groups) == 1 else [f"lr {group.get('name', i)}" for i, group in enumerate(groups)]


def _foreseen(optimizer: Any, count: int) -> dict[str, list[float]]:
    """Step a copy of the scheduler, in which the parameters are the same and the optimizer's state is none."""
    original = getattr(optimizer.opt, "optimizer", optimizer.opt)
    shared = [p for group in original.param_groups for p in group["params"]]
    memo: dict[int, Any] = {id(p): p for p in shared}
    memo[id(original.state)] = {}
    scheduler = copy.deepcopy(optimizer.scheduler, memo)
    copied = original if scheduler is None else memo.get(id(original), getattr(scheduler, "optimizer", original))
    if scheduler is not None:
        copied._opt_called = True  # or torch warns that the optimizer was not stepped
    values: list[list[float]] = []
    for _ in range(count):
        values.append([float(group["lr"]) for group in copied.param_groups])
        if scheduler is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scheduler.step()
    return dict(zip(rate_names(copied.param_groups), map(list, zip(*values, strict=True)), strict=True))


def plot_learning_rates(rates: Any, count: int | None = None, path: Any = None, *, show: bool = False) -> Any:
    """Draw learning rates: those to come, of an optimizer's schedule, or those given.

    Args:
        rates: an `Optimizer` or ``trainer.opt``; or ``{name: values}``, as `learning_rates` returns them.
        count: of an optimizer, how many steps (or epochs, where its schedule goes by epochs).
        path: what to write it to; see `History.plot`.
        show: see `History.plot`.

    Returns:
        The figure; see `History.plot`.

    Example:
        >>> [line.get_ydata().tolist() for line in plot_learning_rates({"lr": [0.1, 0.01]}).axes[0].lines]
        [[0.1, 0.01]]
    """
    if not isinstance(rates, Mapping):
        if count is None:
            raise ArgumentError("count=None: how many steps (or epochs) of the schedule to draw is needed")
        rates = learning_rates(rates, count)
    curves = {"learning rate": as_lines(rates)}
    return _deliver(
        "plot_learning_rates",
        lambda **how: _draw_curves(curves, "", **how),
        lambda: _rates_chart(curves),
        lambda: grid_svg([_curve_svg(name, lines, "") for name, lines in curves.items()]),
        path,
        show,
    )


def _rates_chart(curves: Mapping[str, Any]) -> Chart:
    chart = Chart(line_chart(curves["learning rate"], title="learning rate"))
    chart.svg = _curve_svg("learning rate", curves["learning rate"], "")
    return chart


# Contact sheets


def contact_sheet(
    samples: Sequence[Any],
    path: Any = None,
    *,
    columns: int = 8,
    class_names: Sequence[Any] | None = None,
    shape: Sequence[int] | None = None,
    show: bool = False,
) -> Any:
    r"""Put the images of samples side by side, each with its value, its target and what was predicted.

    Args:
        samples: ``[value, pred, target, input]`` each, as ``top_samples()`` returns them, or dicts as
            `Interpret.samples` does. An input is a grey or RGB
            image, (H, W), (1, H, W), (3, H, W) or (H, W, 3); others are shown as an empty frame.
        path: what to write it to; see `History.plot`.
        columns: images per row.
        class_names: what the classes are called.
        shape: what flat inputs are given first, ``(28, 28)``.
        show: see `History.plot`.

    Returns:
        The figure; without matplotlib, a table as text.

    Raises:
        ArgumentError: there are no samples, one of them has another form, or `columns` is no int from 1 on.

    Example:
        >>> sheet = contact_sheet([[2.5, torch.tensor([0.1, 0.9]), torch.tensor(0), torch.rand(1, 8, 8)]])
        >>> sheet.axes[0].get_title()
        '0, said 1\n2.5'
    """
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        raise ArgumentError(f"columns={columns!r}: an int from 1 on is needed")
    entries = [sample_parts(sample, class_names, shape) for sample in samples]
    if not entries:
        raise ArgumentError("samples=[]: there is nothing to show; were there any samples yet?")
    return _deliver(
        "contact_sheet",
        lambda **how: _draw_sheet(entries, columns, **how),
        lambda: Chart("\n".join(f"{value:>10}  target {target}, said {said}" for value, said, target, _ in entries)),
        lambda: _sheet_svg(entries, columns),
        path,
        show,
    )


def sample_parts(
    sample: Any, class_names: Sequence[Any] | None = None, shape: Sequence[int] | None = None
) -> tuple[str, str, str, np.ndarray[Any, Any] | None]:
    """Tell what to show of a sample: value, prediction, target, and its pixels.

    Args:
        sample: ``[value, pred, target, input]``, or a dict with ``value, prediction, target`` and maybe ``input``.
        class_names: what the classes are called.
        shape: what a flat input is given first.

    Raises:
        ArgumentError: it has another form.

    Example:
        >>> sample_parts([0.5, torch.tensor([0.2, 0.8]), 0, None], ["cat", "dog"])
        ('0.5', 'dog', 'cat', None)
    """
    try:
        if isinstance(sample, Mapping):
            sample = [sample["value"], sample["prediction"], sample["target"], sample.get("input")]
        value, pred, target, given = sample
    except (TypeError, ValueError, KeyError):
        raise ArgumentError(f"samples: {str(sample)[:80]!r} is no [value, pred, target, input]") from None
    said = _predicted(pred, target)
    return _label(value, None), _label(said, class_names), _label(target, class_names), as_image(given, shape)


def _predicted(pred: Any, target: Any) -> Any:
    """A prediction; of a vector of scores beside the index of a class, the class that has the highest."""
    scores, index = _numbers(pred), _numbers(target)
    if scores is None or index is None or scores.ndim != 1 or scores.size < 2:
        return pred
    is_class = index.ndim == 0 and index.dtype.kind in "iu" and int(index) < scores.size
    return int(scores.argmax()) if is_class else pred


def _numbers(value: Any) -> np.ndarray[Any, Any] | None:
    """What a value holds as an array of numbers; None where it holds something else."""
    if hasattr(value, "detach"):
        value = value.detach().float().cpu() if value.is_floating_point() else value.detach().cpu()
    try:
        numbers = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.size and numbers.dtype.kind in "biuf" else None


def _label(value: Any, names: Sequence[Any] | None) -> str:
    """A prediction, target or value as a few characters; of several numbers the first."""
    numbers = _numbers(value)
    if numbers is None:
        return printable(value)[:_LABEL]
    if numbers.size == 1:
        return _number_label(numbers.reshape(-1)[0], names, ".4g")
    classes = names if numbers.dtype.kind in "iu" else None
    words = [_number_label(number, classes, ".3g") for number in numbers.reshape(-1)[:_LABEL]]
    fitting = max((n for n in range(1, len(words) + 1) if len(" ".join(words[:n])) <= _LABEL - 2), default=1)
    return " ".join(words[:fitting]) + (" …" if fitting < numbers.size else "")


def _number_label(number: Any, names: Sequence[Any] | None, digits: str) -> str:
    single = float(number)
    if names is not None and single.is_integer() and 0 <= single < len(names):
        return printable(names[int(single)])[:_LABEL]
    return f"{single:{digits}}"


def _draw_sheet(entries: Sequence[Any], columns: int, make: Callable[..., Any]) -> Any:
    columns = min(columns, len(entries))
    rows = -(-len(entries) // columns)
    figure = make(figsize=(1.25 * columns, 1.6 * rows), layout="constrained")
    for position, (value, said, target, pixels) in enumerate(entries, 1):
        axes = figure.add_subplot(rows, columns, position)
        axes.set_title(f"{target}, said {said}\n{value}", fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])
        if pixels is not None:
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _take_texts_as_they_are(figure)
    return figure


def _sheet_svg(entries: Sequence[Any], columns: int) -> str:
    return grid_svg([_sample_svg(*entry) for entry in entries], columns, 110, 140)


def _sample_svg(value: str, said: str, target: str, pixels: Any) -> str:
    words = f'<text x="55" y="16">{escaped(f"{target}, said {said}")}</text><text x="55" y="30">{escaped(value)}</text>'
    image = '<rect x="7" y="37" width="96" height="96" fill="none" stroke="currentColor" stroke-opacity=".3"/>'
    if pixels is not None:
        address = png_address(pixels)
        image = f'<image x="7" y="37" width="96" height="96" style="image-rendering:pixelated" href="{address}"/>'
    style = 'text-anchor="middle" font-size="10" font-family="sans-serif" fill="currentColor"'
    return f'<svg width="110" height="140" {style}>{words}{image}</svg>'


# What all of them do with what was drawn


def _deliver(
    what: str,
    draw: Callable[..., Any],
    chart: Callable[[], Chart],
    svg: Callable[[], str],
    path: Any,
    show: bool,
    depth: int = 4,
) -> Any:
    """Draw by what is there, write where that is asked for, and show where that is asked for."""
    suffix = "" if path is None else Path(os.fspath(path)).suffix.lower()
    if suffix == ".txt":
        text = chart()
        Path(path).write_text(text + "\n", encoding="utf-8")
        return _shown(text) if show else text
    if importlib.util.find_spec("matplotlib") is None or sys.modules.get("matplotlib.figure", "") is None:
        if suffix == ".svg":
            Path(path).write_text(svg(), encoding="utf-8")
        elif path is not None:
            need("matplotlib.figure", "plot", f"{what}({os.fspath(path)!r}) (.svg and .txt do without)")
        else:
            message = f"{what}: drawn with characters; pictures need pip install 'deepepochs_like[plot]'"
            warnings.warn(message, EngineWarning, stacklevel=depth - 1)
        return _shown(chart()) if show else chart()
    windows = show and not in_notebook() and _opens_windows()
    figure = draw(make=_in_a_window if windows else _picture_class())
    if path is not None:
        figure.savefig(path, dpi=150)
    if windows:
        need("matplotlib.pyplot", "plot", what).show()
    elif show and in_notebook():
        importlib.import_module("IPython.display").display(figure)
    elif show:
        warnings.warn(
            f"{what}: there is no screen to open a window on; drawn with characters", EngineWarning, depth - 1
        )
        _shown(chart())
    return figure


def _shown(text: Chart) -> Chart:
    if in_notebook():
        importlib.import_module("IPython.display").display(text)
    elif sys.stdout is not None:
        sys.stdout.write(f"{text}\n")
    return text


def _opens_windows() -> bool:
    """Whether pyplot, which now chooses a backend if it has not, has one with windows."""
    pyplot = need("matplotlib.pyplot", "plot", "show=True")
    backends = need("matplotlib.backends", "plot", "show=True")
    files_only = backends.backend_registry.list_builtin(backends.BackendFilter.NON_INTERACTIVE)
    return pyplot.get_backend().lower() not in files_only


def _in_a_window(**options: Any) -> Any:
    return need("matplotlib.pyplot", "plot", "show=True").figure(FigureClass=_picture_class(), **options)


# HTML for notebooks


def history_html(history: Any, most: int = 20) -> str:
    """A history as HTML: its curves, and its last epochs as a table.

    Example:
        >>> from deepepochs_like import History
        >>> history = History(); history.record("train", 0, {"a<b": 0.5}); "a&lt;b" in history_html(history)
        True
    """
    curves = curves_of(history)
    if not curves:
        return "<p>no epochs yet</p>"
    options: dict[str, Any] = {"x_label": "epoch", "width": 330, "height": 190, "colours": STAGES}
    pictures = "".join(line_svg(lines, title=name, **options) for name, lines in list(curves.items())[:6])
    more = f"<p>curves of the first 6 of {len(curves)} figures</p>" if len(curves) > 6 else ""
    rows = history.rows()
    names = [f"{stage}/{name}" for stage in history for name in curves if stage in curves[name]]
    table = [[str(row["epoch"]), *(_number(row.get(name)) for name in names)] for row in rows[-most:]]
    left_out = f"<p>{len(rows) - most} earlier epochs</p>" if len(rows) > most else ""
    heads = ["epoch", *(name.replace("/", " ", 1) for name in names)]
    return f"<div>{pictures}</div>{more}{left_out}{html_table(heads, table)}"


def figures_html(figures: Mapping[str, Any]) -> str:
    """Figures by name as an HTML table.

    Example:
        >>> figures_html({"loss": 0.25}).count("<td")
        1
    """
    return html_table(list(figures), [[_number(value) for value in figures.values()]])


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, none of which is taken as markup.

    Example:
        >>> html_table(["<"], [["1"]])
        '<table><thead><tr><th>&lt;</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{escaped(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escaped(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{float(value):.6g}" if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf" else str(value)
