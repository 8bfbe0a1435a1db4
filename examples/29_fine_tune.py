"""Fine-tune a model part by part: its head first, then its upper layers, then all of it.

A network that tells digits apart is taught, from 40 samples, which of them have a loop. What is frozen does not move,
the statistics of its BatchNorm layers included.
"""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Callback, FineTune, Trainer, freeze, set_seed
from deepepochs_like.metrics import accuracy

set_seed(0)
images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
loops = torch.tensor([1, 0, 0, 0, 0, 0, 1, 0, 1, 1])[labels]
first_task = TensorDataset(images[:1000], labels[:1000])
few, many = TensorDataset(images[1000:1040], loops[1000:1040]), TensorDataset(images[1040:], loops[1040:])


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
        self.body = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


class Moved(Callback):
    """Print what an epoch has changed."""

    def on_before_train_epoch(self, trainer, task):
        self.before = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    def on_after_train_epoch(self, trainer, task, metrics):
        state = trainer.model.state_dict()
        changed = {name.split(".")[0] for name in state if not torch.equal(state[name], self.before[name])}
        print(f"  epoch {trainer.progress.epoch + 1}: {', '.join(sorted(changed)):16} loss {metrics['loss']:.3f}")


def fit(model, epochs, data, *callbacks):
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    trainer = Trainer(model, F.cross_entropy, opt, epochs, callbacks=callbacks, metrics=accuracy, verbose=0)
    trainer.fit(DataLoader(data, batch_size=20, shuffle=True, drop_last=True))
    return trainer


def accuracy_of(trainer):
    return trainer.test(DataLoader(many, batch_size=256))["accuracy"]


trained = Net(10)
fit(trained, 10, first_task)

scratch = fit(Net(2), 9, few)
fixed = freeze(copy.deepcopy(trained))
fixed.head = nn.Linear(64, 2)
frozen = fit(fixed, 9, few)
tuned = copy.deepcopy(trained)
tuned.head = nn.Linear(64, 2)
print("what moves:")
parts = fit(tuned, 9, few, FineTune({0: "head", 4: "body", 7: "*"}), Moved())

print(f"\nhas it a loop? accuracy on {len(many)} digits, from {len(few)} samples:")
for name, trainer in (("from scratch", scratch), ("the head alone", frozen), ("part by part", parts)):
    print(f"  {name:14} {accuracy_of(trainer):.3f}")
