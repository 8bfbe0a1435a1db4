"""Charts and tables made of characters."""

from __future__ import annotations

import io
import math
import os
from typing import Any

import numpy as np
import pytest
import torch

from deepepochs_like import confusion_table, line_chart
from deepepochs_like.errors import ArgumentError
from deepepochs_like.utils import textchart
from deepepochs_like.utils.scales import as_lines, bounds, number, printable, thinned, ticks, wide
from deepepochs_like.utils.textchart import normalized, signs_for

NAN, INF = math.nan, math.inf
FALLING = [1.6 * math.exp(-i / 6) for i in range(30)]


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("width", [20, 33, 60, 100, 200])
@pytest.mark.parametrize("height", [3, 8, 40])
def test_a_chart_has_the_size_asked_for(width: int, height: int, ascii: bool) -> None:
    series = {"train": FALLING, "a rather long name of a series": [2 * y for y in FALLING], "c": [0.5]}
    lines = line_chart(series, title="loss " * 30, x_label="epoch", width=width, height=height, ascii=ascii).split("\n")
    assert max(map(len, lines)) <= width
    assert len(lines) >= height + 3
    assert all(line == line.rstrip() for line in lines[1:])


def test_one_line_falls_from_corner_to_corner() -> None:
    assert line_chart([3, 2, 1], width=24, height=3, ascii=True).split("\n") == [
        "3 +*****",
        "  |     *********",
        "1 +              ***** 1",
        "  ++--------+--------+",
        "   1        2        3",
    ]


def test_braille_has_eight_points_per_character() -> None:
    rows = line_chart([0, 1], width=40, height=3, ascii=False).split("\n")[:3]
    drawn = [c for row in rows for c in row if "\u2800" < c <= "\u28ff"]
    assert len(drawn) >= 35  # a point or more in every column
    assert rows[0].rstrip().endswith("1")
    assert rows[2].split("┤")[1].lstrip("\u2800")[0] == "⣀"  # two points in its lowest row


def test_lines_are_told_apart_by_their_dashes_and_named_at_their_ends() -> None:
    chart = line_chart({"flat": [1.0] * 50, "low": [0.0] * 50}, width=60, height=5, ascii=False)
    rows = chart.split("\n")
    assert rows[0].endswith("⠒⠒ flat 1")
    assert rows[4].endswith("⠂⠂ low 0")
    assert "⠉⠉⠉⠉" in rows[0]
    assert "⣀⣀⣀⣀" not in rows[4]


def test_names_stand_below_where_there_is_no_room_beside() -> None:
    chart = line_chart({"train": FALLING, "val": FALLING}, width=26, height=4, ascii=True)
    assert [part.strip() for part in chart.split("\n")[-2:]] == ["* train 0.01274", "o val 0.01274"]


def test_more_lines_than_rows_are_all_named() -> None:
    chart = line_chart({f"line{i}": [i, i + 1] for i in range(9)}, width=100, height=4, ascii=False)
    assert all(f"line{i} {i + 1}" in chart for i in range(9))


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        [],
        [5.0],
        [5.0] * 9,
        [0.0],
        [NAN],
        [NAN, INF, -INF],
        [NAN, 1.0, NAN, 2.0, NAN],
        [1.0, INF, 3.0],
        [1e308, -1e308],
        [1e-320, 0.0],
        [1e300, 1.0],
        [-1.0, -1.0 - 1e-16],
        [7, True, np.float32(3)],
        np.arange(10_000) % 97,
    ],
    ids=str,
)
def test_any_numbers_can_be_drawn(values: Any, ascii: bool) -> None:
    for height in (3, 10):
        chart = line_chart({"x": values}, width=40, height=height, ascii=ascii)
        assert max(map(len, chart.split("\n"))) <= 40


def test_what_is_not_finite_interrupts_the_line_and_is_counted() -> None:
    chart = line_chart({"x": [1, NAN, 1, 1, INF, 1]}, width=60, height=3, ascii=False)
    assert "x 1 (2 not finite)" in chart
    (drawn,) = [line for line in chart.split("\n") if "not finite" in line]
    assert "⠤  " in drawn or "⣤  " in drawn


def test_nothing_to_draw_is_said() -> None:
    assert line_chart({}) == "(no numbers yet)"
    assert line_chart({"a": [NAN]}, title="loss", ascii=True) == "loss\n(no numbers yet)\n a (1 not finite)"


def test_a_lone_point_can_be_seen() -> None:
    assert "⣤" in line_chart([5], width=30, height=3, ascii=False)
    assert "*" in line_chart([5], width=30, height=3, ascii=True)


def test_names_put_nothing_on_the_terminal_but_letters() -> None:
    hostile = "\x1b[2J\x07\r\nx\u202e\ud800"
    for ascii in (True, False):
        chart = line_chart({hostile: [1, 2], "b": [2, 1]}, title=hostile, x_label=hostile, width=80, ascii=ascii)
        assert all(c.isprintable() or c == "\n" for c in chart)
        chart.encode("ascii" if ascii else "utf-8")


