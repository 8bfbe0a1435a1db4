# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import Trainer, Optimizer

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

RESULT = {}
model = make_model()
a = torch.optim.SGD(model[0].parameters(), lr=0.1)
b = torch.optim.SGD([{"params": [model[3].weight]}, {"params": [model[3].bias], "lr": 0.3}], lr=0.2)
opts = [
    Optimizer(a, torch.optim.lr_scheduler.StepLR(a, 1, 0.5)),
    Optimizer(b, torch.optim.lr_scheduler.ExponentialLR(b, 0.97), sched_on="step"),
]
trainer = Trainer(model, F.cross_entropy, opts, epochs=3, metrics=[acc], **QUIET)
torch.manual_seed(1)
history = trainer.fit(loader(0, 300, shuffle=True), loader(300, 400))
RESULT = {
    "history": plain(history),
    "test": plain(trainer.test(loader(400, 500))),
    "current": plain(trainer.opt.get_current_lr()),
    "last": plain(trainer.opt.get_last_lr()),
}
