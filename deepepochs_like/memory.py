"""What a trainer remembers and tells of itself: its state, and what its run consists of."""

from __future__ import annotations

from typing import Any

from .explain import explain_run
from .legacy import load_deepepochs
from .state import load_trainer_state, trainer_state
from .types import StateDict


class Memory:
    """State in and out, and an account of the run."""

    print: Any

    def explain(self) -> None:
        """Print what a run consists of: model, device, and every hook in the order in which it fires."""
        self.print(explain_run(self))

    def state_dict(self) -> StateDict:
        """All that a run needs to go on as if nothing had happened, also in the middle of an epoch.

        Models, loss, optimizers, schedulers, callbacks, history, progress, the figures of an epoch in progress, an open
        accumulation window with its gradients, loaders and generators: tensors, numbers, strings and containers of
        them, which load with ``weights_only=True``. Tensors are the live ones: copy or save them before going on.
        """
        return trainer_state(self)

    def load_checkpoint(self, path: Any) -> Any:
        """Take over model, optimizers, schedulers and epoch of a DeepEpochs checkpoint; see `load_deepepochs`."""
        load_deepepochs(self, path)
        return self

    def load_state_dict(self, state: StateDict) -> None:
        """Take over a state; the next `fit` goes on from it to the epochs (or steps) its own arguments name.

        Raises:
            StateError: something does not fit; the message names it, and nothing was changed.
        """
        load_trainer_state(self, state)
