"""The results as tables that read well as they are printed."""

from __future__ import annotations

import datetime
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from .contender import Contender
from .flat import FEW, MANY
from .footprint import Footprint
from .measure import Record
from .statistics import Spread, ratios, spread
from .steady import cores
from .workloads import WORKLOADS, Workload

NONE = "–"
#: How the names of the report's sections follow each other.
ORDER = [
    *WORKLOADS,
    *("The display", "Checkpoints", "Fixed costs", "Peak memory of an epoch", "Installing and importing"),
]
HEAD = ("contender", "÷ by", "CPU µs/step", "CPU", "quartiles", "wall", "CPU ÷ naive", "CPU ÷ best", "1 batch, ms",
        "calls: loss", "calls: as run", "peak MB", "weights")  # fmt: skip

EXPLANATION = """\
`best` is the best loop by hand that is known, with fused Adam; `naive` that of tutorials, with Adam as one gets it and
figures read back every step; both are in [loops.py](loops.py), and leave the data to the DataLoader. `lean` is this
library with the optimizer of `best` and nothing shown, `display` the same with its console, `default` with its console
and the optimizer of `naive`, into a pipe or a terminal. It cuts batches of data in memory from whole tensors instead of
asking the DataLoader for one sample after the other, which is most of what it gains on w1 and w3. "(any dataset)" is a
dataset that this cannot be done with, which leaves the rest of the gain; on w5 nobody can. "(one patch)" computes the
figures of w3 by `ConfusionMetrics`. Of each peer there is what its documentation shows first (`default`, with the
optimizer of `naive`, and to be read by "CPU ÷ naive") and the quickest way we found (`lean`, with that of `best`);
[peers.py](peers.py) has them.

Every round runs each contender once, in a shuffled order; times are divided by those of another contender in the same
round ("÷ by"), and what is shown are medians over the rounds, with quartiles for CPU time. CPU time includes that of
workers. `best again` is the best loop a second time: differences as small as its own mean nothing. Peers run in a
process of their own beside the loops by hand, in the same rounds, and are divided by those.

Two things are the same for everybody, so that times repeat: processes keep the memory they have got (glibc's `mallopt`;
else the page faults of large tensors are a fifth of w2, and differ from run to run), and they stay on the first core,
their workers on the others. Peak memory is measured without either.

With checkpoints (w6) each contender is divided by itself without them ("no files"), which says what they cost; "CPU ÷
best" compares whole fits, and is what the tables are sorted by. Each saves model and optimizer as its documentation
says; most save every 100 steps and no more, this library, torchtnt and transformers at the end as well. Only this
library's are checked when they are read, and survive a power cut when they are written: CPU time has the hashing for
it, wall time the flushing.

CPU µs/step is the time of the whole fit, validation included, by the number of updates. "1 batch" is that of a fit of
one batch with its validation, little of which is the step's: where it is tens of milliseconds, as a run of w1 takes
about 100, a library is better compared by its calls. Calls are Python and C calls per training step beyond those of the
loop that adds up its loss and does nothing else: once with the loss alone, and once as the contender is run here.
Without a display they are the same every time: where times lie as close together as they do on w4, calls say who does
more. Peak MB is that of a fresh process. Weights: "equal" is to the bit, to those of the best loop ("default": to those
of `naive`, which has the unfused optimizer, too); else the largest difference. All report the same figures, to 1e-6, or
to as much as their weights may differ, 1e-2 at most. Whoever differs is named below the table, and not ranked.

Below each table is the command that measured it, with the day, the commit and the machine.\
"""


@dataclass
class Row:
    """What the table says of a contender beside its times."""

    contender: Contender
    record: Record
    base: Record
    naive: Record | None = None
    best: Record | None = None
    calls_loss: float | None = None
    calls_run: float | None = None
    peak: float | None = None

    @property
    def cpu(self) -> Spread:
        """Its CPU time by its base's."""
        return spread(ratios(self.record.cpu, self.base.cpu))

    @property
    def rank(self) -> float:
        """Its CPU time by that of the best loop doing the same work, checkpoints included."""
        base = self.base if self.best is None or not self.best.cpu else self.best
        return spread(ratios(self.record.cpu, base.cpu)).median


def number(value: float | None, form: str = ".2f") -> str:
    """A number, or the sign that there is none."""
    return NONE if value is None else format(value, form)


