"""`Summary`: a model layer by layer, with its parameters, what it computes, and the memory that it takes."""

from __future__ import annotations

import html
import itertools
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils.data import DataLoader

from .batch import split_batch
from .data import BatchSource, samplers
from .display.words import Words
from .errors import ArgumentError, ArgumentTypeError, BatchError, LoaderError, add_note
from .rng import rng_state, set_rng_state
from .tensors import TensorDict, TensorTuple, batch_size, to_device
from .types import Stateful

#: How many tensors of a parameter's size torch's optimizers keep, by class, with what an option adds to it.
_KEPT: dict[str, tuple[int, tuple[str, ...]]] = {
    **dict.fromkeys(("Adam", "AdamW"), (2, ("amsgrad",))),
    **dict.fromkeys(("NAdam", "RAdam", "Adamax", "Adadelta", "Rprop", "SparseAdam"), (2, ())),
    **dict.fromkeys(("Adagrad", "ASGD", "Muon"), (1, ())),
    "RMSprop": (1, ("momentum", "centered")),
    "SGD": (0, ("momentum",)),
}
_UNSHAPED = (UninitializedParameter, UninitializedBuffer)
_WORDS = Words(encoding="ascii")
_NARROWEST, _WIDEST = 60, 200


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


class Summary:
    """A model layer by layer: print it, show it in a notebook, or take its `rows`.

    Args:
        layers: its rows.
        memory: bytes by what takes them; None where it cannot be told.
        samples: how many samples the forward pass was of; None where none was made.
        given: the shapes that went in, as text.
        notes: what else there is to say.

    Attributes:
        parameters, trainable, frozen: how many there are, each counted once.
        flops: of the whole pass, a multiplication and an addition being two; None where none was made. Matrix products,
            convolutions and attention are counted, as torch's `FlopCounterMode` does; what works element by element is
            not.

    Example:
        >>> from deepepochs_like import Trainer
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> summary = Trainer(net, device="cpu", verbose=0).summary(torch.zeros(4, 2))
        >>> summary.parameters, summary.flops, [row["output"] for row in summary.rows()]
        (9, 48, [[(4, 3)], [(4, 3)]])
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        memory: Mapping[str, int | None],
        samples: int | None = None,
        given: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        self.layers, self.memory, self.samples, self.given = list(layers), dict(memory), samples, given
        self.notes = list(notes)
        self.parameters = sum(layer.parameters for layer in self.layers)
        self.trainable = sum(layer.trainable for layer in self.layers)
        self.frozen = self.parameters - self.trainable
        self.flops = None if samples is None else sum(layer.flops or 0 for layer in self.layers)

    def rows(self) -> list[dict[str, Any]]:
        """The layers as dicts, with the attributes of `Layer`: for a data frame, or a test."""
        return [asdict(layer) for layer in self.layers]

    def text(self, width: int | None = None) -> str:
        """The summary as a table.

        Args:
            width: columns to fit in, from 60 to 200; by default those of the terminal.
        """
        width = min(max(width or shutil.get_terminal_size((100, 24)).columns, _NARROWEST), _WIDEST)
        cells = _fitted(self._cells(), width)
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        left = _left_aligned(cells[0])
        lines = [
            "  ".join(
                c.ljust(w) if name in left else c.rjust(w) for name, c, w in zip(cells[0], row, widths, strict=True)
            ).rstrip()
            for row in cells
        ]
        rule = "-" * max(map(len, lines))
        told = [line for text in self.told() for line in textwrap.wrap(text, width, subsequent_indent="  ")]
        return "\n".join([lines[0], rule, *lines[1:], rule, *told])

    def told(self) -> list[str]:
        """What stands below the table: totals, what one pass computes, and memory."""
        frozen = f", {self.frozen:,} frozen" if self.frozen else ""
        shared = " (shared ones are counted once)" if any(layer.shared for layer in self.layers) else ""
        lines = [f"parameters: {self.parameters:,}, {self.trainable:,} trained{frozen}{shared}"]
        if self.flops is not None and self.samples is not None:
            each = f", {_scaled(self.flops / self.samples).strip()} a sample" if self.samples > 1 else ""
            lines.append(f"a forward pass of {self.given}: {_scaled(self.flops)}FLOP{each}")
        known = [f"{what} {_bytes(size)}" for what, size in self.memory.items() if size is not None]
        total = _bytes(sum(size or 0 for size in self.memory.values()))
        unknown = [what for what, size in self.memory.items() if size is None]
        more = f", and {' and '.join(unknown)}, which cannot be told" if unknown else ""
        lines.append(f"memory in training, about {total}{more}: {', '.join(known)}")
        return lines + self.notes

    def _cells(self) -> list[list[str]]:
        """The table's cells, the heading first; columns that would say nothing are left out."""
        passed, frozen = self.flops is not None, self.frozen > 0
        heading = ["layer", "type", *(["output"] if passed else []), "parameters", *(["trained"] if frozen else [])]
        cells = [heading + (["FLOP"] if passed else [])]
        for layer in self.layers:
            row = [layer.name, layer.type, *([_output(layer)] if passed else [])]
            count = f"{layer.parameters:,}" if layer.parameters or not layer.shared else "shared"
            row.append(count if layer.parameters or layer.shared else "-")
            if frozen:
                part = "yes" if layer.trainable == layer.parameters else "part" if layer.trainable else "no"
                row.append(part if layer.parameters else "-")
            cells.append(row + ([_scaled(layer.flops).strip() if layer.flops else "-"] if passed else []))
        return cells

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Summary({len(self.layers)} layers, {self.parameters:,} parameters)"

    def _repr_html_(self) -> str:
        """The summary in a notebook."""
        heading, *body = self._cells()
        left = _left_aligned(heading)
        styles = [f"text-align: {'left' if name in left else 'right'}" for name in heading]

        def line(row: Sequence[str], tag: str) -> str:
            cells = (f'<{tag} style="{s}">{html.escape(c)}</{tag}>' for s, c in zip(styles, row, strict=True))
            return f"<tr>{''.join(cells)}</tr>"

        told = "".join(f"<div>{html.escape(text)}</div>" for text in self.told())
        rows = "".join(line(row, "td") for row in body)
        return f"<table><thead>{line(heading, 'th')}</thead><tbody>{rows}</tbody></table>{told}"


