"""What installing and importing a library takes, each in the environment that it lives in."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from .fresh import answer, import_seconds

#: Counts the distributions that a name brings along beyond torch and NumPy, and their bytes. It runs in the library's
#: own environment; pip, which is in each, knows how to read requirements.
CLOSURE = """
import importlib.metadata as metadata, importlib.util, json, sys
from pathlib import Path
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

def closure(*names):
    found, left = set(), [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name in found:
            continue
        found.add(name)
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left.append(canonicalize_name(requirement.name))
    return found

def size(name):
    files = metadata.distribution(name).files or []
    return sum(path.stat().st_size for file in files if (path := Path(file.locate())).is_file())

added = closure(sys.argv[1]) - closure("torch", "numpy")
total = sum(map(size, added))
direct = metadata.distribution(sys.argv[1]).read_text("direct_url.json") or "{}"
if json.loads(direct).get("dir_info", {}).get("editable"):  # it lies elsewhere than where it is installed
    folder = Path(importlib.util.find_spec(sys.argv[1]).origin).parent
    total += sum(path.stat().st_size for path in folder.rglob("*.py"))
print(json.dumps([metadata.version(sys.argv[1]), len(added), total / 1e6]))
"""


@dataclass(frozen=True)
class Footprint:
    """What a library takes.

    Args:
        name: the library's.
        version: of what is installed.
        seconds: to import it and torch.
        torch: to import torch alone, in the same process.
        packages: that installing it adds to torch and NumPy, itself included.
        megabytes: that they take.
    """

    name: str
    version: str
    seconds: float
    torch: float
    packages: int
    megabytes: float


def footprint(name: str, distribution: str, module: str, python: str = sys.executable) -> Footprint:
    """Measure a library.

    Args:
        name: how it is listed.
        distribution: what is installed.
        module: what is imported.
        python: the interpreter of its environment.

    Raises:
        RuntimeError: it cannot be imported; the message is its own.
    """
    torch, both = import_seconds(module, python)
    version, packages, megabytes = answer(python, "-c", CLOSURE, distribution)
    return Footprint(name, version, both, torch, packages, megabytes)
