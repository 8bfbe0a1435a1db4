"""What a step tells the figures, and those who listen to them."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch

from .errors import ArgumentError, ArgumentTypeError
from .hooks import fire
from .patches import ValuePatch
from .tensors import detached
from .types import Weight
from .utils.warn import warn


class Reporting:
    """A trainer as far as steps and callbacks feed its figures, and what is logged."""

    callbacks: list[Any]
    current_task: Any
    pending: Any
    progress: Any
    resumed: bool
    running: str
    said: set[str]

    def add_figure(self, name: str, value: Any, weight: Weight = 1) -> None:
        """Average a number into the figures of the epoch in progress; or hand on a picture.

        A number is told from a step, or a hook within a batch. Its mean is in the history and in every callback's
        ``metrics`` as any other figure is, and survives a restart. What belongs to one moment goes to `log` instead.

        A matplotlib ``Figure`` is a picture: it goes, as of the updates so far, to the loggers that take pictures
        (`TensorBoard`, `MLflowLogger`), from anywhere, also behind a fit. It stays open, and its canvas as it is.

        Args:
            name: the figure's.
            value: a number or a 0-dimensional tensor, which is not read back; or a matplotlib ``Figure``.
            weight: how much a number weighs in the mean: the batch's samples, where it is a mean over them.

        Raises:
            ArgumentError: no task is running; the name is ``'loss'``, or that of a metric; or it is a tensor with
                dimensions.
            ArgumentTypeError: it is neither a number nor a picture.

        Example:
            >>> from deepepochs_like import Trainer
            >>> class Doubtful(Trainer):
            ...     def train_step(self, batch_x, batch_y):
            ...         scores = self.model(*batch_x)
            ...         self.loss(scores, batch_y)
            ...         self.add_figure("spread", scores.detach().std(), weight=len(batch_y))
            >>> data = [(torch.ones(4, 2), torch.ones(4, 1)), (torch.zeros(4, 2), torch.ones(4, 1))]
            >>> trainer = Doubtful(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, epochs=3, verbose=0)
            >>> [float(value) for value in trainer.fit(data)["train"]["spread"]]
            [0.0, 0.0, 0.0]

        A picture: ``trainer.add_figure("confusion", plot_confusion(matrix, 10))``.
        """
        if hasattr(value, "savefig"):
            self._add_picture(name, value)
            return
        if name == "loss" or (hasattr(value, "ndim") and value.ndim):
            what = "the loss has this name" if name == "loss" else f"shape {tuple(value.shape)} is no single number"
            raise ArgumentError(f"add_figure({name!r}): {what}")
        if not isinstance(value, (torch.Tensor, np.ndarray, Real, Mapping)):
            raise ArgumentTypeError(
                f"add_figure({name!r}): a number or a matplotlib Figure (of axes: axes.figure) is needed, not a "
                f"{type(value).__name__}; images, text and histograms go to trainer.writer of TensorBoard()"
            )
        if self.current_task is None or self.current_task.figures.released:
            raise ArgumentError(f"add_figure({name!r}): figures are an epoch's, and none is running; use trainer.log")
        if any(slot.name == name for slot in self.current_task.figures.slots):
            raise ArgumentError(f"add_figure({name!r}): a metric of this {self.current_task.stage} task has this name")
        value = value.detach() if isinstance(value, torch.Tensor) else value
        self.current_task.figures.add(name, ValuePatch(weight).load(value))

    def _add_picture(self, name: str, picture: Any) -> None:
        takers = [callback for callback in self.callbacks if getattr(callback, "takes_pictures", False)]
        if not takers and "pictures" not in self.said:
            self.said.add("pictures")
            message = f"trainer.add_figure({name!r}): no callback keeps pictures, so they are dropped"
            warn(f"{message}; add TensorBoard(), or write it yourself: figure.savefig(path)")
        for logger in () if self._goes_on() else takers:
            logger.log_picture(self, str(name), picture, self.progress.step)

    def log(self, figures: Mapping[str, Any], step: int | None = None) -> None:
        """Hand figures of one moment to every logger among the callbacks, from anywhere, also behind a fit.

        They are not in the history: for that see `add_figure`. Without a logger nothing keeps them, which is said once.
        An epoch that a resumed run goes on with has what was logged in its ``on_before_epoch`` from when it began: that
        is not written again.

        Args:
            figures: numbers by name, ``{'train/noise': 0.1}``; one with up to 100 elements is written by element.
            step: what they belong to, the x of a curve; by default the number of updates so far.

        Raises:
            ArgumentTypeError: `figures` is no mapping, one of them is no number, or `step` no int.
            ArgumentError: one has no name, or that of what every row has, ``'step'`` or ``'epoch'``.

        Example:
            >>> from deepepochs_like import Callback, Logger, Trainer
            >>> class Print(Logger):
            ...     def write(self, figures, step):
            ...         print(step, {name: value for name, value in figures.items() if name.startswith("weights")})
            >>> class Norm(Callback):
            ...     def on_before_epoch(self, trainer, epoch_idx, **kwargs):
            ...         trainer.log({"weights/norm": sum(p.norm() for p in trainer.model.parameters())})
            >>> net = torch.nn.Linear(1, 1, bias=False); net.weight.data.fill_(2)[0, 0].item()
            2.0
            >>> data = [(torch.ones(4, 1), torch.ones(4, 1))]
            >>> trainer = Trainer(net, torch.nn.functional.mse_loss, epochs=1, callbacks=[Print(), Norm()], verbose=0)
            >>> history = trainer.fit(data)
            0 {'weights/norm': 2.0}
            1 {}
        """
        from .callbacks.logger import check_logged

        check_logged(figures, step)
        loggers = [callback for callback in self.callbacks if hasattr(callback, "log_figures")]
        if not loggers and figures and "log" not in self.said:
            self.said.add("log")
            message = "trainer.log: no callback keeps figures, so they are dropped; add JSONLLogger() or TensorBoard()"
            warn(message)
        for logger in loggers if figures and not self._goes_on() else ():
            logger.log_figures(self, figures, self.progress.step if step is None else int(step))

    def _goes_on(self) -> bool:
        """Whether it is the ``on_before_epoch`` of an epoch that is gone on with, which has been there before."""
        return self.running == "fit" and self.progress.opened is not None and not self.progress.stage

    @property
    def writer(self) -> Any:
        """The `SummaryWriter` of the `TensorBoard` callback, from a fit's first ``on_before_epoch`` to its end.

        It takes what is no number: ``add_image``, ``add_text``, ``add_histogram``, ``add_figure``, ``add_pr_curve`` and
        all else that torch's has. Pass ``trainer.progress.step`` as the step, and a resumed run cuts off what it writes
        again; but for what ``on_before_epoch`` writes, which comes again in an epoch that is gone on with. It is the
        main process's alone: elsewhere there is none.

        Raises:
            ArgumentError: there is no such callback; or it is not writing, as before a fit and behind it.

        Example:
            >>> import tempfile
            >>> from deepepochs_like import Callback, TensorBoard, Trainer
            >>> class Weights(Callback):
            ...     def on_after_epoch(self, trainer, **kwargs):
            ...         weight = trainer.model.weight.detach()
            ...         trainer.writer.add_histogram("weight", weight, trainer.progress.step)
            >>> net = torch.nn.Linear(2, 1); data = [(torch.ones(4, 2), torch.ones(4, 1))]
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     callbacks = [TensorBoard(), Weights()]
            ...     trainer = Trainer(net, torch.nn.functional.mse_loss, epochs=2, callbacks=callbacks, verbose=0,
            ...                       folder=folder)
            ...     history = trainer.fit(data)
        """
        boards = [callback for callback in self.callbacks if hasattr(callback, "run_tensorboard")]
        restored = self.resumed if self.pending is None else "restored" in self.pending
        for callback in boards if self.running == "fit" and restored else ():
            callback.ready(self)  # whichever comes first in on_before_epoch
        for callback in self.callbacks:
            if hasattr(writer := getattr(callback, "writer", None), "add_scalar"):
                return writer
        if not boards:
            raise ArgumentError("trainer.writer: it is TensorBoard's; add TensorBoard() to the trainer's callbacks")
        raise ArgumentError(
            "trainer.writer: TensorBoard() has one from a fit's first on_before_epoch to its end, in the main process; "
            "trainer.log and trainer.add_figure(name, picture) work at any time"
        )

    def do_metric(
        self, loss: torch.Tensor | None = None, model_out: Any = None, batch_y: Any = None, weight: Weight | None = None
    ) -> None:
        """Feed a batch's loss, outputs and targets to the figures: for steps that do not go through `loss`."""
        task = self.current_task
        weight = task.batch_weight if weight is None else weight
        if task.figures.slots and model_out is not None:
            task.figures.take_outputs(model_out, batch_y, weight)
        if loss is not None:
            task.figures.loss = (loss.detach(), weight)
        self.fire_metrics(loss, model_out, batch_y)

    def fire_metrics(self, loss: torch.Tensor | None, model_out: Any, batch_y: Any) -> None:
        """Tell who listens that loss and metrics have taken a batch in."""
        task = self.current_task
        if task.stage_hooks.metrics:
            given = {"loss": detached(loss), "model_out": detached(model_out), "batch_y": batch_y, "task": task}
            fire(task.stage_hooks.metrics, trainer=self, **given)
