"""`Analyze`: what comes out of every layer, or what gradient comes back to it, every so many updates."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn, TypeAlias

import torch
from torch import nn

from ..errors import ArgumentError, ArgumentTypeError, did_you_mean, refuse_unknown
from ..types import StateDict, wide
from .base import Callback

WHAT = ("outputs", "gradients")
STATISTICS = ("mean", "std", "min", "max", "dead")
#: What was found of a layer: numbers, the counts of a histogram, and how many values there were.
Found: TypeAlias = "tuple[torch.Tensor, torch.Tensor, int]"
#: How many values are counted at a time.
_PIECE = 1 << 24
#: DeepEpochs' words.
_MODES = {"forward": "outputs", "backward": "gradients"}
#: What else the two are called.
_MEANT = {
    **_MODES,
    **dict.fromkeys(("fwd", "out", "activation", "activations"), "outputs"),
    **dict.fromkeys(("bwd", "grad", "grads"), "gradients"),
}


class Analyze(Callback):
    """Write down statistics of every layer's outputs, or of the gradients of the loss by them, every so many updates.

    They are mean, standard deviation, minimum, maximum, a histogram, and the share of dead units: of the entries of a
    sample's output those that are exactly 0 for all samples of the batch. They go to every logger of the run, as
    ``outputs/<layer>.mean`` and so on, and the histograms to a `TensorBoard` callback; the last ones are in `latest`.

    Layers are looked at through hooks that they have only while an update is due, so that all others cost a comparison
    per batch. The statistics change nothing about the training. Gradients are as they come back: times the scale of a
    loss scaler, and the weight of a batch in an accumulation window. A model that goes through `torch.compile` is
    called without it while an update is due.

    Args:
        what: ``'outputs'`` or ``'gradients'``.
        every: look at every so-manieth update, the first one being the run's first; of the batches of an accumulation
            window at its first.
        layers: names of the layers, as in ``model.named_modules()``; with several models behind the model's name. By
            default all that have no layers in them.
        bins: of the histograms.
        priority: its place among the callbacks.

    Attributes:
        latest: by layer a dict of the statistics, with ``histogram``, the counts, and ``edges``, its lowest and highest
            edge. A layer that is called again has ``#2`` behind its name, and so on.
        step: the update that they are of; None before.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed, or there is no such layer.

    Example:
        >>> from deepepochs_like import Trainer
        >>> data = [(torch.ones(4, 2), torch.ones(4, 3))]
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> _ = torch.nn.init.constant_(net[0].weight, 1), torch.nn.init.constant_(net[0].bias, -2.5)
        >>> look = Analyze("outputs", every=10)
        >>> trainer = Trainer(net, torch.nn.functional.mse_loss, epochs=1, verbose=0, callbacks=look)
        >>> history = trainer.fit(data)
        >>> {layer: (found["mean"], found["dead"]) for layer, found in look.latest.items()}
        {'0': (-0.5, 0.0), '1': (0.0, 1.0)}
    """

    optional_state = True

    def __init__(
        self,
        what: str = "outputs",
        every: int = 100,
        layers: Sequence[str] | None = None,
        *,
        bins: int = 64,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown(type(self).__name__, unknown, Analyze.__init__)
        super().__init__(priority)
        if what not in WHAT:
            meant = _MEANT.get(str(what).lower())
            hint = f"; did you mean {meant!r}?" if meant else did_you_mean(str(what), WHAT)
            raise ArgumentError(f"what={what!r}: 'outputs' or 'gradients' is needed{hint}")
        for name, count in (("every", every), ("bins", bins)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ArgumentError(f"{name}={count!r}: an int from 1 on is needed")
        if layers is not None and (isinstance(layers, str) or not all(isinstance(name, str) for name in layers)):
            raise ArgumentTypeError(f"layers={layers!r}: a list of names is needed, as in model.named_modules()")
        self.what, self.every, self.bins = what, every, bins
        self.layers = None if layers is None else list(layers)
        self.latest: dict[str, dict[str, Any]] = {}
        self.step: int | None = None
        self._next = 0
        self._open: ExitStack | None = None
        #: What was found in the batch in progress, by layer, in the order of their calls: numbers, and counts.
        self._found: dict[str, Found | None] = {}

    def state_key(self) -> str:
        return f"{type(self).__name__}({self.what})"

    def state_dict(self) -> StateDict:
        return {"next": self._next}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self._next = int(state_dict["next"])

    def attach(self, trainer: Any) -> None:
        self._modules(trainer)  # its check comes now

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        if not trainer.progress.step:
            self._next = 0

    def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
        if trainer.progress.step >= self._next and trainer.running == "fit":
            self._begin(trainer)

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if self._open is not None:
            self._end(trainer)

    def on_cleanup(self, trainer: Any) -> None:
        if self._open is not None:
            self._open.close()
        self._open, self._found = None, {}

    def table(self) -> str:
        """The latest statistics, a layer a line."""
        rows = [[self.what, *STATISTICS]]
        for layer, found in self.latest.items():
            rows.append([layer, *(f"{found[name]:.3g}" for name in STATISTICS[:-1]), f"{found['dead']:.1%}"])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *numbers in rows:
            cells = [name.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def _modules(self, trainer: Any) -> dict[str, nn.Module]:
        """The layers to look at, by name, each once."""
        several = len(trainer.models) > 1
        found: dict[str, nn.Module] = {}
        for model, handle in trainer.models.items():
            for path, module in handle.trained_module.named_modules():
                found[".".join(part for part in (model if several else "", path) if part)] = module
        if self.layers is None:
            leaves = {name: module for name, module in found.items() if not any(True for _ in module.children())}
            return {name or "model": module for name, module in leaves.items()}
        for name in self.layers:
            if name not in found:
                guess = did_you_mean(name, found) or f"; there are {', '.join(filter(None, found))}"
                raise ArgumentError(f"layers: the model has no layer {name!r}{guess}")
        return {name: found[name] for name in self.layers}

    def _begin(self, trainer: Any) -> None:
        """Give the layers their hooks, for this batch."""
        self.on_cleanup(trainer)  # of a batch that was skipped they may still be there
        self.step = trainer.progress.step
        self._next = (self.step // self.every + 1) * self.every
        self._open = ExitStack()
        for name, module in self._modules(trainer).items():
            self._open.callback(module.register_forward_hook(partial(self._look, name)).remove)
        if trainer.compile is not None:
            self._open.enter_context(torch.compiler.set_stance("force_eager"))

    def _look(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """Take in what a layer has returned, or ask for its gradient."""
        for tensor in _floats(output):
            label, again = name, 2
            while label in self._found:
                label, again = f"{name}#{again}", again + 1
            if self.what == "outputs":
                self._take(label, tensor)
            elif tensor.requires_grad:
                self._found[label] = None  # layers stand in the order of their calls
                tensor.register_hook(partial(self._take, label))

    def _take(self, label: str, tensor: torch.Tensor) -> None:
        with torch.no_grad():
            self._found[label] = _statistics(tensor.detach(), self.bins)

    def _end(self, trainer: Any) -> None:
        """Take the hooks away, read what they have found, and hand it on."""
        found = {label: pair for label, pair in self._found.items() if pair is not None}
        self.on_cleanup(trainer)
        self.latest = {}
        for label, (numbers, counts, size) in found.items():
            *values, low, high = numbers.tolist()
            row: dict[str, Any] = dict(zip(STATISTICS, values, strict=True))
            row |= {"size": size, "edges": (low, high), "histogram": [int(count) for count in counts.tolist()]}
            self.latest[label] = row
        if any(hasattr(callback, "log_figures") for callback in trainer.callbacks) and self.latest:
            rows = self.latest.items()
            trainer.log({f"{self.what}/{label}.{n}": row[n] for label, row in rows for n in STATISTICS}, self.step)
        writer = writer_of(trainer)
        if writer is not None:
            for label, row in self.latest.items():
                add_histogram(writer, f"{self.what}/{label}", row, self.step)


class AnalyzeCallback(Analyze):
    """`Analyze` under DeepEpochs' name: it writes to TensorBoard, whether or not there is a callback for it.

    Args:
        mode: ``'backward'`` for gradients, ``'forward'`` for outputs.
        log_dir: the folder in which runs lie.
        every: look at every so-manieth update.
        priority: its place among the callbacks.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> AnalyzeCallback("forward").what
        'outputs'
    """

    keeps_files = needs_board = True

    def __init__(
        self,
        mode: str = "backward",
        log_dir: str | os.PathLike[str] = "./logs",
        *,
        every: int = 10,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("AnalyzeCallback", unknown, AnalyzeCallback.__init__)
        if mode not in _MODES:
            alike = next((name for name, what in _MODES.items() if what == _MEANT.get(str(mode).lower(), mode)), None)
            hint = f"; did you mean {alike!r}?" if alike else did_you_mean(str(mode), _MODES)
            raise ArgumentError(f"mode={mode!r}: 'backward' or 'forward' is needed{hint}")
        if not isinstance(log_dir, (str, os.PathLike)):
            raise ArgumentTypeError(f"log_dir={log_dir!r}: the path of a folder is needed")
        super().__init__(_MODES[mode], every, priority=priority)
        #: The folder in which runs lie.
        self.root = os.fspath(log_dir)

    def attach(self, trainer: Any) -> None:
        super().attach(trainer)
        need_board(trainer)

    def detach(self, trainer: Any) -> None:
        """Take the `TensorBoard` out again that was added for it."""
        drop_board(trainer)


def need_board(trainer: Any) -> None:
    """Give a trainer a `TensorBoard` callback, where it has none."""
    from .tensorboard import TensorBoard

    if not any(isinstance(callback, TensorBoard) for callback in trainer.callbacks):
        # One that was taken out before knows what it has written, which another would take for another run's.
        board: Any = vars(trainer.execution).get("added_board") or TensorBoard()
        trainer.execution.added_board = board
        trainer.callbacks.append(board)
        trainer.attached.append(board)  # so that it is detached like those that were there before


def drop_board(trainer: Any) -> None:
    """Take out the `TensorBoard` callback that `need_board` has added, once no other callback needs it."""
    board = vars(trainer.execution).get("added_board")
    if not any(getattr(callback, "needs_board", False) for callback in trainer.callbacks):
        trainer.callbacks[:] = [callback for callback in trainer.callbacks if callback is not board]


def writer_of(trainer: Any) -> Any:
    """The open `SummaryWriter` of a `TensorBoard` callback; None where there is none."""
    writers = (getattr(callback, "writer", None) for callback in trainer.callbacks)
    return next((writer for writer in writers if writer is not None), None)


def add_histogram(writer: Any, tag: str, row: Mapping[str, Any], step: int | None) -> None:
    """Write a histogram that was counted already, so that no layer's output has to be brought to the CPU."""
    low, high = row["edges"]
    counts, size = row["histogram"], sum(row["histogram"])
    if not size or not all(map(math.isfinite, (low, high, row["mean"], row["std"]))):
        return
    width = (high - low) / len(counts)
    writer.add_histogram_raw(
        tag,
        min=low,
        max=high,
        num=size,
        sum=size * row["mean"],
        sum_squares=size * (row["mean"] ** 2 + row["std"] ** 2),
        bucket_limits=[low + width * (number + 1) for number in range(len(counts))],
        bucket_counts=counts,
        global_step=step,
    )


def _statistics(tensor: torch.Tensor, bins: int) -> Found:
    """Mean, std, min, max, share of dead units, and the histogram's edges; its counts; and the size."""
    tensor = tensor.to(torch.float32) if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    zero = tensor == 0
    dead = (zero.all(0) if tensor.ndim > 1 else zero).to(tensor.dtype).mean()
    std, mean = torch.std_mean(tensor, correction=0)
    finite = tensor[torch.isfinite(tensor)]
    low, high = torch.aminmax(finite) if finite.numel() else (tensor.new_zeros(()), tensor.new_zeros(()))
    if low == high:  # of one value: a histogram needs some width
        low, high = low - 0.5, high + 0.5
    edges, wider = (float(low), float(high)), wide(tensor.device)
    # In pieces, as it counts in the numbers' own type, which at some point is full.
    parts = [torch.histc(part, bins, *edges).to(wider) for part in finite.split(_PIECE)] or [finite.new_zeros(bins)]
    numbers = torch.stack([mean, std, tensor.min(), tensor.max(), dead, low, high])
    return numbers.to(wider), torch.stack(parts).sum(0), tensor.numel()


def _floats(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of floating numbers in nested containers that hold any."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _floats(item)
