"""Ten callbacks in one run, killed twice and started again: it ends where the undisturbed run ends, bit for bit.

Precision, accumulation, clipping, averaged weights, a schedule, early stop, checkpoints, loggers, the worst samples and
a report: each has a state of its own, and each is part of the checkpoint.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import (
    AMP,
    EMA,
    Callback,
    Checkpoint,
    EarlyStopping,
    GradClip,
    GradientAccumulation,
    Interpret,
    JSONLLogger,
    Optimizer,
    Report,
    TensorBoard,
    Trainer,
    cosine,
    set_seed,
    warmup,
)
from deepepochs_like.metrics import accuracy


class KillAt(Callback):
    """Kill the process when so many updates are done."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_after_train_batch(self, trainer, metrics, batch_idx):
        if trainer.progress.step == self.step:
            print(f"  is killed after {self.step} updates, in epoch {trainer.progress.epoch + 1}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def losses(scores, labels):
    return F.cross_entropy(scores, labels, reduction="none")


def run(folder, *more):
    """What a training script does; nothing in it asks whether it is the first time that it runs."""
    set_seed(0)
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    train, val = random_split(digits, [1400, 397], torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    opt = Optimizer(adam, (warmup(20) >> cosine(200)).scheduler(adam), sched_on="step")
    ten = [AMP("fp16", init_scale=2.0**20), GradientAccumulation({0: 4, 2: 2}), GradClip(1.0), EMA(0.95)]
    ten += [EarlyStopping("val/loss", patience=4), Checkpoint("val/loss", every_steps=10)]
    ten += [TensorBoard(every=10), JSONLLogger(), Interpret(losses, k=8), Report()]
    options = {"resume": "auto", "running_id": "digits", "folder": folder, "verbose": 0}
    trainer = Trainer(model, F.cross_entropy, opt, 6, callbacks=[*more, *ten], metrics=accuracy, **options)
    trainer.fit(DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=400))
    return trainer


if len(sys.argv) == 3:  # this is the child
    run(sys.argv[1], KillAt(int(sys.argv[2])))
    sys.exit()

with tempfile.TemporaryDirectory() as disturbed, tempfile.TemporaryDirectory() as undisturbed:
    for step in (13, 61):
        child = subprocess.run([sys.executable, __file__, disturbed, str(step)])
        assert child.returncode == -signal.SIGKILL
    resumed, whole = run(disturbed), run(undisturbed)
    print(f"resumed and ended: {resumed.progress.epoch} epochs, {resumed.progress.step} updates")
    states = [trainer.state_dict() for trainer in (resumed, whole)]
    for what, tree in (("weights", "models"), ("averages", "callbacks")):
        one, other = [state[tree]["EMA(0.95)" if what == "averages" else "model"] for state in states]
        one, other = (one["model"], other["model"]) if what == "averages" else (one, other)
        print(f"{what} equal bit for bit:", all(map(torch.equal, one.values(), other.values())))
    lines = [Path(folder, "digits", "metrics.jsonl").read_text() for folder in (disturbed, undisturbed)]
    print("history equal:", resumed.history == whole.history)
    print("log equal:", lines[0] == lines[1], f"({len(lines[0].splitlines())} lines)")
    print(f"the report has {Path(disturbed, 'digits', 'report.html').stat().st_size // 1000} kB")
print(resumed.history.table())
