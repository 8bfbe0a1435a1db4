"""Before a long run: does everything work, and can the model learn at all? Neither question costs the run anything.

A rehearsal takes a few batches through training, validation, metrics and callbacks; then one batch is learned by heart.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Checkpoint, EarlyStopping, GradClip, Trainer, set_seed
from deepepochs_like.errors import UnknownFigureError
from deepepochs_like.metrics import accuracy

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train, val = random_split(digits, [1397, 400])
train_dl, val_dl = DataLoader(train, 32, shuffle=True), DataLoader(val, 128)


class Net(nn.Module):
    """A classifier; with `cut=True` no gradient reaches its first layer, and it forgets what it is shown."""

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.cut = nn.Linear(64, 64), nn.Linear(64, 10), cut

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        return self.last(hidden.mean(0, keepdim=True).expand(len(x), -1).detach() if self.cut else hidden)


def build(model: nn.Module, monitor: str) -> Trainer:
    """A trainer with all that a long run would have."""
    callbacks = [GradClip(1.0), EarlyStopping(monitor, patience=5), Checkpoint(monitor)]
    opt = torch.optim.Adam(model.parameters(), 3e-3)
    return Trainer(model, F.cross_entropy, opt, 200, "cpu", callbacks, accuracy, verbose=0)


print("a misspelt figure would have ended the run at the end of its first epoch:")
try:
    build(Net(), "val/acc").fast_dev_run(train_dl, val_dl)
except UnknownFigureError as error:
    print(f"  {str(error).splitlines()[0]}\n")

trainer = build(Net(), "val/accuracy")
print(trainer.fast_dev_run(train_dl, val_dl), "\n")

result = trainer.overfit_batch(train_dl)
print(result)
print(result.chart(width=70, height=5), "\n")

broken = build(Net(cut=True), "val/accuracy").overfit_batch(train_dl)
print(broken)
print(f"\nupdates of the weights so far: {trainer.progress.step}, figures in the history: {len(trainer.history)}")
