"""The scopes of a run: errors are seen, asked about and named; and everything is put back, whatever happened."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import CodeType, TracebackType
from typing import Any

import torch

from .callbacks.stop_file import StopFile
from .data.workers import WatchfulIterator
from .errors import HookError, NonFiniteLossError, StateError, StopLoopException, add_note, chain
from .events import EVENTS, check_callback, detach_removed, method_of
from .execution.window import drop_gradients
from .hooks import Hooks, Listeners, fire
from .plan import trained_modules
from .resume import advice, close_run
from .signals import SIGNALS, Interruptions
from .task import EpochTask, Steps
from .utils.warn import warn

ANSWERS = ("skip_batch", "stop")
#: Where torch lies, and what it says of inputs, outputs and targets that do not go together: the doctor knows why.
_TORCH = os.path.dirname(torch.__file__) + os.sep
_CHECKED = re.compile(
    r"mat1 and mat2|d(ata)?type|scalar type|type .* should be the same|expected input.* channels|input_size|"
    r"must be Tensor, not|is out of bounds|index out of range in self|between 0 and 1|more than 1 value|"
    r"to match target|must match the size"
)


class RunScope:
    """One call of fit, validate, test or predict, from attaching its callbacks to cleaning up after it.

    On leaving, `on_cleanup` runs once for every callback, each module gets back the train or eval mode it had, and a
    script that was interrupted exits with 128 + the signal's number. A run inside another (a test in a hook of `fit`)
    puts back what it found, and leaves the cleaning up to the outer one.

    Args:
        trainer: whose run it is.
        name: what it is; in ``'fit'`` SIGINT and SIGTERM ask the run to stop, instead of raising wherever it stands.
        tasks: the run's tasks by stage.
    """

    OWN = ("hooks", "progress", "current_task", "stage_tasks", "stage_results", "running", "stopping", "stop_reason")

    def __init__(self, trainer: Any, name: str, tasks: Mapping[str, Any]) -> None:
        self.trainer, self.name, self.tasks = trainer, name, tasks
        self.interruptions = Interruptions(trainer.stop) if name == "fit" else None

    def _resolve(self) -> Hooks:
        """Check the callbacks, also those that came after the trainer was made, and find out who listens to what."""
        trainer = self.trainer
        for callback in trainer.callbacks:
            check_callback(callback)
        detach_removed(trainer)
        if not trainer.running:
            trainer.attached = list(trainer.callbacks)
        for callback in trainer.callbacks:
            callback.attach(trainer)
        return Hooks(listeners_of(trainer) if self.name == "fit" else trainer.callbacks)

    def __enter__(self) -> RunScope:
        trainer = self.trainer
        # What can fail comes first, so that a run that cannot begin leaves everything as it was.
        try:
            hooks = self._resolve()
            if self.name == "fit" and trainer.aside is not None:
                trainer.aside.put_back()
                trainer.aside = None
            if self.name == "fit" and trainer.pending is None:
                drop_gradients(trainer)
        except BaseException:  # a warning, where those are errors, among them
            if self.name == "fit":
                close_run(trainer)
            raise
        self.outer = {name: getattr(trainer, name) for name in self.OWN}
        self._modes = [(m, m.training) for module in trained_modules(trainer) for m in module.modules()]
        self._forward = [(h, h.before, h.after, h.model) for h in (trainer.model, *trainer.models.values())]
        trainer.hooks, trainer.running, trainer.stage_tasks = hooks, self.name, self.tasks
        trainer.current_task, trainer.stage_results = None, []
        trainer.stopping, trainer.stop_reason, trainer.answered = False, "", None
        if self.name == "fit":
            trainer.progress.start(fresh=trainer.pending is None)
        else:
            trainer.progress = replace(trainer.progress)
        self._counted, self._count = list(trainer.opt), trainer.progress.count
        for optimizer in self._counted:
            optimizer.count_by(self._count)
        if self.interruptions is not None:
            self.interruptions.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        first = error
        for hook in () if self.outer["running"] else self.trainer.hooks.on_cleanup:
            try:
                fire((hook,), trainer=self.trainer)
            except StopLoopException:  # the run is over as it is
                pass
            except BaseException as later:
                describe(later, self.trainer)
                if first is None:
                    first = later
                else:
                    chain(first, later)
        if self.interruptions is not None:
            self.interruptions.over = True
        try:
            self._put_back()
        finally:
            if self.interruptions is not None:
                self._after_signal(first)
        if first is not None and first is not error:
            raise first

    def _put_back(self) -> None:
        trainer, nested = self.trainer, bool(self.outer["running"])
        if self.name == "fit":
            close_run(trainer)
            trainer.idle = None
        for module, training in self._modes:
            module.training = training
        for tasks in self.tasks.values():
            for task in tasks:
                task.release()
        for optimizer in (*self._counted, *trainer.opt):  # a hook may have replaced one
            optimizer.count_no_more(self._count)
        keep: tuple[str, ...] = ("progress", "stage_tasks", "stage_results") if self.name == "fit" else ()
        if not nested:
            keep, trainer.answered = (*keep, "stop_reason"), None
        elif trainer.stopping:  # whoever asks for a stop in a run inside a run means both
            keep = (*keep, "stopping", "stop_reason")
        for name, value in self.outer.items():
            if name not in keep:
                setattr(trainer, name, value)
        for handle, before, after, module in self._forward:
            handle.before, handle.after, handle.model = before, after, module

    def _after_signal(self, error: BaseException | None) -> None:
        assert self.interruptions is not None
        try:
            self.interruptions.__exit__()
        except KeyboardInterrupt as second:  # it came when one of the program's own handlers was there again
            self.interruptions.__exit__()
            if self.interruptions.received is None:
                raise
            error = error or second
        received, trainer = self.interruptions.received, self.trainer
        if received is None or (error is not None and not isinstance(error, KeyboardInterrupt)):
            return
        try:
            if not any(getattr(c, "keeps_checkpoints", False) for c in trainer.callbacks):
                where = f"epoch {trainer.progress.epoch + 1}, update {trainer.progress.step}"
                message = f"{received.name}: stopped in {where}; nothing was saved, as no callback keeps checkpoints"
                warn(message)
        finally:  # also where warnings are errors: who sent the signal goes by the exit code
            if self.interruptions.exit_code is not None:
                raise SystemExit(self.interruptions.exit_code) from error


class Guard:
    """Let errors be seen and answered by `on_exception` before they leave; StopLoopException only stops the run."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            return False
        if isinstance(error, StopLoopException):
            self.trainer.stop(str(error) or "StopLoopException")
            return True
        if _ended_with_the_workers(error, self.trainer):
            return True
        if self.trainer.answered is error:  # in a batch, where the answer was to let it leave
            return False
        if ask(self.trainer, error) == "stop":
            self.trainer.stop(f"on_exception: {type(error).__name__}: {error}")
            return True
        return False


