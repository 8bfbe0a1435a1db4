"""The run folder: its name, its place and its lock."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Any

from . import storage
from .checkpoint import SUFFIX, TO_DO, CheckpointStore, Entry
from .errors import ArgumentError, ArgumentTypeError, CheckpointError, a_kind
from .lock import FolderLock

#: Under it, in a run folder, lie the checkpoints.
CHECKPOINTS = "checkpoints"
#: A file of this name in a run folder ends the run.
STOP = "STOP"
_INSIDE = frozenset("._-=+,@ ")
_LONGEST = 120
#: Names that mean devices on some systems to which folders get copied.
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(10))})


def check_id(name: str, value: Any) -> str:
    """Return a run's id as a string that is safe as a folder's name.

    Letters and digits of any script, and ``._-=+,@`` and spaces within: nothing that could lead out of the folder in
    which runs lie, on any system.

    Args:
        name: what the argument is called.
        value: a string, or an int.

    Raises:
        ArgumentTypeError, ArgumentError: it is none; the message says which part of it is not allowed.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ArgumentTypeError(f"{name}={value!r}: a string is needed, not {a_kind(value)}")
    text = value if isinstance(value, str) else str(value) if abs(value) < 10**_LONGEST else ""
    wrong = sorted({c for c in text if not (c.isalnum() or c in _INSIDE)})
    reason = ""
    if not text or len(text) > _LONGEST or len(text.encode(errors="replace")) > 2 * _LONGEST:
        reason = f"1 to {_LONGEST} characters are needed"
    elif wrong:
        reason = f"{', '.join(map(repr, wrong))} cannot be in a run's name; use letters, digits and . _ - = + , @"
    elif not (text[0].isalnum() or text[0] == "_") or text[-1] in ". ":
        reason = "it has to begin with a letter or digit, and not to end with a dot or space"
    elif ".." in text:
        reason = "'..' cannot be in a run's name"
    elif text.partition(".")[0].strip().lower() in _DEVICES:
        reason = "it is the name of a device on some systems"
    if reason:
        raise ArgumentError(f"{name}={text[:200]!r}: {reason}")
    return text


def new_id() -> str:
    """A name for a new run that sorts by time, and that nothing reads as a number: ``run-20260131-235959-kxqvbz``."""
    letters = "".join(secrets.choice("bcdfghjklmnpqrstvwxz") for _ in range(6))
    return f"run-{time.strftime('%Y%m%d-%H%M%S')}-{letters}"


class RunFolder:
    """The folder of one run, held for writing by one process at a time.

    Args:
        root: the folder in which runs lie.
        name: the run's id; None makes a new one.
    """

    def __init__(self, root: Path, name: str | None) -> None:
        self.root = Path(os.path.abspath(root))  # it stays there when the process goes elsewhere
        self.named = name is not None
        self.name = new_id() if name is None else name
        self._lock: FolderLock | None = None
        #: Those that write to its checkpoints while it is open, each with rules of its own for what to keep.
        self.stores: list[CheckpointStore] = []
        #: The position of the run that was saved last, and by which of them.
        self.saved: tuple[Any, Any] = (None, None)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.root / self.name

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints lie."""
        return self.path / CHECKPOINTS

    def open(self) -> None:
        """Make the folder and take its lock.

        Raises:
            CheckpointError: it cannot be written to.
            RunLockedError: another process has it; the message says which.
        """
        storage.make_folder(self.root)
        while not self.named and self.path.exists():
            self.name = new_id()
        storage.make_folder(self.path)
        lock = FolderLock(self.path)
        lock.acquire()
        self._lock = lock

    def close(self) -> None:
        """Let others have it."""
        lock, self._lock, self.stores, self.saved = self._lock, None, [], (None, None)
        if lock is not None:
            lock.release()


def newest_run(root: Path) -> tuple[Path, Entry, Any] | None:
    """Find the run whose newest valid checkpoint was taken last: its folder, that checkpoint and its content.

    None where no run under `root` has checkpoints.

    Raises:
        CheckpointError: runs have checkpoints, but none is valid; the message lists them.
    """
    runs: list[tuple[float, Path]] = []
    wrong: list[str] = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        entries, bad = CheckpointStore(folder / CHECKPOINTS).survey()
        wrong += bad
        if entries:
            runs.append((max(entry.time for entry in entries), folder))
    for _, folder in sorted(runs, reverse=True):
        try:
            found = CheckpointStore(folder / CHECKPOINTS).newest_content()
        except CheckpointError as error:
            wrong.append(str(error))
            continue
        if found is not None:
            return folder, *found
    if wrong:
        raise CheckpointError(f"none of the checkpoints under {root} is valid: {'; '.join(wrong)}; {TO_DO}")
    return None


def find_path(value: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """Tell what a path means: the folder of checkpoints or the file, and the run folder it belongs to, if any.

    Raises:
        CheckpointError: nothing is there, or no checkpoint.
    """
    path = Path(value)
    if not path.exists() and not path.is_symlink():
        raise CheckpointError(f"resume={os.fspath(value)!r}: there is no such file or folder")
    if not path.is_dir():
        return path, path.parent.parent if path.parent.name == CHECKPOINTS else None
    if path.name == CHECKPOINTS:
        return path, path.parent
    if (path / CHECKPOINTS).is_dir():
        return path / CHECKPOINTS, path
    if any(path.glob(f"*{SUFFIX}")):
        return path, None
    raise CheckpointError(f"resume={os.fspath(value)!r}: the folder holds no checkpoints{legacy_hint(path)}")


def legacy_hint(folder: Path) -> str:
    """Point to a checkpoint of DeepEpochs in a folder, where there is one."""
    files = [path for path in sorted(folder.glob("*.ckpt")) if path.name.startswith("checkpoint")]
    return f"; trainer.load_checkpoint({str(files[0])!r}) reads the DeepEpochs file in it" if files else ""
