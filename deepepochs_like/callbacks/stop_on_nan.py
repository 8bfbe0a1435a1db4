"""`StopOnNaN`: say where the first number that is none comes from, before it is in the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from ..errors import ArgumentError, NonFiniteLossError, StopLoopException, add_note, did_you_mean
from ..rng import rng_state, set_rng_state
from .base import Callback
from .in_flight import InFlight, batch_in_flight

#: How often a batch is run again, where chance (dropout) may have had a part in it.
TRIES = 3


class StopOnNaN(Callback):
    """End the run when the loss or a gradient is NaN or infinite, and name the layer and the parameter it begins with.

    It looks behind back-propagation, before the update: the weights are still those with which it happened. Then the
    batch is run again with hooks on every layer, which tells the first whose output is bad, in the order of execution;
    of the gradients, the first in the order of back-propagation. Of several losses in a batch it is the bad one that
    this comes to. The second run leaves no trace: weights, buffers, gradients, optimizers, figures and generators are
    afterwards what they were before.

    A look is one number read from the device. With ``every=n`` there is one in n batches, which costs a GPU less
    waiting; what has gone bad in between is then already in the weights, and the message says which these are.

    With float16 gradients that are scaled (`AMP`), only the loss is looked at: overflow is the scaler's business.

    Args:
        every: look at every so many batches, counted in each epoch from its first.
        answer: ``'raise'`` a `NonFiniteLossError`, or ``'stop'`` the run, which `fit` returns from.
        gradients: whether gradients are looked at, beside the loss.
        priority: its place among the callbacks.

    Attributes:
        found: what was said; empty as long as all is well.

    Raises:
        ArgumentError: an argument is not what is needed.
        NonFiniteLossError: in a run, with all that was found out.

    Example:
        >>> from deepepochs_like import StopOnNaN, Trainer
        >>> class Root(torch.nn.Module):
        ...     def forward(self, x):
        ...         return (x - 1).sqrt()
        >>> net = torch.nn.Sequential(Root(), torch.nn.Linear(2, 1))
        >>> guard, data = StopOnNaN(answer='stop'), [(torch.zeros(4, 2), torch.ones(4, 1))]
        >>> fit = Trainer(net, torch.nn.functional.mse_loss, callbacks=[guard], verbose=0).fit(data)
        >>> print(guard.found)
        the training loss became nan at batch 0 of epoch 1 (counted from 0), update 0; the first bad output, in the
        order of execution, is that of '0' (Root): 8 of 8 numbers NaN, given finite inputs; the first bad gradient, in
        the order of back-propagation, is that of '1.weight' (2 of 2 are bad)
    """

    def __init__(
        self,
        every: int = 1,
        answer: Literal["raise", "stop"] = "raise",
        *,
        gradients: bool = True,
        priority: float = 1,
    ) -> None:
        super().__init__(priority)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ArgumentError(f"every={every!r}: an int from 1 on is needed")
        if answer not in ("raise", "stop"):
            raise ArgumentError(
                f"answer={answer!r}: 'raise' or 'stop' is needed{did_you_mean(str(answer), ['raise', 'stop'])}"
            )
        self.every, self.answer, self.gradients = every, answer, gradients
        self.found = ""
        self._raised: BaseException | None = None
        #: How many losses the batch in progress has back-propagated, and which batch of which epoch and task that is.
        self._passes, self._batch = 0, (-1, -1, -1)

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        self.found, self._raised = "", None
        self._passes, self._batch = 0, (-1, -1, -1)

    def on_after_backward(self, trainer: Any, loss: Any) -> None:
        """Look here, behind all gradients and before the update, where the weights are still good."""
        progress = trainer.progress
        if progress.batch % self.every:
            return
        batch = progress.epoch, progress.task, progress.batch
        if self._batch != batch:
            self._batch, self._passes = batch, 0
        self._passes += 1
        if self._is_fine(trainer, loss):
            return
        value, bad = float(loss), self._bad_gradients(trainer)
        if math.isfinite(value) and not bad:  # the sum over all gradients was too large, and none of them was
            return
        self.found = account(trainer, value, bad, self._passes)
        if self.answer == "stop":
            raise StopLoopException(self.found)
        self._raised = NonFiniteLossError(self.found, trainer.progress.batch, value)
        raise self._raised

    def on_exception(self, trainer: Any, exception: BaseException) -> str | None:
        """Say of an error that was found too late, in the figures, which weights are bad by now."""
        if not isinstance(exception, NonFiniteLossError):
            return None
        if exception is not self._raised:
            self.found = f"StopOnNaN: {said_of_weights(trainer)}"
            if self.every > 1:
                self.found += "; StopOnNaN(every=1) sees it before it is in the weights, and names where it begins"
            add_note(exception, self.found)
        return "stop" if self.answer == "stop" else None

    def _is_fine(self, trainer: Any, loss: torch.Tensor) -> bool:
        """One look: a number that is finite while the loss and all gradients are."""
        gradients = self._looked_at(trainer)
        if not gradients:
            return math.isfinite(loss)
        try:
            parts = [loss, *torch._foreach_norm([p.grad for p in gradients if p.grad is not None])]
            if len({(part.dtype, part.device) for part in parts}) > 1:
                parts = [part.to(loss.device, torch.float32) for part in parts]
            return math.isfinite(torch.stack(parts).sum())
        except (RuntimeError, NotImplementedError):  # sparse ones, say
            return math.isfinite(loss) and not self._bad_gradients(trainer)

    def _looked_at(self, trainer: Any) -> list[nn.Parameter]:
        """The parameters whose gradients are to be finite; scaled float16 ones may overflow."""
        if not self.gradients or any(getattr(o, "scaler", None) for o in (trainer.execution, trainer.accelerator)):
            return []
        return [p for group in trainer.opt.param_groups for p in group["params"] if p.grad is not None]

    def _bad_gradients(self, trainer: Any) -> list[nn.Parameter]:
        return [p for p in self._looked_at(trainer) if p.grad is not None and _is_bad(p.grad)]


@dataclass
class Finding:
    """A layer's output with numbers that are none."""

    name: str
    layer: str
    kind: str
    bad: int
    of: int
    given: str


