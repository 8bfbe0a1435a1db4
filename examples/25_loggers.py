"""Every figure as a line of JSON, as a row of a table, and to a logger of one's own in ten lines.

The run is killed in its third epoch and goes on from its last checkpoint: the files have neither overlap nor gap.
"""

import csv
import json
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Callback, Checkpoint, CSVLogger, JSONLLogger, Logger, Trainer, set_seed
from deepepochs_like.metrics import accuracy


class Ticker(Logger):
    """What Weights & Biases, Aim or Visdom take looks like this, too."""

    def open(self, trainer):
        print(f"> {trainer.running_id}, update {trainer.progress.step}, {trainer.hyper_params}")

    def write(self, figures, step):
        if "val/accuracy" in figures:
            print(f"> {step:3}: {'#' * int(50 * figures['val/accuracy'])} {figures['val/accuracy']:.3f}")

    def close(self):
        print("> closed")


class Crash(Callback):
    def on_after_train_batch(self, trainer, metrics, batch_idx):
        if trainer.progress.step == 50:
            raise RuntimeError("the lights went out")


images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train, val = torch.utils.data.Subset(digits, range(640)), torch.utils.data.Subset(digits, range(640, 1797))


def run(folder, *callbacks):
    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    loggers = [JSONLLogger(every=8), CSVLogger(), Ticker()]
    options = {"hyper_params": {"lr": 0.005}, "resume": "auto", "running_id": "digits", "verbose": 0}
    callbacks = [*loggers, Checkpoint(), *callbacks]
    trainer = Trainer(
        model, F.cross_entropy, optimizer, 4, callbacks=callbacks, metrics=accuracy, folder=folder, **options
    )
    trainer.fit(DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=256))
    trainer.log({"size": sum(p.numel() for p in model.parameters())})
    return trainer


with tempfile.TemporaryDirectory() as folder:  # without folder= runs lie in ./logs
    try:
        run(folder, Crash())
    except RuntimeError as error:
        print(error)
    history = run(folder).history

    rows = [json.loads(line) for line in Path(folder, "digits", "metrics.jsonl").read_text().splitlines()]
    print("\nsteps of batches:", [row["step"] for row in rows if "train_batch/loss" in row])
    losses = [row["val/loss"] for row in rows if "epoch" in row]
    print("losses of epochs equal the history's:", losses == history["val"]["loss"], "\n")

    # What was logged to no file is kept by the history: also the learning rates, which history.plot() draws.
    print("learning rates of the epochs:", history.learning_rates, "\n")

    with Path(folder, "digits", "metrics.csv").open(newline="") as file:
        for row in csv.reader(file):
            print(" ".join(f"{cell[:14]:14}" for cell in row).rstrip())
