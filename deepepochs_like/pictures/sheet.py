"""Contact sheets: the images of samples, each with its value, its target and what was predicted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..utils.scales import printable
from ..utils.svg import as_image, escaped, png_address
from .delivery import Chart, deliver, grid_svg, take_texts_as_they_are

#: How many characters a prediction, a target or a value has under an image.
_LABEL = 16


def contact_sheet(
    samples: Sequence[Any],
    path: Any = None,
    *,
    columns: int = 8,
    class_names: Sequence[Any] | None = None,
    shape: Sequence[int] | None = None,
    show: bool = False,
) -> Any:
    r"""Put the images of samples side by side, each with its value, its target and what was predicted.

    Args:
        samples: ``[value, pred, target, input]`` each, as ``top_samples()`` returns them, or dicts as
            `Interpret.samples` does. An input is a grey or RGB
            image, (H, W), (1, H, W), (3, H, W) or (H, W, 3); others are shown as an empty frame.
        path: what to write it to; see `History.plot`.
        columns: images per row.
        class_names: what the classes are called.
        shape: what flat inputs are given first, ``(28, 28)``.
        show: see `History.plot`.

    Returns:
        The figure; without matplotlib, a table as text.

    Raises:
        ArgumentError: there are no samples, one of them has another form, or `columns` is no int from 1 on.

    Example:
        >>> sheet = contact_sheet([[2.5, torch.tensor([0.1, 0.9]), torch.tensor(0), torch.rand(1, 8, 8)]])
        >>> sheet.axes[0].get_title()
        '0, said 1\n2.5'
    """
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        raise ArgumentError(f"columns={columns!r}: an int from 1 on is needed")
    entries = [sample_parts(sample, class_names, shape) for sample in samples]
    if not entries:
        raise ArgumentError("samples=[]: there is nothing to show; were there any samples yet?")
    return deliver(
        "contact_sheet",
        lambda **how: _draw_sheet(entries, columns, **how),
        lambda: Chart("\n".join(f"{value:>10}  target {target}, said {said}" for value, said, target, _ in entries)),
        lambda: _sheet_svg(entries, columns),
        path,
        show,
    )


def sample_parts(
    sample: Any, class_names: Sequence[Any] | None = None, shape: Sequence[int] | None = None
) -> tuple[str, str, str, np.ndarray[Any, Any] | None]:
    """Tell what to show of a sample: value, prediction, target, and its pixels.

    Args:
        sample: ``[value, pred, target, input]``, or a dict with ``value, prediction, target`` and maybe ``input``.
        class_names: what the classes are called.
        shape: what a flat input is given first.

    Raises:
        ArgumentError: it has another form.

    Example:
        >>> sample_parts([0.5, torch.tensor([0.2, 0.8]), 0, None], ["cat", "dog"])
        ('0.5', 'dog', 'cat', None)
    """
    try:
        if isinstance(sample, Mapping):
            sample = [sample["value"], sample["prediction"], sample["target"], sample.get("input")]
        value, pred, target, given = sample
    except (TypeError, ValueError, KeyError):
        raise ArgumentError(f"samples: {str(sample)[:80]!r} is no [value, pred, target, input]") from None
    said = _predicted(pred, target)
    return _label(value, None), _label(said, class_names), _label(target, class_names), as_image(given, shape)


def _predicted(pred: Any, target: Any) -> Any:
    """A prediction; of a vector of scores beside the index of a class, the class that has the highest."""
    scores, index = _numbers(pred), _numbers(target)
    if scores is None or index is None or scores.ndim != 1 or scores.size < 2:
        return pred
    is_class = index.ndim == 0 and index.dtype.kind in "iu" and int(index) < scores.size
    return int(scores.argmax()) if is_class else pred


def _numbers(value: Any) -> np.ndarray[Any, Any] | None:
    """What a value holds as an array of numbers; None where it holds something else."""
    if hasattr(value, "detach"):
        value = value.detach().float().cpu() if value.is_floating_point() else value.detach().cpu()
    try:
        numbers = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return numbers if numbers.size and numbers.dtype.kind in "biuf" else None


def _label(value: Any, names: Sequence[Any] | None) -> str:
    """A prediction, target or value as a few characters; of several numbers the first."""
    numbers = _numbers(value)
    if numbers is None:
        return printable(value)[:_LABEL]
    if numbers.size == 1:
        return _number_label(numbers.reshape(-1)[0], names, ".4g")
    classes = names if numbers.dtype.kind in "iu" else None
    words = [_number_label(number, classes, ".3g") for number in numbers.reshape(-1)[:_LABEL]]
    fitting = max((n for n in range(1, len(words) + 1) if len(" ".join(words[:n])) <= _LABEL - 2), default=1)
    return " ".join(words[:fitting]) + (" …" if fitting < numbers.size else "")


def _number_label(number: Any, names: Sequence[Any] | None, digits: str) -> str:
    single = float(number)
    if names is not None and single.is_integer() and 0 <= single < len(names):
        return printable(names[int(single)])[:_LABEL]
    return f"{single:{digits}}"


def _draw_sheet(entries: Sequence[Any], columns: int, make: Callable[..., Any]) -> Any:
    columns = min(columns, len(entries))
    rows = -(-len(entries) // columns)
    figure = make(figsize=(1.25 * columns, 1.6 * rows), layout="constrained")
    for position, (value, said, target, pixels) in enumerate(entries, 1):
        axes = figure.add_subplot(rows, columns, position)
        axes.set_title(f"{target}, said {said}\n{value}", fontsize=7)
        axes.set_xticks([])
        axes.set_yticks([])
        if pixels is not None:
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    take_texts_as_they_are(figure)
    return figure


def _sheet_svg(entries: Sequence[Any], columns: int) -> str:
    return grid_svg([_sample_svg(*entry) for entry in entries], columns, 110, 140)


def _sample_svg(value: str, said: str, target: str, pixels: Any) -> str:
    words = f'<text x="55" y="16">{escaped(f"{target}, said {said}")}</text><text x="55" y="30">{escaped(value)}</text>'
    image = '<rect x="7" y="37" width="96" height="96" fill="none" stroke="currentColor" stroke-opacity=".3"/>'
    if pixels is not None:
        address = png_address(pixels)
        image = f'<image x="7" y="37" width="96" height="96" style="image-rendering:pixelated" href="{address}"/>'
    style = 'text-anchor="middle" font-size="10" font-family="sans-serif" fill="currentColor"'
    return f'<svg width="110" height="140" {style}>{words}{image}</svg>'
