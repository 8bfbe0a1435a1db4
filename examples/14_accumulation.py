"""Gradient accumulation by hand, beside `Trainer(accumulate=n)`, beside the big batch itself.

While every window is full the three agree. With a short last window only the trainer's own still equals the big
batch: it divides by the samples that the window really saw.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import EpochTask, Trainer, set_seed

SMALL, WINDOW = 32, 4

images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images, dtype=torch.float64) / 16, torch.tensor(labels)


class ByHand(Trainer):
    """Back-propagate a share of each loss, and update with the last batch of a window."""

    def train_step(self, batch_x, batch_y, batches, **step_args):
        last = (self.progress.batch + 1) % WINDOW == 0 or self.progress.batch + 1 == batches
        self.loss(self.model(*batch_x), batch_y, loss_adjust=1 / WINDOW, do_optimize=last)


def weights_after_training(trainer_class, samples, batch_size, accumulate=1):
    """Train for three epochs, and return the weights as one vector."""
    loader = DataLoader(TensorDataset(images[:samples], labels[:samples]), batch_size)
    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double()
    opt = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = trainer_class(model, F.cross_entropy, opt, accumulate=accumulate, verbose=0)
    trainer.fit(train_tasks=EpochTask(loader, batches=len(loader)), epochs=3)
    return nn.utils.parameters_to_vector(model.parameters()).detach()


for title, samples in (("full windows only", 14 * WINDOW * SMALL), ("a short last window", len(images))):
    big = weights_after_training(Trainer, samples, WINDOW * SMALL)
    by_hand = weights_after_training(ByHand, samples, SMALL)
    built_in = weights_after_training(Trainer, samples, SMALL, accumulate=WINDOW)
    print(f"{samples} samples, {title}: largest difference from training in batches of {WINDOW * SMALL}")
    print(f"  by hand       {(by_hand - big).abs().max():.0e}")
    print(f"  accumulate={WINDOW}  {(built_in - big).abs().max():.0e}")
