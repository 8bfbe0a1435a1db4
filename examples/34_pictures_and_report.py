"""Look at a run: curves in the terminal and in files, the worst images, and a page to hand on.

The terminal's curves need nothing but a font with Braille; the files are drawn without a screen; the page needs neither
a network nor matplotlib.
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import (
    Interpret,
    Optimizer,
    Report,
    Trainer,
    contact_sheet,
    plot_confusion,
    plot_learning_rates,
    set_seed,
)
from deepepochs_like.metrics import accuracy


def losses(out, target):
    return F.cross_entropy(out, target, reduction="none")


set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train, val, test = random_split(digits, [900, 400, len(digits) - 1300])
train_dl = DataLoader(train, batch_size=32, shuffle=True)
val_dl, test_dl = DataLoader(val, batch_size=400), DataLoader(test, batch_size=400)

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
adam = torch.optim.Adam(model.parameters(), lr=4e-3)
opt = Optimizer(adam, torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=12))
worst = Interpret(losses, k=16, stages="val", keep_inputs=True)
report = Report(title="Digits, a first model", image_shape=(8, 8))

with tempfile.TemporaryDirectory() as folder:  # without folder= runs lie in ./logs
    out = Path(folder)
    plot_learning_rates(opt, 12, out / "learning_rates.png")  # before it is used: drawn from a copy
    trainer = Trainer(
        model,
        F.cross_entropy,
        opt,
        epochs=12,
        callbacks=[worst, report],
        metrics=accuracy,
        hyper_params={"dropout": 0.2, "hidden": 128},
        running_id="digits",
        folder=folder,
        verbose=0,
    )
    history = trainer.fit(train_dl, val_dl)
    trainer.test(test_dl)

    print(history.chart(width=80, height=7))
    print(f"\n{worst.confusion_table()}\n")
    history.plot(out / "curves.png")
    plot_confusion(worst.confusion(), 10, normalize="true", path=out / "confusion.png")
    contact_sheet(worst.samples(), out / "worst.png", shape=(8, 8))
    for path in sorted(path for path in out.rglob("*") if path.suffix in (".png", ".html")):
        print(f"{path.relative_to(out)!s:22} {path.stat().st_size // 1024:4} KiB")
    page = report.path.read_text(encoding="utf-8")
    print(f"the page holds {page.count('<svg')} curves, {page.count('<figure>')} images, {page.count('src=h')} links")
