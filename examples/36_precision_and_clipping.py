"""Half the bits, clipped gradients, and fewer batches per update as training goes on.

The three work together: gradients are unscaled before they are clipped, a window of batches is clipped once, and an
update whose float16 gradients overflow is left out, counted and said.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import AMP, GradClip, GradientAccumulation, Trainer, set_seed
from deepepochs_like.metrics import accuracy

images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train, test = torch.utils.data.Subset(digits, range(1400)), torch.utils.data.Subset(digits, range(1400, 1797))


def run(title, *callbacks):
    """Train for six epochs, and say what came of it."""
    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = Trainer(model, F.cross_entropy, opt, 6, "cpu", list(callbacks), [accuracy], verbose=0)
    history = trainer.fit(DataLoader(train, batch_size=16, shuffle=True))
    found = trainer.test(DataLoader(test, batch_size=400))["accuracy"]
    print(f"{title:28} test accuracy {found:.3f}, {trainer.progress.step} updates", end="")
    if "grad_norm" in history["train"]:
        norms = " ".join(f"{norm:.2f}" for norm in history["train"]["grad_norm"])
        print(f", norms before clipping {norms}", end="")
    print()


fewer = {0: 4, 3: 1}  # 4 batches per update in the first three epochs, then 1
run("float32")
run("bfloat16", AMP("bf16"))
run("bfloat16, clipped, fewer", AMP("bf16"), GradClip(1.0), GradientAccumulation(fewer))
amp = AMP("fp16", init_scale=2.0**24)  # too much to begin with, so that there is something to see
run("float16, clipped, fewer", amp, GradClip(1.0), GradientAccumulation(fewer))
print(f"float16: {amp.skipped} updates left out, the loss is scaled by {amp.scale:g}")
