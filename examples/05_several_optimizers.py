"""Two models with an optimizer each: a small GAN that learns to draw digits.

Models and optimizers are given by name; the step says what is trained with which. It draws three digits at the end.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Trainer, ValuePatch, set_seed

NOISE = 16

set_seed(0)
images, _ = load_digits(n_class=2, return_X_y=True)  # zeros and ones
loader = DataLoader(TensorDataset(torch.tensor(images, dtype=torch.float32) / 16), batch_size=32, shuffle=True)

generator = nn.Sequential(nn.Linear(NOISE, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())
discriminator = nn.Sequential(nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(128, 1))


class GAN(Trainer):
    """The figures of a step that optimizes by hand are what it returns."""

    def train_step(self, batch_x, batch_y, **step_args):
        g, d = self.models["g"], self.models["d"]
        real = batch_x[0]
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        fake = g(torch.randn(len(real), NOISE))

        self.opt["d"].zero_grad()  # the generator's loss went through d and left its gradients there
        d_real, d_fake = d(real), d(fake.detach())
        d_loss = F.binary_cross_entropy_with_logits(d_real, ones) + F.binary_cross_entropy_with_logits(d_fake, zeros)
        d_loss.backward()
        self.optimize("d")

        g_loss = F.binary_cross_entropy_with_logits(d(fake), ones)
        g_loss.backward()
        self.optimize("g")

        right = ((d_real > 0).double().mean() + (d_fake < 0).double().mean()) / 2
        figures = {"g_loss": g_loss, "d_loss": d_loss, "d_right": right}
        return {name: ValuePatch(len(real)).load(value) for name, value in figures.items()}


trainer = GAN(
    model={"g": generator, "d": discriminator},
    opt={
        "g": torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999)),
        "d": torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999)),
    },
    epochs=100,
    verbose=0,
)
history = trainer.fit(loader)["train"]
for epoch in range(20, 101, 20):
    print(f"epoch {epoch:3}:", *(f"{name} {values[epoch - 1]:.3f}" for name, values in history.items()))

with torch.no_grad():
    drawn = generator.eval()(torch.randn(3, NOISE)).view(3, 8, 8)
for lines in drawn.unbind(1):  # the same line of all three
    print("   ".join("".join(" .:-=+*#%@"[int(pixel * 9.99)] * 2 for pixel in line) for line in lines))
