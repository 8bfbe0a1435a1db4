"""Have a training looked through before it is run: `trainer.check` names silent faults, each with what to do about it.

Four faults are planted in a script that runs without a complaint. They are found, and corrected, and it trains better.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Optimizer, Trainer, set_seed
from deepepochs_like.metrics import accuracy

EPOCHS = 8
images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images, dtype=torch.float32), torch.tensor(labels)


def build(faulty):
    """Make the trainer and its loaders, with the four faults or without them."""
    set_seed(0)
    # 1. bytes as they come in an image file, not brought to scale
    digits = TensorDataset(images * 255 / 16 if faulty else images / 16, labels)
    train, val = random_split(digits, [0.8, 0.2])
    if faulty:  # 2. split once more, so that the two parts overlap
        val = random_split(digits, [0.8, 0.2])[1]
    train_dl, val_dl = DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=256)

    # 3. probabilities, for a loss that takes scores
    end = [nn.Softmax(dim=1)] if faulty else []
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10), *end)

    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    cycle = OneCycleLR(adam, max_lr=1e-2, epochs=EPOCHS, steps_per_epoch=len(train_dl))
    # 4. a schedule made for updates, advanced by epochs
    opt = Optimizer(adam, cycle, sched_on="epoch" if faulty else "step")
    return Trainer(model, nn.CrossEntropyLoss(), opt, EPOCHS, metrics=accuracy, verbose=0), train_dl, val_dl


trainer, train_dl, val_dl = build(faulty=True)
diagnosis = trainer.check(train_dl, val_dl)
print(diagnosis)
print(f"\nto be run as it is: {bool(diagnosis)}; found: {', '.join(sorted(diagnosis.names))}")
trainer.fit(train_dl, val_dl)
figures = {"with the faults": trainer.history["val"]["loss"][-1]}

trainer, train_dl, val_dl = build(faulty=False)
diagnosis = trainer.check(train_dl, val_dl).raise_if_bad()  # a script goes on from here only where nothing is wrong
print(f"\ncorrected: {diagnosis}")
trainer.fit(train_dl, val_dl)
figures["without them"] = trainer.history["val"]["loss"][-1]
for name, loss in figures.items():
    print(f"validation loss {name:16} {loss:.3f}")
