"""Sealed files: written so that a power cut leaves the old or the new, read only after every byte was verified.

A sealed file is what `torch.save` writes, followed by a description in JSON and a seal of fixed size::

    zip archive of torch | JSON | magic, length of the archive, length of the JSON, SHA-256 of the JSON and
                                  the lengths, SHA-256 of all bytes before it

The seal at the end keeps the file readable by ``torch.load(path, weights_only=True)``, which ignores what follows an
archive. This module is the only place that opens or renames a checkpoint.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import json
import os
import pickle
import pickletools
import re
import stat
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import CheckpointError, StorageError, a_kind

MAGIC = b"DEEPSEAL"
#: What a file is called until all of it is on the disk.
PARTIAL = ".partial"
_LENGTHS = struct.Struct(">8sQQ")
_HASH = hashlib.sha256().digest_size
SEAL = _LENGTHS.size + 2 * _HASH
_LONGEST_DESCRIPTION = 1 << 22
_CHUNK = 1 << 20
#: Levels of containers in containers; Python itself prints and copies some hundreds.
_DEEPEST = 200
#: Bits of the longest int that torch's weights_only loads.
_LONGEST_INT = 2000
#: torch's weights_only allows these too; they take room without bytes behind it, and nothing of ours needs them.
_REFUSED_GLOBALS = frozenset({"builtins bytearray", "__builtin__ bytearray"})


def write_sealed(path: Path, content: Any, description: Mapping[str, Any]) -> int:
    """Write `content` so that `path` holds it whole or is as it was; return its size in bytes.

    The bytes go to a file beside it, which is flushed to the disk and renamed; then the folder's entry is flushed. When
    this returns, the file survives a power cut.

    Args:
        path: where; its folder must exist.
        content: tensors, numbers, strings and containers of them; see `storable`.
        description: what can be read without loading the content; JSON.

    Raises:
        StorageError: something in `content` is of another kind.
        CheckpointError: the disk refuses; `path` is as it was.
    """
    buffer = io.BytesIO()
    # In memory first: an error or a signal in the middle of torch's own writer could not be told from a bug of it.
    try:
        if _too_deep(plain := storable(content, path.name)):
            raise RecursionError
        torch.save(plain, buffer)
    except RecursionError as error:
        raise StorageError(f"{path.name} is nested too deeply, or holds itself") from error
    write_bytes(path, buffer.getbuffer(), seal_of(buffer.getbuffer(), description))
    return path.stat().st_size


def seal_of(archive: Any, description: Mapping[str, Any]) -> bytes:
    """What follows an archive: its description, and the seal over both."""
    text = json.dumps(description, allow_nan=True).encode()
    if len(text) > _LONGEST_DESCRIPTION:
        raise StorageError(f"a description of {len(text)} bytes is too long; {_LONGEST_DESCRIPTION} are allowed")
    lengths = _LENGTHS.pack(MAGIC, len(archive), len(text))
    head = text + lengths + hashlib.sha256(text + lengths).digest()
    digest = hashlib.sha256(archive)
    digest.update(head)
    return head + digest.digest()


def write_bytes(path: Path, *parts: Any) -> None:
    """Write bytes so that `path` holds all of them, on the disk, or is as it was.

    Raises:
        CheckpointError: the disk refuses.
    """
    partial = path.with_name(path.name + PARTIAL)
    done = False
    try:
        # O_NOFOLLOW: a link under this name must not lead to a file elsewhere being overwritten.
        file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            for part in parts:
                _write_all(file, memoryview(part))
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(partial, path)
        done = True
        sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if not done:
            with contextlib.suppress(OSError):
                os.unlink(partial)


def _write_all(file: int, data: memoryview) -> None:
    while data:  # a signal or a nearly full disk can cut a write short
        written = os.write(file, data[:_CHUNK])
        if not written:
            raise OSError("the disk takes no more bytes")
        data = data[written:]


def remove(paths: list[Path]) -> None:
    """Delete files and flush their folders' entries.

    Raises:
        CheckpointError: the disk refuses; the files named before are gone.
    """
    try:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        for folder in {path.parent for path in paths}:
            sync_folder(folder)
    except OSError as error:
        raise CheckpointError(f"cannot delete old checkpoints: {error}") from error


def make_folder(path: Path) -> None:
    """Make a folder with its parents, each on the disk when this returns.

    Raises:
        CheckpointError: it cannot be made, or something else has its name.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
            sync_folder(folder.parent)
        if not path.is_dir():
            raise NotADirectoryError(f"it is a file, not a folder: {path}")
        if not missing:
            # Whoever made it need not have flushed its name; the parent may be one that cannot be read.
            with contextlib.suppress(OSError):
                sync_folder(path.parent)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError("it cannot be written to")
    except OSError as error:
        raise CheckpointError(f"the folder {path} cannot be used: {error}") from error


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Any, int]]:
    """Open a regular file for reading, whatever its name leads to, without waiting on a pipe; yields it and its size.

    Raises:
        StorageError: it is no regular file, or cannot be read.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        reason = "the link leads nowhere" if path.is_symlink() else "there is no such file"
        raise StorageError(f"{path}: {reason}") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe"}
            raise StorageError(f"{path} is a {kinds.get(stat.S_IFMT(status.st_mode), 'device')}, not a file")
        with os.fdopen(handle, "rb", buffering=0, closefd=False) as file:
            yield file, status.st_size
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # nothing was written that could be lost
            os.close(handle)


def describe(path: Path) -> dict[str, Any]:
    """Return the description of a sealed file, verified by itself; the content is neither read nor verified.

    Raises:
        StorageError: there is no such seal; the message names the file and what is wrong with it.
    """
    with opened(path) as (file, size):
        return _description(path, file, size)[0]


def read_sealed(path: Path) -> tuple[Any, dict[str, Any]]:
    """Verify every byte of a sealed file, then load it: content and description.

    Raises:
        StorageError: a byte is not as it was written, or the content is none that this library writes; nothing was
            loaded, and nothing in it was run.
    """
    with opened(path) as (file, size):
        description, length = _description(path, file, size)
        file.seek(0)
        digest, left = hashlib.sha256(), size - _HASH
        while left and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        if left or digest.digest() != file.read(_HASH):
            raise StorageError(f"{path} is damaged: its bytes do not match the SHA-256 it was sealed with")
        return load_archive(path, _Part(file, length)), description


def is_sealed(path: Path) -> bool:
    """Tell whether a file ends with a seal, be it right or wrong."""
    with opened(path) as (file, size):
        if size < SEAL:
            return False
        file.seek(size - SEAL)
        return bool(file.read(len(MAGIC)) == MAGIC)


def _description(path: Path, file: Any, size: int) -> tuple[dict[str, Any], int]:
    if size < SEAL:
        raise StorageError(f"{path} is " + (f"cut short: it has {size} bytes" if size else "empty"))
    file.seek(size - SEAL)
    seal = file.read(SEAL)
    magic, archive, text = _LENGTHS.unpack(seal[: _LENGTHS.size])
    if magic != MAGIC:
        raise StorageError(f"{path} is damaged or no checkpoint of this library: it has no seal at its end")
    if archive + text + SEAL != size or text > _LONGEST_DESCRIPTION:
        raise StorageError(f"{path} is damaged: its size is {size} bytes, its seal says otherwise")
    file.seek(archive)
    head = file.read(text) + seal[: _LENGTHS.size]
    if hashlib.sha256(head).digest() != seal[_LENGTHS.size : -_HASH]:
        raise StorageError(f"{path} is damaged: its description does not match its SHA-256")
    try:
        description = json.loads(head[:text])
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is no checkpoint of this library: its description is no JSON") from error
    if not isinstance(description, dict):
        raise StorageError(f"{path} is no checkpoint of this library: its description is no JSON object")
    return description, archive


class _Part(io.RawIOBase):
    """The first `length` bytes of an open file, as a file."""

    def __init__(self, file: Any, length: int) -> None:
        self._file, self._length = file, length
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._length}[whence]
        return int(self._file.seek(base + offset))

    def readinto(self, buffer: Any) -> int:
        left = max(0, self._length - self._file.tell())
        return int(self._file.readinto(memoryview(buffer)[:left]) or 0)


def load_archive(path: Path, file: Any) -> Any:
    """Load what `torch.save` wrote, from a file that may come from anywhere, without running anything in it.

    Raises:
        StorageError: it is damaged, holds something that loading would have to run, or more than its size.
    """
    try:
        _check_archive(path, file)
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old formats would make no difference to anybody
            content = torch.load(file, map_location="cpu", weights_only=True)
        if _too_deep(content):
            raise StorageError(f"{path} is refused: it is nested more than {_DEEPEST} deep")
        return content
    except StorageError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        holds = f"it holds {found[1]}, and loading that could run code" if found else "it is damaged, or no torch file"
        raise StorageError(f"{path} is refused: {holds}") from error
    except Exception as error:  # whatever unpickling makes of bytes that are no checkpoint
        raise StorageError(f"{path} cannot be read: {type(error).__name__} {str(error).partition('.')[0]}") from error


def _too_deep(content: Any) -> bool:
    """Tell whether containers are nested so deeply that printing or copying them would fail; each is looked at once."""
    level, seen = [content], set[int]()
    for _ in range(_DEEPEST):
        within: list[Any] = []
        for item in level:
            if isinstance(item, (Mapping, list, tuple, set)) and id(item) not in seen:
                seen.add(id(item))
                within.extend(item.values() if isinstance(item, Mapping) else item)
                within.extend(getattr(item, "__dict__", {}).values())  # the metadata of a state_dict
        if not (level := within):
            return False
    return True


def _check_archive(path: Path, file: Any) -> None:
    if file.read(4) != b"PK\x03\x04":
        raise StorageError(f"{path} is refused: it is no archive of torch.save")
    with zipfile.ZipFile(file) as archive:
        left, names = file.seek(0, os.SEEK_END), set[str]()
        for part in archive.infolist():
            left -= part.file_size  # of all parts together: they could share their bytes
            if part.compress_type != zipfile.ZIP_STORED or left < 0:
                raise StorageError(f"{path} is refused: its part {part.filename!r} unpacks to more than it holds")
            if (name := part.filename.lower()) in names:  # torch takes no notice of case
                raise StorageError(f"{path} is refused: it has two parts named {part.filename!r}")
            names.add(name)
        if (damaged := archive.testzip()) is not None:  # torch.load does not look at the checksums
            raise StorageError(f"{path} is damaged: the checksum of its part {damaged!r} is wrong")
        for part in archive.infolist():
            if part.filename.lower().endswith("/data.pkl"):
                for _, argument, _ in pickletools.genops(archive.read(part)):
                    if argument in _REFUSED_GLOBALS:
                        raise StorageError(f"{path} is refused: it holds a {str(argument).split()[1]}")


def storable(content: Any, where: str) -> Any:
    """Return `content` as it can be saved and loaded safely: copies of containers, NumPy values converted.

    Tensors that are a part of a larger one are cloned, since torch would save the whole. A Counter stays one, and an
    OrderedDict with the versions of modules that a state_dict notes in its `_metadata`; other mappings become dicts,
    and a frozenset a set.

    Raises:
        StorageError: something is neither tensor, number, string, None nor a container of them; the message says where.
    """
    if content is None or isinstance(content, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        return _plain(content, where)
    if isinstance(content, torch.Tensor):
        return _tensor(content, where)
    if isinstance(content, np.generic) and not isinstance(item := content.item(), np.generic):
        return storable(item, where)
    if isinstance(content, np.ndarray) and content.dtype.kind in "biufc":
        try:
            return torch.from_numpy(np.array(content, dtype=content.dtype.newbyteorder("="), order="C"))
        except TypeError as error:
            raise StorageError(f"{where} is an array of {content.dtype}, which torch does not have") from error
    if isinstance(content, Mapping):
        return _mapping(content, where)
    if isinstance(content, torch.Size):
        return content
    if isinstance(content, (list, tuple, set, frozenset)):
        items = [storable(value, f"{where}[{index}]") for index, value in enumerate(content)]
        return items if isinstance(content, list) else tuple(items) if isinstance(content, tuple) else set(items)
    raise StorageError(
        f"{where} is {a_kind(content)}, which cannot be saved safely; tensors, numbers, strings and "
        "containers of them can"
    )


def _mapping(content: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    plain = {_key(key, where): storable(value, f"{where}[{key!r}]") for key, value in content.items()}
    if isinstance(content, Counter):
        return Counter(plain)
    if not isinstance(content, OrderedDict):
        return plain
    ordered = OrderedDict(plain)
    if (metadata := getattr(content, "_metadata", None)) is not None:
        ordered._metadata = storable(metadata, f"{where}._metadata")  # type: ignore[attr-defined]  # torch's own place
    return ordered


_EXACT = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device})


class _NoBytes(bytes):
    """Empty bytes, pickled like others: Python's own way for them is not among what torch loads safely."""

    def __reduce__(self) -> tuple[Any, ...]:
        return codecs.encode, ("", "latin1")


