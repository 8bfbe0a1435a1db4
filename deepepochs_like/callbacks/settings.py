"""What a run was made of, and what it ran on, by name: for pages that tell of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import a_kind


def settings(trainer: Any, asked: Mapping[str, str]) -> dict[str, str]:
    """Model, loss, optimizers, schedules, callbacks and hyper-parameters, as texts of a few lines each.

    Args:
        trainer: the trainer.
        asked: what its fit was asked for, by the argument's name.

    Example:
        >>> from deepepochs_like import Trainer
        >>> trainer = Trainer(torch.nn.Linear(2, 1), torch.nn.MSELoss(), hyper_params={"a": {"b": 1}}, verbose=0)
        >>> found = settings(trainer, {"epochs asked for": "3"})
        >>> found["model"], found["loss"], found["epochs asked for"], found["a.b"]
        ('Linear', 'MSELoss', '3', '1')
    """
    found = _training(trainer, asked)
    given = trainer.hyper_params or {}
    own = _flat(given) if isinstance(given, Mapping) else {"hyper_params": _short(given)}
    return found | {f"hyper_params.{name}" if name in found else name: value for name, value in own.items()}


def environment(trainer: Any) -> dict[str, Any]:
    """Versions, system and device.

    Example:
        >>> from deepepochs_like import Trainer
        >>> environment(Trainer(torch.nn.Linear(2, 1), torch.nn.MSELoss(), device="cpu", verbose=0))["device"]
        'cpu'
    """
    device = trainer.device
    where = str(device)
    if device.type == "cuda":
        where += f" ({torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda})"
    return {
        "deepepochs_like": version(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "NumPy": np.__version__,
        "system": f"{platform.system()}, {platform.machine()}",
        "device": where,
        "threads": torch.get_num_threads(),
        "deterministic algorithms": "only" if torch.are_deterministic_algorithms_enabled() else "not enforced",
    }


def _training(trainer: Any, asked: Mapping[str, str]) -> dict[str, str]:
    """What a run was made of, by name."""
    pairs = {
        "model": ", ".join(type(handle.model).__name__ for handle in trainer.models.values()),
        "loss": _name(trainer.loss.function) if trainer.loss.function is not None else "the model's own",
        "metrics": ", ".join(_name(metric) for metric in trainer.metrics),
        **asked,
    }
    for name, optimizer in trainer.opt.items():
        label = "optimizer" if len(trainer.opt) == 1 else f"optimizer {name}"
        torchs = getattr(optimizer.opt, "optimizer", optimizer.opt)  # inside what an Accelerator made of it
        pairs[label] = "\n".join([type(torchs).__name__, *map(_of_group, optimizer.param_groups)])
        if optimizer.scheduler is not None:
            pairs[label.replace("optimizer", "schedule", 1)] = _schedule(optimizer)
    pairs["callbacks"] = ", ".join(_key(callback) for callback in trainer.callbacks)
    pairs |= {"batches per update": str(trainer.accumulate)} if trainer.accumulate > 1 else {}
    return {name: value for name, value in pairs.items() if value}


def _of_group(group: Mapping[str, Any]) -> str:
    """A parameter group's settings, with the learning rate that it began with; what is off is left out."""
    told = {"lr": group.get("initial_lr", group["lr"])}
    told |= {
        k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr") and v is not None and v is not False
    }
    return ", ".join(f"{name}={_short(value)}" for name, value in told.items())


def _schedule(optimizer: Any) -> str:
    """A scheduler's kind and settings."""
    scheduler = optimizer.scheduler
    plain = {k: v for k, v in vars(scheduler).items() if isinstance(v, (int, float, str)) and k[:1] != "_"}
    told = [f"{name}={_short(value)}" for name, value in plain.items() if name != "last_epoch"]
    told += [getattr(rule, "__name__", None) or _short(rule) for rule in getattr(scheduler, "lr_lambdas", [])]
    return f"{type(scheduler).__name__} by {optimizer.sched_on}s\n{', '.join(told)}".rstrip()


def _key(callback: Any) -> str:
    """What tells a callback from others of its class, or its class."""
    key = getattr(callback, "state_key", None)
    return str(key()) if callable(key) else type(callback).__name__


def _name(thing: Any) -> str:
    return str(getattr(thing, "name", None) or getattr(thing, "__name__", None) or type(thing).__name__)


def _flat(values: Mapping[Any, Any]) -> dict[str, str]:
    """Nested settings, as one line each: ``{'data.size': '8'}``."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{name}": text for name, text in _flat(value).items()}
        else:
            flat[str(key)] = _short(value)
    return flat


def _short(value: Any) -> str:
    try:
        text = f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else repr(value)
    except Exception as error:  # of the users' own making
        text = f"{a_kind(value)}, whose repr failed with {type(error).__name__}"
    return text if len(text) <= 300 else text[:299] + "…"


def version() -> str:
    """This library's version, as it was installed."""
    from importlib import metadata

    try:
        return metadata.version("deepepochs_like")
    except metadata.PackageNotFoundError:
        return "of a checkout"
