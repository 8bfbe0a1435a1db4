"""`load_yaml`: the tags, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from deepepochs_like import ddict, load_yaml
from deepepochs_like.errors import ArgumentError, ArgumentTypeError


@pytest.fixture
def load(tmp_path: Path) -> Any:
    pytest.importorskip("yaml")

    def load(text: str) -> Any:
        path = tmp_path / "options.yaml"
        path.write_text(text, encoding="utf8")
        return load_yaml(path)

    return load


def test_options_are_attributes(load: Any) -> None:
    options = load("name: é\nmodel:\n  width: 8\n  act: {kind: relu}\n")
    assert type(options) is type(options.model) is ddict
    assert (options.name, options.model.width, options.model.act.kind) == ("é", 8, "relu")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("!path [/data, a, b.txt]", "/data/a/b.txt"),
        ("!path [a, /b]", "a//b"),
        ("!path ['~', a]", "~/a"),
        ("!path []", ""),
        ("!join [x, y]", "x/y"),
        ("!str [1]", "1"),
        ("!str [1, 2]", "12"),
        ("!str [a, b]", "ab"),
        ("!str 5", "5"),
        ("!cat [a, 1]", "a1"),
        ("!cat [[1, 2], [3]]", [1, 2, 3]),
        ("!echo [1, 2]", 1),
        ("!echo 1", 1),
        ("!echo '1'", "1"),
        ("!sum [1, 2, 3.5]", 6.5),
        ("!sum []", 0),
        ("!mul [2, 3, .5]", 3.0),
        ("!sum [1, !mul [2, 3]]", 7),
        ("!join [x, !str [5]]", "x/5"),
        ("!mul [*n, 2]", 8),
    ],
)
def test_tags(load: Any, value: str, expected: Any) -> None:
    found = load(f"n: &n 4\nx: {value}\n").x
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ("!path [a, 1]", ArgumentTypeError, "!path cannot be made from"),
        ("!sum [a]", ArgumentTypeError, "!sum cannot be made from"),
        ("!echo []", ArgumentTypeError, "!echo cannot be made from"),
        ("!str {a: 1}", ArgumentTypeError, "!str needs a list"),
        ("!nosuch [a]", ArgumentError, "cannot be read"),
        ("!!python/object/apply:os.system ['true']", ArgumentError, "cannot be read"),
        ("[", ArgumentError, "cannot be read"),
    ],
)
def test_what_is_refused(load: Any, value: str, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        load(f"x: {value}\n")


def test_the_top_is_a_mapping_or_nothing(load: Any) -> None:
    assert load("") == {}
    with pytest.raises(ArgumentError, match="holds a list at its top"):
        load("[1, 2]")


def test_tags_are_added_to_no_one_elses_loader(load: Any) -> None:
    import yaml

    load("a: !sum [1]")
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load("a: !sum [1]")


def test_a_missing_file(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    with pytest.raises(FileNotFoundError):
        load_yaml(tmp_path / "nothing.yaml")


def test_without_pyyaml_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ModuleNotFoundError, match=r"load_yaml needs yaml.*deepepochs_like\[yaml\]"):
        load_yaml("options.yaml")
