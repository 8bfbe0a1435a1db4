"""Workers that fail in the second epoch of a run: told within 5 s, none left, and the run can be resumed.

``python tests/faults/loaders.py``; with the name of a fault it is the script that suffers it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from deepepochs_like import Trainer

#: What each fault's error has to say, beside the name of the loader.
FAULTS = {
    "raise": "a bad sample",
    "sigkill": "DataLoader worker",
    "exit-0": "exited unexpectedly",
    "exit-1": "exited unexpectedly",
    "sys-exit": "SystemExit(3)",
    "hang": "timed out after 2 seconds",
}
LIMIT = 5.0
EPOCHS = 3
BAD = 500
LANDED = "landed"


def fail(how: str) -> None:
    """Fail as a worker does; a file tells when it happened."""
    Path(LANDED).write_text(str(time.time()))
    if how == "raise":
        raise ValueError("a bad sample")
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how in ("exit-0", "exit-1"):
        os._exit(int(how[-1]))
    if how == "sys-exit":
        sys.exit(3)
    time.sleep(600)


class Digits(Dataset[Any]):
    """Digits, of which one is bad when it is loaded in the second epoch."""

    def __init__(self, how: str) -> None:
        x, y = load_digits(return_X_y=True)
        self.x, self.y, self.how = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y), how
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == BAD:
            self.epoch += 1
            if self.how in FAULTS and int(self.epoch) == 2:
                fail(self.how)
        return self.x[index], self.y[index]


def children() -> list[int]:
    """The pids of this process's children, those that nobody has waited for included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:  # it has gone meanwhile
                continue
            if int(status.rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(entry.name))
    return found


def train(how: str, persistent: bool) -> dict[str, Any]:
    """Run, or go on with a run, over workers; tell how it ended."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    timeout = 2 if how == "hang" else 0
    loader = DataLoader(Digits(how), 64, shuffle=True, num_workers=2, timeout=timeout, persistent_workers=persistent)
    trainer = Trainer(net, F.cross_entropy, epochs=EPOCHS, device="cpu", verbose=0, resume="auto", running_id="a")
    result: dict[str, Any] = {"error": None}
    kept: Exception | None = None
    try:
        trainer.fit(loader)
    except Exception as error:
        kept = error  # with its traceback, which refers to the iterator
        landed = float(Path(LANDED).read_text()) if Path(LANDED).exists() else 0.0
        result = {"error": str(error), "kind": type(error).__name__, "seconds": time.time() - landed}
    result["active"], result["children"] = len(multiprocessing.active_children()), children()
    result["epochs"], result["kept"] = trainer.progress.epoch, kept is not None
    return result


def script(folder: str, how: str, persistent: bool) -> dict[str, Any]:
    """Run `train` in a process of its own, in a folder."""
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), how, str(int(persistent))],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, f"{how}: exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def suffer(how: str, persistent: bool) -> float:
    """Have a run suffer a fault and another go on from its checkpoint; return how soon the error was raised."""
    with tempfile.TemporaryDirectory() as folder:
        failed = script(folder, how, persistent)
        assert (Path(folder) / LANDED).exists(), f"{how}: the fault did not happen"
        assert failed["error"] is not None, f"{how}: fit raised nothing"
        assert "train_dl" in failed["error"], f"{how}: the loader is not named in {failed['error']!r}"
        assert FAULTS[how] in failed["error"], f"{how}: what happened is not told in {failed['error']!r}"
        assert failed["seconds"] < LIMIT, f"{how}: the error took {failed['seconds']:.1f} s"
        assert not failed["active"], f"{how}: {failed['active']} active children are left"
        assert not failed["children"], f"{how}: children {failed['children']} are left in /proc"
        assert failed["epochs"] == 1, f"{how}: it failed after {failed['epochs']} epochs, not in the second"
        checkpoints = list((Path(folder) / "logs" / "a" / "checkpoints").glob("*.ckpt"))
        assert checkpoints, f"{how}: no checkpoint is left"
        healthy = script(folder, "none", persistent)
        assert healthy["error"] is None, f"{how}: the resumed run failed with {healthy['error']!r}"
        assert healthy["epochs"] == EPOCHS, f"{how}: the resumed run ended after {healthy['epochs']} epochs"
        assert not healthy["children"], f"{how}: the resumed run leaves children"
        seconds: float = failed["seconds"]
        return seconds


def run(full: bool) -> dict[str, Any]:
    """Suffer every fault, with workers that persist between passes too where `full`.

    Returns:
        ``{'injected': faults, 'landed': {fault: times}, 'survived': faults, 'detail': how soon each was told}``.

    Raises:
        AssertionError: a fault did not land, was not told in time or not rightly, or left something behind.
    """
    landed: dict[str, int] = {}
    figures, cases = [], [(how, persistent) for persistent in ((False, True) if full else (False,)) for how in FAULTS]
    for how, persistent in cases:
        seconds = suffer(how, persistent)
        landed[how] = landed.get(how, 0) + 1
        figures.append(f"{how}{' (persistent)' if persistent else ''} {seconds:.2f} s")
    survived = sum(landed.values())
    return {"injected": len(cases), "landed": landed, "survived": survived, "detail": "; ".join(figures)}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(train(sys.argv[1], sys.argv[2] == "1")))
    else:
        print(run(full=True)["detail"])
