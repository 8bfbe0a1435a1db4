"""Curves, learning rates, contact sheets: with matplotlib and without, and none of them opens anything by itself."""

from __future__ import annotations

import base64
import io
import math
import pickle
import subprocess
import sys
import types
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepepochs_like import History, Optimizer, contact_sheet, learning_rates, plot_confusion, plot_learning_rates
from deepepochs_like.display.words import Words
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, EngineWarning
from deepepochs_like.history import Result, rates_by_name
from deepepochs_like.optimizer import Optimizers
from deepepochs_like.pictures import Chart, curves_of, history_html, sample_parts
from deepepochs_like.utils.svg import as_image, line_svg, png_address, png_bytes

HOSTILE = "<img src=x onerror='a'>\"$\\frac{$_\x1b[2J"


def history(epochs: int = 5, *names: str) -> History:
    made = History()
    for epoch in range(epochs):
        made.record("train", epoch, {name: np.float64(1 / (epoch + 1)) for name in names or ("loss", "acc")})
        if epoch % 2:
            made.record("val", epoch, {name: np.float64(2 / (epoch + 1)) for name in names or ("loss",)})
    return made


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


@pytest.fixture
def with_it() -> None:
    pytest.importorskip("matplotlib")


# The history


@pytest.mark.usefixtures("with_it")
def test_history_plot_draws_every_figure_with_its_stages(tmp_path: Path) -> None:
    figure = history().plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    loss, acc = figure.axes
    assert [axes.get_title("left") for axes in (loss, acc)] == ["loss", "acc"]
    lines = [(line.get_label().strip(), line.get_xdata().tolist(), line.get_ydata().tolist()) for line in loss.lines]
    assert lines == [("train", [1, 2, 3, 4, 5], [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]), ("val", [2, 4], [1, 1 / 2])]
    assert loss.get_legend() is not None
    assert acc.get_legend() is None
    assert len(history().plot(figures="loss").axes) == 1


@pytest.mark.usefixtures("with_it")
@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "txt"])
def test_history_plot_writes_what_the_path_says(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"curves.{suffix}"
    history().plot(str(path))
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "txt": b"loss\n"}[suffix]
    assert path.read_bytes().startswith(start)


@pytest.mark.usefixtures("with_it")
def test_drawing_opens_nothing_and_chooses_no_backend() -> None:
    source = (
        "import sys, torch\n"
        "from deepepochs_like import History, contact_sheet, plot_learning_rates\n"
        "h = History(); h.record('train', 0, {'loss': 1.0})\n"
        "h.plot(); contact_sheet([[1.0, 2, 3, torch.rand(4, 4)]]); plot_learning_rates({'lr': [1, 2]})\n"
        "import matplotlib\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.get_backend(auto_select=False) is None\n"
        "assert 'IPython' not in sys.modules\n"
    )
    environment = {"PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("with_it")
def test_drawing_leaves_the_users_backend_and_figures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "get_backend", lambda: "QtAgg")  # a backend with windows
    before = plt.get_fignums()
    history().plot()
    assert plt.get_fignums() == before


@pytest.mark.usefixtures("with_it")
def test_show_without_a_screen_prints_instead(capsys: pytest.CaptureFixture[str]) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    with pytest.warns(EngineWarning, match="no screen"):
        history().plot(show=True)
    assert capsys.readouterr().out.startswith("loss\n")


@pytest.mark.usefixtures("with_it")
def test_show_opens_windows_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    shown: list[list[int]] = []
    monkeypatch.setattr(plt, "get_backend", lambda: "QtAgg")
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.get_fignums()))
    try:
        figure = history().plot(show=True)
        assert [figure.number] in shown
    finally:
        plt.close("all")


@pytest.mark.usefixtures("with_it")
def test_figures_can_be_pickled_and_shown_by_a_notebook() -> None:
    figure = history().plot()
    twin = pickle.loads(pickle.dumps(figure))
    assert twin._repr_png_().startswith(b"\x89PNG")
    assert type(twin) is type(figure)


