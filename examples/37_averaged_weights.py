"""Validate and test on an average of the weights: exponential, or of the last epochs.

Training goes on with its own weights; evaluation looks at the average, checkpoints hold both. The statistics of
BatchNorm are the average's own.
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import EMA, SWA, Trainer, load_weights, save_weights, set_seed
from deepepochs_like.metrics import accuracy

images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train, test = random_split(digits, [1200, 597], torch.Generator().manual_seed(0))


def network():
    """A small network with BatchNorm."""
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def run(title, *averages):
    """Train with a learning rate that is too high, as averages like it; return the trainer."""
    set_seed(0)
    model = network()
    opt = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    trainer = Trainer(model, F.cross_entropy, opt, 12, "cpu", list(averages), [accuracy], verbose=0)
    history = trainer.fit(DataLoader(train, 32, shuffle=True), DataLoader(test, 600))
    last = " ".join(f"{loss:.3f}" for loss in history["val"]["loss"][-5:])
    print(f"{title:22} validation loss of the last epochs {last}, accuracy {history['val']['accuracy'][-1]:.3f}")
    return trainer


run("the weights themselves")
ema, swa = EMA(0.99), SWA(start=6)
trainer = run("EMA(0.99)", ema)
run("SWA(start=6)", swa)
print(f"{ema.updates} updates in the one average, {swa.updates} epochs in the other")

with tempfile.TemporaryDirectory() as folder:
    save_weights(ema.module, f"{folder}/average.pt")
    model = network()
    load_weights(model, f"{folder}/average.pt")
alone = Trainer(model, F.cross_entropy, verbose=0).test(DataLoader(test, 600))
print(
    "the average, saved and loaded elsewhere, has the same test loss:",
    alone == {"loss": trainer.test(DataLoader(test, 600))["loss"]},
)
