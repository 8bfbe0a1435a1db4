"""Figures that are computed when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .errors import UnknownFigureError, did_you_mean
from .history import Result


class LazyFigures(Mapping[str, Any]):
    """A read-only mapping of figures that are computed when one of them is first read."""

    __slots__ = ("_compute", "_figures", "_given")

    def __init__(self, compute: Callable[..., dict[str, Any]], *given: Any) -> None:
        self._compute, self._given = compute, given
        self._figures: dict[str, Any] | None = None

    def _read(self) -> dict[str, Any]:
        if self._figures is None:
            self._figures = self._compute(*self._given)
        return self._figures

    def __getitem__(self, name: str) -> Any:
        figures = self._read()
        if name not in figures:
            there = (
                f"there are {', '.join(figures)}" if figures else "there are none: that stage did not run, or gave none"
            )
            raise UnknownFigureError(f"no figure {name!r}{did_you_mean(str(name), figures) or ';'} {there}")
        return figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> LazyFigures:
        """Figures that are known already, as a mapping that cannot be changed."""
        return cls(lambda: dict(figures))

    def copy(self) -> dict[str, Any]:
        """The figures as a dict of one's own."""
        return dict(self._read())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({Result(self._read())!r})"
