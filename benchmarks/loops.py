"""The yardstick: the loops one would write by hand.

`naive` reads each loss back, as tutorials do. `best` is the best plain loop known: fused Adam, nothing read back per
step, one reduction per 64 steps. `totals_its_loss` is the baseline that calls per step are counted from. All leave the
data to the loader they are given. What is measured is compared with these, so they change only when a better loop is
found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10

#: Per epoch, stage -> figure -> number, and the matrix under 'cm'.
Rows = list[dict[str, dict[str, Any]]]


def adam(net: nn.Module, fused: bool) -> torch.optim.Adam:
    """The optimizer of every contender; unfused it is what one gets without asking."""
    return torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused or None)


def macro(cm: Tensor) -> dict[str, Any]:
    """Macro precision, recall and F1 of a confusion matrix (rows = targets); absent classes count 0."""
    cm = cm.double()
    tp, fp_tp, fn_tp = cm.diagonal(), cm.sum(0), cm.sum(1)
    p, r = tp / fp_tp.clamp(min=1), tp / fn_tp.clamp(min=1)
    f = 2 * tp / (fp_tp + fn_tp).clamp(min=1)
    return {"precision": p.mean().item(), "recall": r.mean().item(), "f1": f.mean().item(), "cm": cm}


def stages_of(train_dl: Any, val_dl: Any) -> list[tuple[str, Any]]:
    """The stages of an epoch; without `val_dl` there is no validation."""
    return [("train", train_dl)] if val_dl is None else [("train", train_dl), ("val", val_dl)]


def naive(
    net: nn.Module,
    train_dl: Any,
    val_dl: Any,
    heavy: bool = False,
    epochs: int = 5,
    per_sample: int = 1,
    after_step: Callable[[torch.optim.Optimizer], object] | None = None,
) -> Rows:
    """Train as tutorials do.

    Args:
        net: what is trained.
        train_dl: its data.
        val_dl: and those of validation.
        heavy: also macro precision, recall, F1 and the confusion matrix.
        epochs: passes over the data.
        per_sample: how many targets a sample has.
        after_step: what is done after an update.

    Returns:
        One dict per epoch.
    """
    opt, rows = adam(net, fused=False), []
    for _ in range(epochs):
        row = {}
        for stage, dl in stages_of(train_dl, val_dl):
            training = stage == "train"
            net.train(training)
            total, right, n = 0.0, 0.0, 0
            preds, targets = [], []
            with torch.set_grad_enabled(training):
                for x, y in dl:
                    if training:
                        opt.zero_grad()
                    out = net(x)
                    loss = F.cross_entropy(out, y)
                    if training:
                        loss.backward()
                        opt.step()
                        if after_step is not None:
                            after_step(opt)
                    pred = out.argmax(1)
                    total += loss.item() * len(y)
                    right += (pred == y).sum().item()
                    n += len(y)
                    if heavy:
                        preds.append(pred)
                        targets.append(y)
            row[stage] = {"loss": total / n, "accuracy": right / (n * per_sample)}
            if heavy:
                p, t = torch.cat(preds), torch.cat(targets)
                row[stage].update(macro(torch.bincount(t * CLASSES + p, minlength=CLASSES**2).view(CLASSES, CLASSES)))
        rows.append(row)
    return rows


def best(
    net: nn.Module,
    train_dl: Any,
    val_dl: Any,
    heavy: bool = False,
    epochs: int = 5,
    per_sample: int = 1,
    after_step: Callable[[torch.optim.Optimizer], object] | None = None,
    every: int = 64,
) -> Rows:
    """Train with the best plain loop; the arguments are those of `naive`, and how often figures are reduced."""
    opt, rows = adam(net, fused=True), []
    for _ in range(epochs):
        row = {}
        for stage, dl in stages_of(train_dl, val_dl):
            training = stage == "train"
            net.train(training)
            kept: list[tuple[Tensor, Tensor, Tensor]] = []
            total: Any = 0.0
            right: Any = 0
            n = 0
            cm = torch.zeros(CLASSES**2, dtype=torch.int64)

            def reduce() -> None:
                nonlocal kept, total, right, n, cm
                if not kept:
                    return
                losses, outs, ys = zip(*kept)  # noqa: B905  # equal lengths by construction
                kept = []
                sizes = [len(y) for y in ys]
                n += sum(sizes)
                y, p = torch.cat(ys), torch.cat(outs).argmax(1)
                total = total + torch.dot(torch.stack(losses), torch.tensor(sizes, dtype=torch.float32))
                right = right + (p == y).sum()
                if heavy:
                    cm = cm + torch.bincount(y * CLASSES + p, minlength=CLASSES**2)

            with torch.set_grad_enabled(training):
                for x, y in dl:
                    out = net(x)
                    loss = F.cross_entropy(out, y)
                    if training:
                        loss.backward()
                        opt.step()
                        opt.zero_grad()
                        if after_step is not None:
                            after_step(opt)
                    kept.append((loss.detach(), out.detach(), y))
                    if len(kept) == every:
                        reduce()
                reduce()
            row[stage] = {"loss": float(total) / n, "accuracy": float(right) / (n * per_sample)}
            if heavy:
                row[stage].update(macro(cm.view(CLASSES, CLASSES)))
        rows.append(row)
    return rows


def totals_its_loss(net: nn.Module, opt: torch.optim.Optimizer, dl: Iterable[Any], epochs: int) -> None:
    """Train, adding up the loss and doing nothing else."""
    net.train()
    for _ in range(epochs):
        total, n = torch.zeros((), dtype=torch.float64), 0
        for x, y in dl:
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            total += loss.detach() * len(y)
            n += len(y)
