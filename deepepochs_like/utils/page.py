"""HTML pages that stand alone: no script, no address of anything outside, no text taken as markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .svg import escaped, png_address
from .textchart import as_matrix, is_whole, normalized

#: With more classes than that, a confusion matrix becomes a picture without numbers.
MOST_CLASSES = 40

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5c6675;--paper:#f5f6f8;--card:#fff;--line:#dfe3e9;--mark:#0072b2;
--good:#00795a;--bad:#b3361b;--warn:#8a5a00}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b5;--paper:#14171c;--card:#1d2229;--line:#333b46;
--mark:#56b4e9;--good:#4cc79a;--bad:#ff8a70;--warn:#e0b050}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,'Segoe UI',Roboto,Helvetica,Arial,
sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 24px 48px}
header{border-bottom:3px solid var(--mark);padding-bottom:16px;margin-bottom:24px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:18px;margin:36px 0 12px}
p{margin:6px 0}.soft{color:var(--soft)}
.state{display:inline-block;padding:2px 10px;border-radius:99px;font-size:13px;font-weight:600;color:#fff;
background:var(--soft);margin-left:10px;vertical-align:middle}
.state.finished{background:#00795a}.state.stopped{background:#8a5a00}.state.failed{background:#b3361b}
.state.running{background:#0072b2}
.note{border-left:4px solid var(--bad);background:var(--card);padding:10px 14px;margin:14px 0;overflow-wrap:anywhere;
white-space:pre-wrap}.note.stopped{border-color:var(--warn)}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(165px,1fr));gap:12px}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:25px;line-height:1.25;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tile span{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr));gap:12px}
.charts svg{width:100%;height:auto;display:block}.charts .card{padding:10px 8px 6px}
.scroll{overflow:auto;max-height:560px;width:fit-content;max-width:100%;
background:var(--card);border:1px solid var(--line);border-radius:10px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:5px 12px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
thead th{position:sticky;top:0;background:var(--card);font-weight:600}
tbody tr:last-child td,tbody tr:last-child th{border-bottom:0}
td.best{color:var(--good);font-weight:700}
th.over{text-align:center}.over span{display:inline-block;position:sticky;left:90px;right:12px}
tbody th{position:sticky;left:0;background:var(--card)}
thead tr:first-child th:first-child{left:0;z-index:2}
.pairs{width:100%}.pairs th{text-align:left;font-weight:600;width:min(210px,36%);vertical-align:top;white-space:normal;
overflow-wrap:anywhere}.pairs td{text-align:left;white-space:pre-wrap;overflow-wrap:anywhere}
.matrix th{color:var(--soft);font-weight:600}.matrix thead th:first-child{white-space:normal}
.matrix td{text-align:center;min-width:42px;padding:6px 8px}
.columns{display:flex;flex-wrap:wrap;gap:20px;align-items:flex-start}.columns>*{max-width:100%}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(104px,1fr));gap:10px}
.sheet figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px;
text-align:center;font-size:12px}
.sheet img,.sheet .none{width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated;border-radius:4px;
background:#8883;display:block;margin-bottom:6px}
.sheet figcaption span{display:block;overflow-wrap:anywhere}
details{margin-top:10px}summary{cursor:pointer;color:var(--mark);font-weight:600}
pre{overflow:auto;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px;font-size:13px}
img.heat{image-rendering:pixelated;width:min(560px,100%);border:1px solid var(--line)}
@media(prefers-color-scheme:dark){img.heat{filter:invert(1)}}
@media(max-width:560px){main{padding:20px 14px 32px}th,td{padding:5px 8px}}
footer{margin-top:40px;color:var(--soft);font-size:13px;border-top:1px solid var(--line);padding-top:12px}
@media print{.scroll{max-height:none;overflow:visible}body{background:#fff}main{max-width:none;padding:0}
.card,.tile,figure{break-inside:avoid}}
"""
#: What a browser may load for the page: the pictures and the style in it, and nothing from anywhere else.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, parts: Iterable[str]) -> str:
    """Put parts, which are markup, into a page.

    Example:
        >>> page("a < b", ["<p>so it is</p>"]).startswith("<!DOCTYPE html>")
        True
    """
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><meta name="referrer" content="no-referrer">'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'


def tiles(entries: Iterable[tuple[str, str]]) -> str:
    """Large values, each with its name below it.

    Example:
        >>> tiles([("12", "epochs")])
        '<div class="tiles"><div class="tile"><b>12</b><span>epochs</span></div></div>'
    """
    shown = "".join(f'<div class="tile"><b>{escaped(v)}</b><span>{escaped(n)}</span></div>' for v, n in entries)
    return f'<div class="tiles">{shown}</div>'


def pairs(entries: Mapping[str, Any]) -> str:
    """Names and values, a line each; line breaks in a value stay.

    Example:
        >>> "<th>lr</th><td>0.1</td>" in pairs({"lr": 0.1})
        True
    """
    rows = "".join(f"<tr><th>{escaped(name)}</th><td>{block(value)}</td></tr>" for name, value in entries.items())
    return f'<div class="scroll" style="width:100%"><table class="pairs"><tbody>{rows}</tbody></table></div>'


def block(text: Any) -> str:
    """Escape a text of several lines.

    Example:
        >>> print(block("a" + chr(10) + "<b>"))
        a
        &lt;b&gt;
    """
    return "\n".join(escaped(line) for line in str(text).split("\n"))


