"""Write a callback: override the hooks you want, and nothing else is ever called.

This one keeps the best weights, stops the run when it no longer gets better, and puts the best weights back.
`trainer.explain()` prints which hooks of a run are heard, in order.
"""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Callback, Trainer, set_seed
from deepepochs_like.metrics import accuracy

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train_set, val_set = random_split(digits, [0.3, 0.7])
train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
val_loader = DataLoader(val_set, batch_size=256)


class KeepBest(Callback):
    """Keep the best weights by a validation figure; stop after `patience` epochs without a better one."""

    def __init__(self, figure="loss", patience=3):
        super().__init__()
        self.figure, self.patience = figure, patience

    def on_before_fit(self, trainer, epochs):
        self.best, self.best_epoch, self.weights = float("inf"), 0, None

    def on_after_epoch(self, trainer, val_metrics, epoch_idx, **others):  # **others takes what is not needed
        if val_metrics[self.figure] < self.best:
            self.best, self.best_epoch = float(val_metrics[self.figure]), epoch_idx
            self.weights = copy.deepcopy(trainer.model.state_dict())
        elif epoch_idx - self.best_epoch >= self.patience:
            trainer.stop(f"no better {self.figure} for {self.patience} epochs")

    def on_after_fit(self, trainer):
        trainer.model.load_state_dict(self.weights)

    def state_dict(self):  # what trainer.state_dict() keeps of it
        return {"best": self.best, "best_epoch": self.best_epoch, "weights": self.weights}

    def load_state_dict(self, state_dict):
        vars(self).update(state_dict)


model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
opt = torch.optim.Adam(model.parameters(), lr=2e-2)
keep_best = KeepBest(patience=3)
trainer = Trainer(model, F.cross_entropy, opt, epochs=100, callbacks=keep_best, metrics=accuracy, verbose=0)
trainer.explain()

losses = trainer.fit(train_loader, val_loader)["val"]["loss"]
print("validation loss:", *(f"{loss:.4f}" for loss in losses))
print(f"stopped after epoch {len(losses)} of 100: {trainer.stop_reason}")
print(f"weights of epoch {keep_best.best_epoch + 1}: validation loss {trainer.validate(val_loader)['loss']:.4f}")
