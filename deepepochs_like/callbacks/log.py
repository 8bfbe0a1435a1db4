"""`LogCallback`: TensorBoard under DeepEpochs' name, with DeepEpochs' tags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ArgumentTypeError, refuse_unknown
from ..types import StateDict
from .event_files import event_files
from .logger import learning_rates, set_aside
from .tensorboard import TensorBoard


class LogCallback(TensorBoard):
    """Write figures to TensorBoard under the tags ``loss/epoch/train`` and ``loss/batch/train``; see `TensorBoard`.

    Of every stage each batch and each epoch; learning rates per epoch; the graph, once; hyper-parameters, which the
    HPARAMS tab shows with every figure's last value, a test's among them. x is the number of epochs, or of the stage's
    batches. Events lie in ``<log_dir>/<running_id>/log``.

    Args:
        log_dir: the folder in which runs lie.
        log_graph: write the model's graph.
        example_input: what to trace it with; by default the first batch.
        every: write only every so-manieth batch, None for none: reading a figure makes the device wait.
        priority: its place among the callbacks.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> LogCallback("./runs").root
        './runs'
    """

    folder = "log"

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "./logs",
        log_graph: bool = False,
        example_input: Any = None,
        *,
        every: int | None = 1,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("LogCallback", unknown, LogCallback.__init__)
        if not isinstance(log_dir, (str, os.PathLike)):
            raise ArgumentTypeError(f"log_dir={log_dir!r}: the path of a folder is needed")
        super().__init__(every, log_graph=log_graph, example_input=example_input, priority=priority)
        if every is None:  # as the base does for what it has itself
            for name in ("on_after_train_batch", "on_after_val_batch", "on_after_test_batch"):
                if getattr(type(self), name) is getattr(LogCallback, name):
                    setattr(self, name, None)
        #: The folder in which runs lie.
        self.root = os.fspath(log_dir)
        self.batches = {"train": 0, "val": 0, "test": 0}

    def state_dict(self) -> StateDict:
        return {**super().state_dict(), "batches": dict(self.batches)}

    def load_state_dict(self, state_dict: StateDict) -> None:
        super().load_state_dict(state_dict)
        self.batches = dict(state_dict["batches"])

    def take_over(self, folder: Path, step: int) -> None:
        if event_files(folder):  # x counts batches, of which nobody knows how many went by
            set_aside(self, folder, "has a part of the run alone, as it went on without this callback")

    def begin(self) -> None:
        super().begin()
        self.batches = dict.fromkeys(self.batches, 0)

    def name_of(self, figure: str, stage: str, unit: str) -> str:
        return f"{figure}/{unit}/{stage}"

    def _write_batch(self, trainer: Any, stage: str, metrics: Mapping[str, Any]) -> None:
        self.batches[stage] += 1
        if self.batches[stage] % (self.every or 1) == 0 and self.ready(trainer):
            figures = self._numbers(metrics, stage, "batch")
            if stage == "test":
                self._write_once(trainer, figures, self.batches[stage])
            else:
                self.write(figures, self.batches[stage])

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self._write_batch(trainer, "train", metrics)

    def on_after_val_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.running == "fit":  # an evaluation by itself is no part of the curve
            self._write_batch(trainer, "val", metrics)

    def on_after_test_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self._write_batch(trainer, "test", metrics)

    def x_of(self, trainer: Any, epoch_idx: int) -> int:
        return epoch_idx + 1

    def rates(self, trainer: Any) -> dict[str, float]:
        return learning_rates(trainer)

    def on_after_test_epochs(self, trainer: Any, tasks: Any, metrics: Any) -> None:
        if self.ready(trainer):
            self._write_once(trainer, self._numbers(metrics, "test"), trainer.progress.epoch)
            self.flush()
