# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import TrainerBase, ValuePatch, Optimizer

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


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.g = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())
        self.d = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def forward(self, x):
        return self.d(x)


class GanTrainer(TrainerBase):
    def train_step(self, batch_x, batch_y, **step_args):
        n = len(batch_x)
        z = torch.randn(n, 8)
        fake = self.model.g(z)
        d_loss = self.loss(self.model(batch_x), torch.ones(n, 1), do_optimize=False, do_metric=False)
        d_loss = d_loss + self.loss(self.model(fake.detach()), torch.zeros(n, 1), do_optimize=False, do_metric=False)
        self.optimize(1)
        self.opt.zero_grad()
        g_loss = self.loss(self.model(fake), torch.ones(n, 1), do_optimize=False, do_metric=False)
        self.optimize(0)
        self.opt.zero_grad()
        return {"d": ValuePatch(n).load(d_loss.detach()), "g": ValuePatch(n).load(g_loss.detach())}

    def evaluate_step(self, batch_x, batch_y, **step_args):
        out = self.model(batch_x)
        return {"real": ValuePatch(len(batch_x)).load(out.sigmoid().mean())}


torch.manual_seed(0)
model = Gan()
g_opt = torch.optim.Adam(model.g.parameters(), 1e-3)
d_opt = torch.optim.Adam(model.d.parameters(), 2e-3)
opts = [Optimizer(g_opt, torch.optim.lr_scheduler.ExponentialLR(g_opt, 0.9)), d_opt]
trainer = GanTrainer(model, F.binary_cross_entropy_with_logits, opts, epochs=3, **QUIET)
history = trainer.fit(loader(0, 300, 50, shuffle=True), loader(300, 400, 50))
RESULT = {
    "history": plain(history),
    "test": plain(trainer.test(loader(400, 500, 30))),
    "lr": plain(trainer.opt.get_current_lr()),
    "weights": [float(p.detach().double().sum()) for p in model.parameters()],
}
