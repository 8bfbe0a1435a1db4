"""A small character language model, trained on Python's own documentation (the texts behind `help()`).

Texts differ in length, so batches hold different numbers of tokens. With `weight=` a batch counts by its tokens, and
the perplexity is the same whatever the batch size.
"""

import math
import string
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, random_split

from deepepochs_like import Trainer, set_seed

PADDING = -100  # what cross_entropy leaves out
ALPHABET = string.ascii_lowercase + " .,\n"

set_seed(0)
paragraphs = [" ".join(p.lower().split()) for text in topics.values() for p in text.split("\n\n")]
paragraphs = [" ".join("".join(c for c in p if c in ALPHABET).split())[:100] + "\n" for p in paragraphs if len(p) > 30]
texts = [torch.tensor([ALPHABET.index(c) for c in p]) for p in paragraphs]
train_set, val_set = random_split(texts, [0.9, 0.1])


def collate(texts):
    """Return inputs and the tokens that follow them."""
    inputs = pad_sequence([t[:-1] for t in texts], batch_first=True)
    return inputs, pad_sequence([t[1:] for t in texts], batch_first=True, padding_value=PADDING)


class CharModel(nn.Module):
    def __init__(self, size=96):
        super().__init__()
        self.embed, self.gru = nn.Embedding(len(ALPHABET), 32), nn.GRU(32, size, batch_first=True)
        self.head = nn.Linear(size, len(ALPHABET))

    def forward(self, tokens):
        hidden, _ = self.gru(self.embed(tokens))
        return self.head(hidden).transpose(1, 2)  # (batch, characters, time), as cross_entropy wants it


def step(trainer, batch_x, batch_y, **step_args):
    tokens = (batch_y != PADDING).sum()
    trainer.loss(trainer.model(*batch_x), batch_y, weight=tokens)


model = CharModel()
trainer = Trainer(model, F.cross_entropy, torch.optim.Adam(model.parameters(), lr=5e-3), verbose=0)
train_loader = DataLoader(train_set, batch_size=32, shuffle=True, collate_fn=collate)
trainer.fit(train_loader, max_steps=160, step=step)

for batch_size in (1, 32, len(val_set)):
    result = trainer.validate(DataLoader(val_set, batch_size, collate_fn=collate), step=step)
    print(f"perplexity in batches of {batch_size:3}: {math.exp(result['loss']):.5f}, of {len(ALPHABET)} characters")

text = "the value of "
model.eval()
with torch.no_grad():
    while len(text) < 100:
        logits = model(torch.tensor([[ALPHABET.index(c) for c in text]]))[0, :, -1]
        text += ALPHABET[int(torch.multinomial((logits / 0.5).softmax(0), 1))]
print("it writes:", text)
