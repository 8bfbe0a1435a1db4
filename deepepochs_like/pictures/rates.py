"""Learning rates: those that a schedule is going to give, and how they are drawn."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ArgumentError, ArgumentTypeError
from ..utils.scales import as_lines
from ..utils.textchart import line_chart
from .curves import curve_svg, draw_curves
from .delivery import Chart, deliver, grid_svg


def learning_rates(optimizer: Any, count: int) -> dict[str, list[float]]:
    """The learning rates of the next `count` steps (or epochs) of an optimizer's schedule, which stays where it is.

    Args:
        optimizer: an `Optimizer`, or ``trainer.opt``.
        count: how many.

    Returns:
        One list per parameter group, the first being what is in use now. Without a scheduler they do not change.

    Raises:
        ArgumentTypeError: `optimizer` is none.
        ArgumentError: `count` is no int from 1 on; or the schedule goes by a figure, which nobody knows beforehand.

    Example:
        >>> from deepepochs_like import Optimizer
        >>> sgd = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> learning_rates(Optimizer(sgd, torch.optim.lr_scheduler.StepLR(sgd, 2, 0.5)), 4)
        {'lr': [1.0, 1.0, 0.5, 0.5]}
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"count={count!r}: an int from 1 on is needed")
    pairs: list[Any] = list(optimizer.items()) if hasattr(optimizer, "items") else [("", optimizer)]
    rates: dict[str, list[float]] = {}
    for name, one in pairs:
        if not hasattr(one, "scheduler") or not hasattr(one, "opt"):
            raise ArgumentTypeError(f"optimizer={one!r}: an Optimizer is needed, as trainer.opt or trainer.opt[0]")
        if one.scheduler is not None and (one.sched_with_loss or one.monitor):
            message = f"{type(one.scheduler).__name__} goes by a figure, which nobody knows beforehand"
            raise ArgumentError(f"{message}; Report() draws the learning rates that a run had")
        prefix = f"{name} " if len(pairs) > 1 else ""
        rates |= {f"{prefix}{group}": values for group, values in _foreseen(one, count).items()}
    return rates


def rate_names(groups: Sequence[Any]) -> list[str]:
    """What the learning rates of an optimizer's groups are called.

    Example:
        >>> rate_names([{}]), rate_names([{}, {"name": "head"}])
        (['lr'], ['lr 0', 'lr head'])
    """
    return ["lr"] if len(groups) == 1 else [f"lr {name}" for name in group_names(groups)]


def group_names(groups: Sequence[Any]) -> list[str]:
    """What an optimizer's groups are called: by name, or by index where a group has no name that is its own.

    Example:
        >>> group_names([{"name": "head"}, {"name": None}, {}])
        ['head', '1', '2']
        >>> group_names([{"name": "w"}, {"name": "head"}, {"name": "w"}])
        ['0', 'head', '2']
    """
    given = [None if group.get("name") is None else str(group["name"]) for group in groups]
    names = [str(index) if name is None or given.count(name) > 1 else name for index, name in enumerate(given)]
    return names if len(set(names)) == len(names) else [str(index) for index in range(len(names))]


def _foreseen(optimizer: Any, count: int) -> dict[str, list[float]]:
    """Step a copy of the scheduler, in which the parameters are the same and the optimizer's state is none."""
    original = getattr(optimizer.opt, "optimizer", optimizer.opt)
    shared = [p for group in original.param_groups for p in group["params"]]
    memo: dict[int, Any] = {id(p): p for p in shared}
    memo[id(original.state)] = {}
    scheduler = copy.deepcopy(optimizer.scheduler, memo)
    copied = original if scheduler is None else memo.get(id(original), getattr(scheduler, "optimizer", original))
    if scheduler is not None:
        copied._opt_called = True  # or torch warns that the optimizer was not stepped
    values: list[list[float]] = []
    for _ in range(count):
        values.append([float(group["lr"]) for group in copied.param_groups])
        if scheduler is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scheduler.step()
    return dict(zip(rate_names(copied.param_groups), map(list, zip(*values, strict=True)), strict=True))


def plot_learning_rates(rates: Any, count: int | None = None, path: Any = None, *, show: bool = False) -> Any:
    """Draw learning rates: those to come, of an optimizer's schedule, or those given.

    Args:
        rates: an `Optimizer` or ``trainer.opt``; or ``{name: values}``, as `learning_rates` returns them.
        count: of an optimizer, how many steps (or epochs, where its schedule goes by epochs).
        path: what to write it to; see `History.plot`.
        show: see `History.plot`.

    Returns:
        The figure; see `History.plot`.

    Example:
        >>> [line.get_ydata().tolist() for line in plot_learning_rates({"lr": [0.1, 0.01]}).axes[0].lines]
        [[0.1, 0.01]]
    """
    if not isinstance(rates, Mapping):
        if count is None:
            raise ArgumentError("count=None: how many steps (or epochs) of the schedule to draw is needed")
        rates = learning_rates(rates, count)
    curves = {"learning rate": as_lines(rates)}
    return deliver(
        "plot_learning_rates",
        lambda **how: draw_curves(curves, "", **how),
        lambda: _rates_chart(curves),
        lambda: grid_svg([curve_svg(name, lines, "") for name, lines in curves.items()]),
        path,
        show,
    )


def _rates_chart(curves: Mapping[str, Any]) -> Chart:
    chart = Chart(line_chart(curves["learning rate"], title="learning rate"))
    chart.svg = curve_svg("learning rate", curves["learning rate"], "")
    return chart
