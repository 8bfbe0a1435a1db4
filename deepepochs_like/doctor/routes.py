"""Parts of a model that are used now and then, such as experts: parameters that the first batches do not reach."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from ..batch import split_batch
from .case import Case
from .trial import Pass, Trial

#: How many more batches are put through, how often the model is given other weights, and for how many seconds.
_MORE, _OTHERS, _LONGEST = 8, 10, 0.4


def chosen_seldom(case: Case, unused: Sequence[str], zero: Sequence[str]) -> set[str]:
    """Which of these parameters get a gradient from other batches, or where the model chooses otherwise.

    Args:
        case: what is looked at, with its trial.
        unused: parameters without a gradient in the first batches.
        zero: those whose gradient is zero in them.
    """
    left, reached = {*unused, *zero}, set[str]()
    if not left:
        return reached
    patterns, until = list[frozenset[str]](), time.perf_counter() + _LONGEST
    for one in _passes(case, set(unused), set(zero)):
        alive = _alive(one)
        patterns.append(frozenset(alive))
        reached |= {n for n in left if n in alive or (n in zero and _module(n) in set(map(_module, alive)))}
        if left <= reached or time.perf_counter() > until:
            break
    return reached | _siblings(case.backward(), left - reached, patterns)


def _alive(one: Pass) -> set[str]:
    grads = {name: grad for name, grad in one.grads.items() if grad is not None}
    return {name for name, grad in grads.items() if bool(grad.any()) and bool(torch.isfinite(grad).all())}


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _passes(case: Case, unused: set[str], zero: set[str]) -> Iterator[Pass]:
    """The first batches as they were; further ones; and the first again, for models with other weights."""
    trial = case.backward()
    passes = [one for one in trial.passes if one.loss is not None]
    yield from passes
    seen = case.tried_on
    size = seen.task.batch_size if seen is not None else None
    for batch in seen.more(_MORE) if seen is not None else []:
        try:
            x, y, _ = split_batch(batch, trial.loss is None, case.trainer.batch_device("train"), size)
            one = Pass(x, y, trial.call(x))
        except Exception:  # what a batch fails at is not what is asked here
            return
        trial.differentiate(one)
        yield one
    for number in range(_OTHERS):
        # What is dead stays so where only the rest is changed; what is not called at all may depend on all of it.
        keep = zero if zero or number % 2 else set[str]()
        other = _with_other_weights(trial, number, keep)
        of = passes[number % len(passes)]
        try:
            one = Pass(of.x, of.y, other.call(of.x))
        except Exception:
            return
        other.differentiate(one)
        yield one


def _with_other_weights(trial: Trial, seed: int, keep: set[str]) -> Trial:
    other, generator = Trial(trial.modules, trial.loss), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name not in keep and parameter.is_floating_point():
                parameter.add_((1 + seed / 2) * _noise(parameter, generator))
    return other


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    spread = float(like.detach().std()) if like.numel() > 1 else 0.0
    return torch.randn(like.shape, generator=generator).to(like) * 2 * (spread or 0.1)


def _siblings(trial: Trial, left: set[str], patterns: list[frozenset[str]]) -> set[str]:
    """Those beside others of a list that are reached now and then: whoever chooses among them will come to these."""
    if not left or not patterns:
        return set()
    shapes = {name: tuple(p.shape) for name, p in trial.named_parameters()}
    chains = {name for name, part in trial.named_modules() if isinstance(part, nn.Sequential)}
    # Which of a list were reached, pass by pass: where it is now these and now those, somebody chooses.
    chosen: dict[tuple[str, tuple[int, ...]], set[frozenset[str]]] = {}
    for alive in patterns:
        together: dict[tuple[str, tuple[int, ...]], set[str]] = {}
        for name in alive:
            for key in _keys(name, chains):
                together.setdefault((key, shapes[name]), set()).add(name)
        for which, names in together.items():
            chosen.setdefault(which, set()).add(frozenset(names))
    return {n for n in left if any(_taking_turns(chosen.get((key, shapes[n]), set())) for key in _keys(n, chains))}


def _taking_turns(reached: set[frozenset[str]]) -> bool:
    """Whether one was reached without the other and the other without the one; what saturates only falls away."""
    return any(not a <= b and not b <= a for a, b in combinations(reached, 2))


def _keys(name: str, chains: set[str]) -> list[str]:
    """A parameter's name with the number of one part left open; layers of a chain all take part in any case."""
    parts = name.split(".")
    places = [i for i, part in enumerate(parts) if part[-1:].isdigit() and ".".join(parts[:i]) not in chains]
    return [".".join((*parts[:i], parts[i].rstrip("0123456789") + "*", *parts[i + 1 :])) for i in places]
