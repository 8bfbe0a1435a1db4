"""What only a fresh process can tell: how long an import takes, and how much memory a run needs at its peak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

IMPORTS = """
import importlib, json, sys, time
began = time.perf_counter()
import torch
torch_s = time.perf_counter() - began
if sys.argv[1]:
    importlib.import_module(sys.argv[1])
print(json.dumps([torch_s, time.perf_counter() - began]))
"""


def answer(python: str, *arguments: str) -> Any:
    """What a fresh process prints last, as JSON."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KERAS_BACKEND": "torch"}
    done = subprocess.run([python, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.splitlines() or ["it printed nothing"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def import_seconds(module: str, python: str = sys.executable, times: int = 3) -> tuple[float, float]:
    """How long torch takes to import, and torch with `module`: the quickest of a few fresh processes.

    The quickest, not the median: whatever else happens on the machine can only make it longer.
    """
    found = [answer(python, "-c", IMPORTS, module) for _ in range(times)]
    quickest = min(found, key=lambda pair: pair[1])
    return quickest[0], quickest[1]


def peak_megabytes(name: str, work: str, quick: bool = False, python: str = sys.executable) -> float:
    """The most memory that a fresh process held while a contender did a workload, in MB."""
    return float(answer(python, "-m", "benchmarks.fresh", work, name, *(["--quick"] if quick else [])))


def high_water_mark() -> float:
    """The most memory that this process has held, in MB.

    `ru_maxrss` would do but for one thing: a new process inherits it from the one that started it.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not tell the peak of a process's memory")


def main() -> None:
    """Do a workload once and print the memory it took."""
    import torch

    from .measure import timed
    from .registry import find
    from .workloads import WORKLOADS, quick

    torch.set_num_threads(1)
    work = WORKLOADS[sys.argv[1]]
    timed(find(sys.argv[2]), quick(work) if "--quick" in sys.argv else work)
    print(json.dumps(high_water_mark()))


if __name__ == "__main__":
    main()
