"""Guards: the layer that a NaN comes from, batches for which memory runs out, and what a run takes.

Memory that is not there is played by a layer that refuses more than 16 samples; the network trained in parts comes out
as the one that never had to. What a guard does not see going wrong costs next to nothing.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import OnOOM, ResourceMonitor, StopOnNaN, Trainer, set_seed

images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))


class Log(nn.Module):
    """A layer with a mistake: the logarithm of what is 0 as soon as a unit dies."""

    def forward(self, x):
        return (x + 1.3).relu().log()


class Small(nn.Module):
    """A GPU that is too small, played."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(x)} samples")
        return x


def fit(model, *callbacks, epochs=2):
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, F.cross_entropy, opt, epochs, callbacks=callbacks, verbose=0)
    trainer.fit(DataLoader(digits, batch_size=64))
    return trainer


def network(middle):
    set_seed(0)
    return nn.Sequential(nn.Linear(64, 32), middle, nn.Linear(32, 10))


guard = StopOnNaN(answer="stop")
trainer = fit(network(Log()), guard)
print("stopped:", *guard.found.split("; "), sep="\n  ")
healthy = all(torch.isfinite(p).all() for p in trainer.model.parameters())
print(f"  the weights are still those from before that batch: {healthy}\n")

oom, monitor = OnOOM("halve"), ResourceMonitor()
halved = fit(network(Small(16)), oom, monitor)
whole = fit(network(Small(64)))
pairs = zip(halved.model.parameters(), whole.model.parameters(), strict=True)
apart = max(float((mine - theirs).detach().abs().max()) for mine, theirs in pairs)
print(f"batches of 64 where 16 fit: {oom.halved} trained in parts, {oom.skipped} left out")
print(f"  weights differ from those of an ample GPU by {apart:.0e}")

batch_norm = nn.Sequential(nn.BatchNorm1d(32), Small(16))
try:
    fit(network(batch_norm), OnOOM("halve"))
except torch.OutOfMemoryError as error:
    print(f"  {error.__notes__[0].partition(': ')[2]}\n")

print("that run took:", monitor.summary().split(";")[0])
print("kept per epoch:", ", ".join(monitor.epochs[0]))
