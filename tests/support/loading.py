"""A run that loads in two worker processes: ``python -m support.loading START_METHOD FOLDER``; see `test_groups.py`."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from deepepochs_like import Callback, Trainer


class Slow(Dataset[Any]):
    def __len__(self) -> int:
        return 160

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.004)
        return torch.rand(8) + index / 160, torch.tensor(index % 3)


class Begun(Callback):
    """Say when the third batch is done; the signal comes by then, if it is to come."""

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.progress.step == 3:
            print("begun", flush=True)
            time.sleep(0.2)


def init(worker_id: int) -> None:
    print("worker", worker_id, os.getpid(), flush=True)


def main(method: str, folder: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.2), nn.Linear(4, 3))
    opt, resume = torch.optim.SGD(model.parameters(), 0.1), {"resume": "auto", "running_id": "a", "folder": folder}
    trainer = Trainer(model, F.cross_entropy, opt, 2, "cpu", [Begun()], verbose=0, **resume)
    options: Any = {"num_workers": 2, "multiprocessing_context": method, "worker_init_fn": init}
    trainer.fit(DataLoader(Slow(), 8, shuffle=True, **options))
    print("loss", trainer.history["train"]["loss"], trainer.progress.step, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
