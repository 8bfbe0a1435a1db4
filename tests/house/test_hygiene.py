"""Nothing of the workshop is left in what users see."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from support.repo import PACKAGE, ROOT, project_files

# Where printing is the job. Everything else goes through what these offer.
MAY_PRINT = frozenset({"display.py"})

# Put together so that this file does not contain what it forbids.
HOME_FOLDERS = "|".join(["work", "home", "root", "Users"])
FORBIDDEN = {
    # An absolute path: not the end of a longer one, nor part of an address.
    "a path of somebody's machine": re.compile(rf"(?<![\w.~$}}*/-])(?:/(?:{HOME_FOLDERS})|[A-Z]:\\Users)[/\\]\w"),
    "a conflict marker": re.compile("^(?:{} |{} |{} )".format("<" * 7, r"\|" * 7, ">" * 7), re.MULTILINE),
    "an unfinished note": re.compile(r"\b(?:{})\b".format("|".join(["TO" + "DO", "FIX" + "ME"]))),
}


def project_texts() -> Iterator[tuple[str, str]]:
    """Yield name and content of each text file of the project."""
    files = project_files()
    if files is None:
        pytest.skip("the sources are no git checkout, so nobody knows which files belong to them")
    for path in files:
        data = path.read_bytes()
        if b"\0" in data:
            continue  # a picture or an archive
        yield path.relative_to(ROOT).as_posix(), data.decode("utf-8")


def print_calls(source: str) -> list[int]:
    """List the lines of a module that call the built-in print."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return sorted(call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = []
    for name, text in project_texts():
        for match in FORBIDDEN[what].finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{name}:{line}: {text.splitlines()[line - 1].strip()}")
    assert not found, f"{what} in\n" + "\n".join(found)


def test_text_files_end_with_one_newline() -> None:
    wrong = [name for name, text in project_texts() if text and (not text.endswith("\n") or text.endswith("\n\n"))]
    assert not wrong


def test_the_extra_of_the_examples_has_what_they_need() -> None:
    """Python 3.10 has no tomllib, so that the line is found by hand."""
    line = re.search(r"^examples = (\[.*\])$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None
    named = {re.split("[<>=]", requirement)[0] for requirement in ast.literal_eval(line[1])}
    needed = set()
    for path in (ROOT / "examples").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        for name, sign in {"scikit-learn": "from sklearn", "networkx": "networkx", "matplotlib": ".plot("}.items():
            needed |= {name} if sign in source else set()
    assert named == needed
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert all(f"\n{name}==" in constraints for name in named)
    for readme in ("README.md", "README.zh-CN.md"):
        assert all(name in (ROOT / readme).read_text(encoding="utf-8") for name in named), readme


def test_library_prints_only_where_printing_is_the_job() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in MAY_PRINT:
            found.extend(f"{name}:{line}" for line in print_calls(path.read_text(encoding="utf-8")))
    assert not found, f"print() outside {sorted(MAY_PRINT)}: {found}"


# What is searched with, tried on what it must find and what it must let pass.


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of somebody's machine", "see /{}/me/data.csv".format("home")),
        ("a path of somebody's machine", 'open("/{}/x")'.format("work")),
        ("a path of somebody's machine", "`/{}/cache`".format("root")),
        ("a path of somebody's machine", "C:\\{}\\me".format("Users")),
        ("a conflict marker", "a\n{} HEAD\nb".format("<" * 7)),
        ("a conflict marker", "{} branch".format(">" * 7)),
        ("an unfinished note", "# {}: later".format("TO" + "DO")),
    ],
)
def test_search_finds(what: str, text: str) -> None:
    assert FORBIDDEN[what].search(text)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of somebody's machine", "https://example.org/home/page"),
        ("a path of somebody's machine", "the work/home balance"),
        ("a conflict marker", "Title\n=======\n"),
        ("an unfinished note", "method"),
    ],
)
def test_search_lets_pass(what: str, text: str) -> None:
    assert not FORBIDDEN[what].search(text)


def test_print_calls_are_told_from_other_uses() -> None:
    source = '"""print(1)"""\nshow = print\nself.print(1)\nprint(2)\ndef f(out=print):\n    out(3)\n    print(4)\n'
    assert print_calls(source) == [4, 7]
