"""Loading in worker processes, where what is drawn for a batch depends on nothing but the batch.

A plain DataLoader seeds each worker once; which worker gets a batch, and what it loaded before, then decide what an
augmentation draws. Here every batch seeds the generators of the worker that loads it from (base seed, batch number), so
that its contents depend neither on the number of workers nor on where a run was cut off. The indices, their order and
what is drawn in the main process are the plain DataLoader's.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import GeneratorType
from typing import Any

import numpy as np
import torch
from torch._C import _remove_worker_pids
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..errors import LoaderError

#: Seconds between two looks at whether the workers live, while a batch is waited for; torch's own interval is 5.
STATUS_INTERVAL = 1.0
#: Seconds that workers have to end by themselves before they are killed; torch gives each of them 5, one by one.
GRACE = 1.0


class SeededOrder:
    """A batch sampler (or sampler) whose entries carry what their worker is to be seeded with.

    Args:
        order: the loader's own.
        first: the number of the first entry, behind those that were skipped.
    """

    def __init__(self, order: Iterable[Any], first: int = 0) -> None:
        self.order, self.first, self.seed = order, first, 0

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        for number, indices in enumerate(self.order, self.first):
            yield self.seed, number, indices

    def __len__(self) -> int:
        return len(self.order)  # type: ignore[arg-type]  # asked only where the loader's own order has a length


class SeededDataset(Dataset[Any]):
    """A dataset that seeds the generators before it fetches the entry of a `SeededOrder`; else the one it wraps."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, entry: tuple[int, int, list[Any]]) -> list[Any]:
        seed, number, indices = entry
        seed_all(seed, number)
        fetch = getattr(self.dataset, "__getitems__", None)
        try:
            return fetch(indices) if fetch else [self.dataset[index] for index in indices]
        except SystemExit as error:
            raise _exited(error) from error

    def __getitem__(self, entry: tuple[int, int, Any]) -> Any:
        seed, number, index = entry
        seed_all(seed, number)
        try:
            return self.dataset[index]
        except SystemExit as error:
            raise _exited(error) from error

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


def _exited(error: SystemExit) -> LoaderError:
    """What SystemExit becomes in a worker: it would end the worker, and leave nobody who says why."""
    return LoaderError(f"the dataset raised SystemExit({error.code!r}), as sys.exit() does, in a worker process")


class WorkerStart:
    """What a worker does first: it outlives the signals that are its parent's to act on; then the user's own init.

    Whoever asks for the worker's dataset is to find the loader's own, to look at it and to change it.

    A signal to the whole process group (Ctrl-C, a batch system, a service manager) reaches workers, too. Without them
    the batch in progress could not be finished, nor the run saved.

    Args:
        spared: the signals.
        own: the loader's `worker_init_fn`.
    """

    def __init__(self, spared: set[int], own: Any) -> None:
        self.spared, self.own = spared, own

    def __call__(self, worker_id: int) -> None:
        for number in self.spared:  # no SIG_IGN, which programs that the dataset starts would inherit
            signal.signal(number, _ignore)
        if self.spared:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.spared)
        info: Any = get_worker_info()
        if type(info.dataset) is SeededDataset:
            object.__setattr__(info, "dataset", info.dataset.dataset)  # it allows no plain assignment
        if self.own is not None:
            self.own(worker_id)


def _ignore(*signal_and_frame: Any) -> None:
    """Take no notice of a signal."""


def _spared() -> set[int]:
    """The signals that ask a run in this process to stop, which its workers are to outlive."""
    both = (signal.SIGINT, signal.SIGTERM)
    return {int(number) for number in both if getattr(signal.getsignal(number), "stops_a_run", False)}


