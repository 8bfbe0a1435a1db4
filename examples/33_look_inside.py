"""Look inside a model: what its layers put out, and which samples it gets most wrong.

`Analyze` finds dead units and vanishing gradients; `Interpret` keeps the worst samples, however many there are.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Analyze, Interpret, Trainer, set_seed

set_seed(0)
images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
train_set, val_set = random_split(TensorDataset(images, labels), [0.5, 0.5])
train_dl = DataLoader(train_set, batch_size=32, shuffle=True)
val_dl = DataLoader(val_set, batch_size=128)

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
with torch.no_grad():
    model[2].bias[:16] = -20  # a quarter of the second layer will never be heard of

outputs, gradients = Analyze("outputs", every=50), Analyze("gradients", every=50)
worst = Interpret(lambda out, y: F.cross_entropy(out, y, reduction="none"), k=5, stages="val")
opt = torch.optim.Adam(model.parameters(), lr=3e-3)
trainer = Trainer(model, F.cross_entropy, opt, epochs=5, callbacks=[outputs, gradients, worst], verbose=0)
trainer.fit(train_dl, val_dl)

print(f"update {outputs.step}:\n{outputs.table()}\n\n{gradients.table()}")
counts = outputs.latest["3"]["histogram"]
print(f"the lowest of its {len(counts)} bins holds {counts[0] / sum(counts):.0%} of what layer 3 puts out\n")

print(f"the worst of {len(val_set)} samples:\n{worst.table()}\n")
sample = worst.samples()[0]
image, label = val_set[sample["index"]]  # no image was kept: the dataset has it
for row in image.view(8, 8):
    print("  " + "".join(" .:-=+*#%@"[int(9 * pixel)] * 2 for pixel in row).rstrip())
print(f"  is a {int(label)}, taken for a {sample['prediction']}\n")

matrix = worst.confusion()
print(f"{worst.confusion_table()}\n{matrix.trace() / matrix.sum():.1%} are right")
