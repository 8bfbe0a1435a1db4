"""Feed figures the way the loop does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from deepepochs_like.figures import Figures
from deepepochs_like.patches import Outputs
from deepepochs_like.patches.slot import Slot


def run_batch(
    figures: Figures,
    loss: Tensor | None = None,
    outputs: tuple[Any, Any] | None = None,
    patches: Mapping[str, Any] | None = None,
    weight: Any = 1,
) -> None:
    """One batch: the step gives its outputs, loss and patches; all of it counts when the batch is over."""
    figures.loss, figures.outputs, figures.returned = None, None, {}
    if outputs is not None:
        figures.take_outputs(*outputs, weight)
    if loss is not None:
        figures.loss = (loss.detach(), weight)
    if patches is not None:
        figures.take_patches(patches, "Task.step")
    if figures.loss is not None:
        figures.losses.add(*figures.loss)
    for slot in figures.slots if figures.outputs is not None else ():
        slot.take(figures.outputs)
    figures.batches += 1


def batch_figures(figures: Figures) -> dict[str, Any]:
    """The figures of the last batch alone."""
    return figures.of(figures.loss, figures.outputs, figures.returned)


def feed(slot: Slot, outputs: Outputs) -> None:
    """Show a slot a batch, and have it counted."""
    slot.prepare(outputs)
    slot.take(outputs)
