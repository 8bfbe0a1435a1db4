"""Predict: the outputs for all batches, concatenated, in the structure in which the model or the step gives them.

The script shows the digits that the network is most sure of, and wrong about.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from deepepochs_like import Trainer, set_seed

set_seed(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train_set, test_set = random_split(digits, [0.5, 0.5])
train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
test_loader = DataLoader(test_set, batch_size=100)  # the last batch is a short one


class Classifier(Trainer):
    """Without this step, predict returns the model's output as it is."""

    def predict_step(self, batch_x, batch_y, **step_args):
        confidence, label = self.model(*batch_x).softmax(1).max(1)
        return {"label": label, "confidence": confidence}


model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
trainer = Classifier(model, F.cross_entropy, torch.optim.Adam(model.parameters(), lr=3e-3), epochs=10, verbose=0)
trainer.fit(train_loader)

predicted = trainer.predict(test_loader)
print({name: tuple(values.shape) for name, values in predicted.items()}, f"for {len(test_set)} images")

targets = torch.stack([target for _, target in test_set])
wrong = (predicted["label"] != targets).nonzero().flatten()
surest = wrong[predicted["confidence"][wrong].argsort(descending=True)][:4]
print(f"{len(wrong)} wrong; the surest of them:")
print("   ".join(f"{targets[i]} taken for {predicted['label'][i]}" for i in surest))
print("   ".join(f"{predicted['confidence'][i]:<13.1%}" for i in surest))
pictures = torch.stack([test_set[i][0] for i in surest]).view(-1, 8, 8)
for lines in pictures.unbind(1):
    print("".join("".join(" .:-=+*#%@"[int(pixel * 9.99)] * 2 for pixel in line) for line in lines))
