"""How the shapes of predictions and targets go together, and where they do not although nothing fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .rng import rng_state, set_rng_state
from .utils.replay import can_replay
from .utils.warn import warn

#: Losses that only subtract or compare, number by number: shapes that differ are never meant.
_BY_NUMBER = (
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.poisson_nll_loss, F.soft_margin_loss),
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss),
)


#: How the names of operations begin, in the graph of a loss, that make of (N, 1) and (1, N) what is meant to be (N, N).
_PRODUCTS = ("Mm", "Bmm", "Addmm", "Baddbmm", "Cdist", "Linear")


def warn_broadcast(
    model_out: Any, batch_y: Any, said: set[str], function: Any, loss: torch.Tensor | None = None
) -> None:
    """Warn once of predictions and targets that a loss broadcasts against each other by mistake.

    It is one where a sample's prediction meets other samples' targets, as (N, 1) meets (N,); of torch's losses that go
    number by number also any other, such as (N, 1) with (N, 3). A function of somebody's own may well know what to do
    with its shapes. One that leaves nothing behind is called once more, and watched, to see whether the two really meet
    as they are; of any other the loss's graph tells it, where there is one.

    Args:
        model_out: the predictions; of anything but a tensor nothing is known.
        batch_y: the targets, likewise.
        said: warnings given already; this one's is added to them, or that this function's shapes are as they are meant.
        function: what takes both; None for nothing.
        loss: what it has made of them.
    """
    together = broadcast(model_out, batch_y, said, function)
    if together is None:
        return
    if _goes_by_number(function) or _meet(function, model_out, batch_y, loss, together):
        _warn(model_out.shape, batch_y.shape, together, said)
    else:
        said.add(_meant(function))


@contextmanager
def watched(model_out: Any, batch_y: Any, said: set[str], function: Any) -> Iterator[None]:
    """Warn once of predictions and targets that a metric, called within, broadcasts against each other by mistake.

    See `warn_broadcast`. A metric has no graph: its operations are looked at while it runs. Of one that does none in
    torch, as when it goes on with NumPy, nothing is known, and it is warned of.
    """
    together = broadcast(model_out, batch_y, said, function)
    if together is None:
        yield
        return
    watch = _Watch(model_out, batch_y, together)
    # A compiled function does not run as such under a watch; what compiled it is asked for by name.
    with nullcontext() if hasattr(function, "_torchdynamo_orig_callable") else watch:
        yield
    if watch.met or not watch.saw or _goes_by_number(function):
        _warn(model_out.shape, batch_y.shape, together, said)
    else:
        said.add(_meant(function))


def broadcast(model_out: Any, batch_y: Any, said: set[str], function: Any) -> torch.Size | None:
    """The shape that predictions and targets take together, where a function could mix up samples by that.

    Returns:
        None where it could not, or where that is known by now.
    """
    if not isinstance(model_out, torch.Tensor) or not isinstance(batch_y, torch.Tensor):
        return None
    preds, targets = model_out.shape, batch_y.shape
    if preds == targets or not targets or "broadcast" in said or _meant(function) in said:
        return None
    if not batch_y.is_floating_point() and _are_scores(preds, targets):
        return None
    try:
        together: torch.Size = torch.broadcast_shapes(preds, targets)
    except RuntimeError:  # the shapes have nothing to do with each other: the function knows what to do with them
        return None
    if together.numel() == preds.numel() == targets.numel():  # there is nothing that could be mixed up
        return None
    if len(preds) == len(targets) and not _goes_by_number(function):  # sample by sample, whatever there is of each
        return None
    return together


def _meant(function: Any) -> str:
    return f"the shapes of {id(function)}"


def _warn(preds: torch.Size, targets: torch.Size, together: torch.Size, said: set[str]) -> None:
    said.add("broadcast")
    warn(
        f"predictions {tuple(preds)} and targets {tuple(targets)} differ in shape and broadcast to "
        f"{tuple(together)}: a loss or metric that subtracts or compares them mixes up samples. Give both one "
        "shape" + (", e.g. preds.squeeze(-1)" if preds[:-1] == targets and preds[-1] == 1 else "")
    )


def _goes_by_number(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return any(function is one or type(function) is one for one in _BY_NUMBER)


def _meet(
    function: Any, model_out: torch.Tensor, batch_y: torch.Tensor, loss: torch.Tensor | None, together: torch.Size
) -> bool:
    """Whether a function broadcasts predictions and targets as they are; where nothing tells it, it does not."""
    if can_replay(function):
        return _seen_to_meet(function, model_out, batch_y, together)
    return loss is not None and loss.grad_fn is not None and _meet_in_graph(model_out, batch_y, loss, together)


def _seen_to_meet(function: Any, model_out: torch.Tensor, batch_y: torch.Tensor, together: torch.Size) -> bool:
    """Call a function once more, on copies, and look at what it does with them."""
    preds, targets = model_out.detach().clone(), batch_y.detach().clone()
    watch, generators = _Watch(preds, targets, together), rng_state()
    try:
        with torch.no_grad(), watch:
            function(preds, targets)
    except Exception:  # its error comes up where it is really called; what was seen before it was seen
        pass
    finally:
        set_rng_state(generators)
    return watch.met


#: Operations by which a function does nothing yet with what it got.
_COPIES = {
    *(torch.ops.aten.clone.default, torch.ops.aten.detach.default, torch.ops.aten.alias.default),
    torch.ops.aten._to_copy.default,
}


class _Watch(TorchDispatchMode):
    """Look at every operation, for one that broadcasts predictions and targets against each other.

    Attributes:
        saw: whether there was any that did more than copy one of the two.
        met: whether there was one that took both, or what was made of them, in the shapes that they came in; or, as
            torch's own losses do, both made as large as the other. What only one of them was made as large for, such as
            all pairs of samples, was on purpose.
    """

    def __init__(self, preds: torch.Tensor, targets: torch.Tensor, together: torch.Size) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes, self.together = (preds.shape, targets.shape), together
        self.met = self.saw = False
        self.strides = preds.expand(together).stride(), targets.expand(together).stride()
        #: Where what is made of predictions, and of targets, lies in memory.
        self.places = {_place(preds)}, {_place(targets)}
        self._kept: list[Any] = []  # or others would come to lie there

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is to be done, and look at what went in and came out."""
        result = func(*args, **(kwargs or {}))
        if self.met:
            return result
        given, made = list(_tensors((*args, *(kwargs or {}).values()))), list(_tensors([result]))
        of_preds = [one for one in given if _place(one) in self.places[0]]
        of_targets = [one for one in given if _place(one) in self.places[1]]
        apart = [one for one in of_targets if _place(one) not in self.places[0]]
        self.saw = self.saw or (func not in _COPIES and bool(of_preds or of_targets))
        if func is torch.ops.aten.dist.default or any(one.shape == self.together for one in made):
            self.met = any(p.shape == self.shapes[0] for p in of_preds) and any(
                y.shape == self.shapes[1] for y in apart
            )
        self.met = self.met or (self._widened(of_preds, 0) and self._widened(apart, 1))
        for places, origins in zip(self.places, (of_preds, of_targets), strict=True):
            places.update(map(_place, made if origins else ()))
        self._kept += made
        return result

    def _widened(self, given: Sequence[torch.Tensor], which: int) -> bool:
        """Whether one of the tensors is as large as both are together, and was made so without anything's copying."""
        as_it_is = self.together == self.shapes[which]
        return any(one.shape == self.together and (as_it_is or one.stride() == self.strides[which]) for one in given)


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _meet_in_graph(model_out: torch.Tensor, batch_y: torch.Tensor, loss: torch.Tensor, together: torch.Size) -> bool:
    """Whether predictions were made as large as `together` on the way to a loss, beside what has no gradient."""
    if together == model_out.shape:  # that tells nothing: it is how large they are
        return False
    end, seen = model_out.grad_fn, set[Any]()
    nodes: list[Any] = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node is end or node in seen:
            continue
        seen.add(node)
        before = [one for one, _ in node.next_functions]
        if _makes(node, together) and any(one is not None and _makes(one, model_out.shape) for one in before):
            name = node.name()
            alone = None in before and not name.startswith((*_PRODUCTS, "Expand"))
            if _masks(node, batch_y.shape) or (alone and not _takes(node, together)):
                return True
        nodes += before
    return False


