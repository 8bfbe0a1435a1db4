"""What a task has of the trainer that runs it: its attributes, its loader and metrics per stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .data import BatchSource
from .errors import ArgumentError, UnknownNameError, did_you_mean
from .patches.slot import Slot
from .types import Stage

#: What a task carries while it runs; a subclass must leave these names alone.
RUN_ATTRIBUTES = (
    *("stage", "stage_hooks", "batch_source", "run_step", "figures"),
    *("first_batch", "batch_weight", "step_limit", "splitter"),
)


@dataclass
class Bound:
    """What a task runs one stage with."""

    stage: Stage
    source: BatchSource
    slots: Sequence[Slot]
    step: Callable[..., Any]
    #: Whether the step is the one that runs where no other is written.
    default: bool = False


class BoundTask:
    """A task as far as it is tied to a trainer."""

    trainer: Any
    _bound: dict[str, Bound]

    def __getattr__(self, name: str) -> Any:
        trainer = self.__dict__.get("trainer")
        if trainer is None or name.startswith("_"):
            raise UnknownNameError(
                f"{type(self).__name__} has no attribute {name!r}, and is not in a run whose trainer could have it"
            )
        try:
            return getattr(trainer, name)
        except AttributeError:
            known = [n for n in {*dir(self), *dir(trainer)} if not n.startswith("_")]
            raise UnknownNameError(
                f"neither {type(self).__name__} nor {type(trainer).__name__} has an attribute {name!r}"
                f"{did_you_mean(name, known)}"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy starts from: the task as it was made, without the run it was in."""
        own = ("trainer", *RUN_ATTRIBUTES)
        return {**{name: value for name, value in vars(self).items() if name not in own}, "_bound": {}}

    def bind(self, trainer: Any, bound: Bound) -> None:
        """Make the task ready to run one stage for a trainer."""
        if "trainer" not in vars(self) and (taken := [name for name in RUN_ATTRIBUTES if name in vars(self)]):
            raise ArgumentError(
                f"{type(self).__name__}.{taken[0]}: a task keeps what it runs with under this name; rename yours"
            )
        self.trainer = trainer
        self._bound[bound.stage] = bound

    def executed(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step as it is to be run: in another precision, where one is installed."""
        around = self.trainer.execution.around
        executed: Callable[..., Any] = step if around is None else around(step)
        return executed

    def release(self) -> None:
        """Let go of iterators (and so of worker processes) when a run is over."""
        for bound in self._bound.values():
            bound.source.release()

    def slots_of(self, stage: str) -> Sequence[Slot]:
        """The metrics of a stage."""
        return self._bound[stage].slots

    def step_of(self, stage: str) -> Callable[..., Any]:
        """The step of a stage."""
        return self._bound[stage].step

    def has_default_step(self, stage: str) -> bool:
        """Whether a stage runs the step that runs where no other is written."""
        return self._bound[stage].default

    def source_of(self, stage: str) -> BatchSource:
        """The loader of a stage, with its position."""
        source: BatchSource = self._bound[stage].source
        return source
