"""An object that stands for a module: attributes, assignments and copies go to the module."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import nn

#: What is the proxy's own, and not the module's.
OWN = frozenset({"trainer", "model", "before", "after", "own_module", "averaged_module"})


class Proxy:
    """Pass everything on to ``self.model``."""

    model: nn.Module
    own_module: nn.Module | None = None
    averaged_module: nn.Module | None = None

    @property
    def trained_module(self) -> nn.Module:
        """The module that is trained, and whose state is the run's."""
        return self.model if self.own_module is None else self.own_module

    def average_by(self, module: nn.Module | None) -> None:
        """Have evaluation call `module` from here on; None has it call what is trained again."""
        self.model = self.trained_module
        self.own_module, self.averaged_module = (None, None) if module is None else (self.model, module)

    def enter(self, training: bool) -> None:
        """Take the module that is to be called, and put it into training or evaluation mode."""
        if self.own_module is not None and self.averaged_module is not None:
            self.model = self.own_module if training else self.averaged_module
        self.model.train(training)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "model" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.model, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """A copy of the module, which is what copies are made for."""
        return deepcopy(self.model, memo)

    def __repr__(self) -> str:
        return f"ModelHandle({self.model!r})"
