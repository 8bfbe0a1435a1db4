from __future__ import annotations

from pathlib import Path

import pytest

from support.codelines import code_lines, function_code_lines


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param("", 0, id="empty"),
        pytest.param("\n\n   \n", 0, id="blank"),
        pytest.param("# one\n    # two\n", 0, id="comments"),
        pytest.param("x = 1  # a comment behind code\n", 1, id="code with comment"),
        pytest.param('"""Module\n\ndocstring."""\nx = 1\n', 1, id="module docstring"),
        pytest.param('def f():\n    """Say."""\n    return 1\n', 2, id="function docstring"),
        pytest.param('async def f():\n    """Say."""\n', 1, id="async docstring"),
        pytest.param('class A:\n    """Say\n    more."""\n\n    x = 1\n', 2, id="class docstring"),
        pytest.param('def f(): "Say."\n', 1, id="docstring behind def"),
        pytest.param('def f():\n    ("Say "\n     "more.")\n    return 1\n', 4, id="parentheses count"),
        pytest.param('x = """a\n\nb"""\n', 2, id="string in several lines, one of them blank"),
        pytest.param('x = 1\n"""A string that documents nothing."""\n', 2, id="string that is no docstring"),
        pytest.param("f(\n    1,\n    # why\n    2,\n)\n", 4, id="call in several lines"),
        pytest.param('x = f"""{1}\nb {\n2}\n"""\n', 4, id="f-string in several lines"),
        pytest.param('def f(): "é"; x = "ü"\n', 1, id="more bytes than characters"),
        pytest.param("x = 1 + \\\n    2\n", 2, id="continued line"),
    ],
)
def test_counts_lines_that_carry_code(tmp_path: Path, source: str, expected: int) -> None:
    path = tmp_path / "module.py"
    path.write_text(source, encoding="utf-8")
    assert code_lines(path) == expected
    assert code_lines(str(path)) == expected


def test_counts_functions_by_qualified_name(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import os\n"
        "@os.decorator\n"
        "def outer():\n"
        '    """Say."""\n'
        "    # why\n"
        "    def inner():\n"
        "        return 1\n"
        "\n"
        "    return inner\n"
        "class A:\n"
        "    async def method(self):\n"
        "        pass\n"
    )
    assert function_code_lines(path) == {"outer": 4, "outer.inner": 2, "A.method": 2}
