"""Cut the power at every moment of some saves, in every way that a disk may have been left in.

A file system promises only what was flushed: bytes of a file that was not may be missing, cut short or zeros, and names
in a folder that was not may be the old or the new ones, each by itself. All such states are made for real and opened.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from deepepochs_like import storage
from deepepochs_like.checkpoint import SUFFIX, CheckpointStore

Operation = tuple[Any, ...]
Tree = tuple[tuple[str, bytes | None], ...]


class RecordingOs:
    """`os`, remembering what was asked of it; `forgetful` leaves out flushing, to see whether that is noticed."""

    def __init__(self, root: Path, forgetful: str = "") -> None:
        self.root, self.forgetful = root, forgetful
        self.log: list[Operation] = []
        self.names: dict[str, int] = {}
        self.handles: dict[int, str] = {}
        self.count = itertools.count()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _name(self, path: Any) -> str:
        return os.path.relpath(path, self.root)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        handle = os.open(path, flags, mode)
        name = self._name(path)
        self.handles[handle] = name
        if flags & os.O_CREAT and name not in self.names:
            self.names[name] = next(self.count)
            self.log.append(("link", name, self.names[name]))
        elif flags & os.O_TRUNC:
            self.log.append(("truncate", self.names[name]))
        return handle

    def close(self, handle: int) -> None:
        self.handles.pop(handle, None)
        os.close(handle)

    def write(self, handle: int, data: Any) -> int:
        written = os.write(handle, data)
        self.log.append(("write", self.names[self.handles[handle]], bytes(data[:written])))
        return written

    def fsync(self, handle: int) -> None:
        name = self.handles[handle]
        kind = "flush folder" if (self.root / name).is_dir() else "flush"
        if kind != self.forgetful:
            self.log.append((kind, name if kind == "flush folder" else self.names[name]))

    def rename(self, old: Any, new: Any) -> None:
        os.rename(old, new)
        inode = self.names.pop(self._name(old))
        self.names[self._name(new)] = inode
        self.log.append(("rename", self._name(old), self._name(new), inode))

    def unlink(self, path: Any) -> None:
        os.unlink(path)
        self.names.pop(self._name(path), None)
        self.log.append(("unlink", self._name(path)))

    def mkdir(self, path: Any) -> None:
        os.mkdir(path)
        self.log.append(("mkdir", self._name(path)))


def record(forgetful: str = "") -> list[Operation]:
    """Four saves of which the last deletes the first, then a prune of one more: what was asked of the disk."""
    with tempfile.TemporaryDirectory() as name:
        recorder = RecordingOs(Path(name), forgetful)
        real, storage.os = storage.os, recorder  # type: ignore[assignment]
        try:
            store = CheckpointStore(Path(name) / "run" / "checkpoints", keep_last=3)
            for step in (1, 2, 3, 4):
                entry = store.save({"weights": torch.full((20,), float(step))}, step, pinned=False)
                recorder.log.append(("acknowledged", step))
            store.keep_last = 2
            store.prune(entry)
            recorder.log.append(("acknowledged", 4))
            store.close()
        finally:
            storage.os = real
    return recorder.log


def cuts(log: list[Operation], lengths: int) -> Iterator[tuple[Tree, int, set[str]]]:
    """Every state that a cut could leave, the last step acknowledged before it, and what is unusual about the state.

    Args:
        log: what was asked of the disk.
        lengths: how many lengths of a file that is not flushed to try.
    """
    safe: dict[int, bytes] = {}
    live: dict[int, bytes] = {}
    done: dict[str, int | None] = {}
    pending: list[Operation] = []
    acknowledged = 0
    for operation in [("start",), *log]:
        kind, *rest = operation
        if kind == "acknowledged":
            acknowledged = rest[0]
        elif kind == "truncate":
            live[rest[0]] = b""
        elif kind == "write":
            live[rest[0]] = live.get(rest[0], b"") + rest[1]
        elif kind == "flush":
            safe[rest[0]] = live.get(rest[0], b"")
        elif kind == "flush folder":
            inside = [op for op in pending if os.path.dirname(op[1]) == ("" if rest[0] == "." else rest[0])]
            for op in inside:
                _apply(done, op)
            pending = [op for op in pending if op not in inside]
        elif kind != "start":
            pending.append(operation)
        yield from _states(done, pending, safe, live, acknowledged, lengths)


def _apply(names: dict[str, int | None], operation: Operation) -> None:
    kind, name, *rest = operation
    if kind == "mkdir":
        names[name] = None
    elif kind == "link":
        names[name] = rest[0]
    elif kind == "unlink":
        names.pop(name, None)
    elif kind == "rename":
        names.pop(name, None)
        names[rest[0]] = rest[1]


def _states(
    done: dict[str, int | None],
    pending: list[Operation],
    safe: dict[int, bytes],
    live: dict[int, bytes],
    acknowledged: int,
    lengths: int,
) -> Iterator[tuple[Tree, int, set[str]]]:
    for chosen in itertools.product((False, True), repeat=len(pending)):
        names = dict(done)
        for operation, happened in zip(pending, chosen, strict=True):
            if happened:
                _apply(names, operation)
        unusual = {f"{op[0]} lost" for op, happened in zip(pending, chosen, strict=True) if not happened}
        # A name in a folder that is not there cannot be reached.
        names = {n: i for n, i in names.items() if all(str(p) in names for p in list(Path(n).parents)[:-1])}
        loose = sorted({i for i in names.values() if i is not None and safe.get(i) != live.get(i, b"")})
        contents = [list(_contents(safe.get(i), live.get(i, b""), lengths)) for i in loose]
        for picked in itertools.product(*contents):
            data = {i: safe.get(i, b"") for i in names.values() if i is not None}
            data.update({i: content for i, (content, _) in zip(loose, picked, strict=True)})
            tree = tuple(sorted((n, None if i is None else data[i]) for n, i in names.items()))
            yield tree, acknowledged, unusual | {what for _, what in picked}


def _contents(safe: bytes | None, live: bytes, lengths: int) -> Iterator[tuple[bytes, str]]:
    yield b"", "empty"
    yield bytes(len(live)), "zeros"
    yield live, "whole"
    if safe is not None:
        yield safe, "the bytes before"
    some = {round(len(live) * k / lengths) for k in range(1, lengths)} | {1, len(live) - 1}
    for length in sorted(some & set(range(1, len(live)))):
        yield live[:length], "cut short"
        yield live[:length] + bytes(len(live) - length), "cut short, then zeros"


def check(tree: Tree, acknowledged: int, root: Path) -> None:
    """Make a state, and see that nothing acknowledged is lost and that the store goes on."""
    for name, data in tree:
        if data is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(data)
    store = CheckpointStore(root / "run" / "checkpoints", keep_last=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        newest = store.newest()
        assert (0 if newest is None else newest.step) >= acknowledged, f"{acknowledged} was acknowledged: {newest}"
        if acknowledged:
            last = store.folder / f"step-{acknowledged:012d}{SUFFIX}"
            weights = storage.read_sealed(last)[0]["weights"]
            assert torch.equal(weights, torch.full((20,), float(acknowledged))), last
        store.save({"weights": torch.zeros(20)}, 5)
        found = store.newest()
    store.close()
    assert found is not None
    assert found.step == 5
    assert not [name for name in os.listdir(store.folder) if name.endswith(storage.PARTIAL)], "left lying about"


def replay(log: list[Operation], lengths: int) -> tuple[Counter[str], int]:
    """Check every state, each once; return what was unusual about them, and their number."""
    seen: set[tuple[Tree, int]] = set()
    landed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        for tree, acknowledged, unusual in cuts(log, lengths):
            landed.update(unusual)
            if (tree, acknowledged) in seen:
                continue
            seen.add((tree, acknowledged))
            root = Path(name) / "state"
            root.mkdir()
            try:
                check(tree, acknowledged, root)
            except Exception as error:
                state = {n: None if d is None else f"{len(d)} bytes" for n, d in tree}
                raise AssertionError(f"after {acknowledged}, with {unusual}: {error}\n{state}") from error
            shutil.rmtree(root)
    return landed, len(seen)


#: What a careless version would forget; if that goes unnoticed, the replay proves nothing.
CARELESS = ("flush", "flush folder")


def careless_is_noticed() -> None:
    for forgetful in CARELESS:
        try:
            replay(record(forgetful), 2)
        except AssertionError:
            continue
        raise AssertionError(f"nothing is lost without {forgetful!r}: the replay does not see what it should")


CHILD = """
import sys, torch
from deepepochs_like.checkpoint import CheckpointStore
store = CheckpointStore(sys.argv[1])
for step in (1, 2, 3):
    store.save({"a": torch.ones(3)}, step)
