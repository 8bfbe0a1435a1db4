"""The code in README.md runs, in the order in which it stands, and prints what the README says it does.

All ``python`` blocks share one namespace, as the README tells its readers. A ``text`` block is output of the ``python``
block above it, whole lines, of which some may be left out; decimals and times may differ.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from support.repo import ROOT

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
CALLBACKS = ROOT / "docs/callbacks.md"


class Block(NamedTuple):
    """A fenced block: its language, its text and the line of the file on which the text begins."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in found]


def rounded(text: str) -> str:
    """Reduce output to what is the same on every machine: no decimals, no times, no runs of blanks."""
    timeless = re.sub(r"\(\d+(\.\d+)? m?s\)", "(0 ms)", text)
    return re.sub(r" +", " ", re.sub(r"\d+\.\d+(e-?\d+)?", "0.0", timeless)).strip()


def headings(path: Path) -> list[int]:
    """The levels of a page's headings, in order."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [len(level) for level in re.findall(r"^(#+) ", text, re.MULTILINE)]


@pytest.mark.parametrize("page", [ENGLISH, CALLBACKS], ids=lambda page: page.name)
def test_code_runs_and_prints_what_is_said(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    ran, printed = 0, ""
    for block in blocks(page):
        if block.language == "python":
            # Empty lines in front, so that a traceback shows the README's own lines.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
            printed, ran = capsys.readouterr().out, ran + 1
        elif block.language == "text":
            for line in filter(None, map(rounded, block.text.splitlines())):
                assert line in [rounded(p) for p in printed.splitlines()], f"{line!r} is not in\n{printed}"
    assert ran >= 8
    assert list(tmp_path.iterdir()) == []


def test_quick_start_needs_nothing_before_it() -> None:
    first = next(block for block in blocks(ENGLISH) if block.language == "python")
    assert first.text.startswith(("import ", "from "))


def test_both_languages_have_the_same_code() -> None:
    english, chinese = (
        [(b.language, re.sub(r" *# .*", "", b.text)) for b in blocks(path)] for path in (ENGLISH, CHINESE)
    )
    assert chinese == english


def test_both_languages_have_the_same_structure() -> None:
    assert headings(CHINESE) == headings(ENGLISH)
    rows = [
        [line.count("|") for line in p.read_text("utf-8").splitlines() if line[:1] == "|"] for p in (ENGLISH, CHINESE)
    ]
    assert rows[0] == rows[1]


def test_links_lead_somewhere() -> None:
    for path in (ENGLISH, CHINESE, *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_rounded_keeps_words_and_whole_numbers() -> None:
    assert rounded("epoch 3:  loss 0.1234, 2.5e-07 of 45  (31 ms) ") == "epoch 3: loss 0.0, 0.0 of 45 (0 ms)"
