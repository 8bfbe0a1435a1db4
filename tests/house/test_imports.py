"""What `import deepepochs_like` may cost: next to nothing on top of `import torch`, and no side effect."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

# Each is loaded when something that needs it is first used.
LOADED_LATER = (
    "accelerate",
    "matplotlib",
    "networkx",
    "pandas",
    "rich",
    "sklearn",
    "tensorboard",
    "torchmetrics",
    "yaml",
)

# Importing torch takes about 1.3 s of CPU time on a common machine and the package may add 0.15 s there.
# Written as a relation, so that it holds on slower and faster machines alike.
COST_OVER_TORCH = 0.15 / 1.3
ROUNDS = 5


def python(source: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `source` in an interpreter of its own, with the empty `folder` as working directory and home."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def answer(source: str, folder: Path, **environment: str) -> Any:
    """Run `source` and decode the JSON that it prints last."""
    return json.loads(python(source, folder, **environment).stdout.splitlines()[-1])


def test_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = answer(
        """
        import json, sys
        import torch
        before = set(sys.modules)
        import deepepochs_like
        print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
        """,
        tmp_path,
    )
    assert "deepepochs_like" in loaded
    assert not set(loaded) & set(LOADED_LATER)


def test_prints_nothing(tmp_path: Path) -> None:
    result = python("import deepepochs_like", tmp_path)
    assert (result.stdout, result.stderr) == ("", "")


def test_warns_about_nothing(tmp_path: Path) -> None:
    python("import torch, warnings; warnings.simplefilter('error'); import deepepochs_like", tmp_path)


def test_touches_nothing_outside_itself(tmp_path: Path) -> None:
    events = answer(
        """
        import json, os, sys
        import torch
        CHANGES = {
            "os.chdir", "os.chmod", "os.exec", "os.fork", "os.link", "os.mkdir", "os.posix_spawn", "os.putenv",
            "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.system", "os.truncate", "os.unsetenv",
            "os.utime", "shutil.copyfile", "shutil.move", "shutil.rmtree", "socket.bind", "socket.connect",
            "subprocess.Popen", "tempfile.mkdtemp", "tempfile.mkstemp",
        }
        WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        events = []

        def watch(event, arguments):
            if event in CHANGES or event == "open" and arguments[2] & WRITING:
                events.append(f"{event} {arguments!r}")

        sys.addaudithook(watch)
        import deepepochs_like
        print(json.dumps(events))
        """,
        tmp_path,
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert events == []
    assert list(tmp_path.iterdir()) == []


def test_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    changed = answer(
        """
        import json, logging, os, random, signal, sys, threading, warnings
        import numpy
        import torch

        def state():
            name, keys, *rest = numpy.random.get_state()
            return {
                "random": random.getstate(),
                "numpy.random": (name, keys.tolist(), *rest),
                "torch generator": torch.get_rng_state().tolist(),
                "gradients": torch.is_grad_enabled(),
                "dtype": str(torch.get_default_dtype()),
                "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "threads": threading.active_count(),
                "signals": [str(signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGTERM)],
                "excepthook": str(sys.excepthook),
                "warnings": [str(one) for one in warnings.filters],
                "logging": [str(one) for one in logging.root.handlers],
                "environment": dict(os.environ),
            }

        before = state()
        import deepepochs_like
        after = state()
        print(json.dumps([name for name in before if before[name] != after[name]]))
        """,
        tmp_path,
    )
    assert changed == []


@pytest.mark.slow
def test_costs_little_over_torch(tmp_path: Path) -> None:
    # Each interpreter imports torch and then the package, so both times see the same machine in the same
    # second; the median over several passes over the odd one out.
    source = """
        import json, time
        import torch
        torch_time = time.process_time()
        import deepepochs_like
        print(json.dumps([torch_time, time.process_time() - torch_time]))
        """
    written = {"PYTHONDONTWRITEBYTECODE": ""}  # byte code that is compiled anew each time is not what is measured
    answer(source, tmp_path, **written)
    pairs = [answer(source, tmp_path, **written) for _ in range(ROUNDS)]
    ratio = statistics.median(own / torch for torch, own in pairs)
    assert ratio <= COST_OVER_TORCH, (
        f"import deepepochs_like takes {ratio:.1%} of the CPU time of import torch, "
        f"more than {COST_OVER_TORCH:.1%}; python -X importtime says where. Seconds (torch, own): {pairs}"
    )
