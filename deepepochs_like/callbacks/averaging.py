"""What `EMA` and `SWA` have in common: an average of the weights, which evaluation looks at."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..errors import ArgumentError
from ..types import StateDict
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
        self._taken_out = False

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
            self._averages = {}  # those of another trainer's models
        self._trainer = trainer
        if self._taken_out:
            self._taken_out = False
            if self._averages:
                self._begin()

    def detach(self, trainer: Any) -> None:
        show(trainer, {})
        self._taken_out = True

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
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
        show(trainer, modules)

    def begin_anew(self, trainer: Any) -> None:
        """Forget the average, as the model was given other weights: `trainer.load_weights` calls it.

        Args:
            trainer: whose weights they are; a state that it is still to go on with is forgotten, too.
        """
        self._averages = {}
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
