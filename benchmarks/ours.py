"""This library's configurations, as contenders."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

import deepepochs_like
from deepepochs_like import Checkpoint, ConfusionMetrics, Trainer
from deepepochs_like.metrics import accuracy, confusion_matrix, f1, precision, recall

from .consoles import to_pipe, to_terminal
from .contender import Contender, Job
from .loops import Rows, adam
from .workloads import Plain


def confusion(conf_mat: Tensor) -> Tensor:
    """The matrix itself, as a figure of the epoch."""
    return conf_mat


MACRO = [accuracy, *(partial(metric, average="macro") for metric in (precision, recall, f1)), confusion_matrix]
ONE_PATCH = [ConfusionMetrics(["accuracy", "precision", "recall", "f1"], average="macro", name="")]
#: What to report -> arguments of Trainer.
REPORTS: dict[str, dict[str, Any]] = {
    "loss": {},
    "accuracy": {"metrics": [accuracy]},
    # Scores of every token, kept for a whole epoch, are what nobody wants in memory, or in a checkpoint in mid-epoch.
    "accuracy of tokens": {"metrics": [accuracy], "metric_patch": "mean"},
    "macro": {"metrics": MACRO},
    "one patch": {"metrics": [*ONE_PATCH, confusion], "metric_patch": "confusion"},
}

#: Names of ours, and what the loops call them.
NAMES = {"confusion": "cm", "confusion_matrix": "cm", "acc": "accuracy", "p": "precision", "r": "recall"}


def train(job: Job, verbose: int = 0, macro: str = "macro") -> Any:
    """Do a job as a user would."""
    saving: dict[str, Any] = {}
    if job.save_every is not None:
        saving = {"callbacks": [Checkpoint(every_steps=job.save_every)], "folder": job.folder}
    report = (
        macro
        if job.report == "macro"
        else job.report + " of tokens" * (job.report == "accuracy" and job.per_sample > 1)
    )
    trainer = Trainer(
        job.net,
        F.cross_entropy,
        adam(job.net, job.fused),
        epochs=job.epochs,
        device="cpu",
        verbose=verbose,
        **REPORTS[report],
        **saving,
    )
    return trainer.fit(job.train_dl, job.val_dl)


def rows_of(history: Any) -> Rows:
    """A history as the loops report it."""
    epochs = len(history["train"]["loss"])
    return [
        {
            stage: {NAMES.get(name, name): values[epoch] for name, values in figures.items()}
            for stage, figures in history.items()
        }
        for epoch in range(epochs)
    ]


_ours = partial(
    Contender, read=rows_of, reports=("loss", "accuracy", "macro"), saves=True, module=deepepochs_like.__name__
)
_fused = partial(_ours, run=partial(train, verbose=1), only=("w3",))
_shown = partial(_ours, run=partial(train, verbose=1), like="naive", fused=False)

OURS = [
    _ours("lean", train),
    _ours("lean (one patch)", partial(train, macro="one patch"), only=("w3",)),
    _ours("lean (any dataset)", train, base="best (any dataset)", holder=Plain, only=("w1", "w3")),
    _fused("display (pipe)", around=to_pipe),
    _fused("display (terminal)", around=to_terminal),
    _shown("default (pipe)", around=to_pipe),
    _shown("default (terminal)", around=to_terminal),
]
