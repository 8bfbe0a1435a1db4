"""In which order a save calls the system, and what a store never lets pass: the ground that a power cut stands on."""

from __future__ import annotations

import errno
import io
import math
import os
import sys
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepepochs_like import CheckpointStore, storage
from deepepochs_like.errors import CheckpointError, RunLockedError, StorageError

FOLDER = "store"
WRITING = os.O_WRONLY | os.O_RDWR


class Recorder:
    """Stands in for the module `os`: passes everything on, and writes down what changes the disk, by names of files.

    Args:
        fails: the call, such as ``("fsync", "a.ckpt.partial")``, that the disk refuses.
    """

    def __init__(self, fails: tuple[str, str] | None = None) -> None:
        self.fails, self.calls, self.flushed = fails, list[tuple[str, str]](), dict[str, int]()
        self._names: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _note(self, call: str, path: Any) -> None:
        name = self._names[path] if isinstance(path, int) else Path(path).name
        self.calls.append((call, name))
        if self.fails == (call, name):
            raise OSError(errno.EIO, "Input/output error")

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & WRITING:
            self._note("open", path)
        handle = os.open(path, flags, mode)
        self._names[handle] = Path(path).name
        return handle

    def write(self, file: int, data: Any) -> int:
        self._note("write", file)
        return os.write(file, data)

    def fsync(self, file: int) -> None:
        self._note("fsync", file)
        self.flushed[self._names[file]] = os.fstat(file).st_size
        os.fsync(file)

    def rename(self, source: Any, target: Any) -> None:
        self._note("rename", target)
        os.rename(source, target)

    replace = rename

    def unlink(self, path: Any) -> None:
        self._note("unlink", path)
        os.unlink(path)

    remove = unlink

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        self._note("mkdir", path)
        os.mkdir(path, mode)

    @property
    def order(self) -> list[tuple[str, str]]:
        """The calls; of several in a row that are alike, one."""
        return [call for call, _ in groupby(self.calls)]


def record(monkeypatch: pytest.MonkeyPatch, fails: tuple[str, str] | None = None) -> Recorder:
    recorder = Recorder(fails)
    monkeypatch.setattr(storage, "os", recorder)
    return recorder


def name(step: int, ending: str = "") -> str:
    return f"step-{step:012d}.ckpt{ending}"


def content(step: int) -> dict[str, Any]:
    return {"weights": torch.full((1000,), float(step))}


def filled(folder: Path, *steps: int, **options: Any) -> CheckpointStore:
    store = CheckpointStore(folder / FOLDER, **options)
    for step in steps:
        store.save(content(step), step)
    return store


def listed(store: CheckpointStore) -> list[str]:
    return sorted(path.name for path in store.folder.glob("*.ckpt*"))


# ------------------------------------------------------------------------------------------------- the order of calls


def test_a_save_flushes_the_file_renames_it_flushes_the_folder_and_only_then_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, 1, 2)
    recorder = record(monkeypatch)
    store.save(content(3), 3)
    assert recorder.order == [
        ("open", name(3, ".partial")),
        ("write", name(3, ".partial")),
        ("fsync", name(3, ".partial")),
        ("rename", name(3)),
        ("fsync", FOLDER),
        ("unlink", name(1)),
        ("fsync", FOLDER),
    ]


def test_what_is_flushed_is_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    recorder = record(monkeypatch)
    entry = store.save({"weights": torch.rand(600_000)}, 1)  # more than one write
    assert recorder.calls.count(("write", name(1, ".partial"))) > 2
    assert recorder.flushed[name(1, ".partial")] == entry.size == entry.path.stat().st_size


def test_no_checkpoint_is_opened_for_writing_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = record(monkeypatch)
    store = filled(tmp_path, 1, 2, 3)
    store.save(content(3), 3)  # takes the place of the one before
    opened = {what for call, what in recorder.calls if call == "open"}
    assert opened == {name(step, ".partial") for step in (1, 2, 3)}


def test_the_names_of_new_folders_are_flushed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = record(monkeypatch)
    filled(tmp_path / "run", 1)
    made = [("mkdir", "run"), ("fsync", tmp_path.name), ("mkdir", FOLDER), ("fsync", "run")]
    assert recorder.order[: len(made)] == made
    assert recorder.order[len(made)] == ("open", name(1, ".partial"))


