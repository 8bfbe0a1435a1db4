"""All fault batteries in full, a line each: ``python tests/faults/all.py [NAME ...]``; what ``make faults`` runs.

A battery is a module with ``run(full)``, which injects its faults, asserts that they landed and that the next operation
works, and returns how many there were, where they landed and how many were survived.
"""

from __future__ import annotations

import importlib
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

#: Those that measure time or the memory of a whole machine run alone, the others two at a time.
ALONE = ("resume_cost", "signals", "loaders", "concurrency")
TOGETHER = ("kill", "sabotage", "damage", "disk", "power", "hostile")
NAMES = (*TOGETHER, *ALONE)


def run(name: str, full: bool = True) -> tuple[str, dict[str, Any] | None, str, float]:
    """Run one battery: its name, its row, or what failed, and how many seconds it took."""
    if str(Path(__file__).parent.parent) not in sys.path:
        sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    begun = time.monotonic()
    try:
        row, failed = importlib.import_module(name).run(full), ""
    except Exception as error:  # also what a battery itself stumbles over: a row is not missing in silence
        row, failed = None, f"{type(error).__name__}: {error}"
    return name, row, failed, time.monotonic() - begun


def line(name: str, row: dict[str, Any] | None, failed: str, seconds: float) -> str:
    """One battery's row as text."""
    if row is None:
        return f"{name:<12} FAILED after {seconds:.0f} s: {failed}"
    landed = ", ".join(f"{where} {count}" for where, count in row["landed"].items())
    head = f"{name:<12} {row['injected']} injected, {row['survived']} survived, {seconds:.0f} s"
    return f"{head}; landed: {landed}; {row['detail']}"


def main(names: list[str]) -> int:
    """Run the batteries named, or all; return how many failed."""
    chosen = [name for name in NAMES if name in names] if names else list(NAMES)
    failures = 0
    with ProcessPoolExecutor(2, max_tasks_per_child=1) as pool:
        for result in pool.map(run, [name for name in chosen if name in TOGETHER]):
            print(line(*result), flush=True)
            failures += result[1] is None
    for name in (name for name in chosen if name in ALONE):
        with ProcessPoolExecutor(1) as pool:
            result = pool.submit(run, name).result()
        print(line(*result), flush=True)
        failures += result[1] is None
    return failures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
