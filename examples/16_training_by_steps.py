"""Train for a number of updates instead of epochs: `max_steps`, with validation after every `val_every_steps`.

The data is a stream without an end, a spiral drawn anew in every batch, so there are no epochs to count. The history
has one entry per validation; its training figures cover the updates since the one before.
"""

import torch
from torch import nn
from torch.nn import functional as F

from deepepochs_like import Optimizer, Trainer, set_seed
from deepepochs_like.metrics import accuracy

ARMS, BATCH_SIZE, MAX_STEPS = 3, 128, 1000


def spiral(samples):
    """Draw points on the arms of a spiral; which arm it is, is to be learned."""
    arm = torch.randint(ARMS, (samples,))
    radius = torch.rand(samples).sqrt()
    angle = 4 * radius + arm * (2 * torch.pi / ARMS) + 0.25 * torch.randn(samples)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1), arm


class Stream:
    """Anything that can be iterated is a loader, and it need not end."""

    def __iter__(self):
        while True:
            yield spiral(BATCH_SIZE)


set_seed(0)
val_loader = [spiral(1000)]

model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, ARMS))
adam = torch.optim.Adam(model.parameters(), lr=1e-2)
opt = Optimizer(adam, torch.optim.lr_scheduler.CosineAnnealingLR(adam, MAX_STEPS), sched_on="step")
trainer = Trainer(model, F.cross_entropy, opt, metrics=accuracy, metric_patch="mean", verbose=0)

history = trainer.fit(Stream(), val_loader, max_steps=MAX_STEPS, val_every_steps=200)

print("updates  train loss  val loss  val accuracy")
for number, row in enumerate(history.rows(), start=1):
    print(f"{200 * number:7}  {row['train/loss']:10.4f}  {row['val/loss']:8.4f}  {row['val/accuracy']:12.4f}")
print(f"{trainer.progress.step} updates, learning rate at the end {trainer.opt[0].get_current_lr():.1e}")
