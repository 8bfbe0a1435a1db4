"""`Scheduled`: a number that changes along a schedule, for a weight in a loss."""

from __future__ import annotations

from typing import Any, Literal

from ..errors import ArgumentError, ArgumentTypeError, did_you_mean
from ..schedules import Schedule
from .base import Callback


class Scheduled(Callback):
    """A number that follows a schedule over the epochs or the updates of a run: read its `value` in a step.

    It is worked out from where the run is, so that a resumed run goes on with the right one, and nothing is done in
    any batch but by who reads it.

    Args:
        schedule: e.g. ``warmup(5) >> constant(95)``; any function of a number will do.
        on: what its positions are: ``'epoch'``, or ``'step'``, updates of the weights.
        priority: its place among the callbacks.

    Raises:
        ArgumentTypeError: `schedule` cannot be called.
        ArgumentError: `on` is neither.

    Example:
        >>> from deepepochs_like import Scheduled, Trainer, linear
        >>> weight = Scheduled(linear(4, 0, 0.1))
        >>> def step(trainer, batch_x, batch_y):
        ...     loss = ((trainer.model(batch_x) - batch_y) ** 2).mean()
        ...     size = sum(p.abs().sum() for p in trainer.model.parameters())
        ...     trainer.backward(loss + weight.value * size)
        ...     trainer.optimize()
        ...     trainer.do_metric(loss)
        >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> trainer = Trainer(net, torch.nn.functional.mse_loss, callbacks=[weight], verbose=0)
        >>> fit = trainer.fit(data, epochs=2, step=step)
        >>> weight.value
        0.05
    """

    part_of_training = True

    def __init__(self, schedule: Schedule | Any, on: Literal["epoch", "step"] = "epoch", priority: float = 1) -> None:
        super().__init__(priority)
        if not callable(schedule):
            raise ArgumentTypeError(f"schedule={schedule!r}: a schedule such as linear(10, 0, 0.1) is needed")
        if on not in ("epoch", "step"):
            raise ArgumentError(f"on={on!r}: 'epoch' or 'step' is needed{did_you_mean(str(on), ['epoch', 'step'])}")
        self.schedule, self.on = schedule, on
        self._trainer: Any = None

    def attach(self, trainer: Any) -> None:
        self._trainer = trainer

    @property
    def value(self) -> float:
        """The number as it is now.

        Raises:
            ArgumentError: no trainer has this among its callbacks.
        """
        if self._trainer is None:
            raise ArgumentError("Scheduled.value: it follows a run; pass it to Trainer(callbacks=[...]) first")
        progress = self._trainer.progress
        return float(self.schedule(progress.epoch if self.on == "epoch" else progress.step))