def test_characters_of_two_columns_count_as_two() -> None:
    chart = line_chart(
        {"训练集损失": FALLING, "验证": FALLING}, title="损失" * 30, x_label="轮次", width=50, ascii=False
    )
    assert max(map(wide, chart.split("\n"))) <= 50
    rows = confusion_table([[30, 1], [0, 2]], ["一个很长的类别的名称是的", "狗"], ascii=False).split("\n")
    assert len({wide(row) for row in rows}) == 1


def test_a_dumb_terminal_and_a_poor_encoding_get_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(io.StringIO):
        def __init__(self, encoding: str | None) -> None:
            super().__init__()
            self.named = encoding

        @property
        def encoding(self) -> Any:
            return self.named

    monkeypatch.delenv("TERM", raising=False)
    assert signs_for(Stream("utf-8")) is textchart.UNICODE
    assert signs_for(Stream(None)) is textchart.UNICODE
    for encoding in ("ascii", "latin-1", "cp437", "no such encoding"):
        assert signs_for(Stream(encoding)) is textchart.ASCII
    monkeypatch.setenv("TERM", "dumb")
    assert signs_for(Stream("utf-8")) is textchart.ASCII


def test_the_terminal_says_how_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, widest in ((50, 50), (400, 100), (5, 20)):
        monkeypatch.setattr("shutil.get_terminal_size", lambda columns=columns: os.terminal_size((columns, 24)))
        assert max(map(len, line_chart({"a": FALLING}, ascii=True).split("\n"))) in (widest, widest - 1)


@pytest.mark.parametrize("wrong", [{"width": 19}, {"width": True}, {"width": 30.0}, {"height": 2}, {"height": "9"}])
def test_sizes_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="an int from"):
        line_chart([1, 2], **wrong)


# Tables


def test_confusion_table() -> None:
    assert confusion_table(torch.tensor([[3, 1], [0, 2]]), ["cat", "dog"], ascii=True).split("\n") == [
        "target  cat  dog",
        "   cat    3    1",
        "   dog    .    2",
    ]
    assert confusion_table([[0.25, 0.75], [0.5, 0.5]], decimals=1, ascii=True).split("\n")[1] == "     0  0.2  0.8"


def test_normalized() -> None:
    matrix = [[3, 1, 0], [0, 0, 0], [1, 1, 2]]
    assert normalized(matrix, "true").tolist() == [[0.75, 0.25, 0], [0, 0, 0], [0.25, 0.25, 0.5]]
    assert normalized(matrix, "pred").tolist() == [[0.75, 0.5, 0], [0, 0, 0], [0.25, 0.5, 1]]
    assert normalized(matrix, "all").sum() == 1
    assert normalized(matrix, None).tolist() == matrix
    with pytest.raises(ArgumentError, match="normalize='rows'"):
        normalized(matrix, "rows")


@pytest.mark.parametrize(("matrix", "names"), [([1, 2], None), ([[1, 2]], None), ([[1]], ["a", "b"]), ([], None)])
def test_confusion_table_checks_its_arguments(matrix: Any, names: Any) -> None:
    with pytest.raises(ArgumentError, match=r"confusion matrix|class names"):
        confusion_table(matrix, names)


# Scales


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 5e4), (1e-9, 2e-9), (1e300, 1.7e308), (99.99, 100.01), (1, 1)])
@pytest.mark.parametrize("count", [1, 4, 20])
def test_ticks_are_few_and_within(low: float, high: float, count: int) -> None:
    values = ticks(low, high, count)
    assert 1 <= len(values) <= 2 * count + 3
    room = (high - low) * 1e-6
    assert all(low - room <= value <= high + room for value in values)


def test_bounds_are_apart() -> None:
    for values in ([2.0], [0.0, 0.0], [-5.0], [1e-320], [1e308, -1e308]):
        found = bounds(values)
        assert found is not None
        assert found[0] < found[1]
        assert math.isfinite(found[1] - found[0])


def test_thinning_keeps_the_extremes_and_the_ends() -> None:
    ys = [0.0] * 10_000
    ys[1234], ys[8765], ys[5000] = 9.0, -9.0, NAN
    xs, kept = thinned(range(10_000), ys, 100)
    assert len(xs) <= 100
    assert (xs[0], xs[-1]) == (0, 9999)
    assert {9.0, -9.0} <= set(kept)
    assert xs == sorted(xs)


def test_small_helpers() -> None:
    assert as_lines({"a": np.array([1, 2])}) == {"a": ([1.0, 2.0], [1.0, 2.0])}
    assert [number(v) for v in (0.0, -0.0, 1e6, 123456.0, INF)] == ["0", "0", "1e+06", "123500", "inf"]
    assert printable("a\tb\x00é") == "a b?é"
