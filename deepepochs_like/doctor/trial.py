"""The training step tried out on copies: outputs, loss and gradients of a few batches, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import split_batch
from ..tensors import TensorDict, TensorTuple
from .looking import tensors_in

#: Layers that bring what they are given to scale.
NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm),
)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass
class Pass:
    """One batch through the copies: each part is None where it was not reached."""

    x: Any
    y: Any
    out: Any
    loss: Tensor | None = None
    #: What the loss function returned, whatever it is.
    returned: Any = None
    error: Exception | None = None
    grads: dict[str, Tensor | None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many samples the batch has."""
        first = next((t for t in tensors_in([self.x, self.y]) if t.ndim), None)
        return 0 if first is None else int(first.shape[0])


class Trial:
    """Copies of models and loss, in training mode, and what the first batches did with them.

    Args:
        modules: the models by name.
        loss: the loss function, or None where the model returns its loss.

    Raises:
        Exception: the models cannot be copied.
    """

    def __init__(self, modules: dict[str, nn.Module], loss: Any) -> None:
        self.modules, self.loss = _copied(modules, loss)
        self.model = next(iter(self.modules.values()))
        for module in self._all():
            module.train()
        self.stays_in_eval = [name for name, part in self.named_modules() if not part.training]
        self.passes: list[Pass] = []
        #: Why the model failed on the first batch, and what it was given last.
        self.failed: Exception | None = None
        self.given: Any = None
        #: Names of modules that the forward pass itself put into evaluation mode.
        self.put_in_eval: list[str] = []
        #: What layers with weights are fed straight from the data: (name, the layer, tensor); and what else they are.
        self.fed: list[tuple[str, nn.Module, Tensor]] = []
        self.fed_mixed: list[tuple[str, nn.Module, Tensor]] = []

    def _all(self) -> list[nn.Module]:
        return [*self.modules.values(), *([self.loss] if isinstance(self.loss, nn.Module) else [])]

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The copies' parts with the names that they have in the trainer."""
        for prefix, module in self.modules.items():
            for name, part in module.named_modules():
                yield ".".join(filter(None, (prefix, name))) or type(part).__name__, part

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The copies' parameters that are trained, each once."""
        parts = [(prefix, module) for prefix, module in self.modules.items()]
        parts += [("loss", self.loss)] if isinstance(self.loss, nn.Module) else []
        named = {
            id(p): (".".join(filter(None, (prefix, name))), p)
            for prefix, m in parts
            for name, p in m.named_parameters()
        }
        return [(name, p) for name, p in named.values() if p.requires_grad]

    def run(self, batches: Sequence[Any], size: Any, device: torch.device | None) -> None:
        """Put batches through the copies, one after the other."""
        for number, batch in enumerate(batches):
            try:
                x, y, _ = split_batch(batch, self.loss is None, device, size)
                self.given = x
                frozen = [p for p in self._parameters() if not p.requires_grad]
                if number == 0 and frozen:
                    with self._watched(frozen):
                        self.call(x)
                with self._watched([]) if number == 0 and not frozen else nullcontext():
                    out = self.call(x)
            except Exception as error:
                self.failed = self.failed or error
                return
            self.put_in_eval = [
                name for name, part in self.named_modules() if not part.training and name not in self.stays_in_eval
            ]
            self.passes.append(one := Pass(x, y, out))
            self.differentiate(one)

    def again(self) -> None:
        """Put the batches through once more, where the model draws random numbers."""
        for one in list(self.passes):
            more = Pass(one.x, one.y, self.call(one.x))
            self.differentiate(more)
            for name, grad in more.grads.items():
                one.grads[name] = grad if one.grads.get(name) is None else one.grads[name]

    def call(self, x: Any) -> Any:
        """Call the model's copy as the default step does."""
        with torch.enable_grad():
            return self.evaluate(x)

    def evaluate(self, x: Any) -> Any:
        """The same, whether with gradients or without."""
        if type(x) is TensorTuple:
            return self.model(*x)
        return self.model(**x) if type(x) is TensorDict else self.model(x)

    def loss_of(self, out: Any, y: Any) -> Any:
        """The loss as the step computes it."""
        if self.loss is not None:
            return self.loss(out, y)
        return out.get("loss") if isinstance(out, dict) else out

    def differentiate(self, one: Pass) -> None:
        """Compute the loss of a pass, and its gradients; an error is kept in the pass."""
        named = self.named_parameters()
        try:
            with torch.enable_grad():
                one.returned = self.loss_of(one.out, one.y)
                if not isinstance(one.returned, Tensor) or one.returned.ndim or not one.returned.requires_grad:
                    return
                found = torch.autograd.grad(one.returned, [p for _, p in named], retain_graph=True, allow_unused=True)
        except Exception as error:
            one.error = error
            return
        one.loss = one.returned
        one.grads = {name: grad for (name, _), grad in zip(named, found, strict=True)}

    def shaken(self) -> Trial:
        """Another trial, with noise in the place of parameters that are zero throughout, run on the same batches.

        Layers that begin as nothing (the last ones of residual branches, adapters) keep gradients from what lies
        before them for a step, and no longer.
        """
        other = Trial(self.modules, self.loss)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _, parameter in other.named_parameters():
                if not parameter.any():
                    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                    parameter.add_(noise.to(parameter) * 0.1)
        for one in self.passes:
            other.passes.append(again := Pass(one.x, one.y, other.call(one.x)))
            other.differentiate(again)
        return other

    def _parameters(self) -> list[nn.Parameter]:
        return [p for module in self.modules.values() for p in module.parameters() if p.is_floating_point()]

    @contextmanager
    def _watched(self, frozen: list[nn.Parameter]) -> Iterator[None]:
        """Note what layers with weights are fed that depends on no parameter: the data as it arrives."""
        handles = []

        def hook(name: str) -> Callable[..., None]:
            def note(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
                for tensor in tensors_in([args, kwargs]):
                    if tensor.is_floating_point() and tensor.ndim > 1:
                        mixed = tensor.requires_grad and not (tensor.is_leaf and tensor.grad_fn is None)
                        (self.fed_mixed if mixed else self.fed).append((name, module, tensor.detach()))

            return note

        for parameter in frozen:  # else what comes out of a frozen layer looks like data
            parameter.requires_grad_(True)
        for name, part in self.named_modules():
            if isinstance(part, torch.jit.ScriptModule):  # takes no hooks
                continue
            inner = any(p is not part and p._parameters for p in part.modules())
            if (part._parameters and not inner) or isinstance(part, (*NORMS, nn.MultiheadAttention)):
                handles.append(part.register_forward_hook(hook(name), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter in frozen:
                parameter.requires_grad_(False)


def _copied(modules: dict[str, nn.Module], loss: Any) -> tuple[dict[str, nn.Module], Any]:
    memo: dict[int, Any] = {}
    copies = {name: deepcopy(module, memo) for name, module in modules.items()}
    stateful = isinstance(loss, nn.Module) or (loss is not None and hasattr(loss, "__dict__") and not _is_plain(loss))
    return copies, deepcopy(loss, memo) if stateful else loss


def _is_plain(loss: Any) -> bool:
    """Whether this is a function: copies of those are themselves."""
    return hasattr(loss, "__code__") or type(loss).__module__ == "functools"
