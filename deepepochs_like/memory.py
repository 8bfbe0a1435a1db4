"""What a trainer remembers and tells of itself: its state in memory and on disk, and what its run consists of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import storage
from .checkpoint import CheckpointStore, entry_of
from .errors import ArgumentError, CheckpointError
from .explain import explain_run
from .legacy import load_deepepochs
from .resume import run_folder
from .run import CHECKPOINTS, RunFolder
from .state import load_trainer_state, trainer_state
from .types import StateDict
from .weights import WeightsReport, load_weights, save_weights


class Memory:
    """State in and out, weights in and out, and an account of the run."""

    print: Any
    model: Any
    callbacks: Any
    progress: Any
    run_folder: RunFolder | None
    aside: Aside | None

    def explain(self) -> None:
        """Print what a run consists of: model, device, and every hook in the order in which it fires."""
        self.print(explain_run(self))

    def state_dict(self) -> StateDict:
        """All that a run needs to go on as if nothing had happened, also in the middle of an epoch.

        Models, loss, optimizers, schedulers, callbacks, history, progress, the figures of an epoch in progress, an open
        accumulation window with its gradients, loaders and generators: tensors, numbers, strings and containers of
        them, which load with ``weights_only=True``. Tensors are the live ones: copy or save them before going on.
        """
        return trainer_state(self)

    def load_state_dict(self, state: StateDict) -> None:
        """Take over a state; the next `fit` goes on from it to the epochs (or steps) its own arguments name.

        Raises:
            StateError: something does not fit; the message names it, and nothing was changed.
        """
        load_trainer_state(self, state)
        self.aside = None

    def save_checkpoint(self, path: str | os.PathLike[str]) -> Path:
        """Write the whole state to a file of your choice, sealed like those of `Checkpoint`.

        Raises:
            CheckpointError: the disk refuses; a file that was there before is as it was.
        """
        about = {"kind": "deepepochs_like checkpoint", "format": 1, "pinned": False, "figures": {}, "time": 0.0}
        about |= {"step": self.progress.step, "epoch": self.progress.epoch}
        storage.write_sealed(Path(path), self.state_dict(), about)
        return Path(path)

    def load_checkpoint(self, path: str | os.PathLike[str]) -> Any:
        """Take over the state in a checkpoint: a file, or a folder's newest valid one; also one of DeepEpochs.

        The next `fit` goes on from it. Nothing in a file is ever run. Of DeepEpochs' files it takes model, optimizers,
        schedulers and epoch; see `load_deepepochs`.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError, StorageError: it is damaged, or none of the folder's files is valid.
            StateError: it does not fit; the message names what, and nothing was changed.
        """
        path = Path(path)
        folder = next((f for f in (path / CHECKPOINTS, path) if any(CheckpointStore(f).survey())), None)
        if folder is not None and not (path / "meta.ckpt").exists():
            found = CheckpointStore(folder).newest_content()
            assert found is not None
            self.load_state_dict(found[1])
        elif path.is_file() and storage.is_sealed(path):
            entry_of(path)
            self.load_state_dict(storage.read_sealed(path)[0])
        else:
            load_deepepochs(self, path)
            self.aside = None
        return self

    def save_weights(self, path: str | os.PathLike[str]) -> Path:
        """Write the model's weights alone to a ``.pt`` or ``.safetensors`` file; see `save_weights`."""
        return save_weights(self.model.model, path)

    def load_weights(self, path: str | os.PathLike[str], strict: bool = True) -> WeightsReport:
        """Load weights into the model; without `strict` what fits by name and shape, with a printed report.

        Raises:
            CheckpointError, StorageError, StateError: see `load_weights`; the model is as it was.
        """
        report = load_weights(self.model.model, path, strict)
        self.aside = None
        if not strict:
            self.print(report)
        return report

    def find_run(self) -> RunFolder | None:
        """The run folder, also outside of a `fit`; None where none has been named or made yet."""
        return self.run_folder or run_folder(self)

    def use_weights(self, which: str | os.PathLike[str]) -> None:
        """Put other weights into the model, to look at them: ``'best'``, ``'last'``, or a file's.

        They stay there; a later `fit` goes on from the ones that training had reached, unless weights are loaded or
        changed in between.

        Raises:
            CheckpointError: there is no such checkpoint.
            StateError: they do not fit; the model is as it was.
        """
        path = self._checkpoint(which) if which in ("best", "last") else Path(which)
        aside = Aside(self.model.model) if self.aside is None or self.aside.changed() else self.aside
        load_weights(self.model.model, path)
        aside.look()
        self.aside = aside

    def _checkpoint(self, which: Any) -> Path:
        keeper = next((c for c in self.callbacks if getattr(c, "keeps_checkpoints", False)), None)
        store = keeper.store_of(self) if keeper is not None else None
        if store is None:
            raise ArgumentError(
                f"weights={which!r}: no callback keeps checkpoints of this run; add Checkpoint(...), or pass a path"
            )
        entry = store.newest() if which == "last" else store.best() if store.monitor else None
        if entry is None:
            why = "nothing is monitored; pass Checkpoint('val/loss')" if not store.monitor else "there is none yet"
            raise CheckpointError(f"weights={which!r}: {store.folder} has no such checkpoint: {why}")
        path: Path = entry.path
        return path


class Aside:
    """The weights of training, kept while others are looked at."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.state = {name: value.detach().clone() for name, value in _tensors(module).items()}
        self.look()

    def look(self) -> None:
        """Remember the weights as they are now, by their version."""
        self.versions = {name: value._version for name, value in _tensors(self.module).items()}

    def changed(self) -> bool:
        """Whether somebody has changed the weights since."""
        return self.versions != {name: value._version for name, value in _tensors(self.module).items()}

    def put_back(self) -> None:
        """Give the module the weights of training again, unless somebody has changed what was looked at."""
        if not self.changed():
            self.module.load_state_dict(self.state, strict=False)


def _tensors(module: Any) -> dict[str, Any]:
    return {name: value for name, value in module.state_dict().items() if hasattr(value, "_version")}
