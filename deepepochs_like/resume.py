"""What a trainer keeps on disk and goes on from: its run folder, opened and closed around a `fit`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import CheckpointStore, Entry, entry_of
from .errors import ArgumentError, ArgumentTypeError, CheckpointError, a_kind, did_you_mean
from .run import RunFolder, check_id, find_path, legacy_hint, newest_run
from .types import StateDict

#: Where runs lie unless something else is said.
ROOT = "./logs"


def check_resume(resume: Any, running_id: Any) -> tuple[Any, str | None]:
    """Check the two arguments of `Trainer` that name runs, before anything is made.

    Returns:
        `resume` as False, True, ``'auto'``, an id or a Path; and `running_id`.

    Raises:
        ArgumentTypeError, ArgumentError: one is not what is allowed.
    """
    name = None if running_id is None else check_id("running_id", running_id)
    if resume is True or resume is False:
        return resume, name
    if isinstance(resume, os.PathLike):
        return Path(resume), name
    if isinstance(resume, bool) or not isinstance(resume, (str, int)):
        raise ArgumentTypeError(
            f"resume={resume!r}: False, True, 'auto', a run's id or a path is needed, not {a_kind(resume)}"
        )
    if resume == "auto":
        if name is None:
            raise ArgumentError("resume='auto' goes on with the run named running_id: pass running_id='...', too")
        return resume, name
    text = str(resume)
    if os.sep in text and Path(text).exists():
        return Path(text), name
    if os.sep in text:
        raise CheckpointError(f"resume={text!r}: there is no such file or folder")
    return check_id("resume", resume), name


@dataclass
class Found:
    """What a run goes on from."""

    entry: Entry
    state: StateDict


def run_folder(trainer: Any) -> RunFolder | None:
    """The run folder that a trainer's arguments name, neither made nor locked; None where they name none."""
    root, resume = root_of(trainer), trainer.resume
    if trainer.running_id is not None:
        return RunFolder(root, trainer.running_id)
    if isinstance(resume, str):
        return RunFolder(root, resume)
    if isinstance(resume, Path) and (folder := find_path(resume)[1]) is not None:
        return RunFolder(folder.parent, folder.name)
    return None


def root_of(trainer: Any) -> Path:
    """The folder in which the runs lie: the trainer's, or the one that its callbacks were given.

    Raises:
        ArgumentError: they were given several.
    """
    named = {str(Path(c.root)): f"{type(c).__name__}({c.root!r})" for c in trainer.callbacks if getattr(c, "root", "")}
    if trainer.folder is not None:
        named[str(Path(trainer.folder))] = f"Trainer(folder={str(trainer.folder)!r})"
    others = {path: name for path, name in named.items() if path != str(Path(ROOT))} or named
    if len(others) > 1:
        raise ArgumentError(f"a run lies in one folder; there are {', '.join(others.values())}")
    root = Path(next(iter(others), ROOT))
    # A relative one is where it was when a run was opened in it, wherever the process has gone since.
    return trainer.run_root[1] if trainer.run_root and trainer.run_root[0] == root else root


def open_run(trainer: Any) -> None:
    """Make and lock the run folder where something is to be kept, and read what is to be gone on from.

    What was read is loaded after before_fit, by `restore_run`.

    Raises:
        CheckpointError: the run or path that was named is not there, or none of its checkpoints is valid; or the
            folder cannot be written to.
        RunLockedError: another process writes to the run.
        ArgumentError: the folder has later checkpoints than the one that is gone on from.
    """
    resume = False if trainer.resumed else trainer.resume
    if resume is False and not any(getattr(c, "keeps_files", False) for c in trainer.callbacks):
        return
    where = _where(trainer, resume)
    folder = run_folder(trainer) or (RunFolder(where[1].parent, where[1].name) if where[1] else None)
    folder = folder or RunFolder(root_of(trainer), None)
    named = root_of(trainer)
    if trainer.main_process:
        folder.open()
    if not named.is_absolute():
        trainer.run_root = named, Path(os.path.abspath(named))
    try:
        found = _read(resume, where[0]) if where[0] is not None else None
        step = found.entry.step if found else trainer.progress.step
        _refuse_later(CheckpointStore(folder.checkpoints), found, step, folder.name)
    except BaseException:
        folder.close()
        raise
    trainer.run_folder, trainer.running_id = folder, folder.name
    if trainer.folder is None and folder.root != root_of(trainer):
        trainer.folder = folder.root
    trainer.resuming = found.state if found else None
    if found and trainer.verbose:
        done = f"{found.entry.epoch} epochs and {found.entry.step} updates are done"
        trainer.print(f"going on from {found.entry.path}: {done}")


