# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import Trainer, PatchBase

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


class MaxPatch(PatchBase):
    def __init__(self, metric, batch_size, name=None):
        super().__init__(name)
        self.metric, self.batch_size, self.value, self.count = metric, batch_size, None, 0

    def load(self, preds, targets):
        self.value, self.count = self.metric(preds, targets), 1
        return self

    def add(self, other):
        new = MaxPatch(self.metric, self.batch_size + other.batch_size, self.name)
        new.value, new.count = torch.maximum(self.value, other.value), self.count + other.count
        return new

    def forward(self):
        return {"max": self.value, "n": self.count, "bs": self.batch_size}


class SelfPatch(MaxPatch):
    def add(self, other):
        self.value, self.count = torch.maximum(self.value, other.value), self.count + other.count
        self.batch_size = self.batch_size + other.batch_size
        return self


RESULT = {}
for cls in (MaxPatch, SelfPatch):
    model = make_model()
    trainer = Trainer(
        model,
        F.cross_entropy,
        torch.optim.SGD(model.parameters(), 0.2),
        epochs=2,
        metrics=[acc, sharp],
        metric_patch=cls,
        **QUIET,
    )
    torch.manual_seed(1)
    history = trainer.fit(loader(0, 200, 48, shuffle=True), loader(200, 300, 48))
    RESULT[cls.__name__] = {"history": plain(history), "test": plain(trainer.test(loader(300, 400, 48)))}
