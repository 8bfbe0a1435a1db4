"""What makes times repeatable, the same for everybody: memory that a process keeps, and fixed cores.

glibc gives freed memory back to the kernel where it lies at an end, and asks for it again with the next tensor. How
often that happens depends on what else lies there: the same fit of w2 took 21,000 to 34,000 page faults, a fifth of its
CPU time, so that equal loops differed by a tenth. A process that keeps what it has got takes none.
"""

from __future__ import annotations

import ctypes
import os
from functools import partial

#: Numbers of malloc.h, and what they are set to: the most that lies free at the end, and what is asked for by itself.
_TRIM, _APART = (-1, 1 << 30), (-3, 1 << 25)
#: How processes that are started know the cores, being on one of them only.
_CORES = "BENCHMARK_CORES"


def cores() -> list[int]:
    """The cores that were there before anything was confined to one."""
    if given := os.environ.get(_CORES):
        return [int(core) for core in given.split(",")]
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def others() -> list[int]:
    """The cores for whatever runs beside the main process; its own where there is but one."""
    return cores()[1:] or cores()


def steady() -> None:
    """Have this process keep its memory, and stay on the first core; processes that it forks run on the others."""
    keep = getattr(ctypes.CDLL(None), "mallopt", None)
    if keep is not None:  # another C library than glibc may have none
        keep(*_TRIM)
        keep(*_APART)
    os.environ[_CORES] = ",".join(map(str, cores()))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[:1])
        os.register_at_fork(after_in_child=partial(os.sched_setaffinity, 0, others()))


def aside(pid: int) -> None:
    """Put a process that was not forked, but started, on the other cores."""
    if _CORES in os.environ:
        os.sched_setaffinity(pid, others())
