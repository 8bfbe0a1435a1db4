"""`Trainer(compile=...)`: the model, or a whole step, through `torch.compile`; without it where the compiler fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import _engine_run_backward

from .errors import ArgumentError, did_you_mean
from .handles import LossHandle
from .hooks import fire
from .rng import rng_state, set_rng_state
from .tensors import TensorDict, detached, map_tensors
from .utils.warn import warn

WHAT = ("model", "step")
_OPTIONS = ("mode", "backend", "dynamic", "fullgraph", "options")
_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def check_compile(given: Any, compile_model: bool) -> dict[str, Any] | None:
    """Return what is to be compiled, under ``'what'``, with the options of `torch.compile`; None for nothing.

    Raises:
        ArgumentError: it is neither 'model' nor 'step', or an option or a mode is unknown.
    """
    if given is None:
        return {"what": "model"} if compile_model else None
    options = dict(given) if isinstance(given, dict) else {"what": given}
    what, mode = options.get("what"), options.get("mode")
    if not isinstance(what, str) or what not in WHAT:
        guess = did_you_mean("model" if what is True else str(what), WHAT)
        raise ArgumentError(
            f"compile={given!r}: 'model', 'step', None, or a dict like {{'what': 'step', 'mode': 'reduce-overhead'}} "
            f"is needed{guess}"
        )
    if compile_model and what != "model":
        raise ArgumentError(f"compile={given!r} and compile_model=True, which is compile='model': pass one of the two")
    for name in options:
        if name not in ("what", *_OPTIONS):
            raise ArgumentError(
                f"compile has no option {name!r}{did_you_mean(str(name), _OPTIONS)}; it takes 'what' and, for "
                f"torch.compile, {', '.join(_OPTIONS)}"
            )
    if mode is not None and mode not in _MODES:
        raise ArgumentError(f"compile: mode={mode!r}: one of {', '.join(_MODES)} is needed{did_you_mean(mode, _MODES)}")
    return options


class Attempt:
    """Call a compiled function; where that fails, call the one it was made of, and from then on only that.

    An error that both of them raise is the caller's own, and nobody is warned. What a call that may have to compile has
    drawn from the generators or written to buffers is taken back before the next. Of a graph that has run for batches
    of the same shape before nothing is remembered, which would cost about 50 µs per batch: its errors are raised, and
    nothing is computed a second time from what it may have left behind.

    Args:
        options: as `check_compile` returns them.
        compiled: calls the compiled function.
        eager: takes the same arguments, without the compiler.
        modules: whose buffers a call may write to.
        failures: what has failed, of all that a trainer has compiled: one failure is the end of the compiler in it.
    """

    def __init__(
        self,
        options: dict[str, Any],
        compiled: Callable[..., Any],
        eager: Callable[..., Any],
        modules: Sequence[Any],
        failures: list[Exception],
    ) -> None:
        self.options, self.compiled, self.eager, self.failures = options, compiled, eager, failures
        self.modules = [module for module in modules if isinstance(module, nn.Module)]
        #: For which shapes, with gradients and without, a graph has run.
        self._settled: set[Any] = set()
        #: With CUDA graphs the next call overwrites what one returns; figures and gradients are kept for longer.
        self._copies = options.get("mode") in ("reduce-overhead", "max-autotune")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.failures:
            return self.eager(*args, **kwargs)
        # With dynamic shapes one graph is for all.
        shapes = None if self.options.get("dynamic") else (_shapes(args), _shapes(kwargs))
        batch = torch.is_grad_enabled(), shapes
        if batch in self._settled:
            try:
                result = self.compiled(*args, **kwargs)
                return map_tensors(result, _copy) if self._copies else result
            except Exception as error:
                if not _is_compilers(error):
                    error.add_note("in a graph that torch.compile has made; without compile= torch says what is wrong")
                    raise
                # Something else than a shape has changed that the graph was made for. It has not run.
        if torch._C._get_tracing_state() is not None:  # for TensorBoard's graph, say: it is to see the module itself
            return self.eager(*args, **kwargs)
        generators = rng_state()
        buffers = [(b, b.clone()) for module in self.modules for b in module.buffers()]
        try:
            with _switches(self.options["what"]):
                result = self.compiled(*args, **kwargs)
            self._settled.add(batch)
            return map_tensors(result, _copy) if self._copies else result
        except Exception as error:
            failure = error
        set_rng_state(generators)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        result = self.eager(*args, **kwargs)
        self.failures.append(failure)
        warn(_failed(self.options, failure))
        return result


def compile_model(module: nn.Module, options: dict[str, Any], failures: list[Exception]) -> None:
    """Compile a module in place: it, its parameters and its names stay what they are.

    Raises:
        ArgumentError: `torch.compile` refuses an option.
    """
    # Not `module.compile()`, which leaves a module that is torch.nn's own, such as a Sequential, as it is.
    graph = _refusing(options, lambda: torch.compile(_called, **_given(options)))
    switches = _dynamo_switches("model")

    def compiled(*args: Any, **kwargs: Any) -> Any:
        with switches:  # it compiles new shapes by itself
            return graph(module._call_impl, args, kwargs)

    module._compiled_call_impl = Attempt(options, compiled, module._call_impl, [module], failures)


class CompiledStep:
    """The default steps, each as one graph: forward pass and loss, and in training the gradients.

    In training the gradients are there when the graph has run. They are given to the parameters when the loss is
    back-propagated, times what it was scaled by, so that all that comes between forward pass and update goes on as it
    does without the compiler: loss_adjust, accumulation windows, hooks, parameters' own hooks, clipping. The optimizer
    is not compiled: of torch's, ``fused=True`` is faster (`docs/performance.md`).

    Every event fires. Within a step their order stays; what differs is that at `on_after_train_forward` the loss has
    been computed, too. Batches of each shape have a graph of their own, so that an epoch with a short last batch makes
    two; ``'dynamic': True`` makes one for all. Inductor has random numbers of its own: dropout draws others than
    without it, and the same in every run and resumed run of one seed.

    Args:
        trainer: with one model, not through an Accelerator.
        options: as `check_compile` returns them. The modes with CUDA graphs are torch's own, handed on as they are;
            what a graph returns is then copied, as the next one overwrites it. They have not been tried on a GPU here.

    Raises:
        ArgumentError: there are several models, or an Accelerator.
    """

    def __init__(self, trainer: Any, options: dict[str, Any]) -> None:
        if len(trainer.models) > 1:
            raise ArgumentError(
                f"compile='step' is for one model, and here are {', '.join(trainer.models)}; compile='model' compiles "
                "each of several"
            )
        if trainer.accelerator is not None:
            raise ArgumentError("compile='step' does not go with an Accelerator; compile='model' does")
        self.trainer, self.module, self.function = trainer, trainer.model.model, trainer.loss.function
        self.loss = LossHandle(trainer, lambda model_out, batch_y: self._loss)
        self._loss: Any = None
        #: The loss that is about to be back-propagated, with the parameters and their gradients.
        self._pending: tuple[Any, Sequence[Any], Sequence[Any]] | None = None
        self._eager_backward, trainer.execution.backward = trainer.execution.backward, self.backward
        failures: list[Exception] = []
        self._train, self._evaluate = (self._attempt(options, of, failures) for of in (_gradients, _outputs))

    def _attempt(self, options: dict[str, Any], function: Callable[..., Any], failures: list[Exception]) -> Attempt:
        graph = _refusing(options, lambda: torch.compile(function, **{**_given(options), "fullgraph": True}))
        return Attempt(options, graph, _outputs, [self.module, self.function], failures)

    def of(self, step: Callable[..., Any], stage: str, is_default: bool) -> Callable[..., Any]:
        """Return what a stage runs instead of its default step.

        Raises:
            ArgumentError: the step is not the default one, or the optimizers hold what it would not train.
        """
        if not is_default:
            if stage == "predict":
                return step
            owner, function = getattr(step, "__self__", None), getattr(step, "func", step)
            called = getattr(function, "__name__", str(function))
            raise ArgumentError(
                f"compile='step' compiles the default steps, and {stage} runs "
                f"{called if owner is None else f'{type(owner).__name__}.{called}'}; with a step of one's own only "
                "compile='model' can be had"
            )
        modules = [m for m in (self.module, self.function) if isinstance(m, nn.Module)]
        known = {id(p) for module in modules for p in module.parameters()}
        held = [p for group in self.trainer.opt.param_groups for p in group["params"]]
        if stage == "train" and any(id(p) not in known for p in held):
            raise ArgumentError(
                "compile='step' trains the parameters of the model and of a loss that is a module; opt holds others. "
                "Make the loss a torch.nn.Module that has them, or use compile='model'"
            )
        return {"train": self.train_step, "predict": self.predict_step}.get(stage, self.evaluate_step)

    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        """Train on a batch."""
        model_out, loss, parameters, gradients = self._forward(self._train, batch_x, batch_y, True)
        if parameters:  # else it was computed without the compiler, and the loss has its graph
            self._pending = (loss.requires_grad_(), parameters, gradients)
        self._loss = loss
        try:
            self.loss(model_out, batch_y)
        finally:
            self._pending = None

    def evaluate_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
        """Validate or test on a batch."""
        wanted = self.trainer.current_task.do_loss
        model_out, self._loss, *_ = self._forward(self._evaluate, batch_x, batch_y, wanted)
        self.loss(model_out, batch_y)

    def predict_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> Any:
        """Return the model's output for a batch."""
        return self._forward(self._evaluate, batch_x, batch_y, False)[0]

    def _forward(self, graph: Attempt, batch_x: Any, batch_y: Any, wanted: bool) -> Any:
        handle = self.trainer.model
        if handle.before:
            fire(handle.before, trainer=self.trainer)
        args, kwargs = ((), dict(batch_x)) if isinstance(batch_x, TensorDict) else (tuple(batch_x), {})
        result = graph(handle.model, self.function, args, kwargs, batch_y, wanted)
        if handle.after:
            fire(handle.after, trainer=self.trainer, model_out=detached(result[0]))
        return result

    def backward(self, scaled: torch.Tensor) -> None:
        """Give the parameters their gradients, times what the loss was scaled by; back-propagate any other loss."""
        if self._pending is None:
            self._eager_backward(scaled)
            return
        loss, parameters, gradients = self._pending
        if scaled is not loss:
            # torch.autograd.grad, without the Python around it, which is a quarter of the graph's own time.
            one = (torch.ones_like(scaled),)
            factor: Any = _engine_run_backward((scaled,), one, True, False, (loss,), allow_unreachable=True)[0]
            if factor is None:  # a hook back-propagates a loss of its own
                self._eager_backward(scaled)
                return
            gradients = torch._foreach_mul(tuple(gradients), factor)
        self._pending = None
        hooked = any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters)
        present = [p.grad for p in parameters if p.grad is not None]
        if hooked or 0 < len(present) < len(parameters):
            torch.autograd.backward(parameters, gradients)  # as a loss would; it calls the hooks
        elif present:
            torch._foreach_add_(present, gradients)
        else:
            taken: set[int] = set()
            for parameter, gradient in zip(parameters, gradients, strict=True):
                address = gradient.data_ptr()  # what is the gradient of two parameters may be one tensor
                parameter.grad = gradient.clone() if address in taken else gradient
                taken.add(address)


