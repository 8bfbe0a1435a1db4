# ruff: noqa - written the way users write their scripts
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits
from deepepochs import TrainerBase, ValuePatch, TensorPatch, MeanPatch, ConfusionPatch, ConfusionMetrics

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


def cacc(conf_mat):
    return conf_mat.diag().sum() / conf_mat.sum()


class Mine(TrainerBase):
    def train_step(self, batch_x, batch_y, **step_args):
        out = self.model(batch_x)
        loss = self.loss(out, batch_y)
        n = len(batch_y)
        return {
            "v": ValuePatch(n).load(acc(out, batch_y)),
            "raw": ValuePatch(n).load(loss.detach()),
            "m": MeanPatch(sharp, n).load(out.detach(), batch_y),
        }

    def evaluate_step(self, batch_x, batch_y, **step_args):
        out = self.model(batch_x)
        self.loss(out, batch_y)
        n = len(batch_y)
        return {
            "t": TensorPatch(sharp).load(out, batch_y),
            "named": TensorPatch(acc, n, "A").load(out, batch_y),
            "d": ValuePatch(n, "D.").load({"a": acc(out, batch_y), "b": 1.5}),
            "e": ValuePatch(n).load({"a": acc(out, batch_y)}),
            "cm": ConfusionPatch(cacc, n).load(out, batch_y),
        }

    def test_step(self, batch_x, batch_y, **step_args):
        out = self.model(batch_x)
        self.loss(out, batch_y)
        return {
            "c": ConfusionMetrics(average="macro", beta=2.0).load(out, batch_y),
            "w": ConfusionMetrics(("f1", "accuracy"), average="weighted", name="W.").load(out, batch_y),
            "loss": ValuePatch(len(batch_y)).load(torch.tensor(7.0)),
        }


model = make_model()
trainer = Mine(
    model, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.5, momentum=0.9), epochs=3, metrics=[top3], **QUIET
)
torch.manual_seed(1)
history = trainer.fit(loader(0, 700, 100, shuffle=True), loader(700, 950, 100))
test = trainer.test(loader(950, 1250, 128))
RESULT = {
    "history": plain(history),
    "test": plain(test),
    "order": [list(history["train"]), list(history["val"]), list(test)],
}
