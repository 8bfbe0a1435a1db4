"""The lock on a folder: who holds it, and when it is free again."""

from __future__ import annotations

import os
import re
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from deepepochs_like.errors import CheckpointError, RunLockedError
from deepepochs_like.lock import FolderLock
from deepepochs_like.run import RunFolder, check_id, new_id


def fork(function: Callable[[], None]) -> int:
    """Run a function in a child and return its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch may have threads: the child uses none of them
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function()
        code = 0
    finally:
        os._exit(code)


def test_a_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(RunLockedError, match=rf"in use by process {os.getpid()} \(this one\) on "):
        second.acquire()
    first.release()
    second.acquire()
    assert (first.is_held(), second.is_held()) == (False, True)
    second.release()
    second.release()


def test_a_child_does_not_hold_it_on(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    read, write = os.pipe()

    def wait() -> None:
        assert not lock.is_held()
        os.close(write)
        os.read(read, 1)

    child = fork(wait)
    assert lock.is_held()
    lock.release()
    FolderLock(tmp_path).acquire()  # although the child is still there
    os.close(write)
    os.close(read)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_it_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    read, write = os.pipe()

    def hold() -> None:
        FolderLock(tmp_path).acquire()  # gone at once
        lock = FolderLock(tmp_path)
        lock.acquire()
        os.write(write, b"!")
        signal.pause()

    child = fork(hold)
    os.read(read, 1)
    mine = FolderLock(tmp_path)
    with pytest.raises(RunLockedError, match=f"process {child} on"):
        mine.acquire()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    mine.acquire()
    assert mine.is_held()
    mine.release()
    os.close(read)
    os.close(write)


def test_it_is_free_when_the_last_reference_goes(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    del lock
    FolderLock(tmp_path).acquire()


def test_a_lock_on_a_file_that_was_removed_is_not_held(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.path.unlink()
    assert not lock.is_held()
    lock.acquire()
    assert lock.is_held()
    lock.release()


@pytest.mark.parametrize("text", ["", "[1]", "[" * 4000, '{"pid": 1e99, "host": "h"}', '{"pid": "x"}'])
def test_a_holder_that_wrote_nonsense_is_another_process(tmp_path: Path, text: str) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.path.write_text(text)
    with pytest.raises(RunLockedError, match="in use by another process"):
        FolderLock(tmp_path).acquire()
    lock.release()


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be locked"):
        FolderLock(tmp_path / "nowhere").acquire()


@pytest.mark.parametrize("name", ["a", "run 1", "2024-05-01", "实验", "größe", "a.b_c=1,d+e@f", "x" * 120, 7])
def test_names_of_runs_that_are_fine(name: str | int) -> None:
    assert check_id("running_id", name) == str(name)


def test_new_names_are_fine_and_differ() -> None:
    names = [new_id() for _ in range(50)]
    assert len(set(names)) == 50
    assert all(check_id("running_id", name) == name for name in names)
    assert all(re.fullmatch(r"run-\d{8}-\d{6}-[a-z]{6}", name) for name in names)


def test_a_run_that_is_open_is_not_opened_twice(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path, "a"), RunFolder(tmp_path, "a")
    first.open()
    with pytest.raises(RunLockedError):
        second.open()
    first.close()
    second.open()
    second.close()
