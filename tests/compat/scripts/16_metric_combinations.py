# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import Trainer, EpochTask, rename

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


def const(name, value):
    return rename(name)(lambda preds, targets: torch.tensor(value))


def run(trainer=None, fit=None, train=None, val=None, task=None, test=None):
    model = make_model()
    t = Trainer(model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.1), epochs=1, metrics=trainer, **QUIET)
    kw = dict(metrics=fit, train_metrics=train, val_metrics=val)
    if task is None:
        h = t.fit(loader(0, 64), loader(64, 128), **kw)
        r = t.test(loader(128, 192), metrics=test)
    else:
        h = t.fit(
            train_tasks=EpochTask(loader(0, 64), metrics=task), val_tasks=EpochTask(loader(64, 128), metrics=task), **kw
        )
        r = t.test(tasks=EpochTask(loader(128, 192), metrics=task), metrics=test)
    return {"history": plain(h), "test": plain(r), "order": [list(h["train"]), list(h["val"]), list(r)]}


T, Fi, Tr, Va, Ta, Te = (const(n, float(i)) for i, n in enumerate(["T", "F", "TR", "VA", "TASK", "TE"], 1))
RESULT = {
    "trainer": run([T]),
    "fit": run(fit=[Fi]),
    "trainer_fit": run([T], [Fi]),
    "train": run(train=[Tr]),
    "val": run(val=[Va]),
    "all": run([T], [Fi], [Tr], [Va], None, [Te]),
    "all_task": run([T], [Fi], [Tr], [Va], [Ta], [Te]),
    "clash_trainer_fit": run([const("x", 1.0)], [const("x", 2.0)]),
    "clash_fit_train": run(None, [const("x", 1.0)], [const("x", 2.0)], [const("x", 3.0)]),
    "clash_trainer_test": run([const("x", 1.0)], test=[const("x", 2.0)]),
    "clash_task": run([const("x", 1.0)], task=[const("x", 2.0)]),
    "clash_list": run([const("x", 1.0), const("x", 2.0)]),
    "single": run(const("y", 4.0), task=const("z", 5.0)),
    "same_twice": run([T, T], [T]),
}
