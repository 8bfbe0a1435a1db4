# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import Trainer, TrainerBase

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

SEEN = []


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(64, 10)

    def forward(self, x, y):
        return F.cross_entropy(self.net(x), y)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(32, 16), nn.Linear(32, 16)
        self.out = nn.Linear(32, 10)

    def forward(self, left, right):
        return self.out(torch.cat([self.a(left), self.b(right)], -1).relu())


def got(preds, targets):
    SEEN.append([list(preds.shape), targets is None])
    return preds.detach() * 2


model = WithLoss()
trainer = Trainer(
    model, opt=torch.optim.SGD(model.parameters(), 0.5), epochs=2, metrics=[got], metric_patch="mean", **QUIET
)
torch.manual_seed(1)
h = trainer.fit(loader(0, 200, 50, shuffle=True), loader(200, 300, 50))
RESULT = {"loss_none": plain(h), "loss_none_test": plain(trainer.test(loader(300, 400, 50))), "seen": SEEN[:2]}


def batches_of(a, b, kind):
    out = []
    for i in range(a, b, 50):
        l, r, y = X[i : i + 50, :32], X[i : i + 50, 32:], Y[i : i + 50]
        out.append(
            {"flat": (l, r, y), "nested": ((l, r), y), "list": [[l, r], y], "dict": ({"left": l, "right": r}, y)}[kind]
        )
    return out


for kind in ("flat", "nested", "list", "dict"):
    model = Two()
    trainer = Trainer(
        model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.5), epochs=2, metrics=[acc], **QUIET
    )
    RESULT[kind] = plain(trainer.fit(batches_of(0, 200, kind), batches_of(200, 300, kind)))
