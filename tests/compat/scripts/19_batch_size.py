# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import Trainer, EpochTask

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


def run(bs, task=None):
    model = make_model()
    t = Trainer(
        model,
        F.cross_entropy,
        torch.optim.SGD(model.parameters(), 0.1),
        epochs=2,
        metrics=[sharp],
        metric_patch="mean",
        **QUIET,
    )
    if task:
        h = t.fit(
            train_tasks=EpochTask(loader(0, 100), batch_size=task),
            val_tasks=EpochTask(loader(100, 150), batch_size=task),
            batch_size=bs,
        )
        return {
            "history": plain(h),
            "test": plain(t.test(tasks=EpochTask(loader(150, 200), batch_size=task), batch_size=bs)),
        }
    h = t.fit(loader(0, 100), loader(100, 150), batch_size=bs)
    return {"history": plain(h), "test": plain(t.test(loader(150, 200), batch_size=bs))}


RESULT = {
    "none": run(None),
    "int": run(5),
    "fn": run(lambda x, y: x.shape[0] * 2 + int(y[0])),
    "task": run(3, lambda x, y: int(y.sum())),
}
