"""`MLflowLogger`: figures as a run of MLflow."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ArgumentTypeError, refuse_unknown
from ..types import StateDict
from ..utils.extras import need
from ..utils.warn import warn
from .logger import Logger, folder_of
from .timer import PHASES

#: What MLflow asks for before it writes plain files: it keeps them, but no longer develops them.
_ALLOW_FILES = "MLFLOW_ALLOW_FILE_STORE"
_TAG = "running_id"
#: What MLflow takes in one call, of a name, and of a parameter.
_MOST_FIGURES, _LONGEST_NAME, _LONGEST_PARAM = 1000, 250, 6000
#: How the figures of a `Timer` end, behind a task's prefix: no two attempts take the same time.
_TIMES = tuple(f"time.{phase}" for phase in PHASES)


class MLflowLogger(Logger):
    """Write a run's figures and hyper-parameters to MLflow; see `Logger` for which. It needs ``mlflow-skinny``.

    By default they go to plain files, ``mlruns`` in the folder in which the runs lie: look at them with
    ``MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri logs/mlruns``. A resumed run goes on in MLflow's run of
    the same name; as nothing can be taken out of that, steps that a figure has there already are not written again: a
    run that is resumed comes to the same values, and one that does not, as it was changed in between, is a warning.
    MLflow reports what it is used for to its makers, unless ``MLFLOW_DISABLE_TELEMETRY`` says otherwise: where it is
    imported here, and that is not set, it reports nothing.

    Args:
        experiment: the experiment's name; it is made where there is none.
        tracking_uri: a server's or a database's address, where it is not to be files.
        every: also write a batch's figures after every so many updates.
        priority: its place among the callbacks.

    Raises:
        ModuleNotFoundError: when a run begins, if MLflow is not installed.
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> MLflowLogger("digits", every=50).state_key()
        'MLflowLogger(digits)'
    """

    keeps_files = True
    takes_pictures = True

    def __init__(
        self,
        experiment: str = "deepepochs_like",
        tracking_uri: str | None = None,
        every: int | None = None,
        *,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("MLflowLogger", unknown, MLflowLogger.__init__)
        super().__init__(every, priority=priority)
        if not isinstance(experiment, str) or not experiment:
            raise ArgumentTypeError(f"experiment={experiment!r}: a name is needed")
        if not (tracking_uri is None or isinstance(tracking_uri, str)):
            raise ArgumentTypeError(f"tracking_uri={tracking_uri!r}: an address is needed, or None for files")
        self.experiment, self.tracking_uri = experiment, tracking_uri
        #: MLflow's id of the run, once it has begun.
        self.run_id: str | None = None
        self._loaded: str | None = None
        self._folder: Path | None = None  # of the run that the last fit has written
        self._begun: tuple[Path, str] | None = None  # a run that was begun outside a fit: its folder, and MLflow's id
        self._client: Any = None
        self._found = False  # whether it has figures of an earlier life
        self._there: dict[str, dict[int, float]] = {}  # those, by step, of the figures written since
        self._last: dict[str, tuple[int, float]] = {}
        self._status: str | None = None
        self._retells = False  # whether a figure may come to a step again, where MLflow shows the later one
        self._told = False

    def state_key(self) -> str:
        return f"{type(self).__name__}({self.experiment})"

    def state_dict(self) -> StateDict:
        return {"run_id": self.run_id if self._loaded is None else self._loaded}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._loaded, self._folder = state_dict["run_id"], None

    def open(self, trainer: Any) -> None:
        with _silent():
            tracking = need("mlflow.tracking", "mlflow", "MLflowLogger")
        folder = folder_of(self, trainer)
        with _files_allowed():
            address = self.tracking_uri or (folder.parent / "mlruns").as_uri()
            self._client = tracking.MlflowClient(tracking_uri=address)
        fit = trainer.running == "fit"
        self._status, self._there, self._last, self._found = "FAILED" if fit else None, {}, {}, not fit
        self._retells = not fit
        if self._folder != folder:
            self._find(trainer, folder)
        if fit:
            self._folder, self._loaded, self._begun = folder, None, None
            self._client.update_run(self.run_id, status="RUNNING")

    def _find(self, trainer: Any, folder: Path) -> None:
        """Find MLflow's run of the folder's name where there is one to go on with, else begin one.

        A fit always goes on with the one that this logger has begun for it, for a test or a log before it.
        """
        client, name, fit = self._client, folder.name, trainer.running == "fit"
        begun = self._begun[1] if self._begun and self._begun[0] == folder else None
        there = client.get_experiment_by_name(self.experiment)
        experiment = there.experiment_id if there else client.create_experiment(self.experiment)
        found = client.search_runs([experiment], f"tags.{_TAG} = '{name}'")
        own = [run for known in (self._loaded, begun) for run in found if known and run.info.run_id == known]
        found = own or (found if trainer.resume is not False or not fit else [])
        if not found:
            self.run_id = str(client.create_run(experiment, tags={_TAG: name}, run_name=name).info.run_id)
            self._begun = None if fit else (folder, self.run_id)
            return
        self.run_id, self._found = found[0].info.run_id, True
        self._retells = not fit or self.run_id == begun

    def write(self, figures: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = {_name(figure): float(value) for figure, value in figures.items()}
        new = [Metric(name, value, now, step) for name, value in named.items() if self._is_new(name, value, step)]
        for start in range(0, len(new), _MOST_FIGURES):
            self._client.log_batch(self.run_id, metrics=new[start : start + _MOST_FIGURES])

    def _is_new(self, name: str, value: float, step: int) -> bool:
        """Whether a figure is not there already, of an earlier life, or of this one: a batch's that ends an epoch."""
        before = self._earlier(name).get(step)
        if before is None:
            last, self._last[name] = self._last.get(name), (step, value)
            return last is None or last[0] != step or not _alike(last[1], value, self._tolerance)
        if _alike(before, value, self._tolerance):
            return False
        if self._retells:
            return True
        self._warn_once(name, step, before, value)
        return False

    @property
    def _tolerance(self) -> float:
        """By how much a figure may differ from what is there, and be the same: of a later test by a rounding alone."""
        return 1e-6 if self._retells else 1e-3

    def _earlier(self, name: str) -> dict[int, float]:
        """A figure's values by step, as they were when it was opened."""
        if name not in self._there:
            history = self._client.get_metric_history(self.run_id, name) if self._found else []
            self._there[name] = {metric.step: metric.value for metric in history}
        return self._there[name]

    def supersede(self, trainer: Any, figures: dict[str, float], step: int) -> dict[str, float]:
        if trainer.running == "fit":
            return figures
        before = {name: self._earlier(_name(name)).get(step) for name in figures}
        new = {name: value for name, value in figures.items() if not _alike(value, before[name], self._tolerance)}
        return super().supersede(trainer, new, step) if new else {}

    def _warn_once(self, name: str, step: int, before: float, value: float) -> None:
        stage = name.partition("/")[0] in ("train", "val", "train_batch")  # others may tell times or memory
        if stage and not self._told and not name.endswith(_TIMES):
            self._told = True
            warn(
                f"MLflowLogger: {name} is {value:.6g} at update {step}; an earlier attempt at this run, which nothing "
                f"can be taken out of, has {before:.6g} there. What it has stays; to have curves of its own, give the "
                "run another running_id"
            )

    def write_picture(self, name: str, picture: Any, step: int) -> None:
        self._client.log_figure(self.run_id, picture, f"{_name(name)}/{step:08d}.png")

    def write_hyper_params(self, values: dict[str, Any]) -> None:
        there = self._client.get_run(self.run_id).data.params
        for name, value in values.items():
            name, text = _name(name), str(value)[:_LONGEST_PARAM]
            if name not in there:
                self._client.log_param(self.run_id, name, text)
            elif there[name] != text:
                message = (
                    f"MLflowLogger: {name} is {text} now; the run has it as {there[name]}, which cannot be changed"
                )
                warn(message)

    def on_after_fit(self, trainer: Any) -> None:
        if self._status:
            self._status = "KILLED" if trainer.progress.stage else "FINISHED"

    def close(self) -> None:
        client, self._client = self._client, None
        begun = self._begun is not None and self._begun[1] == self.run_id  # perhaps for a test alone: no fit comes
        if status := self._status or ("FINISHED" if begun else None):
            client.set_terminated(self.run_id, status)


def _name(figure: str) -> str:
    """A name as MLflow allows it: a path of letters, digits and a few signs, none of whose parts is empty or dots."""
    parts = re.sub(r"[^\w\-. :/]", "_", figure).split("/")
    return "/".join(part if part.strip(".") else "_" * max(len(part), 1) for part in parts)[:_LONGEST_NAME]


def _alike(one: float, other: float | None, tolerance: float) -> bool:
    """Whether two values are the same, but for the last digits, which another device may have added up otherwise."""
    if other is None:
        return False
    alike = math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance / 1e3)
    return alike or (math.isnan(one) and math.isnan(other))


@contextmanager
def _set(name: str, *others: str) -> Iterator[None]:
    """Set an environment variable to true, unless the user has said something about that."""
    if any(key in os.environ for key in (name, *others)):
        yield
        return
    os.environ[name] = "true"
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _files_allowed() -> AbstractContextManager[None]:
    """Let MLflow use plain files."""
    return _set(_ALLOW_FILES)


def _silent() -> AbstractContextManager[None]:
    """Keep MLflow, as it is imported, from asking a server in a thread of its own what to report to it.

    That thread would also draw from Python's global generator, whenever the answer comes.
    """
    return _set("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