def summarize(trainer: Any, data: Any = None, depth: int | None = None) -> Summary:
    """Look through a trainer's models; see `Trainer.summary`."""
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 0):
        raise ArgumentError(f"depth={depth!r}: an int from 0 on is needed, or None for all layers")
    modules = {name: handle.trained_module for name, handle in trainer.models.items()}
    inputs = {} if data is None else _inputs(trainer, modules, data)
    table = Table(modules, depth)
    if inputs:
        table.check()
        with _untouched(list(modules.values())):
            for name, batch in inputs.items():
                table.run(modules[name], batch)
    layers, notes = table.finish(bool(inputs))
    function = trainer.loss.function
    if isinstance(function, nn.Module) and any(True for _ in function.parameters()):
        layers += table.add("loss", function, 0)
    memory = table.memory()
    memory["optimizer"] = _optimizer_memory(trainer.opt)
    if not inputs:
        return Summary(layers, memory, notes=notes)
    memory["activations"] = sum(layer.activations for layer in layers) + sum(map(_size, _tensors(inputs)))
    first = next(iter(inputs.values()))
    given = ", ".join(_shape(tuple(t.shape)) for t in _tensors(inputs)) or "no tensors"
    return Summary(layers, memory, _samples(first), given, notes)


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
            if isinstance(parameter, _UNSHAPED):
                self._lazy.append(f"{name}.{key}")
            elif id(parameter) in self._seen:
                layer.shared += parameter.numel()
            else:
                layer.parameters += parameter.numel()
                self._sizes["parameters"] += _size(parameter)
                if parameter.requires_grad:
                    layer.trainable += parameter.numel()
                    self._sizes["gradients"] += _size(parameter)
            self._seen.add(id(parameter))
        for buffer in module.buffers(recurse=False):
            if id(buffer) not in self._seen:
                self._sizes["buffers"] += _size(buffer)
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
            before = set(map(_address, _tensors(given)))  # of which there may be a view, or what is done in place
            layer.activations += sum(_size(t) for t in _tensors(output) if _address(t) not in before)
        if self._own[id(layer)] == id(module):
            layer.calls += 1
            layer.output = layer.output or [tuple(t.shape) for t in _tensors(output)]

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


