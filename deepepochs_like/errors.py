"""One tree of errors. Each message says what is wrong, which value was given, and what to do.

Everything the library raises by itself is an `EngineError`; each kind is also the built-in exception that
Python programmers expect (`ValueError`, `TypeError`, ...). Errors in users' code leave `fit` as themselves.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable


class EngineError(Exception):
    """Root of the errors this library raises.

    Example:
        >>> from deepepochs_like import Trainer
        >>> try:
        ...     Trainer(torch.nn.Linear(2, 1), epochs=0)
        ... except EngineError as error:
        ...     print(error)
        epochs=0: at least 1 is needed
    """


class ArgumentError(EngineError, ValueError):
    """An argument has a value that is not allowed."""


class ArgumentTypeError(EngineError, TypeError):
    """An argument has a type, or a name, that is not allowed."""


class UnknownNameError(EngineError, AttributeError):
    """An attribute that neither a task nor its trainer has."""


class UnknownFigureError(EngineError, KeyError):
    """A figure that was not computed: its name is misspelt, or its stage did not run."""

    def __str__(self) -> str:
        return str(self.args[0])


class HookError(EngineError, TypeError):
    """A callback has a method that is no event, or one that cannot take the event's arguments."""


class StepError(EngineError, TypeError):
    """A step returned something other than None or a dict of Patches."""


class LossError(EngineError, ValueError):
    """A loss that cannot be trained on: not a scalar tensor, or without a gradient."""


class NonFiniteLossError(EngineError, ArithmeticError):
    """The training loss became NaN or infinite.

    Attributes:
        step: index of the first training batch of the epoch whose loss was not finite.
        value: that loss.
    """

    def __init__(self, message: str, step: int, value: float) -> None:
        super().__init__(message)
        self.step, self.value = step, value


class LoaderError(EngineError, ValueError):
    """A loader without batches (empty from the start, or exhausted by an earlier epoch), or whose worker ended."""


class BatchError(EngineError, ValueError):
    """A batch whose parts or whose size cannot be told."""


class PatchError(EngineError, TypeError):
    """Patches that cannot be merged, read or saved."""


class MetricError(EngineError, TypeError):
    """A metric that returns neither a number nor a dict of numbers, or gets inputs it has no meaning for."""


class StateError(EngineError, ValueError):
    """A state that does not fit what it is loaded into. Nothing was changed."""


class StorageError(EngineError, ValueError):
    """A file that cannot be trusted or read, or content that cannot be saved; nothing of it was loaded."""


class CheckpointError(EngineError, OSError):
    """A checkpoint that is not there, not valid, or cannot be written. What was there before is as it was."""


class RunLockedError(CheckpointError):
    """A folder that another process (or another part of this one) is writing to."""


class DiagnosisError(EngineError, ValueError):
    """What a check before a run found; see `Trainer.check`.

    Attributes:
        diagnosis: all of it.
    """

    def __init__(self, message: str, diagnosis: object) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


class EngineWarning(UserWarning):
    """Something that is probably not what was meant, but that the run survives.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter('error', EngineWarning)  # within it such things end a run
    """


class StopLoopException(Exception):
    """Raise it in a callback or a step to end `fit`, which then returns normally.

    Example:
        >>> from deepepochs_like import Callback, Trainer
        >>> class Once(Callback):
        ...     def on_after_train_batch(self, **kwargs):
        ...         raise StopLoopException('enough')
        >>> trainer = Trainer(torch.nn.Linear(2, 2), None, epochs=1, verbose=0, callbacks=[Once()])
        >>> history = trainer.fit(train_dl=[torch.ones(1, 2)], step=lambda trainer, x, y: None)
        >>> trainer.stop_reason
        'enough'
    """


class LoopException(Exception):
    """For users' own errors in a loop: leaves `fit` as itself.

    Example:
        >>> raise LoopException('the data are not what they were')
        Traceback (most recent call last):
            ...
        deepepochs_like.errors.LoopException: the data are not what they were
    """


