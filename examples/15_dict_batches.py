"""Batches that are dicts, and a model that returns a dict with its own loss, as many language models do.

A dict batch is handed to the model by keyword; with `loss=None` the model's `'loss'` is trained on, and metrics get the
whole output.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, random_split

from deepepochs_like import Trainer, set_seed

set_seed(0)
data = load_digits()
digits = [
    {"pixels": torch.tensor(pixels, dtype=torch.float32) / 16, "label": int(label)}
    for pixels, label in zip(data.data, data.target, strict=True)
]
train_set, val_set = random_split(digits, [0.7, 0.3])
train_loader = DataLoader(train_set, batch_size=32, shuffle=True)  # collates dicts by itself
val_loader = DataLoader(val_set, batch_size=128)


class Classifier(nn.Module):
    """Return logits, and with labels the loss as well."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, pixels, label=None):
        logits = self.layers(pixels)
        if label is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits, label), "logits": logits, "label": label}


def accuracy(output, _):
    """There is no target beside the batch: what the metric needs is in the output."""
    return (output["logits"].argmax(1) == output["label"]).double().mean()


model = Classifier()
trainer = Trainer(
    model,
    loss=None,
    opt=torch.optim.Adam(model.parameters(), lr=3e-3),
    metrics=accuracy,
    metric_patch="mean",  # of each batch, weighted by samples: nothing is kept
    verbose=0,
)
history = trainer.fit(train_loader, val_loader, epochs=6)
print(history.table())

inputs = [{"pixels": digits[i]["pixels"][None]} for i in val_set.indices[:8]]  # one image a batch
logits = trainer.predict(inputs)["logits"]
print("predicted", logits.argmax(1).tolist(), "labels", [digits[i]["label"] for i in val_set.indices[:8]])