@contextmanager
def _untouched(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluate modules and put everything back: modes, buffers, and the random generators."""
    parts = list({id(part): part for module in modules for part in module.modules()}.values())
    modes = [(part, part.training) for part in parts]
    buffers = [(part, dict(part._buffers)) for part in parts]
    copies = [(b, b._version, b.clone()) for _, own in buffers for b in own.values() if b is not None]
    generators = rng_state()
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training
        for part, own in buffers:
            part._buffers.clear()
            part._buffers.update(own)
        with torch.no_grad():
            for buffer, version, copy in copies:
                if buffer._version != version:  # a copy would count as a change
                    buffer.copy_(copy)
        set_rng_state(generators)


def _inputs(trainer: Any, modules: Mapping[str, nn.Module], data: Any) -> dict[str, TensorTuple | TensorDict]:
    """What each model is called on."""
    if list(modules) == ["model"]:
        return {"model": _input(trainer, data)}
    if not isinstance(data, Mapping) or not data or not set(data) <= set(modules):
        names = ", ".join(f"{name!r}: ..." for name in modules)
        raise ArgumentError(f"summary: there are several models, so say which gets what: summary({{{names}}})")
    return {name: _input(trainer, data[name]) for name in modules if name in data}


def _input(trainer: Any, data: Any) -> TensorTuple | TensorDict:
    device = trainer.device
    if isinstance(data, TensorTuple):
        return TensorTuple(to_device(item, device) for item in data)
    if isinstance(data, TensorDict):
        return TensorDict(to_device(dict(data), device))
    if isinstance(data, (list, tuple)) and data and all(type(item) is int for item in data):
        raise ArgumentTypeError(f"summary({data!r}): an input is needed, not its shape: torch.zeros({tuple(data)})")
    if _is_loader(data):
        data = _first_batch(data)
    batch = data if isinstance(data, (list, tuple, Mapping)) else (data, None)
    return split_batch(batch, trainer.loss.function is None and isinstance(data, (list, tuple)), device, 1)[0]


def _is_loader(data: Any) -> bool:
    """Whether something gives batches, rather than being one: a list of tuples does, one of tensors does not."""
    if isinstance(data, list):
        return bool(data) and all(isinstance(item, (tuple, list, Mapping)) for item in data)
    return not isinstance(data, (torch.Tensor, tuple, Mapping)) and (hasattr(data, "__iter__") or _indexed(data))


def _indexed(data: Any) -> bool:
    return isinstance(data, DataLoader) or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def _first_batch(loader: Any) -> Any:
    """The first batch of a loader, which then is as it was."""
    source = BatchSource(loader, "summary's loader")
    source.check()
    if hasattr(loader, "__next__"):
        raise ArgumentTypeError(
            "summary: an iterator would lose its first batch; pass a batch, or a loader that can be iterated again"
        )
    generators = source.generators()
    before, drawn = rng_state(), [generator.get_state() for generator in generators]
    order, own = samplers.state_of(loader), loader.state_dict() if isinstance(loader, Stateful) else None
    try:
        for batch in itertools.islice(source.stream(), 1):
            return batch
        raise LoaderError("summary: the loader yields no batch")
    finally:
        source.release()
        samplers.load(loader, order)
        if own is not None:
            loader.load_state_dict(own)
        for generator, state in zip(generators, drawn, strict=True):
            generator.set_state(state)
        set_rng_state(before)


def _optimizer_memory(optimizers: Sequence[Any]) -> int | None:
    """Bytes of the optimizers' state, which torch makes at the first update; None where that cannot be foreseen."""
    # The torch optimizer may be inside one that an Accelerator prepared.
    sizes = [_state_size(getattr(optimizer.opt, "optimizer", optimizer.opt)) for optimizer in optimizers]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _state_size(optimizer: torch.optim.Optimizer) -> int | None:
    if optimizer.state:
        return sum(map(_size, _tensors(list(optimizer.state.values()))))
    name = type(optimizer).__name__
    if name not in _KEPT or not type(optimizer).__module__.startswith("torch.optim"):
        return None
    least, options = _KEPT[name]
    return sum(
        (least + sum(bool(group.get(option)) for option in options)) * _size(parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):  # a packed sequence is one, too
        for item in value:
            yield from _tensors(item)


def _size(tensor: torch.Tensor) -> int:
    if isinstance(tensor, _UNSHAPED):
        return 0
    count = tensor.numel() if tensor.layout is torch.strided else tensor._nnz()
    return count * tensor.element_size()


def _address(tensor: torch.Tensor) -> int:
    """What tells the memory of one tensor from another's."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)


def _samples(batch: TensorTuple | TensorDict) -> int:
    """How many samples a batch has; 1 where it does not tell, as a graph does not."""
    try:
        return batch_size(batch)
    except BatchError:
        return 1


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _output(layer: Layer) -> str:
    if not layer.output:
        return "-"
    more = f" +{len(layer.output) - 1}" if len(layer.output) > 1 else ""
    return _shape(layer.output[0]) + more + (f" x{layer.calls}" if layer.calls > 1 else "")


def _scaled(number: float) -> str:
    """Write a number in three digits with the letter of its magnitude: ``1.23 M``."""
    for letter in ("", "k", "M", "G", "T"):
        if abs(number) < 999.5 or letter == "T":
            break
        number /= 1000
    return f"{number:.0f} {letter}" if number >= 100 or not letter else f"{number:.{2 if number < 10 else 1}f} {letter}"


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def _left_aligned(heading: Sequence[str]) -> set[str]:
    return {"layer", "type", "output"} & set(heading)


def _fitted(cells: list[list[str]], width: int) -> list[list[str]]:
    """Crop the names of layers and classes, then leave columns out, and crop shapes at last, until a table fits."""
    tries = [("layer", 24), ("type", 24), ("layer", 16), ("type", 16), ("layer", 10), ("type", 10), ("trained", 0)]
    for name, least in [*tries, ("FLOP", 0), ("type", 0), ("output", 10)]:
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        over = sum(widths) + 2 * (len(widths) - 1) - width
        if over <= 0:
            break
        if name not in cells[0]:
            continue
        place = cells[0].index(name)
        limit = max(widths[place] - over, least)
        cells = [
            [*row[:place], *([_WORDS.crop(row[place], limit)] if least else []), *row[place + 1 :]] for row in cells
        ]
    return cells
