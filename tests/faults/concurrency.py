"""Let several processes open one run at once: one gets it, the others are told at once who has it."""

from __future__ import annotations

import json
import os
import select
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from deepepochs_like.checkpoint import CheckpointStore
from deepepochs_like.errors import RunLockedError
from deepepochs_like.run import RunFolder

PROCESSES = 8
HOLD = 0.2


class Child:
    """A fork of this process that tries to open a run when it is told to."""

    def __init__(self, root: Path, others: list[Child]) -> None:
        self.start, self.told = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that torch may have threads: the child uses none of them
            self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                for other in others:  # or their ends would never come
                    os.close(other.start[1])
                    os.close(other.told[0])
                os.close(self.start[1])
                self._try(root)
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        os.close(self.start[0])
        os.close(self.told[1])

    def _try(self, root: Path) -> None:
        os.read(self.start[0], 1)
        folder, began = RunFolder(root, "a"), time.monotonic()
        try:
            folder.open()
            answer = {"won": True}
        except RunLockedError as error:
            answer = {"won": False, "message": str(error)}
        os.write(self.told[1], json.dumps({"pid": os.getpid(), "took": time.monotonic() - began, **answer}).encode())
        if answer["won"]:
            time.sleep(HOLD)
            os.read(self.start[0], 1)  # on a slow machine longer than that: until all others have tried
            folder.close()

    def answer(self) -> Any:
        ready, _, _ = select.select([self.told[0]], [], [], 30)
        assert ready, f"process {self.pid} neither won nor lost within 30 s"
        return json.loads(os.read(self.told[0], 1 << 16))

    def end(self) -> None:
        os.close(self.start[1])
        os.close(self.told[0])
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == 0, f"process {self.pid} failed"


def battle(root: Path) -> float:
    """One round; return the longest that anyone waited for an answer."""
    children: list[Child] = []
    for _ in range(PROCESSES):
        children.append(Child(root, children))
    for child in children:
        os.write(child.start[1], b"!")
    answers = [child.answer() for child in children]
    for child in children:
        child.end()
    winners = [answer["pid"] for answer in answers if answer["won"]]
    assert len(winners) == 1, answers
    for answer in answers:
        assert answer["took"] < 1, answer
        assert answer["won"] or f"process {winners[0]} on " in answer["message"], (winners, answer)
    _goes_on(root)
    return max(answer["took"] for answer in answers)


def _goes_on(root: Path) -> None:
    """Open the run, and save and load in it."""
    folder = RunFolder(root, "a")
    folder.open()
    store = CheckpointStore(folder.checkpoints)
    step = len(store.entries())
    store.save({"weights": torch.ones(3)}, step)
    found = store.newest()
    assert found is not None
    assert found.step == step
    store.close()
    folder.close()


def run(full: bool) -> dict[str, Any]:
    """Twenty rounds, or four: half in a new folder, half in one that was held by another process before."""
    rounds, landed, longest = (20 if full else 4), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as name:
        for number in range(rounds):
            root = Path(name) / str(number // 2)
            longest = max(longest, battle(root))
            landed["in a new folder" if number % 2 == 0 else "in a used folder"] += PROCESSES
    injected = rounds * PROCESSES
    detail = f"{rounds} rounds of {PROCESSES} processes: one winner each, named to the others within {longest:.2f} s"
    return {"injected": injected, "landed": dict(landed), "survived": injected, "detail": detail}


if __name__ == "__main__":
    print(run("--quick" not in sys.argv))