@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_where_the_disk_refuses_nothing_is_renamed_and_nothing_is_deleted(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, 1, 2)
    before = {path.name: path.read_bytes() for path in store.folder.glob("*.ckpt")}
    recorder = record(monkeypatch, fails=(call, name(2, ".partial")))
    with pytest.raises(CheckpointError, match="Input/output error"):
        store.save(content(9), 2)
    assert {path.name: path.read_bytes() for path in store.folder.glob("*") if path.name != ".lock"} == before
    assert all(call != "rename" for call, _ in recorder.calls)
    assert {what for call, what in recorder.calls if call == "unlink"} <= {name(2, ".partial")}


def test_where_the_folder_cannot_be_flushed_nothing_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, 1, 2)
    recorder = record(monkeypatch, fails=("fsync", FOLDER))
    with pytest.raises(CheckpointError, match="Input/output error"):
        store.save(content(3), 3)
    assert recorder.calls[-1] == ("fsync", FOLDER)
    assert listed(store) == [name(1), name(2), name(3)]


# ------------------------------------------------------------------------------------------- what is kept, and chosen


def test_the_one_before_is_always_kept(tmp_path: Path) -> None:
    store = filled(tmp_path)
    for step in range(1, 6):
        store.save(content(step), step)
        assert listed(store) == [name(kept) for kept in (step - 1, step) if kept]


def test_the_newest_goes_by_step_and_not_by_the_time_of_its_file(tmp_path: Path) -> None:
    store = filled(tmp_path, 1, 2, 3, keep_last=3)
    for entry in store.entries():
        os.utime(entry.path, (1e9 - entry.step, 1e9 - entry.step))
    newest = store.newest()
    assert newest is not None
    assert newest.step == 3
    assert [entry.step for entry in store.entries()] == [3, 2, 1]
    store.save(content(4), 4)
    assert listed(store) == [name(2), name(3), name(4)]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_is_never_the_best(place: int, mode: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / FOLDER, keep_last=3, keep_best=1, monitor="loss", mode=mode)
    values = [5.0, 5.0]
    values.insert(place, math.nan)
    for step, value in enumerate(values):
        store.save(content(step), step, figures={"loss": value})
    best = store.best()
    assert best is not None
    assert best.figures == {"loss": 5.0}


def test_nan_takes_the_place_of_no_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / FOLDER, keep_best=1, monitor="loss")
    for step, value in enumerate([0.5, *[math.nan] * 4]):
        store.save(content(step), step, figures={"loss": value})
    assert listed(store) == [name(0), name(3), name(4)]


# ----------------------------------------------------------------------------------------------------- what is refused


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    with pytest.raises(RunLockedError, match=f"process {os.getpid()}"):
        filled(tmp_path, 2)
    assert listed(store) == [name(1)]
    store.close()
    filled(tmp_path, 2)
    assert listed(store) == [name(1), name(2)]


def archive(data: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def test_an_archive_exchanged_for_another_is_told_by_the_hash(tmp_path: Path) -> None:
    mine, other = archive(content(1)), archive(content(2))
    assert len(mine) == len(other)
    path = tmp_path / "a.ckpt"
    storage.write_bytes(path, mine, storage.seal_of(mine, {}))
    assert storage.read_sealed(path)[0]["weights"][0] == 1
    storage.write_bytes(path, other, storage.seal_of(mine, {}))  # each part of it is in order by itself
    with pytest.raises(StorageError, match="SHA-256"):
        storage.read_sealed(path)


RAN: list[str] = []


def ran() -> str:
    RAN.append("here")
    return "content"


class Harmless:
    """Unpickling it calls a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ran, ()


def test_what_loading_would_have_to_run_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(ran=ran))  # where unpickling looks for it
    data, path = archive({"weights": Harmless()}), tmp_path / "a.ckpt"
    assert torch.load(io.BytesIO(data), weights_only=False) == {"weights": "content"}
    RAN.clear()
    storage.write_bytes(path, data, storage.seal_of(data, {}))
    with pytest.raises(StorageError, match="loading that could run code"):
        storage.read_sealed(path)
    assert RAN == []
