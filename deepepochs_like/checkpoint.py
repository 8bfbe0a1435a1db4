"""`CheckpointStore`: a folder of checkpoints, around any training loop."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from . import storage
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    StateError,
    StorageError,
    a_kind,
    chain,
    did_you_mean,
    refuse_unknown,
)
from .lock import FolderLock
from .types import StateDict, Stateful
from .utils.warn import warn

SUFFIX = ".ckpt"
_KIND = "deepepochs_like checkpoint"
#: What to do where no checkpoint is valid.
TO_DO = "put a good copy of one there, or move the folder away (or take another running_id) to begin anew"


@dataclass(frozen=True)
class Entry:
    """One checkpoint, as its seal describes it.

    Attributes:
        path: the file.
        step: updates of the weights when it was taken.
        epoch: epochs completed by then; None where it was not said.
        figures: numbers by name, e.g. ``{'val/loss': 0.31}``.
        pinned: whether it stays for ever.
        size: bytes.
        time: when it was taken, in seconds since 1970.
    """

    path: Path
    step: int
    epoch: int | None = None
    figures: dict[str, float] = field(default_factory=dict)
    pinned: bool = False
    size: int = 0
    time: float = 0.0

    def read(self) -> Any:
        """Verify the file and return its content.

        Raises:
            StorageError: a byte is not as it was written; nothing was loaded.
        """
        return storage.read_sealed(self.path)[0]

    def load_into(self, things: Mapping[str, Any]) -> Entry:
        """Verify the file and load it into things by name: all of them, or none.

        Raises:
            StorageError: the file is damaged.
            StateError: a name is missing in it, or a state does not fit; everything is as it was.
        """
        load_into(things, self.read(), str(self.path))
        return self


class CheckpointStore:
    """Keep the states of anything that has `state_dict` and `load_state_dict` in a folder.

    A save that has returned survives a kill at any moment and a power cut. Old checkpoints are deleted only after the
    new one is on the disk. Files that are damaged are named and passed over. While it is in use for writing, no other
    process can write to the folder.

    Args:
        folder: where; it is made with the first save.
        keep_last: how many of the newest to keep, at least 2: with one, the moment in which the only valid file is the
            one being replaced could lose everything.
        keep_best: how many of the best by `monitor` to keep beside them.
        monitor: the figure that tells the best.
        mode: ``'min'`` or ``'max'``: which of its values is better.

    Raises:
        ArgumentError: `keep_last` is below 2, or `keep_best` is there without `monitor`.

    Example:
        >>> import tempfile, torch; folder = tempfile.mkdtemp(); net = torch.nn.Linear(2, 1)
        >>> store = CheckpointStore(folder, keep_last=3)
        >>> _ = store.save({"net": net, "epoch": 4}, step=100, figures={"loss": 0.5})
        >>> store.restore({"net": net}).step, store.newest().read()["epoch"]
        (100, 4)
    """

    def __init__(
        self,
        folder: Any,
        keep_last: int = 2,
        keep_best: int = 0,
        monitor: str | None = None,
        mode: str = "min",
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("CheckpointStore", unknown, CheckpointStore.__init__)
        for name, value, least in (("keep_last", keep_last, 2), ("keep_best", keep_best, 0)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ArgumentTypeError(f"{name}={value!r}: an int is needed")
            if value < least:
                why = "; with fewer, damage to one file would lose the run" if name == "keep_last" else ""
                raise ArgumentError(f"{name}={value}: at least {least} is needed{why}")
        if mode not in ("min", "max"):
            raise ArgumentError(f"mode={mode!r}: 'min' or 'max' is needed{did_you_mean(str(mode), ['min', 'max'])}")
        if keep_best and monitor is None:
            raise ArgumentError(f"keep_best={keep_best} needs monitor=, the figure that tells the best")
        self.folder = Path(os.path.abspath(folder))  # it stays there when the process goes elsewhere
        self.keep_last, self.keep_best, self.monitor, self.mode = keep_last, keep_best, monitor, mode
        self._lock = FolderLock(self.folder)
        self._used = self._looked = False
        self._beside: list[CheckpointStore] = []

    def save(
        self,
        things: Mapping[str, Any],
        step: int,
        epoch: int | None = None,
        figures: Mapping[str, Any] | None = None,
        pinned: bool = False,
        suffix: str = "",
    ) -> Entry:
        """Save things by name, then delete what need not be kept.

        Args:
            things: by name, what has a `state_dict`, or data: tensors, numbers, strings and containers of them.
            step: updates of the weights so far; a second save of the same step takes the first one's place, and is
                pinned if that was.
            epoch: epochs completed so far.
            figures: numbers by name.
            pinned: never delete it.
            suffix: put behind the step in the file's name, so that it takes no other one's place.

        Raises:
            StorageError: something can't be saved; the message says where it is. Nothing was written.
            ArgumentError: the folder has later checkpoints that nobody has looked at: it is another run's.
            CheckpointError: the disk refuses; what was there before is as it was.
            RunLockedError: another process writes to this folder.
        """
        if not _is_step(step):
            raise ArgumentError(f"step={step!r:.40}: an int from 0 on is needed")
        if epoch is not None and (isinstance(epoch, bool) or not isinstance(epoch, int)):
            raise ArgumentTypeError(f"epoch={epoch!r}: an int or None is needed")
        if not isinstance(things, Mapping):
            raise ArgumentTypeError(f"a dict of things by name is needed, not {a_kind(things)}")
        content = {name: _state_of(thing) for name, thing in things.items()}
        numbers = {str(name): _number(name, value) for name, value in (figures or {}).items()}
        self._refuse_earlier(step)
        self.open()
        path = self.folder / f"step-{step:012d}{suffix}{SUFFIX}"
        pinned = bool(pinned) or _is_pinned(path)
        now = time.time()
        about = {"step": step, "epoch": epoch, "figures": numbers, "pinned": pinned, "time": now}
        size = storage.write_sealed(path, content, {"kind": _KIND, "format": 1, **about})
        entry = Entry(path, step, epoch, numbers, pinned, size, now)
        self._used = True
        self.prune(entry)
        return entry

    def _refuse_earlier(self, step: int) -> None:
        """Refuse a first save behind checkpoints that nobody has asked for: they would be taken for newer ones."""
        later = [] if self._used or self._looked else [e for e in self.entries() if e.step > step]
        if later:
            self._looked = False
            raise ArgumentError(
                f"step={step}: {self.folder} has checkpoints up to step {later[0].step}, which restore() would take "
                "for newer: call restore() before, or take another folder"
            )

    def join(self, other: CheckpointStore) -> None:
        """Write to the folder beside another store of this process: under its lock, and keeping what it keeps."""
        self._lock = other._lock
        self._beside = other._beside = other._beside or [other]
        self._beside.append(self)

    def open(self) -> None:
        """Make the folder, take its lock and clear away what a killed save left; `save` does so by itself.

        If the folder was taken away since, it is made and locked anew, with a warning.

        Raises:
            CheckpointError: the folder cannot be written to.
            RunLockedError: another process writes to it; the message says which.
        """
        if not self._lock.is_held():
            storage.make_folder(self.folder)
            self._lock.acquire()
            if self._used and not self._named("")[0]:
                message = f"{self.folder} was emptied or taken away, with the checkpoints in it; it is made anew"
                warn(message)
        partials, wrong = self._named(storage.PARTIAL)
        if wrong:
            raise CheckpointError("; ".join(wrong))
        # Before each save, not the first one only: an error could have come between a failed save and its clearing.
        # Links and pipes go, too; opening a pipe for writing could wait for ever.
        if left := [path for path in partials if path.is_symlink() or not path.is_dir()]:
            storage.remove(left)

    def close(self) -> None:
        """Let others write to the folder."""
        self._lock.release()
        self._used = self._looked = False

    def entries(self) -> list[Entry]:
        """All checkpoints whose description is intact, by step, the newest first; contents are not verified."""
        return self.survey()[0]

    def survey(self) -> tuple[list[Entry], list[str]]:
        """All checkpoints whose description is intact, the newest first; and what is wrong with the other files."""
        self._looked, found = True, []
        paths, wrong = self._named("")
        for path in paths:
            try:
                found.append(entry_of(path))
            except StorageError as error:
                wrong.append(str(error))
        return sorted(found, key=lambda e: (e.step, e.epoch or 0, e.time), reverse=True), wrong

    def _named(self, ending: str) -> tuple[list[Path], list[str]]:
        """Files by the ending of their names, and why there are none where the folder cannot be read."""
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        except OSError as error:  # no reason to believe that it is empty
            return [], [f"{self.folder} cannot be read: {error.strerror}"]
        return [self.folder / name for name in sorted(names) if name.endswith(SUFFIX + ending)], []

    def newest(self) -> Entry | None:
        """The newest checkpoint that is valid to the last byte; None where there is no checkpoint at all.

        Raises:
            CheckpointError: there are checkpoints, but none is valid; the message lists each with its reason.
        """
        return self._first(lambda entries: entries)

    def best(self) -> Entry | None:
        """The best checkpoint by the monitored figure that is valid; None where no checkpoint has the figure.

        Raises:
            ArgumentError: nothing is monitored.
            CheckpointError: there are checkpoints, but none is valid.
        """
        if self.monitor is None:
            raise ArgumentError("best() needs CheckpointStore(monitor=...), the figure that tells the best")
        return self._first(self.ranked)

    def ranked(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those of `entries` that have the monitored figure, the best first; of equals, the earlier. NaN is none."""
        sign = 1 if self.mode == "min" else -1
        having = [e for e in entries if not math.isnan(e.figures.get(self.monitor or "", math.nan))]
        return sorted(having, key=lambda e: (sign * e.figures[self.monitor or ""], e.step))

    def restore(self, things: Mapping[str, Any]) -> Entry | None:
        """Load the newest valid checkpoint into things by name; None where there is no checkpoint at all.

        Raises:
            CheckpointError: there are checkpoints, but none is valid.
            StateError: it does not fit; everything is as it was.
        """
        found = self.newest_content()
        if found is None:
            return None
        load_into(things, found[1], str(found[0].path))
        return found[0]

    def newest_content(self) -> tuple[Entry, Any] | None:
        """The newest valid checkpoint and its content, read once; see `newest`."""
        entries, wrong = self.survey()
        for entry in entries:
            try:
                content = entry.read()
            except StorageError as error:
                wrong.append(str(error))
                continue
            self._warn(wrong, f"{entry.path.name} is used instead")
            return entry, content
        if wrong:
            raise CheckpointError(_none_valid(self.folder, wrong))
        return None

    def _first(self, order: Callable[[list[Entry]], list[Entry]]) -> Entry | None:
        entries, wrong = self.survey()
        for entry in (chosen := order(entries)):
            try:
                entry.read()
            except StorageError as error:
                wrong.append(str(error))
                continue
            self._warn(wrong, f"{entry.path.name} is used instead")
            return entry
        if wrong and (chosen or not entries):
            raise CheckpointError(_none_valid(self.folder, wrong))
        self._warn(wrong, f"no other checkpoint has {self.monitor!r}")
        return None

    def _warn(self, wrong: list[str], instead: str) -> None:
        if wrong:
            warn(f"{'; '.join(wrong)}; {instead}")

    def prune(self, new: Entry) -> None:
        """Delete what neither is among the newest or the best nor is pinned; damaged files stay, to be looked at.

        Args:
            new: the checkpoint that was just written; it is known to be good, and stays.
        """
        entries = self.entries()
        others = [entry for entry in entries if entry.path != new.path]
        kept = {new.path, *(e.path for e in entries if e.pinned)}
        for store in self._beside or [self]:
            kept.update(e.path for e in others[: store.keep_last - 1])
            kept.update(e.path for e in store.ranked(entries)[: store.keep_best])
        gone = [entry.path for entry in entries if entry.path not in kept]
        if gone:
            storage.remove(gone)


