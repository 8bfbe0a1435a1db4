# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import Trainer, Optimizer, Callback

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

L = torch.optim.lr_scheduler


class Lrs(Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_before_train_batch(self, trainer, batch_x, batch_y, batch_idx):
        self.values.append(trainer.opt[0].param_groups[0]["lr"])

    def on_after_epoch(self, trainer, train_tasks, val_tasks, train_metrics, val_metrics, epoch_idx):
        self.values.append(trainer.opt[0].param_groups[0]["lr"])


def run(build, val=True, **fit):
    model = make_model()
    opt = torch.optim.SGD(model.parameters(), 0.4)
    lrs = Lrs()
    trainer = Trainer(model, F.cross_entropy, build(opt), epochs=4, callbacks=lrs, **QUIET)
    torch.manual_seed(1)
    history = trainer.fit(loader(0, 200, 50, shuffle=True), loader(200, 300) if val else None, **fit)
    return {
        "history": plain(history),
        "lrs": lrs.values,
        "current": plain(trainer.opt.get_current_lr()),
        "last": plain(trainer.opt.get_last_lr()),
    }


def plateau(opt):
    return Optimizer(opt, L.ReduceLROnPlateau(opt, factor=0.5, patience=0, threshold=0.05), sched_with_loss=True)


RESULT = {
    "epoch": run(lambda o: Optimizer(o, L.StepLR(o, 1, 0.7))),
    "step": run(lambda o: Optimizer(o, L.CosineAnnealingLR(o, 16), sched_on="step")),
    "loss_val": run(plateau),
    "loss_train": run(plateau, val=False),
    "loss_val_freq": run(plateau, val_freq=2),
    "loss_no_val_loss": run(plateau, do_val_loss=False),
}
