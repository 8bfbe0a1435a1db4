"""Stop in the middle of an epoch, take the whole state, and go on from it in a trainer made anew.

The run that was cut in two ends with the same weights and history as the one that was not, bit for bit, dropout and
shuffled data included.
"""

import io

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Callback, Optimizer, Trainer, set_seed
from deepepochs_like.metrics import accuracy

images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))


class StopAt(Callback):
    """Stop the run after one batch of one epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.epoch, self.batch = epoch, batch

    def on_after_train_batch(self, trainer, metrics, batch_idx):
        if (trainer.progress.epoch, batch_idx) == (self.epoch, self.batch):
            trainer.stop("to show how it goes on")


def build(*callbacks):
    """Make the trainer and its data, as a script does that is started again."""
    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    opt = Optimizer(adam, torch.optim.lr_scheduler.StepLR(adam, 2, gamma=0.5))
    trainer = Trainer(
        model, F.cross_entropy, opt, epochs=5, callbacks=callbacks, metrics=accuracy, accumulate=4, verbose=0
    )
    return trainer, DataLoader(digits, batch_size=64, shuffle=True)


whole, loader = build()
whole.fit(loader)

cut, loader = build(StopAt(epoch=2, batch=9))
cut.fit(loader)
file = io.BytesIO()
torch.save(cut.state_dict(), file)
where = f"epoch {cut.progress.epoch + 1}, after {cut.progress.batch} batches of it and {cut.progress.step} updates"
print(f"stopped in {where}, two batches into a window of 4")

file.seek(0)
resumed, loader = build()
torch.rand(1000)  # what is drawn in between makes no difference
resumed.load_state_dict(torch.load(file, weights_only=True))
resumed.fit(loader)

pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
print("weights equal bit for bit:", all(torch.equal(a, b) for a, b in pairs))
print("history equal:", whole.history == resumed.history)
print(resumed.history.table())