def _ended_with_the_workers(error: BaseException, trainer: Any) -> bool:
    """Whether a signal has asked the run to stop, and has ended loading processes before their next batch was there."""
    if not isinstance(error, RuntimeError) or trainer.stop_reason not in {number.name for number in SIGNALS}:
        return False
    codes = [frame.f_code for frame in _frames(error)]
    loading = WatchfulIterator._get_data.__code__ in codes or WatchfulIterator.__init__.__code__ in codes
    return "DataLoader worker" in str(error) and loading and codes.count(EpochTask.run.__code__) < 2


def listeners_of(trainer: Any) -> list[Any]:
    """The callbacks of a fit; where it has a folder, a file STOP in it is looked for, too."""
    if trainer.run_folder is None or any(isinstance(c, StopFile) for c in trainer.callbacks):
        return list(trainer.callbacks)
    return [*trainer.callbacks, StopFile()]


def ask(trainer: Any, error: BaseException, in_batch: bool = False) -> str | None:
    """Describe an error, show it to every callback's on_exception, and return the strongest answer.

    An answer that is none of the three, or an error in on_exception, is chained to the first error, which is then
    raised whatever the others answer. StopLoopException raised there answers 'stop'.
    """
    describe(error, trainer)
    trainer.answered = error
    answers: list[str | None] = []
    failed = False
    for hook in trainer.hooks.on_exception:
        try:
            with torch.no_grad():
                answer = hook(trainer=trainer, exception=error)
            if not (answer is None or (isinstance(answer, str) and answer in ANSWERS)):
                name = _listener(trainer, hook)[0]
                raise HookError(f"{name} returned {answer!r}; None, 'skip_batch' or 'stop' is needed")
            answers.append(answer)
        except StopLoopException:
            answers.append("stop")
        except BaseException as later:
            describe(later, trainer)
            chain(error, later)
            failed = True
    if failed:
        return None
    if "stop" in answers:
        return "stop"
    if "skip_batch" in answers and not in_batch:
        add_note(error, "on_exception answered 'skip_batch', but there is no batch to skip here")
        return None
    return "skip_batch" if "skip_batch" in answers else None


