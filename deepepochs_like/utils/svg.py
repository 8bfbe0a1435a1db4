"""Pictures as SVG and PNG out of nothing but numbers: for pages that stand alone, and machines without matplotlib.

No text gets into the markup unescaped. Lines and letters take the colour of the text around them (``currentColor``), so
that a picture fits a dark page as well as a light one.
"""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .scales import as_lines, bounds, number, printable, thinned, ticks

#: Okabe and Ito's colours, which people who see few colours can tell apart (https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
#: A picture has no room for more points than that; and so few are worth a dot each.
MOST_POINTS, FEW_POINTS = 500, 40
_FONT = "font-family=\"system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif\""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 34, 34
#: How wide a digit is in that size, with some room: nobody can ask the browser.
_CHARACTER = 6.3


def escaped(text: Any) -> str:
    """Make a text one that is nothing but text in HTML and SVG, within quotes too.

    Example:
        >>> escaped('<b title="x">&' + chr(0))
        '&lt;b title=&quot;x&quot;&gt;&amp;?'
    """
    return html.escape(printable(text), quote=True)


def line_svg(
    series: Any,
    *,
    title: str = "",
    x_label: str = "",
    width: int = 440,
    height: int = 240,
    colours: Mapping[str, str] | None = None,
) -> str:
    """Draw lines with axes and a legend, as one ``<svg>`` element.

    NaN and infinity interrupt a line. Long lines are thinned, with their extremes kept.

    Args:
        series: ``{name: values}`` or ``{name: (x, y)}``; values alone are one line without a name.
        title: stands above.
        x_label: what x is.
        width: of the picture, in pixels; it scales with what it is put into.
        height: likewise.
        colours: of lines, by name; others get one by their place.

    Example:
        >>> line_svg({"loss": [0.5, 0.25]}, title="a < b").count("<circle")
        2
    """
    lines = as_lines(series)
    shown = [(x, y) for xs, ys in lines.values() for x, y in zip(xs, ys, strict=True) if math.isfinite(x + y)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escaped(title or "chart")}" {_FONT} font-size="11" fill="currentColor">'
    ]
    if title:
        parts.append(f'<text x="{_LEFT}" y="16" font-size="13" font-weight="600">{_cropped(title, width - 150)}</text>')
    x_range, y_range = bounds([x for x, _ in shown]), bounds([y for _, y in shown])
    if x_range is None or y_range is None:
        parts.append(
            f'<text x="{width / 2:g}" y="{height / 2:g}" text-anchor="middle" opacity=".6">no finite numbers</text>'
        )
        return "".join([*parts, "</svg>"])
    frame = _Frame(x_range, _roomy(y_range), width, height)
    parts += frame.axes([x for x, _ in shown], x_label)
    chosen = {name: (colours or {}).get(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(lines)}
    for name, (xs, ys) in lines.items():
        parts += frame.curve(name, *thinned(xs, ys, MOST_POINTS), chosen[name], x_label)
    if len(lines) > 1:
        parts += _legend(chosen, width)
    return "".join([*parts, "</svg>"])


class _Frame:
    """The rectangle of a chart, and where in it a point lies."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], width: int, height: int) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        values = ticks(*y, 5)
        self.rows = list(zip(values, _labels(values), strict=True))
        self.left = max(_LEFT, 10 + _CHARACTER * max(len(label) for _, label in self.rows))

    def across(self, x: float) -> float:
        low, high = self.x
        room = self.width - self.left - _RIGHT
        return round(self.left + (x / 2 - low / 2) / (high / 2 - low / 2) * room, 1)

    def down(self, y: float) -> float:
        low, high = self.y
        return round(_TOP + (high / 2 - y / 2) / (high / 2 - low / 2) * (self.height - _TOP - _BOTTOM), 1)

    def axes(self, xs: Sequence[float], x_label: str) -> list[str]:
        left, bottom, right = self.left, self.height - _BOTTOM, self.width - _RIGHT
        parts = []
        for value, label in self.rows:
            at = self.down(value)
            parts.append(f'<path d="M{left:g} {at}H{right}" stroke="currentColor" stroke-opacity=".13"/>')
            parts.append(f'<text x="{left - 6:g}" y="{at + 4:g}" text-anchor="end" opacity=".75">{label}</text>')
        values = ticks(*self.x, 6) if max(xs) > min(xs) else [xs[0]]
        if all(x == int(x) for x in xs):
            values = [value for value in values if value == int(value)]
        for value, label in zip(values, _labels(values), strict=True):
            at = self.across(value)
            within = min(at, self.width - 2 - _CHARACTER * len(label) / 2)  # or the last would be cut off at the edge
            parts.append(f'<path d="M{at} {bottom}v4" stroke="currentColor" stroke-opacity=".5"/>')
            parts.append(f'<text x="{within:g}" y="{bottom + 16}" text-anchor="middle" opacity=".75">{label}</text>')
        parts.append(f'<path d="M{left:g} {bottom}H{right}" stroke="currentColor" stroke-opacity=".5"/>')
        if x_label:
            middle = (left + right) / 2
            where = f'x="{middle:g}" y="{self.height - 4}" text-anchor="middle" opacity=".6"'
            parts.append(f"<text {where}>{escaped(x_label)}</text>")
        return parts

    def curve(self, name: str, xs: list[float], ys: list[float], colour: str, x_label: str) -> list[str]:
        places = [(x, y) if math.isfinite(x + y) else None for x, y in zip(xs, ys, strict=True)]
        steps, pen = [], "M"
        for place in places:
            if place is not None:
                steps.append(f"{pen}{self.across(place[0])} {self.down(place[1])}")
            pen = "M" if place is None else "L"
        path = f'<path d="{"".join(steps)}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'
        dots = [place for place in places if place is not None]
        if len(places) > FEW_POINTS:  # then only those that no line leads to or from
            around = [None, *places, None]
            dots = [p for a, p, b in zip(around, places, around[2:], strict=False) if p and a is None and b is None]
        return [path, *(self._dot(name, x, y, colour, x_label) for x, y in dots)]

    def _dot(self, name: str, x: float, y: float, colour: str, x_label: str) -> str:
        said = escaped(f"{name} {x_label} {number(x)}: {y:.6g}".strip())
        where = f'cx="{self.across(x)}" cy="{self.down(y)}"'
        return f'<circle {where} r="2.6" fill="{colour}"><title>{said}</title></circle>'


def _labels(values: Sequence[float]) -> list[str]:
    """Numbers beside an axis: of four digits, or of as many as it takes to tell one from the other."""
    step = min((abs(b - a) for a, b in pairwise(values)), default=math.inf)
    shown = [number(value) for value in values]
    for digits in range(5, 16):
        if all(abs(float(label) - value) < step / 20 for label, value in zip(shown, values, strict=True)):
            break
        shown = [f"{value:.{digits}g}" for value in values]
    return shown


def _roomy(y: tuple[float, float]) -> tuple[float, float]:
    """A little more than the range, so that no curve lies on the edge."""
    low, high = y
    room = (high / 2 - low / 2) * 0.08
    return max(low - room, -1.7e308), min(high + room, 1.7e308)


def _legend(colours: Mapping[str, str], width: int) -> list[str]:
    parts, right = [], width - _RIGHT
    for name, colour in reversed(list(colours.items())[:6]):
        shown = printable(name)[:14]
        right -= int(6.2 * len(shown)) + 26
        if right < _LEFT + 60:
            break
        parts.append(f'<path d="M{right} 12h14" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{right + 18}" y="16">{html.escape(shown)}</text>')
    return parts


def _cropped(text: str, width: float) -> str:
    room, text = max(int(width / 7), 8), printable(text)
    return html.escape(text if len(text) <= room else text[: room - 1] + "…")


def png_bytes(image: Any) -> bytes:
    r"""Encode an image as PNG.

    Args:
        image: uint8, (H, W) grey or (H, W, 3) RGB.

    Raises:
        ArgumentError: it is of another kind.

    Example:
        >>> png_bytes(np.zeros((2, 2), np.uint8))[:4]
        b'\x89PNG'
    """
    pixels = np.ascontiguousarray(image)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ArgumentError(f"an image is uint8 (H, W) or (H, W, 3), not {pixels.dtype} {pixels.shape}")
    # The format: https://www.w3.org/TR/png-3/. Every row begins with its filter, 0 for none.
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    body = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def png_address(image: Any) -> str:
    """Encode an image as a ``data:`` address, which holds all of it.

    Example:
        >>> png_address(np.zeros((2, 2), np.uint8))[:22]
        'data:image/png;base64,'
    """
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode()


def as_image(values: Any, shape: Sequence[int] | None = None) -> np.ndarray[Any, Any] | None:
    """Make pixels of what may be an image; None where it is none.

    Args:
        values: grey (H, W) or (1, H, W), colours (3, H, W) or (H, W, 3), with or without an alpha channel; integers
            from 0 to 255, or numbers from 0 to 1. Others are stretched from their least to their greatest. Of
            a tuple or list of inputs it is the first that is an image.
        shape: what a flat input is given first, (H, W) or (3, H, W).

    Returns:
        uint8 (H, W) or (H, W, 3).

    Example:
        >>> as_image(torch.tensor([0.0, 1.0, 0.5, 0.25]), (2, 2)).tolist()
        [[0, 255], [128, 64]]
    """
    if isinstance(values, (list, tuple)) and any(hasattr(part, "shape") for part in values):
        return next((image for part in values if (image := as_image(part, shape)) is not None), None)
    if hasattr(values, "detach"):
        values = values.detach().float().cpu() if values.is_floating_point() else values.detach().cpu()
    try:
        pixels = np.asarray(values)
        pixels = pixels.reshape(shape) if shape is not None and pixels.size == math.prod(shape) else pixels
    except (TypeError, ValueError):
        return None
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (3, 4):
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4):
        pixels = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        return None
    if pixels.dtype.kind not in "biuf" or min(pixels.shape[:2]) < 2:
        return None
    return _stretched(pixels)


def _stretched(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Numbers as uint8, dark to light."""
    if pixels.dtype == np.uint8:
        return pixels
    whole = pixels.dtype.kind in "iu"
    numbers = np.nan_to_num(pixels.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    if whole and low >= 0 and 1 < high <= 255:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    share = (numbers - low) / (high - low) if high > low else np.zeros_like(numbers)
    stretched: np.ndarray[Any, Any] = np.round(share * 255).astype(np.uint8)
    return stretched