class CallbackException(Exception):
    """For users' own errors in a callback: leaves `fit` as itself.

    Example:
        >>> raise CallbackException('the data are not what they were')
        Traceback (most recent call last):
            ...
        deepepochs_like.errors.CallbackException: the data are not what they were
    """


def nearest(name: str, allowed: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the allowed name most like `name`, or None when nothing comes near."""
    found = difflib.get_close_matches(name, list(allowed), n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or nothing when no allowed name comes near."""
    guess = nearest(name, allowed)
    return f"; did you mean {guess!r}?" if guess else ""


def a_kind(value: object) -> str:
    """Return what kind of thing a value is, with its article: ``'an int'``, ``'a str'``."""
    name = type(value).__name__
    return f"{'an' if name[:1] in tuple('aeioAEIO') or name == 'ndarray' else 'a'} {name}"


#: What other libraries put before a figure's name, and between the two.
_STAGES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "eval", "dev", "test"), "val"),
}


def meant_figure(name: str) -> str | None:
    """Return ``'val/loss'`` for what others call ``val_loss``, ``valid.loss`` and so on; None for any other name."""
    found = re.fullmatch(r"([A-Za-z]+)[/_. :-]+(\w.*)", name)
    stage = _STAGES.get(found[1].lower()) if found else None
    return f"{stage}/{found[2]}" if found and stage else None


#: What other libraries call these arguments.
_CALLED_ELSEWHERE = {
    **dict.fromkeys(("optimizer", "optimizers"), "opt"),
    **dict.fromkeys(("criterion", "loss_fn", "loss_function"), "loss"),
    **dict.fromkeys(("max_epochs", "num_epochs", "n_epochs"), "epochs"),
    **dict.fromkeys(("accelerator", "devices"), "device"),
    **dict.fromkeys(("accumulate_grad_batches", "gradient_accumulation_steps"), "accumulate"),
    **dict.fromkeys(("train_dataloader", "train_dataloaders", "train_loader", "train_data"), "train_dl"),
    **dict.fromkeys(("val_dataloader", "val_dataloaders", "val_loader", "val_data", "validation_data"), "val_dl"),
    **dict.fromkeys(("test_dataloader", "test_dataloaders", "test_loader", "dataloaders"), "test_dl"),
    **dict.fromkeys(("ckpt_path", "resume_from_checkpoint"), "resume"),
    **dict.fromkeys(("default_root_dir", "output_dir", "save_dir", "log_dir", "logdir"), "folder"),
    **dict.fromkeys(("save_top_k", "save_best_only", "save_total_limit"), "keep_best"),
    **{"save_last": "keep_last", "every_n_epochs": "every_epochs", "every_n_train_steps": "every_steps"},
    **{"restore_best_weights": "restore_best", "stopping_threshold": "threshold", "start_from_epoch": "warmup"},
    "check_val_every_n_epoch": "val_freq",
}

