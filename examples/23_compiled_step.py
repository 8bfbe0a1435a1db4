"""The same training three times: without a compiler, with the model compiled, with the whole step compiled.

The weights agree, the schedule and the clipping go on as they are, and a short last batch costs one more graph. What
it costs to compile is seconds, once; on so small a model only the compiled step wins anything back.
"""

import shutil
import time

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Callback, Optimizer, Trainer, set_seed
from deepepochs_like.metrics import accuracy

torch.set_num_threads(1)
images, labels = load_digits(return_X_y=True)
loader = DataLoader(TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)), batch_size=64)
# Without a C++ compiler there would be a warning, and three runs without one.
BACKEND = "inductor" if shutil.which("g++") else "aot_eager"


class Clip(Callback):
    """Keep the gradients small: between backward pass and update, as ever."""

    def on_after_backward(self, trainer, loss):
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)


def train(compile):
    """Return the weights, the accuracy, the seconds of the first epoch and the microseconds of a later step."""
    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 10))
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    opt = Optimizer(adam, torch.optim.lr_scheduler.CosineAnnealingLR(adam, 6 * len(loader)), sched_on="step")
    trainer = Trainer(model, F.cross_entropy, opt, metrics=accuracy, callbacks=[Clip()], compile=compile, verbose=0)
    start = time.perf_counter()
    trainer.fit(loader, epochs=1)
    first, start = time.perf_counter() - start, time.process_time()
    history = trainer.fit(loader, epochs=5)
    step = (time.process_time() - start) / (5 * len(loader))
    return nn.utils.parameters_to_vector(model.parameters()), history["train"]["accuracy"][-1], first, step * 1e6


plain, *figures = train(None)
print(f"{'compile=':10} {'accuracy':>8} {'first epoch':>12} {'later steps':>12}")
print(f"{'None':10} {figures[0]:8.3f} {figures[1]:10.1f} s {figures[2]:9.0f} µs")
for what in ("model", "step"):
    weights, *figures = train({"what": what, "backend": BACKEND})
    assert torch.allclose(weights, plain, rtol=1e-3, atol=1e-4)
    print(f"{what:10} {figures[0]:8.3f} {figures[1]:10.1f} s {figures[2]:9.0f} µs")
print("the weights are the same, but for rounding")
