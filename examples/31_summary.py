"""Look at a model before it is trained: layers, shapes, parameters, FLOPs and memory.

The pass that this takes leaves no trace: modes, BatchNorm's statistics, gradients and generators are as they were.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Trainer, set_seed

set_seed(0)
images = DataLoader(TensorDataset(torch.rand(64, 1, 8, 8), torch.randint(0, 10, (64,))), batch_size=16, shuffle=True)


class Net(nn.Module):
    """Patches of an image as words: a convolution, attention between patches, and a frozen projection."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(1, 32, 2, stride=2), nn.BatchNorm2d(32), nn.ReLU())
        self.attention = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.project = nn.Linear(32, 32).requires_grad_(False)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        words = self.attention(self.patches(x).flatten(2).mT)
        return self.head(self.project(words.mean(1)))


model = Net()
trainer = Trainer(model, F.cross_entropy, torch.optim.AdamW(model.parameters()), verbose=0)
before, generators = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()

summary = trainer.summary(images)  # or a batch, an input, or nothing: then it lists parameters
print(summary.text(width=100))

print("\nin 60 columns, its parts alone:")
print(trainer.summary(images, depth=1).text(width=60))

heaviest = max(summary.rows(), key=lambda row: row["flops"])
print(f"\nmost work: {heaviest['name']}, {heaviest['flops'] / summary.flops:.0%} of {summary.flops:,} FLOP")
same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
print(f"weights and statistics as before: {same}; generators: {torch.equal(generators, torch.get_rng_state())}")
