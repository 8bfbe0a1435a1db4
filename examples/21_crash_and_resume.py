"""Kill a run twice in the middle of an epoch, start the script again, and end where an undisturbed run ends.

A kill gives a process no chance to save anything: what counts is what was on the disk before. The script goes on from
its last checkpoint, loses a few batches of work, and arrives at the same weights and history, bit for bit.
"""

import os
import signal
import subprocess
import sys
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Callback, Checkpoint, Trainer, set_seed
from deepepochs_like.metrics import accuracy


class KillAt(Callback):
    """Kill the process when so many updates are done."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_after_train_batch(self, trainer, metrics, batch_idx):
        if trainer.progress.step == self.step:
            epoch = trainer.progress.epoch + 1
            print(f"  is killed after {self.step} updates, batch {batch_idx + 1} of epoch {epoch}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder, *callbacks):
    """What a training script does; nothing in it asks whether it is the first time that it runs."""
    set_seed(0)
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
    keep = Checkpoint(every_steps=10)
    trainer = Trainer(
        model,
        F.cross_entropy,
        epochs=5,
        callbacks=[*callbacks, keep],
        metrics=accuracy,
        resume="auto",
        running_id="digits",
        folder=folder,
        verbose=0,
    )
    found = keep.store_of(trainer).newest()
    print(f"  goes on from {found.path.name}" if found else "  begins", flush=True)
    trainer.fit(DataLoader(digits, batch_size=64, shuffle=True))
    return trainer


if len(sys.argv) == 3:  # this is the child
    run(sys.argv[1], KillAt(int(sys.argv[2])))
    sys.exit()

with tempfile.TemporaryDirectory() as disturbed, tempfile.TemporaryDirectory() as undisturbed:
    for step in (47, 99):
        print("a process", flush=True)
        child = subprocess.run([sys.executable, __file__, disturbed, str(step)])
        assert child.returncode == -signal.SIGKILL
    print("this process")
    resumed = run(disturbed)
    print("the same, undisturbed")
    whole = run(undisturbed)
    print(f"resumed: {resumed.progress.epoch} epochs, {resumed.progress.step} updates")
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    print("weights equal bit for bit:", all(torch.equal(a, b) for a, b in pairs))
    print("history equal:", whole.history == resumed.history)
    print(resumed.history.table())
