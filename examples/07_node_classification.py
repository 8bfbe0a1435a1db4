"""Classify the nodes of a graph: Zachary's karate club, of which only the two leaders' sides are known.

The whole graph is one batch; a mask as part of the target says which nodes count in a stage, and batch_size= how many
those are.
"""

import networkx as nx
import torch
from torch import nn
from torch.nn import functional as F

from deepepochs_like import Trainer, set_seed

set_seed(0)
graph = nx.karate_club_graph()
sides = torch.tensor([int(graph.nodes[node]["club"] == "Officer") for node in graph])
features = torch.eye(len(graph))  # a node is known by its name alone

adjacency = torch.tensor(nx.to_numpy_array(graph, weight=None), dtype=torch.float32) + torch.eye(len(graph))
scale = adjacency.sum(1).rsqrt()
adjacency = scale[:, None] * adjacency * scale  # symmetric normalization


class GCN(nn.Module):
    """Two graph convolutions (Kipf and Welling, 2017)."""

    def __init__(self, inputs, hidden, classes):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, classes)

    def forward(self, features, adjacency):
        hidden = adjacency @ self.first(features)
        return adjacency @ self.second(hidden.relu())


def batches(nodes):
    """Return a loader: any iterable of batches will do. Here it is a list of one: (inputs..., target)."""
    mask = torch.zeros(len(graph), dtype=torch.bool)
    mask[nodes] = True
    return [(features, adjacency, (sides, mask))]


def masked_loss(logits, target):
    labels, mask = target
    return F.cross_entropy(logits[mask], labels[mask])


def accuracy(logits, target):
    labels, mask = target
    return (logits.argmax(1) == labels)[mask].double().mean()


leaders = [0, 33]
others = [node for node in graph if node not in leaders]
watched, rest = others[::4], [node for node in others if node not in others[::4]]
model = GCN(len(graph), 16, 2)
opt = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)
trainer = Trainer(model, masked_loss, opt, epochs=60, metrics=accuracy, verbose=0)

history = trainer.fit(batches(leaders), batches(watched), val_freq=10, batch_size=lambda x, y: int(y[1].sum()))
print(history.table().splitlines()[0])
print("\n".join(history.table().splitlines()[10::10]))

result = trainer.test(batches(rest), batch_size=len(rest))
print(f"test accuracy {result['accuracy']:.4f} on {len(rest)} members, after {len(leaders)} were shown")
wrong = [node for node, side in enumerate(trainer.predict(batches(rest)).argmax(1)) if side != sides[node]]
print(f"on the wrong side: {wrong}")