def _shapes(given: Any) -> Any:
    """What of a call's arguments graphs are made for, as a key."""
    if isinstance(given, torch.Tensor):
        return given.shape, given.dtype
    if isinstance(given, (tuple, list)):
        return tuple([_shapes(part) for part in given])
    if isinstance(given, dict):
        return tuple([(name, _shapes(part)) for name, part in given.items()])
    return given if isinstance(given, bool) else type(given)


def _is_compilers(error: Exception) -> bool:
    """Whether an error is from compiling, not from what was compiled."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch._functorch"))


def _called(call: Any, args: Any, kwargs: Any) -> Any:
    return call(*args, **kwargs)


def _outputs(model: Any, loss: Any, args: Any, kwargs: Any, target: Any, wanted: bool) -> Any:
    """Return a batch's output and, where it is wanted, its loss; and no gradients."""
    model_out = model._call_impl(*args, **kwargs)  # the module itself, should it be compiled already
    value = None
    if wanted and loss is not None:
        value = loss(model_out, target)
    elif wanted:
        value = model_out.get("loss") if isinstance(model_out, dict) else model_out
    return model_out, value, (), ()


def _gradients(model: Any, loss: Any, args: Any, kwargs: Any, target: Any, wanted: bool) -> Any:
    """Return a batch's output and loss, both off the graph, and the parameters that it used with their gradients."""
    model_out, value, _, _ = _outputs(model, loss, args, kwargs, target, wanted)
    modules = [module for module in (model, loss) if isinstance(module, nn.Module)]
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    # A gradient may be a view, of one number say; in a graph a copy of any other costs nothing.
    used = [(p, g.clone()) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    # torch.Tensor.detach: what `detached` calls cannot be traced.
    return map_tensors(model_out, torch.Tensor.detach), value.detach(), [p for p, _ in used], [g for _, g in used]


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """What `torch.compile` gets.

    A graph per shape, and of this trainer alone, so that which one runs does not depend on what ran before: a resumed
    run makes the same numbers.
    """
    given: dict[str, Any] = {"dynamic": False}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        given["isolate_recompiles"] = True
    return {**given, **{name: value for name, value in options.items() if name != "what"}}


def _refusing(options: dict[str, Any], make: Callable[[], Any]) -> Any:
    """Return what `make` does; what it refuses is an argument's fault."""
    try:
        return make()
    except Exception as error:
        raise ArgumentError(f"compile={options!r}: {type(error).__name__}: {_gist(error)}") from error


@contextmanager
def _switches(what: str) -> Iterator[None]:
    """Let the compiler do what by default it does not."""
    import torch._functorch.config as functorch

    # A backward pass that cannot be compiled shows with its forward pass, while there is another way.
    at_once = "force_non_lazy_backward_lowering"
    with _dynamo_switches(what), functorch.patch({at_once: True} if hasattr(functorch, at_once) else {}):
        yield


def _dynamo_switches(what: str) -> AbstractContextManager[None]:
    import torch._dynamo.config as dynamo

    switches = {"skip_nnmodule_hook_guards": False}  # hooks that a module gets later are seen
    if what == "step":
        switches["trace_autograd_ops"] = True  # gradients are part of the graph
        if not hasattr(dynamo, "trace_autograd_ops"):
            raise NotImplementedError(f"torch {torch.__version__} cannot put gradients into a graph")
    return dynamo.patch(switches)  # type: ignore[no-any-return]


def _failed(options: dict[str, Any], error: BaseException) -> str:
    """Say what failed and what can be done."""
    what, link = options["what"], error
    while (inner := getattr(link, "inner_exception", link.__cause__)) is not None:
        link = inner
    kind, text = type(link).__name__, f"{error} {link}"
    if kind == "InvalidCxxCompiler":
        fix = "install a C++ compiler (g++ or clang++, or name one in the environment variable CXX)"
    elif "recompile" in text:
        fix = f"batches have too many shapes: compile={{'what': {what!r}, 'dynamic': True}} makes one graph for all"
    elif isinstance(error, NotImplementedError):
        fix = "update torch, or use compile='model'"
    elif what == "step" and (kind in ("Unsupported", "UserError") or "data-dependent" in text):
        fix = "use compile='model', which compiles around what cannot be traced, or change that"
    else:
        fix = f"compile={{'what': {what!r}, 'backend': 'aot_eager'}} tells whether it is the backend's fault"
    return (
        f"compile={what!r} failed, and the run goes on without the compiler: {kind}: "
        f"{_gist(link)}; {fix}, or leave compile= out"
    )


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if isinstance(tensor, nn.Parameter) else tensor.clone()


def _gist(error: BaseException) -> str:
    """The line of a message that says most: dynamo's explanation, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    told = "Explanation: "
    return next((line.removeprefix(told) for line in lines if line.startswith(told)), lines[0]).rstrip(".")
