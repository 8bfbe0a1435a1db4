"""`InterpreteCallback`: `Interpret` as DeepEpochs' users know it, which writes to TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from ..errors import ArgumentTypeError, refuse_unknown
from ..utils.warn import warn
from .analyze import drop_board, need_board
from .interpret import Interpret, as_code

#: How many samples are written.
_MOST_SHOWN = 25


class InterpreteCallback(Interpret):
    """`Interpret` under DeepEpochs' name: of all stages, with the samples' inputs, and written to TensorBoard.

    Whether or not there is a callback for it, every epoch's first samples are there as a table (index, value,
    prediction, target), and the confusion matrix.

    Args:
        metric: ``(model_out, batch_y)`` to one value per sample, a tensor (N,).
        k: how many samples to keep.
        mode: ``'max'`` keeps those with the highest values, ``'min'`` those with the lowest.
        stages: of ``'train'``, ``'val'``, ``'test'`` one or several.
        class_num: C, for predictions that are labels; scores tell by themselves.
        log_dir: the folder in which runs lie.
        image_data: the inputs are images (N, channels, height, width) from 0 to 1: write those of the first samples,
            too.
        priority: its place among the callbacks.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> callback = InterpreteCallback(lambda out, y: (out - y).pow(2).mean(1), k=5, mode="min")
        >>> callback.stages, callback.keep_inputs
        (('train', 'val', 'test'), True)
    """

    keeps_files = needs_board = True

    def __init__(
        self,
        metric: Callable[[Any, Any], Any],
        k: int = 100,
        mode: str = "max",
        stages: str | Sequence[str] = ("train", "val", "test"),
        class_num: int | None = None,
        log_dir: str | os.PathLike[str] = "./logs",
        image_data: bool = False,
        *,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("InterpreteCallback", unknown, InterpreteCallback.__init__)
        if not isinstance(log_dir, (str, os.PathLike)):
            raise ArgumentTypeError(f"log_dir={log_dir!r}: the path of a folder is needed")
        super().__init__(metric, k, mode, stages, keep_inputs=True, num_classes=class_num, priority=priority)
        self.image_data = image_data
        #: The folder in which runs lie.
        self.root = os.fspath(log_dir)

    def attach(self, trainer: Any) -> None:
        need_board(trainer)

    def detach(self, trainer: Any) -> None:
        """Take the `TensorBoard` out again that was added for it."""
        drop_board(trainer)

    def top_samples(self) -> list[list[Any]]:
        """The samples kept of the stage that ran last, as lists [value, prediction, target, input]."""
        return [[row["value"], row["prediction"], row["target"], _bare(row.get("input"))] for row in self.samples()]

    def _write(self, trainer: Any, writer: Any, stage: str) -> None:
        super()._write(trainer, writer, stage)
        tag = self._tag(trainer, "samples", stage)
        writer.add_text(tag, as_code(self.table(_MOST_SHOWN, stage)), trainer.progress.step)
        rows = self.samples(stage)[:_MOST_SHOWN] if self.image_data else []
        pictures = [_bare(row.get("input")) for row in rows]
        if not pictures:
            return
        if all(isinstance(p, torch.Tensor) and p.ndim == 3 and len(p) in (1, 3) for p in pictures):
            writer.add_images(tag, torch.stack(pictures).float().clamp(0, 1), trainer.progress.step)
        elif "image_data" not in trainer.said:
            trainer.said.add("image_data")
            shape = tuple(getattr(pictures[0], "shape", ())) or type(pictures[0]).__name__
            message = f"InterpreteCallback(image_data=True): images (1 or 3, height, width) are needed, not {shape}"
            warn(message)


def _bare(value: Any) -> Any:
    """An input that is the only one, by itself."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
