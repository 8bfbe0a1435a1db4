"""`SWA`: evaluate on the mean of the weights of the last epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..batch import split_batch
from ..data import BatchSource, samplers
from ..errors import ArgumentError, a_kind
from ..rng import rng_state, set_rng_state
from ..tensors import TensorDict
from .asked import warn_beyond
from .averaging import Averaging, own_module


class SWA(Averaging):
    """Average the weights at the ends of the epochs from `start` on; validate, test and predict with the mean.

    Stochastic weight averaging (Izmailov et al., 2018, arXiv:1803.05407; torch's `AveragedModel`). Where a model has
    BatchNorm, its statistics are those of the averaged weights, from a pass over the training data after every epoch
    that is averaged; what the pass draws from the global generators and the loader's is drawn again by training. Give
    the learning rate a schedule that stays up at the end, such as ``cosine(75) >> constant(25)``.

    Args:
        start: the first epoch that is averaged, counted from 0.
        every: average every so many epochs.
        priority: its place among the callbacks.

    Raises:
        ArgumentError: `start` or `every` is no such int; at the end of an epoch: the training data can be read once
            only, and BatchNorm needs another pass.

    Example:
        >>> from deepepochs_like import SWA, Trainer
        >>> net, data = torch.nn.Linear(2, 1), [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> swa = SWA(start=2)
        >>> fit = Trainer(net, torch.nn.functional.mse_loss, epochs=5, verbose=0, callbacks=[swa]).fit(data)
        >>> swa.updates
        3
    """

    def __init__(self, start: int, every: int = 1, priority: float = 1) -> None:
        super().__init__(priority)
        for name, number, least in (("start", start, 0), ("every", every, 1)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ArgumentError(f"{name}={number!r}: an int from {least} on is needed")
        self.start, self.every = start, every

    def averaged(self, module: nn.Module) -> AveragedModel:
        return AveragedModel(module)

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        super().on_before_fit(trainer, epochs)
        what = f"SWA(start={self.start})"
        warn_beyond(trainer, epochs, what, self.start, "evaluation sees the weights in training. Give a lower start=")

    def on_after_train_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int) -> None:
        """Average before validation, which is to see the new mean."""
        if epoch_idx < self.start or (epoch_idx - self.start) % self.every:
            return
        self.update(trainer)
        if norms := self._norms(trainer):
            if len(trainer.models) > 1:
                raise ArgumentError(
                    f"SWA: of {len(trainer.models)} models with BatchNorm nobody but the step knows the calls, "
                    "so their statistics cannot be taken anew; use EMA, which averages without another pass"
                )
            self._refresh(trainer, tasks, norms)

    def _norms(self, trainer: Any) -> list[Any]:
        """The averages' layers of BatchNorm that training gives statistics; what is frozen keeps those that it has."""
        found = []
        for name, average in self._averages.items():
            own = dict(own_module(trainer, trainer.models[name]).named_modules())
            for path, norm in average.module.named_modules():
                is_norm = isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.track_running_stats
                if is_norm and own[path].training:
                    found.append(norm)
        return found

    def _refresh(self, trainer: Any, tasks: Any, norms: list[Any]) -> None:
        """Take BatchNorm's statistics anew: the mean over the training batches, as torch's `update_bn` does."""
        generators, momenta, whole = rng_state(), [norm.momentum for norm in norms], self.module
        whole.train()
        for norm in whole.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and all(norm is not one for one in norms):
                norm.eval()  # it normalises as it does in training
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        try:
            for task in tasks:
                self._pass(trainer, task)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            whole.eval()
            set_rng_state(generators)

    def _pass(self, trainer: Any, task: Any) -> None:
        loader = task.dataloader
        if isinstance(loader, Iterator):
            raise ArgumentError(
                f"SWA: BatchNorm needs another pass over the training data, and {a_kind(loader)} can be read "
                "once only; pass something that can be iterated again, such as a DataLoader"
            )
        source = BatchSource(loader, "train_dl")
        own, drawn = source.generators(), samplers.state_of(loader)
        states = [generator.get_state() for generator in own]
        try:
            for batch in source.stream():
                batch_x, _, _ = split_batch(batch, trainer.loss.function is None, trainer.device, task.batch_size or 1)
                self._call(trainer, batch_x)
        finally:
            source.release()
            for generator, state in zip(own, states, strict=True):
                generator.set_state(state)
            samplers.load(loader, drawn)

    def _call(self, trainer: Any, batch_x: Any) -> None:
        module = self.module
        with torch.no_grad():
            module(**batch_x) if isinstance(batch_x, TensorDict) else module(*batch_x)
