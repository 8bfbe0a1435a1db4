"""Counting, layer by layer: parameters, calls, what they compute, and what they return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentError, add_note
from ..tensors import TensorDict, TensorTuple
from ..utils.containers import tensors_in
from .memory import UNSHAPED, address, size_of


@dataclass
class Layer:
    """One row of a `Summary`.

    Attributes:
        name: where it is in the model.
        type: its class.
        output: the shapes of the tensors it returned, as it was called first; empty where it was not called.
        calls: how often it was called.
        parameters: how many parameters it has that no row above has.
        trainable: how many of them are trained.
        shared: how many parameters it has that were counted above.
        flops: what it computed in all its calls; None where no forward pass was made.
        activations: bytes of what it returned.
    """

    name: str
    type: str
    output: list[tuple[int, ...]] = field(default_factory=list)
    calls: int = 0
    parameters: int = 0
    trainable: int = 0
    shared: int = 0
    flops: int | None = None
    activations: int = 0


class Table:
    """Gather the rows of modules; how often, and with what, each was called.

    Args:
        modules: the models by name.
        depth: layers below are counted with the one that holds them; None is all.
    """

    def __init__(self, modules: Mapping[str, nn.Module], depth: int | None) -> None:
        self.depth = depth
        self.layers: list[Layer] = []
        self._of: dict[int, Layer] = {}
        #: The module that a row is of, where it is not of one that the row's module holds.
        self._own: dict[int, int] = {}
        #: The rows that stand in any case: those of modules without others in them, or with parameters of their own.
        self._wanted: set[int] = set()
        self._seen: set[int] = set()
        self._sizes = {"parameters": 0, "gradients": 0, "buffers": 0}
        self._lazy: list[str] = []
        for name, module in modules.items():
            self.add("" if list(modules) == ["model"] else name, module, depth)

    def add(self, prefix: str, root: nn.Module, depth: int | None) -> list[Layer]:
        """Add a row for every module of a model, and return them."""
        before = len(self.layers)
        for path, module in root.named_modules():
            name = ".".join(part for part in (prefix, path) if part) or "(model)"
            level = path.count(".") + 1 if path else 0
            if depth is not None and level > depth:
                holder = ".".join(path.split(".")[:depth])
                layer = self._of[id(root.get_submodule(holder))]
            else:
                layer = Layer(name, type(module).__name__)
                self.layers.append(layer)
                self._own[id(layer)] = id(module)
            self._of.setdefault(id(module), layer)  # it may be in two models
            self._count(layer, module, name)
            if not any(True for _ in module.children()) or level == depth or layer.parameters or layer.shared:
                self._wanted.add(id(layer))
        return self.layers[before:]

    def _count(self, layer: Layer, module: nn.Module, name: str) -> None:
        for key, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, UNSHAPED):
                self._lazy.append(f"{name}.{key}")
            elif id(parameter) in self._seen:
                layer.shared += parameter.numel()
            else:
                layer.parameters += parameter.numel()
                self._sizes["parameters"] += size_of(parameter)
                if parameter.requires_grad:
                    layer.trainable += parameter.numel()
                    self._sizes["gradients"] += size_of(parameter)
            self._seen.add(id(parameter))
        for buffer in module.buffers(recurse=False):
            if id(buffer) not in self._seen:
                self._sizes["buffers"] += size_of(buffer)
            self._seen.add(id(buffer))

    def check(self) -> None:
        """Raise `ArgumentError` where a call of the models would leave a trace."""
        if self._lazy:
            raise ArgumentError(
                f"summary: {self._lazy[0]} has no shape before the model is first called, which would leave a trace; "
                "call the model once on a batch before, or ask for a summary without an input"
            )

    def run(self, module: nn.Module, batch: TensorTuple | TensorDict) -> None:
        """Call a model on its input, and write down what its layers do."""
        from torch.utils.flop_counter import FlopCounterMode  # a second of import that few runs need

        counter: Any = FlopCounterMode(display=False)
        open_calls: list[list[Any]] = []

        def before(called: nn.Module, args: Any, kwargs: Any) -> None:
            open_calls.append([counter.get_total_flops(), 0])

        def after(called: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            start, inner = open_calls.pop()
            spent = counter.get_total_flops() - start
            if open_calls:
                open_calls[-1][1] += spent
            self._note(called, (args, kwargs), output, spent - inner)

        with ExitStack() as stack:
            for part in module.modules():
                stack.callback(part.register_forward_pre_hook(before, prepend=True, with_kwargs=True).remove)
                stack.callback(part.register_forward_hook(after, with_kwargs=True).remove)
            stack.enter_context(_in_plain_products(module))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(counter)
            try:
                if isinstance(batch, TensorDict):
                    module._call_impl(**batch)
                else:
                    module._call_impl(*batch)
            except Exception as error:
                note = "in trainer.summary(): the last item of a tuple or list is the target, and no input; "
                add_note(error, note + "pass (a, b, None) for two inputs, or a dict for inputs by keyword")
                raise

    def _note(self, module: nn.Module, given: Any, output: Any, flops: int) -> None:
        layer = self._of.get(id(module))
        if layer is None:
            return
        layer.flops = (layer.flops or 0) + flops
        if flops:
            self._wanted.add(id(layer))
        if not any(True for _ in module.children()):
            before = set(map(address, tensors_in(given)))  # of which there may be a view, or what is done in place
            layer.activations += sum(size_of(t) for t in tensors_in(output) if address(t) not in before)
        if self._own[id(layer)] == id(module):
            layer.calls += 1
            layer.output = layer.output or [tuple(t.shape) for t in tensors_in(output)]

    def finish(self, passed: bool) -> tuple[list[Layer], list[str]]:
        """The rows to show, and what has to be said."""
        layers = [layer for layer in self.layers if id(layer) in self._wanted]
        notes = []
        for layer in layers if passed else []:
            layer.flops = layer.flops or 0
        if self._lazy:
            notes.append(f"not counted, as their shapes are not known yet: {', '.join(self._lazy)}")
        if passed and (silent := [layer.name for layer in layers if not layer.calls and layer.type != "Identity"]):
            some = ", ".join(silent[:4]) + (f" and {len(silent) - 4} more" if len(silent) > 4 else "")
            notes.append(f"not called in this pass: {some}")
        return layers, notes

    def memory(self) -> dict[str, int | None]:
        """Bytes of parameters and buffers, and of the gradients that come with training."""
        return {what: size for what, size in self._sizes.items() if size or what == "parameters"}


@contextmanager
def _in_plain_products(module: nn.Module) -> Iterator[None]:
    """Keep torch from what it has fused for evaluation, which its counter of FLOPs does not know."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends, fast = torch.backends, torch.backends.mha.get_fastpath_enabled()
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    cudnn, mkldnn = backends.cudnn.enabled, torch._C._get_mkldnn_enabled()
    on_cpu = all(p.device.type == "cpu" for p in module.parameters())
    try:
        backends.mha.set_fastpath_enabled(False)
        if recurrent:
            backends.cudnn.enabled = False
            torch._C._set_mkldnn_enabled(False)
        with sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext():
            yield
    finally:
        backends.mha.set_fastpath_enabled(fast)
        if recurrent:
            backends.cudnn.enabled = cudnn
            torch._C._set_mkldnn_enabled(mkldnn)
