"""`Interpret`: the samples that a model is worst, or best, at; and its confusion matrix."""

from __future__ import annotations

import importlib.util
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch

from ..errors import (
    ArgumentError,
    ArgumentTypeError,
    EngineWarning,
    MetricError,
    StateError,
    did_you_mean,
    refuse_unknown,
)
from ..patches import ConfusionPatch, Outputs
from ..patches.base import metric_name
from ..shapes import class_dim
from ..tensors import map_tensors
from ..types import StateDict
from .analyze import need_board, writer_of
from .base import Callback

STAGES = ("train", "val", "test")
#: What is kept of a sample, beside its input.
_COLUMNS = ("value", "index", "number", "task", "prediction", "target")
#: How many classes there may be for a confusion matrix, of C * C numbers, that nobody has asked for.
_MOST_COUNTED = 2000
#: How many classes a confusion matrix may have to be shown whole.
_MOST_CLASSES = 30
_NO_CLASSES = f"predictions are no scores for classes, or for more than {_MOST_COUNTED:,}, which num_classes= asks for"
#: How many pictures of samples are written.
_MOST_IMAGES = 25


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
        if not callable(metric) or isinstance(metric, type):
            raise ArgumentTypeError(f"metric={metric!r}: a function (model_out, batch_y) -> values (N,) is needed")
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ArgumentError(f"k={k!r}: an int from 1 on is needed")
        if mode not in ("max", "min"):
            raise ArgumentError(f"mode={mode!r}: 'max' or 'min' is needed{did_you_mean(str(mode), ('max', 'min'))}")
        named = [stages] if isinstance(stages, str) else list(stages)
        for stage in named:
            if stage not in STAGES:
                raise ArgumentError(
                    f"stages={stages!r}: 'train', 'val' and 'test' are known, and at least one is needed"
                )
        if not named:
            raise ArgumentError("stages is empty: at least one of 'train', 'val' and 'test' is needed")
        least = 0 if num_classes is None else num_classes
        if isinstance(least, bool) or not isinstance(least, int) or least < 0:
            raise ArgumentError(f"num_classes={num_classes!r}: an int from 0 on is needed, or None")
        self.metric, self.k, self.mode, self.stages = metric, k, mode, tuple(dict.fromkeys(named))
        self.keep_inputs, self.num_classes = keep_inputs, num_classes
        self.class_names = None if class_names is None else [str(name) for name in class_names]
        self._kept: dict[str, Kept] = {}
        self._latest = ""
        self._batch: Any = None
        for stage in set(STAGES) - set(self.stages):  # of which it hears nothing
            for event in (
                f"before_{stage}_epochs",
                f"before_{stage}_batch",
                f"{stage}_metrics",
                f"after_{stage}_epochs",
            ):
                setattr(self, f"on_{event}", None)

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
        if (writer := writer_of(trainer)) is not None:
            self._write(trainer, writer, tasks[0].stage)

    on_after_train_epochs = on_after_test_epochs = on_after_val_epochs

    def _write(self, trainer: Any, writer: Any, stage: str) -> None:
        """Write the confusion matrix of a stage to TensorBoard."""
        matrix, step = self.confusion(stage), trainer.progress.step
        if matrix is None:
            return
        table = "\n".join(f"    {line}" for line in self.confusion_table(stage).splitlines())  # code, in Markdown
        writer.add_text(f"confusion/{stage}", table, step)
        if importlib.util.find_spec("matplotlib") is not None and len(matrix) <= _MOST_CLASSES:
            picture = _picture(self.plot_confusion(stage))
            writer.add_image(f"confusion/{stage}", picture, step, dataformats="HWC")


