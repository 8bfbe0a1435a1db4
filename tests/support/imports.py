"""Read who imports whom out of the sources, without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One import statement's target, as it stands in the source.

    Attributes:
        importer: Dotted name of the module that imports.
        target: Dotted name of what it imports: one of the package's modules where it is one, else
            everything that the statement names (`torch.nn.Module`).
        line: Where, counted from 1.
        type_only: Whether it stands under `if TYPE_CHECKING:`, so never happens at run time.
    """

    importer: str
    target: str
    line: int
    type_only: bool


def package_modules(root: Path) -> dict[str, Path]:
    """Map the dotted name of every module of the package in folder `root` to its file."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def package_imports(modules: dict[str, Path]) -> list[Import]:
    """List every import of the given modules, at module level and inside functions."""
    found: list[Import] = []
    for name, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node, type_only in _walk(tree, type_only=False):
            targets = {_module_of(target, modules) for target in _targets(node, package)}
            line = getattr(node, "lineno", 0)
            found.extend(Import(name, target, line, type_only) for target in sorted(targets))
    return found


def import_graph(modules: dict[str, Path], imports: list[Import]) -> dict[str, set[str]]:
    """Map each module to the modules of the package that must run before it at run time.

    Importing `p.sub.module` from outside `p.sub` runs `p/sub/__init__.py` too, so that counts. The root
    package counts only where it is named: it is always there already.
    """
    root = min(modules, key=len)
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for one in imports:
        if one.type_only or one.target not in modules or one.target == one.importer:
            continue
        graph[one.importer].add(one.target)
        parent = one.target.rpartition(".")[0]
        while parent and parent != root and not f"{one.importer}.".startswith(f"{parent}."):
            graph[one.importer].add(parent)
            parent = parent.rpartition(".")[0]
    return graph


def _walk(node: ast.AST, *, type_only: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, type_only
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        for statement in node.body:
            yield from _walk(statement, type_only=True)
        for statement in node.orelse:
            yield from _walk(statement, type_only=type_only)
        return
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, type_only=type_only)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _targets(node: ast.AST, package: str) -> list[str]:
    """Name what one node imports; nothing where it is no import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = package.split(".")
            parts = parts[: len(parts) - node.level + 1]
            base = ".".join([*parts, base] if base else parts)
        return [base if alias.name == "*" else f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args:
        # importlib.import_module("x") and __import__("x"); a name computed at run time can't be read here.
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        name = node.args[0]
        if function in {"import_module", "__import__"} and isinstance(name, ast.Constant):
            target = str(name.value)
            return [f"{package}{target}" if target.startswith(".") else target]
    return []


def _module_of(target: str, modules: dict[str, Path]) -> str:
    """Cut `package.module.name` down to the module of the package it lies in."""
    name = target
    while name:
        if name in modules:
            return name
        name = name.rpartition(".")[0]
    return target