def _tensor(content: torch.Tensor, where: str) -> torch.Tensor:
    """A tensor without its graph, its class and what lies beside it in its storage."""
    tensor = content.detach()
    if type(tensor) is not torch.Tensor:
        if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
            raise StorageError(f"{where} is {a_kind(content)}, a kind of tensor that cannot be saved safely")
        tensor = tensor.as_subclass(torch.Tensor)
    if tensor.layout is torch.strided and tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size():
        tensor = tensor.clone()
    return tensor


def _exact(value: Any) -> Any:
    """A number or string of a subclass (an enum, NumPy's float64) as the plain one."""
    kinds: tuple[Any, ...] = (bool, int, float, complex, str, bytes)
    for kind in kinds:
        if isinstance(value, kind):
            return kind(value) if kind is not str else str.__str__(value)
    return value  # torch's own dtype and device classes


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, int) and value.bit_length() > _LONGEST_INT:
        raise StorageError(f"{where} is an int of {value.bit_length()} bits; {_LONGEST_INT} can be saved")
    if isinstance(value, bytes) and not value:
        return _NoBytes()
    return value if type(value) in _EXACT else _exact(value)


def _key(key: Any, where: str) -> Any:
    if isinstance(key, np.generic):
        key = key.item()
    if key is None or isinstance(key, (bool, int, float, str)):
        return _plain(key, where)
    if isinstance(key, tuple):
        return tuple(_key(part, where) for part in key)
    raise StorageError(f"{where} has a key {key!r}, {a_kind(key)}; numbers and strings can be saved")