def cells(row: Row, steps: int) -> list[str]:
    """A line of the table."""
    cpu, wall = row.cpu, spread(ratios(row.record.wall, row.base.wall))
    naive = None if row.naive is None else spread(ratios(row.record.cpu, row.naive.cpu)).median
    apart = row.record.apart
    return [
        row.contender.name,
        row.contender.base,
        f"{1e6 * spread(row.record.cpu).median / steps:.0f}",
        number(cpu.median, ".3f"),
        f"{cpu.low:.3f}–{cpu.high:.3f}",
        number(wall.median, ".3f"),
        number(naive),
        number(row.rank, ".3f"),
        f"{1e3 * spread(row.record.once).median:.1f}" if row.record.once else NONE,
        number(row.calls_loss, "+.1f"),
        number(row.calls_run, "+.1f"),
        number(row.peak, ".0f"),
        "equal" if apart == 0 else f"to {apart:.0e}",
    ]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns lined up; all but the first two are numbers."""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]

    def laid_out(line: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (w - 1)) + ("-" if i < 2 else ":") for i, w in enumerate(widths)]
    return "\n".join([laid_out(head), f"| {' | '.join(rule)} |", *map(laid_out, lines)])


def workload_report(work: Workload, rows: Sequence[Row]) -> str:
    """One workload: the table, the control, and who is not ranked."""
    ranked = sorted((row for row in rows if not row.record.fault and row.record.cpu), key=lambda row: row.rank)
    parts = [f"## {work.name}: {work.title}", table(HEAD, [cells(row, work.steps) for row in ranked])]
    again = [row for row in rows if row.contender.name.startswith("best again")]
    # With checkpoints the control is the pair that leaves them out: the other one measures what they cost.
    parts.extend(f"{control(row)} Rounds: {len(row.record.cpu)}." for row in again[-1:] if row.record.cpu)
    if faults := [f"- {row.contender.name}: {row.record.fault}" for row in rows if row.record.fault]:
        parts.append("Not ranked:\n\n" + "\n".join(faults))
    return "\n\n".join(parts)


def control(row: Row) -> str:
    """What the same loop came to, run twice."""
    cpu, wall = row.cpu, spread(ratios(row.record.wall, row.base.wall))
    return (
        f"A/A: {row.contender.name} ÷ {row.contender.base} is {cpu.median:.3f} ({cpu.low:.3f}–{cpu.high:.3f}) "
        f"in CPU time, {wall.median:.3f} ({wall.low:.3f}–{wall.high:.3f}) in wall time."
    )


def fixed_report(costs: Mapping[str, Spread]) -> str:
    """The fixed costs."""
    lines = [[what, "", f"{s.median:+.2f}", f"{s.low:+.2f}–{s.high:+.2f}"] for what, s in costs.items()]
    return "## Fixed costs: this library beyond the best loop\n\n" + table(("", "", "CPU ms", "quartiles"), lines)


def growth_report(peaks: Mapping[str, tuple[float, float]]) -> str:
    """Whether memory grows with the batches of an epoch."""
    lines = [[patch, f"{few:.1f}", f"{many:.1f}", f"{many - few:+.1f}"] for patch, (few, many) in peaks.items()]
    head = ("figures of", f"{FEW:,} batches", f"{MANY:,} batches", "more")
    return "## Peak memory of an epoch, in MB\n\n" + table(head, lines)


def footprint_report(prints: Sequence[Footprint], notes: Sequence[str]) -> str:
    """What installing and importing takes, and whom that is not known of."""
    head = ("library", "version", "import s", "beyond torch", "packages", "MB")
    lines = [
        [p.name, p.version, f"{p.seconds:.2f}", f"{p.seconds - p.torch:.2f}", str(p.packages), f"{p.megabytes:.1f}"]
        for p in prints
    ]
    explained = (
        "Import times are the quickest of fresh processes, torch's own included. Packages and MB are what installing\n"
        "adds to torch and NumPy."
    )
    return "\n\n".join(["## Installing and importing", table(head, lines), explained, *notes])


def machine() -> str:
    """The machine and the versions, without names of anything that is somebody's."""
    model = "an unknown CPU"
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {len(cores())} cores, one thread; Python {platform.python_version()}, torch {torch.__version__}"


def written(command: str, parts: Sequence[str], before: str) -> str:
    """The report as it is written down: sections that were measured anew in the place of those of the same name.

    Args:
        command: what measured the parts; it stands below each, with the day and the commit.
        parts: sections, or several in one.
        before: the report as it was; what it has of other sections stays.
    """
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    source = f"`{command}`, {today}, {commit()}; {machine()}"
    found = {_name(part): part for part in _sections(before)}
    found |= {_name(part): f"{part}\n\n{source}" for given in parts for part in _sections(given)}
    ordered = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return "\n\n".join(["# What a training loop costs", EXPLANATION, *map(found.__getitem__, ordered)]) + "\n"


def _sections(text: str) -> list[str]:
    return [f"## {part.strip()}" for part in f"\n{text}".split("\n## ")[1:]]


def _name(section: str) -> str:
    return section.partition("\n")[0][3:].partition(":")[0].partition(",")[0]


def commit() -> str:
    """The commit that is measured, and whether files of it were changed."""
    git = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    name = git(["git", "rev-parse", "--short", "HEAD"])
    if name.returncode:
        return "of no known commit"
    changed = git(["git", "status", "--porcelain", "--untracked-files=no", "--", "..", ":!RESULTS.md"]).stdout.strip()
    return f"of commit {name.stdout.strip()}{' with changes' if changed else ''}"
