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

model = make_model()
trainer = Trainer(model, F.cross_entropy, torch.optim.Adam(model.parameters(), 5e-3), epochs=3, metrics=[acc], **QUIET)
torch.manual_seed(1)
train = [EpochTask(loader(0, 200, shuffle=True), metrics=[top3]), EpochTask(loader(200, 300), metrics=sharp)]
val = [EpochTask(loader(300, 400), metrics=[top3]), EpochTask(loader(400, 450), metrics=[sharp], do_loss=False)]
history = trainer.fit(train_tasks=train, val_tasks=val)
one = trainer.test(tasks=[EpochTask(loader(500, 600), metrics=[sharp]), EpochTask(loader(600, 650), metrics=top3)])
two = trainer.test(loader(500, 600), tasks=EpochTask(loader(600, 650), metrics=top3))
mixed = make_model()
trainer = Trainer(mixed, F.cross_entropy, torch.optim.Adam(mixed.parameters(), 5e-3), epochs=2, metrics=[acc], **QUIET)
history2 = trainer.fit(loader(0, 200), loader(300, 400), val_tasks=EpochTask(loader(400, 450), metrics=top3))
RESULT = {
    "history": plain(history),
    "test": plain(one),
    "test_mixed": plain(two),
    "mixed": plain(history2),
    "order": [list(history["train"]), list(history["val"]), list(one), list(two)],
}
