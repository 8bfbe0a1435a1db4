"""`CheckCallback`: DeepEpochs' callback for checkpoints and early stop, made of `Checkpoint` and `EarlyStopping`."""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import ArgumentError, refuse_unknown
from ..types import StateDict
from ..utils.warn import warn
from .asked import forget_pending
from .checkpoint import Checkpoint
from .early_stopping import EarlyStopping


class CheckCallback(Checkpoint):
    """Keep the best and the last checkpoint, stop early, and test with the best weights.

    Args:
        monitor: a figure's name, ``'loss'``.
        on_stage: ``'val'`` or ``'train'``: whose figure it is.
        mode: ``'min'`` or ``'max'``: which of its values is better.
        patience: how many epochs without improvement end the run; 0 for never.
        save_best: keep the best beside the last, and load it before `test`; else keep the last, and load that. Where
            there is none yet, `test` takes the weights as they are.
        ckpt_dir: the folder in which runs lie; this one's is ``ckpt_dir/running_id``.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> CheckCallback('accuracy', on_stage='val', mode='max', patience=5).state_key()
        'CheckCallback(val/accuracy)'
    """

    def __init__(
        self,
        monitor: str,
        on_stage: str = "val",
        mode: str = "min",
        patience: int = 0,
        save_best: bool = True,
        ckpt_dir: str = "./logs",
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("CheckCallback", unknown, CheckCallback.__init__)
        if on_stage not in ("train", "val"):
            raise ArgumentError(f"on_stage={on_stage!r}: 'train' or 'val' is needed")
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 0:
            raise ArgumentError(f"patience={patience!r}: an int from 0 on is needed; 0 never stops")
        figure = f"{on_stage}/{monitor}"
        super().__init__(figure, mode, keep_best=int(save_best))
        self.save_best, self.root = save_best, str(ckpt_dir)
        self.stopper = EarlyStopping(figure, patience, mode) if patience else None

    def state_key(self) -> str:
        return f"{type(self).__name__}({self.monitor.name if self.monitor else ''})"

    def state_dict(self) -> StateDict:
        return self.stopper.state_dict() if self.stopper else {}

    def load_state_dict(self, state_dict: StateDict) -> None:
        if self.stopper:
            self.stopper.load_state_dict(state_dict)

    def ended(self) -> str:
        return self.stopper.ended() if self.stopper else ""

    def attach(self, trainer: Any) -> None:
        super().attach(trainer)
        if self.stopper:
            self.stopper.attach(trainer)

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        super().on_before_fit(trainer, epochs)
        if self.stopper:
            self.stopper.on_before_fit(trainer, epochs)

    def begin_anew(self, trainer: Any) -> None:
        """Have the patience begin anew, as the model was given other weights: `trainer.load_weights` calls it.

        Args:
            trainer: whose weights they are.
        """
        if self.stopper:
            self.stopper.begin_anew(trainer)
            forget_pending(trainer, self)

    def on_after_epoch(
        self, trainer: Any, train_tasks: Any, val_tasks: Any, train_metrics: Any, val_metrics: Any, epoch_idx: int
    ) -> None:
        if self.stopper:
            self.stopper.on_after_epoch(trainer, train_tasks, val_tasks, train_metrics, val_metrics, epoch_idx)

    def on_before_test_epochs(self, trainer: Any, tasks: Any) -> None:
        """Load what is tested, as DeepEpochs does; within a fit the weights stay as they are."""
        if trainer.run_folder is not None:  # a test within a fit is of the weights as they are
            return
        store = self.store_of(trainer)
        if store is None or not store.entries():
            return
        entry = store.best() if self.save_best else store.newest()
        if entry is not None:
            trainer.use_weights(entry.path)
            return
        name = self.monitor.name if self.monitor else ""
        message = f"CheckCallback: no checkpoint has the figure {name!r} yet; this tests the weights as they are"
        warn(message)
