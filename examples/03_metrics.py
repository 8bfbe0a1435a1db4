"""What a metric can be, and how it adds up over an epoch.

A function, a function that returns a dict, a torchmetrics object or a patch. The mean of the batches' F1 is not
the F1 of the epoch: the last lines show by how much, and the warning that the trainer gives.
"""

import warnings

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics.classification import MulticlassCohenKappa

from deepepochs_like import ConfusionMetrics, Trainer, rename, set_seed
from deepepochs_like.metrics import accuracy, f1

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train_set, val_set = random_split(digits, [0.6, 0.4])
train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
val_loader = DataLoader(val_set, batch_size=32)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@rename("macro F1")
def macro_f1(preds=None, targets=None, conf_mat=None):
    """Any function (preds, targets) -> number; to be added up as 'confusion' it takes conf_mat."""
    return f1(preds, targets, conf_mat, average="macro")


def top(preds, targets):
    """A dict gives several figures: top1, top3."""
    hits = preds.topk(3, dim=1).indices == targets[:, None]
    return {"1": hits[:, 0].double().mean(), "3": hits.any(1).double().mean()}


metrics = [
    accuracy,  # a function
    top,  # a function that returns a dict
    MulticlassCohenKappa(num_classes=10),  # a torchmetrics object
    ConfusionMetrics(["precision", "recall"], average="macro"),  # several figures from one confusion matrix
]
trainer = Trainer(model, F.cross_entropy, epochs=6, metrics=metrics, verbose=0)
trainer.fit(train_loader)
for name, value in trainer.validate(val_loader).items():
    print(f"{name:22} {value:.6f}")

for metric_patch in ("tensor", "confusion", "mean"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = Trainer(model, F.cross_entropy, metrics=macro_f1, metric_patch=metric_patch, verbose=0)
        result = trainer.validate(val_loader)
    print(
        f"macro F1 as {metric_patch + ':':11}{result['macro F1']:.6f}", *(f"\n  warning: {w.message}" for w in caught)
    )
