"""Checkpoints made to do harm, and names of runs made to lead out of their folder: each is refused, and does nothing.

The files are opened in a process of its own, under an audit hook that sees whatever Python runs, starts or writes. That
the hook would see it is shown first, by loading the same pickles carelessly.
"""

# ruff: noqa: PT017 - scripts, which have no pytest.raises

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deepepochs_like import Trainer, storage
from deepepochs_like.checkpoint import CheckpointStore
from deepepochs_like.errors import ArgumentError, CheckpointError, EngineError, StorageError
from deepepochs_like.run import RunFolder, check_id

DESCRIPTION = {
    "kind": "deepepochs_like checkpoint",
    "format": 1,
    "step": 5,
    "epoch": None,
    "figures": {},
    "pinned": False,
    "time": 0.0,
}
#: Seconds for one file, and MiB of memory for all of them.
PATIENCE, MEMORY = 5.0, 400


class Call:
    """Pickled, it calls something when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.how = function, arguments

    def __reduce__(self) -> Any:
        return self.how


def zipped(data: bytes, method: int = zipfile.ZIP_STORED, **parts: bytes) -> bytes:
    """An archive as torch.save writes it, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in {"data.pkl": data, "byteorder": b"little", **parts, "version": b"3\n"}.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def pickles(canary: Path) -> dict[str, bytes]:
    """Pickles that would make the file `canary`, or run something else."""
    touch = f"touch {canary}"
    text = f"open({str(canary)!r}, 'w')"
    line = touch.encode()
    return {
        "os.system": b"cos\nsystem\n(S'" + line + b"'\ntR.",
        "posix.system": pickle.dumps(Call(os.system, touch), 2),
        "builtins.eval": pickle.dumps(Call(eval, text), 2),
        "builtins.exec": pickle.dumps(Call(exec, text), 2),
        "subprocess.Popen": pickle.dumps(Call(subprocess.Popen, ("touch", str(canary))), 2),
        "pickle.loads within": pickle.dumps(Call(pickle.loads, pickle.dumps(Call(os.system, touch))), 2),
        "getattr chain": b"c__builtin__\ngetattr\n(cos\npath\nS'join'\ntR0cos\nsystem\n(S'" + line + b"'\ntR.",
        "operator.attrgetter": b"coperator\nattrgetter\n(S'system'\ntR(c__builtin__\n__import__\n(S'os'\ntRtR(S'"
        + line
        + b"'\ntR.",
        "functools.partial": b"cfunctools\npartial\n(cos\nsystem\nS'" + line + b"'\ntR(tR.",
        "STACK_GLOBAL, protocol 4": pickle.dumps(Call(os.system, touch), 4),
        "INST": b"(S'" + line + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + line + b"'\no.",
        "posix_spawn": pickle.dumps(Call(os.posix_spawn, "/usr/bin/touch", ["touch", str(canary)], {}), 2),
        "torch's rebuilding with os.system": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\n"
        b"ctorch\nTensor\n(S'" + line + b"'\nt}tR.",
        "file opened for writing": pickle.dumps(Call(open, str(canary), "w"), 2),
    }


