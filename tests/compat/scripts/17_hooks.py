# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import Trainer, Callback

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

LOG = []


class Rec(Callback):
    def __init__(self, name, priority):
        super().__init__(priority)
        self.name = name


def add(hook):
    def method(self, *args, **kwargs):
        vals = {k: v for k, v in kwargs.items() if k in ("epoch_idx", "batch_idx", "epochs", "optimize_index")}
        for k in ("metrics", "train_metrics", "val_metrics"):
            if k in kwargs:
                vals[k] = {n: float(v) for n, v in kwargs[k].items()}
        if isinstance(kwargs.get("loss"), torch.Tensor):
            vals["loss"] = float(kwargs["loss"])
        LOG.append([self.name, hook, sorted(kwargs), vals])

    setattr(Rec, hook, method)


for stage in ("train", "val", "test"):
    for h in (
        "before_{}_epochs",
        "before_{}_epoch",
        "before_{}_batch",
        "before_{}_forward",
        "after_{}_forward",
        "{}_metrics",
        "after_{}_batch",
        "after_{}_epoch",
        "after_{}_epochs",
    ):
        add("on_" + h.format(stage))
for h in (
    "before_fit",
    "before_epoch",
    "before_backward",
    "after_backward",
    "before_optimize",
    "after_optimize",
    "after_epoch",
    "after_fit",
):
    add("on_" + h)

model = make_model()
trainer = Trainer(
    model,
    F.cross_entropy,
    torch.optim.SGD(model.parameters(), 0.1),
    epochs=2,
    metrics=[acc],
    callbacks=[Rec("b", 2), Rec("a", 1)],
    **QUIET,
)
trainer.fit(loader(0, 64), loader(64, 96))
trainer.test(loader(96, 128))
RESULT = {"log": LOG}
