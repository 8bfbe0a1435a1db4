"""A plain function as the step of every stage: `fit(loader, step=function)`, without a subclass.

A denoising autoencoder: the step spoils the images, and `trainer.loss` compares what comes back with the originals. It
trains while training and only measures while validating.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Trainer, set_seed

set_seed(0)
images, _ = load_digits(return_X_y=True)
images = torch.tensor(images, dtype=torch.float32) / 16
train_set, val_set = random_split(TensorDataset(images), [0.8, 0.2])
train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
val_loader = DataLoader(val_set, batch_size=64)


def spoil(images):
    return images + 0.4 * torch.randn_like(images)


def denoise(trainer, batch_x, batch_y, **step_args):
    """Restore spoilt images. A batch of one item is input, without a target."""
    (images,) = batch_x
    trainer.loss(trainer.model(spoil(images)), images)


def error(restored, images):
    """The root of the mean squared error, over all pixels of the epoch."""
    return F.mse_loss(restored, images).sqrt()


model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
trainer = Trainer(model, F.mse_loss, opt, epochs=20, metrics=error, verbose=0)
history = trainer.fit(train_loader, val_loader, step=denoise)
print(f"error of a pixel: {history['val']['error'][0]:.4f} after epoch 1, {history['val']['error'][-1]:.4f} after 20")

original = images[val_set.indices[0]]
spoilt = spoil(original)
model.eval()
with torch.no_grad():
    restored = model(spoilt)
print("original            spoilt              restored")
for line in torch.stack([original, spoilt, restored]).clamp(0, 0.999).view(3, 8, 8).unbind(1):
    print("    ".join("".join(" .:-=+*#%@"[int(pixel * 10)] * 2 for pixel in row) for row in line))
