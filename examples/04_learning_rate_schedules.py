"""Learning-rate schedules: advanced at every update, after every epoch, or when a metric stops getting better.

An `Optimizer` is a torch optimizer with its schedule. The learning rates shown are those that each epoch began with.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Callback, Optimizer, Trainer, set_seed
from deepepochs_like.metrics import accuracy

EPOCHS = 8

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train_set, val_set = random_split(digits, [0.7, 0.3])
train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
val_loader = DataLoader(val_set, batch_size=256)


def per_step(adam):
    """Once a batch: warm up, then anneal."""
    cycle = OneCycleLR(adam, max_lr=2e-2, epochs=EPOCHS, steps_per_epoch=len(train_loader))
    return Optimizer(adam, cycle, sched_on="step")


def per_epoch(adam):
    """Once an epoch, which is the default."""
    return Optimizer(adam, CosineAnnealingLR(adam, T_max=EPOCHS))


def on_metric(adam):
    """A fifth as soon as the validation accuracy has not risen for an epoch."""
    plateau = ReduceLROnPlateau(adam, mode="max", factor=0.2, patience=0)
    return Optimizer(adam, plateau, monitor="val/accuracy")


class LearningRates(Callback):
    """Collect the learning rate at the start of every epoch."""

    def on_before_fit(self, trainer, epochs):
        self.seen = []

    def on_before_epoch(self, trainer, train_tasks, val_tasks, epoch_idx):
        self.seen.append(trainer.opt[0].get_current_lr())


for schedule in (per_step, per_epoch, on_metric):
    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    opt = schedule(torch.optim.Adam(model.parameters(), lr=1e-2))
    rates = LearningRates()
    trainer = Trainer(model, F.cross_entropy, opt, EPOCHS, callbacks=rates, metrics=accuracy, verbose=0)
    history = trainer.fit(train_loader, val_loader)
    final = history["val"]["accuracy"][-1]
    print(f"{schedule.__name__:9}", *(f"{lr:.5f}" for lr in rates.seen), f"  accuracy {final:.4f}")
