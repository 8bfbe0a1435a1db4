# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import TrainerBase

_X, _Y = load_digits(return_X_y=True)
X, Y = torch.tensor(_X / 16, dtype=torch.float32), torch.tensor(_Y)


def loader(a, b, bs=32, shuffle=False, **kw):
    return DataLoader(TensorDataset(X[a:b], Y[a:b]), batch_size=bs, shuffle=shuffle, **kw)


def make_model(seed=0, drop=0.1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Dropout(drop), nn.Linear(24, 10))


def plain(v):
    if isinstance(v, dict):
        return {str(k): plain(x) for k, x in v.items()}
    if isinstance(v, (list, tuple)):
        return [plain(x) for x in v]
    return float(v)


def acc(preds, targets):
    return (preds.argmax(-1) == targets).float().mean()


def top3(preds, targets):
    return (preds.topk(3, -1)[1] == targets[:, None]).any(-1).float().mean()


def sharp(preds, targets):
    return (preds.softmax(-1).max(-1)[0].mean() * acc(preds, targets)) ** 2


QUIET = dict(device="cpu", show_info=False, log_batch=False)


class Accumulate(TrainerBase):
    def train_step(self, batch_x, batch_y, **step_args):
        self.count = getattr(self, "count", 0) + 1
        last = self.count % 4 == 0
        self.loss(
            self.model(batch_x), batch_y, loss_adjust=1 / 4, do_optimize=last, do_metric=not step_args.get("silent")
        )
        if step_args.get("again"):
            self.loss(self.model(batch_x), batch_y)


model = make_model()
trainer = Accumulate(model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.5), epochs=3, metrics=[acc], **QUIET)
torch.manual_seed(1)
history = trainer.fit(loader(0, 300, 25, shuffle=True), loader(300, 400, 40))
test = trainer.test(loader(400, 500, 40))


class Halves(TrainerBase):
    def train_step(self, batch_x, batch_y, **step_args):
        half = len(batch_y) // 4
        self.loss(self.model(batch_x[:half]), batch_y[:half], do_optimize=False)
        self.loss(self.model(batch_x[half:]), batch_y[half:])


model = make_model()
trainer = Halves(model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.5), epochs=2, metrics=[acc], **QUIET)
halves = trainer.fit(loader(0, 300, 40))
RESULT = {"history": plain(history), "test": plain(test), "two_losses_per_batch": plain(halves)}
