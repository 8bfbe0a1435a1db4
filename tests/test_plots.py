"""`SeriesPlots` and `plot_confusion`, drawn where there is no screen."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from deepepochs_like import SeriesPlots, plot_confusion
from deepepochs_like.errors import ArgumentError

pytest.importorskip("matplotlib")


def saved(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


@pytest.mark.parametrize("matrix", [np.array([[3, 1], [0, 2]]), torch.tensor([[3, 1], [0, 2]]), [[3, 1], [0, 2]]])
def test_plot_confusion(matrix: Any) -> None:
    figure = plot_confusion(matrix, 2, ["cat", "dog"], info="epoch 3")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "2"]
    assert [text.get_position() for text in axes.texts] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Prediction", "Target")
    assert axes.get_title() == "Confusion matrix - (6) \nepoch 3"
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in ticks] == ["cat", "dog"]
    assert saved(figure).startswith(b"\x89PNG")


def test_plot_confusion_of_shares() -> None:
    (axes,) = plot_confusion([[0.125, 0.875], [0.5, 0.5]], 2, norm_dec=1).axes
    assert [text.get_text() for text in axes.texts] == ["0.1", "0.9", "0.5", "0.5"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]


def test_plot_confusion_checks_its_arguments() -> None:
    with pytest.raises(ArgumentError, match=r"shape \(2, 2\)"):
        plot_confusion(np.eye(2), 3)
    with pytest.raises(ArgumentError, match="1 class names"):
        plot_confusion(np.eye(2), 2, ["a"])


def test_series_plots() -> None:
    plots: Any = SeriesPlots(["loss", ["train", "val"], "acc"], colums=2, figsize=(6, 4))
    plots.start()
    plots.add(1.0, [2.0, 3.0], torch.tensor(0.5))
    plots.add(2, (4, 5), 0.75)
    plots.ioff()
    lines = [
        [(line.get_label(), list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
        for axes in plots.fig.axes
    ]
    assert lines == [
        [("loss", [1, 2], [1, 2])],
        [("train", [1, 2], [2, 4]), ("val", [1, 2], [3, 5])],
        [("acc", [1, 2], [0.5, 0.75])],
    ]
    assert all(axes.get_legend() for axes in plots.fig.axes)
    low, high = plots.fig.axes[1].get_ylim()
    assert low <= 2
    assert high >= 5
    assert list(plots.fig.get_size_inches()) == [6, 4]
    assert saved(plots.fig).startswith(b"\x89PNG")


@pytest.mark.parametrize("values", [(), (1.0,), (1.0, 2.0), (1.0, [2.0]), ([1.0, 2.0], [1.0, 2.0])])
def test_series_plots_take_all_of_a_point_or_nothing(values: Any) -> None:
    plots = SeriesPlots(["loss", ["train", "val"]])
    with pytest.raises(ArgumentError, match="one value for each of"):
        plots.add(*values)
    assert plots.x == []
    assert plots.ys == [[[]], [[], []]]


def test_series_plots_check_their_arguments() -> None:
    for plots in ("loss", [], None):
        with pytest.raises(ArgumentError, match="a list of names"):
            SeriesPlots(plots)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="colums=0"):
        SeriesPlots(["a"], colums=0)


def test_figures_belong_to_pyplot_only_where_it_shows_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    before = plt.get_fignums()
    plot_confusion(np.eye(2), 2)
    assert plt.get_fignums() == before
    monkeypatch.setattr(plt, "get_backend", lambda: "QtAgg")
    try:
        plot_confusion(np.eye(2), 2)
        assert len(plt.get_fignums()) == len(before) + 1
    finally:
        plt.close("all")


def test_drawing_selects_no_backend_and_imports_no_pyplot() -> None:
    source = (
        "import sys\n"
        "from deepepochs_like import SeriesPlots, plot_confusion\n"
        "plots = SeriesPlots(['a']); plots.add(1); plot_confusion([[1, 0], [0, 1]], 2)\n"
        "import matplotlib\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.get_backend(auto_select=False) is None\n"
    )
    environment = {"PATH": "", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "draw",
    [lambda: SeriesPlots(["a"]).add(1), lambda: plot_confusion(np.eye(2), 2)],
    ids=["SeriesPlots", "plot_confusion"],
)
def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, draw: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs matplotlib.*deepepochs_like\[plot\]"):
        draw()
