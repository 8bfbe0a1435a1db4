from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from deepepochs_like.display.columns import Columns
from deepepochs_like.display.words import Words, direction, duration, pace, plural, scalars


@pytest.mark.parametrize(
    ("value", "short", "long"),
    [
        (0.0, "0.0000", "0.0000000"),
        (0.123456789, "0.1235", "0.1234568"),
        (-1.5, "-1.5000", "-1.5000000"),
        (3e-5, "3.00e-05", "0.0000300"),
        (3e-9, "3.00e-09", "3.00000e-09"),
        (123456.789, "123456.7890", "123456.7890000"),
        (12345678.9, "1.23e+07", "1.23457e+07"),
        (math.nan, "nan", "nan"),
        (-math.inf, "-inf", "-inf"),
    ],
)
def test_numbers(value: float, short: str, long: str) -> None:
    assert Words(4).number(value) == short
    assert Words(7).number(value) == long


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "0 ms"),
        (0.0854, "85 ms"),
        (0.31, "0.3 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.7, "1:00"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (90_061, "25:01:01"),
    ],
)
def test_durations(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_paces() -> None:
    assert [pace(1234, 1), pace(31, 10), pace(1, 2.5), pace(0, 3), pace(3, 0)] == [
        "1,234 batches/s",
        "3.1 batches/s",
        "2.5 s/batch",
        "",
        "",
    ]


def test_plurals() -> None:
    assert [plural(1, "epoch"), plural(2, "epoch"), plural(1, "batch"), plural(2410, "batch")] == [
        "1 epoch",
        "2 epochs",
        "1 batch",
        "2,410 batches",
    ]


@pytest.mark.parametrize(
    "name", ["loss", "val_loss", "Loss/G", "top5_error", "errors", "rmse", "test mse", "perplexity"]
)
def test_what_is_better_lower(name: str) -> None:
    assert direction(name) == -1


@pytest.mark.parametrize("name", ["acc", "accuracy", "macro_f1", "auc", "recall", "C.p", "val r2", "f1_score"])
def test_what_is_better_higher(name: str) -> None:
    assert direction(name) == 1


@pytest.mark.parametrize("name", ["mean", "maestro", "distance", "bias", "norm"])
def test_of_other_names_nobody_knows_what_is_better(name: str) -> None:
    assert direction(name) == 0


def test_only_numbers_are_shown() -> None:
    assert scalars({"a": np.float64(1), "b": np.zeros((2, 2)), "c": 2, "d": [1, 2]}) == {"a": 1.0, "c": 2.0}


def test_names_are_cropped_where_they_are_least_telling() -> None:
    words = Words()
    assert words.crop("accuracy", 8) == "accuracy"
    assert words.crop("validation_f1_of_class_3", 12) == "valid…lass_3"
    assert words.crop("validation_f1_of_class_3", 1) == "…"
    assert Words(encoding="ascii").crop("validation_f1_of_class_3", 12) == "valid~lass_3"


def test_wide_characters_are_measured() -> None:
    from rich.cells import cell_len

    words = Words(measure=cell_len)
    for width in range(3, 12):
        assert cell_len(words.crop("名字很长的任务", width)) <= width


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_lines_can_be_written_in_any_encoding(encoding: str) -> None:
    words = Words(encoding=encoding)
    line = words.line([("a", "head")], {"": words.numbers({"σ\n\x1b[2J名": 1.0})}, [(words.dot, "note")], 20)
    text = "  ".join(part for part, _ in line)
    assert text.encode(encoding).decode(encoding) == text
    assert text.isprintable()
    assert words.ascii == (encoding != "utf-8")


def test_a_line_takes_the_room_there_is() -> None:
    words = Words()
    figures = {"train": words.numbers({f"a_rather_long_name_{i}": i for i in range(30)}), "val": {"loss": "0.1"}}
    for width in (60, 80, 200):
        line = words.line([("epoch 1", "head")], figures, [("1 s", "note")], width)
        assert words.wide(line) <= width
        shown = sum(role == "figure" for _, role in line)
        assert (f"+{31 - shown}", "note") in line
        assert {"train", "val"} <= {text for text, role in line if role == "label"}
    whole = words.line([], figures, [], None)
    assert sum(role == "figure" for _, role in whole) == 31
    assert "…" not in "".join(text for text, _ in whole)


def test_columns_fit_and_say_what_they_leave_out() -> None:
    words = Words()
    names = [f"{'long_' * 11}{i:05}" for i in range(30)]
    groups = {stage: words.numbers(dict.fromkeys(names, 0.5)) for stage in ("train", "val")}
    for width in (59, 79, 199):
        columns = Columns(words)
        lines = columns.lines("10000/10000", groups, {}, "1:02:03", width, 10)
        assert len(lines) == 3
        texts = ["  ".join(text for text, _ in line).rstrip() for line in lines]
        assert max(map(len, texts)) <= width
        shown = sum(role in ("figure", "best") for _, role in lines[-1])
        assert shown >= 2
        assert texts[0].endswith(f"+{60 - shown} more")


def test_columns_are_aligned_and_named_once_a_screen() -> None:
    columns, words = Columns(Words()), Words()
    lines = []
    for epoch in range(25):
        groups = {"train": words.numbers({"loss": 10 / (epoch + 1), "acc": 0.5}), "val": {}}
        lines += columns.lines(f"{epoch + 1:>5}", groups, {"train": {"loss"}}, "0.1 s", 79, 10)
    texts = ["  ".join(text for text, _ in line) for line in lines]
    headings = [i for i, text in enumerate(texts) if "acc" in text]
    # The second comes with the first narrower figure's wider column, the others after every ten lines.
    assert all(later - former <= 12 for former, later in itertools.pairwise(headings))
    assert len({len(text.rstrip()) for text in texts if "0.1 s" in text}) == 1
    assert "best" in {role for _, role in lines[-1]}


def test_a_stage_that_pauses_keeps_its_columns() -> None:
    columns = Columns(Words())
    columns.lines("1", {"train": {"loss": "0.1000"}, "val": {"loss": "0.2000"}}, {}, "1 s", 79, 10)
    (line,) = columns.lines("2", {"train": {"loss": "0.1000"}, "val": {}}, {}, "1 s", 79, 10)
    assert [text.strip() for text, _ in line] == ["2", "0.1000", "-", "1 s"]
