"""What the finders have in common: they try something out when a run begins, and show what they have found."""

from __future__ import annotations

from typing import Any

from .base import Callback


class Finder(Callback):
    """Try something out when a run begins, without a trace, and show what it was; a subclass writes `find`.

    A run that goes on from a state is left as it is.

    Attributes:
        finding: what was found, when a run has begun.

    Example:
        >>> from deepepochs_like import Trainer
        >>> class Depth(Finder):
        ...     def find(self, trainer):
        ...         return len(list(trainer.model.children()))
        >>> depth, net = Depth(), torch.nn.Sequential(torch.nn.Linear(2, 1))
        >>> trainer = Trainer(net, torch.nn.functional.mse_loss, epochs=1, verbose=0, callbacks=depth)
        >>> _ = trainer.fit([(torch.ones(4, 2), torch.ones(4, 1))]); depth.finding
        1
    """

    tries_out = True
    finding: Any = None

    def find(self, trainer: Any) -> Any:
        """Look with the trainer of the run that is about to begin; what is returned is printed."""
        raise NotImplementedError(f"{type(self).__name__} has no find(trainer)")

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        if trainer.pending is None and trainer.resuming is None and not trainer.progress.step:
            self.look(trainer)

    def look(self, trainer: Any) -> None:
        """Find it, keep it, and show it."""
        self.finding = self.find(trainer)
        if trainer.verbose:
            trainer.print(self.finding)
