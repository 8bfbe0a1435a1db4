"""What a trainer remembers and tells of itself: its state in memory and on disk, and what its run consists of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import storage
from .checkpoint import CheckpointStore, entry_of
from .errors import ArgumentError, CheckpointError, StateError
from .events import attach_added, detach_removed
from .explain import explain_run
from .legacy import load_deepepochs
from .plan import trained_modules
from .resume import run_folder
from .run import CHECKPOINTS, RunFolder
from .state import check_module, keyed, load_trainer_state, trainer_state
from .tools import Tools
from .types import StateDict
from .utils.warn import warn
from .weights import (
    WeightsReport,
    load_weights,
    read_content,
    save_weights,
    take_weights,
    weights_file,
    weights_in,
    with_metadata,
)


class Memory(Tools):
    """State in and out, weights in and out, and an account of the run."""

    print: Any
    model: Any
    callbacks: Any
    progress: Any
    loss: Any
    running: str
    run_folder: RunFolder | None
    aside: Aside | None
    #: The folder in which runs lie as it was named when one was opened, and where that was then.
    run_root: tuple[Path, Path] | None = None

    def explain(self, *loaders: Any, **named: Any) -> None:
        """Print what a run consists of: model, optimizers, the way batches take, and who listens to what, in order.

        Args:
            *loaders: the loaders, or `EpochTask`s, to speak of; by default those of the last run.
            **named: the same, to be called by their names, as in ``explain(train_dl=loader)``.

        Raises:
            ArgumentTypeError: one of them is no loader.
        """
        self.print(explain_run(self, loaders, named))

    def state_dict(self) -> StateDict:
        """All that a run needs to go on as if nothing had happened, also in the middle of an epoch.

        Models, loss, optimizers, schedulers, callbacks, history, progress, the figures of an epoch in progress, an open
        accumulation window with its gradients, loaders and generators: tensors, numbers, strings and containers of
        them, which load with ``weights_only=True``. Tensors are the live ones: copy or save them before going on.

        Raises:
            StateError: within `validate`, `test` or `predict`, from where no training could go on.
        """
        if self.running not in ("", "fit"):
            raise StateError(
                f"within {'validate' if self.running == 'val' else self.running}() there is no state that training "
                "could go on from: take it in a hook of fit itself, or when the evaluation is over"
            )
        if not self.running:  # what has been taken out leaves nothing behind, such as gradients that are scaled
            detach_removed(self)
        return trainer_state(self)

    def load_state_dict(self, state: StateDict) -> None:
        """Take over a state; the next `fit` goes on from it to the epochs (or steps) its own arguments name.

        Raises:
            StateError: something does not fit; the message names it, and nothing was changed.
            ArgumentTypeError, HookError: a callback that has come since the last run is none.
        """
        if not self.running:  # or else what has been taken out would take along what is loaded
            detach_removed(self)
            attach_added(self)
        load_trainer_state(self, state)
        self.aside = None

    def save_checkpoint(self, path: str | os.PathLike[str]) -> Path:
        """Write the whole state to a file of your choice, sealed like those of `Checkpoint`.

        Raises:
            StateError: within `validate`, `test` or `predict`.
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
        """Write the model's weights alone to a ``.pt`` or ``.safetensors`` file; see `save_weights`.

        They are those in training; of an average write ``ema.module``.
        """
        return save_weights(self.model.trained_module, path)

    def load_weights(self, path: str | os.PathLike[str], strict: bool = True) -> WeightsReport:
        """Load weights into the model; without `strict` what fits by name and shape, with a printed report.

        Raises:
            CheckpointError, StorageError, StateError: see `load_weights`; the model is as it was.
        """
        report = load_weights(self.model.trained_module, path, strict)
        self.aside = None
        for callback in self.callbacks:
            if hasattr(callback, "begin_anew"):  # what it keeps belongs to the weights before
                callback.begin_anew(self)
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
        path = self._checkpoint(which) if which in ("best", "last") else weights_file(which)
        aside = Aside(trained_modules(self)) if self.aside is None or self.aside.changed() else self.aside
        content = read_content(path)
        state, loss = weights_in(content), self.loss.function
        if not state:
            raise StateError(f"{path} holds no weights by name")
        of_loss = content.get("loss") if isinstance(content, Mapping) and isinstance(loss, nn.Module) else None
        if not isinstance(of_loss, Mapping):
            take_weights(self.model.trained_module, state, str(path))
        else:
            before = deepcopy(loss.state_dict())
            try:
                check_module("loss", loss, of_loss)
                loss.load_state_dict(of_loss)
                take_weights(self.model.trained_module, state, str(path))  # which puts the model's back by itself
            except BaseException:
                loss.load_state_dict(before)
                raise
        aside.look(path)
        self.aside = aside
        averages = content.get("callbacks", {}) if isinstance(content, Mapping) else {}
        for key, callback in keyed(self.callbacks).items():
            if hasattr(callback, "look_at"):
                kind = type(callback).__name__
                if key not in averages and any(other.partition("(")[0] == kind for other in averages):
                    message = f"{which}: it holds no average of {key}, so the weights themselves are looked at"
                    warn(message)
                callback.look_at(self, averages.get(key))

    def _checkpoint(self, which: Any) -> Path:
        keepers = [c for c in self.callbacks if getattr(c, "keeps_checkpoints", False)]
        keepers.sort(key=lambda c: getattr(c, "monitor", None) is None)  # of several the first that tells a best
        store = keepers[0].store_of(self) if keepers else None
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

    def __init__(self, modules: list[nn.Module]) -> None:
        self.modules = modules
        self.states = [with_metadata({k: _kept(v) for k, v in s.items()}, _noted(s)) for s in self._now()]
        #: The file that the weights looked at are from.
        self.path: Path | None = None
        self.look()

    def _now(self) -> list[dict[str, Any]]:
        return [module.state_dict() for module in self.modules]

    def _versions(self) -> list[dict[str, int]]:
        return [{name: v._version for name, v in s.items() if isinstance(v, torch.Tensor)} for s in self._now()]

    def look(self, path: Path | None = None) -> None:
        """Remember the weights as they are now, by their version, and the file that they are from, if that is new."""
        self.versions, self.path = self._versions(), path or self.path

    def changed(self) -> bool:
        """Whether somebody has changed the weights since."""
        return self.versions != self._versions()

    def put_back(self) -> None:
        """Give the modules the weights of training again, unless somebody has changed what was looked at."""
        if not self.changed():
            for module, state in zip(self.modules, self.states, strict=True):
                module.load_state_dict(state, strict=False)


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else deepcopy(value)


def _noted(state: Any) -> Any:
    return getattr(state, "_metadata", None)
