"""`Callback`: the base of all callbacks, whose docstring is the loop."""

from __future__ import annotations

from typing import Any

from ..events import unheard
from ..types import StateDict


class Callback:
    """Base of all callbacks: write the hooks you want, with the arguments shown, as methods of a subclass.

    This is the loop, with every event in its place (`val` and `test` as `train`, without the indented three)::

        before_fit
        for each epoch:
            before_epoch
            before_train_epochs
            for each training task:
                before_train_epoch
                for each batch:
                    before_train_batch
                    step:
                        before_train_forward, model, after_train_forward
                        loss
                            before_backward, back-propagation, after_backward
                            before_optimize, update, after_optimize
                        train_metrics
                    after_train_batch
                after_train_epoch
            after_train_epochs
            if validation is due:
                before_val_epochs ... after_val_epochs
            after_epoch
            schedulers that run by epochs
            on_checkpoint
        after_fit
        on_cleanup

    Hooks from before_backward to after_optimize run with gradients on, all others with gradients off. before_* hooks
    run by ascending `priority` (ties in list order), all others in the reverse order, like nested contexts. A method
    named ``on_*`` that is no event, or cannot take its arguments, is refused when the callback is attached; so is a
    `state_dict` without a `load_state_dict`, and the reverse.

    Args:
        priority: its place among the callbacks.

    Example:
        >>> class Cheer(Callback):
        ...     def on_after_epoch(self, trainer, train_metrics, val_metrics, epoch_idx, **kwargs):
        ...         trainer.print(f"epoch {epoch_idx + 1}: {train_metrics['loss']:.3f}")
    """

    priority: float = 1
    #: Whether it needs the run's folder, ``trainer.run_folder.path``, which is then there from before_fit on.
    keeps_files: bool = False
    #: Whether it keeps checkpoints: it then comes last in on_checkpoint.
    keeps_checkpoints: bool = False
    #: Whether training is not the same without it (precision, clipping), so that it takes part where training is only
    #: tried out, as in `trainer.find_lr`; all others stay out of that.
    part_of_training: bool = False
    #: Whether it only looks on and writes down, so that a run whose checkpoint has its state goes on without it, with a
    #: warning; without any other callback that has a state there it is refused.
    optional_state: bool = False

    def __init__(self, priority: float = 1) -> None:
        self.priority = priority

    def attach(self, trainer: Any) -> None:
        """Prepare the trainer for what has to be known before a run begins, such as its precision.

        Called when the trainer is made, and at the start of every run: doing it again must change nothing.
        """

    def detach(self, trainer: Any) -> None:
        """Undo what `attach` did: the callback has been taken out of ``trainer.callbacks``.

        Called at the start of the first run without it.
        """

    def state_key(self) -> str:
        """What its state is kept under: the class, and the arguments that tell it from another of the class."""
        return type(self).__name__

    @unheard
    def state_dict(self) -> StateDict:
        """What must survive a restart: tensors, numbers, strings and containers of them."""
        return {}

    @unheard
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Restore what `state_dict` returned."""

    def ended(self) -> str:
        """Why it has ended the run for good, or nothing; asked when a run is resumed, which then stays ended."""
        return ""

    @unheard
    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        """Fires once, before the first epoch; `epochs` is the number that the run goes to."""

    @unheard
    def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
        """Fires before each epoch, once for all its tasks."""

    @unheard
    def on_before_train_epochs(self, trainer: Any, tasks: Any, epoch_idx: int) -> None:
        """Fires before the first training task of an epoch."""

    @unheard
    def on_before_train_epoch(self, trainer: Any, task: Any) -> None:
        """Fires before each training task; the model is in training mode and may be changed here."""

    @unheard
    def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
        """Fires with the batch on its device; changes made to tensors in place are seen by the step."""

    @unheard
    def on_before_train_forward(self, trainer: Any) -> None:
        """Fires before each call of the model in a training step."""

    @unheard
    def on_after_train_forward(self, trainer: Any, model_out: Any) -> None:
        """Fires with the model's output, detached."""

    @unheard
    def on_before_backward(self, trainer: Any, loss: Any) -> None:
        """Fires with gradients on, before back-propagation; `loss` is detached."""

    @unheard
    def on_after_backward(self, trainer: Any, loss: Any) -> None:
        """Fires with gradients on, when the gradients of the batch are there."""

    @unheard
    def on_before_optimize(self, trainer: Any, optimize_index: Any) -> None:
        """Fires with gradients on, before an update.

        The gradients may be changed here. `optimize_index` is None for all optimizers.
        """

    @unheard
    def on_after_optimize(self, trainer: Any, optimize_index: Any) -> None:
        """Fires with gradients on, after the update and the clearing of the gradients."""

    @unheard
    def on_train_metrics(self, trainer: Any, loss: Any, model_out: Any, batch_y: Any, task: Any) -> None:
        """Fires when loss and metrics have taken the batch in; `loss` and `model_out` are detached."""

    @unheard
    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        """Fires after the step.

        `metrics` maps names to this batch's figures, 0-dimensional tensors computed when read.
        """

    @unheard
    def on_after_train_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
        """Fires after each training task; `metrics` maps names to the task's figures, NumPy values."""

    @unheard
    def on_after_train_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int) -> None:
        """Fires after the last training task of an epoch; `metrics` holds the figures of all tasks."""

    @unheard
    def on_before_val_epochs(self, trainer: Any, tasks: Any, epoch_idx: int) -> None:
        """Fires before the first validation task of an epoch."""

    @unheard
    def on_before_val_epoch(self, trainer: Any, task: Any) -> None:
        """Fires before each validation task; the model is in evaluation mode and may be changed here."""

    @unheard
    def on_before_val_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
        """Fires with the batch on its device; changes made to tensors in place are seen by the step."""

    @unheard
    def on_before_val_forward(self, trainer: Any) -> None:
        """Fires before each call of the model in a validation step."""

    @unheard
    def on_after_val_forward(self, trainer: Any, model_out: Any) -> None:
        """Fires with the model's output, detached."""

    @unheard
    def on_val_metrics(self, trainer: Any, loss: Any, model_out: Any, batch_y: Any, task: Any) -> None:
        """Fires when loss and metrics have taken the batch in; `loss` and `model_out` are detached."""

    @unheard
    def on_after_val_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        """Fires after the step.

        `metrics` maps names to this batch's figures, 0-dimensional tensors computed when read.
        """

    @unheard
    def on_after_val_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
        """Fires after each validation task; `metrics` maps names to the task's figures, NumPy values."""

    @unheard
    def on_after_val_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int) -> None:
        """Fires after the last validation task of an epoch; `metrics` holds the figures of all tasks."""

    @unheard
    def on_after_epoch(
        self, trainer: Any, train_tasks: Any, val_tasks: Any, train_metrics: Any, val_metrics: Any, epoch_idx: int
    ) -> None:
        """Fires when the epoch is over; `val_metrics` is empty where validation was not due."""

    @unheard
    def on_checkpoint(self, trainer: Any) -> None:
        """Fires after everyone's end-of-epoch hooks.

        And when a run is stopped in mid-epoch: the state may be saved here.
        """

    @unheard
    def on_after_fit(self, trainer: Any) -> None:
        """Fires once when the epochs are over, also after a stop or Ctrl-C; not after an error."""

    @unheard
    def on_before_test_epochs(self, trainer: Any, tasks: Any) -> None:
        """Fires before the first test task of a test."""

    @unheard
    def on_before_test_epoch(self, trainer: Any, task: Any) -> None:
        """Fires before each test task; the model is in evaluation mode and may be changed here."""

    @unheard
    def on_before_test_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
        """Fires with the batch on its device; changes made to tensors in place are seen by the step."""

    @unheard
    def on_before_test_forward(self, trainer: Any) -> None:
        """Fires before each call of the model in a test step."""

    @unheard
    def on_after_test_forward(self, trainer: Any, model_out: Any) -> None:
        """Fires with the model's output, detached."""

    @unheard
    def on_test_metrics(self, trainer: Any, loss: Any, model_out: Any, batch_y: Any, task: Any) -> None:
        """Fires when loss and metrics have taken the batch in; `loss` and `model_out` are detached."""

    @unheard
    def on_after_test_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        """Fires after the step.

        `metrics` maps names to this batch's figures, 0-dimensional tensors computed when read.
        """

    @unheard
    def on_after_test_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
        """Fires after each test task; `metrics` maps names to the task's figures, NumPy values."""

    @unheard
    def on_after_test_epochs(self, trainer: Any, tasks: Any, metrics: Any) -> None:
        """Fires after the last test task of a test; `metrics` holds the figures of all tasks."""

    @unheard
    def on_exception(self, trainer: Any, exception: BaseException) -> str | None:
        """Fires with an error before it leaves the run; return None (let it leave), 'skip_batch' or 'stop'."""
        return None

    @unheard
    def on_cleanup(self, trainer: Any) -> None:
        """Fires exactly once per run, whatever happened: release what was opened."""
