"""Keep checkpoints of a run, end it when it no longer gets better, and test with the best weights.

The best by validation loss is kept beside the newest ones, whatever comes after it.
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Checkpoint, EarlyStopping, Trainer, set_seed
from deepepochs_like.metrics import accuracy

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train, val, test = random_split(digits, [400, 400, len(digits) - 800])
train_dl = DataLoader(train, batch_size=32, shuffle=True)
val_dl, test_dl = DataLoader(val, batch_size=256), DataLoader(test, batch_size=256)

model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

with tempfile.TemporaryDirectory() as folder:  # without folder= runs lie in ./logs
    keep = Checkpoint("val/loss", keep_best=1)
    trainer = Trainer(
        model,
        F.cross_entropy,
        torch.optim.Adam(model.parameters(), lr=3e-3),
        epochs=100,
        callbacks=[keep, EarlyStopping("val/loss", patience=4)],
        metrics=accuracy,
        running_id="digits",
        folder=folder,
        verbose=0,
    )
    history = trainer.fit(train_dl, val_dl)
    print(f"stopped after epoch {trainer.progress.epoch} of 100: {trainer.stop_reason}\n")

    store = keep.store_of(trainer)
    best = store.best()
    print("kept               epoch  updates  val/loss  KiB")
    for entry in store.entries():
        mark = "  the best" if entry == best else ""
        figures = f"{entry.epoch:5}  {entry.step:7}  {entry.figures['val/loss']:8.4f}  {entry.size // 1024}"
        print(f"{entry.path.name}  {figures}{mark}")

    losses = [float(loss) for loss in history["val"]["loss"]]
    print(f"\nlowest validation loss of the history: {min(losses):.4f}, epoch {losses.index(min(losses)) + 1}\n")
    for which in ("last", "best"):
        print(f"{which} weights: test {trainer.test(test_dl, weights=which)}")
    print(f"a file's weights: test {trainer.test(test_dl, weights=best.path)}")
