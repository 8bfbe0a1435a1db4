"""`TensorBoard`: figures as curves in TensorBoard."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ArgumentError, ArgumentTypeError, CheckpointError, refuse_unknown
from ..types import StateDict
from ..utils.warn import warn
from .board_layout import layout_summary
from .board_server import BoardServer
from .event_files import (
    cut_off,
    event_files,
    keep_beginning,
    last_step,
    make_room,
    put_value,
    scalar_places,
    sizes_of,
    written_once,
)
from .logger import Logger, begins_anew, folder_of, learning_rates, set_aside
from .model_graph import write_graph

#: What a `SummaryWriter` has that writes a layout.
LAYOUTS = ("add_custom_scalars", "add_custom_scalars_multilinechart", "add_custom_scalars_marginchart")


class TensorBoard(Logger):
    """Write a run's figures to ``tensorboard/`` in its folder; look at them with ``tensorboard --logdir logs``.

    Tags are ``loss/train`` and ``loss/val``, with ``every=n`` also ``loss/train_batch``; ``lr``, or
    ``lr/<optimizer>.<group>``; and those of ``trainer.log({...})``. x is the number of updates. The Custom Scalars tab
    has both stages of a figure in one chart, and the learning rates of all groups, unless a script gives it a layout of
    its own. The HPARAMS tab shows the trainer's `hyper_params` with every figure's last value. In a run `writer`, also
    ``trainer.writer``, is the `SummaryWriter`: for images, text, histograms and all else that it can;
    ``trainer.add_figure(name, figure)`` shows a matplotlib figure.

    A resumed run continues the curves without overlap or gap: what was written behind the checkpoint that it goes on
    from is cut off. What a trainer writes before its first fit, to a folder that it has begun itself, stays; a run
    that comes to no checkpoint and begins again keeps the numbers of x = 0. A number of a test or of ``trainer.log``
    takes the place of that of the same tag and x: outside a fit any such one; in a fit that begins at update 0 one from
    before it, once. A trainer that is to go on with a run, but stands at update 0 as its fit is still to come, writes
    only in the place of what is there already, where the run has a checkpoint of a later update.

    Args:
        every: also write a batch's figures after every so many updates.
        log_graph: write the model's graph, once.
        example_input: what to trace it with: a tensor, a tuple or a dict; by default the first batch.
        priority: its place among the callbacks.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> import tempfile
        >>> from deepepochs_like import Trainer
        >>> net = torch.nn.Linear(2, 1); data = [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Trainer(net, torch.nn.functional.mse_loss, epochs=2, callbacks=TensorBoard(), verbose=0,
        ...                   folder=folder, running_id="a", hyper_params={"width": 2})
        ...     history = run.fit(data)
        ...     print(scalars(Path(folder) / "a" / "tensorboard")["loss/train"].keys())
        dict_keys([1, 2])
    """

    keeps_files = True
    takes_pictures = True
    #: The folder of the events, in the run's.
    folder = "tensorboard"

    def __init__(
        self,
        every: int | None = None,
        *,
        log_graph: bool = False,
        example_input: Any = None,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, TensorBoard.__init__)
        super().__init__(every, priority=priority)
        if not isinstance(log_graph, bool):
            raise ArgumentTypeError(f"log_graph={log_graph!r}: True or False is needed")
        if example_input is not None and not log_graph:
            raise ArgumentError("example_input= is what the graph is traced with: pass log_graph=True, too")
        self.log_graph, self.example_input = log_graph, example_input
        if not log_graph or example_input is not None:  # then no batch is needed
            self.on_before_train_batch = None  # type: ignore[assignment, method-assign]
        #: The `SummaryWriter`, while a run is going on.
        self.writer: Any = None
        self._folder: Path | None = None
        self._fitted: Path | None = None  # where the last fit has written
        self._begun: Path | None = None  # what was begun outside a fit
        self._unknown = False  # ... behind a state that was loaded, which does not know of it
        self._there: dict[tuple[str, int], tuple[Path, int]] = {}  # what can be replaced
        self._fresh: tuple[Path, int] | None = None  # a file begun outside a fit, and its size with nothing in it
        self._keep: list[int] | None = None
        self._done: list[str] = []  # what is written once in a run; "chart loss" for a chart of the layout
        self._rated = -1  # the step of the last learning rates

    def attach(self, trainer: Any) -> None:
        """Refuse another that writes to the same folder."""
        others = [c for c in trainer.callbacks if isinstance(c, TensorBoard) and c is not self]
        if any(other.folder == self.folder for other in others):
            raise ArgumentError(f"there are two {type(self).__name__} callbacks; one writes all that there is")

    def state_dict(self) -> StateDict:
        self.flush()
        sizes = self._keep
        if sizes is None and self._folder is not None:
            sizes = sizes_of(self._folder)
        return {"sizes": sizes, "done": list(self._done), "rated": self._rated}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._keep, self._done = state_dict["sizes"], list(state_dict["done"])
        self._rated = int(state_dict["rated"])

    def open(self, trainer: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder = folder_of(self, trainer) / self.folder
        fit = trainer.running == "fit"
        if not fit and not event_files(folder):
            self._begun, self._unknown = folder, trainer.progress.step > 0
            self._done, self._rated = [], -1
        elif fit and self._unknown and self._begun == folder:
            self._keep, self._unknown, self._done = None, False, []
        first = not trainer.progress.step and self._keep is None and self._fitted != folder
        purge = self._cut(trainer, folder) if fit else None
        make_room(folder)
        self._there = scalar_places(folder) if first or not fit else {}
        with self._named():
            self.writer = SummaryWriter(str(folder), purge_step=purge)
        for name in LAYOUTS:
            setattr(self.writer, name, partial(self._take_layout, getattr(self.writer, name)))
        self._fresh = None if fit else _begun_file(self.writer, folder)
        if self.log_graph and self.example_input is not None and trainer.running == "fit":
            self._write_graph(trainer, self.example_input)

    def _cut(self, trainer: Any, folder: Path) -> int | None:
        """Cut off what a fit does not go on from; return from which step on it is void for who has read it already."""
        step, former, self._fitted = trainer.progress.step, self._fitted, folder
        if self._keep is None and folder in (former, self._begun):
            return None
        if self._keep is None:
            self.begin()
            if event_files(folder) and begins_anew(trainer):
                set_aside(self, folder)
            elif not step:  # a run that came to no checkpoint begins again
                keep_beginning(folder, step)
            else:
                self.take_over(folder, step)
        if self._keep is not None:
            short, self._keep = cut_off(folder, self._keep), None
            if short:
                message = f"{folder}: {', '.join(short)} is shorter than it was: some of the curves are lost"
                warn(message)
        if not event_files(folder):
            self._done = []  # a branch of a run, in a folder of its own
        # Who has used an x of his own would lose what lies behind the number of updates.
        return step + 1 if event_files(folder) and last_step(folder) <= step else None

    def take_over(self, folder: Path, step: int) -> None:
        """Go on with what lies there, of which the state knows nothing: part of the run went without this callback."""
        keep_beginning(folder, step, everything=True)
        self._done = written_once(folder)

    def begin(self) -> None:
        """Forget what was written in another run."""
        self._done, self._rated = [], -1

    def write(self, figures: dict[str, float], step: int) -> None:
        with self._named():
            for name, value in figures.items():
                if name != "epoch":  # a straight line
                    self.writer.add_scalar(name.encode("utf-8", "backslashreplace").decode(), value, step)

    def write_picture(self, name: str, picture: Any, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        file = io.BytesIO()
        picture.savefig(file, format="png")
        png = file.getvalue()
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        with self._named():
            self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say what it is that the disk refuses."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"{self._folder} cannot be written: {error.strerror or error}") from error

    def on_after_epoch(
        self, trainer: Any, train_tasks: Any, val_tasks: Any, train_metrics: Any, val_metrics: Any, epoch_idx: int
    ) -> None:
        """Write the epoch's figures, and the charts that show both stages in one."""
        if not self.ready(trainer):
            return
        train, val = self._numbers(train_metrics), self._numbers(val_metrics)
        figures = {self.name_of(name, "train", "epoch"): value for name, value in train.items()}
        figures |= {self.name_of(name, "val", "epoch"): value for name, value in val.items()}
        self.write({**figures, **self.rates(trainer)}, self.x_of(trainer, epoch_idx))
        self._write_layout([f"chart {name}" for name in train if name in val], trainer)
        self.flush()

    def x_of(self, trainer: Any, epoch_idx: int) -> int:
        """Where an epoch's figures are drawn."""
        return int(trainer.progress.step)

    def _write_layout(self, charts: list[str], trainer: Any) -> None:
        """Have the curves of both stages, and those of all learning rates, in one chart each, where that is new."""
        wanted = [*charts, *(["rates"] if len(learning_rates(trainer)) > 1 else [])]
        new = [chart for chart in wanted if chart not in self._done]
        if not new or "layout" in self._done:
            return
        self._done += new
        names = [chart.removeprefix("chart ") for chart in self._done if chart.startswith("chart ")]
        tags = {name: [self.name_of(name, stage, "epoch") for stage in ("train", "val")] for name in names}
        summary = layout_summary(tags, "lr/" if "rates" in self._done else "")
        with self._named():
            self.writer.file_writer.add_summary(summary, trainer.progress.step)

    def _take_layout(self, write: Callable[..., None], *arguments: Any, **named: Any) -> None:
        """Write a layout that a script has made, which from then on is the run's."""
        self._done.append("layout")
        write(*arguments, **named)

    def supersede(self, trainer: Any, figures: dict[str, float], step: int) -> dict[str, float]:
        left = dict(figures)
        for name, value in figures.items():
            if self._there and (place := self._there.pop((name, step), None)) is not None:
                put_value(*place, value)
                del left[name]
        return {} if not left or self.is_past(trainer) else left

    def rates(self, trainer: Any) -> dict[str, float]:
        if trainer.progress.step == self._rated:  # an epoch's come with its last batch's, and a step is to occur once
            return {}
        self._rated = trainer.progress.step
        return super().rates(trainer)

    def name_of(self, figure: str, stage: str, unit: str) -> str:
        return f"{figure}/{stage}" if unit == "epoch" else f"{figure}/{stage}_batch"

    def write_hyper_params(self, values: dict[str, Any]) -> None:
        self._write_session("begin", 1, values)

    def _write_session(self, what: str, part: int, values: dict[str, Any]) -> None:
        """Write when a session begins, with its hyper-parameters, or that it is over.

        The experiment's own summary, part 0, is left out: TensorBoard then takes every figure that there is, where it
        would else show only those that were known when it was written.
        """
        if what in self._done:
            return
        from torch.utils.tensorboard.summary import hparams

        summary = hparams(values, {})[part]
        self.writer.file_writer.add_summary(summary)
        self._done.append(what)

    def _write_graph(self, trainer: Any, batch_x: Any) -> None:
        if "graph" not in self._done:
            self._done.append("graph")
            write_graph(self.writer, trainer.model.trained_module, batch_x, trainer.device)

    def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
        if "graph" not in self._done and self.writer is not None:
            self._write_graph(trainer, batch_x)

    def on_after_fit(self, trainer: Any) -> None:
        if self.opened and trainer.hyper_params and not trainer.progress.stage:  # not stopped within an epoch
            self._write_session("end", 2, {})

    def flush(self) -> None:
        if self.writer is not None:
            with self._named():
                self.writer.flush()

    def close(self) -> None:
        writer, self.writer = self.writer, None
        with self._named():
            writer.close()
        if self._fresh is not None and self._fresh[0].exists() and self._fresh[0].stat().st_size == self._fresh[1]:
            self._fresh[0].unlink()  # all that there was to write has taken the place of something
        self._fresh = None

    def run_tensorboard(self, port: int = 0) -> BoardServer:
        """Serve the page: ``with callback.run_tensorboard() as board: print(board.url)``.

        It shows all runs that lie in one folder with the last one that was written. The server ends with ``stop()``,
        with the ``with``, or with this process, whichever comes first.

        Args:
            port: where it listens; 0 takes a free one.

        Raises:
            ArgumentError: nothing has been written yet, so that there is nothing to show.
            EngineError: it does not start.
        """
        folder = self._folder.parent.parent if self._folder is not None else getattr(self, "root", None)
        if folder is None:
            raise ArgumentError("run_tensorboard: nothing has been written yet that could be shown; run fit before")
        return BoardServer(folder, port)


def _begun_file(writer: Any, folder: Path) -> tuple[Path, int] | None:
    writer.flush()
    files = event_files(folder)
    return (files[-1], files[-1].stat().st_size) if files else None


def scalars(folder: str | os.PathLike[str]) -> dict[str, dict[int, float]]:
    """Read the curves in a folder of events: values by step, by tag.

    Args:
        folder: a run's ``tensorboard`` folder.

    Returns:
        ``{'loss/train': {40: 0.83, ...}}``; of a step that occurs several times the last value.

    Example:
        >>> scalars("no such folder")
        {}
    """
    if not event_files(Path(folder)):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(os.fspath(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
