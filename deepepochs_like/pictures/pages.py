"""Histories and figures as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..utils.svg import escaped, line_svg
from .curves import STAGES, curves_of


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