@dataclass
class Look:
    """What hooks on the layers of a run have seen."""

    #: The layers in the order of execution.
    order: list[str] = field(default_factory=list)
    #: The first output that was not finite, and the first with NaN in it.
    first: Finding | None = None
    first_nan: Finding | None = None
    loss: float | None = None
    #: Why there is nothing to be seen.
    failed: str = ""

    def see(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """A forward hook."""
        self.order.append(name)
        if self.first_nan is not None:
            return
        tensors = [t for t in _tensors(output) if t.is_floating_point() or t.is_complex()]
        bad = sum(int((~torch.isfinite(t)).sum()) for t in tensors)
        if not bad:
            return
        nan = any(bool(torch.isnan(t).any()) for t in tensors)
        own = [n for n, p in module.named_parameters(recurse=False) if _is_bad(p)]
        inputs = "inputs that were bad already" if any(map(_is_bad, _tensors((args, kwargs)))) else "finite inputs"
        weights = f", {' and '.join(own)} not finite" if own else ""
        kind, size = "NaN" if nan else "infinite", sum(t.numel() for t in tensors)
        finding = Finding(name, type(module).__name__, kind, bad, size, inputs + weights)
        self.first = self.first or finding
        self.first_nan = finding if nan else None


class _Enough(Exception):
    """The step has come to the back-propagation that is looked into."""


def account(trainer: Any, loss: float, bad: list[nn.Parameter], passes: int = 1) -> str:
    """Tell all that can be found out of a batch with a bad loss or gradient.

    Args:
        trainer: behind a back-propagation of the batch.
        loss: what was back-propagated.
        bad: parameters whose gradients are bad.
        passes: which of the batch's losses it was, counted from 1.
    """
    progress, batch = trainer.progress, batch_in_flight(trainer)
    isfinite = math.isfinite(loss)
    what = "a gradient became bad, with a finite loss," if isfinite else f"the training loss became {loss}"
    where = f"at batch {progress.batch} of epoch {progress.epoch + 1} (counted from 0), update {progress.step}"
    parts = [f"{what} {where}" + (f", with the batch's loss number {passes}" if passes > 1 else "")]
    spoilt = [name for name, p in _named(trainer) if _is_bad(p)]
    if spoilt:
        parts.append(f"the weights are bad already: {_listed(spoilt)}; look at every batch, StopOnNaN(every=1)")
    if batch is None:
        return "; ".join(parts)
    for name, value in (("inputs", batch.batch_x), ("target", batch.batch_y)):
        if count := sum(int((~torch.isfinite(t)).sum()) for t in _tensors(value) if t.is_floating_point()):
            parts.append(f"the batch's {name} hold {count} numbers that are not finite")
    look = run_again(trainer, batch, passes)
    if not isfinite:
        parts.append(_said_of_layers(look))
    if bad:
        names = _in_backward_order(trainer, look.order, bad)
        parts.append(
            f"the first bad gradient, in the order of back-propagation, is that of {names[0]!r} "
            f"({len(names)} of {len(_named(trainer))} are bad)"
        )
    return "; ".join(parts)


def said_of_weights(trainer: Any) -> str:
    """Which weights are bad, now that something is."""
    named = _named(trainer)
    spoilt = [name for name, p in named if _is_bad(p)]
    if not spoilt:
        return "all weights are finite"
    return f"{len(spoilt)} of {len(named)} parameters are not finite by now: {_listed(spoilt)}"


def run_again(trainer: Any, batch: InFlight, passes: int = 1) -> Look:
    """Run the step of a batch up to a back-propagation, with hooks on every layer; nothing else changes.

    Args:
        trainer: in a hook of the step.
        batch: the batch.
        passes: which back-propagation that is, counted from 1: those before it, and updates, are left out, so that the
            weights are those with which it happened.
    """
    look = Look()
    if getattr(trainer.accelerator, "num_processes", 1) > 1:
        look.failed = "in distributed training the batch is not run again"
        return look
    with _kept(trainer), _without_hooks(trainer), torch.compiler.set_stance("force_eager"), torch.enable_grad():
        for _ in range(TRIES):
            look = Look()
            with _watched(trainer, look, passes):
                try:
                    batch.task.run_step(batch.batch_x, batch.batch_y, **batch.task.step_args)
                    look.failed = look.failed or "the step did not come to trainer.loss or trainer.backward again"
                except _Enough:
                    pass
                except Exception as error:
                    look.failed = f"the batch could not be run again ({type(error).__name__}: {error})"
            if look.first is not None or look.failed or look.loss is None or not math.isfinite(look.loss):
                break
    return look


@contextmanager
def _watched(trainer: Any, look: Look, passes: int) -> Iterator[None]:
    """Have the layers tell what they return, and end a step where it would back-propagate for the last time."""
    left = passes

    def enough(loss: Any = None, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            look.loss = float(loss.detach()) if isinstance(loss, torch.Tensor) else None
            raise _Enough

    with ExitStack() as stack:
        for name, module in _modules(trainer):
            handle = module.register_forward_hook(partial(look.see, name), with_kwargs=True)
            stack.callback(handle.remove)
        for owner, name, instead in (
            (trainer, "backward", enough),
            # What the step has told already it does not tell again; nor does anything update the weights.
            *((trainer, name, _nothing) for name in ("optimize", "fire_metrics", "add_figure", "log")),
            *((_torch_of(optimizer.opt), "step", _nothing) for optimizer in trainer.opt),
        ):
            stack.callback(_put_back, owner, name, vars(owner).get(name))
            vars(owner)[name] = instead
        yield


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for what is not to happen again."""


def _torch_of(optimizer: Any) -> Any:
    """The torch optimizer inside one that an Accelerator prepared."""
    return getattr(optimizer, "optimizer", optimizer)


def _put_back(owner: Any, name: str, value: Any) -> None:
    if value is None:
        vars(owner).pop(name, None)
    else:
        vars(owner)[name] = value


@contextmanager
def _without_hooks(trainer: Any) -> Iterator[None]:
    """Call the models without telling anybody."""
    handles = list({id(h): h for h in (trainer.model, *trainer.models.values())}.values())
    former = [(handle, handle.before, handle.after) for handle in handles]
    for handle in handles:
        handle.before, handle.after = (), ()
    try:
        yield
    finally:
        for handle, before, after in former:
            handle.before, handle.after = before, after


@contextmanager
def _kept(trainer: Any) -> Iterator[None]:
    """Leave weights, buffers, gradients and generators as they were."""
    modules = [handle.trained_module for handle in trainer.models.values()]
    if isinstance(trainer.loss.function, nn.Module):
        modules.append(trainer.loss.function)
    held = {id(t): t for m in modules for t in (*m.parameters(), *m.buffers())}.values()
    copies, generators = [(t, t.detach().clone(), t.grad) for t in held], rng_state()
    for tensor in held:
        tensor.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before, gradient in copies:
                tensor.copy_(before)
                tensor.grad = gradient
        set_rng_state(generators)


def _modules(trainer: Any) -> list[tuple[str, nn.Module]]:
    """All layers by name, which begins with the model's where there are several."""
    several = len(trainer.models) > 1
    found: dict[int, tuple[str, nn.Module]] = {}
    for model_name, handle in trainer.models.items():
        for name, module in handle.model.named_modules():
            full = ".".join(filter(None, [model_name if several else "", name]))
            found.setdefault(id(module), (full or "the model itself", module))
    if isinstance(trainer.loss.function, nn.Module):
        for name, module in trainer.loss.function.named_modules():
            found.setdefault(id(module), (".".join(filter(None, ["loss", name])), module))
    return list(found.values())


def _named(trainer: Any) -> list[tuple[str, nn.Parameter]]:
    """All parameters by name, those of each layer after one another."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for path, module in _modules(trainer):
        for name, parameter in module.named_parameters(recurse=False):
            found.setdefault(id(parameter), (name if path == "the model itself" else f"{path}.{name}", parameter))
    return list(found.values())


def _in_backward_order(trainer: Any, order: list[str], bad: list[nn.Parameter]) -> list[str]:
    """Names of parameters, those that back-propagation comes to first at the beginning."""
    last = {path: place for place, path in enumerate(order)}
    places: dict[int, int] = {}
    for path, module in _modules(trainer):
        for parameter in module.parameters(recurse=False):
            places[id(parameter)] = max(last.get(path, -1), places.get(id(parameter), -1))
    wanted = {id(p) for p in bad}
    names = {id(p): name for name, p in _named(trainer) if id(p) in wanted}
    names.update({i: "a parameter of no model" for i in wanted if i not in names})
    return [names[i] for i in sorted(names, key=lambda i: -places.get(i, -1))]


def _said_of_layers(look: Look) -> str:
    if look.failed and look.first is None:
        return look.failed
    if look.first is None:
        if look.loss is not None and math.isfinite(look.loss):
            return "the batch, run again, gave a finite loss: chance (dropout, noise) has a part in it"
        return "the outputs of all layers are finite, so that it comes from the loss, or from what is between layers"
    told = [_told(look.first, "bad")]
    if look.first_nan is not None and look.first_nan is not look.first:
        told.append(_told(look.first_nan, "NaN"))
    return "; ".join(told)


def _told(finding: Finding, which: str) -> str:
    return (
        f"the first {which} output, in the order of execution, is that of {finding.name!r} ({finding.layer}): "
        f"{finding.bad} of {finding.of} numbers {finding.kind}, given {finding.given}"
    )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in a structure."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _is_bad(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds a number that is not finite."""
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    return bool((~torch.isfinite(values)).any())


def _listed(names: list[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
