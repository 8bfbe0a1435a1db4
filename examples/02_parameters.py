"""The common parameters of Trainer, fit and test, each with a word on what it does.

Calling fit a second time goes on where the first one ended, and `trainer.history` has the epochs of both.
"""

from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Trainer, set_seed
from deepepochs_like.metrics import accuracy, f1

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train_set, val_set, test_set = random_split(digits, [0.7, 0.15, 0.15])
train_loader = DataLoader(train_set, batch_size=16, shuffle=True)
val_loader = DataLoader(val_set, batch_size=128)
test_loader = DataLoader(test_set, batch_size=128)

macro_f1 = partial(f1, average="macro")  # shown as f1
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

trainer = Trainer(
    model,
    loss=F.cross_entropy,  # (model output, target) -> scalar; None: the model returns its loss itself
    opt=torch.optim.Adam(model.parameters(), lr=3e-3),  # None: Adam at 1e-3
    epochs=4,  # of one fit
    device="cpu",  # None: CUDA where there is one
    metrics=accuracy,  # one or a list, in every stage
    metric_patch="tensor",  # how they add up over an epoch: 'tensor', 'mean' or 'confusion'; see 03_metrics.py
    accumulate=2,  # batches per update of the weights: 2 x 16 samples
    verbose=0,  # print nothing; this script prints its own table
    check_finite=True,  # a loss of nan or inf is an error that names the batch
)

first = trainer.fit(
    train_loader,
    val_loader,
    val_freq=2,  # validate after every second epoch
    val_metrics=macro_f1,  # beside the trainer's metrics, in validation only
    do_val_loss=True,  # False: no loss in validation
    batch_size=None,  # what a batch weighs in means, an int or a function; None: the samples in it
)
print(f"first fit:  {len(first['train']['loss'])} epochs, validated {len(first['val']['loss'])} times")

second = trainer.fit(train_loader, val_loader, epochs=2, val_metrics=macro_f1)  # two more
print(f"second fit: {len(second['train']['loss'])} epochs, trained {trainer.progress.epoch} in all")
print(trainer.history.table())

result = trainer.test(test_loader, metrics=macro_f1, do_loss=False)
print("test:", ", ".join(f"{name} {value:.4f}" for name, value in result.items()))
