"""Steps of your own on a Trainer subclass: `train_step` for training, `evaluate_step` for validation and test.

The images to recognize are shifted. The steps train on shifted images and average over several shifts when they
evaluate; `self.loss` does the rest: back-propagation, update and figures in training, figures alone in evaluation.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Trainer, set_seed
from deepepochs_like.metrics import accuracy


def shifted(images, pixels):
    """Move images to the right."""
    return images.roll(pixels, dims=-1)


set_seed(0)
images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
test_images = torch.stack([shifted(image, int(torch.randint(-2, 3, ()))) for image in images[1000:]])
train_loader = DataLoader(TensorDataset(images[:1000], labels[:1000]), batch_size=32, shuffle=True)
test_loader = DataLoader(TensorDataset(test_images, labels[1000:]), batch_size=256)


class ShiftTrainer(Trainer):
    """Train on images that are shifted at random; evaluate on several shifts at once."""

    def train_step(self, batch_x, batch_y, **step_args):
        (images,) = batch_x
        pixels = int(torch.randint(-2, 3, ()))
        self.loss(self.model(shifted(images, pixels)), batch_y)

    def evaluate_step(self, batch_x, batch_y, **step_args):
        (images,) = batch_x
        views = [self.model(shifted(images, pixels)) for pixels in (-1, 0, 1)]
        self.loss(torch.stack(views).mean(0), batch_y)


for trainer_class in (Trainer, ShiftTrainer):
    set_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    trainer = trainer_class(model, F.cross_entropy, opt, epochs=20, verbose=0)
    trainer.fit(train_loader)
    result = trainer.test(test_loader, metrics=accuracy)
    print(f"{trainer_class.__name__:12} loss {result['loss']:.4f}  test accuracy {result['accuracy']:.4f}")