@contextlib.contextmanager
def _blocked(spared: set[int], loader: Any) -> Iterator[None]:
    """Have workers begin with signals blocked, until they have handlers of their own; this process gets them after."""
    if not spared:
        yield
        return
    context = loader.multiprocessing_context or multiprocessing
    method = context.get_start_method()
    # These helpers are for everyone who starts processes here, so they are not to begin with anything blocked.
    if method == "forkserver":
        multiprocessing.forkserver.ensure_running()
    elif method == "spawn":
        multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, spared)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WatchfulIterator(_MultiProcessingDataLoaderIter):
    """Torch's iterator over worker processes, which is quicker to see that one has died, and says whose it was.

    Torch learns at once of a worker that was killed or that exits with an error; that one has left with exit code 0
    shows only when its status is looked at.
    """

    loader_name = ""

    def __init__(self, loader: Any) -> None:
        self._spared = _spared()
        with _blocked(self._spared, loader):
            super().__init__(loader)

    @property
    def _worker_init_fn(self) -> Any:
        """What torch has workers call first; it sets the loader's own."""
        needed = self._spared or type(self._dataset) is SeededDataset
        return WorkerStart(self._spared, self._own_init) if needed else self._own_init

    @_worker_init_fn.setter
    def _worker_init_fn(self, own: Any) -> None:
        self._own_init = own

    def _shutdown_workers(self) -> None:
        super()._shutdown_workers()
        if self._shutdown:  # it is left undone while Python exits
            _end_feeders([*self._index_queues, self._worker_result_queue])

    def _get_data(self) -> Any:  # in the place of torch's own, so that a batch takes no call more
        try:
            if self._timeout or self._pin_memory:
                data = super()._get_data()  # type: ignore[no-untyped-call]  # torch's own
            else:
                arrived = False
                while not arrived:
                    arrived, data = self._try_get_data(STATUS_INTERVAL)  # type: ignore[no-untyped-call]  # likewise
        except RuntimeError as error:
            name_failure(error, self.loader_name)
            raise
        except (OSError, EOFError) as error:  # what a batch looks like whose worker is gone before it was handed over
            failure = _ended(self._workers, error, self.loader_name)
            raise failure from (None if failure is error else error)
        if data[1].__class__ is ExceptionWrapper:
            data[1].where += f" of {self.loader_name}"
        return data


def iterate(loader: Any, name: str) -> Iterator[Any]:
    """The loader's own iterator; over worker processes one that names the loader when they fail.

    Args:
        loader: any iterable.
        name: how messages call it.
    """
    if not (is_plain(loader) and loader.num_workers) or loader._iterator is not None:
        iterator: Iterator[Any] = iter(loader)
        return iterator
    watchful = WatchfulIterator(loader)
    watchful.loader_name = name
    if loader.persistent_workers:
        loader._iterator = watchful
    return watchful


def _ended(workers: list[Any], error: Exception, name: str) -> Exception:
    """What to raise for an error in taking a batch from a worker: the worker's end, where that is what it means."""
    try:
        sentinels = multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=GRACE)
        for worker in workers:
            if worker.sentinel in sentinels:  # its files are closed, but it may still be about to end
                worker.join(GRACE)
    except RuntimeError as told:  # torch was told of its death meanwhile
        name_failure(told, name)
        return told
    ended = [f"pid {worker.pid} with exit code {worker.exitcode}" for worker in workers if not worker.is_alive()]
    return RuntimeError(f"{name}: DataLoader worker exited unexpectedly ({', '.join(ended)})") if ended else error


def name_failure(error: RuntimeError, name: str) -> None:
    """Put the loader's name before an error that torch raises of its workers, where it is not there yet."""
    if str(error).startswith("DataLoader "):
        error.args = (f"{name}: {error}",)


def shut_down(iterator: Any, name: str) -> None:
    """End an iterator's worker processes now, whoever still refers to it: a traceback that is kept, say.

    Args:
        iterator: any iterator; one without workers is left as it is.
        name: how messages call its loader. The error a run ends with, where it tells of one of these workers, gets it.
    """
    shutdown, workers = getattr(iterator, "_shutdown_workers", None), getattr(iterator, "_workers", ())
    if shutdown is None:
        return
    error = sys.exc_info()[1]
    # Torch raises such an error wherever the main process happens to be when a worker dies.
    if isinstance(error, RuntimeError) and any(f"(pid {worker.pid})" in str(error) for worker in workers):
        name_failure(error, name)
    _expect_their_end(iterator)
    # Workers inherit the handlers of a run that can be interrupted: a SIGTERM, which torch sends, does not end them.
    killer = threading.Timer(GRACE, _kill, (iterator,))
    killer.daemon = True
    killer.start()
    try:
        shutdown()
    finally:
        killer.cancel()
        killer.join()  # see `_end_feeders`
        for worker in _kill(iterator):
            worker.join(GRACE)


def _expect_their_end(iterator: Any) -> None:
    """Have torch no longer raise an error, wherever the main process happens to be, when a worker of these dies."""
    for _ in range(2):  # one may die just now
        with contextlib.suppress(RuntimeError):
            if getattr(iterator, "_worker_pids_set", False):
                iterator._worker_pids_set = False
                _remove_worker_pids(id(iterator))


