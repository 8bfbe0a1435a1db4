"""A selection of every fault battery; ``make faults`` runs them in full."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def battery(name: str) -> Any:
    """Import a battery as the script it is, with its siblings in reach."""
    if str(HERE) not in sys.path:
        sys.path.append(str(HERE))
    return importlib.import_module(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("all", "scenario", "test_faults"))
)
def test_faults_are_survived(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = battery(name).run(full=False)
    print(name, row)
    assert row["injected"] == row["survived"] > 0
    assert sum(row["landed"].values()) > 0
