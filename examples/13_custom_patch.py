"""A patch of your own: say what a batch is (`load`), how two add up (`add`) and what the value is (`forward`).

The expected calibration error compares confidence with accuracy in ten bins of confidence. The sums of the bins add
up, so the figure is the same for any batch size; a mean over batches is not, as the last column shows.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import PatchBase, Trainer, ValuePatch, set_seed

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train_set, test_set = random_split(digits, [0.3, 0.7])
train_loader = DataLoader(train_set, batch_size=32, shuffle=True)


class CalibrationError(PatchBase):
    """The mean gap between confidence and accuracy, over bins of confidence, weighted by samples."""

    def __init__(self, bins=10, name=None):
        super().__init__(name)
        self.bins = bins

    def load(self, logits, targets):
        confidence, predicted = logits.softmax(1).max(1)
        right = (predicted == targets).double()
        index = (confidence * self.bins).long().clamp(max=self.bins - 1)
        rows = torch.stack([torch.ones_like(right), right, confidence.double()], dim=1)
        self.sums = torch.zeros(self.bins, 3, dtype=torch.double, device=logits.device).index_add_(0, index, rows)
        return self

    def add(self, other):
        self.sums = self.sums + other.sums  # changing and returning self is fine: operands are copies
        return self

    def forward(self):
        samples, right, confidence = self.sums.unbind(1)
        return (right - confidence).abs().sum() / samples.sum()


def step(trainer, batch_x, batch_y, **step_args):
    logits = trainer.model(*batch_x)
    trainer.loss(logits, batch_y)
    error = CalibrationError().load(logits.detach(), batch_y)
    return {"calibration": error, "mean of batches": ValuePatch(len(batch_y)).load(error())}


model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
trainer = Trainer(model, F.cross_entropy, torch.optim.Adam(model.parameters(), lr=3e-3), epochs=10, verbose=0)
trainer.fit(train_loader, step=step)

print("batch size  calibration error  mean of batches")
for batch_size in (8, 64, len(test_set)):
    result = trainer.test(DataLoader(test_set, batch_size), step=step)
    print(f"{batch_size:10}  {result['calibration']:17.6f}  {result['mean of batches']:15.6f}")