class Kept:
    """The k samples of a stage that rank first, as columns on the device, and its confusion matrix.

    Args:
        k: how many.
        mode: ``'max'`` or ``'min'``.
        num_classes: see `Interpret`.
    """

    def __init__(self, k: int, mode: str, num_classes: int | None) -> None:
        self.k, self.mode, self.num_classes = k, mode, num_classes
        self.columns: dict[str, Any] = {}
        self.seen = 0
        self.patch: Any = ConfusionPatch(None)
        #: Whether there are classes; None before the first batch.
        self.classes: bool | None = None if num_classes is None else bool(num_classes)

    def take(self, values: Any, indices: Any, task: int, preds: Any, targets: Any, inputs: Any) -> None:
        """Take in a batch: in O(k + N) memory, and without reading anything back where all is tensors."""
        count, device = len(values), values.device
        scores = _scores(preds, targets)
        self._count(scores, preds, targets)
        whole = torch.arange(self.seen, self.seen + count, device=device)
        batch = {
            "value": values.double() if device.type != "mps" else values,
            "index": indices.to(device, torch.int64),
            "number": whole,
            "task": torch.full((count,), task, device=device),
            "prediction": preds if scores is None else scores.argmax(1),
            "target": targets,
            **({} if inputs is None else {"input": inputs}),
        }
        self.seen += count
        best = _first(batch["value"], self.k, self.mode)
        batch = {name: _rows(column, best, count) for name, column in batch.items()}
        if self.columns and set(self.columns) != set(batch):
            raise StateError("Interpret: the state was taken with another keep_inputs=: take the one that it had")
        if self.columns:
            both = {name: _joined(self.columns[name], column) for name, column in batch.items()}
            size = len(both["value"])
            best = _first(both["value"], self.k, self.mode)
            batch = {name: _rows(column, best, size) for name, column in both.items()}
        self.columns = batch

    def _count(self, scores: Any, preds: Any, targets: Any) -> None:
        """Count a batch in the confusion matrix, where there are classes."""
        if self.classes is None:
            self.classes = scores is not None and scores.shape[1] <= _MOST_COUNTED
        if self.classes:
            if scores is not None:
                preds = scores
            elif self.num_classes and not preds.is_floating_point():
                # labels: how many classes there are is said, not learned
                preds = torch.nn.functional.one_hot(preds.long().flatten(), self.num_classes)
                targets = targets.flatten()
            self.patch.absorb(Outputs(preds, targets, len(targets)))

    def matrix(self) -> torch.Tensor | None:
        """The confusion matrix so far."""
        return None if not self.classes or self.patch.counts is None else self.patch.matrix()

    def samples(self) -> list[dict[str, Any]]:
        """The samples kept, as dicts on the CPU, the first of them at the head."""
        columns = map_tensors(self.columns, lambda tensor: tensor.cpu())
        size = len(columns["value"]) if columns else 0
        rows = [{name: _row(column, n, size) for name, column in columns.items()} for n in range(size)]
        for row in rows:
            row["index"] = None if row["index"] < 0 else row["index"]
        return rows

    def state_dict(self) -> StateDict:
        """The columns, and the counts."""
        counts = self.patch.counts
        return {"columns": dict(self.columns), "seen": self.seen, "classes": self.classes, "counts": counts}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore what `state_dict` returned."""
        self.columns, self.seen, self.classes = dict(state["columns"]), int(state["seen"]), state["classes"]
        self.patch = ConfusionPatch(None)
        if state["counts"] is not None:
            self.patch._take(state["counts"])


class InterpreteCallback(Interpret):
    """`Interpret` under DeepEpochs' name: of all stages, with the samples' inputs.

    Args:
        metric: ``(model_out, batch_y)`` to one value per sample, a tensor (N,).
        k: how many samples to keep.
        mode: ``'max'`` keeps those with the highest values, ``'min'`` those with the lowest.
        stages: of ``'train'``, ``'val'``, ``'test'`` one or several.
        class_num: C, for predictions that are labels; scores tell by themselves.
        log_dir: the folder in which runs lie.
        image_data: the inputs are images (N, channels, height, width) from 0 to 1: write those of the first samples to
            TensorBoard after every epoch, whether or not there is a callback for it.
        priority: its place among the callbacks.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> callback = InterpreteCallback(lambda out, y: (out - y).pow(2).mean(1), k=5, mode="min")
        >>> callback.stages, callback.keep_inputs
        (('train', 'val', 'test'), True)
    """

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
        self.keeps_files = image_data

    def attach(self, trainer: Any) -> None:
        if self.image_data:
            need_board(trainer)

    def top_samples(self) -> list[list[Any]]:
        """The samples kept of the stage that ran last, as lists [value, prediction, target, input]."""
        return [[row["value"], row["prediction"], row["target"], _bare(row.get("input"))] for row in self.samples()]

    def _write(self, trainer: Any, writer: Any, stage: str) -> None:
        super()._write(trainer, writer, stage)
        rows = self.samples(stage)[:_MOST_IMAGES] if self.image_data else []
        pictures = [_bare(row.get("input")) for row in rows]
        if not pictures:
            return
        if all(isinstance(p, torch.Tensor) and p.ndim == 3 and len(p) in (1, 3) for p in pictures):
            writer.add_images(f"samples/{stage}", torch.stack(pictures).float().clamp(0, 1), trainer.progress.step)
        elif "image_data" not in trainer.said:
            trainer.said.add("image_data")
            shape = tuple(getattr(pictures[0], "shape", ())) or type(pictures[0]).__name__
            message = f"InterpreteCallback(image_data=True): images (1 or 3, height, width) are needed, not {shape}"
            warnings.warn(message, EngineWarning, stacklevel=2)


def _stage_of(trainer: Any) -> str:
    """The stage that is running: of a fit train or val."""
    return str(trainer.progress.stage if trainer.running == "fit" else trainer.running)


def _scores(preds: Any, targets: Any) -> torch.Tensor | None:
    """The predictions as (N, C, ...), where they are scores for classes, in dimension 1 or the last, beside indices."""
    if not (isinstance(preds, torch.Tensor) and isinstance(targets, torch.Tensor) and targets.ndim):
        return None
    dim = class_dim(preds, targets) if preds.is_floating_point() and targets.dtype is not torch.bool else None
    return None if dim is None or preds.shape[dim] < 2 else preds.movedim(dim, 1)


def _first(values: torch.Tensor, k: int, mode: str) -> torch.Tensor:
    """The places of the k values that rank first, in order; of equal ones the earlier, and NaN last."""
    ranked = values if mode == "max" else -values
    ranked = torch.where(ranked.isnan(), -math.inf, ranked)
    return ranked.argsort(descending=True, stable=True)[:k]


def _rows(value: Any, order: torch.Tensor, count: int) -> Any:
    """Some samples of a column, in this order: copies, so that the batch can go."""
    if isinstance(value, torch.Tensor):
        return value[order.to(value.device)] if value.ndim and len(value) == count else value
    if isinstance(value, dict):
        return {key: _rows(item, order, count) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) == count and not any(isinstance(item, (torch.Tensor, list, tuple, dict)) for item in value):
            return [value[place] for place in order.tolist()]
        return [_rows(item, order, count) for item in value]
    return value


def _joined(kept: Any, new: Any) -> Any:
    """Two parts of a column as one; what is no sample's stays as it is."""
    if isinstance(kept, torch.Tensor):
        kept = kept.to(new.device)  # what a state was loaded with may be elsewhere
        return torch.cat([kept, new]) if kept.ndim and kept.shape[1:] == new.shape[1:] else _padded(kept, new)
    if isinstance(kept, dict):
        return {key: _joined(item, new[key]) for key, item in kept.items()}
    if isinstance(kept, list):
        if any(isinstance(item, (torch.Tensor, list, dict)) for item in kept):
            return [_joined(item, other) for item, other in zip(kept, new, strict=True)]
        return kept + new
    return kept


