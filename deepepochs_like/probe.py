"""Training that is only tried out: a trainer is run, and afterwards nothing has changed."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from .callbacks.base import Callback
from .data.workers import in_likeness, is_plain, order_of, shut_down
from .errors import ArgumentError, ArgumentTypeError, a_kind
from .events import detach_removed
from .history import History
from .progress import Progress
from .rng import rng_state, set_rng_state
from .signals import SIGNALS
from .snapshot import Snapshot
from .task import EpochTask

#: What of a trainer is put aside as it is: nothing within a probe touches it.
_ASIDE = ("pending", "resuming", "run_folder", "aside")


class Silence(Callback):
    """Stands for the callbacks that stay out: what steps log or write goes nowhere, and nobody misses a checkpoint."""

    keeps_checkpoints = True  # else a run that is interrupted warns that nothing was saved

    def log_figures(self, trainer: Any, figures: Mapping[str, Any], step: int) -> None:
        """Drop what a step logs."""

    @property
    def writer(self) -> Nowhere:
        """What takes the place of TensorBoard's writer."""
        return Nowhere()


class Nowhere:
    """Takes any call, and does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


@contextmanager
def untouched(trainer: Any, *loaders: Any, callbacks: Collection[Any] | None = None) -> Iterator[None]:
    """Run a trainer as you like, and leave no trace: afterwards everything is what it was, byte for byte.

    That is: models, losses, optimizers, schedulers, gradients, flags and modes; history, progress and all other
    attributes of the trainer, its tasks and those callbacks that take part; the loaders with their samplers, and
    datasets up to the data itself; and all generators, the global ones and those that any of these hold. No run folder
    is made, nothing is shown. So it is behind an error and behind Ctrl-C. What is outside of this process, such as a
    file that a step writes, is not put back.

    Within it the trainer is one that has not begun: there are no gradients, no open epoch and no history. Of its
    callbacks those take part without which training is not the same (`Callback.part_of_training`).

    Args:
        trainer: the trainer. It needs memory for another copy of what it trains, in the computer, not on the device.
        *loaders: loaders, datasets or tasks that are used within.
        callbacks: who takes part instead.

    Raises:
        ArgumentError: the trainer is within a run, beyond its on_before_fit; or a loader can be read only once.

    Example:
        >>> from deepepochs_like import Trainer
        >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> trainer, before = Trainer(net, torch.nn.functional.mse_loss, verbose=0), net.weight.clone()
        >>> with untouched(trainer, data):
        ...     len(trainer.fit(data, epochs=3)['train']['loss'])
        3
        >>> bool((net.weight == before).all()), len(trainer.history)
        (True, 0)
    """
    _check(trainer, loaders)
    detach_removed(trainer)
    part = taking_part(trainer) if callbacks is None else list(callbacks)
    snapshot = Snapshot(
        [*(c for c in trainer.callbacks if not _among(c, part)), *(getattr(trainer, n) for n in _ASIDE)]
    )
    for loader in loaders:
        snapshot.take(loader, data=not isinstance(loader, (DataLoader, EpochTask)))
    snapshot.take(trainer)
    generators, aside = rng_state(), trainer.aside
    looked_at = aside is not None and not aside.changed()
    persistent = [(loader, vars(loader)["_iterator"]) for loader in _data_loaders(trainer, loaders)]
    try:
        for loader, _ in persistent:  # workers that are running stay as they are: others are started
            loader._iterator = None
        _begin(trainer, part)
        yield
    finally:
        with _undisturbed():
            for loader, own in persistent:
                if loader._iterator is not own:
                    shut_down(loader._iterator, "a loader")
            snapshot.put_back()
            set_rng_state(generators)
            if looked_at:
                aside.look()


def taking_part(trainer: Any) -> list[Any]:
    """The callbacks without which training is not the same."""
    return [
        c for c in trainer.callbacks if getattr(c, "part_of_training", False) and not getattr(c, "keeps_files", False)
    ]


def _among(one: Any, others: Collection[Any]) -> bool:
    return any(one is other for other in others)


def _check(trainer: Any, loaders: Sequence[Any]) -> None:
    if trainer.running and (trainer.running != "fit" or trainer.current_task is not None or trainer.progress.stage):
        raise ArgumentError(
            f"within {trainer.running} nothing can be tried out without a trace: do it before fit, or in on_before_fit"
        )
    for loader in loaders:
        data = loader.dataloader if isinstance(loader, EpochTask) else loader
        if isinstance(data, Iterator):
            raise ArgumentError(
                f"{data!r}: {a_kind(data)} can be read only once, so that what is tried out here would be "
                "missing later; pass something that can be iterated again (a DataLoader, a list)"
            )


def _data_loaders(trainer: Any, loaders: Sequence[Any]) -> list[DataLoader[Any]]:
    """All DataLoaders that may be iterated, each once."""
    tasks = [task for tasks in trainer.stage_tasks.values() for task in tasks]
    found = [getattr(one, "dataloader", one) for one in (*loaders, *tasks)]
    return list({id(one): one for one in found if isinstance(one, DataLoader) and "_iterator" in vars(one)}.values())


def _begin(trainer: Any, part: Sequence[Any]) -> None:
    """Make of a trainer one that has not begun, and that nobody hears of."""
    progress = trainer.progress
    trainer.callbacks, trainer.attached = [*part, Silence()], []  # those left out are not taken out
    trainer.progress = Progress(epoch=progress.epochs_done, step=progress.step, began=progress.step)
    trainer.history, trainer.train_metrics, trainer.val_metrics = History(), {}, {}
    trainer.pending = trainer.resuming = trainer.run_folder = None
    trainer.resume, trainer.resumed, trainer.passed = False, True, False
    trainer.running, trainer.verbose, trainer.stopping, trainer.stop_reason = "", 0, False, ""
    trainer.answered = trainer.current_task = None
    if trainer.execution.window is not None:
        trainer.execution.window.reset()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until everything has been put back."""
    came: list[tuple[int, Any]] = []
    former: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if callable(signal.getsignal(number)):
                former[number] = signal.signal(number, lambda *heard: came.append(heard))
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        for heard in came[:1]:
            former[signal.Signals(heard[0])](*heard)


