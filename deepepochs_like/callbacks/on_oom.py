"""`OnOOM`: what becomes of a batch for which there is not enough memory."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

from ..data.resume import length_of
from ..errors import ArgumentError, BatchError, a_kind, add_note, did_you_mean
from ..rng import rng_state, set_rng_state
from ..tensors import TensorTuple, concat, detached, map_tensors
from ..types import StateDict
from ..utils.warn import warn
from .base import Callback
from .in_flight import InFlight, batch_in_flight, frames_of, let_go

ANSWERS = ("raise", "skip", "halve")
#: What errors of allocators say that are no `torch.OutOfMemoryError`.
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
#: How many samples the loss is tried on, before it is trusted to be a mean over samples.
_SAMPLE = 8
_SMALLER = "take smaller batches, with Trainer(accumulate=n) if they are to count as one; or answer with OnOOM('halve')"
#: The index that torch's losses of classes ignore where they are told no other; and those that can weigh classes.
_IGNORED, _BY_CLASS = -100, (nn.functional.cross_entropy, nn.functional.nll_loss)
#: How many batches may be left out without an update, of data that do not tell how many batches an epoch has.
_PATIENCE = 1000


class OnOOM(Callback):
    """Answer an out-of-memory error in a batch: raise it, leave the batch out, or train it in parts.

    ``'raise'`` notes on the error how many samples the batch had and what can be done. ``'skip'`` goes on without the
    batch, with one warning per epoch; where no batch of an epoch fits, that is an error. ``'halve'`` trains the batch
    in two parts, or in four, eight, ..., as many as it takes, and then makes one update: with the gradient of the whole
    batch, each part weighing as much as it has samples, also within an accumulation window. The figures, the schedulers
    and the other callbacks have one batch; hooks of forward and backward passes fire for each part.

    Where that would not be exact, the error is raised, with a note that says why: a step of one's own, a model that
    looks at the whole batch (BatchNorm in training mode) or changes its buffers with every forward pass (spectral
    norm), a loss that is no mean over samples (all are tried on some of the batch's samples), a batch that cannot be
    cut, an error in the update itself, or one that came when gradients were being added to those of earlier batches of
    a window. A batch of evaluation can be skipped, not halved; in distributed training neither is done. Random numbers,
    of dropout say, are drawn anew for the parts.

    Args:
        answer: ``'raise'``, ``'skip'`` or ``'halve'``.
        priority: its place among the callbacks.

    Attributes:
        skipped: how many batches were left out.
        halved: how many were trained in parts.

    Raises:
        ArgumentError: `answer` is none of the three.
        BatchError: at the end of an epoch of which every batch was left out.

    Example:
        >>> import warnings
        >>> from deepepochs_like import OnOOM, Trainer
        >>> def loss(preds, targets):
        ...     if len(preds) > 4:
        ...         raise torch.OutOfMemoryError("CUDA out of memory")
        ...     return torch.nn.functional.mse_loss(preds, targets)
        >>> oom, data = OnOOM('halve'), [(torch.ones(8, 2), torch.ones(8, 1))]
        >>> fit = Trainer(torch.nn.Linear(2, 1), loss, epochs=2, callbacks=[oom], verbose=0).fit(data)
        >>> oom.halved, len(fit['train']['loss'])
        (2, 2)
    """

    def __init__(self, answer: Literal["raise", "skip", "halve"] = "raise", priority: float = 1) -> None:
        super().__init__(priority)
        if answer not in ANSWERS:
            raise ArgumentError(
                f"answer={answer!r}: one of {', '.join(map(repr, ANSWERS))} is needed"
                f"{did_you_mean(str(answer), ANSWERS)}"
            )
        self.answer = answer
        self.skipped = self.halved = 0
        #: An error that has been explained.
        self._noted: BaseException | None = None
        self._told = (0, 0)
        #: How many were left out before the stage, and which was the first since that was last said.
        self._before = 0
        self._first = ""

    def state_dict(self) -> StateDict:
        return {"skipped": self.skipped, "halved": self.halved}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.skipped, self.halved = int(state_dict["skipped"]), int(state_dict["halved"])
        self._told, self._before = (self.skipped, self.halved), self.skipped

    def on_before_train_epochs(self, trainer: Any, tasks: Any, epoch_idx: int = 0) -> None:
        self._before = self.skipped

    on_before_val_epochs = on_before_test_epochs = on_before_train_epochs

    def on_before_train_epoch(self, trainer: Any, task: Any) -> None:
        if self.answer == "halve" and not _own_step(trainer, task):
            task.run_step = partial(self._step, trainer, task, task.run_step)

    def on_exception(self, trainer: Any, exception: BaseException) -> str | None:
        """Answer for batches that are not trained in parts, and note what can be done about the others."""
        noted, self._noted = self._noted, None
        if exception is noted or not is_out_of_memory(exception):
            return None
        batch = batch_in_flight(trainer)
        if batch is None:
            add_note(exception, "OnOOM: it did not happen in the step of a batch, so that no batch can be left out")
            return None
        if self.answer == "raise":
            add_note(
                exception,
                f"OnOOM: memory ran out in a batch{_of(batch.batch_x)}: take smaller ones, with Trainer(accumulate=n) "
                "if they are to count as one; or answer with OnOOM('halve') or OnOOM('skip')",
            )
            return None
        why = _half_updated(exception) or _others_wait(trainer)
        if not why and self.answer == "halve":
            why = _not_trained(batch.task) or _own_step(trainer, batch.task) or "it was not in its step"
        let_go(exception)
        if why:
            self._refuse(exception, batch.batch_x, why)
            return None
        if why := self._in_vain(trainer, batch.task):
            self._told = (self.skipped, self._told[1])  # by the note
            self._refuse(exception, batch.batch_x, why)
            return None
        self.skipped += 1
        left_out = " (trained, but missing from the figures)" if trainer.progress.updated else ""
        which = f"batch {batch.batch_idx} (counted from 0) of stage {batch.task.stage!r}"
        self._first = self._first or f"{which}{_of(batch.batch_x)}{left_out}"
        return "skip_batch"

    def _refuse(self, error: BaseException, batch_x: Any, why: str) -> None:
        done = "left out" if self.answer == "skip" else "trained in parts"
        add_note(error, f"OnOOM({self.answer!r}): the batch{_of(batch_x)} is not {done}: {why}")
        self._noted = error

    def _step(self, trainer: Any, task: Any, step: Any, batch_x: Any, batch_y: Any, **step_args: Any) -> Any:
        """Run a step, in parts if memory runs out."""
        try:
            return step(batch_x, batch_y, **step_args)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            why, batch = _half_updated(error), InFlight(task, batch_x, batch_y, trainer.progress.batch)
            let_go(error)
            if why := why or why_not_halved(trainer, batch):
                self._refuse(error, batch_x, why)
                raise
        self._in_parts(trainer, batch)
        return None

    def _in_parts(self, trainer: Any, batch: InFlight) -> None:
        """Train a batch in as many parts as it takes."""
        samples, parts = _samples(batch.batch_x) or 1, 2
        kept = _Window(trainer)
        while True:
            kept.put_back()
            try:
                train_in_parts(trainer, batch, min(parts, samples))
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                why = _half_updated(error) or ("it was behind the update" if trainer.progress.updated else "")
                if why or parts >= samples:
                    self._refuse(error, batch.batch_x, why or "there is not enough memory for a single sample")
                    raise
                let_go(error)
            parts *= 2
        self.halved += 1

    def _in_vain(self, trainer: Any, task: Any) -> str:
        """Why it makes no sense to leave out still more; an epoch that has no end would never end otherwise."""
        skipped, most = self.skipped - self._before, length_of(task.dataloader) or _PATIENCE
        if task.stage != "train" or skipped < most or trainer.progress.step > trainer.progress.began:
            return ""
        return f"the {skipped} before it were left out already, without a single update; {_SMALLER}"

    def on_after_train_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int = 0) -> None:
        """Refuse to go on where no batch fits: an epoch without any would look like one that went well."""
        if self.skipped > self._before and not self._any_fitted(trainer, tasks, metrics):
            what = f"epoch {epoch_idx + 1}" if trainer.running == "fit" else f"the {trainer.running}"
            self._told = (self.skipped, self._told[1])  # by the error
            raise BatchError(
                f"OnOOM('skip'): memory ran out in every batch of stage {tasks[0].stage!r} in {what}, so that nothing "
                f"was done; the first was {self._first or 'left out before'}: {_SMALLER}"
            )
        if trainer.running != "fit":
            self._tell(f"the {trainer.running}")

    on_after_val_epochs = on_after_test_epochs = on_after_train_epochs

    def _any_fitted(self, trainer: Any, tasks: Any, metrics: Any) -> bool:
        if tasks[0].stage == "train":
            return bool(len(metrics)) or trainer.progress.step > trainer.progress.began
        lengths = [length_of(task.dataloader) for task in tasks]
        known = sum(length for length in lengths if length is not None)  # 0 where no loader tells
        return bool(len(metrics)) or self.skipped - self._before < known

    def on_after_epoch(
        self, trainer: Any, train_tasks: Any, val_tasks: Any, train_metrics: Any, val_metrics: Any, epoch_idx: int
    ) -> None:
        halved = self.halved - self._told[1]
        self._tell(f"epoch {epoch_idx + 1}")
        if trainer.verbose and halved:
            trainer.print(f"epoch {epoch_idx + 1}: batches for which memory ran out: {halved} trained in parts")

    def on_after_fit(self, trainer: Any) -> None:
        self._tell(f"epoch {trainer.progress.epoch + 1}")  # of one that was stopped

    def on_cleanup(self, trainer: Any) -> None:
        fit = trainer.running == "fit"  # one that something else has ended: what was left out is not passed over
        self._tell(f"epoch {trainer.progress.epoch + 1}" if fit else f"the {trainer.running}")

    def _tell(self, what: str) -> None:
        """Say how many batches were left out since that was last said."""
        skipped, first = self.skipped - self._told[0], self._first
        self._told, self._first = (self.skipped, self.halved), ""
        if skipped:
            left_out = "1 batch was" if skipped == 1 else f"{skipped:,} batches were"
            message = f"out of memory: {left_out} left out in {what}, {self.skipped:,} so far; the first was {first}"
            warn(message)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, of a GPU or of the machine.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")), is_out_of_memory(OSError())
        (True, False)
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def why_not_halved(trainer: Any, batch: InFlight) -> str:
    """Why a batch cannot be trained in parts with exactly the gradient of the whole; nothing where it can."""
    window = trainer.execution.window
    if trainer.progress.updated:
        return "memory ran out behind its update"
    if why := _others_wait(trainer):
        return why
    if getattr(trainer.accelerator, "gradient_accumulation_steps", 1) > 1:
        return "the Accelerator accumulates gradients, and does not tell whose they are; use Trainer(accumulate=n)"
    if window is not None and window.holds(batch.batch_idx) and window.batches > 1:
        return (
            f"its gradients were being added to those of the {window.batches - 1} batches before it in the "
            "accumulation window, and cannot be told from them any more"
        )
    for model in trainer.models.values():
        for name, layer in model.trained_module.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:  # also without statistics
                return f"{name or 'the model'} ({type(layer).__name__}) normalises over the whole batch"
    return _why_not_cut(batch) or _why_no_mean(trainer, batch)


def train_in_parts(trainer: Any, batch: InFlight, parts: int) -> None:
    """Do what the default step does with a batch, a part at a time."""
    task, weight, shares = batch.task, batch.task.batch_weight, _shares(batch, parts)

    def step(batch_x: Any, batch_y: Any) -> None:
        outputs, mean = [], None
        for part_x, part_y, share in shares:
            model_out = trainer.model(part_x)
            # In an accumulation window the batch counts once, and as a whole.
            options = {"do_optimize": False, "do_metric": False, "weight": weight}
            loss = trainer.loss(model_out, part_y, loss_adjust=share, **options)
            mean = loss.detach() * share if mean is None else mean + loss.detach() * share
            outputs.append(detached(model_out))
            del model_out, loss
        whole = concat(outputs)
        if task.figures.slots:
            task.figures.take_outputs(whole, batch_y, weight)
        trainer.optimize(loss=mean)
        task.figures.loss = mean, weight
        trainer.fire_metrics(mean, whole, batch_y)

    task.executed(step)(batch.batch_x, batch.batch_y)


class _Window:
    """The gradients, and the accumulation window, as they were before a batch."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.window = trainer, trainer.execution.window
        held = [p for group in trainer.opt.param_groups for p in group["params"]]
        keep = self.window is not None and self.window.batches and not self.window.holds(trainer.progress.batch)
        #: What earlier batches of a window have added up; before a batch that begins one there is nothing.
        self.gradients = [(p, p.grad.clone() if keep and p.grad is not None else None) for p in held]
        self.counted = dict(vars(self.window)) if keep else {}

    def put_back(self) -> None:
        for parameter, gradient in self.gradients:
            parameter.grad = None if gradient is None else gradient.clone()
        if self.counted:
            vars(self.window).update(self.counted)
        elif self.window is not None:
            self.window.reset()


def _of(batch_x: Any) -> str:
    samples = _samples(batch_x)
    return "" if samples is None else f" of {samples} samples"


def _not_trained(task: Any) -> str:
    return "" if task.stage == "train" else f"it is a batch of stage {task.stage!r}, which is not trained on"


def _own_step(trainer: Any, task: Any) -> str:
    """Which step of somebody's own trains a task's batches; nothing where it is the default one."""
    step = task._bound["train"].step
    owner = getattr(step, "__self__", None)
    if getattr(step, "__func__", None) == _default_step(trainer) or (owner and owner is trainer.compiled_step):
        return ""
    name = getattr(getattr(step, "func", step), "__name__", str(step))
    called = name if owner is None else f"{type(owner).__name__}.{name}"
    return f"{called} is no default step, and what it does with half of a batch only its author knows"


def _half_updated(error: BaseException) -> str:
    """Why nothing can be made good: the error came out of an optimizer, in the middle of its work."""
    for frame in frames_of(error):
        if frame.f_code.co_name == "step" and isinstance(frame.f_locals.get("self"), torch.optim.Optimizer):
            name = type(frame.f_locals["self"]).__name__
            return f"{name} ran out of memory half-way through an update of the weights"
    return ""


def _others_wait(trainer: Any) -> str:
    """Why one process of several can do nothing by itself."""
    if getattr(trainer.accelerator, "num_processes", 1) > 1:
        return "in distributed training the other processes would wait for this one's gradients for ever"
    return ""


def _default_step(trainer: Any) -> Any:
    """The training step that runs where no other is written."""
    return next(c for c in type(trainer).__mro__ if c.__name__ == "Steps").train_step  # type: ignore[attr-defined]


def _leaves(value: Any) -> list[Any]:
    """What a batch holds, in any nesting."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, (list, tuple)) else [value]


def _samples(batch_x: Any) -> int | None:
    """How many samples a batch has; None where its tensors do not tell."""
    first = next((leaf for leaf in _leaves(batch_x) if isinstance(leaf, torch.Tensor) and leaf.ndim), None)
    return None if first is None else first.shape[0]


def _why_not_cut(batch: InFlight) -> str:
    samples = _samples(batch.batch_x)
    for leaf in _leaves((batch.batch_x, batch.batch_y)):
        if leaf is not None and not (isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] == samples):
            shown = f"a tensor {tuple(leaf.shape)}" if isinstance(leaf, torch.Tensor) else f"{a_kind(leaf)}"
            return f"it cannot be cut by samples: beside {samples} of them it holds {shown}"
    if samples is not None and samples < 2:
        return "it is a single sample"
    whole, size = batch.task.batch_weight, batch.task.batch_size
    if size is None and whole != samples:
        return f"it has {samples} samples, and weighs {whole}"
    if callable(size):
        parts = sum(weight for _, _, weight in _cut(batch, 2))
        if parts != whole:
            return f"batch_size=... gives the whole {whole}, and its parts {parts} together"
    return ""


def _why_no_mean(trainer: Any, batch: InFlight) -> str:
    """Why the loss of a batch is not the mean of its samples' losses, tried on some of its outputs."""
    function = trainer.loss.function
    if function is None:
        return "the model computes its own loss, of which it is not known whether it is a mean over samples"
    options: dict[str, Any] = {}
    while isinstance(function, partial):
        options, function = {**function.keywords, **options}, function.func
    name = getattr(function, "__name__", type(function).__name__)
    # A size that is computed may count those targets that are not ignored.
    index = None if callable(batch.task.batch_size) else _ignored(batch.batch_y, function, options)
    if index is not None:
        return f"{name} ignores some of its targets (ignore_index={index}), so that samples do not weigh alike"
    by_class = function in _BY_CLASS or isinstance(function, (nn.CrossEntropyLoss, nn.NLLLoss))
    if by_class and options.get("weight", getattr(function, "weight", None)) is not None:
        return f"{name} weighs classes, so that samples do not weigh alike"
    count = max(2, min((_samples(batch.batch_x) or 0) // 2, _SAMPLE))
    while True:
        try:
            alone, whole, parts, changed = _tried(trainer, batch, count)
            break
        except Exception as error:
            if not is_out_of_memory(error):
                return f"{name} does not take a part of the batch ({type(error).__name__}: {error})"
            if count == 2:
                return f"there is not even enough memory to find out whether {name} is a mean over samples"
            let_go(error)
            count = max(2, count // 2)
    if changed:
        return f"{changed!r}, a buffer of the model, changes with every forward pass, of which there would be more"
    if not alone:
        return "what the model gives for a sample depends on the others in the batch"
    if not torch.allclose(whole, parts, rtol=1e-3, atol=1e-6, equal_nan=True):
        return f"{name} is no mean over samples: of some it is {float(whole):.6g}, of their halves {float(parts):.6g}"
    return ""


def _ignored(batch_y: Any, function: Any, options: dict[str, Any]) -> int | None:
    """The index that a loss ignores, as far as is known, where a batch has targets that are it."""
    told = "ignore_index" in options or hasattr(function, "ignore_index")
    index = options["ignore_index"] if "ignore_index" in options else getattr(function, "ignore_index", _IGNORED)
    if index is None or not (told or _may_ignore(function)):
        return None
    targets = (leaf for leaf in _leaves(batch_y) if isinstance(leaf, torch.Tensor) and _has_indices(leaf))
    # In their own type the index would wrap around: of eight bits -100 is 156, which nobody ignores.
    found = any(bool((leaf.long() == index).any()) for leaf in targets if told or leaf.dtype == torch.int64)
    return index if found else None


def _may_ignore(function: Any) -> bool:
    """Whether a loss that has no index of its own may ignore one; of somebody's own it is not known what it calls."""
    home = getattr(function if hasattr(function, "__name__") else type(function), "__module__", "")
    if home in ("torch.nn.functional", "torch.nn.modules.loss"):
        return "ignore_index" in getattr(function, "__annotations__", {})
    return True


def _has_indices(targets: torch.Tensor) -> bool:
    return not targets.is_floating_point() and not targets.is_complex()


def _tried(trainer: Any, batch: InFlight, count: int) -> tuple[bool, torch.Tensor, torch.Tensor, str]:
    """Try the model and the loss on samples from all over a batch; nothing is left of the trial.

    Returns:
        Whether samples have the outputs they have alone (taken for granted where outputs are random, by dropout say);
        the loss of all; what it is by halves; and the name of a buffer that the forward pass has changed, or nothing.
    """
    function, model = trainer.loss.function, trainer.model.model
    chosen = torch.linspace(0, (_samples(batch.batch_x) or count) - 1, count).long()
    few_x, few_y = (map_tensors(v, lambda t: t[chosen.to(t.device)]) for v in (batch.batch_x, batch.batch_y))
    shares = _shares(InFlight(batch.task, few_x, few_y, batch.batch_idx), 2)
    generators = rng_state()
    buffers = [(name, buffer, buffer.clone()) for name, buffer in model.named_buffers()]
    changed = ""
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager") if trainer.compile else nullcontext():
            once, again, *outputs = (_called(model, x) for x in (few_x, few_x, *(part for part, _, _ in shares)))
            joined = concat(outputs)
            alone = not _alike(once, again) or _alike(once, joined)
            changed = next((name for name, buffer, before in buffers if not torch.equal(buffer, before)), "")
            whole = function(joined, few_y)
            parts = [function(out, part_y) * share for out, (_, part_y, share) in zip(outputs, shares, strict=True)]
    finally:
        set_rng_state(generators)
        for _, buffer, before in buffers:
            buffer.copy_(before)
    return alone, whole, parts[0] + parts[1], changed


def _called(model: nn.Module, batch_x: Any) -> Any:
    return model(**batch_x) if isinstance(batch_x, dict) else model(*batch_x)


def _alike(left: Any, right: Any) -> bool:
    """Whether two outputs hold the same numbers, but for rounding."""
    pairs = zip(_leaves(left), _leaves(right), strict=True)
    tensors = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)]
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-2, atol=1e-4, equal_nan=True) for a, b in tensors)


def _slice(value: Any, start: int, stop: int) -> Any:
    """The samples from `start` to `stop` of all tensors in a structure."""
    return map_tensors(value, lambda tensor: tensor[start:stop])


def _cut(batch: InFlight, parts: int) -> list[tuple[Any, Any, Any]]:
    """The parts of a batch, with what each weighs."""
    samples, size = _samples(batch.batch_x) or 1, batch.task.batch_size
    bounds = [samples * i // parts for i in range(parts + 1)]
    result = []
    for start, stop in pairwise(bounds):
        part_x, part_y = _slice(batch.batch_x, start, stop), _slice(batch.batch_y, start, stop)
        weight: Any = stop - start
        if callable(size):
            alone = isinstance(part_x, TensorTuple) and len(part_x) == 1
            weight = size(part_x[0] if alone else part_x, part_y)
        result.append((part_x, part_y, weight))
    return result


def _shares(batch: InFlight, parts: int) -> list[tuple[Any, Any, Any]]:
    """The parts of a batch, with what each is of the whole."""
    cut = _cut(batch, parts)
    total = sum(weight for _, _, weight in cut)
    return [(part_x, part_y, weight / total) for part_x, part_y, weight in cut]
