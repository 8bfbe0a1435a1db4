"""Schedules as values: factors that change with the epoch or the step, put one behind the other with ``>>``.

``warmup(5) >> cosine(95)`` says nothing of what it is applied to, nor of whether it counts epochs or steps: it maps a
position to a factor, for a learning rate (`Schedule.scheduler`) or for a weight in a loss (`callbacks.Scheduled`).
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import torch
from torch.optim.lr_scheduler import LambdaLR

from .errors import ArgumentError, ArgumentTypeError, StateError, a_kind
from .types import StateDict
from .utils.warn import warn

#: What torch's OneCycleLR begins and ends with, in parts of its peak.
_FIRST_OF_CYCLE, _LAST_OF_CYCLE = 1 / 25, 1 / 250_000


@dataclass(frozen=True)
class Piece:
    """One part of a schedule, as plain data.

    Args:
        kind: the name of the function that makes it.
        n: how long it is, in epochs or steps.
        start: its factor at the beginning; None takes up where what stands before it ended.
        end: its factor at the end; None is that of the beginning.
        shape: what else its curve needs: the power; or how much of it rises, and to which peak.
    """

    kind: str
    n: float
    start: float | None
    end: float | None
    shape: tuple[float, ...] = ()

    def first(self) -> float:
        """The factor it begins with where nothing stands before it."""
        if self.kind == "warmup" and self.end is not None:
            return self.end / (self.n + 1)
        return self.shape[1] * _FIRST_OF_CYCLE if self.kind == "one_cycle" else 1.0

    def __repr__(self) -> str:
        """The call that makes it, without what is as it is by default."""
        given = {"start": self.start, "end": self.end}
        if self.kind == "constant":
            given = {"value": self.start}
        elif self.kind == "polynomial":
            given = {"power": self.shape[0], **given}
        elif self.kind == "one_cycle":
            given = {"rise": self.shape[0], "peak": self.shape[1], **given}
        usual = {"end": 1.0 if self.kind == "warmup" else 0.0, "power": 2.0, "rise": 0.3, "peak": 1.0}
        if self.kind == "one_cycle":
            usual["end"] = self.shape[1] * _LAST_OF_CYCLE
        changed = (f"{name}={value!r}" for name, value in given.items() if value != usual.get(name))
        return f"{self.kind}({', '.join([repr(self.n), *changed])})"


@dataclass(frozen=True)
class _Span:
    """A piece in its place: from where to where, and with which factors it begins and ends."""

    begin: float
    stop: float
    first: float
    last: float
    curve: Callable[[float, float, float], float]

    def at(self, t: float) -> float:
        return self.curve((t - self.begin) / (self.stop - self.begin), self.first, self.last)


@dataclass(frozen=True, repr=False)
class Schedule:
    """A factor for every position, made by `warmup`, `cosine` and the others, and by ``>>`` of two schedules.

    It is a value: schedules of the same parts are equal, can be keys of a dict, and their `repr` makes them again. The
    end of one part is the beginning of the next, so that the curve has no jump unless a part is given a `start` of its
    own. Behind its end it stays what it was there.

    Args:
        pieces: the parts, in order.

    Example:
        >>> schedule = warmup(4) >> cosine(4)
        >>> [round(factor, 3) for factor in schedule.values()]
        [0.2, 0.4, 0.6, 0.8, 1.0, 0.854, 0.5, 0.146, 0.0]
        >>> schedule(100), schedule, schedule.length
        (0.0, warmup(4) >> cosine(4), 8)
    """

    pieces: tuple[Piece, ...]
    _spans: tuple[_Span, ...] = field(init=False, compare=False)
    #: The factor that it ends with, and keeps.
    end: float = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not self.pieces:
            raise ArgumentError("a schedule has at least one part: warmup(5), cosine(95), ...")
        spans, begin, before = [], 0.0, None
        for piece in self.pieces:
            earlier = piece.first() if before is None else before
            first = earlier if piece.start is None else piece.start
            last = first if piece.end is None else piece.end
            if piece.n:
                spans.append(_Span(begin, begin + piece.n, first, last, _curve(piece)))
            begin, before = begin + piece.n, last
        object.__setattr__(self, "_spans", tuple(spans))
        object.__setattr__(self, "end", before)

    @property
    def length(self) -> float:
        """How many epochs or steps it takes to its end."""
        return sum(piece.n for piece in self.pieces)

    def __call__(self, t: float) -> float:
        """Return the factor at a position, counted from 0.

        Raises:
            ArgumentError: `t` is negative or no number.
        """
        if not t >= 0:
            raise ArgumentError(f"t={t!r}: a position from 0 on is needed")
        for span in self._spans:
            if t < span.stop:
                return span.at(t)
        return self.end

    def __rshift__(self, later: Schedule) -> Schedule:
        if not isinstance(later, Schedule):
            return NotImplemented
        return Schedule((*self.pieces, *later.pieces))

    def values(self, steps: int | None = None) -> list[float]:
        """Return the factors at 0, 1, 2, ...: of so many positions, by default up to its end and with it."""
        return [self(t) for t in range(math.ceil(self.length) + 1 if steps is None else steps)]

    @overload
    def plot(self, path: None = None, *, width: int = 60, height: int = 8, ascii: bool | None = None) -> str: ...

    @overload
    def plot(
        self, path: str | os.PathLike[str], *, width: int = 60, height: int = 8, ascii: bool | None = None
    ) -> Path: ...

    def plot(self, path: Any = None, *, width: int = 60, height: int = 8, ascii: bool | None = None) -> str | Path:
        """Draw it: with characters, as a text to print; or into a file, with matplotlib (the extra ``plot``).

        Args:
            path: the picture's; its suffix says the format.
            width: columns of the text.
            height: lines of the text's picture.
            ascii: whether the text keeps to ASCII; by default where standard output takes nothing else.

        Returns:
            The text, or the path.

        Example:
            >>> print((warmup(4) >> cosine(4)).plot(width=40, height=5, ascii=True))
            warmup(4) >> cosine(4)
            1 +               *******
              |         ******      ****
              |    ******               ***
              |****                       ****
            0 +                              ***** 0
              ++--------------------+------------+
               0                    5            8
        """
        at = self._shown()
        factors = [self(t) for t in at]
        if path is None:
            from .utils.textchart import line_chart

            return line_chart({"": (at, factors)}, title=repr(self), width=width, height=height, ascii=ascii)
        from .utils.plots import new_figure

        figure = new_figure("Schedule.plot", figsize=(6, 3), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(at, factors)
        axes.set_title(textwrap.fill(repr(self), 72), fontsize="medium")
        axes.set(xlabel="position", ylabel="factor")
        figure.savefig(path)
        return Path(path)

    def _shown(self) -> list[float]:
        """Where to look at it for a picture: evenly, and on both sides of where parts meet."""
        length = self.length or 1.0
        points = {length * i / 240 for i in range(241)}
        for former, span in pairwise(self._spans):
            points |= {span.begin, math.nextafter(former.stop, 0)}
        return sorted(points)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> ScheduleLR:
        """Make the torch scheduler that multiplies every group's learning rate by this.

        Whether positions are epochs or steps is for its user to say: ``Optimizer(opt, schedule.scheduler(opt),
        sched_on='step')``.

        Args:
            optimizer: a torch optimizer, with the learning rates that a factor of 1 stands for.

        Raises:
            ArgumentTypeError: it is no torch optimizer.

        Example:
            >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
            >>> linear(4).scheduler(sgd).get_last_lr()
            [0.5]
        """
        given: Any = optimizer
        if not isinstance(given, torch.optim.Optimizer):
            raise ArgumentTypeError(
                f"optimizer is {a_kind(given)}: a torch.optim.Optimizer is needed, as in "
                "Optimizer(opt, schedule.scheduler(opt))"
            )
        return ScheduleLR(optimizer, self)

    def __reduce__(self) -> Any:
        return Schedule, (self.pieces,)

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.pieces))


class ScheduleLR(LambdaLR):
    """The torch scheduler of a `Schedule`; its state is numbers and strings, and has the schedule in it.

    Args:
        optimizer: a torch optimizer.
        schedule: what its learning rates are multiplied by.
        last_epoch: the position to go on from; -1 begins.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, last_epoch: int = -1) -> None:
        self.schedule = schedule
        super().__init__(optimizer, schedule, last_epoch)

    def state_dict(self) -> StateDict:
        """All but the optimizer; the schedule as lists."""
        left_out = ("optimizer", "lr_lambdas", "schedule")
        state = {key: value for key, value in vars(self).items() if key not in left_out}
        pieces = [[p.kind, p.n, p.start, p.end, list(p.shape)] for p in self.schedule.pieces]
        return {**state, "lr_lambdas": [None] * len(self.lr_lambdas), "schedule": pieces}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where the state was taken, with its schedule; if that is another one, a warning says so.

        Raises:
            StateError: it is the state of another kind of scheduler.
        """
        if "schedule" not in state_dict:
            raise StateError("this is the state of another kind of scheduler than that of a Schedule")
        state = dict(state_dict)
        saved = Schedule(
            tuple(Piece(kind, n, start, end, tuple(shape)) for kind, n, start, end, shape in state.pop("schedule"))
        )
        if saved != self.schedule:
            message = (
                f"the learning rate goes on with the schedule of its state, {saved!r}; this one was made with "
                f"{self.schedule!r}. To change it, give trainer.opt[...] a new scheduler once the state is loaded"
            )
            warn(message)
        super().load_state_dict(state)
        self.schedule, self.lr_lambdas = saved, [saved] * len(self.lr_lambdas)


def warmup(n: float, start: float | None = None, end: float = 1.0) -> Schedule:
    """Rise in a line.

    Args:
        n: how long.
        start: the first factor; by default where the part before it ended or, at the very beginning, one of n + 1 equal
            steps, so that nothing is lost on a factor of 0.
        end: the last factor.

    Raises:
        ArgumentError: a number is none, or `n` is negative.

    Example:
        >>> warmup(3).values()
        [0.25, 0.5, 0.75, 1.0]
    """
    return _one("warmup", n, start, end)


def linear(n: float, start: float | None = None, end: float = 0.0) -> Schedule:
    """Go in a line: ``first + (last - first) * t / n``, as torch's LinearLR.

    Args:
        n: how long.
        start: the first factor; by default where the part before it ended, or 1.
        end: the last factor.

    Raises:
        ArgumentError: a number is none, or `n` is negative.

    Example:
        >>> linear(4, 0, 2).values()
        [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    return _one("linear", n, start, end)


def cosine(n: float, start: float | None = None, end: float = 0.0) -> Schedule:
    """Go along half a cosine: ``last + (first - last) * (1 + cos(pi t / n)) / 2``, as torch's CosineAnnealingLR.

    Args:
        n: how long; it is half of a wave.
        start: the first factor; by default where the part before it ended, or 1.
        end: the last factor.

    Raises:
        ArgumentError: a number is none, or `n` is negative.

    Example:
        >>> [round(factor, 3) for factor in cosine(4).values()]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return _one("cosine", n, start, end)


def polynomial(n: float, power: float = 2.0, start: float | None = None, end: float = 0.0) -> Schedule:
    """Go along a power: ``last + (first - last) * (1 - t / n) ** power``, as torch's PolynomialLR.

    Args:
        n: how long.
        power: above 0; 1 is a line.
        start: the first factor; by default where the part before it ended, or 1.
        end: the last factor.

    Raises:
        ArgumentError: a number is none, `n` is negative, or `power` is not above 0.

    Example:
        >>> polynomial(4, power=2).values()
        [1.0, 0.5625, 0.25, 0.0625, 0.0]
    """
    if not _finite("power", power) > 0:
        raise ArgumentError(f"power={power!r}: a number above 0 is needed")
    return _one("polynomial", n, start, end, float(power))


def one_cycle(
    n: float, rise: float = 0.3, peak: float = 1.0, start: float | None = None, end: float | None = None
) -> Schedule:
    """Rise and fall along two half cosines, as torch's OneCycleLR (whose momentum stays as it is, here).

    Torch counts the positions, ours is the distance: ``OneCycleLR(total_steps=n + 1)`` is at its end at `n`.

    Args:
        n: how long, both together.
        rise: the part of it that rises, from 0 to 1.
        peak: the highest factor.
        start: the first factor; by default where the part before it ended, or a 25th of the peak.
        end: the last factor; by default a 250,000th of the peak.

    Raises:
        ArgumentError: a number is none, `n` is negative, or `rise` is not within 0 and 1.

    Example:
        >>> [round(factor, 3) for factor in one_cycle(5, rise=0.4).values()]
        [0.04, 0.52, 1.0, 0.75, 0.25, 0.0]
    """
    if not 0 <= _finite("rise", rise) <= 1:
        raise ArgumentError(f"rise={rise!r}: a number from 0 to 1 is needed")
    end = _finite("peak", peak) * _LAST_OF_CYCLE if end is None else end
    return _one("one_cycle", n, start, end, float(rise), float(peak))


def constant(n: float, value: float | None = None) -> Schedule:
    """Stay.

    Args:
        n: how long.
        value: the factor; by default that with which the part before it ended, or 1.

    Raises:
        ArgumentError: a number is none, or `n` is negative.

    Example:
        >>> (constant(2) >> constant(2, 0.1)).values()
        [1.0, 1.0, 0.1, 0.1, 0.1]
    """
    return _one("constant", n, value, None)


def _one(kind: str, n: Any, start: Any, end: Any, *shape: float) -> Schedule:
    """A schedule of one part, of numbers that have been looked at."""
    if not _finite("n", n) >= 0:
        raise ArgumentError(f"{kind}(n={n!r}): a length from 0 on is needed")
    whole = int(n) if float(n).is_integer() else float(n)
    first, last = (None if x is None else _finite(name, x) for name, x in (("start", start), ("end", end)))
    return Schedule((Piece(kind, whole, first, last, shape),))


def _finite(name: str, value: Any) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or not math.isfinite(value):
        raise ArgumentError(f"{name}={value!r}: a finite number is needed")
    return float(value)


def _line(share: float, first: float, last: float) -> float:
    return first + (last - first) * share


def _cosine(share: float, first: float, last: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _curve(piece: Piece) -> Callable[[float, float, float], float]:
    """The function (share of the way, first factor, last factor) of a piece.

    Raises:
        ArgumentError: there is no such kind.
    """
    curves: dict[str, Callable[[Sequence[float]], Callable[[float, float, float], float]]] = {
        "warmup": lambda shape: _line,
        "linear": lambda shape: _line,
        "constant": lambda shape: _line,
        "cosine": lambda shape: _cosine,
        "polynomial": lambda shape: lambda share, first, last: last + (first - last) * (1 - share) ** shape[0],
        "one_cycle": _cycle,
    }
    if piece.kind not in curves:
        raise ArgumentError(f"a schedule has no part {piece.kind!r}; there are {', '.join(curves)}")
    return curves[piece.kind](piece.shape)


def _cycle(shape: Sequence[float]) -> Callable[[float, float, float], float]:
    rise, peak = shape

    def cycle(share: float, first: float, last: float) -> float:
        if share < rise:
            return _cosine(share / rise, first, peak)
        return _cosine((share - rise) / (1 - rise), peak, last) if rise < 1 else last

    return cycle
