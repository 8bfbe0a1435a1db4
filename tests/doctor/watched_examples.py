"""The examples, each with a check before every fit: none has a fault but those that are there to show one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXAMPLES = sorted((HERE.parent.parent / "examples").glob("*.py"))

#: What is wrong on purpose.
ON_PURPOSE: dict[str, set[str]] = {
    "27_dry_runs.py": {"monitored_figure", "parameters_without_gradient", "outputs_constant"},
    "35_doctor.py": {"scheduler_unit", "softmax_before_loss", "unscaled_inputs", "val_overlaps_train"},
}


def checked(path: Path) -> tuple[int, list[str]]:
    """Run an example: how many fits were checked, and what was found that is not there on purpose.

    Raises:
        RuntimeError: the example fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "findings"
        environment = os.environ | {
            **{"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "CI": "1", "PYTHONIOENCODING": "utf-8"},
            **{"PYTHONPATH": str(HERE / "watched"), "DOCTOR_FINDINGS": str(rows)},
        }
        done = subprocess.run([sys.executable, str(path)], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{path.name} failed:\n{done.stderr}")
        fits = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()] if rows.exists() else []
    meant = ON_PURPOSE.get(path.name, set())
    wrong = [row["said"] for row in fits if set(row["names"]) - meant or row["failed"]]
    return len(fits), wrong
