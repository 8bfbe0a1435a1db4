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

SEEN = []


class See(Callback):
    def on_before_fit(self, trainer, epochs):
        SEEN.append(["fit", epochs])

    def on_before_epoch(self, trainer, train_tasks, val_tasks, epoch_idx):
        SEEN.append(["epoch", epoch_idx])

    def on_after_fit(self, trainer):
        SEEN.append(["end"])


model = make_model()
trainer = Trainer(model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.3), epochs=2, callbacks=See(), **QUIET)
torch.manual_seed(1)
RESULT = {"first": plain(trainer.fit(loader(0, 200, shuffle=True), loader(200, 300), metrics=[acc]))}
RESULT["none"] = plain(trainer.fit(loader(0, 200), loader(200, 300)))
RESULT["more"] = plain(trainer.fit(loader(0, 200, shuffle=True), loader(200, 300), epochs=3))
RESULT["again"] = plain(trainer.fit(loader(0, 200, shuffle=True), metrics=[top3], epochs=1))
RESULT["test"] = plain(trainer.test(loader(300, 400)))
model = make_model()
trainer = Trainer(model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.3), epochs=5, callbacks=See(), **QUIET)
RESULT["epochs_first"] = plain(trainer.fit(loader(0, 200), epochs=2))
RESULT["epochs_second"] = plain(trainer.fit(loader(0, 200), epochs=2))
RESULT["seen"] = SEEN
