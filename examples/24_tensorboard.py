"""Curves, learning rates, hyper-parameters, the model's graph and pictures in TensorBoard.

Two runs with different learning rates, of which one is stopped in mid-epoch and resumed: its curves have no gap.
Look at such runs with `tensorboard --logdir logs`, or `with board.run_tensorboard() as page: ...`: its tab Custom
Scalars has training and validation in one chart.
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Callback, Checkpoint, TensorBoard, Trainer, set_seed
from deepepochs_like.callbacks.board_layout import layouts
from deepepochs_like.callbacks.tensorboard import scalars
from deepepochs_like.metrics import accuracy


class Mistakes(Callback):
    """Show some images of the first validation batch, and what they are taken for."""

    def on_val_metrics(self, trainer, loss, model_out, batch_y, task):
        self.guesses = model_out[:8].argmax(1).tolist()

    def on_after_epoch(self, trainer, epoch_idx, **kwargs):
        step = trainer.progress.step
        trainer.writer.add_images("digits", val[:8][0].view(8, 1, 8, 8), step)
        trainer.writer.add_text("taken for", ", ".join(map(str, self.guesses)), step)
        trainer.writer.add_histogram("weights/first", next(trainer.model.parameters()).detach(), step)
        trainer.log({"weights/norm": sum(p.detach().norm() for p in trainer.model.parameters())})


class StopOnce(Callback):
    def on_after_train_batch(self, trainer, metrics, batch_idx):
        if trainer.progress.step == 30:
            trainer.stop("enough for today")


images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train, val = random_split(digits, [600, len(digits) - 600], generator=torch.Generator().manual_seed(0))


def run(lr, folder, *callbacks):
    set_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    trainer = Trainer(
        model,
        F.cross_entropy,
        torch.optim.Adam(model.parameters(), lr=lr),
        epochs=4,
        callbacks=[TensorBoard(every=10, log_graph=True), Checkpoint(), Mistakes(), *callbacks],
        metrics=accuracy,
        hyper_params={"lr": lr, "net": {"width": 64}},
        resume="auto",
        running_id=f"lr-{lr}",
        folder=folder,
        verbose=0,
    )
    trainer.fit(DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=256))
    return trainer


with tempfile.TemporaryDirectory() as folder:  # without folder= runs lie in ./logs
    run(0.03, folder)
    run(0.01, folder, StopOnce())
    history = run(0.01, folder).history
    for runs in sorted(Path(folder).iterdir()):
        curves = scalars(runs / "tensorboard")
        print(runs.name, {step: f"{value:.3f}" for step, value in curves["accuracy/val"].items()})
    curves = scalars(Path(folder, "lr-0.01", "tensorboard"))
    print("\ntags:", ", ".join(sorted(curves)))
    print("charts:", layouts(Path(folder, "lr-0.01", "tensorboard")))
    resumed = all(abs(a - b) < 1e-6 for a, b in zip(curves["loss/val"].values(), history["val"]["loss"], strict=True))
    print(f"resumed in mid-epoch, batches at {list(curves['loss/train_batch'])}; equal to the history: {resumed}")
