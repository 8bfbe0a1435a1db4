"""`EMA`: evaluate on an exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..errors import ArgumentError
from .averaging import Averaging


class EMA(Averaging):
    """Average the weights exponentially, after every update; validate, test and predict with the average.

    ``average = decay * average + (1 - decay) * weights``, from the weights after the first update on (Polyak and
    Juditsky, 1992; torch's `get_ema_multi_avg_fn`). Training goes on with its own weights; checkpoints hold both, and
    ``weights='best'`` means the average of the best. A float16 update that was left out is not averaged.

    Args:
        decay: above 0 and below 1; the average reaches back over about ``1 / (1 - decay)`` updates.
        every: average after every so many updates; buffers are taken over then, too.
        priority: its place among the callbacks.

    Raises:
        ArgumentError: `decay` or `every` is out of range.

    Example:
        >>> from deepepochs_like import EMA, Trainer
        >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> ema = EMA(0.9)
        >>> fit = Trainer(net, torch.nn.functional.mse_loss, epochs=3, verbose=0, callbacks=[ema]).fit(data)
        >>> ema.updates, type(ema.module).__name__
        (3, 'Linear')
    """

    def __init__(self, decay: float = 0.999, every: int = 1, priority: float = 1) -> None:
        super().__init__(priority)
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay < 1:
            raise ArgumentError(f"decay={decay!r}: a number above 0 and below 1 is needed, such as 0.999")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ArgumentError(f"every={every!r}: an int from 1 on is needed")
        self.decay, self.every = float(decay), every

    def state_key(self) -> str:
        return f"{type(self).__name__}({self.decay:g})"

    def averaged(self, module: nn.Module) -> AveragedModel:
        return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(self.decay))

    def on_after_optimize(self, trainer: Any, optimize_index: Any) -> None:
        """Average what an optimizer has really changed: an update that overflowed is none."""
        # The update in progress is not in the count yet; one that overflowed is none.
        if not trainer.progress.updated or (trainer.progress.step + 1) % self.every:
            return
        left_out = getattr(trainer.execution, "left_out", ())
        if optimize_index is None and not left_out:
            self.update(trainer)
            return
        chosen = trainer.opt if optimize_index is None else [trainer.opt[optimize_index]]
        if stepped := [o for o in chosen if all(o is not other for other in left_out)]:
            self.update(trainer, _models_of(trainer, stepped))


def _models_of(trainer: Any, optimizers: Any) -> set[str]:
    """The models of which optimizers train parameters."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    return {n for n, h in trainer.models.items() if any(id(p) in held for p in h.trained_module.parameters())}
