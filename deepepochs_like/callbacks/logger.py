"""`Logger`: what every callback that hands figures on to somewhere has in common."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint import CheckpointStore
from ..errors import ArgumentError, ArgumentTypeError, RunLockedError
from ..history import rates_by_name
from ..lock import FolderLock
from ..readout import read_out
from ..utils.containers import flatten_dict
from ..utils.warn import warn
from .base import Callback

#: Figures with more elements than this are left out.
MOST_ELEMENTS = 100

#: Names that a row has for itself, and ``trainer.log`` refuses.
RESERVED = ("step", "epoch")


class Logger(Callback):
    """Hand a run's figures on to a file, a server or a page: a subclass writes `open`, `write` and `close`.

    It is then given, each under its name:

    - after every epoch ``'epoch'``, the figures ``'train/loss'``, ``'val/accuracy'``, and the learning rates: ``'lr'``,
      or ``'lr/<optimizer>.<group>'`` where there are several;
    - with ``every=n``, after every n updates the last batch's ``'train_batch/loss'`` and the learning rates;
    - after a test ``'test/loss'``; and whatever ``trainer.log({...})`` is called with.

    `step` is the number of updates of the weights. An update that is made at the end of a pass, with the last batches
    of ``accumulate=``, has no row of its own. Learning rates are those of the next update; a scheduler that runs by
    epochs comes after. A figure with up to 100 elements is written by element, ``'val/f1.0'``; larger ones are left
    out, with a warning. Only the main process writes. ``'step'`` and ``'epoch'`` are no names for figures of one's own.

    It is opened when the first epoch of a fit begins, behind whatever a resumed run restores, or at a test; and closed
    when the run is over. A trainer that is to go on with a run from a later update, but stands at update 0 as its fit
    is still to come, writes what belongs to a checkpoint of the run, ``test(dl, weights='best')``, at that one's
    update, and nothing else. What must survive a restart goes into `state_dict`. Set ``keeps_files = True`` if
    it writes under ``trainer.run_folder.path``. Weights & Biases, for example::

        class WandB(Logger):
            def open(self, trainer):
                name = trainer.running_id
                self.run = wandb.init(project="digits", id=name, resume="allow", config=trainer.hyper_params)

            def write(self, figures, step):
                self.run.log(figures, step=step)

            def close(self):
                self.run.finish()

    Aim: ``self.run = aim.Run()``, ``self.run.track(value, name, step)`` and ``self.run.close()``. Visdom:
    ``self.page = visdom.Visdom()`` and ``self.page.line([value], [step], win=name, update='append')``.

    Args:
        every: also write a batch's figures after every so many updates; None for epochs alone.
        priority: its place among the callbacks.

    Raises:
        ArgumentError: `every` is no int from 1 on.

    Example:
        >>> class Print(Logger):
        ...     def write(self, figures, step):
        ...         print(step, sorted(figures))
        >>> from deepepochs_like import Trainer
        >>> net = torch.nn.Linear(2, 1); data = [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> run = Trainer(net, torch.nn.functional.mse_loss, epochs=2, callbacks=Print(), verbose=0)
        >>> history = run.fit(data)
        1 ['epoch', 'lr', 'train/loss']
        2 ['epoch', 'lr', 'train/loss']
    """

    every: int | None = None
    #: Whether it takes the pictures of ``trainer.add_figure``: it then has a `write_picture`.
    takes_pictures: bool = False
    #: A run can go on without it: where the trainer that a state is loaded into has no such logger, that is a warning.
    optional_state: bool = True
    #: Whether it is open.
    opened = False
    _next: float = math.inf
    _left_out: frozenset[str] = frozenset()

    def __init__(self, every: int | None = None, *, priority: float = 1) -> None:
        super().__init__(priority)
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ArgumentError(f"every={every!r}: an int from 1 on is needed, or None")
        self.every = every
        if every is None:  # then no batch is any of its business, unless a subclass has made it that
            for name in ("on_before_train_epoch", "on_after_train_batch"):
                if getattr(type(self), name) is getattr(Logger, name):
                    setattr(self, name, None)

    # ---------------------------------------------------------------------------------- what a subclass writes

    def open(self, trainer: Any) -> None:
        """Open what is written to; ``trainer.progress.step`` is where the run stands."""

    def write(self, figures: dict[str, float], step: int) -> None:
        """Write figures that belong to the update numbered `step`."""
        raise NotImplementedError(f"{type(self).__name__} has no write(figures, step)")

    def write_hyper_params(self, values: dict[str, Any]) -> None:
        """Write the trainer's hyper-parameters: bools, numbers and strings by name, ``'net.width'`` for nested ones.

        Called whenever a fit opens it, so also when a run is resumed.
        """

    def supersede(self, trainer: Any, figures: dict[str, float], step: int) -> dict[str, float]:
        """Replace a test's or a log's figures where the step has them already; return those that are to be written.

        None of them is where they belong to a run that is to go on from further on, see `is_past`.
        """
        return {} if self.is_past(trainer) else figures

    def write_picture(self, name: str, picture: Any, step: int) -> None:
        """Write a picture, which has ``savefig(file, format='png')``; called where ``takes_pictures = True``."""
        raise NotImplementedError(f"{type(self).__name__} has no write_picture(name, picture, step)")

    def flush(self) -> None:
        """See to it that others can read what was written; called after every epoch."""

    def close(self) -> None:
        """Close what was opened."""

    # ---------------------------------------------------------------------------------------------- when it is

    def ready(self, trainer: Any) -> bool:
        """Open it where that has not been done; tell whether it can be written to."""
        if self.opened:
            return True
        if not trainer.main_process or _is_to_be_restored(trainer):  # until then its place is unknown
            return False
        if self.keeps_files and trainer.running != "fit" and not self._may_write(trainer):
            return False
        self.open(trainer)
        self.opened = True
        if trainer.running == "fit" and trainer.hyper_params:
            self.write_hyper_params(_plain(trainer.hyper_params))
        return True

    def log_figures(self, trainer: Any, figures: Mapping[str, Any], step: int) -> None:
        """Write what ``trainer.log`` was called with, which has checked it."""
        if self.ready(trainer):  # else a resumed run has them already, from when it began
            self._write_once(trainer, self._numbers(figures), int(step))
            if not trainer.running:
                self._close()

    def log_picture(self, trainer: Any, name: str, picture: Any, step: int) -> None:
        """Write a picture that ``trainer.add_figure`` was called with."""
        if self.ready(trainer):
            if not self.is_past(trainer):
                self.write_picture(name, picture, step or looked_at(trainer))
            if not trainer.running:
                self._close()

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self._next = math.inf

    def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
        self.ready(trainer)

    def on_before_train_epoch(self, trainer: Any, task: Any) -> None:
        """Begin with the next update: the last one may have been made behind a pass, and be no batch's."""
        if self.opened and self.every is not None:
            self._next = (trainer.progress.step // self.every + 1) * self.every

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        """Write the batch's figures every so many updates; all others cost a comparison."""
        if self.every is None or trainer.progress.step < self._next:
            return
        step, window = trainer.progress.step, trainer.execution.window
        self._next = (step // self.every + 1) * self.every
        if window is not None and window.batches:  # the update was made at the end of the pass before, which goes on
            return
        self.write({**self._numbers(metrics, "train", "batch"), **self.rates(trainer)}, step)

    def on_after_epoch(
        self, trainer: Any, train_tasks: Any, val_tasks: Any, train_metrics: Any, val_metrics: Any, epoch_idx: int
    ) -> None:
        if self.ready(trainer):
            figures = {**self._numbers(train_metrics, "train"), **self._numbers(val_metrics, "val")}
            self.write({"epoch": epoch_idx + 1, **figures, **self.rates(trainer)}, trainer.progress.step)
            self.flush()

    def on_after_test_epochs(self, trainer: Any, tasks: Any, metrics: Any) -> None:
        if self.ready(trainer):
            self._write_once(trainer, self._numbers(metrics, "test"), trainer.progress.step)
            self.flush()

    def on_cleanup(self, trainer: Any) -> None:
        self._close()

    def _write_once(self, trainer: Any, figures: dict[str, float], step: int) -> None:
        step = step or looked_at(trainer)
        left = self.supersede(trainer, figures, step)
        if left or not figures:
            self.write(left, step)

    def is_past(self, trainer: Any) -> bool:
        """Whether what a trainer tells before its fit belongs to a run that the fit will go on with from further on."""
        if trainer.running == "fit" or trainer.progress.step or trainer.resume is False or trainer.resumed:
            return False
        entries = _checkpoints(trainer)
        if not entries or not entries[0].step or looked_at(trainer):
            return False
        self._say(
            trainer,
            f"the run goes on from update {entries[0].step}: figures of update 0 that it has not yet "
            "are not written behind the later ones; a test of what the run has reached is written at its update: "
            "test(..., weights='last'), or 'best'",
        )
        return True

    def _close(self) -> None:
        if self.opened:
            self.opened = False
            self.close()

    def name_of(self, figure: str, stage: str, unit: str) -> str:
        """The name of a stage's figure; `unit` is ``'epoch'`` or ``'batch'``."""
        return f"{stage}/{figure}" if unit == "epoch" else f"{stage}_batch/{figure}"

    def rates(self, trainer: Any) -> dict[str, float]:
        """The learning rates that are written with the figures of a batch or an epoch."""
        return learning_rates(trainer)

    def _numbers(self, figures: Mapping[str, Any], stage: str = "", unit: str = "epoch") -> dict[str, float]:
        try:
            values, _ = read_out(dict(figures))
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(f"log({dict(figures)!r:.200}): numbers are needed ({error})") from error
        named: dict[str, float] = {}
        for figure, value in values.items():
            if np.size(value) > MOST_ELEMENTS:
                self._leave_out(figure, np.shape(value))
                continue
            for index, number in np.ndenumerate(value):
                element = ".".join([str(figure), *map(str, index)])
                named[self.name_of(element, stage, unit) if stage else element] = float(number)
        return named

    def _may_write(self, trainer: Any) -> bool:
        """Whether a run that no fit of this trainer has open has a folder, and nobody else writes to it."""
        folder = trainer.find_run()
        if folder is None and trainer.running:
            self._say(
                trainer, "the run has no folder, as there was no fit and it has no running_id: nothing is written"
            )
        if folder is None or trainer.run_folder is not None or not folder.path.is_dir():
            return folder is not None or not trainer.running
        lock = FolderLock(folder.path)
        try:
            lock.acquire()
        except RunLockedError as error:
            self._say(trainer, f"nothing is written: {error}")
            return False
        finally:
            lock.release()
        return True

    def _say(self, trainer: Any, message: str) -> None:
        if message not in trainer.said:
            trainer.said.add(message)
            warn(f"{type(self).__name__}: {message}")

    def _leave_out(self, figure: str, shape: tuple[int, ...]) -> None:
        if figure not in self._left_out:
            self._left_out = self._left_out | {figure}
            message = f"{type(self).__name__}: the figure {figure!r} has the shape {shape}, and is left out"
            warn(message)


def check_logged(figures: Any, step: Any = None) -> None:
    """Check what ``trainer.log`` is called with, whether or not there is a logger; no tensor is read back.

    Raises:
        ArgumentTypeError: `figures` is no mapping, one of them is no number, or `step` no int.
        ArgumentError: one has no name, or that of what every row has, ``'step'`` or ``'epoch'``.

    Example:
        >>> check_logged({"train/noise": torch.tensor(0.5), "own/index": 3}, step=7)
    """
    if not isinstance(figures, Mapping):
        raise ArgumentTypeError(f"log({figures!r:.80}): a dict is needed, {{name: number}}")
    for name, value in figures.items():
        plain = " ".join(str(name).split())
        if plain in RESERVED:
            raise ArgumentError(f"log: {name!r} is what a row says of itself, no name for a figure; take another")
        if not plain:
            raise ArgumentError(f"log: {value!r:.80} has the name {name!r}; a figure needs one that can be read")
        if not _is_number(value):
            raise ArgumentTypeError(f"log: {name!r} is {value!r:.80}: numbers are needed; for no value leave it out")
    try:
        is_int = step is None or (operator.index(step) is not None and not isinstance(step, bool))
    except TypeError:
        is_int = False
    if not is_int:
        raise ArgumentTypeError(f"log(step={step!r:.80}): an int is needed; by default it is the number of updates")


def _is_number(value: Any) -> bool:
    """Whether it is a number, or an array of them, as far as that can be told without reading a tensor."""
    if isinstance(value, torch.Tensor):
        return not value.is_complex()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # ragged, or with tensors in it that cannot be read like this
        return False
    if array.dtype.kind == "O":  # fractions and decimals, but not None, whose float NumPy takes for NaN
        return all(hasattr(element, "__float__") for element in array.flat)
    return array.dtype.kind in "biuf"


def learning_rates(trainer: Any) -> dict[str, float]:
    """The learning rate of every parameter group, as the next update has it.

    Returns:
        ``{'lr': ...}``, or ``{'lr/<optimizer>.<group>': ...}``: the optimizer's name where there are several of them,
        the group's name, or number, where it is one of several.

    Example:
        >>> from deepepochs_like import Trainer
        >>> net = torch.nn.Linear(2, 1)
        >>> groups = [{"params": [net.weight], "lr": 0.1}, {"params": [net.bias], "lr": 0.5}]
        >>> learning_rates(Trainer(net, torch.nn.functional.mse_loss, torch.optim.SGD(groups), verbose=0))
        {'lr/0': 0.1, 'lr/1': 0.5}
    """
    return rates_by_name(trainer.opt)


def folder_of(logger: Logger, trainer: Any) -> Path:
    """The folder of the run, in a fit and behind it.

    Raises:
        ArgumentError: there is none: no fit has been run, and no run been named.
    """
    folder = trainer.find_run()
    if folder is None:
        raise ArgumentError(
            f"{type(logger).__name__}: there is no run that figures could be written to; run fit before, or pass "
            "running_id='...' to the trainer"
        )
    return Path(folder.path)


def _checkpoints(trainer: Any) -> list[Any]:
    """Those of the trainer's run, the newest first."""
    folder = trainer.find_run()
    return CheckpointStore(folder.checkpoints).entries() if folder is not None else []


def looked_at(trainer: Any) -> int:
    """The update of that checkpoint of the run whose weights a trainer looks at before its fit; 0 where it does not."""
    aside = trainer.aside
    if aside is None or aside.path is None or trainer.progress.step or aside.changed():
        return 0
    path = aside.path.resolve()
    return next((int(entry.step) for entry in _checkpoints(trainer) if entry.path.resolve() == path), 0)


def _is_to_be_restored(trainer: Any) -> bool:
    """Whether a fit goes on from a state, and is still before that."""
    loaded = trainer.running == "fit" and trainer.pending is not None and "restored" not in trainer.pending
    return loaded or trainer.resuming is not None


def begins_anew(trainer: Any) -> bool:
    """Whether it is a fit that was not asked to go on with what lies in the run's folder."""
    return trainer.running == "fit" and trainer.resume is False


def set_aside(logger: Logger, path: Path, why: str = "is of another run") -> None:
    """Rename what another run of the same name has left, so that nothing is lost and nothing mixed up."""
    numbers = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(1, 1_000_000))
    free = next(other for other in numbers if not other.exists())
    path.rename(free)
    message = f"{type(logger).__name__}: {path} {why}; it is {free.name} now"
    warn(message)


def _plain(hyper_params: Mapping[str, Any]) -> dict[str, Any]:
    values = flatten_dict(hyper_params)
    plain = {name: value.item() if getattr(value, "ndim", None) == 0 else value for name, value in values.items()}
    return {str(n): v if isinstance(v, (bool, int, float, str)) else str(v) for n, v in plain.items()}
