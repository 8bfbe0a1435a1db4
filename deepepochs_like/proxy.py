"""An object that stands for a module: attributes, assignments and copies go to the module."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import nn


class Proxy:
    """Pass everything on to ``self.model``."""

    model: nn.Module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "model" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("trainer", "model", "before", "after"):
            object.__setattr__(self, name, value)
        else:
            setattr(self.model, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """A copy of the module, which is what copies are made for."""
        return deepcopy(self.model, memo)

    def __repr__(self) -> str:
        return f"ModelHandle({self.model!r})"
