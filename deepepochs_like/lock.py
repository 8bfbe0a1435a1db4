"""An exclusive lock on a folder, which the kernel releases when its process dies."""

from __future__ import annotations

import fcntl
import io
import json
import os
import socket
import time
import weakref
from datetime import datetime, timezone
from pathlib import Path

from .errors import CheckpointError, RunLockedError

NAME = ".lock"
#: How long to wait for the holder to have written its name.
_PATIENCE = 0.5


class FolderLock:
    """Exclude everyone else who takes the lock of the same folder.

    It is the kernel's (`flock` on a file that stays there), so no lock is left behind by a process that was killed. A
    process that is forked off, such as a DataLoader's worker, does not hold it on.
    """

    #: A file object, since closing it twice harms nobody else's file: an interrupt can come between any two lines.
    _file: io.FileIO | None = None
    _held = False

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def acquire(self) -> None:
        """Take the lock, at once or not at all; one that is held on a file that is gone is taken anew.

        Raises:
            RunLockedError: somebody holds it; the message says who.
            CheckpointError: the folder cannot be written to.
        """
        if self.is_held():
            return
        self.release()
        try:
            while not self.is_held():  # as long as somebody takes the file away between its opening and its locking
                self._take()
        except BlockingIOError:
            file = self._file
            holder = "another process" if file is None else _holder(file.fileno())
            self.release()
            raise RunLockedError(
                f"{self.path.parent} is in use by {holder}; two cannot write to it: wait for it to end, or write to "
                "another folder (that of another running_id, for a Trainer's run)"
            ) from None
        except OSError as error:
            self.release()
            raise CheckpointError(f"{self.path.parent} cannot be locked: {error.strerror or error}") from error
        except BaseException:
            self.release()
            raise

    def _take(self) -> None:
        # Known before it is locked: whatever interrupts this, `release` closes it.
        self._file = io.FileIO(self.path, "r+", opener=_open)
        _HELD.add(self)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._held = True
        own = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        os.ftruncate(self._file.fileno(), 0)
        os.pwrite(self._file.fileno(), json.dumps(own).encode(), 0)

    def is_held(self) -> bool:
        """Tell whether this process holds the lock of the folder that is there now, not of one that was removed."""
        if not self._held or self._file is None or self._file.closed:
            return False
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except OSError:
            return False

    def release(self) -> None:
        """Give the lock back; without one this does nothing."""
        if self._file is not None and not self._file.closed:
            try:
                if self._held:
                    os.ftruncate(self._file.fileno(), 0)  # or the next holder could be taken for this one
                    # Not left to closing: a child that was forked off just now may not have closed it yet.
                    fcntl.flock(self._file, fcntl.LOCK_UN)
            except OSError:
                pass  # it is a courtesy: the disk may be gone
            finally:
                self._file.close()
        self._held = False

    def forget(self) -> None:
        """Close the file, in a child that inherited it: its parent holds the lock."""
        if self._file is not None:
            self._file.close()
        self._held = False

    def __del__(self) -> None:
        self.release()


_HELD: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_HELD):
        lock.forget()


# Of a file that a child inherits the kernel keeps the lock until the child has closed it, too.
os.register_at_fork(after_in_child=_forget_all)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _holder(file: int) -> str:
    """Describe who holds a lock, as it wrote itself down; a holder that was quick to be asked is waited for."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            about = json.loads(os.pread(file, 4096, 0))
            here = about["host"] == socket.gethostname()
            who = f"process {about['pid']}{' (this one)' if here and about['pid'] == os.getpid() else ''}"
            if not here or _alive(about["pid"]) or time.monotonic() > until:
                return f"{who} on {about['host']}, since {about['since']}"
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            if time.monotonic() > until:
                return "another process"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