def _padded(kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Put samples of different sizes, as texts of different lengths, into one tensor: shorter ones end with zeros."""
    if not kept.ndim or kept.ndim != new.ndim:
        return kept
    shape = [max(sizes) for sizes in zip(kept.shape[1:], new.shape[1:], strict=True)]
    whole = kept.new_zeros((len(kept) + len(new), *shape))
    whole[(slice(len(kept)), *map(slice, kept.shape[1:]))] = kept
    whole[(slice(len(kept), None), *map(slice, new.shape[1:]))] = new
    return whole


def _row(value: Any, number: int, size: int) -> Any:
    """One sample of a column: numbers as such, everything else as it is."""
    if isinstance(value, torch.Tensor):
        part = value[number] if value.ndim and len(value) == size else value
        return part.item() if part.ndim == 0 else part
    if isinstance(value, dict):
        return {key: _row(item, number, size) for key, item in value.items()}
    if isinstance(value, list):
        if len(value) == size and not any(isinstance(item, (torch.Tensor, list, dict)) for item in value):
            return value[number]
        return [_row(item, number, size) for item in value]
    return value


def _bare(value: Any) -> Any:
    """An input that is the only one, by itself."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _picture(figure: Any) -> np.ndarray[Any, Any]:
    """A figure as an array (height, width, 3), drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
