"""Several loaders in one stage: an `EpochTask` each, run one after the other in every epoch.

Clean and noisy digits are trained on in turn and validated apart; `name=` keeps their figures apart.
"""

from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import EpochTask, Trainer, set_seed
from deepepochs_like.metrics import accuracy, f1

set_seed(0)
images, labels = load_digits(return_X_y=True)
clean = torch.tensor(images, dtype=torch.float32) / 16
noisy = (clean + 0.3 * torch.randn(clean.shape)).clamp(0, 1)
targets = torch.tensor(labels)


def loaders(inputs):
    """Return the training and the validation loader of one kind of digits."""
    train_set, val_set = random_split(TensorDataset(inputs, targets), [0.7, 0.3], torch.Generator().manual_seed(0))
    return DataLoader(train_set, batch_size=64, shuffle=True), DataLoader(val_set, batch_size=256)


macro_f1 = partial(f1, average="macro")  # shown as f1
clean_train, clean_val = loaders(clean)
noisy_train, noisy_val = loaders(noisy)

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
trainer = Trainer(model, F.cross_entropy, torch.optim.Adam(model.parameters(), lr=2e-3), metrics=accuracy, verbose=0)

history = trainer.fit(
    train_tasks=[
        EpochTask(clean_train, name="clean."),
        EpochTask(noisy_train, name="noisy."),
    ],
    val_tasks=[
        EpochTask(clean_val, name="clean.", do_loss=False),
        EpochTask(noisy_val, name="noisy.", do_loss=False, metrics=macro_f1),  # a metric of this task alone
    ],
    epochs=8,
)
for row in history.rows():
    figures = ("train/clean.loss", "train/noisy.loss", "val/clean.accuracy", "val/noisy.accuracy", "val/noisy.f1")
    print(f"epoch {row['epoch']}:", *(f"{name} {row[name]:.4f}" for name in figures))

gap = history["val"]["clean.accuracy"][-1] - history["val"]["noisy.accuracy"][-1]
print(f"noise costs {100 * gap:.1f} points of accuracy")

# A loader and tasks go together, too; the loader comes first.
result = trainer.test(clean_val, tasks=EpochTask(noisy_val, name="noisy."))
print(", ".join(f"{name} {value:.4f}" for name, value in result.items()))
