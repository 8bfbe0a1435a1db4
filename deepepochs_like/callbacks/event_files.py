"""TensorBoard's event files: which there are, cutting them off, and names that keep them in order."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..storage import write_bytes

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
    return max((step for path in event_files(folder) for step in _steps(path.read_bytes())), default=-1)


def _steps(content: bytes) -> Iterator[int]:
    """The step of each whole record, looked up where it lies: millions of events are to be parsed in seconds.

    An event begins with its time, a byte 0x09 and 8 more, and its step, a byte 0x10 and a number of 7 bits per byte.
    """
    start = 0
    while start + 16 <= len(content):
        begin, end = start + 12, start + 16 + int.from_bytes(content[start : start + 8], "little")
        if end > len(content):
            return
        at = begin + 9 if content[begin] == 0x09 else begin
        step = shift = 0
        if at < end - 4 and content[at] == 0x10:
            more = True
            while more and at + 1 < end:
                at += 1
                step |= (content[at] & 0x7F) << shift
                more, shift = content[at] > 0x7F, shift + 7
        yield step if step < 1 << 63 else step - (1 << 64)
        start = end


def records(path: Path) -> Iterator[tuple[int, bytes, Any]]:
    """The whole records of an event file: where each begins, its bytes, and the event.

    A record is the length in 8 bytes, a checksum in 4, the event, and its checksum in 4, as TFRecord files have it.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    content, start = path.read_bytes(), 0
    while start + 16 <= len(content):
        end = start + 16 + struct.unpack_from("<Q", content, start)[0]
        if end > len(content):
            return
        try:
            event = Event.FromString(content[start + 12 : end - 4])
        except DecodeError:
            return
        yield start, content[start:end], event
        start = end


def scalar_places(folder: Path) -> dict[tuple[str, int], tuple[Path, int]]:
    """Where the numbers of a folder's events lie: file and beginning of the record, by tag and step.

    Example:
        >>> scalar_places(Path("no such folder"))
        {}
    """
    places = {}
    for path in event_files(folder):
        for start, _, event in records(path):
            if len(event.summary.value) == 1 and event.summary.value[0].HasField("simple_value"):
                places[event.summary.value[0].tag, event.step] = path, start
    return places


def put_value(path: Path, start: int, value: float) -> None:
    """Give the number in the record that begins at `start` another value; the file keeps its size."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with path.open("rb+") as file:
        file.seek(start)
        size: int = struct.unpack("<Q", file.read(8))[0]
        file.seek(start + 12)
        event = Event.FromString(file.read(size))
        event.summary.value[0].simple_value = value
        data = event.SerializeToString()
        assert len(data) == size  # a float has a fixed one
        file.seek(start + 12)
        file.write(data + struct.pack("<I", masked_crc32c(data)))


def keep_beginning(folder: Path, step: int, everything: bool = False) -> None:
    """Leave of a folder's events the numbers up to a step, or all of them, and delete files that have none left.

    Example:
        >>> keep_beginning(Path("no such folder"), 0)
    """
    for path in event_files(folder):
        kept, found = [], False
        for _, content, event in records(path):
            number = everything or any(value.HasField("simple_value") for value in event.summary.value)
            wanted = number and event.step <= step and not event.HasField("file_version")
            if wanted or event.HasField("file_version"):
                kept.append(content)
            found = found or wanted
        if not found:
            path.unlink()
        elif sum(map(len, kept)) != path.stat().st_size:
            write_bytes(path, b"".join(kept))


def written_once(folder: Path) -> list[str]:
    """Which of those events a folder has that a run has once: ``'begin'``, ``'end'`` and ``'graph'``.

    Example:
        >>> written_once(Path("no such folder"))
        []
    """
    tags = {"_hparams_/session_start_info": "begin", "_hparams_/session_end_info": "end"}
    found = set()
    for path in event_files(folder):
        for _, _, event in records(path):
            found |= {tags[value.tag] for value in event.summary.value if value.tag in tags}
            found |= {"graph"} if event.HasField("graph_def") else set()
    return sorted(found)
