"""`validate`, `test` and `predict`: a trained model looked at, without changing it."""

from __future__ import annotations

from copy import copy
from typing import Any, NoReturn

import torch

from .batch import split_batch
from .errors import ArgumentError, BatchError, refuse_unknown
from .history import Result
from .plan import tasks_of
from .scope import Guard, RunScope
from .task import EpochTask
from .tensors import concat, map_tensors
from .types import Stage
from .utils.containers import listify
from .utils.warn import warn


class Evaluation:
    """What a trainer can do besides training."""

    _run_stage: Any
    running: str
    stop_reason: str
    passed: bool
    use_weights: Any

    def validate(
        self,
        val_dl: Any = None,
        metrics: Any = None,
        do_loss: bool = True,
        batch_size: Any = None,
        tasks: Any = None,
        *,
        step: Any = None,
        weights: Any = None,
        **unknown: NoReturn,
    ) -> dict[str, Any]:
        """Return the figures of the model as it stands, ``{name: value}``, firing the hooks of validation.

        `weights` as in `test`.
        """
        refuse_unknown("validate", unknown, Evaluation.validate)
        self._look_at(weights)
        return self._evaluate("val", val_dl, metrics, do_loss, batch_size, tasks, step)

    def test(
        self,
        test_dl: Any = None,
        metrics: Any = None,
        do_loss: bool = True,
        batch_size: Any = None,
        tasks: Any = None,
        *,
        step: Any = None,
        weights: Any = None,
        **unknown: NoReturn,
    ) -> dict[str, Any]:
        """Return the figures of the model on test data, ``{name: value}``; the arguments are those of `fit`.

        With ``weights='best'``, ``'last'`` or a path those are put into the model before, and stay there; a later `fit`
        goes on from the ones that training had reached.

        Raises:
            ArgumentError, ArgumentTypeError, LoaderError: as `fit`.
        """
        refuse_unknown("test", unknown, Evaluation.test)
        self._look_at(weights)
        return self._evaluate("test", test_dl, metrics, do_loss, batch_size, tasks, step)

    def _evaluate(
        self, stage: Stage, loader: Any, metrics: Any, do_loss: bool, batch_size: Any, tasks: Any, step: Any
    ) -> dict[str, Any]:
        if loader is None and not listify(tasks):
            where = "validate" if stage == "val" else stage
            raise ArgumentError(f"{where} has nothing to run on: pass {stage}_dl, or tasks")
        if self.running:  # in a hook of another run, which may be using the same tasks
            tasks = [copy(task) if isinstance(task, EpochTask) else task for task in listify(tasks)]
        bound = tasks_of(self, stage, loader, tasks, [metrics], do_loss, batch_size, step)
        figures = Result()
        with RunScope(self, stage, {stage: bound}), Guard(self):
            figures = Result(self._run_stage(stage, bound))
        return figures

    def _look_at(self, weights: Any) -> None:
        if weights is None and self.passed:
            message = (
                "a fit was passed over, as it had ended before; until the next one the weights are those that the "
                "script built, and so are the results: pass weights='last', 'best' or a path"
            )
            warn(message)
        if weights is None:
            return
        if self.running:
            raise ArgumentError(f"weights={weights!r}: within a run the weights are the run's")
        self.use_weights(weights)

    def predict(self, dataloader: Any, *, weights: Any = None) -> Any:
        """Return the model's outputs for all batches, concatenated, in the outputs' own structure, on the CPU.

        Batches are taken apart as in training: the last item of a tuple is a target and no input.

        `weights` as in `test`.

        Raises:
            ArgumentTypeError, LoaderError: as `fit`.
        """
        self._look_at(weights)
        if dataloader is None:
            raise ArgumentError("predict has nothing to run on: dataloader is None")
        bound = tasks_of(self, "predict", dataloader, None, [], False, 1, None)
        with RunScope(self, "predict", {"predict": bound}), Guard(self):
            return predict_all(self, bound[0])


def predict_all(trainer: Any, task: Any) -> Any:
    """Run the predict step over the task's batches and concatenate what it returns, on the CPU."""
    trainer.enter_task(task, "predict")
    source, outputs = task.batch_source, []
    with torch.no_grad():
        for batch in source.stream():
            batch_x, batch_y, _ = split_batch(
                batch, trainer.loss.function is None, trainer.device, task.batch_size or 1
            )
            output = task.run_step(batch_x, batch_y, **task.step_args)
            outputs.append(map_tensors(output, lambda t: t.detach().cpu()))
            source.position += 1
            if trainer.stopping:
                break
        else:
            source.finish()
    try:
        return concat(outputs)
    except (BatchError, RuntimeError) as error:  # after all that work, better the batches than nothing
        message = (
            f"the outputs of the batches cannot be put together ({error}); predict returns them as a list of batches"
        )
        warn(message)
        return outputs