def _end_feeders(queues: list[Any]) -> None:
    """Wait until the threads have ended that wrote to the workers' queues, which are closed.

    Torch lets them be. Where the process exits meanwhile, and such a thread happens to be the one that collects garbage
    with tensors in it, the process is aborted ("terminate called without an active exception") and its exit code lost.
    """
    until = time.monotonic() + GRACE
    feeders = [(queue._thread, queue._reader) for queue in queues if getattr(queue, "_thread", None) is not None]
    for feeder, reader in feeders:
        feeder.join(GRACE / 10)
        if feeder.is_alive():  # it writes to a full pipe that no worker reads any more
            _drain(feeder, reader, until)


def _drain(feeder: threading.Thread, reader: Any, until: float) -> None:
    """Read what a thread writes to a pipe until it has ended."""
    with contextlib.suppress(OSError):  # it closes the pipe when it ends
        pipe = os.dup(reader.fileno())
        try:
            os.set_blocking(pipe, False)
            while feeder.is_alive() and time.monotonic() < until:
                with contextlib.suppress(BlockingIOError):
                    os.read(pipe, 1 << 20)
                feeder.join(0.001)
        finally:
            os.close(pipe)


def _kill(iterator: Any) -> list[Any]:
    """Kill the workers that live, and return them."""
    alive = [worker for worker in iterator._workers if worker.is_alive()]
    for worker in alive:
        worker.kill()
    return alive


def close(iterator: Any, loader: Any, name: str) -> None:
    """Let go of a pass of a loader and of the workers that were started for it, those that persist included."""
    if isinstance(loader, DataLoader) and isinstance(iterator, GeneratorType):
        iterator.close()  # what an __iter__ of the loader's own holds on to
    # Workers that persist in an iterator of somebody else's are wanted again.
    if isinstance(iterator, WatchfulIterator) or not getattr(iterator, "_persistent_workers", iterator is loader):
        shut_down(iterator, name)
    kept = getattr(loader, "_iterator", None)
    if isinstance(kept, WatchfulIterator):  # persists between passes; the next one is to start workers anew
        loader._iterator = None
        shut_down(kept, name)


def seed_all(seed: int, number: int) -> None:
    """Seed this process's generators from a pair of numbers (NumPy's SeedSequence mixes them)."""
    words = np.random.SeedSequence((seed, number)).generate_state(8, np.uint32)
    random.seed(words[:4].tobytes())
    np.random.seed(words[:4])
    torch.manual_seed(int(words[4]) | int(words[5]) << 32)


def seedable(loader: Any) -> bool:
    """Tell whether a loader is a plain DataLoader that loads samples by index in worker processes."""
    return is_plain(loader) and loader.num_workers > 0 and not isinstance(loader.dataset, IterableDataset)


def is_plain(loader: Any) -> bool:
    """Tell whether a loader is iterated as torch's DataLoader is, so that another in its likeness does the same."""
    return isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__


def base_seed(loader: DataLoader[Any]) -> int:
    """The seed that the loader is about to draw for its workers, without drawing it."""
    generator = torch.Generator()
    generator.set_state((torch.default_generator if loader.generator is None else loader.generator).get_state())
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def order_of(loader: DataLoader[Any]) -> Any:
    """The batch sampler of a loader, or its sampler where it does not batch."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def settings_of(loader: DataLoader[Any]) -> list[Any]:
    """What makes a loader's likeness what it is and can be set between two passes; to be compared by identity."""
    names = ("num_workers", "collate_fn", "worker_init_fn", "prefetch_factor", "pin_memory", "timeout", "in_order")
    found = [getattr(loader, name, None) for name in (*names, "multiprocessing_context", "generator")]
    return [*found, loader.dataset, order_of(loader)]


def in_likeness(loader: DataLoader[Any], order: Any, dataset: Any = None, first: bool = True) -> DataLoader[Any]:
    """A DataLoader like `loader`, in another order or over another dataset.

    Persistent workers are seeded with a number that is drawn in the first pass only; where this is not the first, it
    comes from a generator that nobody else has.
    """
    options: dict[str, Any] = {"batch_sampler": order}
    if loader.batch_sampler is None:
        options = {"sampler": order, "batch_size": None}
    if not getattr(loader, "in_order", True):
        options["in_order"] = False
    if loader.num_workers:
        options["prefetch_factor"] = loader.prefetch_factor
        options["multiprocessing_context"] = loader.multiprocessing_context
        options["persistent_workers"] = loader.persistent_workers
    return DataLoader(
        loader.dataset if dataset is None else dataset,
        **options,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator if first or not loader.persistent_workers else torch.Generator(),
    )
