"""Schedules as values: put one behind the other, look at them, use them for a learning rate and for a loss.

The rate warms up for 20 updates and falls along a cosine; the weight of a penalty on the weights' size follows a
schedule of its own, by epochs. The run is cut off in the middle and goes on with the numbers it would have had.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Callback, Optimizer, Scheduled, Trainer, constant, cosine, linear, set_seed, warmup
from deepepochs_like.metrics import accuracy

EPOCHS, UPDATES = 4, 4 * 40
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
rate = warmup(20) >> cosine(UPDATES - 20, end=0.01)
size = constant(1, 0) >> linear(3, 0, 1e-3)


class CutOff(Callback):
    """Stop in the middle of the third epoch."""

    def on_after_train_batch(self, trainer, metrics, batch_idx):
        if trainer.progress.step == 100:
            trainer.stop()


def make(*callbacks):
    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    opt = torch.optim.SGD(model.parameters(), lr=0.5)
    weight, used = Scheduled(size, on="epoch"), []

    def step(trainer, batch_x, batch_y):
        model_out = trainer.model(batch_x)
        loss = F.cross_entropy(model_out, batch_y)
        used.append((trainer.opt[0].get_current_lr(), weight.value))
        trainer.backward(loss + weight.value * sum(p.square().sum() for p in trainer.model.parameters()))
        trainer.optimize()
        trainer.do_metric(loss, model_out, batch_y)

    scheduled = Optimizer(opt, rate.scheduler(opt), sched_on="step")
    options = {"epochs": EPOCHS, "callbacks": [weight, *callbacks], "metrics": accuracy, "verbose": 0}
    trainer = Trainer(model, F.cross_entropy, scheduled, **options)
    return trainer, used, lambda: trainer.fit(DataLoader(digits, batch_size=45, shuffle=True), step=step)


print(rate.plot(width=64, height=6), end="\n\n")
print(size.plot(width=64, height=4), end="\n\n")

trainer, used, fit = make()
history = fit()
print("epoch  first rate  last rate  penalty  accuracy")
for epoch, reached in enumerate(history["train"]["accuracy"]):
    first, last = used[epoch * 40], used[epoch * 40 + 39]
    print(f"{epoch + 1:5}  {first[0]:10.4f}  {last[0]:9.4f}  {first[1]:7.5f}  {reached:8.4f}")

cut, before, fit = make(CutOff())
fit()
state = cut.state_dict()
resumed, after, fit = make()
resumed.load_state_dict(state)
fit()
print(f"\ncut off after update {len(before)}, and resumed: the same numbers: {before + after == used}")
same = all(map(torch.equal, trainer.model.state_dict().values(), resumed.model.state_dict().values()))
print(f"and the same weights: {same}")
