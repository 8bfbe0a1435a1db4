"""`MLflowLogger`: figures as a run of MLflow."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ..errors import ArgumentTypeError, EngineWarning, refuse_unknown
from ..types import StateDict
from ..utils.extras import need
from .logger import Logger, folder_of

#: What MLflow asks for before it writes plain files: it keeps them, but no longer develops them.
_ALLOW_FILES = "MLFLOW_ALLOW_FILE_STORE"
_TAG = "running_id"


class MLflowLogger(Logger):
    """Write a run's figures and hyper-parameters to MLflow; see `Logger` for which. It needs ``mlflow-skinny``.

    By default they go to plain files, ``mlruns`` in the folder in which the runs lie: look at them with
    ``MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri logs/mlruns``. A resumed run goes on in MLflow's run of
    the same name; as nothing can be taken out of that, steps that a figure has there already are not written again.

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
        self._client: Any = None
        self._there: dict[str, set[int]] = {}
        self._status: str | None = None

    def state_key(self) -> str:
        return f"{type(self).__name__}({self.experiment})"

    def state_dict(self) -> StateDict:
        return {"run_id": self.run_id if self._loaded is None else self._loaded}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._loaded, self._folder = state_dict["run_id"], None

    def open(self, trainer: Any) -> None:
        tracking, folder = need("mlflow.tracking", "mlflow", "MLflowLogger"), folder_of(self, trainer)
        with _files_allowed():
            address = self.tracking_uri or (folder.parent / "mlruns").as_uri()
            self._client = tracking.MlflowClient(tracking_uri=address)
        fit = trainer.running == "fit"
        self._status, self._there = "FAILED" if fit else None, {}
        if self._folder != folder:
            self._find(trainer, folder.name)
        if fit:
            self._folder, self._loaded = folder, None
            self._client.update_run(self.run_id, status="RUNNING")

    def _find(self, trainer: Any, name: str) -> None:
        """Find MLflow's run of this name where there is one to go on with, else begin one."""
        client, goes_on = self._client, trainer.resume is not False or trainer.running != "fit"
        there = client.get_experiment_by_name(self.experiment)
        experiment = there.experiment_id if there else client.create_experiment(self.experiment)
        found = client.search_runs([experiment], f"tags.{_TAG} = '{name}'")
        found = [run for run in found if run.info.run_id == self._loaded] or (found if goes_on else [])
        if not found:
            self.run_id = client.create_run(experiment, tags={_TAG: name}, run_name=name).info.run_id
            return
        self.run_id = found[0].info.run_id
        for figure in found[0].data.metrics if trainer.running == "fit" else ():
            self._there[figure] = {m.step for m in client.get_metric_history(self.run_id, figure)}

    def write(self, figures: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        named, now = {_name(figure): value for figure, value in figures.items()}, int(time.time() * 1000)
        new = [Metric(k, float(v), now, step) for k, v in named.items() if step not in self._there.get(k, ())]
        self._client.log_batch(self.run_id, metrics=new)

    def write_hyper_params(self, values: dict[str, Any]) -> None:
        there = self._client.get_run(self.run_id).data.params
        for name, value in values.items():
            name, text = _name(name), str(value)
            if name not in there:
                self._client.log_param(self.run_id, name, text)
            elif there[name] != text:
                message = (
                    f"MLflowLogger: {name} is {text} now; the run has it as {there[name]}, which cannot be changed"
                )
                warnings.warn(message, EngineWarning, stacklevel=4)

    def on_after_fit(self, trainer: Any) -> None:
        if self._status:
            self._status = "KILLED" if trainer.progress.stage else "FINISHED"

    def close(self) -> None:
        client, self._client = self._client, None
        if self._status:
            client.set_terminated(self.run_id, self._status)


def _name(figure: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", figure)


@contextmanager
def _files_allowed() -> Iterator[None]:
    """Let MLflow use plain files, unless the user has said something about that."""
    if _ALLOW_FILES in os.environ:
        yield
        return
    os.environ[_ALLOW_FILES] = "true"
    try:
        yield
    finally:
        os.environ.pop(_ALLOW_FILES, None)
