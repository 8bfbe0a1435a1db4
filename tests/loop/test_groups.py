"""A signal to the whole process group, as a terminal, a batch system or a service manager sends it, and workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from deepepochs_like import Callback, Trainer
from support.repo import ROOT

pytestmark = pytest.mark.xdist_group("signals")


def start(method: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "support.loading", method, str(folder)],
        cwd=ROOT / "tests",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def read_until(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError(f"it ended before it was {word}: {''.join(lines)} {process.communicate()[1]}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the run comes to when it is left alone."""
    with start("fork", tmp_path_factory.mktemp("whole")) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.splitlines()[-1]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_it_and_the_run_is_saved(
    method: str, number: signal.Signals, whole: str, tmp_path: Path
) -> None:
    with start(method, tmp_path) as process:
        pids = [int(line.split()[2]) for line in read_until(process, "begun") if line.startswith("worker")]
        os.killpg(process.pid, number)
        began = time.monotonic()
        err = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + number, err
    assert time.monotonic() - began < 10
    assert "DataLoader worker" not in err
    assert pids, "the user's own worker_init_fn runs"
    until = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids), "no worker is left behind"
    assert len(list((tmp_path / "a/checkpoints").glob("*.ckpt"))) == 1
    with start("fork", tmp_path) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == whole


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_one_that_comes_while_workers_start_is_outlived_too(method: str, tmp_path: Path) -> None:
    with start(method, tmp_path) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        needed = 2 + (method == "spawn")  # and the tracker of resources
        while len(children.read_text().split()) < needed and process.poll() is None:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGTERM)
        err = process.communicate(timeout=30)[1]
    assert process.returncode == 143, err
    assert "Traceback" not in err


class Dying(Dataset[Any]):
    """Its fourth batch brings a signal for the run, if it is to, and then the end of the worker."""

    def __init__(self, number: int | None) -> None:
        self.number = number

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 24:
            time.sleep(0.3)  # by now the batches before are done
            if self.number is not None:
                os.kill(os.getppid(), self.number)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.ones(8), torch.tensor(1)


@pytest.mark.parametrize("timed", [False, True])
def test_workers_that_die_of_it_all_the_same_end_the_run_as_it_was_asked_to(tmp_path: Path, timed: bool) -> None:
    asked: list[BaseException] = []

    class Asked(Callback):
        def on_exception(self, trainer: Any, exception: BaseException) -> str | None:
            asked.append(exception)
            return None

    def fit(number: int | None) -> Trainer:
        resume: Any = {"resume": "auto", "running_id": "a", "folder": tmp_path}
        trainer = Trainer(nn.Linear(8, 3), F.cross_entropy, None, 1, "cpu", [Asked()], verbose=0, **resume)
        trainer.fit(DataLoader(Dying(number), 8, num_workers=1, timeout=60 * timed))
        return trainer

    with pytest.raises(SystemExit) as ended:
        fit(signal.SIGTERM)
    assert ended.value.code == 143
    assert not asked
    assert [path.name for path in (tmp_path / "a/checkpoints").glob("*.ckpt")] == ["step-000000000003-open.ckpt"]
    with pytest.raises(RuntimeError, match="DataLoader worker"):  # without a signal it is an error
        fit(None)
    assert len(asked) == 1


def test_outside_of_a_fit_workers_are_torchs_own(tmp_path: Path) -> None:
    script = (
        "import signal, torch; from torch.utils.data import DataLoader; from support.loading import Slow;"
        "from deepepochs_like.data.workers import iterate;"
        "it = iterate(DataLoader(Slow(), 8, num_workers=1), 'dl'); print(it._worker_init_fn, it._spared); next(it)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "tests", capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.strip() == "None set()"
