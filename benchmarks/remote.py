"""Contenders that live in another environment: a session in a process of its own, told when to run a round."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .contender import Contender
from .measure import Record, Session, paired
from .workloads import WORKLOADS, Workload, quick

ROOT = Path(__file__).resolve().parents[1]


class RemoteSession:
    """A `Session` of some contenders and the best loop, in a process of its own.

    Args:
        work: what they do.
        contenders: who, beside the best loop.
        python: the interpreter of their environment.
        little: whether the workload is the quick one.
    """

    def __init__(self, work: Workload, contenders: list[Contender], python: str, little: bool = False) -> None:
        self.work, self.contenders = work, {c.name: c for c in paired(work, contenders)}
        self.lost = ""
        names = [contender.name for contender in contenders]
        command = [python, "-m", "benchmarks.remote", work.name, "quick" if little else "full", *names]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def _ask(self, what: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, ValueError):  # what is left of a process that died
            self.lost = f"failed: its process ended with exit code {self.process.wait()}"
            return None

    def round(self, counts: bool = True) -> None:
        """Run each once."""
        if not self.lost:
            self._ask("round" if counts else "warm up")

    def close(self, count_calls: bool = False) -> tuple[dict[str, Record], dict[str, float | None]]:
        """End the process; what was measured, the best loop's included, and calls per step where they are wanted."""
        found = None if self.lost else self._ask("count" if count_calls else "end")
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what a process that died has not read
                if pipe is not None:
                    pipe.close()
        self.process.wait()
        if found is None:
            bases = (contender.base for contender in self.contenders.values())
            return {name: Record(fault=self.lost) for name in (*self.contenders, *bases)}, {}
        return {name: Record(**record) for name, record in found["records"].items()}, found["calls"]


def serve(session: Session, answers: Any) -> None:
    """Do what is asked for on standard input, one word a line."""
    for line in sys.stdin:
        what = line.strip()
        if what in ("round", "warm up"):
            session.round(counts=what == "round")
            answer: Any = "done"
        else:
            peers = [name for name, contender in session.contenders.items() if contender.module]
            calls = {name: _calls(session, name) for name in peers} if what == "count" else {}
            answer = {"records": {name: asdict(record) for name, record in session.records.items()}, "calls": calls}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _calls(session: Session, name: str) -> float | None:
    from .calls import calls_over_baseline

    if session.records[name].fault:
        return None
    return calls_over_baseline(session.contenders[name], session.work, "macro" if session.work.heavy else "accuracy")


def main() -> None:
    """Be the process of a `RemoteSession`."""
    import torch

    from .by_hand import BEST, NAIVE
    from .peers import PEERS
    from .steady import steady

    # Answers keep the pipe to themselves: whatever a library prints goes nowhere.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    torch.set_num_threads(1)
    steady()
    work = WORKLOADS[sys.argv[1]]
    names = sys.argv[3:]
    session = Session(
        quick(work) if sys.argv[2] == "quick" else work,
        # What saving takes is divided by the same without it, which needs no other loop.
        [BEST, *([NAIVE] if work.save_every is None else []), *(peer for peer in PEERS if peer.name in names)],
        references=[NAIVE] if work.save_every is not None else [],
    )
    serve(session, answers)


if __name__ == "__main__":
    main()
