"""How much `trainer.check` finds, and what it takes for a fault: ``python tests/doctor/sweep.py``, or ``make doctor``.

Healthy trainings are drawn from seeds (`families`), a fault is planted in each (`faults`), and it has to be named; then
as many healthy ones, dressed with schedules, callbacks and loaders of several kinds, in which nothing may be found, and
every fit of the examples. The exit status is 1 where fewer than 95 % of a fault's variants are named, or there is a
false alarm.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import torch

from doctor.families import FAMILIES, dressed, setup
from doctor.faults import FAULTS, Fault
from doctor.watched_examples import EXAMPLES, checked

#: Of a fault's variants so many are named at least.
ENOUGH = 0.95


def variants(fault: Fault, count: int, first: int) -> tuple[int, list[str]]:
    """Plant a fault so many times, in every family it can be in: how often it was named, and what was missed."""
    named, missed, made_so_far = 0, list[str](), 0
    for seed in itertools.count(first):
        if made_so_far == count:
            return named, missed
        if FAMILIES[seed % len(FAMILIES)] not in fault.families or not fault.suits(made := setup(seed)):
            continue
        way = fault.ways[made_so_far % len(fault.ways)]
        made_so_far += 1
        way(made, random.Random(seed))
        try:
            found = made.check()
        except Exception:
            missed.append(f"seed {seed}, {made.family}, {way.__name__}: {traceback.format_exc()}")
            continue
        fixed = any(finding.name in fault.found and finding.fix for finding in found)
        failed = [reason for reason in found.left_out.values() if "failed itself" in reason]
        if fixed and not failed:
            named += 1
        else:
            missed.append(f"seed {seed}, {made.family}, {way.__name__}: {found}")
    raise AssertionError  # counting does not end


def alarms(seeds: Any) -> list[str]:
    """What is found in healthy trainings, and what fails."""
    said = []
    for seed in seeds:
        try:
            made = dressed(seed)
            found = made.check()
        except Exception:
            said.append(f"seed {seed}: {traceback.format_exc()}")
            continue
        if list(found) or any("failed itself" in reason for reason in found.left_out.values()):
            said.append(f"seed {seed}, {made.family}: {found}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=44, help="of each fault")
    parser.add_argument("--healthy", type=int, default=600, help="how many healthy trainings")
    parser.add_argument("--first", type=int, default=0, help="the first seed: another one gives another sweep")
    parser.add_argument("--verbose", action="store_true", help="show what was missed, in full")
    parser.add_argument("--no-examples", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # the trainer speaks of some faults by itself
    torch.set_num_threads(1)
    began, bad = time.monotonic(), 0
    print(f"{'fault':46} variants  named       %", flush=True)
    for number, fault in enumerate(FAULTS):
        named, missed = variants(fault, given.variants, given.first + 1000 * number)
        share = named / given.variants
        bad += share < ENOUGH
        print(
            f"{fault.name:46} {given.variants:8} {named:6} {share:8.1%}{'' if share >= ENOUGH else '  TOO FEW'}",
            flush=True,
        )
        for one in missed:
            print("    missed:", one if given.verbose else one.partition("\n")[0], flush=True)
    first = given.first + 1000 * len(FAULTS)
    said = alarms(range(first, first + given.healthy))
    bad += len(said)
    print(f"\n{'healthy set-ups':46} {given.healthy:8} {len(said):6} alarms", flush=True)
    for one in said:
        print("   ", one)
    if not given.no_examples:
        bad += on_examples()
    print(f"{time.monotonic() - began:.0f} s; {'all is well' if not bad else 'NOT ENOUGH'}")
    return 1 if bad else 0


def on_examples() -> int:
    """Check every fit of the examples; return how many alarms there were."""
    fits, alarms = 0, 0
    for path in EXAMPLES:
        count, wrong = checked(path)
        fits, alarms = fits + count, alarms + len(wrong)
        for one in wrong:
            print(f"    {path.name}: {one}", flush=True)
    print(f"{f'fits of {len(EXAMPLES)} examples':46} {fits:8} {alarms:6} alarms", flush=True)
    return alarms


if __name__ == "__main__":
    sys.exit(main())
