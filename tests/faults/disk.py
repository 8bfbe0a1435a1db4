"""Let the disk refuse, and let errors and signals come at every line: what is left is the old state or the new one."""

# ruff: noqa: PT017 - scripts, which have no pytest.raises

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from deepepochs_like import checkpoint, lock, storage
from deepepochs_like.checkpoint import CheckpointStore, load_into
from deepepochs_like.errors import CheckpointError, EngineWarning

MIB = 1 << 20
CALLS = ("open", "write", "fsync", "rename", "unlink", "mkdir", "close")
CODES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}


class FailingOs:
    """`os` whose n-th call of a kind fails, or that takes only so many bytes, or only some at a time."""

    def __init__(self, call: str = "", number: int = 0, code: int = 0, room: int | None = None, short: int = 0) -> None:
        self.call, self.number, self.code, self.room, self.short = call, number, code, room, short
        self.landed = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name == "write":
            return self._write
        return self._counted(name, real) if name in CALLS else real

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if name == self.call:
                self.number -= 1
                if self.number == 0:
                    self.landed += 1
                    if name == "close":
                        real(*arguments)  # the file is closed all the same
                    raise OSError(self.code, os.strerror(self.code))
            return real(*arguments, **named)

        return call

    def _write(self, handle: int, data: Any) -> int:
        if self.short:
            self.landed += 1
            data = data[: self.short]
        if self.room is not None:
            data = data[: self.room]
            self.room -= len(data)
            if not data:
                self.landed += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._counted("write", os.write)(handle, data))


@contextlib.contextmanager
def in_place_of_os(proxy: Any) -> Iterator[None]:
    real, storage.os = storage.os, proxy
    try:
        yield
    finally:
        storage.os = real


def content(step: int, size: int = 100) -> dict[str, Any]:
    return {"weights": torch.full((size,), float(step))}


def steps(store: CheckpointStore) -> list[int]:
    """Steps of the checkpoints that are there, each verified; nothing else may be there."""
    entries, wrong = store.survey()
    assert not wrong, wrong
    for entry in entries:
        assert float(entry.read()["weights"][0]) == entry.step, entry
    return sorted(entry.step for entry in entries)


def after(store: CheckpointStore, size: int, allowed: list[list[int]], what: str) -> None:
    """See that nothing but the old state or the new one is there, and that the store goes on."""
    found = steps(store)
    assert found in allowed, f"{what}: {found}"
    store.save(content(9, size), 9)
    assert steps(store)[-1] == 9, what
    newest = store.newest()
    assert newest is not None, what
    assert newest.step == 9, what
    left = sorted(os.listdir(store.folder))
    assert len(left) == 3, f"{what}: {left}"  # two checkpoints and the lock
    store.close()


#: What may be there after a third save that failed: not all old ones need be gone when the new one is there.
OLD_OR_NEW = [[1, 2], [1, 2, 3], [2, 3]]


def third_save(folder: Path, proxy: Any, size: int, what: str) -> bool:
    """Make a third save under a proxy; return whether it said that it failed."""
    shutil.rmtree(folder, ignore_errors=True)
    store = CheckpointStore(folder)
    for step in (1, 2):
        store.save(content(step, size), step)
    failed = False
    try:
        with in_place_of_os(proxy):
            store.save(content(3, size), 3)
    except CheckpointError:
        failed = True
    # One that cannot be read for a moment is not deleted: nobody can tell whether it should be.
    unread = isinstance(proxy, FailingOs) and proxy.landed and proxy.call in ("open", "close")
    after(store, size, OLD_OR_NEW if failed else [[2, 3], [1, 2, 3]] if unread else [[2, 3]], what)
    return failed


