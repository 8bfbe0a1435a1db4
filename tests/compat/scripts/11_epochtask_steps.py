# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import Trainer, TrainerBase, EpochTask, ValuePatch

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

CALLS = []


class Both(EpochTask):
    def step(self, batch_x, batch_y, scale=1.0, **step_args):
        CALLS.append(("step", scale, sorted(step_args), torch.is_grad_enabled()))
        out = self.model(batch_x) * scale
        self.loss(out, batch_y)
        return {"norm": ValuePatch(len(batch_y)).load(out.detach().norm(dim=1).mean())}


class Eval(EpochTask):
    def evaluate_step(self, batch_x, batch_y, shift=0.0, **step_args):
        CALLS.append(("evaluate", shift, sorted(step_args), torch.is_grad_enabled()))
        out = self.model(batch_x + shift)
        self.loss(out, batch_y)


class Own(TrainerBase):
    def train_step(self, batch_x, batch_y, **step_args):
        CALLS.append(("trainer.train", sorted(step_args)))
        self.loss(self.model(batch_x), batch_y)

    def val_step(self, batch_x, batch_y, **step_args):
        CALLS.append(("trainer.val", sorted(step_args)))
        self.loss(self.model(batch_x), batch_y)


model = make_model()
trainer = Own(model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.1), epochs=2, metrics=[acc], **QUIET)
torch.manual_seed(1)
history = trainer.fit(
    train_tasks=[Both(loader(0, 100, 50, shuffle=True), scale=2.0, extra=1), EpochTask(loader(100, 150, 50), foo="x")],
    val_tasks=[Eval(loader(200, 250, 50), shift=0.1), Both(loader(250, 300, 50), metrics=[top3])],
)
test = trainer.test(
    tasks=[Eval(loader(300, 400, 50), step_args={"q": 1}), EpochTask(loader(400, 450, 50), metrics=[sharp])]
)
RESULT = {"history": plain(history), "test": plain(test), "calls": [list(c) for c in CALLS]}