"""
CALLS = "openat,write,fsync,rename,renameat,renameat2,unlink,unlinkat,close"


def system_calls(folder: Path) -> str:
    """See in the real system calls of a process that each save is flushed before the next thing relies on it."""
    strace = shutil.which("strace")
    if strace is None:
        return "system calls not looked at: no strace"
    trace = folder / "trace"
    command = [strace, "-f", "-y", "-s", "0", "-o", str(trace), "-e", f"trace={CALLS}"]
    checkpoints = folder / "checkpoints"
    done = subprocess.run([*command, sys.executable, "-c", CHILD, str(checkpoints)], capture_output=True, text=True)
    if done.returncode and re.search("ptrace|PTRACE|attach", done.stderr):
        return f"system calls not looked at: {done.stderr.strip().splitlines()[0]}"
    assert done.returncode == 0, done.stderr
    steps = [step for line in trace.read_text().splitlines() if (step := _call(line, checkpoints))]
    deduplicated = [step for step, before in zip(steps, [None, *steps], strict=False) if step != before]
    expected = []
    for step in (1, 2, 3):
        names = ["write NEW.partial", "flush NEW.partial", "rename NEW.partial NEW", "flush folder"]
        expected += [name.replace("NEW", f"step-{step:012d}.ckpt") for name in names]
    expected += [f"unlink step-{1:012d}.ckpt", "flush folder"]
    assert deduplicated == expected, "\n".join(deduplicated)
    return f"{len(steps)} real system calls in order: write, flush, rename, flush folder, and only then unlink"


def _call(line: str, folder: Path) -> str | None:
    if str(folder) not in line:
        return None
    inside = [Path(found).name for found in re.findall(rf"{re.escape(str(folder))}/(step[^>\"]+)", line)]
    if re.search(r"\bwrite\(", line) and inside:
        return f"write {inside[0]}"
    if "fsync(" in line:
        return f"flush {inside[0]}" if inside else f"flush folder{_elsewhere(line, folder)}"
    if "rename" in line:
        return f"rename {' '.join(inside)}"
    return f"unlink {inside[0]}" if "unlink" in line else None


def _elsewhere(line: str, folder: Path) -> str:
    return "" if f"{folder}>" in line else " elsewhere"


def run(full: bool) -> dict[str, Any]:
    """Replay the cuts; `full` with many more lengths of files that were not flushed."""
    landed, states = replay(record(), 4000 if full else 8)  # more than a file has bytes: each length
    for name in ("empty", "zeros", "cut short", "link lost", "rename lost", "unlink lost", "mkdir lost"):
        assert landed[name], f"{name!r} never happened: {landed}"
    careless_is_noticed()
    with tempfile.TemporaryDirectory() as folder:
        calls = system_calls(Path(folder))
    detail = f"{states} states after a cut, each followed by a load and a save; {calls}"
    return {"injected": states, "landed": dict(landed), "survived": states, "detail": detail}


if __name__ == "__main__":
    print(run("--quick" not in sys.argv))