def entry_of(path: Path) -> Entry:
    """Read a checkpoint's description.

    Raises:
        StorageError: it is damaged, or no checkpoint of this library.
    """
    about = storage.describe(path)
    try:
        if about["kind"] != _KIND or about["format"] != 1:
            found = f"{about['kind']!s:.40} of format {about['format']!s:.40}"
            raise StorageError(f"{path} is a {found}; this version reads {_KIND} 1")
        if not _is_step(about["step"]):
            raise StorageError(f"{path} is no checkpoint of this library: its step is no number of updates")
        figures = {str(k): float(v) for k, v in about["figures"].items()}
        epoch = None if about["epoch"] is None else int(about["epoch"])
        size = path.stat().st_size
        return Entry(path, about["step"], epoch, figures, bool(about["pinned"]), size, float(about["time"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{path} is no checkpoint of this library: {type(error).__name__}: {error}") from error


def load_into(things: Mapping[str, Any], content: Any, where: str) -> None:
    """Load states into things by name: all of them, or none.

    Raises:
        StateError: a name is missing, or a state does not fit; what was loaded before is put back.
    """
    if not isinstance(content, Mapping):
        raise StateError(f"{where} holds {a_kind(content)}, no dict of states")
    if missing := [name for name in things if name not in content]:
        raise StateError(f"{where} has no {', '.join(map(repr, missing))}; it holds {', '.join(map(repr, content))}")
    for name, thing in things.items():
        if not isinstance(thing, Stateful):
            raise ArgumentTypeError(
                f"{name!r} is {a_kind(thing)} without load_state_dict; read data with store.newest().read()"
            )
    before: list[tuple[Stateful, StateDict]] = []
    name = ""
    try:
        for name, thing in things.items():
            before.append((thing, deepcopy(thing.state_dict())))
            thing.load_state_dict(content[name])
    except BaseException as error:
        _put_back(before, error)
        if isinstance(error, Exception):
            raise StateError(f"{where}: the state of {name!r} does not fit: {error}") from error
        raise


def _put_back(before: list[tuple[Stateful, StateDict]], error: BaseException) -> None:
    for thing, state in reversed(before):
        try:
            thing.load_state_dict(state)
        except BaseException as later:  # the others go back all the same
            chain(error, later)


def _state_of(thing: Any) -> Any:
    return thing.state_dict() if isinstance(thing, Stateful) else thing


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_pinned(path: Path) -> bool:
    with contextlib.suppress(StorageError):
        return entry_of(path).pinned
    return False


def _number(name: str, value: Any) -> float:
    with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
        return float(value)
    raise ArgumentTypeError(f"figures[{name!r}]={value!r}: a number is needed, not {a_kind(value)}")


def _none_valid(folder: Path, wrong: list[str]) -> str:
    return f"none of the checkpoints in {folder} is valid: {'; '.join(wrong)}; {TO_DO}"
