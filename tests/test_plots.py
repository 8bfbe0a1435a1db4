"""`SeriesPlots`, `plot_confusion` and the learning rates of a run, drawn where there is no screen."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepepochs_like import Callback, Checkpoint, History, Optimizer, SeriesPlots, Trainer, plot_confusion, set_seed
from deepepochs_like.errors import ArgumentError
from support.digits import mlp
from support.logged import KillAt, Killed, KillInEpochEnd, train_dl, val_dl

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


# ---------------------------------------------------------------------------------- the learning rates of a run

HALVED = {"lr/0": [0.1, 0.05, 0.025, 0.0125], "lr/head": [0.5, 0.25, 0.125, 0.0625]}


def halving(folder: Path, *callbacks: Any, epochs: int = 4, **options: Any) -> Trainer:
    """A trainer whose learning rates are halved after every epoch."""
    set_seed(0)
    model = mlp()
    groups = [{"params": model[0].parameters()}, {"params": model[-1].parameters(), "lr": 0.5, "name": "head"}]
    sgd = torch.optim.SGD(groups, lr=0.1)
    schedule = Optimizer(sgd, torch.optim.lr_scheduler.StepLR(sgd, 1, 0.5))
    options = {"folder": folder, "running_id": "a", "verbose": 0, "device": "cpu", **options}
    loss = torch.nn.functional.cross_entropy
    return Trainer(model, loss, schedule, epochs, callbacks=list(callbacks), **options)


def titles(figure: Any) -> list[str]:
    return [axes.get_title("left") for axes in figure.axes]


def test_the_learning_rates_of_all_groups_are_kept_and_drawn(tmp_path: Path) -> None:
    history = halving(tmp_path).fit(train_dl(), val_dl())
    assert history.learning_rates == HALVED
    assert history.rate_epochs == {name: [0, 1, 2, 3] for name in HALVED}
    assert set(history) == {"train", "val"}
    figure = history.plot()
    assert titles(figure) == ["loss", "lr"]
    drawn = {line.get_label().strip(): list(line.get_ydata()) for line in figure.axes[1].lines}
    assert drawn == {"0": HALVED["lr/0"], "head": HALVED["lr/head"]}
    assert "\nlr\n" in history.chart(width=40, height=3, ascii=True)
    history.plot(tmp_path / "curves.svg")
    assert history.learning_rates == HALVED
    assert set(history["train"]) == {"loss"}


@pytest.mark.parametrize(
    "kills",
    [[KillAt(3)], [KillAt(8), KillAt(4)], [KillInEpochEnd(1)], [KillInEpochEnd(2), KillAt(1)]],
    ids=["3", "8+4", "end", "end+1"],
)
def test_the_learning_rates_of_a_resumed_run_are_those_of_an_uncut_one(tmp_path: Path, kills: list[Any]) -> None:
    for kill in kills:
        with pytest.raises(Killed):
            halving(tmp_path, Checkpoint(every_steps=2), kill, resume="auto").fit(train_dl(), val_dl())
    history = halving(tmp_path, Checkpoint(every_steps=2), resume="auto").fit(train_dl(), val_dl())
    assert history.learning_rates == HALVED
    assert history.rate_epochs == {name: [0, 1, 2, 3] for name in HALVED}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # of a scheduler whose optimizer is new
def test_a_state_taken_while_an_epoch_is_closed_has_its_learning_rates_once(tmp_path: Path) -> None:
    states: list[Any] = []

    class Keep(Callback):
        def on_after_epoch(self, trainer: Any, **given: Any) -> None:
            torch.save(trainer.state_dict(), tmp_path / "state.pt")
            states.append(torch.load(tmp_path / "state.pt", weights_only=True))

    whole = halving(tmp_path, Keep()).fit(train_dl(), val_dl())
    for state in states:
        trainer = halving(tmp_path)
        trainer.load_state_dict(state)
        assert trainer.fit(train_dl(), val_dl()).learning_rates == whole.learning_rates == HALVED


def test_a_second_fit_has_its_own_and_the_trainer_all(tmp_path: Path) -> None:
    trainer = halving(tmp_path, epochs=2)
    trainer.fit(train_dl(), val_dl())
    second = trainer.fit(train_dl(), val_dl(), epochs=2)
    assert second.learning_rates == {name: rates[2:] for name, rates in HALVED.items()}
    assert second.rate_epochs == {name: [2, 3] for name in HALVED}
    assert trainer.history.learning_rates == HALVED


def test_learning_rates_that_do_not_change_are_drawn_where_they_are_asked_for() -> None:
    model = mlp()
    history = Trainer(model, torch.nn.functional.cross_entropy, epochs=2, verbose=0).fit(train_dl())
    assert history.learning_rates == {"lr": [0.001, 0.001]}
    assert titles(history.plot()) == ["loss"]
    assert titles(history.plot(figures=["lr", "loss"])) == ["lr", "loss"]
    with pytest.raises(ArgumentError, match="no figure 'lr'"):
        History().plot(figures="lr")


def test_a_figure_called_lr_is_drawn_as_itself() -> None:
    history = History()
    for epoch in range(2):
        history.record("train", epoch, {"lr": 3.0})
        history.record_rates(epoch, {"lr": 0.1 / (epoch + 1)})
    (axes,) = history.plot().axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[3.0, 3.0]]


def test_a_state_from_before_learning_rates_were_kept_loads() -> None:
    history = History()
    history.record("train", 0, {"loss": 1.0})
    state = history.state_dict()
    del state["rates"]
    history.record_rates(0, {"lr": 1.0})
    history.load_state_dict(state)
    assert history.learning_rates == {}


def test_a_group_that_joins_in_later_begins_later() -> None:
    history = History()
    history.record_rates(0, {"lr": 0.1})
    history.record_rates(1, {"lr/a/b": 0.1, "lr/1": 0.2})
    (axes,) = history.plot(figures="lr").axes
    drawn = {line.get_label().strip(): list(line.get_xdata()) for line in axes.lines}
    assert drawn == {"lr": [1], "a b": [2], "1": [2]}
