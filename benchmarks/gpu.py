"""What a training loop costs on a GPU: ``python -m benchmarks.gpu``.

Beside the steps per second it tells how often a step makes the host wait for the device, and how long the device has
nothing to do: a loop that is too slow for its device shows there, and not in the host's time. Weights are compared with
those of the loop by hand; kernels that add up in another order each time make them differ in their last bits.
"""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from deepepochs_like import Trainer

from .loops import adam
from .measure import distance
from .ours import REPORTS
from .report import table
from .statistics import ratios, spread
from .workloads import WORKLOADS, Workload

Batches = list[Any]
Loop = Callable[[nn.Module, Batches, int], Any]

#: Epochs of the two runs whose difference leaves out what is done once per run, and of a run that is timed.
SHORT, LONG, TIMED = 1, 3, 5
#: How torch's warning of an operation that waits begins; when it is turned on, it warns of itself in other words.
WAITS = "called a synchronizing"


def device_of(net: nn.Module) -> torch.device:
    """Where a model is."""
    return next(net.parameters()).device


def brought(batches: Batches, device: torch.device) -> Iterable[Any]:
    """Batches on a device: as they are where they are there, else copied from pinned memory without waiting."""
    if batches[0][1].device == device:
        return batches
    return (tuple(part.pin_memory().to(device, non_blocking=True) for part in batch) for batch in batches)


def by_hand(net: nn.Module, batches: Batches, epochs: int) -> list[tuple[float, float]]:
    """The loop by hand: loss and accuracy stay on the device and are read once per epoch."""
    opt, figures = adam(net, fused=True), []
    device = device_of(net)
    net.train()
    for _ in range(epochs):
        total, right = torch.zeros((), device=device), torch.zeros((), device=device, dtype=torch.int64)
        n = targets = 0
        for x, y in brought(batches, device):
            out = net(x)
            loss = F.cross_entropy(out, y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            total += loss.detach() * len(y)
            right += (out.detach().argmax(1) == y).sum()
            n, targets = n + len(y), targets + y.numel()
        figures.append((total.item() / n, right.item() / targets))
    return figures


def tutorial(net: nn.Module, batches: Batches, epochs: int) -> None:
    """The loop of tutorials, which reads loss and accuracy back after every step."""
    opt, device = adam(net, fused=False), device_of(net)
    net.train()
    for _ in range(epochs):
        total, right = 0.0, 0.0
        for x, y in batches:
            x, y = x.to(device), y.to(device)
            opt.zero_grad()
            out = net(x)
            loss = F.cross_entropy(out, y)
            loss.backward()
            opt.step()
            total += loss.item() * len(y)
            right += (out.argmax(1) == y).sum().item()


def ours(net: nn.Module, batches: Batches, epochs: int) -> Any:
    """This library, showing nothing."""
    report = REPORTS["accuracy" if batches[0][1].dim() == 1 else "accuracy of tokens"]
    opt, device = adam(net, fused=True), device_of(net)
    return Trainer(net, F.cross_entropy, opt, epochs=epochs, device=device, verbose=0, **report).fit(batches)


LOOPS: dict[str, Loop] = {"by hand": by_hand, "by hand again": by_hand, "tutorial": tutorial, "lean": ours}


@dataclass
class Case:
    """A workload's batches of training, and the device that it is done on: where they are, or where they are copied."""

    work: Workload
    batches: Batches
    device: torch.device

    @classmethod
    def of(cls, work: Workload, device: torch.device, copied: bool = False) -> Case:
        """Take a workload's batches; without copies, what is measured is the loop, not the way to the device."""
        place = torch.device("cpu") if copied else device
        return cls(work, [(x.to(place), y.to(place)) for x, y in work.loaders()[0]], device)

    def model(self) -> nn.Module:
        """A fresh model, on the device."""
        return self.work.model().to(self.device)


def seconds(loop: Loop, case: Case) -> float:
    """Wall time of a run, until the device is done with it."""
    net = case.model()
    gc.collect(1)  # what the last one left
    torch.cuda.synchronize()
    began = time.perf_counter()
    loop(net, case.batches, TIMED)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def waits(loop: Loop, case: Case, epochs: int) -> int:
    """How often a run makes the host wait for the device, as torch counts it."""
    net = case.model()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            loop(net, case.batches, epochs)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum(WAITS in str(warning.message) for warning in caught)


def weights(loop: Loop, case: Case) -> list[Tensor]:
    """What a run ends with."""
    net = case.model()
    loop(net, case.batches, SHORT)
    return [value.detach().cpu() for value in net.state_dict().values()]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of the spans lasted."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def busy(loop: Loop, case: Case) -> float:
    """Seconds of a step in which the device does something; NaN where the profiler saw nothing.

    Only the device is watched, since watching the host slows it, and this library leaves to torch what it does by
    itself otherwise. How long kernels take does not depend on that; how far apart they are does, and is not asked for.
    """
    net = case.model()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        loop(net, case.batches, LONG)
        torch.cuda.synchronize()
    # A label around an optimizer's step is a span on the device, too, idle moments included.
    events = [
        event
        for event in profiler.events() or []
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)
    ]
    spans: list[tuple[float, float]] = [(event.time_range.start, event.time_range.end) for event in events]
    return 1e-6 * covered(spans) / (LONG * len(case.batches)) if spans else float("nan")


def measured(case: Case, rounds: int) -> str:
    """One workload: a table."""
    steps = len(case.batches)
    taken: dict[str, list[float]] = {name: [] for name in LOOPS}
    for loop in LOOPS.values():
        seconds(loop, case)  # kernels are loaded when they are first used
    for number in range(rounds):
        names = list(LOOPS)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken[name].append(seconds(LOOPS[name], case))
    lines, mine = [], weights(by_hand, case)
    for name, loop in LOOPS.items():
        rate = spread([TIMED * steps / wall for wall in taken[name]])
        times = spread(ratios(taken[name], taken["by hand"]))
        extra = waits(loop, case, LONG) - waits(loop, case, SHORT)
        idle = 1 - busy(loop, case) * rate.median
        apart = distance(weights(loop, case), mine)
        lines.append(
            [
                name,
                f"{times.median:.3f} ({times.low:.3f}–{times.high:.3f})",
                f"{rate.median:.0f}",
                f"{rate.low:.0f}–{rate.high:.0f}",
                f"{extra / ((LONG - SHORT) * steps):.2f}",
                f"{idle:.0%}",
                "equal" if apart == 0 else f"to {apart:.0e}",
            ]
        )
    head = ("loop", "time ÷ by hand", "steps/s", "quartiles", "waits/step", "device idle", "weights")
    there = case.batches[0][1].device == case.device
    data = "on the device" if there else "in the computer's memory, copied batch by batch"
    return f"## {case.work.name}: training alone, data {data}\n\n{table(head, lines)}"


def main() -> int:
    """Measure and print; without a GPU say so and exit with 1."""
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so there is nothing to measure.", file=sys.stderr)
        return 1
    device = torch.device("cuda", torch.cuda.current_device())
    print(f"{torch.cuda.get_device_name(device)}; torch {torch.__version__}\n")
    cases = [Case.of(WORKLOADS[name], device) for name in ("w1", "w2", "w4")]
    for case in [*cases, Case.of(WORKLOADS["w2"], device, copied=True)]:
        print(measured(case, rounds=9), end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
