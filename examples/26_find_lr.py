"""Which learning rate, and how large may batches be? Both are found by short trainings that leave no trace.

The weights, the optimizer and the random generators are byte for byte what they were before.
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Trainer, set_seed
from deepepochs_like.metrics import accuracy

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train, val = random_split(digits, [1397, 400])
train_dl, val_dl = DataLoader(train, 32, shuffle=True), DataLoader(val, 128)


def build(lr: float) -> Trainer:
    """A trainer of the same small network, whatever its learning rate."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    opt = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    return Trainer(model, F.cross_entropy, opt, 3, "cpu", metrics=accuracy, verbose=0)


def final(lr: float) -> float:
    """Accuracy after three epochs with a learning rate."""
    trainer = build(lr)
    trainer.fit(train_dl, val_dl)
    return float(trainer.history["val"]["accuracy"][-1])


trainer = build(1e-4)
before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
generator = torch.get_rng_state()

finding = trainer.find_lr(train_dl, low=1e-5)
print(finding)

same = all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
print(f"\nweights as before: {same}; generator as before: {torch.equal(generator, torch.get_rng_state())}")
assert finding.suggestion is not None
print(
    f"accuracy after 3 epochs with lr=1e-4: {final(1e-4):.3f}, with the suggested one: {final(finding.suggestion):.3f}"
)

with tempfile.TemporaryDirectory() as folder:
    finding.plot(Path(folder) / "lr.png")  # matplotlib draws the same
    print(f"drawn into {[path.name for path in Path(folder).iterdir()]}")

print(f"\n{trainer.find_batch_size(train, start=64, most=1024)}")
