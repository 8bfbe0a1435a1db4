"""The built-in patches: figures that a step returns, and that add up to the epoch's.

A patch takes in a batch (`load`), merges with another (`+`) and gives its value (`()`); the last lines do by hand
what the trainer does with them.
"""

from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import ConfusionMetrics, ConfusionPatch, MeanPatch, TensorPatch, Trainer, ValuePatch, set_seed
from deepepochs_like.metrics import accuracy, f1

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train_set, val_set = random_split(digits, [0.6, 0.4])
train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
val_loader = DataLoader(val_set, batch_size=100)


def median_margin(logits, targets):
    """The median over all samples of how far the best class is ahead: no sum of batches gives it."""
    best = logits.topk(2, dim=1).values
    return (best[:, 0] - best[:, 1]).median()


def step(trainer, batch_x, batch_y, **step_args):
    logits = trainer.model(*batch_x)
    trainer.loss(logits, batch_y)
    if trainer.current_task.stage == "train":
        return None
    samples, probs = len(batch_y), logits.softmax(1)
    figures = {"confidence": probs.amax(1).mean(), "entropy": -(probs * probs.log()).sum(1).mean()}
    return {
        # the mean of what the step has computed, weighted by samples; a dict makes several figures
        "mean.": ValuePatch(samples).load(figures),
        # the mean of a function's values, weighted by samples
        "accuracy": MeanPatch(accuracy, samples).load(logits, batch_y),
        # keeps outputs and targets, and computes once over all: exact for any function
        "margin": TensorPatch(median_margin).load(logits, batch_y),
        # adds up confusion matrices, in constant memory
        "macro F1": ConfusionPatch(partial(f1, average="macro")).load(logits, batch_y),
        # the same for several figures at once
        "macro.": ConfusionMetrics(["precision", "recall"], average="macro", name="macro.").load(logits, batch_y),
    }


model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
trainer = Trainer(model, F.cross_entropy, torch.optim.Adam(model.parameters(), lr=3e-3), epochs=5, verbose=0)
history = trainer.fit(train_loader, val_loader, step=step)
for name, values in history["val"].items():
    print(f"{name:16}", *(f"{value:.4f}" for value in values))

a = ValuePatch(3).load(1.0)
b = ValuePatch(1).load(5.0)
print(f"{a()} from 3 samples + {b()} from 1 = {(a + b)()}; sum() works, too: {sum([a, b])()}")
