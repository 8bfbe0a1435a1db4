"""`BatchSizeFinder`: how many samples fit into memory at once, found by short trainings that leave no trace."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.utils.data import DataLoader, IterableDataset

from ..checks import check_count
from ..data.workers import is_plain
from ..errors import ArgumentError, ArgumentTypeError, a_kind, add_note, refuse_unknown
from ..probe import as_request, data_of, on_data, rest, train, untouched
from .base import Callback
from .finder import Finder
from .on_oom import is_out_of_memory


@dataclass(frozen=True)
class BatchSizeTrial:
    """One batch size that was tried.

    Attributes:
        batch_size: samples per batch.
        fits: whether there was memory enough.
        seconds: for one update, at best; 0 where it does not fit.
        peak: the most bytes that tensors took on the device meanwhile; None where the device does not tell.

    Example:
        >>> BatchSizeTrial(64, True, 0.02).fits
        True
    """

    batch_size: int
    fits: bool
    seconds: float = 0.0
    peak: int | None = None


@dataclass(frozen=True)
class BatchSizeFinding:
    """What was found out about batch sizes; printed it is a table of what was tried.

    Attributes:
        suggestion: the largest batch size that fits; None where not even one sample does.
        tried: all that were tried, in the order in which they were.
        stopped: why no larger one was tried.

    Example:
        >>> print(BatchSizeFinding(4, [BatchSizeTrial(4, True, 0.01), BatchSizeTrial(8, False)], "8 do not fit"))
        samples  ms/update  samples/s
              4      10.00        400
              8  out of memory
        suggested batch size 4; 8 do not fit
    """

    suggestion: int | None
    tried: list[BatchSizeTrial]
    stopped: str = ""

    def __str__(self) -> str:
        lines = ["samples  ms/update  samples/s"]
        if any(trial.peak is not None for trial in self.tried):
            lines[0] += "  peak MiB"
        for trial in self.tried:
            line = f"{trial.batch_size:7}  out of memory"
            if trial.fits:
                rate = trial.batch_size / trial.seconds if trial.seconds else 0.0
                line = f"{trial.batch_size:7}  {1e3 * trial.seconds:9.2f}  {rate:9.0f}"
                line += "" if trial.peak is None else f"  {trial.peak / 2**20:8.0f}"
            lines.append(line)
        found = "no batch size fits" if self.suggestion is None else f"suggested batch size {self.suggestion}"
        return "\n".join([*lines, f"{found}; {self.stopped}" if self.stopped else found])


class Endless:
    """Batches of a size, as many as are asked for: the samples in their order, again from the first behind the last.

    Args:
        length: samples there are.
        size: samples per batch.

    Example:
        >>> batches = iter(Endless(5, 3)); next(batches), next(batches)
        ([0, 1, 2], [3, 4, 0])
    """

    def __init__(self, length: int, size: int) -> None:
        self.length, self.size = length, size

    def __iter__(self) -> Iterator[list[int]]:
        first = 0
        while True:
            yield [(first + index) % self.length for index in range(self.size)]
            first = (first + self.size) % self.length


class Again(IterableDataset[Any]):
    """The samples of a stream, again from the first behind the last.

    Args:
        stream: an iterable dataset.

    Example:
        >>> stream = iter(Again([1, 2])); [next(stream) for _ in range(5)]
        [1, 2, 1, 2, 1]
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[Any]:
        there_are = True
        while there_are:
            there_are = False
            for sample in self.stream:
                there_are = True
                yield sample


class Search:
    """Try batch sizes on a trainer, within a probe.

    Args:
        trainer: the trainer.
        given: a dataset, a DataLoader, or a task over one.
        steps: updates per trial.
        step: as in `Trainer.fit`.
    """

    def __init__(self, trainer: Any, given: Any, steps: int, step: Any) -> None:
        self.trainer, self.given, self.steps, self.step = trainer, given, steps, step
        data = data_of(given)
        self.dataset: Any = data.dataset if isinstance(data, DataLoader) else data
        self.collate = data.collate_fn if isinstance(data, DataLoader) else None
        self.tried: list[BatchSizeTrial] = []

    def loader(self, size: int) -> DataLoader[Any]:
        """Batches of a size, made here: worker processes are of no account to the device."""
        if isinstance(self.dataset, IterableDataset):
            return DataLoader(Again(self.dataset), size, drop_last=True, collate_fn=self.collate)
        return DataLoader(self.dataset, batch_sampler=Endless(len(self.dataset), size), collate_fn=self.collate)

    def fits(self, size: int) -> bool:
        """Train for a few updates with batches of a size."""
        cuda, seconds = self.trainer.device.type == "cuda", None
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.trainer.device)
        try:
            seconds = self._train(size)
        except Exception as error:
            if not is_out_of_memory(error):
                add_note(error, f"in find_batch_size, with {size} of the dataset's samples in a batch")
                raise
            error.__traceback__ = None  # its frames hold what fills the memory
        finally:
            _forget(self.trainer, seconds is None)
        if seconds is None:
            self.tried.append(BatchSizeTrial(size, False))
            return False
        peak = torch.cuda.max_memory_allocated(self.trainer.device) if cuda else None
        self.tried.append(BatchSizeTrial(size, True, seconds, peak))
        return True

    def _train(self, size: int) -> float:
        clock = Clock()
        self.trainer.callbacks.append(clock)
        try:
            request = as_request("train", on_data(self.given, self.loader(size)))
            train(self.trainer, request, self.steps, step=self.step)
        finally:
            self.trainer.callbacks.remove(clock)
        return clock.best

    def largest(self, start: int, most: int) -> tuple[int | None, str]:
        """Double until it does not fit, then halve the gap until it is closed; return the largest that fits."""
        size = min(start, most)
        while not self.fits(size):
            if size == 1:
                return None, "one sample does not fit"
            size //= 2
        good, bad = size, min((trial.batch_size for trial in self.tried if not trial.fits), default=None)
        while bad is None:
            if good == most:
                return good, f"more than {most} were not asked for"
            size = min(2 * good, most)
            if self.fits(size):
                good = size
            else:
                bad = size
        while bad - good > 1:
            size = (good + bad) // 2
            if self.fits(size):
                good = size
            else:
                bad = size
        return good, f"{bad} do not fit"


