"""Scripts for DeepEpochs, run with one import changed, give the figures that DeepEpochs gave.

The figures in figures.json were recorded from DeepEpochs 0.6.18. Each script ends in RESULT, a dict of parts.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="the scripts train on scikit-learn's digits")

HERE = Path(__file__).parent
SCRIPTS = sorted((HERE / "scripts").glob("*.py"))
RECORDED: dict[str, dict[str, Any]] = json.loads((HERE / "figures.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-4

# What a script must change beyond the import. Its release of DeepEpochs unwraps a single input, and scripts for other
# releases unpack it: `batch_x` is a tuple that also answers as its one tensor, and where the two readings contradict
# each other (length, slices) it is the tuple. What the scripts mean is written so that both understand it.
CHANGES = {
    "07_gan_two_optimizers": [("len(batch_x)", "batch_x.shape[0]", 2)],
    "12_grad_accumulation": [("batch_x[:half]", "batch_x[0][:half]", 1), ("batch_x[half:]", "batch_x[0][half:]", 1)],
}


@functools.cache
def run(name: str) -> dict[str, Any]:
    """Run a script as its user would after changing the import, and return its RESULT."""
    source = (HERE / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    for old, new, times in [("from deepepochs import", "from deepepochs_like import", 1), *CHANGES.get(name, [])]:
        assert source.count(old) == times, f"{name}.py has {source.count(old)} of {old!r}"
        source = source.replace(old, new)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, f"{name}.py", "exec"), namespace)
    return json.loads(json.dumps(namespace["RESULT"]))  # type: ignore[no-any-return]  # tuples become lists, as recorded


def differences(recorded: Any, ours: Any, path: str) -> Iterator[str]:
    """Say where two results differ: in structure, order of keys, or by more than the tolerance."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        if list(recorded) != list(ours):
            yield f"{path}: keys {list(recorded)} in DeepEpochs, {list(ours)} here"
        for key in [key for key in recorded if key in ours]:
            yield from differences(recorded[key], ours[key], f"{path}/{key}")
    elif isinstance(recorded, list) and isinstance(ours, list):
        if len(recorded) != len(ours):
            yield f"{path}: {len(recorded)} items in DeepEpochs, {len(ours)} here"
        for number, (theirs, mine) in enumerate(zip(recorded, ours, strict=False)):
            yield from differences(theirs, mine, f"{path}/{number}")
    elif isinstance(recorded, float) and isinstance(ours, (int, float)):
        if not (abs(recorded - ours) <= TOLERANCE or (math.isnan(recorded) and math.isnan(ours))):
            yield f"{path}: {recorded} in DeepEpochs, {ours} here"
    elif recorded != ours:
        yield f"{path}: {recorded!r} in DeepEpochs, {ours!r} here"


def parts() -> Iterator[Any]:
    for name, result in RECORDED.items():
        for part in result:
            yield pytest.param(name, part, id=f"{name}/{part}", marks=pytest.mark.xdist_group(name))


@pytest.mark.filterwarnings("ignore::deepepochs_like.EngineWarning")  # of names that collide, which the scripts try out
@pytest.mark.parametrize(("name", "part"), list(parts()))
def test_figures_are_those_of_deepepochs(name: str, part: str) -> None:
    ours = run(name)
    assert list(ours) == list(RECORDED[name])
    found = list(differences(RECORDED[name][part], ours[part], f"{name}/{part}"))
    assert not found, "\n".join(found)


def test_every_script_has_its_figures() -> None:
    assert [path.stem for path in SCRIPTS] == sorted(RECORDED)


def test_every_exception_is_about_something_recorded() -> None:
    assert set(CHANGES) <= set(RECORDED)


def test_a_difference_is_found() -> None:
    recorded = {"a": [1.0, {"b": 2.0}], "c": "x"}
    assert list(differences(recorded, {"a": [1.00005, {"b": 2}], "c": "x"}, "r")) == []
    for other in (
        {"a": [1.001, {"b": 2.0}], "c": "x"},
        {"a": [1.0], "c": "x"},
        {"c": "x", "a": [1.0, {"b": 2.0}]},
        {"a": [1.0, {}], "c": "x"},
        {"a": [1.0, {"b": None}], "c": "x"},
        {"a": [1.0, {"b": math.nan}], "c": "x"},
        {"a": [1.0, {"b": 2.0}], "c": "y"},
    ):
        assert list(differences(recorded, other, "r")), other
