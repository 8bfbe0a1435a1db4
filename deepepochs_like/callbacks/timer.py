"""`Timer`: where the time of an epoch goes."""

from __future__ import annotations

import shutil
import time
from functools import partial
from typing import Any, NoReturn

import torch

from ..display.words import duration
from ..errors import ArgumentError, refuse_unknown
from ..types import StateDict
from .base import Callback

#: What the time is told apart into, in the order of the table.
PHASES = ("data", "forward", "loss", "backward", "update", "callbacks", "other", "validation")
#: What a figure is made of where they are asked for: what happens in every batch.
_PER_BATCH = PHASES[:-1]
_SHOW = ("fit", "epoch", None)
#: Epochs that the table has room for at most.
_MOST_COLUMNS = 20
_OF_VALIDATION = (
    "before_epochs",
    "before_epoch",
    "before_batch",
    "before_forward",
    "after_forward",
    "metrics",
    "after_batch",
    "after_epoch",
    "after_epochs",
)
#: Phases that a device works on by itself, and pairs of events that are kept before they are read.
_ON_DEVICE, _MOST_PAIRS = frozenset({"forward", "backward", "update"}), 1024


class Timer(Callback):
    """Measure where the time of a fit goes: ``timer.seconds``, ``timer.epochs``, ``timer.table()``.

    ``data`` is what passes between two batches: waiting for the loader, and moving what it gives to the device.
    ``forward``, ``loss``, ``backward`` and ``update`` are the calls of the model, what comes between them and
    back-propagation (the loss and the metrics), back-propagation itself, and the optimizers' steps with the clearing of
    gradients. ``callbacks`` is what all other callbacks take, also in validation, checkpoints and the display among
    them; ``validation`` is all else of it; ``other`` the rest. All of them together are the epoch.

    It costs about twenty microseconds a batch: it looks at the clock between the listeners of the events, and listens
    to no event of a batch itself. Loops inside the run, as a `validate` in a hook, count where they stand. With
    ``Trainer(compile='step')`` gradients are computed by the graph of the forward pass, and count there.

    On a GPU, work is measured where it is done, by events in its stream: forward, backward and update are then what
    the device took, while all others are the clock's, and their sum is no longer that of the epoch. (This has not been
    tried on a GPU.)

    Args:
        show: ``'fit'`` prints the table when a fit is over, ``'epoch'`` a line after every epoch, None neither; with
            ``Trainer(verbose=0)``, and where a run is only rehearsed, nothing is printed.
        figures: put the mean seconds per batch into the history, as ``time.data`` and so on.
        device_events: measure by events on a device that has them; False takes the clock, which on a GPU tells when
            work was handed over.
        priority: its place among the callbacks.

    Attributes:
        epochs: for every epoch its seconds by phase.

    Raises:
        ArgumentError: `show` is none of the three.

    Example:
        >>> from deepepochs_like import Trainer
        >>> data = [(torch.ones(4, 2), torch.ones(4, 1))] * 3
        >>> timer = Timer(show=None)
        >>> trainer = Trainer(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, epochs=2, verbose=0, callbacks=timer)
        >>> history = trainer.fit(data)
        >>> len(timer.epochs), [phase for phase, seconds in timer.seconds.items() if seconds == 0]
        (2, ['validation'])
    """

    optional_state = True

    def __init__(
        self,
        show: str | None = "fit",
        *,
        figures: bool = False,
        device_events: bool = True,
        priority: float = 1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("Timer", unknown, Timer.__init__)
        super().__init__(priority)
        if show not in _SHOW:
            raise ArgumentError(f"show={show!r}: 'fit', 'epoch' or None is needed")
        self.show, self.figures, self.device_events = show, figures, device_events
        self.epochs: list[dict[str, float]] = []
        #: The epoch in progress, its phase, and since when that lasts.
        self._open: dict[str, float] = _nothing()
        self._phase, self._since, self._outside = "", 0.0, ""
        self._device: DeviceClock | None = None
        self._batch: dict[str, float] = _nothing()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase, of all epochs and the one in progress."""
        return {phase: sum(epoch[phase] for epoch in [*self.epochs, self._open]) for phase in PHASES}

    def table(self, width: int | None = None) -> str:
        """A line per phase: its share, its time in all epochs, in one of them on average, and in the last ones.

        Args:
            width: the columns there are, of which the epochs take what is left; by default the terminal's.
        """
        width = shutil.get_terminal_size().columns - 1 if width is None else width
        epochs = [*self.epochs, *([self._open] if any(self._open.values()) else [])]
        used = [phase for phase in PHASES if phase != "validation" or any(epoch[phase] for epoch in epochs)]
        total, whole = self.seconds, sum(self.seconds.values())
        shares = [f"{total[phase] / whole if whole else 0:.1%}" for phase in used]
        columns = [
            ["phase", *used, "all"],
            ["share", *shares, "100%" if whole else "0.0%"],
            _column("sum", total, used),
        ]
        if epochs:
            columns.append(_column("mean", {p: total[p] / len(epochs) for p in PHASES}, used))
        place, shown = len(columns), range(len(epochs), max(len(epochs) - _MOST_COLUMNS, 0), -1)
        for number in shown:
            columns.insert(place, _column(f"epoch {number}", epochs[number - 1], used))
            if sum(max(map(len, column)) + 2 for column in columns) - 2 > width:
                del columns[place]
                break
        names, *others = ([cell.rjust(max(map(len, column))) for cell in column] for column in columns)
        return "\n".join(
            "  ".join([name.strip().ljust(len(name)), *row]) for name, *row in zip(names, *others, strict=True)
        )

    def state_dict(self) -> StateDict:
        """The seconds so far: a resumed run goes on with them."""
        self._mark(self._phase)
        return {"epochs": [dict(epoch) for epoch in self.epochs], "open": dict(self._open)}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.epochs = [_nothing() | epoch for epoch in state_dict["epochs"]]
        self._open = _nothing() | state_dict["open"]

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        """Begin to measure: the hooks are wrapped once it is known who listens."""
        on_cuda = self.device_events and trainer.device.type == "cuda"
        self._device = DeviceClock(trainer.device) if on_cuda else None
        self._close()
        if not trainer.progress.step:  # a run that goes on from a state is given its seconds behind this
            self.epochs, self._open = [], _nothing()
        self._listen(trainer.hooks)
        self._since = time.perf_counter()

    def on_after_epoch(
        self, trainer: Any, train_tasks: Any, val_tasks: Any, train_metrics: Any, val_metrics: Any, epoch_idx: int
    ) -> None:
        self._mark("callbacks")
        self._read_device()
        if self.show == "epoch" and trainer.verbose:
            parts = [f"{phase} {duration(self._open[phase])}" for phase in PHASES if self._open[phase]]
            trainer.print(f"epoch {epoch_idx + 1}: {', '.join(parts)}")

    def on_after_fit(self, trainer: Any) -> None:
        """Book what is open, and show the table where that is asked for."""
        self._mark("")
        self._read_device()
        if not trainer.progress.stage:  # else the epoch was cut off, and a resumed run goes on with it
            self._close()
        if self.show == "fit" and trainer.verbose and any(self.seconds.values()):
            trainer.print(self.table())

    def on_cleanup(self, trainer: Any) -> None:
        self._mark("")
        self._device = None

    def _close(self) -> None:
        """Begin a new epoch: what comes behind an epoch's last hook, as a checkpoint, belongs to that one."""
        self._mark(self._phase)
        if any(self._open.values()):
            self.epochs.append(self._open)
            self._open = _nothing()

    def _mark(self, phase: str, **ignored: Any) -> None:
        """Count what has passed for the phase that ends here, and begin another; '' is none."""
        now = time.perf_counter()
        former, device = self._phase, self._device
        if former and (device is None or former not in _ON_DEVICE):
            self._open[former] += now - self._since
        if device is not None and (phase in _ON_DEVICE or former in _ON_DEVICE):
            device.mark(phase)
        self._phase, self._since = phase, now

    def _mark_epoch(self, trainer: Any, **ignored: Any) -> None:
        """Count what has passed for the last epoch, and begin another."""
        if trainer.progress.opened is None:  # else the state that was loaded has the beginning of it
            self._close()
        self._mark("callbacks")

    def _mark_end_of_pass(self, **ignored: Any) -> None:
        """Count what has passed since the last batch: the figures are read there, and no batch came."""
        self._phase = "other" if self._phase == "data" else self._phase
        self._mark("callbacks")

    def _mark_nested(self, entering: bool, **ignored: Any) -> None:
        """Count an event that may be fired inside others'."""
        if entering:
            self._outside = self._phase
        self._mark("callbacks" if entering else self._outside)

    def _read_device(self) -> None:
        if self._device is not None:
            self._open |= {p: self._open[p] + s for p, s in self._device.read().items()}

    def _add_figures(self, trainer: Any, **ignored: Any) -> None:
        """Add the seconds since the last batch to the epoch's figures."""
        for phase in _PER_BATCH:
            trainer.add_figure(f"time.{phase}", self._open[phase] - self._batch[phase])
        self._batch = dict(self._open)

    def _begin_figures(self, **ignored: Any) -> None:
        self._batch = dict(self._open)

    def _listen(self, hooks: Any) -> None:
        """Put the marks before and behind the listeners of the run's events."""
        train, val = hooks.stages["train"], hooks.stages["val"]

        def begin(phase: str) -> Any:
            return partial(self._mark, phase)

        for owner, event, phase in (
            (train, "before_epochs", "other"),
            (train, "before_epoch", "data"),
            (train, "before_batch", "other"),
            (train, "before_forward", "forward"),
            (train, "after_forward", "loss"),
            (hooks, "before_backward", "backward"),
            (hooks, "after_backward", "other"),
            (hooks, "before_optimize", "update"),
            (hooks, "after_optimize", "other"),
            (train, "metrics", "other"),
            (train, "after_batch", "data"),
            (train, "after_epochs", "other"),
            (hooks, "after_epoch", "other"),
        ):
            listeners = getattr(owner, event)
            if listeners:
                setattr(owner, event, (begin("callbacks"), *listeners, begin(phase)))
            elif event != "metrics":  # for which much would be made ready
                setattr(owner, event, (begin(phase),))
        hooks.before_epoch = (self._mark_epoch, *hooks.before_epoch, begin("other"))
        if hooks.on_checkpoint:
            enter, leave = (partial(self._mark_nested, way) for way in (True, False))
            hooks.on_checkpoint = (enter, *hooks.on_checkpoint, leave)
        train.after_epoch = (self._mark_end_of_pass, *train.after_epoch, begin("other"))
        for event in _OF_VALIDATION:
            if listeners := getattr(val, event):
                setattr(val, event, (begin("callbacks"), *listeners, begin("validation")))
        val.before_epochs = val.before_epochs or (begin("validation"),)
        val.after_epochs = (*val.after_epochs, begin("other"))
        if self.figures:
            train.before_epoch = (*train.before_epoch, self._begin_figures)
            train.after_batch = (self._add_figures, *train.after_batch)


class DeviceClock:
    """Tell how long a device worked on phases, by events in its current stream.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pairs: list[tuple[str, Any, Any]] = []
        self._open: tuple[str, Any] | None = None
        self._read: dict[str, float] = {}

    def mark(self, phase: str) -> None:
        """End the phase that is measured, and begin another, where it is one of the device's."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        if self._open is not None:
            self._pairs.append((*self._open, event))
        self._open = (phase, event) if phase in _ON_DEVICE else None
        if len(self._pairs) >= _MOST_PAIRS:  # the older half is over, or will be soon
            self._take(_MOST_PAIRS // 2)

    def read(self) -> dict[str, float]:
        """Seconds by phase since the last reading; it waits for the device."""
        self._take(len(self._pairs))
        seconds, self._read = self._read, {}
        return seconds

    def _take(self, count: int) -> None:
        taken, self._pairs = self._pairs[:count], self._pairs[count:]
        for phase, start, end in taken:
            end.synchronize()
            self._read[phase] = self._read.get(phase, 0.0) + start.elapsed_time(end) / 1000


def _nothing() -> dict[str, float]:
    return dict.fromkeys(PHASES, 0.0)


def _column(head: str, seconds: dict[str, float], phases: list[str]) -> list[str]:
    return [head, *(duration(seconds[phase]) for phase in phases), duration(sum(seconds.values()))]
