"""Count the lines that carry code, so that limits on size don't tax comments and docstrings."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

_NO_CODE = frozenset(
    {
        tokenize.ENCODING,
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)
_Position = tuple[int, int]  # line from 1, column in characters from 0: as tokenize counts
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(path: str | Path) -> int:
    """Count a file's physical lines that carry code.

    Blank lines, lines with only a comment and docstrings don't count. Every non-blank line of a
    statement or a string that spans several does.
    """
    return len(_code_line_numbers(Path(path).read_text(encoding="utf-8")))


def function_code_lines(path: str | Path) -> dict[str, int]:
    """Count the code lines of each function of a file, counted as `code_lines` does.

    Returns:
        Qualified name (`Class.method`, `outer.inner`) to count, from the `def` line to the last one,
        decorators left out and inner functions included.
    """
    text = Path(path).read_text(encoding="utf-8")
    numbers = _code_line_numbers(text)
    counts: dict[str, int] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}.{child.name}" if prefix else child.name
                if not isinstance(child, ast.ClassDef):
                    span = range(child.lineno, (child.end_lineno or child.lineno) + 1)
                    counts[name] = len(numbers.intersection(span))
            visit(child, name)

    visit(ast.parse(text), "")
    return counts


def _code_line_numbers(text: str) -> set[int]:
    lines = text.splitlines()
    docstrings = _docstring_spans(text, lines)
    numbers: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _NO_CODE:
            continue
        if token.type == tokenize.STRING and any(start <= token.start < end for start, end in docstrings):
            continue
        numbers.update(range(token.start[0], token.end[0] + 1))
    return {number for number in numbers if lines[number - 1].strip()}


def _docstring_spans(text: str, lines: list[str]) -> list[tuple[_Position, _Position]]:
    spans = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None:
            literal = node.body[0]
            assert literal.end_lineno is not None
            assert literal.end_col_offset is not None
            start = _position(lines, literal.lineno, literal.col_offset)
            spans.append((start, _position(lines, literal.end_lineno, literal.end_col_offset)))
    return spans


def _position(lines: list[str], line: int, byte: int) -> _Position:
    """Turn ast's column, counted in bytes, into tokenize's, counted in characters."""
    return line, len(lines[line - 1].encode()[:byte].decode())