def advice(trainer: Any) -> str:
    """What to do about a state of a run that does not fit the trainer that is to go on from it."""
    entries = CheckpointStore(trainer.run_folder.checkpoints).entries() if trainer.run_folder else []
    path = str(entries[0].path) if entries else "<its checkpoint>"
    return (
        "to go on with this run, build the trainer as it was, with its model, optimizer and callbacks; to begin "
        f"another, take another running_id: trainer.load_weights({path!r}, strict=False) gives it the weights that fit"
    )


def close_run(trainer: Any) -> None:
    """Let others have the run folder."""
    folder, trainer.run_folder, trainer.resuming = trainer.run_folder, None, None
    if folder is not None:
        folder.close()


def _where(trainer: Any, resume: Any) -> tuple[Path | None, Path | None]:
    """Where to read checkpoints from, a folder of them or a file, and the run folder they belong to."""
    if resume is False:
        return None, None
    if resume is True:
        newest = newest_run(root_of(trainer))
        return (newest[1].path.parent, newest[0]) if newest else (None, None)
    if isinstance(resume, Path):
        return find_path(resume)
    root = root_of(trainer)
    name = trainer.running_id if resume == "auto" else resume
    folder = RunFolder(root, name)
    if resume == "auto":
        hint = legacy_hint(folder.path) if trainer.pending is None and not trainer.progress.epochs_done else ""
        if hint and CheckpointStore(folder.checkpoints).survey() == ([], []):
            raise CheckpointError(f"resume='auto': {folder.path} holds no checkpoints of this library{hint}")
        return folder.checkpoints, folder.path
    if not folder.path.is_dir():
        there = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        known = did_you_mean(str(name), ["auto", *there]) + (f"; there are {', '.join(there[-5:])}" if there else "")
        raise CheckpointError(f"resume={name!r}: there is no run {folder.path}{known}")
    if CheckpointStore(folder.checkpoints).survey() == ([], []):
        raise CheckpointError(f"resume={name!r}: {folder.path} holds no checkpoints{legacy_hint(folder.path)}")
    return folder.checkpoints, folder.path


def _read(resume: Any, where: Path) -> Found | None:
    if where.is_dir() or not where.exists():
        found = CheckpointStore(where).newest_content()
    else:
        entry = entry_of(where)
        found = entry, entry.read()
    return Found(*found) if found else None


def _refuse_later(store: CheckpointStore, found: Found | None, step: int, name: str) -> None:
    """A run that begins, or goes on, behind checkpoints of the same folder would be taken for them when it resumes."""
    entries = [e for e in store.entries() if e.step > step or (found is None and step == 0)]
    if found is not None and found.entry.path.parent == store.folder:
        newer = [e for e in entries if e.path != found.entry.path]
        entries = [e for e in newer if _valid(e)]  # those that were passed over are damaged
    if entries:
        raise ArgumentError(
            f"the run {name!r} has checkpoints up to update {entries[0].step} ({entries[0].path}), and this fit begins "
            f"at update {step}: go on from them with resume='auto', or take another running_id"
        )


def _valid(entry: Entry) -> bool:
    try:
        entry.read()
    except ValueError:
        return False
    return True