class Clock(Callback):
    """The shortest time between the ends of two batches, the device waited for."""

    part_of_training = True

    def __init__(self) -> None:
        super().__init__()
        self.best, self._last = 0.0, 0.0

    def on_before_train_epoch(self, trainer: Any, task: Any) -> None:
        self._last = time.perf_counter()

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        now = time.perf_counter()
        self.best, self._last = min(self.best or now - self._last, now - self._last), now


def _forget(trainer: Any, failed: bool) -> None:
    """Free the memory that only a trial needed."""
    trainer.answered = trainer.current_task = None
    trainer.stage_tasks = {}
    trainer.opt.zero_grad()
    if failed or trainer.device.type != "cpu":  # what goes round in circles is freed by this alone
        gc.collect(1 if trainer.device.type == "cpu" else 2)
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()


def search(
    trainer: Any, given: Any, *, start: int = 2, most: int | None = None, steps: int = 3, step: Any = None
) -> BatchSizeFinding:
    """Look for the largest batch size without a trace; see `Trainer.find_batch_size`."""
    check_count("start", start)
    check_count("steps", steps)
    found = Search(trainer, given, steps, step)
    dataset = found.dataset
    data = data_of(given)
    if isinstance(data, DataLoader) and (
        not is_plain(data) or (data.batch_size is None and data.batch_sampler is None)
    ):
        kind = f"{a_kind(data)}" if not is_plain(data) else "batch_size=None"
        raise ArgumentTypeError(
            f"{kind} makes batches in its own way, so that their size cannot be set; pass a dataset"
        )
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not indexed and not isinstance(dataset, IterableDataset):
        raise ArgumentTypeError(
            f"dataset={dataset!r}: a dataset or a DataLoader is needed, to make batches of any size"
        )
    length = None if isinstance(dataset, IterableDataset) else len(dataset)
    if length == 0:
        raise ArgumentError("the dataset is empty")
    if length is None and most is None:
        raise ArgumentError(f"{type(dataset).__name__} does not tell its length: pass most=, the largest size to try")
    limit = check_count("most", most) if most is not None else int(length or 1)
    with untouched(trainer, given, data, dataset):
        rest(trainer)
        trainer.check_finite = False
        largest, why = found.largest(start, limit)
    return BatchSizeFinding(largest, found.tried, why)


class BatchSizeFinder(Finder):
    """Find out, when a run begins, how large its batches could be, and show it; the run keeps the batches it has.

    It does what ``trainer.find_batch_size`` does, with the first training task of the run, and leaves no trace. A run
    that goes on from a state is left as it is.

    Args:
        start: the first size that is tried.
        most: the largest; by default the number of samples there are.
        steps: updates of the weights per size.
        priority: its place among the callbacks.

    Attributes:
        finding: the `BatchSizeFinding`, when a run has begun.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> from deepepochs_like import BatchSizeFinder, Trainer
        >>> data = torch.utils.data.TensorDataset(torch.rand(16, 2), torch.rand(16, 1))
        >>> finder, net = BatchSizeFinder(most=8), torch.nn.Linear(2, 1)
        >>> trainer = Trainer(net, torch.nn.functional.mse_loss, epochs=1, verbose=0, callbacks=[finder])
        >>> _ = trainer.fit(torch.utils.data.DataLoader(data, 4))
        >>> finder.finding.suggestion
        8
    """

    finding: BatchSizeFinding | None

    def __init__(
        self, start: int = 2, most: int | None = None, steps: int = 3, *, priority: float = 1, **unknown: NoReturn
    ) -> None:
        refuse_unknown("BatchSizeFinder", unknown, BatchSizeFinder.__init__)
        super().__init__(priority)
        check_count("start", start)
        check_count("steps", steps)
        if most is not None:
            check_count("most", most)
        self.start, self.most, self.steps = start, most, steps

    def find(self, trainer: Any) -> BatchSizeFinding:
        task = trainer.stage_tasks["train"][0]
        if not isinstance(task.dataloader, DataLoader):
            raise ArgumentTypeError(
                f"BatchSizeFinder: train_dl is {a_kind(task.dataloader)}; it has to be a DataLoader, for "
                "batches of other sizes to be made"
            )
        return search(trainer, task, start=self.start, most=self.most, steps=self.steps)
