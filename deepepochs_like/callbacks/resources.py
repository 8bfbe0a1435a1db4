"""`ResourceMonitor`: what a run takes: memory of the process and of the GPU, and samples per second."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ..types import StateDict
from .base import Callback

MIB = 2**20


class ResourceMonitor(Callback):
    """Note per epoch what the run takes: memory in MiB, samples per second of training.

    Looked at when an epoch ends, so that a step costs nothing and no thread is needed. The figures are handed to the
    loggers among the callbacks, are kept in `epochs`, and a line at the end of the run sums them up.

    ``rss`` is the process's memory in use at the end of the epoch, ``rss_peak`` the most it has had since it began
    (as the kernel counts it), ``gpu`` and ``gpu_peak`` what torch has allocated on the trainer's GPU at the end of the
    epoch and at most within it, for which it resets torch's count of the peak. ``samples_per_s`` is the weight of the
    training batches (their samples, unless steps weigh them otherwise) over the time of training alone.

    Args:
        priority: its place among the callbacks.

    Attributes:
        epochs: the figures of each epoch, ``{'epoch': 1, 'rss': ..., ...}``.

    Example:
        >>> from deepepochs_like import ResourceMonitor, Trainer
        >>> net, monitor = torch.nn.Linear(2, 1), ResourceMonitor()
        >>> data = [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> fit = Trainer(net, torch.nn.functional.mse_loss, epochs=2, callbacks=[monitor], verbose=0).fit(data)
        >>> [figures['epoch'] for figures in monitor.epochs], monitor.epochs[0]['rss'] > 1
        ([1, 2], True)
    """

    optional_state = True

    def __init__(self, priority: float = 1) -> None:
        super().__init__(priority)
        self.epochs: list[dict[str, float]] = []
        self._seconds = self._weight = self._began = self._before = 0.0

    def state_dict(self) -> StateDict:
        return {"epochs": [dict(figures) for figures in self.epochs]}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.epochs = [dict(figures) for figures in state_dict["epochs"]]

    def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
        self._seconds = self._weight = 0.0
        if trainer.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.device)

    def on_before_train_epoch(self, trainer: Any, task: Any) -> None:
        # Of an epoch that was cut off, what was trained before it is not this process's.
        self._before, self._began = float(task.figures.losses.state_dict()["weight"]), perf_counter()

    def on_after_train_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
        self._seconds += perf_counter() - self._began
        self._weight += float(task.figures.losses.state_dict()["weight"]) - self._before

    def on_after_epoch(
        self, trainer: Any, train_tasks: Any, val_tasks: Any, train_metrics: Any, val_metrics: Any, epoch_idx: int
    ) -> None:
        """Read what the epoch took, once, when nothing waits for it."""
        figures = {**memory(), **gpu_memory(trainer.device)}
        if self._seconds and self._weight:  # a step of one's own may feed no loss
            figures["samples_per_s"] = self._weight / self._seconds
        self.epochs.append({"epoch": epoch_idx + 1, **figures})
        if any(hasattr(callback, "log_figures") for callback in trainer.callbacks):
            trainer.log({f"resources/{name}": value for name, value in figures.items()})

    def on_after_fit(self, trainer: Any) -> None:
        if trainer.verbose and self.epochs:
            trainer.print(self.summary())

    def summary(self) -> str:
        """All epochs in a line.

        Example:
            >>> monitor = ResourceMonitor(); monitor.epochs = [{'epoch': 1, 'rss_peak': 310.0, 'samples_per_s': 1234.5}]
            >>> monitor.summary()
            'memory at most 310 MiB; 1,234 samples/s'
        """
        parts = []
        for name, text in (("rss_peak", "memory at most {:,.0f} MiB"), ("gpu_peak", "GPU memory at most {:,.0f} MiB")):
            if values := [figures[name] for figures in self.epochs if name in figures]:
                parts.append(text.format(max(values)))
        if rates := sorted(figures["samples_per_s"] for figures in self.epochs if "samples_per_s" in figures):
            parts.append(f"{rates[(len(rates) - 1) // 2]:,.0f} samples/s")  # of the epoch in the middle
        return "; ".join(parts)


def memory() -> dict[str, float]:
    """The memory of this process in MiB: in use (where the system tells), and at most since it began."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        names = {"rss": "VmRSS", "rss_peak": "VmHWM"}
        return {name: int(lines[key].split()[0]) / 1024 for name, key in names.items() if key in lines}
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"rss_peak": peak / (MIB if sys.platform == "darwin" else 1024)}


def gpu_memory(device: torch.device) -> dict[str, float]:
    """What torch has allocated on a GPU in MiB, now and at most; nothing for another device."""
    if device.type != "cuda":
        return {}
    now, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return {"gpu": now / MIB, "gpu_peak": peak / MIB}