@pytest.mark.usefixtures("with_it")
def test_names_are_no_formulas(tmp_path: Path) -> None:
    figure = history(3, "$\\frac{$", "_hidden").plot(tmp_path / "x.png")
    assert figure.axes[0].get_title("left") == "$\\frac{$"
    plot_confusion(np.eye(2), 2, ["$\\frac{$", "b"], path=tmp_path / "y.png")


@pytest.mark.usefixtures("without")
def test_without_matplotlib_curves_are_characters_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(EngineWarning, match=r"deepepochs_like\[plot\]") as caught:
        chart = history().plot()
    assert caught[0].filename == __file__
    assert isinstance(chart, Chart)
    assert repr(chart).startswith("loss\n")
    assert chart._repr_html_().count("<svg") == 2  # type: ignore[union-attr]
    with pytest.warns(EngineWarning, match="plot"):
        history().plot(show=True)
    assert capsys.readouterr().out == f"{chart}\n"


@pytest.mark.usefixtures("without")
def test_without_matplotlib_svg_and_text_are_written_all_the_same(tmp_path: Path) -> None:
    history().plot(tmp_path / "curves.svg")
    root = ET.fromstring((tmp_path / "curves.svg").read_text(encoding="utf-8"))
    assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == 2
    history().plot(tmp_path / "curves.txt")
    assert (tmp_path / "curves.txt").read_text(encoding="utf-8").startswith("loss\n")
    with pytest.raises(ModuleNotFoundError, match=r"deepepochs_like\[plot\]"):
        history().plot(tmp_path / "curves.png")


def test_history_chart_is_text_whatever_is_installed() -> None:
    chart = history().chart(width=60, height=4, ascii=True)
    assert [block.split("\n")[0] for block in chart.split("\n\n")] == ["loss", "acc"]
    assert history().chart("acc", width=60).split("\n")[0] == "acc"
    assert History().chart() == "(no numbers yet)"


def test_figures_that_are_not_there_are_named() -> None:
    with pytest.raises(ArgumentError, match="no figure 'los'; did you mean 'loss'"):
        history().chart("los")
    with pytest.raises(ArgumentError, match="the history holds none"):
        History().plot(figures=["loss"])


def test_curves_leave_out_what_is_no_number() -> None:
    made = history(2)
    made.record("train", 2, {"matrix": np.eye(2), "loss": np.float32(0.5)})
    assert curves_of(made) == {
        "loss": {"train": ([1, 2, 3], [1.0, 0.5, 0.5]), "val": ([2], [1.0])},
        "acc": {"train": ([1, 2], [1.0, 0.5])},
    }


# Notebooks


def test_history_and_result_are_tables_in_a_notebook() -> None:
    html = history(30)._repr_html_()
    assert html.count("<svg") == 2
    assert html.count("<tr>") == 1 + 20
    assert "10 earlier epochs" in html
    assert History()._repr_html_() == "<p>no epochs yet</p>"
    assert Result(loss=np.float64(0.25), n=None)._repr_html_().count("<td>") == 2


def test_hostile_names_stay_text() -> None:
    shown = history_html(history(3, HOSTILE)) + Result({HOSTILE: 1.0})._repr_html_()
    assert "<img" not in shown
    assert "\x1b" not in shown
    ET.fromstring(f"<div>{shown}</div>")
    ET.fromstring(line_svg({HOSTILE: [1, 2], "b": [1]}, title=HOSTILE, x_label=HOSTILE))