def full_disk(folder: Path) -> int:
    """A save of 12 MiB on a disk with room for less, by each MiB."""
    for room in range(13):
        proxy = FailingOs(room=room * MIB)
        assert third_save(folder, proxy, 12 * MIB // 4, f"room for {room} MiB") == (room < 13)
        assert proxy.landed == 1
    return 13


def failing_calls(folder: Path, full: bool) -> Counter[str]:
    """Each call of each kind fails once, with each error, until one is not reached any more."""
    landed: Counter[str] = Counter()
    for call in CALLS:
        for name, code in CODES.items() if full else list(CODES.items())[:2]:
            for number in range(1, 100):
                proxy = FailingOs(call, number, code)
                # In a new folder or an old one: the first save makes folders, the third deletes.
                work = first_save if call == "mkdir" else third_save
                failed = work(folder, proxy, 100, f"{call} {number} fails with {name}")
                if not proxy.landed:
                    break
                landed[f"{call}: {name}"] += 1
                assert failed or call in ("open", "close"), f"{call} {number} failed with {name}, and nobody said so"
    for call in CALLS:
        assert landed[f"{call}: ENOSPC"], f"{call} never failed: {landed}"
    return landed


def first_save(folder: Path, proxy: Any, size: int, what: str) -> bool:
    """Make the first save, which makes the folders, under a proxy; return whether it failed."""
    shutil.rmtree(folder, ignore_errors=True)
    store = CheckpointStore(folder / "run" / "checkpoints")
    failed = False
    try:
        with in_place_of_os(proxy):
            store.save(content(1, size), 1)
    except CheckpointError:
        failed = True
    assert steps(store) in ([[], [1]] if failed else [[1]]), what
    store.save(content(8, size), 8)
    after(store, size, [[8], [1, 8]], what)
    return failed


def short_writes(folder: Path) -> int:
    """A disk that takes few bytes at a time."""
    for short in (1, 7, 1000):
        proxy = FailingOs(short=short)
        assert not third_save(folder, proxy, 100, f"{short} bytes at a time")
        assert proxy.landed
    return 3


def really_full(folder: Path) -> str | None:
    """A file system of 3 MiB, mounted for this; None where that is not permitted."""
    folder.mkdir(exist_ok=True)
    if not _mount("tmpfs", folder, "tmpfs", 0, "size=3m"):
        return None
    try:
        store = CheckpointStore(folder / "run")
        for step in (1, 2):
            store.save(content(step, MIB // 4), step)
        _must_fail(lambda: store.save(content(3, 2 * MIB // 4), 3), "No space left")
        found = steps(store)
        assert found == [1, 2], found
        store.keep_last = 2
        (folder / "run" / "step-000000000001.ckpt").unlink()  # somebody makes room
        store.save(content(4, MIB // 4), 4)
        assert steps(store) == [2, 4]
        store.close()
    finally:
        _unmount(folder)
    return "a tmpfs of 3 MiB"


def limited_size(folder: Path) -> int:
    """Files may not become larger than so much: the kernel itself cuts the write short and then refuses."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    shutil.rmtree(folder, ignore_errors=True)
    store = CheckpointStore(folder)
    for step in (1, 2):
        store.save(content(step), step)
    try:
        for limit in (0, 4096, MIB, 2 * MIB + 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            _must_fail(lambda: store.save(content(3, MIB), 3), "too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    after(store, 100, [[1, 2]], "limited size of files")
    return 4


def read_only(folder: Path) -> str:
    """A folder that became read-only, for real where mounting is permitted."""
    shutil.rmtree(folder, ignore_errors=True)
    store = CheckpointStore(folder)
    for step in (1, 2):
        store.save(content(step), step)
    how = "calls that fail with EROFS"
    if _mount(str(folder), folder, "", _BIND) and _mount(str(folder), folder, "", _BIND | _REMOUNT | _READ_ONLY):
        how = "a read-only mount"
        try:
            _must_fail(lambda: store.save(content(3), 3), "ead-only")
            other = CheckpointStore(folder)
            _must_fail(lambda: other.save(content(3), 3), "cannot be used")
            newest = other.newest()
            assert newest is not None
            assert newest.step == 2
        finally:
            _unmount(folder)
            store.close()
    else:
        with in_place_of_os(FailingOs("open", 1, errno.EROFS)):
            _must_fail(lambda: store.save(content(3), 3), "ead-only")
    after(store, 100, [[1, 2]], "read-only")
    return how


def vanished(folder: Path) -> int:
    """A folder that is removed between two saves is made and locked anew, with a warning of what is lost."""
    for what, remove in {"folder": shutil.rmtree, "content": _empty}.items():
        shutil.rmtree(folder, ignore_errors=True)
        store = CheckpointStore(folder)
        store.save(content(1), 1)
        remove(folder)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            store.save(content(2), 2)
        assert any(w.category is EngineWarning and str(folder) in str(w.message) for w in said), what
        assert steps(store) == [2], what
        _must_fail(lambda: CheckpointStore(folder).open(), "in use by")
        store.save(content(3), 3)
        after(store, 100, [[2, 3]], f"{what} vanished")
    return 2


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _must_fail(function: Callable[[], Any], words: str) -> None:
    try:
        function()
    except CheckpointError as error:
        assert words in str(error), error
        return
    raise AssertionError(f"this should have failed with {words!r}")


_READ_ONLY, _REMOUNT, _BIND = 1, 32, 4096
_LIBC = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> bool:
    arguments = [text.encode() for text in (source, str(target), kind)]
    return bool(_LIBC.mount(*arguments, ctypes.c_ulong(flags), options.encode()) == 0)


def _unmount(folder: Path) -> None:
    assert _LIBC.umount2(str(folder).encode(), 2) == 0, os.strerror(ctypes.get_errno())


class Interrupter:
    """Raise at the n-th line that runs in the modules that write and read."""

    FILES = frozenset({storage.__file__, checkpoint.__file__, lock.__file__})

    def __init__(self, number: int, error: type[BaseException]) -> None:
        self.number, self.error, self.where = number, error, ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self.FILES or frame.f_code.co_name in ("__del__", "_forget_all"):
            return None  # Python only prints what is raised in __del__
        if event == "line":
            self.number -= 1
            if self.number == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                sys.settrace(None)
                raise self.error("at this line")
        return self

    def during(self, function: Callable[[], Any]) -> bool:
        """Call a function; return whether it was interrupted. The error is gone when this returns."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            function()
        except BaseException as error:
            if not self.where:
                raise
            # It may leave as one of ours that was made of it, or be replaced where a file is passed over.
            del error
        finally:
            sys.settrace(before)
        return bool(self.where)


class Scene:
    """A store with two checkpoints and a model that is loaded into."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.store = CheckpointStore(folder, keep_last=2)
        for step in (1, 2):
            self.store.save(content(step), step)
        self.things = {"first": torch.nn.Linear(2, 2), "second": torch.nn.Linear(2, 2)}
        self.old = self.states()
        self.given = {name: {k: v + 1 for k, v in thing.state_dict().items()} for name, thing in self.things.items()}

    def states(self) -> list[torch.Tensor]:
        return [v.clone() for thing in self.things.values() for v in thing.state_dict().values()]

    def save(self) -> None:
        self.store.save(content(3), 3)

    def save_anew(self) -> None:
        self.store.close()
        self.store.save(content(3), 3)

    def load(self) -> None:
        self.store.newest_content()
        load_into(self.things, self.given, "given")

    def prune(self) -> None:
        self.store.keep_last = 3
        entry = self.store.save(content(3), 3)
        self.store.keep_last = 2
        self.store.prune(entry)

    def check(self, what: str) -> None:
        states = self.states()
        new = [v for given in self.given.values() for v in given.values()]
        assert any(all(map(torch.equal, states, want)) for want in (self.old, new)), f"{what}: half loaded"
        folder, self.store.keep_last = self.store.folder, 2
        self.store.close()
        CheckpointStore(folder).open()  # the lock is free, and is so again as this store goes
        after(self.store, 100, OLD_OR_NEW, what)


def interrupted(folder: Path, full: bool) -> Counter[str]:
    """An interrupt and an error at every line of a save, a load and a prune, one at a time."""
    landed: Counter[str] = Counter()
    lines: set[str] = set()
    for action in ("save", "save_anew", "load", "prune"):
        for error in (KeyboardInterrupt, RuntimeError):
            number = 0 if full or error is KeyboardInterrupt else 1
            while True:
                number += 1 if full else 3  # a selection still meets most lines, since they run more than once
                scene = Scene(folder)
                interrupter = Interrupter(number, error)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    landing = interrupter.during(getattr(scene, action))
                if not landing:
                    scene.store.close()
                    break
                scene.check(f"{action}, {error.__name__} at {interrupter.where}")
                landed[f"{error.__name__} in {action}"] += 1
                lines.add(interrupter.where)
    assert {line.partition(":")[0] for line in lines} == {"storage.py", "checkpoint.py", "lock.py"}, lines
    landed["lines"] = len(lines)
    return landed


def run(full: bool) -> dict[str, Any]:
    """All of it; not `full`, fewer error codes and every third line."""
    landed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoints"
        landed["full disk"] = full_disk(folder)
        landed.update(failing_calls(folder, full))
        landed["short writes"] = short_writes(folder)
        landed["size limit"] = limited_size(folder)
        real = really_full(Path(name) / "small")
        landed["really full"] = int(real is not None)
        how = read_only(folder)
        landed["read-only"] = 1
        landed["vanished"] = vanished(folder)
        landed.update(interrupted(folder, full))
    lines = landed.pop("lines")
    injected = sum(landed.values())
    detail = f"old or new state only; {lines} lines interrupted; full: {real or 'no mount permitted'}; read-only: {how}"
    return {"injected": injected, "landed": dict(landed), "survived": injected, "detail": detail}


if __name__ == "__main__":
    print(run("--quick" not in sys.argv))
