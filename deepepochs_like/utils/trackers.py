"""What is kept of a stream: its highest items, its latest mean."""

from __future__ import annotations

import heapq
import math
from collections import deque
from itertools import count
from typing import Any

from ..errors import ArgumentError, ArgumentTypeError


def _check_count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name}={value!r}: an int of at least 1 is needed")
    return value


class TopKQueue:
    """Keep the k items whose first element is the highest; of equal ones those that came first.

    Args:
        k: how many to keep.

    Example:
        >>> queue = TopKQueue(2)
        >>> for item in [(5, "a"), (1, "b"), (9, "c")]:
        ...     queue.put(item)
        >>> queue.items()
        [(9, 'c'), (5, 'a')]
    """

    def __init__(self, k: int) -> None:
        self.k = _check_count("k", k)
        # (value, -number, item): of equal values the latest is the lowest, and items are never compared.
        self._heap: list[tuple[float, int, Any]] = []
        self._counter = count()

    def put(self, item: Any) -> None:
        """Take in an item, in O(log k); NaN ranks below every number.

        Raises:
            ArgumentTypeError: the item has no first element that is a number.
        """
        try:
            value = float(item[0])
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise ArgumentTypeError(f"TopKQueue: {item!r} does not begin with the number it is ranked by") from error
        entry = (-math.inf if math.isnan(value) else value, -next(self._counter), item)
        if len(self._heap) < self.k:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def items(self) -> list[Any]:
        """The items kept, the highest first."""
        return [item for *_, item in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]

    def __len__(self) -> int:
        return len(self._heap)


class MovingMean:
    """The mean of the latest values; called with each new one.

    Args:
        length: how many values count.

    Example:
        >>> mean = MovingMean(2); [mean(value) for value in (1, 2, 6)]
        [1.0, 1.5, 4.0]
    """

    def __init__(self, length: int = 10) -> None:
        self._values: deque[Any] = deque(maxlen=_check_count("length", length))

    def __call__(self, value: Any) -> Any:
        self._values.append(value)
        return sum(self._values) / len(self._values)