def rest(trainer: Any) -> None:
    """Let the schedulers rest, within a probe: the learning rates are set by others."""
    for optimizer in trainer.opt:
        optimizer.scheduler = None


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Give a parameter group a learning rate, also where that is a tensor."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def train(trainer: Any, request: dict[str, Any], updates: int, **options: Any) -> None:
    """Train for so many updates, within a probe: one epoch, in which the loader is gone through as often as it takes.

    Args:
        trainer: the trainer.
        request: see `as_request`.
        updates: of the weights.
        **options: others of `Trainer.fit`.

    Raises:
        KeyboardInterrupt: it was interrupted, in a session that goes on.
    """
    # Rounds are counted from the run's first update: one that reaches up to the last has no border before it.
    trainer.fit(**request, max_steps=updates, val_every_steps=trainer.progress.step + updates, **options)
    raise_interruption(trainer)


def raise_interruption(trainer: Any) -> None:
    """Raise KeyboardInterrupt where a signal has ended the run, in a session that goes on."""
    if trainer.stop_reason in {number.name for number in SIGNALS}:
        raise KeyboardInterrupt(trainer.stop_reason)


def as_request(stage: str, given: Any, metrics: bool = True) -> dict[str, Any]:
    """What `fit` takes for a loader or a task: of a task a copy, so that the one that was given stays as it is."""
    if not isinstance(given, EpochTask):
        return {f"{stage}_dl": given}
    task = copy(given)
    if not metrics:
        task.metrics = None
    return {f"{stage}_tasks": task}


def data_of(given: Any) -> Any:
    """The loader of a task, or the loader itself."""
    return given.dataloader if isinstance(given, EpochTask) else given


def on_data(given: Any, data: Any) -> Any:
    """The same on other data: a task like the one given, or the data itself."""
    if not isinstance(given, EpochTask):
        return data
    task = copy(given)
    task.dataloader = data
    return task


def first_batches(loader: Any, count: int) -> Any:
    """A loader of another's first batches, made in the same way: by the same dataset, collate_fn and workers."""
    if isinstance(loader, (str, bytes)) or not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise ArgumentTypeError(f"{loader!r}: {a_kind(loader)} cannot be iterated; a loader is needed")
    order = order_of(loader) if isinstance(loader, DataLoader) else None
    if order is not None and is_plain(loader) and not isinstance(loader.dataset, IterableDataset):
        return in_likeness(loader, First(order, count))
    return First(loader, count)


class First:
    """The first items of something that can be iterated.

    Args:
        items: where they come from.
        count: how many.

    Example:
        >>> list(First([1, 2, 3], 2))
        [1, 2]
    """

    def __init__(self, items: Any, count: int) -> None:
        self.items, self.count = items, count

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.items)
        try:
            yield from itertools.islice(iterator, self.count)
        finally:
            shut_down(iterator, "a loader")

    def __len__(self) -> int:
        return min(self.count, len(self.items))
