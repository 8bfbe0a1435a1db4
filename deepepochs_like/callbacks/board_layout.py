"""What belongs together on TensorBoard's Custom Scalars tab."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .event_files import event_files

#: What the tab calls its parts.
STAGES, RATES = "train and val", "learning rates"


def layout_summary(charts: Mapping[str, Sequence[str]], rates: str = "") -> Any:
    """The event that tells the Custom Scalars tab to draw curves in one chart.

    The tab takes regular expressions for tags. Of several in one run it shows the last; of several runs it shows each
    chart once, with the curves of all.

    Args:
        charts: the tags by chart; they form the part ``'train and val'``.
        rates: what the tags of learning rates begin with, which form a chart in a part of their own; or nothing.

    Example:
        >>> event = layout_summary({"loss": ["loss/train", "loss/val"]}).value[0]
        >>> event.tag, b"^loss/train$" in event.tensor.string_val[0]
        ('custom_scalars__config__', True)
    """
    from torch.utils.tensorboard.summary import custom_scalars

    parts: dict[str, Any] = {
        STAGES: {chart: ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]] for chart, tags in charts.items()}
    }
    if rates:
        parts[RATES] = {rates.strip("/"): ["Multiline", [f"^{re.escape(rates)}"]]}
    return custom_scalars({part: content for part, content in parts.items() if content})


def layouts(folder: str | Path) -> dict[str, list[str]]:
    """Read what the last layout in a folder of events has in one chart: expressions for tags, by chart.

    Example:
        >>> layouts("no such folder")
        {}
    """
    if not event_files(Path(folder)):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    events = EventAccumulator(str(folder), size_guidance={"scalars": 1, "tensors": 0})
    events.Reload()
    told = events.Tensors("custom_scalars__config__") if "custom_scalars__config__" in events.Tags()["tensors"] else []
    read = Layout.FromString(told[-1].tensor_proto.string_val[0]) if told else Layout()
    return {chart.title: list(chart.multiline.tag) for part in read.category for chart in part.chart}
