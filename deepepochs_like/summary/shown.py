"""A summary as it is read: rows, a table that fits the terminal, and one for notebooks."""

from __future__ import annotations

import html
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..display.words import Words
from .counting import Layer

_WORDS = Words(encoding="ascii")
_NARROWEST, _WIDEST = 60, 200


class Summary:
    """A model layer by layer: print it, show it in a notebook, or take its `rows`.

    Args:
        layers: its rows.
        memory: bytes by what takes them; None where it cannot be told.
        samples: how many samples the forward pass was of; None where none was made.
        given: the shapes that went in, as text.
        notes: what else there is to say.

    Attributes:
        parameters, trainable, frozen: how many there are, each counted once.
        flops: of the whole pass, a multiplication and an addition being two; None where none was made. Matrix products,
            convolutions and attention are counted, as torch's `FlopCounterMode` does; what works element by element is
            not.

    Example:
        >>> from deepepochs_like import Trainer
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> summary = Trainer(net, device="cpu", verbose=0).summary(torch.zeros(4, 2))
        >>> summary.parameters, summary.flops, [row["output"] for row in summary.rows()]
        (9, 48, [[(4, 3)], [(4, 3)]])
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        memory: Mapping[str, int | None],
        samples: int | None = None,
        given: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        self.layers, self.memory, self.samples, self.given = list(layers), dict(memory), samples, given
        self.notes = list(notes)
        self.parameters = sum(layer.parameters for layer in self.layers)
        self.trainable = sum(layer.trainable for layer in self.layers)
        self.frozen = self.parameters - self.trainable
        self.flops = None if samples is None else sum(layer.flops or 0 for layer in self.layers)

    def rows(self) -> list[dict[str, Any]]:
        """The layers as dicts, with the attributes of `Layer`: for a data frame, or a test."""
        return [asdict(layer) for layer in self.layers]

    def text(self, width: int | None = None) -> str:
        """The summary as a table.

        Args:
            width: columns to fit in, from 60 to 200; by default those of the terminal.
        """
        width = min(max(width or shutil.get_terminal_size((100, 24)).columns, _NARROWEST), _WIDEST)
        cells = _fitted(self._cells(), width)
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        left = _left_aligned(cells[0])
        lines = [
            "  ".join(
                c.ljust(w) if name in left else c.rjust(w) for name, c, w in zip(cells[0], row, widths, strict=True)
            ).rstrip()
            for row in cells
        ]
        rule = "-" * max(map(len, lines))
        told = [line for text in self.told() for line in textwrap.wrap(text, width, subsequent_indent="  ")]
        return "\n".join([lines[0], rule, *lines[1:], rule, *told])

    def told(self) -> list[str]:
        """What stands below the table: totals, what one pass computes, and memory."""
        frozen = f", {self.frozen:,} frozen" if self.frozen else ""
        shared = " (shared ones are counted once)" if any(layer.shared for layer in self.layers) else ""
        lines = [f"parameters: {self.parameters:,}, {self.trainable:,} trained{frozen}{shared}"]
        if self.flops is not None and self.samples is not None:
            each = f", {scaled(self.flops / self.samples).strip()} a sample" if self.samples > 1 else ""
            lines.append(f"a forward pass of {self.given}: {scaled(self.flops)}FLOP{each}")
        known = [f"{what} {in_bytes(size)}" for what, size in self.memory.items() if size is not None]
        total = in_bytes(sum(size or 0 for size in self.memory.values()))
        unknown = [what for what, size in self.memory.items() if size is None]
        more = f", and {' and '.join(unknown)}, which cannot be told" if unknown else ""
        lines.append(f"memory in training, about {total}{more}: {', '.join(known)}")
        return lines + self.notes

    def _cells(self) -> list[list[str]]:
        """The table's cells, the heading first; columns that would say nothing are left out."""
        passed, frozen = self.flops is not None, self.frozen > 0
        heading = ["layer", "type", *(["output"] if passed else []), "parameters", *(["trained"] if frozen else [])]
        cells = [heading + (["FLOP"] if passed else [])]
        for layer in self.layers:
            row = [layer.name, layer.type, *([_output(layer)] if passed else [])]
            count = f"{layer.parameters:,}" if layer.parameters or not layer.shared else "shared"
            row.append(count if layer.parameters or layer.shared else "-")
            if frozen:
                part = "yes" if layer.trainable == layer.parameters else "part" if layer.trainable else "no"
                row.append(part if layer.parameters else "-")
            cells.append(row + ([scaled(layer.flops).strip() if layer.flops else "-"] if passed else []))
        return cells

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Summary({len(self.layers)} layers, {self.parameters:,} parameters)"

    def _repr_html_(self) -> str:
        """The summary in a notebook."""
        heading, *body = self._cells()
        left = _left_aligned(heading)
        styles = [f"text-align: {'left' if name in left else 'right'}" for name in heading]

        def line(row: Sequence[str], tag: str) -> str:
            cells = (f'<{tag} style="{s}">{html.escape(c)}</{tag}>' for s, c in zip(styles, row, strict=True))
            return f"<tr>{''.join(cells)}</tr>"

        told = "".join(f"<div>{html.escape(text)}</div>" for text in self.told())
        rows = "".join(line(row, "td") for row in body)
        return f"<table><thead>{line(heading, 'th')}</thead><tbody>{rows}</tbody></table>{told}"


def shape_text(shape: Sequence[int]) -> str:
    """A shape as text: ``[32, 8]``."""
    return f"[{', '.join(map(str, shape))}]"


def _output(layer: Layer) -> str:
    if not layer.output:
        return "-"
    more = f" +{len(layer.output) - 1}" if len(layer.output) > 1 else ""
    return shape_text(layer.output[0]) + more + (f" x{layer.calls}" if layer.calls > 1 else "")


def scaled(number: float) -> str:
    """Write a number in three digits with the letter of its magnitude: ``1.23 M``."""
    for letter in ("", "k", "M", "G", "T"):
        if abs(number) < 999.5 or letter == "T":
            break
        number /= 1000
    return f"{number:.0f} {letter}" if number >= 100 or not letter else f"{number:.{2 if number < 10 else 1}f} {letter}"


def in_bytes(size: float) -> str:
    """Write a number of bytes in the largest unit that it fills."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def _left_aligned(heading: Sequence[str]) -> set[str]:
    return {"layer", "type", "output"} & set(heading)


def _fitted(cells: list[list[str]], width: int) -> list[list[str]]:
    """Crop the names of layers and classes, then leave columns out, and crop shapes at last, until a table fits."""
    tries = [("layer", 24), ("type", 24), ("layer", 16), ("type", 16), ("layer", 10), ("type", 10), ("trained", 0)]
    for name, least in [*tries, ("FLOP", 0), ("type", 0), ("output", 10)]:
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        over = sum(widths) + 2 * (len(widths) - 1) - width
        if over <= 0:
            break
        if name not in cells[0]:
            continue
        place = cells[0].index(name)
        limit = max(widths[place] - over, least)
        cells = [
            [*row[:place], *([_WORDS.crop(row[place], limit)] if least else []), *row[place + 1 :]] for row in cells
        ]
    return cells