def figures_table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], best: set[tuple[int, int]]) -> str:
    """Epochs as a table, with the stages above the names of their figures.

    Args:
        columns: stage and name of each, after the epoch.
        rows: texts, the epoch first.
        best: row and column, counted from 0 and without the epoch, of those to stand out.

    Example:
        >>> figures_table([("train", "loss")], [["1", "0.5"]], {(0, 0)}).count('class="best"')
        1
    """
    stages: list[list[Any]] = []
    for stage, _ in columns:
        if stages and stages[-1][0] == stage:
            stages[-1][1] += 1
        else:
            stages.append([stage, 1])
    over = "".join(f'<th colspan="{count}" class="over"><span>{escaped(stage)}</span></th>' for stage, count in stages)
    names = "".join(f'<th style="top:34px">{escaped(name)}</th>' for _, name in columns)
    body = "".join(
        f"<tr><th>{escaped(epoch)}</th>"
        + "".join(
            f'<td class="best">{escaped(cell)}</td>' if (r, c) in best else f"<td>{escaped(cell)}</td>"
            for c, cell in enumerate(cells)
        )
        + "</tr>"
        for r, (epoch, *cells) in enumerate(rows)
    )
    head = f'<tr><th rowspan="2">epoch</th>{over}</tr><tr>{names}</tr>'
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def heat_table(matrix: Any, names: Sequence[Any] | None = None) -> str:
    """A confusion matrix, rows = targets, shaded by each target's shares; beside it what is confused most.

    Example:
        >>> heat_table([[3, 1], [0, 2]], ["cat", "dog"]).count("<td")
        6
    """
    values, labels = as_matrix(matrix, names)
    shares = normalized(np.nan_to_num(values.astype(float)), "true")
    if len(values) > MOST_CLASSES:
        dark = np.round(255 * (1 - shares.clip(0, 1) ** 0.5)).astype(np.uint8)
        image = f'<img class="heat" alt="confusion matrix" src="{png_address(dark)}">'
        picture = f'<div>{image}<p class="soft">Rows are targets, columns predictions, from the top left.</p></div>'
    else:
        picture = f'<div class="scroll">{_heat_cells(values, shares, labels)}</div>'
    return f'<div class="columns">{picture}{_most_confused(values, shares, labels)}</div>'


def _heat_cells(values: Any, shares: Any, labels: Sequence[str]) -> str:
    heads = "".join(f"<th>{escaped(label[:16])}</th>" for label in labels)
    rows, whole = [], is_whole(values)
    for row, label in enumerate(labels):
        cells = []
        for column, other in enumerate(labels):
            share, value = float(shares[row, column]), values[row, column]
            colour = "0,114,178" if row == column else "213,94,0"
            shade = f"background:rgba({colour},{min(max(share, 0), 1) ** 0.6 * 0.8:.2f})"
            said = escaped(f"target {label}, prediction {other}: {share:.1%} of the target's")
            text = "·" if value == 0 else str(int(value)) if whole else f"{value:.3g}"
            cells.append(f'<td style="{shade}" title="{said}">{text}</td>')
        cells.append(f"<td>{float(shares[row, row]):.1%}</td>")
        rows.append(f"<tr><th>{escaped(label[:16])}</th>{''.join(cells)}</tr>")
    head = f"<tr><th>target \\ prediction</th>{heads}<th>found</th></tr>"
    return f'<table class="matrix"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def _most_confused(values: Any, shares: Any, labels: Sequence[str], most: int = 6) -> str:
    wrong = values.astype(float).copy()
    np.fill_diagonal(wrong, 0)
    places = [divmod(int(i), len(values)) for i in np.argsort(-wrong, axis=None, kind="stable")[:most]]
    lines = "".join(
        f"<li><b>{escaped(labels[row])}</b> taken for <b>{escaped(labels[column])}</b>: "
        f"{wrong[row, column]:g} ({shares[row, column]:.1%} of {escaped(labels[row])})</li>"
        for row, column in places
        if wrong[row, column] > 0
    )
    total, right = float(values.sum()), float(np.trace(values))
    said = f"<p>{right:g} of {total:g} are right ({right / total:.2%}).</p>" if total > 0 else "<p>nothing counted</p>"
    return f"<div>{said}{f'<p>Confused most often:</p><ol>{lines}</ol>' if lines else ''}</div>"


def sheet(entries: Iterable[tuple[str, str, str, Any]]) -> str:
    """Samples side by side: value, prediction, target and pixels (None: no image) of each.

    Example:
        >>> sheet([("2.5", "dog", "cat", None)]).count("<figure>")
        1
    """
    figures = []
    for value, said, target, pixels in entries:
        words = "".join(f"<span>{escaped(text)}</span>" for text in (f"target {target}", f"said {said}", value))
        image = '<span class="none"></span>' if pixels is None else f'<img alt="" src="{png_address(pixels)}">'
        figures.append(f"<figure>{image}<figcaption>{words}</figcaption></figure>")
    return f'<div class="sheet">{"".join(figures)}</div>'


def folded(summary: str, content: str, is_open: bool = False) -> str:
    """A part that is unfolded by a click.

    Example:
        >>> folded("more", "<p>x</p>")
        '<details><summary>more</summary><p>x</p></details>'
    """
    return f"<details{' open' if is_open else ''}><summary>{escaped(summary)}</summary>{content}</details>"


def preformatted(text: str, most: int = 20_000) -> str:
    """A text in a fixed-width type, cut where it is very long.

    Example:
        >>> preformatted("a<b")
        '<pre>a&lt;b</pre>'
    """
    cut = text if len(text) <= most else text[:most] + "\n…"
    return f"<pre>{chr(10).join(html.escape(_kept(line)) for line in cut.splitlines())}</pre>"


def _kept(line: str) -> str:
    """A line with its spaces, without control characters."""
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in line)
    return shown.encode("utf-8", "replace").decode("utf-8")
