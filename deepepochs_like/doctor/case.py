"""What the checks look at: the arguments of a fit, its first batches, and a trial of the step on copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..data.resume import length_of
from .diagnosis import Severity
from .looking import Seen
from .trial import Trial

#: What a check yields: how bad it is, what is wrong, what to do, and the figures it was judged by.
Found = tuple[Severity, str, str, dict[str, Any]]


class CannotTell(Exception):
    """A check cannot be made; the text says why."""


@dataclass
class Case:
    """A trainer with what a fit would be given."""

    trainer: Any
    train: list[Seen]
    val: list[Seen]
    #: The metrics of a task, by stage and number of the task, with the task's name.
    metrics: dict[str, list[tuple[str, list[Any]]]]
    #: How many epochs and updates are planned; None where that is not known.
    epochs: int | None
    max_steps: int | None
    trial: Trial | None = None
    #: Whose batches were tried.
    tried_on: Seen | None = None
    #: Why there is no trial.
    untried: str = ""
    modules: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def steps_per_epoch(self) -> int | None:
        """The updates of the weights in an epoch; None where a loader does not know its length."""
        lengths = [length_of(seen.loader) for seen in self.train]
        if not lengths or any(length is None for length in lengths):
            return None
        window = int(self.trainer.accumulate)
        return sum(-(-int(length or 0) // window) for length in lengths)

    @property
    def updates(self) -> int | None:
        """The updates of the weights in the run; None where that is not known."""
        if self.max_steps is not None:
            return self.max_steps
        per_epoch = self.steps_per_epoch
        return None if self.epochs is None or per_epoch is None else self.epochs * per_epoch

    def tried(self) -> Trial:
        """The trial of the step, as far as it went.

        Raises:
            CannotTell: the step cannot be seen into, or no batch be looked at.
        """
        if self.trial is None:
            raise CannotTell(self.untried)
        return self.trial

    def forward(self) -> Trial:
        """The trial, where the model gave outputs."""
        trial = self.tried()
        if not trial.passes:
            raise CannotTell("the model failed on the first batch")
        return trial

    def backward(self) -> Trial:
        """The trial, where gradients were computed."""
        trial = self.forward()
        if not any(one.loss is not None for one in trial.passes):
            raise CannotTell("the loss could not be computed on the first batch")
        return trial

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The trainer's own modules with their names, each once."""
        seen: set[int] = set()
        for prefix, module in self.modules.items():
            for name, part in module.named_modules():
                if id(part) not in seen:
                    seen.add(id(part))
                    yield ".".join(filter(None, (prefix, name))) or type(part).__name__, part

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The trainer's own parameters with their names, each once."""
        seen: set[int] = set()
        for prefix, module in self.modules.items():
            for name, parameter in module.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield ".".join(filter(None, (prefix, name))), parameter


@dataclass(frozen=True)
class Check:
    """A check: its name, what it looks for, and the function that looks."""

    name: str
    looks_for: str
    function: Callable[[Case], Iterator[Found]]


def some(names: list[str], limit: int = 5) -> str:
    """Name the first few of many."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
