"""A sample of ``make doctor``: each fault planted a few times, some healthy set-ups, and some of the examples."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from typing import Any

import pytest
import torch

from doctor.families import FAMILIES, dressed
from doctor.faults import FAULTS, Fault
from doctor.sweep import ENOUGH, alarms, variants
from doctor.watched_examples import EXAMPLES, ON_PURPOSE, checked


@pytest.fixture(autouse=True)
def _no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trainer speaks of some faults by itself
        yield


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named_with_its_fix(fault: Fault) -> None:
    count = len(fault.ways)
    named, missed = variants(fault, count, first=70_000)
    assert named >= ENOUGH * count, "\n".join(missed)


def test_healthy_set_ups_raise_no_alarm() -> None:
    assert alarms(range(80_000, 80_000 + 2 * len(FAMILIES))) == []


def test_faults_are_of_many_kinds_and_families() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 30
    assert all(set(fault.families) <= set(FAMILIES) for fault in FAULTS)
    assert set().union(*(fault.families for fault in FAULTS)) == set(FAMILIES)


def test_a_check_leaves_no_trace_in_any_family() -> None:
    for seed in range(90_000, 90_000 + len(FAMILIES)):
        trainer, train, val = dressed(seed).build()
        before = _all_of(trainer, train, val)
        trainer.check(train, val)
        assert _all_of(trainer, train, val) == before, f"seed {seed}"


def _all_of(trainer: Any, train: Any, val: Any) -> bytes:
    """Weights, states, generators, loaders and callbacks, as bytes."""
    generators = [torch.get_rng_state(), random.getstate(), train.generator, val.generator]
    held = [vars(callback) for callback in trainer.callbacks if type(callback).__module__ != "doctor.families"]
    held = [{k: v for k, v in one.items() if k not in ("trainer", "_trainer")} for one in held]
    modes = [
        (name, m.training, sorted(vars(m)))
        for h in trainer.models.values()
        for name, m in h.trained_module.named_modules()
    ]
    simple = [repr({k: v for k, v in one.items() if isinstance(v, (int, float, str, type(None)))}) for one in held]
    state = copy.deepcopy(trainer.state_dict())
    return pickle.dumps([_bytes(state), [_bytes(g) for g in generators], modes, simple])


def _bytes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes() if value.dtype != torch.bfloat16 else value.tolist()
    if isinstance(value, dict):
        return [(str(key), _bytes(item)) for key, item in value.items()]
    return [_bytes(item) for item in value] if isinstance(value, (list, tuple)) else repr(value)


@pytest.mark.parametrize("name", ["07_node_classification.py"])
def test_an_example_raises_no_alarm(name: str) -> None:
    count, wrong = checked(next(path for path in EXAMPLES if path.name == name))
    assert count
    assert wrong == []


def test_what_is_wrong_on_purpose_is_there() -> None:
    assert set(ON_PURPOSE) <= {path.name for path in EXAMPLES}
