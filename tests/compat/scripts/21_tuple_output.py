# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import TrainerBase, Trainer

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


class Twin(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(64, 10), nn.Linear(64, 2)

    def forward(self, x):
        return self.a(x), self.b(x)


def loss(out, targets):
    digit, odd = out
    return F.cross_entropy(digit, targets[0]) + 0.5 * F.cross_entropy(odd, targets[1])


def both(preds, targets):
    return {"digit": acc(preds[0], targets[0]), "odd": acc(preds[1], targets[1])}


def data(a, b):
    return [(X[i : i + 40], (Y[i : i + 40], Y[i : i + 40] % 2)) for i in range(a, b, 40)]


model = Twin()
t = Trainer(model, loss, torch.optim.Adam(model.parameters(), 1e-2), epochs=3, metrics=[both], **QUIET)
RESULT = {"history": plain(t.fit(data(0, 320), data(320, 450))), "test": plain(t.test(data(450, 600)))}
