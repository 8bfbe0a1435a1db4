"""`Trainer`: fit, validate, test, predict, stop; and the loop itself."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from torch import nn

from .assembly import add_callbacks, assemble
from .binding import merge_tasks
from .callbacks.default import DefaultCallback
from .checks import check_count, check_loss_function, check_models, check_step_names
from .compiling import check_compile
from .ending import Ending
from .errors import refuse_unknown
from .evaluation import Evaluation
from .execution import Local
from .handles import LossHandle, ModelHandle
from .history import History, as_figures
from .hooks import Hooks, fire
from .lazy import LazyFigures
from .memory import Memory
from .optimizer import Optimizers
from .patches.slot import Slot, check_kind
from .plan import Request, plan_fit
from .progress import Progress
from .reporting import Reporting
from .resume import check_resume
from .scope import Guard, RunScope
from .state import restore_run
from .task import EpochTask, Steps, listify
from .types import Stage, StateDict, Weight


class Trainer(Ending, Evaluation, Memory, Reporting, Steps):
    """Train, validate, test and remember a model.

    Args:
        model: a module, or a dict of modules by name (reached as ``trainer.models[name]``).
        loss: ``(model_out, batch_y)`` to a scalar; None where the model returns its loss, bare or under ``'loss'``.
        opt: a torch optimizer, an `Optimizer` with its scheduler, a list or a dict of them; None is Adam at 1e-3.
        epochs: how many epochs `fit` runs.
        device: a torch device or its name, or an `accelerate.Accelerator`; None takes CUDA where there is one.
        callbacks: `Callback` objects.
        metrics: functions ``(preds, targets)`` to a number or a dict, torchmetrics objects, or patches; in every stage.
        metric_patch: how functions are added up over an epoch: ``'tensor'`` keeps all outputs and computes once (exact
            for any metric), ``'mean'`` averages over samples, ``'confusion'`` adds up confusion matrices; or a Patch
            class that takes ``(metric, batch_size)``.
        resume: what to go on from: False nothing; ``'auto'`` the run named `running_id`, where it has checkpoints; True
            the newest run; a run's id, or a path, which has to be there. Anything but False keeps checkpoints.
        running_id: the run's name: what is kept of it lies in ``./logs/<running_id>``; by default a new one.
        hyper_params: a dict, for callbacks that record it.
        log_long: show 7 decimals.
        log_batch: show the figures of the epoch in progress.
        log_tqdm: show one progress bar per epoch instead of the live view.
        show_info: begin with a line about model, device and data.
        auto_traindata_to_device: move training batches to the device.
        compile_model: DeepEpochs' name for ``compile='model'``.
        accumulate: batches per update of the weights; the update is that of the mean over all their samples.
        verbose: 0 prints nothing.
        check_finite: a training loss that is NaN or infinite is an error when figures are next read.
        folder: where runs lie; by default ``./logs``, or what a callback says.
        compile: ``'model'`` puts the models through `torch.compile`; ``'step'`` forward pass, loss and gradients of the
            default steps, as one graph (see `compiling.CompiledStep`). A dict, ``{'what': 'step', 'mode': ...}``, hands
            options on to `torch.compile`. Where the compiler fails, that is a warning, and the run goes on without it.

    Raises:
        ArgumentTypeError, ArgumentError: an argument is not what is needed; the message says what is.
        HookError: a callback has a hook that is none.

    Example:
        >>> net = torch.nn.Linear(2, 1); data = [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> history = Trainer(net, torch.nn.functional.mse_loss, epochs=3, verbose=0).fit(data)
        >>> len(history['train']['loss'])
        3
    """

    models: dict[str, ModelHandle]
    model: ModelHandle
    loss: LossHandle
    opt: Optimizers
    device: torch.device
    execution: Local
    accelerator: Any
    history: History
    compile: dict[str, Any] | None
    compiled_step: Any

    def __init__(
        self,
        model: Any,
        loss: Any = None,
        opt: Any = None,
        epochs: int = 1000,
        device: Any = None,
        callbacks: Any = None,
        metrics: Any = None,
        metric_patch: Any = "tensor",
        resume: Any = False,
        running_id: str | None = None,
        hyper_params: dict[str, Any] | None = None,
        log_long: bool = False,
        log_batch: bool = True,
        log_tqdm: bool = False,
        show_info: bool = True,
        auto_traindata_to_device: bool = True,
        compile_model: bool = False,
        *,
        accumulate: int = 1,
        verbose: int = 1,
        check_finite: bool = True,
        folder: Any = None,
        compile: Any = None,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("Trainer", unknown, Trainer.__init__)
        self.resume, self.running_id = check_resume(resume, running_id)
        self.folder, self.verbose = folder, verbose
        models = check_models(model)
        self.epochs, self.accumulate = check_count("epochs", epochs), check_count("accumulate", accumulate)
        self.metrics, self.metric_patch = listify(metrics), metric_patch
        check_kind(metric_patch)
        for metric in self.metrics:
            Slot(metric, metric_patch)
        self.hyper_params, self.check_finite = hyper_params, check_finite
        self.auto_traindata_to_device = auto_traindata_to_device
        check_loss_function(loss)
        check_step_names(self, Trainer)

        assemble(self, models, loss, opt, device, check_compile(compile, compile_model))
        self.callbacks = listify(callbacks)
        add_callbacks(self, DefaultCallback(log_long, log_batch, log_tqdm, show_info))
        self.history, self.progress, self.hooks = History(), Progress(), Hooks()
        self.main_process, self.print = self.execution.is_main, print
        self.begin_empty()

    def fit(
        self,
        train_dl: Any = None,
        val_dl: Any = None,
        metrics: Any = None,
        val_freq: int = 1,
        do_val_loss: bool = True,
        batch_size: Any = None,
        train_metrics: Any = None,
        val_metrics: Any = None,
        train_tasks: Any = None,
        val_tasks: Any = None,
        epochs: int | None = None,
        *,
        max_steps: int | None = None,
        val_every_steps: int | None = None,
        step: Any = None,
        **unknown: NoReturn,
    ) -> History:
        """Train, and validate where there is something to validate on; a second call goes on from the first.

        Args:
            train_dl: batches ``(*inputs, target)``, dicts, or single tensors.
            val_dl: the same, for validation.
            metrics: metrics of both stages, beside the trainer's.
            val_freq: validate every so many epochs.
            do_val_loss: whether validation computes the loss.
            batch_size: what a batch weighs in means: an int, or a function (batch_x, batch_y) -> int.
            train_metrics: metrics of training alone.
            val_metrics: metrics of validation alone.
            train_tasks: one `EpochTask` or a list, alone or beside `train_dl`.
            val_tasks: the same, for validation.
            epochs: how many more; by default up to the trainer's number. Behind `load_state_dict` it is the number that
                the run as a whole goes to.
            max_steps: train for so many (more) updates of the weights instead, over as many passes as it takes.
            val_every_steps: with `max_steps`, validate after every so many updates; by default after every pass.
            step: a function ``(trainer, batch_x, batch_y, **step_args)`` that is the step of every stage.
            **unknown: nothing else; a misspelt keyword is an error that names the nearest.

        Returns:
            The figures of this call's epochs: ``{'train': {name: [value per epoch]}, 'val': {...}}``.

        Raises:
            ArgumentError, ArgumentTypeError, LoaderError: before the first batch, where it can be known then.
            StepError: with `max_steps`, where the steps make no update in many batches.
        """
        refuse_unknown("fit", unknown, Trainer.fit)
        train_part = Request(train_dl, train_tasks, [train_metrics, metrics])
        val_part = Request(val_dl, val_tasks, [val_metrics, metrics], do_val_loss)
        plan = plan_fit(self, train_part, val_part, batch_size, step, val_freq, epochs, max_steps, val_every_steps)
        if plan.passed is not None:
            return plan.passed
        with RunScope(self, "fit", plan.stages):
            with Guard(self):
                fire(self.hooks.before_fit, trainer=self, epochs=plan.epochs)
                restore_run(self)
                while not self.stopping and not plan.done(self.progress):
                    where = {"train_tasks": plan.train, "val_tasks": plan.val, "epoch_idx": self.progress.epoch}
                    fire(self.hooks.before_epoch, trainer=self, **where)
                    train, val = self._run_stage("train", plan.train, plan.limit(self.progress), plan.restarts), {}
                    if not self.stopping and plan.val_due(self.progress):
                        val = self._run_stage("val", plan.val)
                    if self.progress.stage == "end" or not self.stopping:
                        self._close_epoch(train, val, where)
            with Guard(self):
                self._end_fit()
        return self.history.since(plan.before)

    def _run_stage(
        self, stage: Stage, tasks: list[EpochTask], limit: float = math.inf, restart: bool = False
    ) -> dict[str, Any]:
        """Run the tasks of a stage; of an epoch that was open in a state, from the point where it was cut off."""
        opened = self.progress.opened if self.running == "fit" else None
        if opened is not None and opened["stage"] == "val" and stage == "train":
            self.train_metrics, self.val_metrics = as_figures(opened["train_metrics"]), {}
            return self.train_metrics
        opened = opened if opened is not None and opened["stage"] == stage else None
        progress, hooks, training = self.progress, self.hooks.stages[stage], stage == "train"
        progress.stage, (progress.task, progress.batch) = stage, (opened["task"], opened["batch"]) if opened else (0, 0)
        self.stage_results = [as_figures(result) for result in opened["results"]] if opened else []
        where = {} if stage == "test" else {"epoch_idx": progress.epoch}
        fire(hooks.before_epochs, trainer=self, tasks=tasks, **where)
        with torch.set_grad_enabled(training):
            for task in tasks[progress.task :]:
                self.enter_task(task, stage, opened)
                fire(hooks.before_epoch, trainer=self, task=task)
                if task.run(limit, restart):
                    return {}
                self.stage_results.append(task.figures.read())
                task.figures.release()
                progress.task, progress.batch, progress.begun, opened = progress.task + 1, 0, False, None
                fire(hooks.after_epoch, trainer=self, task=task, metrics=LazyFigures.of(self.stage_results[-1]))
                if self.stop_reason and task is not tasks[-1]:
                    return {}
        figures = merge_tasks(tasks, self.stage_results, self.said)
        if self.running == "fit":
            self.history.record(stage, progress.epoch, figures)
            progress.stage, progress.task, self.stage_results = "val" if training else "end", 0, []
            self.train_metrics, self.val_metrics = (figures, {}) if training else (self.train_metrics, figures)
        self.current_task = None
        fire(hooks.after_epochs, trainer=self, tasks=tasks, metrics=LazyFigures.of(figures), **where)
        return figures

    def enter_task(self, task: EpochTask, stage: Stage, opened: StateDict | None = None) -> None:
        """Make a task the current one: modes, hooks of the model's calls, figures."""
        training, hooks = stage == "train", self.hooks.stages[stage]
        self.current_task, self.progress.begun = task, True
        for handle in {id(h): h for h in [self.model, *self.models.values()]}.values():
            handle.enter(training)
            handle.before, handle.after = hooks.before_forward, hooks.after_forward
        if isinstance(self.loss.function, nn.Module):
            self.loss.function.train(training)
        task.begin(stage, hooks, training and self.check_finite)
        if opened and opened["figures"] is not None:
            task.figures.load_state_dict(opened["figures"], self.device)

    def batch_device(self, stage: Stage) -> torch.device | None:
        """Where a stage's batches go; None leaves them where they are."""
        return self.device if stage != "train" or self.auto_traindata_to_device else None

    def backward(self, loss: torch.Tensor, weight: Weight | None = None, loss_adjust: float = 1.0) -> None:
        """Back-propagate a loss: for steps that do not go through `loss`.

        A bare ``loss.backward()`` would pass by the hooks, the accumulation window and an Accelerator.

        Args:
            loss: the mean over the batch.
            weight: how much the batch weighs in an accumulation window; by default its number of samples.
            loss_adjust: what the loss is multiplied by before.
        """
        execution, hooks = self.execution, self.hooks
        scaled = loss if loss_adjust == 1.0 else loss * loss_adjust
        if execution.window is not None:
            weight = self.current_task.batch_weight if weight is None else weight
            scaled = execution.window.scaled(scaled, weight, self.progress.batch)
        for hook in hooks.before_backward:
            hook(trainer=self, loss=loss.detach())
        execution.backward(scaled)
        for hook in hooks.after_backward:
            hook(trainer=self, loss=loss.detach())

    def optimize(self, index: int | str | None = None, loss: torch.Tensor | None = None) -> None:
        """Update the weights and clear the gradients, by all optimizers or by one.

        With accumulation the update comes when the window is full; until then this does nothing. One optimizer clears
        the gradients of its own parameters only: what a generator's loss left in its critic is the step's to clear.

        Args:
            index: one optimizer's index or name; None for all.
            loss: the batch's loss, for schedulers that run by steps and want it.

        Raises:
            StepError: an accumulation window saw nothing back-propagated; use `trainer.loss` or `trainer.backward`.
        """
        execution, hooks = self.execution, self.hooks
        if execution.may_defer and execution.deferred():
            return
        chosen = self.opt if index is None else (self.opt[index],)
        if execution.prepares:
            execution.prepare(chosen)
        for hook in hooks.before_optimize:
            hook(trainer=self, optimize_index=index)
        stepped = execution.update(chosen)
        for hook in hooks.after_optimize:
            hook(trainer=self, optimize_index=index)
        for optimizer in self.opt.by_step if stepped is self.opt else stepped:
            optimizer.step_after_update(loss)

    def stop(self, reason: str = "") -> None:
        """Ask the run to end after the batch in progress: validation is skipped, after_fit fires, `fit` returns.

        The epoch in progress is not entered in the history; `state_dict` holds it, and a resumed run completes it.
        """
        self.stopping, self.stop_reason = True, reason or "stop() was called"
