# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import Trainer, Callback, StopLoopException

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

EV = []


class Stop(Callback):
    def __init__(self, hook, epoch):
        super().__init__()
        self.hook, self.epoch = hook, epoch

    def on_before_epoch(self, trainer, train_tasks, val_tasks, epoch_idx):
        self.now = epoch_idx
        if self.hook == "before_epoch" and epoch_idx == self.epoch:
            raise StopLoopException("stop")

    def on_after_train_batch(self, trainer, metrics, batch_idx):
        if self.hook == "after_train_batch" and self.now == self.epoch and batch_idx == 1:
            raise StopLoopException("stop")

    def on_after_epoch(self, trainer, train_tasks, val_tasks, train_metrics, val_metrics, epoch_idx):
        if self.hook == "after_epoch" and epoch_idx == self.epoch:
            raise StopLoopException("stop")

    def on_after_fit(self, trainer):
        EV.append(self.hook)


RESULT = {}
for hook in ("before_epoch", "after_train_batch", "after_epoch"):
    model = make_model()
    t = Trainer(
        model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.1), epochs=4, callbacks=Stop(hook, 1), **QUIET
    )
    RESULT[hook] = plain(t.fit(loader(0, 100), loader(100, 150)))
RESULT["after_fit"] = EV
