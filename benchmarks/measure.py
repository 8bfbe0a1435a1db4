"""Running contenders by turns, timing them, and checking that they did the same."""

from __future__ import annotations

import gc
import math
import random
import resource
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .contender import Contender
from .loops import Rows
from .workloads import Workload

#: How far figures may lie apart: some add up in float32, some in float64.
FIGURES = 1e-6
#: And how far at most those of somebody may whose weights differ by more.
FIGURES_AT_MOST = 1e-2
#: What is put behind the name of a contender that leaves checkpoints out.
NO_FILES = "(no files)"


@dataclass
class Outcome:
    """What a run left behind."""

    weights: list[Tensor]
    rows: Rows


@dataclass
class Record:
    """What is known of a contender on a workload: seconds per round, and in what it differs from whom it is like."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    #: CPU time of fits of one batch, most of which is no step's.
    once: list[float] = field(default_factory=list)
    #: The largest difference of a weight from those it is to be like.
    apart: float = 0.0
    #: Why it is not ranked; empty where it is.
    fault: str = ""


def cpu_seconds() -> float:
    """CPU time of this process and of the workers it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(contender: Contender, work: Workload) -> tuple[float, float, Outcome]:
    """Do a workload once: seconds of CPU, seconds of wall time, and what came out."""
    with tempfile.TemporaryDirectory() as folder:
        job = contender.job(work, Path(folder))
        gc.collect(1)  # what the last one left; a full collection, once per round, takes longer than many a run
        with contender.around():
            cpu, wall = cpu_seconds(), time.perf_counter()
            result = contender.run(job)
            cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    weights = [value.detach().clone() for value in job.net.state_dict().values()]
    return cpu, wall, Outcome(weights, contender.read(result))


def distance(mine: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest difference between weights: 0 where they are equal to the bit, inf where even shapes differ."""
    if len(mine) != len(others) or any(a.shape != b.shape for a, b in zip(mine, others, strict=True)):
        return math.inf
    if all(torch.equal(a, b) for a, b in zip(mine, others, strict=True)):
        return 0.0
    return max(_apart(a, b) for a, b in zip(mine, others, strict=True))


def _apart(mine: Tensor, other: Tensor) -> float:
    differ = mine != other  # infinities that are equal, as in a mask, have no difference
    gap = (mine[differ].double() - other[differ].double()).abs().nan_to_num(math.inf)
    return gap.max().item() if gap.numel() else 0.0


def different_figure(mine: Rows, others: Rows, tolerance: float = FIGURES) -> str:
    """Say which figure differs; empty where none does."""
    if len(mine) != len(others):
        return f"{len(mine)} epochs, not {len(others)}"
    for epoch, (row, other) in enumerate(zip(mine, others, strict=True)):
        for stage, figures in other.items():
            for name, value in figures.items():
                found = row.get(stage, {}).get(name)
                if found is None:
                    return f"no {stage} {name}"
                if not _close(found, value, tolerance):
                    return f"{stage} {name} of epoch {epoch + 1} is {found}, not {value}"
    return ""


def _close(found: Any, value: Any, tolerance: float) -> bool:
    found, value = torch.as_tensor(found).double(), torch.as_tensor(value).double()
    return found.shape == value.shape and bool(torch.allclose(found, value, rtol=tolerance, atol=tolerance))


def one_batch(work: Workload) -> Workload:
    """The same with one batch of training and one of validation."""
    return replace(work, rows=(work.batch_size, work.batch_size), epochs=1)


def judge(contender: Contender, mine: Outcome, other: Outcome, record: Record) -> None:
    """Enter how far a run is from that of whom it is to be like, and whether that is too far."""
    record.apart = max(record.apart, distance(mine.weights, other.weights))
    if record.apart > contender.tolerance:
        record.fault = record.fault or f"its weights differ from those of {contender.model} by {record.apart:.1e}"
    # Where weights differ in their last bits, figures may as well.
    elif what := different_figure(mine.rows, other.rows, min(max(FIGURES, contender.tolerance), FIGURES_AT_MOST)):
        record.fault = record.fault or f"its figures differ from those of {contender.model}: {what}"


def with_twins(contenders: Sequence[Contender]) -> list[Contender]:
    """Each contender with one that leaves its checkpoints out, by whose time its own is divided."""
    pairs = []
    for contender in contenders:
        twin = f"{contender.name} {NO_FILES}"
        pairs.append(replace(contender, base=twin, like=contender.model))
        pairs.append(
            replace(contender, name=twin, base=f"{contender.base} {NO_FILES}", like=contender.model, unsaved=True)
        )
    return pairs


def paired(work: Workload, contenders: Sequence[Contender]) -> list[Contender]:
    """The contenders on a workload: each with its twin where checkpoints are asked for."""
    return list(contenders) if work.save_every is None else with_twins(contenders)


class Session:
    """Contenders on one workload, run by turns.

    Args:
        work: what they do.
        contenders: who; those whose time others' is divided by have to be among them.
        seed: of the order in which they run.
        references: who runs only once, for others to be like.
    """

    def __init__(
        self, work: Workload, contenders: Iterable[Contender], seed: int = 0, references: Iterable[Contender] = ()
    ) -> None:
        self.work, self.seed = work, seed
        taking = [c for c in contenders if c.takes(work)]
        self.contenders = {c.name: c for c in paired(work, taking)}
        self.records = {name: Record() for name in self.contenders}
        self.references = {c.name: c for c in references if c.takes(work)}
        self.known: dict[str, Outcome] = {}
        self.rounds = 0

    def order(self) -> list[str]:
        """Who runs when in the round that comes: shuffled, the same for the same seed and number."""
        names = list(self.contenders)
        random.Random(f"{self.seed} {self.rounds}").shuffle(names)
        return names

    def round(self, counts: bool = True) -> None:
        """Run each contender once; with `counts` False to warm up."""
        outcomes: dict[str, Outcome] = {}
        for name, reference in self.references.items():
            if name not in self.known:
                self.known[name] = timed(reference, self.work)[2]
        gc.collect()
        for name in self.order():
            if not self.records[name].fault.startswith("failed"):
                self._run(name, outcomes, counts)
        for name, outcome in outcomes.items():
            contender = self.contenders[name]
            if (other := outcomes.get(contender.model, self.known.get(contender.model))) is not None:
                judge(contender, outcome, other, self.records[name])
        self.rounds += 1

    def _run(self, name: str, outcomes: dict[str, Outcome], counts: bool) -> None:
        record = self.records[name]
        try:
            cpu, wall, outcomes[name] = timed(self.contenders[name], self.work)
            once = timed(self.contenders[name], one_batch(self.work))[0]
        except Exception as error:  # one contender's failure is its own: it is named, and the others run on
            record.fault = f"failed: {type(error).__name__}: {error}".splitlines()[0]
            return
        if counts:
            record.cpu.append(cpu)
            record.wall.append(wall)
            record.once.append(once)
