"""The peers' environment: who is in it, and who is not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache

from .contender import Contender
from .fresh import answer
from .install_peers import FAILURES, FOLDER, PACKAGES
from .peers import MODULES, PEERS

PYTHON = FOLDER / "bin" / "python"

FINDS = "import importlib.util, json, sys; print(json.dumps([bool(importlib.util.find_spec(m)) for m in sys.argv[1:]]))"


@cache
def installed() -> tuple[str, ...]:
    """The libraries that can be imported in the peers' environment."""
    if not PYTHON.exists():
        return ()
    tops = [module.partition(".")[0] for module in MODULES.values()]
    found = answer(str(PYTHON), "-c", FINDS, *tops)
    return tuple(name for name, there in zip(MODULES, found, strict=True) if there)


def by_library(peers: Iterable[Contender] = PEERS) -> dict[str, list[Contender]]:
    """The peers that can run, by library."""
    groups: dict[str, list[Contender]] = {}
    for peer in peers:
        library = peer.name.partition(" ")[0]
        if library in installed():
            groups.setdefault(library, []).append(peer)
    return groups


def distribution(library: str) -> str:
    """What is installed to have a library."""
    return PACKAGES[library].partition(" ")[0]


def missing() -> list[str]:
    """A line for each library that is not there, with the reason where one is known."""
    if not PYTHON.exists():
        return ["The peers are not installed: `make bench-peers` does that."]
    failures = json.loads(FAILURES.read_text(encoding="utf-8")) if FAILURES.exists() else {}
    return [
        f"Not installed: {name} ({failures.get(name, 'not found')})." for name in MODULES if name not in installed()
    ]
