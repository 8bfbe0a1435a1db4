"""What becomes of a picture: drawn by what is installed, written where it is asked for, and shown."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..utils.extras import need
from ..utils.notebook import in_notebook
from ..utils.warn import warn


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


@functools.cache
def picture_class() -> Any:
    """Matplotlib's figure, as one that notebooks show even where pyplot is not in use."""
    figure_class = need("matplotlib.figure", "plot", "a picture")

    def _repr_png_(self: Any) -> bytes:
        import io

        file = io.BytesIO()
        self.savefig(file, format="png", dpi=80)
        return file.getvalue()

    return type("Picture", (figure_class.Figure,), {"_repr_png_": _repr_png_, "__module__": __package__})


def deliver(
    what: str,
    draw: Callable[..., Any],
    chart: Callable[[], Chart],
    svg: Callable[[], str],
    path: Any,
    show: bool,
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
            warn(message)
        return _shown(chart()) if show else chart()
    windows = show and not in_notebook() and _opens_windows()
    figure = draw(make=_in_a_window if windows else picture_class())
    if path is not None:
        figure.savefig(path, dpi=150)
    if windows:
        need("matplotlib.pyplot", "plot", what).show()
    elif show and in_notebook():
        importlib.import_module("IPython.display").display(figure)
    elif show:
        warn(f"{what}: there is no screen to open a window on; drawn with characters")
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
    return need("matplotlib.pyplot", "plot", "show=True").figure(FigureClass=picture_class(), **options)


def take_texts_as_they_are(figure: Any) -> None:
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
