"""The public names, frozen: one appears or goes only on purpose."""

from __future__ import annotations

import difflib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import deepepochs_like

FROZEN = Path(__file__).with_name("public_names.txt")
UPDATE = "python -c 'import deepepochs_like as d; print(*d.__all__, sep=chr(10))' > tests/house/public_names.txt"


def test_names_are_the_frozen_ones() -> None:
    frozen = FROZEN.read_text(encoding="utf-8").split()
    diff = "\n".join(difflib.unified_diff(frozen, deepepochs_like.__all__, "frozen", "now", lineterm="", n=0))
    assert not diff, (
        f"The public names have changed:\n{diff}\n\n"
        "A name that goes breaks scripts, one that comes is a promise. Where that is meant, freeze the new "
        f"list, say so in CHANGELOG.md and commit both:\n  {UPDATE}"
    )


def test_names_are_sorted_and_unique() -> None:
    # As the linter has it: names all in capitals come first.
    assert list(deepepochs_like.__all__) == sorted(set(deepepochs_like.__all__), key=lambda n: (not n.isupper(), n))


@pytest.mark.parametrize("name", deepepochs_like.__all__)
def test_name_resolves(name: str) -> None:
    value = getattr(deepepochs_like, name)
    assert getattr(deepepochs_like, name) is value, "a second look finds another object"


@pytest.mark.parametrize("name", deepepochs_like.__all__)
def test_name_is_documented(name: str) -> None:
    value = getattr(deepepochs_like, name)
    if not inspect.isclass(value) and not inspect.isfunction(value):
        return  # a constant or an alias of a type, explained where it is defined
    assert inspect.getdoc(value), f"{name} has no docstring"
    assert ">>>" in inspect.getdoc(value), f"{name} has no example that could be run"
    if inspect.isclass(value):
        # Only what the class itself writes: an override inherits the docstring of what it overrides.
        methods = [key for key, one in vars(value).items() if inspect.isfunction(one) and not key.startswith("_")]
        silent = [key for key in methods if not inspect.getdoc(getattr(value, key))]
        assert not silent, f"methods of {name} without a docstring, own or inherited: {silent}"


def test_dir_lists_the_names_without_loading_them() -> None:
    # In an interpreter of its own, where none of the lazy names has been looked up.
    source = (
        "import sys, deepepochs_like as d\n"
        "before = set(sys.modules)\n"
        "missing = set(d.__all__) - set(dir(d))\n"
        "assert not missing, missing\n"
        "assert set(sys.modules) == before, set(sys.modules) - before\n"
    )
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr


def test_star_import_brings_exactly_the_names() -> None:
    namespace: dict[str, object] = {}
    exec("from deepepochs_like import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(deepepochs_like.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        deepepochs_like.no_such_name  # noqa: B018 - looking it up is what raises
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from deepepochs_like import no_such_name", {})
