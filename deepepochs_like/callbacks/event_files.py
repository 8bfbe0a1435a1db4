"""TensorBoard's event files: which there are, cutting them off, and names that keep them in order."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

#: What the names of event files begin with; the second in which the file was begun follows, by which readers sort.
PREFIX = "events.out.tfevents."
_DIGITS = 10


def event_files(folder: Path) -> list[Path]:
    """The event files of a folder, in the order in which they are read.

    Example:
        >>> event_files(Path("no such folder"))
        []
    """
    return sorted(path for path in folder.glob(PREFIX + "*") if path.is_file())


def sizes_of(folder: Path) -> list[int]:
    """The sizes of a folder's event files in bytes, each flushed to the disk: what `cut_off` needs.

    Example:
        >>> sizes_of(Path("no such folder"))
        []
    """
    sizes = []
    for path in event_files(folder):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            sizes.append(os.fstat(file.fileno()).st_size)
    return sizes


def cut_off(folder: Path, sizes: Sequence[int]) -> list[str]:
    """Cut event files off where they ended when `sizes` was taken, and delete those that were begun later.

    Records are only ever appended, so that a file cut off at such a size ends with a whole one.

    Returns:
        The names of files that are shorter than they were.

    Example:
        >>> cut_off(Path("no such folder"), [])
        []
    """
    files, short = event_files(folder), []
    for path, size in zip(files, sizes, strict=False):
        if path.stat().st_size < size:
            short.append(path.name)
        else:
            os.truncate(path, size)
    for path in files[len(sizes) :]:
        path.unlink()
    return short


def make_room(folder: Path) -> None:
    """Rename event files, keeping their order, where the name of one begun now would not come behind theirs.

    Names tell the second, then the process: what goes on at once could be read before its own beginning.

    Example:
        >>> make_room(Path("no such folder"))
    """
    files, now = event_files(folder), int(time.time())
    if files and files[-1].name >= f"{PREFIX}{now:0{_DIGITS}d}":
        for number, path in enumerate(files):
            path.rename(path.with_name(f"{PREFIX}{now - 1:0{_DIGITS}d}.{number:06d}"))


def last_step(folder: Path) -> int:
    """The highest step of a folder's events; -1 where there are none.

    Example:
        >>> last_step(Path("no such folder"))
        -1
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    loaders = (RawEventFileLoader(str(path)) for path in event_files(folder))
    return max((Event.FromString(record).step for loader in loaders for record in loader.Load()), default=-1)
