"""Workers that fail: the error names the loader, and no process is left, whoever keeps the traceback."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from deepepochs_like.data import BatchSource
from deepepochs_like.errors import LoaderError


def fail(how: str) -> None:
    if how == "raise":
        raise ValueError("a bad sample")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit 0":
        os._exit(0)
    if how == "exit 1":
        os._exit(1)
    if how == "sys.exit":
        sys.exit(3)
    time.sleep(60)


class Failing(Dataset[int]):
    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> int:
        if index == 20:
            fail(self.how)
        return index


class FailingStream(IterableDataset[int]):
    def __init__(self, how: str) -> None:
        self.how = how

    def __iter__(self) -> Any:
        yield from range(8)
        fail(self.how)


FAULTS = {
    "raise": (ValueError, "Caught ValueError in DataLoader worker process . of val_dl.*a bad sample"),
    "kill": (RuntimeError, "val_dl: DataLoader worker .*"),
    "exit 0": (RuntimeError, "val_dl: DataLoader worker .*exited unexpectedly"),
    "exit 1": (RuntimeError, "val_dl: DataLoader worker .*"),
    "sys.exit": (LoaderError, r"of val_dl.*raised SystemExit\(3\)"),
    "hang": (RuntimeError, "val_dl: DataLoader timed out after 2 seconds"),
}


def read_until_it_fails(loader: Any) -> tuple[BaseException, float]:
    source = BatchSource(loader, "val_dl")
    began = time.monotonic()
    try:
        try:
            for _ in source.stream():
                source.position += 1
        finally:
            source.release()
    except Exception as error:
        return error, time.monotonic() - began  # with its traceback, which refers to the iterator
    raise AssertionError("nothing failed")


# Torch raises of a killed worker wherever the main process is, be it in a weak reference's callback, which Python only
# prints; the run is told all the same.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("how", FAULTS)
def test_a_failing_worker_is_told_and_nothing_is_left(how: str, persistent: bool) -> None:
    timeout = 2 if how == "hang" else 0
    dataset = Failing(how)
    loader = DataLoader(dataset, 4, num_workers=2, timeout=timeout, persistent_workers=persistent)
    error, seconds = read_until_it_fails(loader)
    assert isinstance(error, FAULTS[how][0])

    assert re.search(FAULTS[how][1], str(error), re.DOTALL), str(error)
    assert seconds < 5
    assert not multiprocessing.active_children()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
@pytest.mark.slow
@pytest.mark.parametrize("how", ["raise", "exit 0", "sys.exit"])
def test_so_is_one_of_an_iterable_dataset(how: str) -> None:
    loader = DataLoader(FailingStream(how), 4, num_workers=2, persistent_workers=True)
    error, seconds = read_until_it_fails(loader)
    assert "val_dl" in str(error)
    assert seconds < 5
    assert not multiprocessing.active_children()
    assert loader._iterator is None


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("iterable", [False, True])
def test_release_ends_the_workers_and_another_run_starts_others(iterable: bool, persistent: bool) -> None:
    data: Any = Stream() if iterable else TensorDataset(torch.arange(8))
    loader = DataLoader(data, 2, num_workers=1, persistent_workers=persistent)
    source = BatchSource(loader, "train_dl")
    for _ in range(2):
        stream = source.stream()
        next(stream)
        source.release()  # while `stream` still refers to the iterator
        assert not multiprocessing.active_children()
    for _ in range(2):
        for _ in source.stream():
            source.position += 1
        assert source.position == 4
        source.finish()
    source.release()
    assert not multiprocessing.active_children()


class Sleepy(Dataset[int]):
    def __len__(self) -> int:
        return 200_000

    def __getitem__(self, index: int) -> int:
        time.sleep(60)
        return index


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 50_000])  # the lists of indices of the second do not fit into a pipe
def test_no_thread_is_left_that_could_abort_the_process_while_it_exits(size: int) -> None:
    before = set(threading.enumerate())
    source = BatchSource(DataLoader(Sleepy(), size, num_workers=1, prefetch_factor=4), "train_dl")
    iterator: Any = source.stream()
    assert [queue._thread.is_alive() for queue in iterator._index_queues] == [True]
    source.release()
    assert set(threading.enumerate()) == before
    assert not multiprocessing.active_children()


def test_nor_by_a_pass_that_has_ended() -> None:
    before = set(threading.enumerate())
    source = BatchSource(DataLoader(Stream(), 2, num_workers=2), "train_dl")
    for _ in source.stream():
        source.position += 1
    assert set(threading.enumerate()) == before


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(8))


class Wrapped:
    """Somebody's loader around a DataLoader whose workers persist."""

    def __init__(self) -> None:
        self.loader = DataLoader(TensorDataset(torch.arange(8)), 2, num_workers=1, persistent_workers=True)

    def __iter__(self) -> Any:
        return iter(self.loader)


class Own(DataLoader[Any]):
    """A loader with an __iter__ of its own, which keeps torch's iterator in its frame."""

    def __iter__(self) -> Any:
        yield from super().__iter__()


def test_workers_that_persist_in_somebody_elses_loader_are_left_to_it() -> None:
    loader = Wrapped()
    source = BatchSource(loader, "train_dl")
    next(source.stream())
    source.release()
    assert len(multiprocessing.active_children()) == 1
    assert len(list(source.stream())) == 4
    loader.loader._iterator._shutdown_workers()  # type: ignore[union-attr]


def test_a_loader_with_an_iter_of_its_own_is_closed() -> None:
    source = BatchSource(Own(TensorDataset(torch.arange(8)), 2, num_workers=1), "train_dl")
    stream = source.stream()
    next(stream)
    source.release()
    assert not multiprocessing.active_children()
    assert not list(stream)
