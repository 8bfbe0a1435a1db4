"""The smallest runs there are, and callbacks that hear everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deepepochs_like import Callback, Trainer
from deepepochs_like.events import EVENTS, method_of

Batch = tuple[Tensor, Tensor]


def batches(count: int = 2, size: int = 2, seed: int = 0) -> list[Batch]:
    """A loader: `count` batches of `size` samples with two features and one target."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 2, generator=generator), torch.randn(size, 1, generator=generator)) for _ in range(count)
    ]


class CountedLoader:
    """A loader that counts the batches it has given."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items, self.given = list(items), 0

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.given += 1
            yield item


def net(outputs: int = 1) -> nn.Linear:
    """A linear model from two features, always the same."""
    model = nn.Linear(2, outputs)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-0.5, 0.5, 2 * outputs).view(outputs, 2))
        model.bias.zero_()
    return model


def trainer(model: nn.Module | None = None, callbacks: Any = None, **options: Any) -> Trainer:
    """A silent trainer of two epochs with plain gradient descent."""
    model = net() if model is None else model
    options = {"loss": nn.functional.mse_loss, "opt": torch.optim.SGD(model.parameters(), lr=0.01), **options}
    return Trainer(model, epochs=options.pop("epochs", 2), device="cpu", callbacks=callbacks, verbose=0, **options)


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of a model's parameters."""
    return [parameter.detach().clone() for parameter in model.parameters()]


def unchanged(model: nn.Module, before: list[Tensor]) -> bool:
    """Whether the parameters are bitwise what they were."""
    return all(torch.equal(now, then) for now, then in zip(weights(model), before, strict=True))


def _method(event: str) -> Callable[..., Any]:
    def hook(self: Any, **arguments: Any) -> Any:
        return self.hear(event, arguments)

    return hook


class HearAll(Callback):
    """Listen to every event: each is handed to `hear` with its arguments, whose result is the hook's."""

    def hear(self, event: str, arguments: dict[str, Any]) -> Any:
        raise NotImplementedError


for _event in EVENTS:
    setattr(HearAll, method_of(_event), _method(_event))


class Recorder(HearAll):
    """Write down every event, behind a label, with what tells one call from the next.

    Args:
        log: where it is written; several recorders may share one list.
        label: put before each line.
        actions: what else is done at an event: called with the event's arguments, its result is the hook's.
        priority: as of any callback.
    """

    def __init__(
        self,
        log: list[str] | None = None,
        label: str = "",
        actions: dict[str, Callable[..., Any]] | None = None,
        priority: float = 1,
    ) -> None:
        super().__init__(priority)
        self.log: list[str] = [] if log is None else log
        self.label, self.actions = label, actions or {}
        self.counts: dict[str, int] = dict.fromkeys(EVENTS, 0)
        self.arguments: dict[str, tuple[str, ...]] = {}

    def hear(self, event: str, arguments: dict[str, Any]) -> Any:
        told = [
            f"{name}={value}" for name, value in arguments.items() if value is None or isinstance(value, (int, str))
        ]
        self.log.append(" ".join([*([self.label] if self.label else []), event, *told]))
        self.counts[event] += 1
        self.arguments[event] = tuple(arguments)
        action = self.actions.get(event)
        return None if action is None else action(**arguments)

    @property
    def heard(self) -> list[str]:
        """The events in order, without what was told of them."""
        start = 1 if self.label else 0
        return [line.split()[start] for line in self.log]
