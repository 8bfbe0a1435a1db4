"""The examples in docstrings are run."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
from typing import Any

import numpy as np
import pytest
import torch

import deepepochs_like

# What an example may use without importing it.
NAMES = {"torch": torch, "np": np}
# What the examples of a module need beyond the core, to be skipped where it is absent.
NEEDS = {
    "deepepochs_like.pictures.curves": "matplotlib",
    "deepepochs_like.pictures.rates": "matplotlib",
    "deepepochs_like.pictures.sheet": "matplotlib",
    "deepepochs_like.utils.plots": "matplotlib",
    "deepepochs_like.utils.yaml_file": "yaml",
}


def modules() -> list[str]:
    found = pkgutil.walk_packages(deepepochs_like.__path__, "deepepochs_like.")
    return ["deepepochs_like", *sorted(module.name for module in found if not module.name.endswith("__main__"))]


def examples() -> list[Any]:
    finder, found = doctest.DocTestFinder(exclude_empty=True), {}
    for name in modules():
        module = importlib.import_module(name)
        for test in finder.find(module, name, globs={**NAMES, **vars(module)}):
            if test.examples:
                found[test.name] = pytest.param(test, NEEDS.get(name), id=test.name)
    return list(found.values())


@pytest.mark.parametrize(("example", "needs"), examples())
def test_example(example: doctest.DocTest, needs: str | None) -> None:
    if needs is not None and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    runner, said = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE), []  # type: ignore[var-annotated]
    example.globs = example.globs.copy()
    with torch.random.fork_rng():
        result = runner.run(example, out=said.append, clear_globs=False)
    assert not result.failed, "".join(said)


def test_public_names_have_examples_that_run() -> None:
    documented = {param.id for param in examples()}
    assert len(documented) > 20
    assert {"deepepochs_like.trainer.Trainer", "deepepochs_like.utils.containers.ddict"} <= documented


def test_a_wrong_example_is_found() -> None:
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda text: None).failed == 1
