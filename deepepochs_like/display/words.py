"""How the console writes numbers, times and names; plain text in, plain text out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

#: A piece of a line, and its role in it, which a terminal may colour it by.
Part = tuple[str, str]

#: The texts of a stage's figures by name, by stage.
Groups = Mapping[str, Mapping[str, str]]

#: What the lines are made of where the stream can take it; anywhere else it is ASCII.
BEYOND_ASCII = "·…━╸"

_LOWER_PARTS = ("loss", "error", "perplexity")
_LOWER_WORDS = frozenset(("err", "mae", "mse", "rmse", "mape", "nll", "ppl", "wer", "cer", "fid"))
_HIGHER_PARTS = ("accuracy", "precision", "recall", "auroc", "f1", "score")
_HIGHER_WORDS = frozenset(
    ("acc", "p", "r", "fb", "fbeta", "auc", "ap", "map", "iou", "miou", "dice", "r2", "bleu", "psnr", "ssim", "mcc")
)


@lru_cache(maxsize=1024)
def direction(name: str) -> int:
    """Tell from a figure's name whether less of it is better (-1), or more (1); 0 where the name does not say."""
    name = name.lower()
    words = {word for word in re.split(r"[^a-z0-9]+", name) if word}
    if any(part in name for part in _LOWER_PARTS) or words & _LOWER_WORDS:
        return -1
    return int(any(part in name for part in _HIGHER_PARTS) or bool(words & _HIGHER_WORDS))


def scalars(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures that are single numbers: what a line has room for."""
    return {
        name: float(value)
        for name, value in figures.items()
        if isinstance(value, int | float) or getattr(value, "ndim", None) == 0
    }


def duration(seconds: float) -> str:
    """Write a time: ``85 ms``, ``1.2 s``, ``42 s``, ``3:07``, ``2:03:07``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return rough(seconds)


def rough(seconds: float) -> str:
    """Write a time in whole seconds: one that changes while it is watched."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def pace(batches: float, seconds: float) -> str:
    """Write a speed: ``412 batches/s``, ``3.1 batches/s``, or ``2.5 s/batch`` where it is slow."""
    if not batches or seconds <= 0:
        return ""
    rate = batches / seconds
    if rate < 1:
        return f"{duration(1 / rate)}/batch"
    return f"{rate:,.0f} batches/s" if rate >= 100 else f"{rate:.1f} batches/s"


def percent(fraction: float) -> str:
    """Write a share in whole per cent; it is ``100%`` only of what is done."""
    return f"{min(fraction, 0.99) if fraction < 1 else 1:.0%}"


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: ``1 epoch``, ``2,410 parameters``, ``3 batches``."""
    ending = "" if count == 1 else "es" if noun.endswith("ch") and noun != "epoch" else "s"
    return f"{count:,} {noun}{ending}"


@dataclass(frozen=True)
class Words:
    """The words of one console.

    Args:
        decimals: of a figure.
        encoding: what its stream can take; without `BEYOND_ASCII`, lines are in ASCII.
        measure: how many columns a text takes.
    """

    decimals: int = 4
    encoding: str = "utf-8"
    measure: Callable[[str], int] = len

    @property
    def ascii(self) -> bool:
        """Whether the stream is without the signs beyond ASCII."""
        return self.clean(BEYOND_ASCII) != BEYOND_ASCII

    @property
    def dot(self) -> str:
        """What stands between the parts of a sentence."""
        return " | " if self.ascii else " · "

    def clean(self, text: str) -> str:
        """Make a text one that can be written: no control characters, nothing the encoding lacks."""
        text = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
        return text.encode(self.encoding, "replace").decode(self.encoding, "replace")

    def crop(self, text: str, width: int) -> str:
        """Shorten a name to `width` columns, in its middle: names that begin alike are told by how they end."""
        if self.measure(text) <= width:
            return text
        gap = "~" if self.ascii else "…"
        tail = width // 2
        return self._cut(text, width - 1 - tail) + gap + self._cut(text[::-1], tail)[::-1]

    def _cut(self, text: str, width: int) -> str:
        while self.measure(text) > width:
            text = text[: min(width, len(text) - 1)]
        return text

    def number(self, value: float) -> str:
        """Write a figure with the decimals set, and as ``3.00e-05`` where they would hide or swamp it."""
        least = 10.0 ** -max(self.decimals - 1, min(self.decimals, 1))  # with two digits, where that many are asked for
        if value and math.isfinite(value) and not least <= abs(value) < 1e6:
            return f"{value:.{max(self.decimals - 2, 2)}e}"
        return f"{value:.{self.decimals}f}"

    def numbers(self, figures: Mapping[str, Any]) -> dict[str, str]:
        """Write the figures that are single numbers, under names that can be written."""
        return {self.clean(name): self.number(value) for name, value in scalars(figures).items()}

    def wide(self, parts: Sequence[Part]) -> int:
        """How many columns the parts take, two apart."""
        return self.measure("  ".join(text for text, _ in parts))

    def line(self, head: Sequence[Part], groups: Groups, tail: Sequence[Part], width: int | None) -> list[Part]:
        """Put figures into one line.

        Args:
            head: stands before them.
            groups: the figures' texts by stage and name; a stage without figures is left out.
            tail: stands after them.
            width: the columns there are (None: any). Where they don't take all, names are cropped; where that is not
                enough, each stage's last figures are left out, and counted.
        """
        groups = {stage: figures for stage, figures in groups.items() if figures}
        most = max(map(len, groups.values()), default=0)
        tries = [(None, most), *((limit, most) for limit in (24, 16, 12, 8)), *((8, n) for n in range(most - 1, 0, -1))]
        parts: list[Part] = []
        for limit, count in tries:
            parts = [*head, *self._figures(groups, limit, count), *tail]
            if width is None or self.wide(parts) <= width:
                break
        return parts

    def _figures(self, groups: Groups, limit: int | None, count: int) -> list[Part]:
        parts: list[Part] = []
        for stage, figures in groups.items():
            if stage:
                parts.append((stage, "label"))
            for name, value in list(figures.items())[:count]:
                parts.append((f"{self.crop(name, limit or len(name) * 2)} {value}", "figure"))
        left_out = sum(max(len(figures) - count, 0) for figures in groups.values())
        return [*parts, (f"+{left_out}", "note")] if left_out else parts
