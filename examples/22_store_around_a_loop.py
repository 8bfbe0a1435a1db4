"""Checkpoints around a training loop written by hand: `CheckpointStore` needs nothing but things with a state.

The loop is cut off half-way and begun again with everything made anew. It goes on from the newest checkpoint and ends
with the weights of the loop that was not cut off, bit for bit: the order of the data and the dropout are in it, too.
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from deepepochs_like import CheckpointStore, Generators, set_seed

images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


class Killed(Exception):
    """Stands for a power cut."""


def train(folder, epochs=8, killed_in=None):
    """Train, keep a checkpoint of every epoch, and go on from the newest one where there is one."""
    set_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    halve = torch.optim.lr_scheduler.StepLR(adam, 3, gamma=0.5)
    things = {"net": net, "adam": adam, "schedule": halve, "generators": Generators()}

    store = CheckpointStore(folder, keep_last=2, keep_best=1, monitor="accuracy", mode="max")
    entry = store.restore(things)
    epoch, step = (entry.epoch, entry.step) if entry else (0, 0)
    print(f"from {entry.path.name}: {epoch} epochs are done" if entry else "from the beginning")
    while epoch < epochs:
        right = 0
        for index in torch.randperm(len(labels)).split(64):
            out = net(images[index])
            F.cross_entropy(out, labels[index]).backward()
            adam.step()
            adam.zero_grad()
            step, right = step + 1, right + int((out.argmax(1) == labels[index]).sum())
            if epoch == killed_in and step % 29 == 15:
                raise Killed
        halve.step()
        epoch += 1
        accuracy = right / len(labels)
        store.save(things, step, epoch, {"accuracy": accuracy})
        print(f"  epoch {epoch}: accuracy {accuracy:.4f}, learning rate {halve.get_last_lr()[0]:.5f}")
    store.close()
    return net, store


with tempfile.TemporaryDirectory() as cut, tempfile.TemporaryDirectory() as uncut:
    try:
        train(cut, killed_in=4)
    except Killed:
        print("killed in the middle of epoch 5")
    resumed, store = train(cut)
    print("\nthe same, uncut:")
    whole, _ = train(uncut)
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    print("weights equal bit for bit:", all(torch.equal(a, b) for a, b in pairs))
    for entry in store.entries():
        print(f"kept {entry.path.name}: epoch {entry.epoch}, accuracy {entry.figures['accuracy']:.4f}")