_WHERE = "Trainer(folder=..., running_id=...) decides where"
_PLACES = ("log_dir", "logdir", "save_dir", "dirpath", "dir", "path", "folder", "root_dir", "name", "version")
#: What goes another way here than by an argument: whose arguments -> name -> what to do instead.
_GOES_ELSEWHERE: dict[str, dict[str, str]] = {
    "Trainer": {
        **dict.fromkeys(("precision", "amp", "fp16", "bf16", "mixed_precision"), "callbacks=[AMP('bf16')]"),
        **dict.fromkeys(
            ("gradient_clip_val", "max_grad_norm", "grad_clip", "gradient_clip", "clip_grad_norm"),
            "callbacks=[GradClip(1.0)]",
        ),
        **dict.fromkeys(("lr", "learning_rate"), "opt=torch.optim.Adam(model.parameters(), lr=...)"),
        "weight_decay": "opt=torch.optim.AdamW(model.parameters(), weight_decay=...)",
        **dict.fromkeys(("scheduler", "lr_scheduler", "sched"), "opt=Optimizer(optimizer, scheduler)"),
        **dict.fromkeys(("seed", "random_seed", "random_state"), "set_seed(...) before the model is made"),
        **dict.fromkeys(("logger", "loggers"), "callbacks=[TensorBoard()], or another logger"),
        **dict.fromkeys(("early_stopping", "patience"), "callbacks=[EarlyStopping('val/loss', patience=...)]"),
        "batch_size": "DataLoader(..., batch_size=...), which the batches come from",
        "strategy": "device=accelerate.Accelerator(...)",
        "fast_dev_run": "trainer.fast_dev_run(train_dl)",
        "overfit_batches": "trainer.overfit_batch(train_dl)",
        "train_dl": "trainer.fit(train_dl=...)",
        "val_dl": "trainer.fit(train_dl, val_dl=...)",
        **{name: f"trainer.fit(..., {name}=...)" for name in ("max_steps", "val_freq", "step")},
    },
    "Trainer.fit": {
        **{
            name: f"Trainer(..., {name}=...)" for name in ("loss", "opt", "device", "callbacks", "resume", "accumulate")
        },
        **dict.fromkeys(("lr", "learning_rate"), "Trainer(..., opt=torch.optim.Adam(model.parameters(), lr=...))"),
        "shuffle": "DataLoader(..., shuffle=True), which the batches come from",
        "ckpt_path": "Trainer(..., resume=...)",
    },
    "Checkpoint": {
        **dict.fromkeys(_PLACES, f"files lie in logs/<running_id>/checkpoints; {_WHERE}"),
        **dict.fromkeys(
            ("filename", "filepath", "file", "file_name"),
            "files are named by their step; trainer.save_checkpoint(path) writes one of your own name",
        ),
        "save_weights_only": "a checkpoint holds the whole run; trainer.save_weights(path) writes weights alone",
    },
    "TensorBoard": dict.fromkeys(_PLACES, f"it writes to logs/<running_id>/tensorboard; {_WHERE}"),
    "CSVLogger": dict.fromkeys(_PLACES, f"it writes to logs/<running_id>, to file='metrics.csv'; {_WHERE}"),
    "JSONLLogger": dict.fromkeys(_PLACES, f"it writes to logs/<running_id>, to file='metrics.jsonl'; {_WHERE}"),
}


def refuse_unknown(where: str, unknown: Iterable[str], function: Callable[..., object]) -> None:
    """Raise `ArgumentTypeError` for a keyword that `function` does not take, naming the nearest one it does."""
    for name in unknown:
        allowed = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD][1:]
        meant = _CALLED_ELSEWHERE.get(name)
        other = _GOES_ELSEWHERE.get(function.__qualname__.removesuffix(".__init__"), {}).get(name)
        hint = f"; did you mean {meant!r}?" if meant in allowed else did_you_mean(name, allowed)
        hint = f"; here: {other}" if other else hint
        hint = hint or f" (it takes {', '.join(allowed)})"
        raise ArgumentTypeError(f"{where} takes no argument {name!r}{hint}")


def add_note(error: BaseException, note: str) -> None:
    """Attach a note to an exception; on Python 3.10, which does not print notes, it is kept in ``__notes__``."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        error.__notes__ = [*getattr(error, "__notes__", []), note]


def chain(first: BaseException, later: BaseException) -> None:
    """Hang `later` onto `first`, which stays the one raised: as its context, and as a note in plain sight."""
    add_note(first, f"then, while it was handled: {type(later).__name__}: {later}")
    seen, link = {id(later)}, first
    while link.__context__ is not None and id(link.__context__) not in seen:
        link = link.__context__
        seen.add(id(link))
    if link is not later and link.__context__ is None and not _reaches(later, link):
        link.__context__ = later


def _reaches(error: BaseException, target: BaseException) -> bool:
    """Tell whether `target` is in the context chain of `error`, so that no cycle is made."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        if link is target:
            return True
        seen.add(id(link))
        link = link.__context__
    return False
