"""Measure what a training loop costs, and print it: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import os
import random
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from . import environment, report
from .calls import baseline, calls_over_baseline
from .contender import Contender
from .fixed import fixed_costs
from .flat import growth
from .footprint import Footprint, footprint
from .fresh import peak_megabytes
from .measure import Session
from .peers import PEERS
from .registry import chosen, local
from .remote import RemoteSession
from .report import Row
from .shares import shares_report
from .steady import steady
from .workloads import WORKLOADS, Workload, quick

RESULTS = Path(__file__).with_name("RESULTS.md")
#: The workloads whose calls are counted: w6 has the steps of w4, and how often workers are waited for varies.
COUNTED = ("w1", "w2", "w3", "w4")


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, help="rounds that count, after one to warm up; by default each workload's own"
    )
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="which, by name, with commas between")
    parser.add_argument("--contenders", default="", help="beginnings of their names; by default all there are")
    parser.add_argument("--quick", action="store_true", help="little of everything, no peers, no fresh processes")
    parser.add_argument("--no-fresh", action="store_true", help="leave out what takes fresh processes: memory, imports")
    parser.add_argument("--write", action="store_true", help=f"write what was measured into {RESULTS.name}")
    options = parser.parse_args(given)
    options.workloads = [name for name in options.workloads.split(",") if name]
    options.contenders = [name for name in options.contenders.split(",") if name]
    if unknown := [name for name in options.workloads if name not in WORKLOADS]:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds: at least 1 is needed")
    everybody = [contender.name for contender in [*local(), *PEERS]]
    for start in options.contenders:
        if not any(name.startswith(start) for name in everybody):
            parser.error(f"no contender begins with {start!r}; there are {', '.join(everybody)}")
    options.fresh = not (options.quick or options.no_fresh)
    return options


def say(message: str) -> None:
    """Tell how far it is, apart from the results."""
    print(message, file=sys.stderr, flush=True)


def guests(work: Workload, options: argparse.Namespace) -> list[Contender]:
    """The peers that are asked for and do the workload; with --quick only those that are named."""
    if options.quick and not options.contenders:
        return []
    starts = options.contenders or [""]
    return [peer for peer in PEERS if peer.takes(work) and any(peer.name.startswith(start) for start in starts)]


def measured(work: Workload, options: argparse.Namespace) -> str:
    """Run a workload and report on it."""
    here = Session(work, chosen(local(), options.contenders) if options.contenders else local())
    groups = environment.by_library(guests(work, options)).values()
    away = [RemoteSession(work, group, str(environment.PYTHON), options.quick) for group in groups]
    everybody: list[Session | RemoteSession] = [here, *away]
    rounds = options.rounds or (1 if options.quick else work.rounds)
    for number in range(rounds + 1):
        say(f"{work.name}: round {number} of {rounds}" if number else f"{work.name}: warming up")
        for session in random.Random(number).sample(everybody, len(everybody)):
            session.round(counts=number > 0)
    rows = rows_here(here, options)
    for session in away:
        say(f"{work.name}: what remains of {', '.join(session.contenders)}")
        rows += rows_away(session, options)
    text = report.workload_report(work, rows)
    if away and (absent := [peer.name for peer in PEERS if not peer.takes(work)]):
        text += f"\n\nNot run, being adapted for loss and accuracy only: {', '.join(absent)}."
    if work.name in COUNTED:
        text += f"\n\nThe loop that calls are counted from makes {baseline(work, True):.1f} a step, "
        text += f"with the unfused optimizer {baseline(work, False):.1f}."
    return text


def rows_here(session: Session, options: argparse.Namespace) -> list[Row]:
    """What there is to say of each contender of a session in this process."""
    work, records = session.work, session.records
    rows = []
    for name, contender in session.contenders.items():
        row = Row(contender, records[name], records[contender.base], records.get("naive"), records["best"])
        if not row.record.fault:
            say(f"{work.name}: calls and memory of {name}")
            if work.name in COUNTED:
                row.calls_loss = calls_over_baseline(contender, work, "loss")
                row.calls_run = calls_over_baseline(contender, work, "macro" if work.heavy else "accuracy")
            if options.fresh and not contender.unsaved:
                row.peak = peak_megabytes(name, work.name)
        rows.append(row)
    return rows


def rows_away(session: RemoteSession, options: argparse.Namespace) -> list[Row]:
    """The same of a session in another process, which ends with this."""
    work = session.work
    records, calls = session.close(count_calls=work.name in COUNTED)
    rows = []
    for name, contender in session.contenders.items():
        record, base = records[name], records[contender.base]
        row = Row(contender, record, base, records.get("naive"), records["best"], calls_run=calls.get(name))
        if options.fresh and not row.record.fault and not contender.unsaved:
            row.peak = peak_megabytes(name, work.name, python=str(environment.PYTHON))
        rows.append(row)
    return rows


def footprints() -> str:
    """What installing and importing takes: this library and the peers that are there."""
    notes, prints = environment.missing(), list[Footprint]()
    libraries = [("deepepochs_like", "deepepochs_like", "deepepochs_like", sys.executable)]
    for name, group in environment.by_library().items():
        libraries.append((name, environment.distribution(name), group[0].module, str(environment.PYTHON)))
    for library in libraries:
        say(f"importing {library[0]}")
        try:
            prints.append(footprint(*library))
        except RuntimeError as error:
            notes.append(f"{library[0]} cannot be imported: {error}")
    return report.footprint_report(prints, notes)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, and write down where that is asked for."""
    options = arguments(given)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    steady()
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if given is None else given)])

    def report_on(part: str) -> None:
        print(part, end="\n\n", flush=True)
        if options.write:  # what there is so far: all of it takes an hour
            before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
            RESULTS.write_text(report.written(command, [part], before), encoding="utf-8")

    print(report.machine(), end="\n\n", flush=True)
    if options.quick:
        print("A handful of batches, to see that everything runs: these times mean nothing.", end="\n\n", flush=True)
    for name in options.workloads:
        report_on(measured(quick(WORKLOADS[name]) if options.quick else WORKLOADS[name], options))
    report_on(report.fixed_report(fixed_costs(3 if options.quick else options.rounds or 21)))
    if not options.quick:
        say("what displays and checkpoints take")
        report_on(shares_report(5))
    if options.fresh:
        say("memory of few and of many batches")
        report_on(report.growth_report(growth()))
        report_on(footprints())
    if options.write:
        say(f"written: {RESULTS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