def archives(folder: Path) -> dict[str, bytes]:
    """What is hostile without running code by itself, and other kinds of torch files."""
    evil = folder / "nested.pt"
    evil.write_bytes(zipped(pickles(folder / "canary")["os.system"]))
    good, legacy, script = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"weights": torch.ones(3)}, good)
    torch.save({"weights": torch.ones(3)}, legacy, _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), script)
    zeros = bytes(1 << 20)
    huge = b"\x80\x02c__builtin__\nbytearray\n(\x8a\x06\0\0\0\0\0\1tR."
    fine = pickle.dumps({"weights": 1}, 2)
    return {
        "torch.load within": zipped(b"ctorch\nload\n(S'" + str(evil).encode() + b"'\ntR."),
        "functools.partial of torch.load": zipped(pickle.dumps(functools.partial(torch.load, weights_only=False), 2)),
        "legacy file of torch": legacy.getvalue(),
        "legacy file that runs code": torch_legacy(pickles(folder / "canary")["os.system"]),
        "TorchScript": script.getvalue(),
        "deflated zeros beside": zipped(fine, zipfile.ZIP_DEFLATED, **{f"data/{k}": zeros * 64 for k in range(4)}),
        "deflated pickle": zipped(b"\x80\x02(" + b"N" * (64 << 20) + b"t.", zipfile.ZIP_DEFLATED),
        "bzip2": zipped(fine, zipfile.ZIP_BZIP2, **{"data/0": zeros * 16}),
        "parts that share bytes": sharing(),
        "two parts of one name": twice(),
        "a part of 2 GiB": claiming(fine, 1 << 31),
        "bytearray(2**40)": zipped(huge),
        "bytearray, other case": zipped(huge).replace(b"archive/data.pkl", b"archive/DATA.PKL"),
        "Tensor(2**40)": zipped(b"\x80\x02ctorch\nTensor\n(\x8a\x06\0\0\0\0\0\1tR."),
        "UntypedStorage(2**60)": zipped(b"\x80\x02ctorch.storage\nUntypedStorage\n(\x8a\x08\0\0\0\0\0\0\0\x10tR."),
        "tuples without end": zipped(b"\x80\x02" + b"(" * 300_000 + b"t" * 200_000 + b"."),
        "an operation that is none": zipped(b"\x80\x02\xff\xff."),
        "half a pickle": zipped(fine[:-3]),
        "no pickle": zipped(b""),
        "half an archive": good.getvalue()[: len(good.getvalue()) // 2],
        "a wrong checksum": good.getvalue().replace(b"\x80\x3f", b"\x80\x4f", 1),
    }


def torch_legacy(data: bytes) -> bytes:
    """A file as torch wrote before 1.6, around any pickle."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, 2) for part in head) + data + pickle.dumps([], 2)


def sharing() -> bytes:
    """An archive whose 2,000 parts all are the same megabyte."""
    data = zipped(b"N.", **{"data/0": os.urandom(1 << 20)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        part, start = archive.getinfo("archive/data/0"), archive.start_dir
    entry = struct.pack(
        "<4s4B4HL2L5H2L",
        *(b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0, part.CRC, part.file_size, part.file_size),
        *(len("archive/data/0"), 0, 0, 0, 0, 0, part.header_offset),
    )
    entries = (entry + b"archive/data/0") * 2000
    return data[:start] + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2000, 2000, len(entries), start, 0)


def twice() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO(zipped(b"N."))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr("archive/DATA.pkl", pickle.dumps({"weights": 2}, 2))
    return buffer.getvalue()


def claiming(data: bytes, size: int) -> bytes:
    """An archive whose first part claims to be huge."""
    whole = bytearray(zipped(data))
    at = whole.index(b"PK\1\2")
    whole[at + 20 : at + 28] = struct.pack("<2L", size, size)
    return bytes(whole)


def seals() -> dict[str, bytes]:
    """Whole files whose archive is fine, and whose description or seal is not."""
    archive = zipped(pickle.dumps({"weights": 1}, 2))
    texts = {
        "JSON nested 1,000,000 deep": "[" * 1_000_000,
        "objects nested 100,000 deep": '{"a":' * 100_000,
        "a step of 5,000 digits": json.dumps(DESCRIPTION).replace('"step": 5', '"step": ' + "9" * 5000),
        "a step of 4,000 digits": json.dumps(DESCRIPTION).replace('"step": 5', '"step": ' + "9" * 4000),
        "a step of 1e999": json.dumps(DESCRIPTION).replace('"step": 5', '"step": 1e999'),
        "a step that is NaN": json.dumps(DESCRIPTION).replace('"step": 5', '"step": NaN'),
        "a step below 0": json.dumps(DESCRIPTION).replace('"step": 5', '"step": -1'),
        "an epoch of 1e999": json.dumps(DESCRIPTION).replace('"epoch": null', '"epoch": 1e999'),
        "a figure of 400 digits": json.dumps(DESCRIPTION).replace("{}", '{"loss": ' + "9" * 400 + "}"),
        "figures that are a list": json.dumps(DESCRIPTION).replace("{}", "[1]"),
        "not UTF-8": '"\udcff',
    }
    files = {name: archive + _seal(archive, text.encode(errors="surrogateescape")) for name, text in texts.items()}
    for name, lengths in {"JSON of 2**60 bytes": (0, 1 << 60), "archive of 2**63 bytes": (1 << 63, 2)}.items():
        files[name] = archive + b"{}" + storage._LENGTHS.pack(storage.MAGIC, *lengths) + bytes(64)
    return files


def _seal(archive: bytes, text: bytes) -> bytes:
    class Encoded(str):
        def encode(self, *args: Any) -> bytes:  # type: ignore[override]
            return text

    real = storage.json.dumps
    storage.json.dumps = lambda *args, **named: Encoded()  # type: ignore[assignment]
    try:
        return storage.seal_of(archive, {})
    finally:
        storage.json.dumps = real


class Watch:
    """An audit hook: what of the harmful happened."""

    EVENTS = ("os.system", "subprocess.", "os.exec", "os.posix_spawn", "os.fork", "pty.", "socket.", "os.remove")

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.on = False
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: Any) -> None:
        if self.on and self._harmful(event, arguments):
            self.seen.append(f"{event} {arguments!r:.100}")

    def _harmful(self, event: str, arguments: Any) -> bool:
        if event == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if event == "compile":
            return arguments[1] in ("<string>", b"<string>")
        if event == "exec":
            return bool(getattr(arguments[0], "co_filename", "") == "<string>")
        return event.startswith(self.EVENTS)


def _peak() -> int:
    """The most memory this process has had, in MiB."""
    found = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(found[0].split()[1]) // 1024


def careless(folder: Path, watch: Watch) -> int:
    """Load the pickles as one should not: the hook has to see each."""
    seen = 0
    for name, data in pickles(folder / "canary").items():
        if name.startswith("torch's"):
            continue  # it is code only for torch's own loader
        watch.seen.clear()
        watch.on = True
        try:
            pickle.loads(data)
        except Exception:
            pass
        finally:
            watch.on = False
        assert watch.seen, f"{name} does nothing, so refusing it proves nothing"
        seen += 1
    return seen


def refused(what: str, path: Path, function: Callable[[], Any], kinds: tuple[type[EngineError], ...]) -> str:
    """See that a call fails with an error that names the file."""
    started = time.monotonic()
    try:
        found = function()
    except kinds as error:
        assert path.name in str(error), f"{what}: {error}"
        assert len(str(error)) < 2000, f"{what}: a message of {len(str(error))} characters"
        assert time.monotonic() - started < PATIENCE, f"{what}: took {time.monotonic() - started:.1f} s"
        return str(error)
    raise AssertionError(f"{what} was read: {found!r:.100}")


def load_one(what: str, archive: bytes | None, whole: bytes, folder: Path) -> int:
    """Try to load a file in every way; return how many those were."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    path, tried = checkpoints / "step-000000000005.ckpt", 0
    store = CheckpointStore(checkpoints)
    for form, data in {"sealed": whole, "unsealed": archive}.items():
        if data is None:
            continue
        path.write_bytes(data)
        if form == "unsealed" or archive is not None:
            refused(f"{what}, {form}", path, functools.partial(storage.read_sealed, path), (StorageError,))
        refused(f"{what}, {form}, newest", path, store.newest, (CheckpointError,))
        refused(f"{what}, {form}, restore", path, functools.partial(store.restore, {}), (CheckpointError,))
        tried += 1
    if archive is not None:
        load = functools.partial(storage.load_archive, path, io.BytesIO(archive))
        refused(f"{what}, as an archive", path, load, (StorageError,))
        tried += 1
    path.unlink()
    return tried


def child(folder: Path) -> dict[str, Any]:
    """What the process under the hook does."""
    files: dict[str, tuple[bytes | None, bytes]] = {}
    everything = {name: zipped(data) for name, data in pickles(folder / "canary").items()} | archives(folder)
    for name, data in everything.items():
        files[name] = data, data + storage.seal_of(data, DESCRIPTION)
    files |= {name: (None, whole) for name, whole in seals().items()}
    warm = CheckpointStore(folder / "warm")
    warm.save({"weights": torch.ones(3)}, 1)
    warm.newest()
    watch = Watch()
    Path("/proc/self/clear_refs").write_text("5")  # making the files took memory, too: the peak begins anew
    before, tried = _peak(), 0
    landed: Counter[str] = Counter()
    for name, (archive, whole) in files.items():
        kind = "runs code" if name in pickles(folder) else "archive" if archive is not None else "description"
        # Making the file is ours; only what happens to it is watched.
        tried += _watched(watch, name, archive, whole, folder)
        landed[kind] += 1
    assert not (folder / "canary").exists(), "something ran"
    memory = _peak() - before
    assert memory < MEMORY, f"{memory} MiB of memory were needed"
    landed["seen by the hook when loaded carelessly"] = careless(folder, watch)
    goes_on(folder)
    return {"tried": tried, "landed": dict(landed), "memory": memory}


def _watched(watch: Watch, name: str, archive: bytes | None, whole: bytes, folder: Path) -> int:
    watch.seen.clear()
    watch.on = True
    try:
        tried = load_one(name, archive, whole, folder)
    finally:
        watch.on = False
    harm = [seen for seen in watch.seen if "step-000000000005.ckpt" not in seen]
    assert not harm, f"{name}: {harm}"
    return tried


def goes_on(folder: Path) -> None:
    """A save and a load beside a hostile file."""
    (folder / "checkpoints" / "step-000000000009.ckpt").write_bytes(zipped(pickles(folder / "canary")["os.system"]))
    store = CheckpointStore(folder / "checkpoints")
    store.save({"weights": torch.ones(3)}, 1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = store.newest()
    assert found is not None
    assert found.step == 1
    assert "step-000000000009.ckpt" in str(said[0].message)
    store.close()


#: Each has to be refused as the name of a run.
NAMES = (
    *("", " ", ".", "..", "../x", "a/../b", "..\\x", "a/b", "/", "/x", "//x", "/tmp/x", "a\\b", "\\\\host\\x"),
    *("C:", "C:\\x", "c:x", "a:b", "~", "~root", "a\0", "\0", "../x\0.ckpt", "a\n", "a\nb", "a\r", "a\tb", "\x1b[2J"),
    *("a.", "a..", "a ", " a", ".hidden", "-rf", "a..b", "%2e%2e%2fx", "..%2fx", "%00", "..%c0%afx"),
    *(
        "a\u2215b",
        "a\u2044b",
        "a\uff0fb",
        "\u2024\u2024",
        "\uff0e\uff0e",
        "\u2025",
        "\u2026",
        "a\uff3cb",
        "a\u202eb",
        "a\u200bb",
        "\ufeffa",
        "a\u2028b",
    ),
    *("con", "CON", "nul.txt", "aux", "prn", "COM1", "lpt9.ckpt", "x" * 121, "é" * 121, "字" * 100, "\ud800"),
    *("$HOME", "`id`", "a;b", "a|b", "a*", "a?", "<a>", '"a"', "'a'", "a&b", "{a}", "[a]", "a!", "#a"),
)


def names(folder: Path) -> Counter[str]:
    """Refuse the names before anything is made, wherever a run can be named."""
    landed: Counter[str] = Counter()
    before, here = _below(folder), os.getcwd()
    os.chdir(folder)
    try:
        for name in NAMES:
            _refuse_name(name, lambda n: check_id("running_id", n))
            _refuse_name(name, lambda n: Trainer(torch.nn.Linear(1, 1), running_id=n, verbose=0))
            landed["name of a run"] += 1
            assert _below(folder) == before, f"{name!r} made something"
    finally:
        os.chdir(here)
    run_folder = RunFolder(folder / "runs", check_id("running_id", "a-1_b.c"))
    run_folder.open()
    run_folder.close()
    return landed


def _refuse_name(name: str, function: Callable[[str], Any]) -> None:
    try:
        function(name)
    except ArgumentError as error:
        assert "running_id" in str(error), error
        return
    raise AssertionError(f"{name!r} was taken as the name of a run")


def _below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def run(full: bool) -> dict[str, Any]:
    """All files and names; there is no shorter selection, since all of it takes seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, __file__, "--child", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        told = json.loads(done.stdout)
        landed = Counter(told["landed"]) + names(folder)
    injected = told["tried"] + len(NAMES)
    detail = f"{told['tried']} loads of hostile files took {told['memory']} MiB and ran nothing"
    return {"injected": injected, "landed": dict(landed), "survived": injected, "detail": detail}


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(json.dumps(child(Path(sys.argv[-1]))))
    else:
        print(run("--quick" not in sys.argv))