class Shell:
    kernel = object()


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A stand-in for IPython in a kernel; what it is asked to show."""
    shown: list[Any] = []
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: Shell()  # type: ignore[attr-defined]
    display.display = lambda what, **options: shown.append(what)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown  # type: ignore[return-value]


@pytest.mark.usefixtures("with_it")
def test_show_in_a_notebook_shows_it_there(notebook: list[Any]) -> None:
    figure = history().plot(show=True)
    assert notebook == [figure]


@pytest.mark.usefixtures("without")
def test_show_in_a_notebook_without_matplotlib(notebook: list[Any]) -> None:
    with pytest.warns(EngineWarning, match="plot"):
        chart = history().plot(show=True)
    assert notebook == [chart]


# Learning rates


def adam(**options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam([torch.zeros(2, requires_grad=True)], lr=1.0, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda opt: torch.optim.lr_scheduler.StepLR(opt, 3, 0.1),
        lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10),
        lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 1.0, total_steps=20),
        lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda epoch: 0.9**epoch),
        lambda opt: torch.optim.lr_scheduler.SequentialLR(
            opt,
            [
                torch.optim.lr_scheduler.LinearLR(opt, 0.1, total_iters=3),
                torch.optim.lr_scheduler.ExponentialLR(opt, 0.5),
            ],
            [3],
        ),
    ],
)
def test_rates_to_come_are_those_that_come(make: Any) -> None:
    torch_opt = adam()
    optimizer = Optimizer(torch_opt, make(torch_opt), sched_on="step")
    before = repr([torch_opt.state_dict(), optimizer.scheduler.state_dict()])
    foreseen = learning_rates(optimizer, 8)["lr"]
    assert repr([torch_opt.state_dict(), optimizer.scheduler.state_dict()]) == before
    real = []
    for _ in range(8):
        real.append(optimizer.get_current_lr())
        torch_opt.step()
        optimizer.scheduler.step()
    assert foreseen == pytest.approx(real, rel=1e-12)


def test_rates_of_several_groups_and_optimizers_are_named() -> None:
    groups = [{"params": [torch.zeros(1)], "lr": 0.1}, {"params": [torch.zeros(1)], "lr": 0.2, "name": "head"}]
    several = Optimizers({"g": torch.optim.SGD(groups, lr=1), "d": torch.optim.SGD([torch.zeros(1)], lr=0.5)})
    assert learning_rates(several, 2) == {"g lr 0": [0.1, 0.1], "g lr head": [0.2, 0.2], "d lr": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["w", "w"], ["0", "1"]),
        ([None, None], ["0", "1"]),
        (["w", "head", "w"], ["0", "head", "2"]),
        (["1", None], ["0", "1"]),
        ([3, "3"], ["0", "1"]),
    ],
)
def test_no_group_is_lost_for_the_lack_of_a_name_of_its_own(names: list[Any], shown: list[str]) -> None:
    groups = [{"params": [torch.zeros(1)], "lr": i + 1.0, "name": name} for i, name in enumerate(names)]
    optimizers = Optimizers(torch.optim.SGD(groups, lr=1))
    assert learning_rates(optimizers, 1) == {f"lr {name}": [i + 1.0] for i, name in enumerate(shown)}
    assert rates_by_name(optimizers) == {f"lr/{name}": i + 1.0 for i, name in enumerate(shown)}


@pytest.mark.parametrize(
    ("digits", "words"), [(0, ["2", "12", "3.00e-01"]), (1, ["1.6", "12.3", "0.3"]), (2, ["1.57", "12.34", "0.30"])]
)
def test_few_decimals_hide_no_figure_and_are_taken_at_their_word(digits: int, words: list[str]) -> None:
    history = History()
    for epoch, figure in enumerate([1.57, 12.34, 0.3]):
        history.record("train", epoch, {"loss": np.float64(figure)})
    assert [line.split()[1] for line in history.table(digits).splitlines()[1:]] == words


@pytest.mark.parametrize("digits", [0, 1, 2, 4, 6])
def test_a_history_is_printed_in_the_numbers_of_the_console(digits: int) -> None:
    figures = [0.0, 0.25, 1e-6, -3e-5, 0.001, 999_999.0, 1e6, 8e28, math.nan, math.inf, True]
    printed = History()
    for epoch, figure in enumerate(figures):
        printed.record("train", epoch, {"loss": np.float64(figure)})
    words = [line.split()[1] for line in printed.table(digits).splitlines()[1:]]
    assert words == [Words(digits).number(float(figure)) for figure in figures]


def test_rates_that_nobody_knows_are_refused() -> None:
    torch_opt = adam()
    plateau = Optimizer(torch_opt, torch.optim.lr_scheduler.ReduceLROnPlateau(torch_opt), monitor="val/loss")
    with pytest.raises(ArgumentError, match="goes by a figure"):
        learning_rates(plateau, 3)
    with pytest.raises(ArgumentError, match="count=0"):
        learning_rates(Optimizer(adam()), 0)
    with pytest.raises(ArgumentTypeError, match="an Optimizer is needed"):
        learning_rates(adam(), 3)
    with pytest.raises(ArgumentError, match="how many"):
        plot_learning_rates(Optimizer(adam()))


@pytest.mark.usefixtures("with_it")
def test_plot_learning_rates(tmp_path: Path) -> None:
    figure = plot_learning_rates(Optimizer(adam()), 3, tmp_path / "rates.png")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1.0, 1.0, 1.0]
    assert (tmp_path / "rates.png").stat().st_size > 1000
    plot_learning_rates({"lr": [0.1, 0.2]}, path=tmp_path / "rates.txt")
    assert "learning rate" in (tmp_path / "rates.txt").read_text(encoding="utf-8")


# Confusion matrices


@pytest.mark.usefixtures("with_it")
def test_plot_confusion_writes_shares_to_a_file(tmp_path: Path) -> None:
    matrix = np.array([[3, 1], [0, 2]])
    figure = plot_confusion(matrix, 2, ["cat", "dog"], normalize="true", path=tmp_path / "c.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.75", "0.25", "0.00", "1.00"]
    assert figure.axes[0].get_title() == "Confusion matrix - (6) \n"
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    assert not plot_confusion(np.eye(100), 100).axes[0].texts
    with pytest.raises(ArgumentError, match="normalize='rows'"):
        plot_confusion(matrix, 2, normalize="rows")


# Images


GREY = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("values", "shape"),
    [
        (GREY, (8, 8)),
        (GREY[None], (8, 8)),
        (GREY.numpy(), (8, 8)),
        (GREY.to(torch.bfloat16), (8, 8)),
        (torch.rand(3, 8, 6), (8, 6, 3)),
        (torch.rand(4, 8, 6), (8, 6, 3)),
        (np.random.default_rng(0).random((8, 6, 3)), (8, 6, 3)),
        (np.random.default_rng(0).random((8, 6, 1)), (8, 6)),
        (torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8), (8, 8, 3)),
        (torch.randint(0, 200, (8, 8)), (8, 8)),
        (torch.rand(8, 8) > 0.5, (8, 8)),
        (torch.full((8, 8), float("nan")), (8, 8)),
        (torch.zeros(8, 8), (8, 8)),
        (GREY * 1e6 - 3e5, (8, 8)),
        ((torch.tensor(3), GREY), (8, 8)),
        ([GREY.requires_grad_()], (8, 8)),
    ],
)
def test_images_of_all_kinds(values: Any, shape: tuple[int, ...]) -> None:
    image = as_image(values)
    assert image is not None
    assert image.shape == shape
    assert image.dtype == np.uint8


@pytest.mark.parametrize("values", [None, 3, "text", torch.rand(64), torch.rand(5, 8, 8), {"a": 1}, torch.rand(0, 0)])
def test_what_is_no_image(values: Any) -> None:
    assert as_image(values) is None


def test_flat_images_get_the_shape_given() -> None:
    assert as_image(torch.rand(64), (8, 8)).shape == (8, 8)  # type: ignore[union-attr]
    assert as_image(torch.rand(192), (3, 8, 8)).shape == (8, 8, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "ys",
    [
        [0.0, 0.3],
        [0.69314, 0.69318],
        [1.000001, 1.000002],
        [123456.7, 123456.9],
        [-123456.25, -123456.75],
        [1e6, 1.2e6],
    ],
)
def test_labels_of_an_axis_tell_its_ticks_apart_and_fit_in(ys: list[float]) -> None:
    picture = ET.fromstring(line_svg({"": ([1, 100_000], ys)}))
    texts = [(float(one.attrib["x"]), one.get("text-anchor"), one.text or "") for one in picture if "text" in one.tag]
    rows = [(x, text) for x, anchor, text in texts if anchor == "end"]
    values = [float(text) for _, text in rows]
    assert len(values) == len(set(values)) >= 2
    assert np.diff(values) == pytest.approx(np.diff(values).mean(), rel=0.01)
    assert all(x - 6 * len(text) >= 0 for x, text in rows)
    assert all(x + 3 * len(text) <= 440 for x, anchor, text in texts if anchor == "middle")


def test_pictures_are_what_decoders_read() -> None:
    image = pytest.importorskip("PIL.Image")
    for pixels in (np.arange(48, dtype=np.uint8).reshape(6, 8), np.arange(72, dtype=np.uint8).reshape(4, 6, 3)):
        data = png_bytes(pixels)
        assert np.array_equal(np.asarray(image.open(io.BytesIO(data))), pixels)
        assert base64.b64decode(png_address(pixels).partition(",")[2]) == data
    assert zlib.crc32(b"IEND") == 0xAE426082
    with pytest.raises(ArgumentError, match="uint8"):
        png_bytes(np.zeros((2, 2)))


SAMPLES: list[Any] = [
    [2.5, torch.tensor([0.1, 0.9]), torch.tensor(0), GREY],
    [1.5, 1, 1, torch.rand(3, 8, 8)],
    [torch.tensor(0.5), torch.tensor([0.9, 0.1]), 1, None],
]


@pytest.mark.usefixtures("with_it")
def test_contact_sheet(tmp_path: Path) -> None:
    figure = contact_sheet(SAMPLES, tmp_path / "sheet.png", columns=2, class_names=["cat", "dog"])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["cat, said dog\n2.5", "dog, said dog\n1.5", "dog, said cat\n0.5"]
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 0]
    assert figure.axes[0].get_gridspec().get_geometry() == (2, 2)
    assert (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("pred", "target", "said"),
    [
        (torch.tensor([0.1, 0.9]), 0, "dog"),
        (torch.tensor([0.1, 0.9]), torch.tensor(0), "dog"),
        (torch.tensor([0.1, 0.9]), 0.0, "0.1 0.9"),
        (torch.tensor([0.1, 0.9]), torch.tensor([0.3, 0.5]), "0.1 0.9"),
        (torch.tensor([0.1, 0.9]), 57, "0.1 0.9"),
        (torch.tensor([0.125, 2.25, -1.5, 4.0]), torch.zeros(4), "0.125 2.25 …"),
        (torch.arange(100), torch.arange(100), "cat dog 2 3 4 …"),
        (torch.tensor([[0.5, 1.5], [2.5, 3.5]]), torch.zeros(2), "0.5 1.5 2.5 …"),
        (torch.tensor([0.75]), torch.tensor([1.0]), "0.75"),
        (float("nan"), 1, "nan"),
    ],
)
def test_a_prediction_is_a_class_only_beside_a_class(pred: Any, target: Any, said: str) -> None:
    assert sample_parts([1.0, pred, target, None], ["cat", "dog"])[1] == said


@pytest.mark.usefixtures("without")
def test_contact_sheet_without_matplotlib(tmp_path: Path) -> None:
    with pytest.warns(EngineWarning, match="plot") as caught:
        table = contact_sheet(SAMPLES)
    assert caught[0].filename == __file__
    assert table.split("\n")[0].split() == ["2.5", "target", "0,", "said", "1"]
    contact_sheet(SAMPLES, tmp_path / "sheet.svg")
    root = ET.fromstring((tmp_path / "sheet.svg").read_text(encoding="utf-8"))
    assert sum(element.tag.endswith("image") for element in root.iter()) == 2


def test_contact_sheet_checks_its_arguments() -> None:
    with pytest.raises(ArgumentError, match="nothing to show"):
        contact_sheet([])
    with pytest.raises(ArgumentError, match=r"no \[value, pred, target, input\]"):
        contact_sheet([[1, 2]])
    with pytest.raises(ArgumentError, match="columns=0"):
        contact_sheet(SAMPLES, columns=0)
