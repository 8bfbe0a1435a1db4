"""Pictures of a run: curves, learning rates, contact sheets; by matplotlib where it is installed, else without.

Figures are made without pyplot, so that no window opens and no backend is chosen, on any machine. A path that ends with
``.svg`` or ``.txt`` needs no matplotlib.
"""

from __future__ import annotations

from typing import Any

from .curves import STAGES, Curves, chart_history, curves_of, plot_history
from .delivery import Chart, grid_svg
from .pages import figures_html, history_html, html_table
from .rates import learning_rates, plot_learning_rates, rate_names
from .sheet import contact_sheet, sample_parts

__all__ = [
    "STAGES",
    "Chart",
    "Curves",
    "chart_history",
    "contact_sheet",
    "curves_of",
    "figures_html",
    "grid_svg",
    "history_html",
    "html_table",
    "learning_rates",
    "plot_history",
    "plot_learning_rates",
    "rate_names",
    "sample_parts",
]


def __getattr__(name: str) -> Any:
    if name == "Picture":  # by this name figures are pickled
        from .delivery import picture_class

        return picture_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
