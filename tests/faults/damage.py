"""Damage the newest checkpoint in every way: it has to be named with the reason, and the one before it used."""

# ruff: noqa: PT017 - scripts, which have no pytest.raises

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import shutil
import socket
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from deepepochs_like import storage
from deepepochs_like.checkpoint import CheckpointStore, Entry
from deepepochs_like.errors import CheckpointError, EngineWarning

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89" + bytes(range(256))


class Patient:
    """A store with two checkpoints, of which the newest gets damaged again and again."""

    def __init__(self, folder: Path) -> None:
        self.store = CheckpointStore(folder)
        for step in (1, 2):
            self.store.save(
                {"weights": torch.arange(60.0) + step, "note": "n" * step}, step, figures={"loss": 1 / step}
            )
        self.paths = [folder / f"step-{step:012d}.ckpt" for step in (1, 2)]
        self.whole = [path.read_bytes() for path in self.paths]

    @property
    def newest(self) -> Path:
        return self.paths[1]

    def heal(self) -> None:
        for path in self.store.folder.glob("*.ckpt"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path, data in zip(self.paths, self.whole, strict=True):
            path.write_bytes(data)

    def examine(self, what: str) -> str:
        """See that the damage is noticed and survived, and that the store goes on; return what was said of it."""
        started = time.monotonic()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = self.store.newest()
        took = time.monotonic() - started
        texts = [str(w.message) for w in said if issubclass(w.category, EngineWarning)]
        assert found is not None, what
        assert found.step == 1, f"{what}: {found}"
        assert len(texts) == 1, f"{what}: {texts}"
        reason = texts[0].partition(str(self.newest))[2].partition(";")[0].strip(" :")
        assert len(reason) >= len("is empty"), f"{what}: no reason in {texts}"
        assert "step-000000000001.ckpt is used instead" in texts[0], texts
        assert took < 1, f"{what}: took {took:.1f} s"
        self.goes_on(what)
        return reason

    def goes_on(self, what: str) -> None:
        """A save and a load."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.store.save({"weights": torch.ones(3)}, 3)
            found = self.store.newest()
        assert found is not None, what
        assert found.step == 3, f"{what}: {found}"
        assert torch.equal(found.read()["weights"], torch.ones(3)), what


def regions(data: bytes) -> dict[str, list[int]]:
    """The bytes of a sealed file by what they are."""
    length = int.from_bytes(data[-storage.SEAL + 8 : -storage.SEAL + 16], "big")
    kinds = ["zip headers"] * length + ["JSON"] * (len(data) - length - storage.SEAL) + ["seal"] * storage.SEAL
    with zipfile.ZipFile(io.BytesIO(data[:length])) as archive:
        for part in archive.infolist():
            name, extra = (int.from_bytes(data[part.header_offset + k :][:2], "little") for k in (26, 28))
            start = part.header_offset + 30 + name + extra
            kind = "pickle" if part.filename.endswith("data.pkl") else "archive"
            kinds[start : start + part.file_size] = [kind] * part.file_size
    return {kind: [at for at, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds)}


def flips(patient: Patient, number: int) -> Counter[str]:
    """Flip single bits, as many in each region."""
    drawn, landed = random.Random(0), Counter[str]()
    places = regions(patient.whole[1])
    assert set(places) == {"zip headers", "pickle", "archive", "JSON", "seal"}, places.keys()
    for kind in (list(places) * number)[:number]:
        at, bit = drawn.choice(places[kind]), drawn.randrange(8)
        data = bytearray(patient.whole[1])
        data[at] ^= 1 << bit
        patient.heal()
        patient.newest.write_bytes(data)
        assert patient.newest.read_bytes() != patient.whole[1]
        patient.examine(f"bit {bit} of byte {at} ({kind})")
        landed[f"bit in {kind}"] += 1
    return landed


def truncations(patient: Patient, number: int) -> int:
    """Cut the file short, at even distances and by single bytes."""
    size = len(patient.whole[1])
    lengths = [1, 2, size - 1, size - 2, *(round(size * k / (number - 3)) for k in range(1, number - 3))]
    for length in lengths:
        patient.heal()
        patient.newest.write_bytes(patient.whole[1][:length])
        patient.examine(f"cut to {length} of {size} bytes")
    assert len(lengths) == number
    return number


class Refusing:
    """`os` for which one call on one file fails."""

    def __init__(self, path: Path, call: str, code: int) -> None:
        self.path, self.call, self.code, self.refused = path, call, code, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if self.call == "open" and Path(path) == self.path:
            self.refused += 1
            raise OSError(self.code, os.strerror(self.code), str(path))
        return os.open(path, flags, mode)

    @contextlib.contextmanager
    def _failing(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        with os.fdopen(*arguments, **named) as file:
            yield _FailingFile(file, self)

    def fdopen(self, handle: int, *arguments: Any, **named: Any) -> Any:
        if self.call == "read" and os.path.samestat(os.fstat(handle), os.stat(self.path)):
            return self._failing(handle, *arguments, **named)
        return os.fdopen(handle, *arguments, **named)


class _FailingFile:
    def __init__(self, file: Any, owner: Refusing) -> None:
        self.file, self.owner = file, owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, size: int = -1) -> bytes:
        self.owner.refused += 1
        raise OSError(self.owner.code, os.strerror(self.owner.code))


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets have to be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _torch(path: Path) -> None:
    torch.save({"weights": torch.ones(3)}, path)


def _with_json(text: bytes) -> Callable[[Path], None]:
    """A file whose seal is right and whose description is not."""

    def write(path: Path) -> None:
        class Dumped(dict[str, Any]):
            pass

        real = storage.json.dumps
        storage.json.dumps = lambda *args, **named: text.decode()  # type: ignore[assignment]
        try:
            path.write_bytes(b"PK\3\4" + storage.seal_of(b"PK\3\4", Dumped()))
        finally:
            storage.json.dumps = real

    return write


FOREIGN: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "zero-filled": lambda path: path.write_bytes(bytes(4096)),
    "text": lambda path: path.write_text("epoch,loss\n1,0.5\n" * 50),
    "plain torch.save": _torch,
    "PNG": lambda path: path.write_bytes(PNG),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "socket": _socket,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "no JSON": _with_json(b"{"),
    "a JSON list": _with_json(b"[]"),
    "of another kind": _with_json(b'{"kind": "another", "format": 1}'),
    "of a later format": _with_json(b'{"kind": "deepepochs_like checkpoint", "format": 2}'),
}
REFUSALS = {"may not be opened": ("open", errno.EACCES), "cannot be read": ("read", errno.EIO)}


def foreign(patient: Patient) -> Counter[str]:
    """Put something else under the newest checkpoint's name."""
    landed = Counter[str]()
    for what, make in FOREIGN.items():
        patient.heal()
        patient.newest.unlink()
        make(patient.newest)
        assert os.path.lexists(patient.newest)
        patient.examine(what)
        landed[what] += 1
    for what, (call, code) in REFUSALS.items():
        patient.heal()
        refusing = Refusing(patient.newest, call, code)
        with _in_place_of_os(refusing):
            reason = patient.examine(what)
        assert refusing.refused, what
        assert os.strerror(code) in reason, reason
        landed[what] += 1
    if os.geteuid():  # for the superuser every file is readable
        patient.heal()
        patient.newest.chmod(0)
        patient.examine("chmod 000")
        landed["chmod 000"] += 1
    return landed


@contextlib.contextmanager
def _in_place_of_os(proxy: Any) -> Iterator[None]:
    real, storage.os = storage.os, proxy
    try:
        yield
    finally:
        storage.os = real


def all_bad(patient: Patient) -> int:
    """With no valid checkpoint left there is an error that names all of them."""
    calls: list[Callable[[], Any]] = [patient.store.newest, lambda: patient.store.restore({})]
    for call in calls:
        patient.heal()
        patient.paths[0].write_bytes(patient.whole[0][:-200])
        data = bytearray(patient.whole[1])
        data[200] ^= 1
        patient.newest.write_bytes(data)
        try:
            found: Entry | None = call()
        except CheckpointError as error:
            assert all(path.name in str(error) for path in patient.paths), error
        else:
            raise AssertionError(f"all are bad, and yet: {found}")
        patient.goes_on("all bad")
    return len(calls)


def run(full: bool) -> dict[str, Any]:
    """All kinds of damage; `full` with 2,000 bits instead of 300, and 128 lengths instead of 32."""
    with tempfile.TemporaryDirectory() as name:
        patient = Patient(Path(name))
        try:
            landed = flips(patient, 2000 if full else 300)
            landed["cut short"] = truncations(patient, 128 if full else 32)
            landed.update(foreign(patient))
            landed["all bad"] = all_bad(patient)
        finally:
            patient.store.close()
    injected = sum(landed.values())
    unreadable = (
        "" if os.geteuid() else "; as superuser, a file that may not be opened is a call that fails, not a mode"
    )
    detail = f"each named with its reason, the one before used, then a save and a load{unreadable}"
    return {"injected": injected, "landed": dict(landed), "survived": injected, "detail": detail}


if __name__ == "__main__":
    print(run("--quick" not in sys.argv))
