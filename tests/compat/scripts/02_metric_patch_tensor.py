# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import Trainer, rename

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


@rename("")
def pair(preds, targets):
    return {"hit": acc(preds, targets), "top": top3(preds, targets)}


@rename("P.")
def pair2(preds, targets):
    return {"hit": acc(preds, targets), "sharp": sharp(preds, targets)}


model = make_model()
trainer = Trainer(
    model,
    F.cross_entropy,
    torch.optim.SGD(model.parameters(), 0.2, momentum=0.9),
    epochs=3,
    metrics=[acc, sharp, pair, pair2],
    metric_patch="tensor",
    **QUIET,
)
torch.manual_seed(1)
history = trainer.fit(loader(0, 500, 48, shuffle=True), loader(500, 700, 48))
test = trainer.test(loader(700, 900, 64))
RESULT = {"history": plain(history), "test": plain(test), "order": list(history["train"])}
