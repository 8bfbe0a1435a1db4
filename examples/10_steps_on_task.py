"""A step of your own on an `EpochTask`: distillation, where a small student learns from a large teacher.

Keywords that a task does not know (teacher, temperature) are handed to its steps; what it lacks it looks up on its
trainer. The step computes its loss by itself, so it optimizes and reports by itself, too.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import EpochTask, Trainer, set_seed
from deepepochs_like.metrics import accuracy

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
labelled, unlabelled, test_set = random_split(digits, [0.25, 0.45, 0.3])
few = DataLoader(labelled, batch_size=32, shuffle=True)
more = DataLoader(unlabelled, batch_size=32, shuffle=True)
test_loader = DataLoader(test_set, batch_size=256)


class Distillation(EpochTask):
    """Match the teacher's softened predictions; labels are used for the accuracy shown only."""

    def train_step(self, batch_x, batch_y, teacher, temperature=1.0, **step_args):
        with torch.no_grad():
            wanted = F.softmax(teacher(*batch_x) / temperature, dim=1)
        logits = self.model(*batch_x)  # the trainer's
        loss = F.cross_entropy(logits / temperature, wanted)
        loss.backward()
        self.optimize()
        self.do_metric(loss, logits, batch_y)


def train(model, epochs, **tasks):
    """Fit a model and return its test accuracy."""
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    trainer = Trainer(model, F.cross_entropy, opt, epochs, metrics=accuracy, verbose=0)
    trainer.fit(**tasks)
    return trainer.test(test_loader)["accuracy"]


def student():
    set_seed(1)
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


teacher = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 10))
print(f"teacher, {len(labelled)} labels:     test accuracy {train(teacher, 30, train_dl=few):.4f}")
print(f"student, {len(labelled)} labels:     test accuracy {train(student(), 30, train_dl=few):.4f}")
teacher.eval()
task = Distillation(more, teacher=teacher, temperature=3.0)
print(f"student, from the teacher: test accuracy {train(student(), 30, train_tasks=task):.4f}")
