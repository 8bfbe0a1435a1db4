"""`Interpret`: the samples that a model is worst, or best, at; and its confusion matrix."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch

from ..errors import ArgumentError, ArgumentTypeError, MetricError, did_you_mean, refuse_unknown
from ..patches.base import metric_name
from ..types import StateDict
from .analyze import writer_of
from .base import Callback
from .kept import MOST_COUNTED, Kept

STAGES = ("train", "val", "test")
#: How many classes a confusion matrix may have to be shown whole.
_MOST_CLASSES = 30
_NO_CLASSES = f"predictions are no scores for classes, or for more than {MOST_COUNTED:,}, which num_classes= asks for"


class Interpret(Callback):
    """Keep the k samples with the highest, or lowest, value of a metric, and the confusion matrix, of every epoch.

    Whatever the data's size, it holds k samples and one batch; they stay on the device, and nothing is read back before
    somebody asks. Of equal values the samples that came first are kept; NaN ranks behind every number. The confusion
    matrix is made where predictions are scores (N, C, ...) or (N, ..., C) beside class indices (N, ...), of up to 2,000
    classes, or where `num_classes` is given.

    What it holds is of the latest epoch of each stage: of all tasks in it, and of what a resumed run has seen of it
    before. Where a `TensorBoard` callback is in the run, it shows the confusion matrix of every epoch as text and, with
    matplotlib, as a picture. Of a batch whose loss is computed more than once every time counts.

    Args:
        metric: ``(model_out, batch_y)`` to one value per sample, a tensor (N,): a loss with ``reduction='none'``.
        k: how many samples to keep.
        mode: ``'max'`` keeps those with the highest values, ``'min'`` those with the lowest.
        stages: of ``'train'``, ``'val'``, ``'test'`` one or several.
        keep_inputs: keep the samples' inputs, too, which are then in checkpoints as well. Without them `samples` says
            which they are in the dataset.
        num_classes: C, for predictions that are labels, or scores for more than 2,000 classes; or 0 for no confusion
            matrix.
        class_names: what the classes are called in tables and plots.
        priority: its place among the callbacks.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.
        MetricError: in the first batch, where `metric` does not return one value per sample.

    Example:
        >>> from deepepochs_like import Trainer
        >>> x = torch.tensor([[0.0], [3.0], [1.0], [2.0]]); data = [(x[:2], x[:2]), (x[2:], x[2:])]
        >>> worst = Interpret(lambda out, y: (out - y).abs().squeeze(1), k=2, stages="test")
        >>> net = torch.nn.Linear(1, 1); _ = torch.nn.init.zeros_(net.weight), torch.nn.init.zeros_(net.bias)
        >>> trainer = Trainer(net, torch.nn.functional.mse_loss, callbacks=worst, verbose=0)
        >>> figures = trainer.test(data)
        >>> [(sample["value"], sample["number"]) for sample in worst.samples()]
        [(3.0, 1), (2.0, 3)]
    """

    optional_state = True

    def __init__(
        self,
        metric: Callable[[Any, Any], Any],
        k: int = 100,
        mode: str = "max",
        stages: str | Sequence[str] = ("val",),
        *,
        keep_inputs: bool = False,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, Interpret.__init__)
        super().__init__(priority)
        _check(metric, k, mode, num_classes)
        self.metric, self.k, self.mode, self.stages = metric, k, mode, _checked_stages(stages)
        self.keep_inputs, self.num_classes = keep_inputs, num_classes
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        self._kept: dict[str, Kept] = {}
        self._latest = ""
        self._batch: Any = None
        for stage in set(STAGES) - set(self.stages):  # of which it hears nothing
            for event in ("before_{}_epochs", "before_{}_batch", "{}_metrics", "after_{}_epochs"):
                setattr(self, f"on_{event.format(stage)}", None)

    def state_key(self) -> str:
        return f"{type(self).__name__}({metric_name(self.metric)}, {self.mode})"

    def state_dict(self) -> StateDict:
        """What was kept so far, of every stage."""
        return {"latest": self._latest, "stages": {stage: kept.state_dict() for stage, kept in self._kept.items()}}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._latest = state_dict["latest"]
        self._kept = {}
        for stage, state in state_dict["stages"].items():
            self._kept[stage] = Kept(self.k, self.mode, self.num_classes)
            self._kept[stage].load_state_dict(state)

    # ------------------------------------------------------------------------------------------------- what it found

    def samples(self, stage: str | None = None) -> list[dict[str, Any]]:
        """The samples kept, the one that ranks first at the head.

        Args:
            stage: of which stage; by default of the one that ran last.

        Returns:
            Dicts with ``value``; ``prediction``, a label where the output is scores for classes, else the output;
            ``target``; ``index`` in the dataset, None where the loader does not tell; ``number`` in the order that the
            stage saw; ``task``, its index in the stage; and ``input`` where inputs are kept.

        Raises:
            ArgumentError: that stage has not run.
        """
        return self._of(stage).samples()

    def confusion(self, stage: str | None = None) -> np.ndarray[Any, Any] | None:
        """The confusion matrix (C, C), rows = targets; None where there are no classes. `stage` as in `samples`."""
        matrix = self._of(stage).matrix()
        return None if matrix is None else matrix.cpu().numpy()

    def table(self, count: int = 10, stage: str | None = None) -> str:
        """The first samples as text, one a line. `stage` as in `samples`."""
        rows = [["rank", "index", "value", "prediction", "target"]]
        for rank, sample in enumerate(self.samples(stage)[:count], 1):
            where = f"{sample['number']} seen" if sample["index"] is None else str(sample["index"])
            shown = [self._shown(sample[name]) for name in ("prediction", "target")]
            rows.append([str(rank), where, f"{sample['value']:.4g}", *shown])
        return _aligned(rows)

    def confusion_table(self, stage: str | None = None) -> str:
        """The confusion matrix as text: a row per target, with the share of it that was found. `stage` as before.

        Of more than 30 classes it is the 20 confusions that are most frequent.
        """
        matrix = self.confusion(stage)
        if matrix is None:
            return f"no confusion matrix: {_NO_CLASSES}"
        names = [self._class(label) for label in range(len(matrix))]
        if len(names) > _MOST_CLASSES:
            wrong = np.where(np.eye(len(names), dtype=bool), 0, matrix)
            places = [divmod(int(place), len(names)) for place in np.argsort(-wrong, axis=None, kind="stable")[:20]]
            found = [[names[t], names[p], str(wrong[t, p])] for t, p in places if wrong[t, p]]
            return _aligned([["target", "prediction", "times"], *found])
        rows = [["target", *names, "found"]]
        for name, counts in zip(names, matrix, strict=True):
            hit = counts[len(rows) - 1] / counts.sum() if counts.sum() else math.nan
            rows.append([name, *(str(count) if count else "." for count in counts), f"{hit:.1%}"])
        return _aligned(rows)

    def plot_confusion(self, stage: str | None = None, **options: Any) -> Any:
        """Draw the confusion matrix; see `deepepochs_like.plot_confusion`. `stage` as in `samples`.

        Raises:
            ArgumentError: there is none.
        """
        from ..utils.plots import plot_confusion

        matrix = self.confusion(stage)
        if matrix is None:
            raise ArgumentError(f"there is no confusion matrix: {_NO_CLASSES}")
        return plot_confusion(matrix, len(matrix), [self._class(n) for n in range(len(matrix))], **options)

    def _class(self, label: int) -> str:
        names = self.class_names
        return names[label] if names is not None and label < len(names) else str(label)

    def _shown(self, value: Any) -> str:
        """A prediction or a target in a table."""
        if isinstance(value, int):
            return self._class(value)
        text = " ".join(str(value.tolist() if isinstance(value, torch.Tensor) else value).split())
        return text if len(text) <= 24 else text[:23] + "~"

    def _of(self, stage: str | None) -> Kept:
        found = self._latest if stage is None else stage
        if found not in self._kept:
            there = ", ".join(self._kept) or "none"
            what = "no stage" if stage is None else f"stage {stage!r}"
            raise ArgumentError(f"{type(self).__name__}: {what} has run; it looks at {self.stages}, and has {there}")
        return self._kept[found]

    # --------------------------------------------------------------------------------------------- how it finds it

    def on_cleanup(self, trainer: Any) -> None:
        self._batch = None

    def on_before_val_epochs(self, trainer: Any, tasks: Any, epoch_idx: int = 0) -> None:
        # A stage begins anew, save where a resumed run goes on within it.
        stage, opened = _stage_of(trainer), trainer.progress.opened if trainer.running == "fit" else None
        self._latest = stage
        if opened is None or opened["stage"] != stage or stage not in self._kept:
            self._kept[stage] = Kept(self.k, self.mode, self.num_classes)

    on_before_train_epochs = on_before_test_epochs = on_before_val_epochs

    def on_before_val_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
        self._batch = batch_x

    on_before_train_batch = on_before_test_batch = on_before_val_batch

    def on_val_metrics(self, trainer: Any, loss: Any, model_out: Any, batch_y: Any, task: Any) -> None:
        """Keep the samples of a batch that are among the best or worst so far."""
        values = self.metric(model_out, batch_y)
        if not isinstance(values, torch.Tensor) or values.ndim != 1:
            got = f"a tensor {tuple(values.shape)}" if isinstance(values, torch.Tensor) else repr(values)
            raise MetricError(
                f"{type(self).__name__}: metric {metric_name(self.metric)} returned {got}; one value per sample, a "
                "tensor (N,), is needed: a loss with reduction='none', averaged over all dimensions but the first"
            )
        batch, kept = self._batch, self._kept[_stage_of(trainer)]
        indices = getattr(batch, "indices", None)
        if not (isinstance(indices, torch.Tensor) and indices.shape == values.shape):
            indices = torch.full(values.shape, -1)
        inputs = None
        if self.keep_inputs:
            inputs = dict(batch) if isinstance(batch, dict) else tuple(batch) if batch is not None else None
        kept.take(values.detach(), indices, trainer.progress.task, model_out, batch_y, inputs)

    on_train_metrics = on_test_metrics = on_val_metrics

    def on_after_val_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int = 0) -> None:
        self._batch = None
        if (writer := _open_writer(trainer)) is not None:
            self._write(trainer, writer, tasks[0].stage)

    on_after_train_epochs = on_after_test_epochs = on_after_val_epochs

    def _write(self, trainer: Any, writer: Any, stage: str) -> None:
        """Write the confusion matrix of a stage to TensorBoard."""
        matrix, step = self.confusion(stage), trainer.progress.step
        if matrix is None:
            return
        tag = self._tag(trainer, "confusion", stage)
        writer.add_text(tag, as_code(self.confusion_table(stage)), step)
        if importlib.util.find_spec("matplotlib") is not None and len(matrix) <= _MOST_CLASSES:
            picture = _picture(self.plot_confusion(stage))
            writer.add_image(tag, picture, step, dataformats="HWC")

    def _tag(self, trainer: Any, what: str, stage: str) -> str:
        """What it is called in TensorBoard; what a second callback writes of the stage has a name of its own."""
        alike = [c for c in trainer.callbacks if isinstance(c, Interpret) and stage in c.stages]
        number = next((n for n, callback in enumerate(alike, 1) if callback is self), 1)
        return f"{what}/{stage}" if number == 1 else f"{what}-{number}/{stage}"


def _check(metric: Any, k: Any, mode: Any, num_classes: Any) -> None:
    if not callable(metric) or isinstance(metric, type):
        raise ArgumentTypeError(f"metric={metric!r}: a function (model_out, batch_y) -> values (N,) is needed")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ArgumentError(f"k={k!r}: an int from 1 on is needed")
    if mode not in ("max", "min"):
        raise ArgumentError(f"mode={mode!r}: 'max' or 'min' is needed{did_you_mean(str(mode), ('max', 'min'))}")
    least = 0 if num_classes is None else num_classes
    if isinstance(least, bool) or not isinstance(least, int) or least < 0:
        raise ArgumentError(f"num_classes={num_classes!r}: an int from 0 on is needed, or None")


def _checked_stages(stages: str | Sequence[str]) -> tuple[str, ...]:
    """The stages that are meant, each once."""
    named = [stages] if isinstance(stages, str) else list(stages)
    if not named:
        raise ArgumentError("stages is empty: at least one of 'train', 'val' and 'test' is needed")
    if any(stage not in STAGES for stage in named):
        raise ArgumentError(f"stages={stages!r}: 'train', 'val' and 'test' are known, and at least one is needed")
    return tuple(dict.fromkeys(named))


def _stage_of(trainer: Any) -> str:
    """The stage that is running: of a fit train or val."""
    return str(trainer.progress.stage if trainer.running == "fit" else trainer.running)


def _open_writer(trainer: Any) -> Any:
    """TensorBoard's writer; a test by itself opens it, as its figures are going to."""
    if trainer.running == "test":
        from .tensorboard import TensorBoard

        for callback in trainer.callbacks:
            if isinstance(callback, TensorBoard):
                callback.ready(trainer)
    return writer_of(trainer)


def as_code(text: str) -> str:
    """A table for TensorBoard, whose texts are Markdown: in a type of one width.

    Example:
        >>> as_code("a  b")
        '    a  b'
    """
    return "\n".join(f"    {line}" for line in text.splitlines())


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _picture(figure: Any) -> np.ndarray[Any, Any]:
    """A figure as an array (height, width, 3), drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