def _masks(node: Any, shape: torch.Size) -> bool:
    """Whether an operation chooses by a condition of a shape, which is none of those that the graph leads to."""
    try:
        chosen_by = getattr(node, "_saved_condition", None), getattr(node, "_saved_mask", None)
    except RuntimeError:  # it was changed in between
        return False
    return any(isinstance(one, torch.Tensor) and one.shape == shape for one in chosen_by)


def _takes(node: Any, shape: torch.Size) -> bool:
    """Whether an operation's other operand is known to have a shape, as a mask of all pairs has on purpose."""
    try:
        return bool(getattr(getattr(node, "_saved_other", None), "shape", None) == shape)
    except RuntimeError:  # it was changed in between
        return False


def _makes(node: Any, shape: torch.Size) -> bool:
    """Whether an operation's result has a shape."""
    return any(tuple(one.shape) == tuple(shape) for one in node._input_metadata)


def _are_scores(preds: torch.Size, targets: torch.Size) -> bool:
    """Tell scores of several classes by class indices: (N, C, ...) as torch has them, or (N, ..., C), by (N, ...)."""
    if len(preds) != len(targets) + 1:
        return False
    return (preds[:1] + preds[2:] == targets and preds[1] > 1) or (preds[:-1] == targets and preds[-1] > 1)


def class_dim(preds: torch.Tensor, targets: torch.Tensor) -> int | None:
    """The dimension of predictions that has a score for each class, beside targets that are class indices.

    Args:
        preds: (N, C, ...) as torch has them, or (N, ..., C) as models of sequences do.
        targets: (N, ...); of floating numbers they are no indices.

    Returns:
        1 or -1; None where there is none.

    Example:
        >>> class_dim(torch.zeros(4, 7, 10), torch.zeros(4, 7, dtype=torch.long))
        -1
    """
    if targets.is_floating_point() or targets.is_complex() or preds.ndim != targets.ndim + 1:
        return None
    if preds.shape[:1] + preds.shape[2:] == targets.shape:
        return 1
    return -1 if preds.shape[:-1] == targets.shape else None
