"""What `EMA` and `SWA` have in common: an average of the weights, which evaluation looks at."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..errors import ArgumentError
from ..types import StateDict
from ..utils.warn import warn
from .asked import forget_pending
from .base import Callback


class Averaging(Callback):
    """Keep an average of the weights beside those in training, by `torch.optim.swa_utils.AveragedModel`.

    Validation, test and predict call the averaged models; training and its hooks see the weights in training, and
    checkpoints hold both. Buffers of the average are those of the model. A subclass decides when `update` is called,
    and says how to average in `averaged`.
    """

    def __init__(self, priority: float = 1) -> None:
        super().__init__(priority)
        self._averages: dict[str, AveragedModel] = {}
        self._trainer: Any = None
        #: The number of updates there had been when this was taken out of the callbacks, until it is looked at again.
        self._left: int | None = None
        #: Whether evaluation looks at the average of a checkpoint.
        self._looking = False

    def averaged(self, module: nn.Module) -> AveragedModel:
        """Make the average of a module, which is its copy so far."""
        raise NotImplementedError

    @property
    def module(self) -> nn.Module:
        """The averaged model; of several by name, a ModuleDict. Save it with ``save_weights(ema.module, path)``.

        Raises:
            AttributeError: no fit has begun.
        """
        if not self._averages:
            raise AttributeError(f"{type(self).__name__}.module is there from the first fit on")
        modules = {name: average.module for name, average in self._averages.items()}
        return modules["model"] if list(modules) == ["model"] else nn.ModuleDict(modules)

    @property
    def updates(self) -> int:
        """How many times the average was updated."""
        return max((int(average.n_averaged) for average in self._averages.values()), default=0)

    def attach(self, trainer: Any) -> None:
        """Refuse a second average, and let go of one that is of another trainer's models."""
        both = [type(callback).__name__ for callback in trainer.callbacks if isinstance(callback, Averaging)]
        if len(both) > 1:
            raise ArgumentError(f"callbacks: {' and '.join(both)}: evaluation can look at one average; leave one out")
        if self._trainer is not None and self._trainer is not trainer:
            self._averages, self._left, self._looking = {}, None, False  # those of another trainer's models
        self._trainer = trainer
        begins = any(callback is self for callback in trainer.attached)  # else a state is about to be loaded first
        if begins and self._left is not None and not self._looking:
            self._come_back()

    def detach(self, trainer: Any) -> None:
        show(trainer, {})
        self._left, self._looking = trainer.progress.step, False

    def _come_back(self) -> None:
        """Have evaluation look at the average again; say so where the weights have been trained without it."""
        left, self._left = self._left, None
        if not self._averages:
            return
        self._begin()
        now, name = self._trainer.progress.step, type(self).__name__
        if left != now and self.updates:
            warn(
                f"{name}: its average is of update {left}, and the weights are of update {now}: it was not among the "
                "callbacks in between. Evaluation looks at this average, and training goes on with it; put a new "
                f"{name}(...) in its place to begin another"
            )

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self._looking = False
        if self._left is not None:
            self._come_back()
        self._begin()

    def _begin(self) -> None:
        """Begin an average, where there is none, and have evaluation look at it once it holds something."""
        trainer = self._trainer
        if not self._averages:
            self._averages = {name: self.averaged(own_module(trainer, h)) for name, h in trainer.models.items()}
        show(trainer, {name: average.module for name, average in self._averages.items() if int(average.n_averaged)})

    def update(self, trainer: Any, names: Any = None) -> None:
        """Take the weights as they are into the average.

        Args:
            trainer: whose models they are.
            names: of the models that have changed; None for all.
        """
        first = False
        for name, average in self._averages.items():
            if names is None or name in names:
                first = first or not int(average.n_averaged)
                average.update_parameters(own_module(trainer, trainer.models[name]))
        if first:
            self._begin()

    def state_dict(self) -> StateDict:
        return {name: average.state_dict() for name, average in self._averages.items()}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._left, self._looking = None, False
        self._begin()
        for name, average in self._averages.items():
            average.load_state_dict(state_dict[name])
        self._begin()

    def look_at(self, trainer: Any, state: StateDict | None) -> None:
        """Show evaluation the average of a checkpoint, in the place of that of training, until the next fit.

        Args:
            trainer: whose models they are.
            state: what `state_dict` returned then; None has it look at the weights in training.
        """
        modules = {}
        for name, saved in (state or {}).items():
            average = self.averaged(own_module(trainer, trainer.models[name]))
            average.load_state_dict(saved)
            if int(average.n_averaged):
                modules[name] = average.module
        self._looking = True
        show(trainer, modules)

    def begin_anew(self, trainer: Any) -> None:
        """Forget the average, as the model was given other weights: `trainer.load_weights` calls it.

        Args:
            trainer: whose weights they are; a state that it is still to go on with is forgotten, too.
        """
        self._averages, self._left, self._looking = {}, None, False
        forget_pending(trainer, self)
        show(trainer, {})
        if trainer.running == "fit":
            self._begin()


def own_module(trainer: Any, handle: Any) -> nn.Module:
    """The module that is trained; behind an Accelerator the one inside.

    Args:
        trainer: whose it is.
        handle: one of ``trainer.models``.
    """
    module: nn.Module = handle.trained_module
    return module if trainer.accelerator is None else trainer.accelerator.unwrap_model(module)


def show(trainer: Any, modules: dict[str, nn.Module]) -> None:
    """Have evaluation call these modules, by model name, in the place of those that are trained."""
    for name, handle in trainer.models.items():
        handle.average_by(modules.get(name))
    if all(
        trainer.model is not handle for handle in trainer.models.values()
    ):  # several: they are reached through one handle, too
        whole = {name: modules.get(name, handle.trained_module) for name, handle in trainer.models.items()}
        trainer.model.average_by(nn.ModuleDict(whole) if modules else None)
