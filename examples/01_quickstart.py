"""Train a small network on handwritten digits, validating after every epoch, and test it.

The digits, 1797 images of 8 x 8 pixels, come with scikit-learn: nothing is downloaded.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Trainer, set_seed
from deepepochs_like.metrics import accuracy

set_seed(7)

# 1. data
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train_set, val_set, test_set = random_split(digits, [0.6, 0.2, 0.2])
train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
val_loader = DataLoader(val_set, batch_size=128)
test_loader = DataLoader(test_set, batch_size=128)

# 2. model
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

# 3. train, validate, test
trainer = Trainer(model, F.cross_entropy, optimizer, epochs=12, metrics=accuracy)
trainer.fit(train_loader, val_loader)
result = trainer.test(test_loader)

print(f"test accuracy {result['accuracy']:.4f}")