def fire_each(trainer: Any, listeners: Listeners, **arguments: Any) -> None:
    """Call the listeners of an event, of which one that wants to end the run does not keep it from the others.

    An error leaves, unless on_exception answers 'stop' to it.
    """
    for hook in listeners:
        try:
            fire((hook,), trainer=trainer, **arguments)
        except StopLoopException as stop:
            trainer.stop(str(stop) or "StopLoopException")
        except BaseException as error:
            if trainer.answered is error or ask(trainer, error) != "stop":
                raise
            trainer.stop(f"on_exception: {type(error).__name__}: {error}")


def describe(error: BaseException, trainer: Any) -> None:
    """Note on an error where it happened: callback and event; stage, epoch and, within a batch, its index."""
    progress, running = trainer.progress, trainer.running
    # A loss that is not finite shows in whoever reads it first, which says nothing of where it comes from.
    name, event = ("", "") if isinstance(error, NonFiniteLossError) else culprit(error, trainer)
    parts = [f"callback {name}"] if name else []
    stage = progress.stage if running == "fit" else running
    parts.append(f"stage {stage}" if trainer.current_task is not None else running)
    if running == "fit" or stage == "val":
        closed = progress.epoch and not progress.stage and event in ("on_checkpoint", "after_fit", "on_cleanup")
        parts.append(f"epoch {progress.epoch + (not closed)}")
    if any(frame.f_code is EpochTask.run.__code__ for frame in _frames(error)):
        done = event.startswith("after_") and event.endswith("_batch")  # by then the batch has been counted
        parts.append(f"batch {progress.batch - done} (counted from 0)")
    if isinstance(error, TypeError) and trainer.loss.function is None and running != "predict" and not name:
        add_note(error, "Trainer(loss=None) gives the whole batch, target included, to the model; was loss= forgotten?")
    notes = [advice(trainer)] if isinstance(error, StateError) and trainer.resuming is not None else []
    if running == "fit" and stage == "train" and not name and _is_told_by_check(error, trainer.current_task):
        notes.append("trainer.check(...), with what fit was given, says why and how to mend it")
    for note in (*notes, f"in {', '.join(parts)}"):
        if note not in getattr(error, "__notes__", []):
            add_note(error, note)


def _is_told_by_check(error: BaseException, task: Any) -> bool:
    """Whether torch has refused what model or loss were given at first, for a reason that `Trainer.check` knows."""
    if not isinstance(error, (RuntimeError, TypeError, ValueError, IndexError)) or not _CHECKED.search(str(error)):
        return False
    codes = [frame.f_code for frame in _frames(error)]
    by_torch = codes[-1].co_filename.startswith(_TORCH)
    return by_torch and Steps.train_step.__code__ in codes and bool(task is not None and task.first_batch)


def culprit(error: BaseException, trainer: Any) -> tuple[str, str]:
    """Find the hook that an error came out of, by its traceback: ``("Name.on_event", "event")``, or two empty strings.

    Whoever calls hooks does it in a loop ``for hook in ...``; the hook whose own frame follows is the one.
    """
    frames = _frames(error)
    for caller, called in itertools.pairwise(frames):
        hook = caller.f_locals.get("hook")
        if hook is not None and called.f_code is _code(hook):
            name, event = _listener(trainer, hook)
            if event:
                return name, event
    return "", ""


def _frames(error: BaseException) -> list[Any]:
    """The frames that an error came through, the outermost first."""
    frames, link = [], error.__traceback__
    while link is not None:
        frames.append(link.tb_frame)
        link = link.tb_next
    return frames


def _code(hook: Any) -> CodeType | None:
    """The code that runs first when `hook` is called."""
    while isinstance(hook, partial):
        hook = hook.func
    function = getattr(hook, "__func__", hook)
    if not hasattr(function, "__code__"):  # an object that can be called
        function = vars(type(function)).get("__call__")
    return getattr(function, "__code__", None)


def _listener(trainer: Any, hook: Any) -> tuple[str, str]:
    """The name of a resolved hook for messages, ``Name.on_event``, and its event."""
    for event in EVENTS:
        if any(known is hook for known in getattr(trainer.hooks, event)):
            method = method_of(event)
            owner = next((c for c in trainer.callbacks if getattr(c, method, None) == hook), None)
            return f"{type(owner).__name__ if owner is not None else '?'}.{method}", event
    return "", ""
