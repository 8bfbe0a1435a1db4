"""Find out where the time of an epoch goes, and what the operations are that take it.

`Timer` tells phases apart for some microseconds a batch; `Profile` runs torch's profiler for a few chosen updates.
"""

import tempfile
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from deepepochs_like import Profile, Timer, Trainer, set_seed

set_seed(0)
images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


class Slow(Dataset):
    """Images that have to be read from a slow place, half a millisecond each."""

    def __init__(self, wait, first=0):
        self.wait, self.first = wait, first

    def __len__(self):
        return 400

    def __getitem__(self, index):
        time.sleep(self.wait)
        return images[self.first + index], labels[self.first + index]


def run(wait, *callbacks, **options):
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    trainer = Trainer(model, F.cross_entropy, epochs=2, callbacks=list(callbacks), verbose=0, **options)
    trainer.fit(DataLoader(Slow(wait), batch_size=20), DataLoader(Slow(0, first=400), batch_size=200))


timer = Timer(show=None)  # by default the table is printed when a fit is over
run(0.0005, timer)
print(timer.table())

seconds = timer.seconds
most = max(seconds, key=seconds.get)
print(f"\nmost of it is {most}: {seconds[most] / sum(seconds.values()):.0%}", end="; ")
quick = Timer(show=None)
run(0, quick)
print(f"with a quick disk it is {quick.seconds['data'] / sum(quick.seconds.values()):.0%}\n")

with tempfile.TemporaryDirectory() as folder:  # without folder= runs lie in ./logs
    profile = Profile(steps=(5, 10), top=6, show=False)  # updates 5 to 9
    run(0, profile, folder=folder, running_id="digits")
    print(profile.table())
    trace = Path(profile.trace)
    print(f"\n{trace.relative_to(folder)}, for chrome://tracing: {trace.stat().st_size // 1024} KiB")
