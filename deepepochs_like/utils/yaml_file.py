"""Options read from a YAML file that can compute a little."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from ..errors import ArgumentError, ArgumentTypeError, a_kind
from .containers import ddict
from .extras import need


def load_yaml(yaml_path: str | os.PathLike[str], encoding: str = "utf8") -> ddict:
    r"""Read options from a YAML file; nested options are attributes of attributes.

    Beyond plain YAML there are tags, each over a list (or a single value), and nested as one likes:

    ======================  ==================================================================
    ``!path [a, b, c]``     ``a/b/c``
    ``!join [a, b, c]``     the same
    ``!str [a, 1]``         ``a1``: everything as text, one after the other
    ``!cat [a, b]``         the same; of lists, one list
    ``!echo [a]``           ``a``
    ``!sum [1, 2]``         the sum
    ``!mul [2, 3]``         the product
    ======================  ==================================================================

    Reading runs no code from the file: only plain YAML and these tags are understood.

    Args:
        yaml_path: the file.
        encoding: the file's.

    Raises:
        ModuleNotFoundError: PyYAML is not installed; it comes with the extra ``yaml``.
        ArgumentError: the file is no YAML, or no mapping at its top; or a tag is given what it cannot take.

    Example:
        >>> import pathlib, tempfile; path = pathlib.Path(tempfile.mkdtemp(), "options.yaml")
        >>> _ = path.write_text("root: &root data\ntrain: {file: !path [*root, train.csv], steps: !mul [4, 5]}")
        >>> load_yaml(path).train
        {'file': 'data/train.csv', 'steps': 20}
    """
    yaml = need("yaml", "yaml", "load_yaml")

    class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]  # its own: tags are added to no one else's
        pass

    for tag, function in TAGS.items():
        Loader.add_constructor(f"!{tag}", _constructor(yaml, tag, function))
    with open(yaml_path, encoding=encoding) as file:
        try:
            content = yaml.load(file, Loader)
        except yaml.YAMLError as error:
            raise ArgumentError(f"{os.fspath(yaml_path)} cannot be read: {error}") from error
    if not isinstance(content, (dict, type(None))):
        raise ArgumentError(f"{os.fspath(yaml_path)} holds {a_kind(content)} at its top; names with values are needed")
    return ddict(content or {})


def _constructor(yaml: Any, tag: str, function: Callable[[list[Any]], Any]) -> Callable[[Any, Any], Any]:
    def construct(loader: Any, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            raise ArgumentTypeError(
                f"!{tag} needs a list, as in !{tag} [a, b]; it is given names with values{node.start_mark}"
            )
        if isinstance(node, yaml.ScalarNode):
            # A tag hides what an untagged value would have been: a number, a date, text.
            plain = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, node.value, (node.style is None, True)), node.value)
            items = [loader.construct_object(plain, deep=True)]
        else:
            items = loader.construct_sequence(node, deep=True)
        try:
            return function(items)
        except (TypeError, IndexError) as error:
            raise ArgumentTypeError(f"!{tag} cannot be made from {items!r}: {error}{node.start_mark}") from error

    return construct


def _cat(items: list[Any]) -> Any:
    if items and all(isinstance(item, list) for item in items):
        return [part for item in items for part in item]
    return "".join(map(str, items))


TAGS: dict[str, Callable[[list[Any]], Any]] = {
    "path": "/".join,
    "join": "/".join,
    "str": lambda items: "".join(map(str, items)),
    "cat": _cat,
    "echo": lambda items: items[0],
    "sum": sum,
    "mul": math.prod,
}
