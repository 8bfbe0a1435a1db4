"""Everybody, by name. Libraries are imported only when somebody who needs them is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from .by_hand import BEST, BY_HAND
from .contender import Contender

#: The best loop a second time, which is always there.
CONTROL = "best again"


def local() -> list[Contender]:
    """The contenders that run in this process: the loops by hand, and this library."""
    from .ours import OURS

    return [*BY_HAND, *OURS]


def chosen(contenders: Iterable[Contender], names: Iterable[str]) -> list[Contender]:
    """Those whose name begins with one of `names`, and those whom they are compared with."""
    everybody = {c.name: c for c in contenders}
    wanted = [name for name in everybody if any(name.startswith(start) for start in names)]
    for name in wanted:  # grows while it is walked
        wanted.extend(other for other in (everybody[name].base, everybody[name].model) if other not in wanted)
    wanted = [*wanted, BEST.name, CONTROL]
    return [contender for name, contender in everybody.items() if name in wanted]


def find(name: str) -> Contender:
    """One contender, importing no more than it needs.

    Raises:
        KeyError: there is none of that name.
    """
    for contender in BY_HAND:
        if contender.name == name:
            return contender
    from .peers import PEERS  # imports no peer

    for contender in PEERS:
        if contender.name == name:
            return contender
    return {c.name: c for c in local()}[name]
