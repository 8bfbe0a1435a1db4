"""`trainer.check`: what is healthy passes, a fault planted in it is named with its fix, and no trace is left."""

from __future__ import annotations

import copy
import random
import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedules
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, TensorDataset, random_split

from deepepochs_like import Callback, Diagnosis, EarlyStopping, EpochTask, Finding, GradClip, Optimizer, Trainer, rename
from deepepochs_like.doctor import CHECKS
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, DiagnosisError, EngineWarning
from deepepochs_like.metrics import accuracy
from support.trainings import CLASSIFIERS, KINDS, Training, training

SEEDS = range(4)
#: Of the variants of a fault so many have to be named, as a share.
ENOUGH = 0.95

# Healthy variants: what people do, and what must not be taken for a fault.


def as_it_is(t: Training) -> None:
    """Nothing is changed."""


def with_extras(t: Training) -> None:
    t.callbacks, t.metrics = [GradClip(max_norm=1.0)], [accuracy] if t.kind in CLASSIFIERS else []
    t.accumulate, t.train = 2, {"shuffle": True, "drop_last": True}


def cosine_by_epoch(t: Training) -> None:
    t.scheduler = lambda opt, t, n: schedules.CosineAnnealingLR(opt, t.epochs)


def cosine_by_step(t: Training) -> None:
    t.scheduler, t.sched_on = (lambda opt, t, n: schedules.CosineAnnealingLR(opt, n * t.epochs)), "step"


def one_cycle(t: Training) -> None:
    t.scheduler, t.sched_on = (lambda opt, t, n: schedules.OneCycleLR(opt, 0.01, n * t.epochs)), "step"


def steps_down(t: Training) -> None:
    t.scheduler = lambda opt, t, n: schedules.StepLR(opt, max(1, t.epochs // 3))


def exponential(t: Training) -> None:
    t.scheduler = lambda opt, t, n: schedules.ExponentialLR(opt, 0.9)


def warm_up_by_step(t: Training) -> None:
    def made(opt: Any, t: Training, n: int) -> Any:
        return schedules.LambdaLR(opt, lambda step: min(1.0, (step + 1) / (n * t.epochs // 10 + 1)))

    t.scheduler, t.sched_on = made, "step"


def warm_up_by_epoch(t: Training) -> None:
    t.scheduler = lambda opt, t, n: schedules.LinearLR(opt, 0.1, total_iters=3)


def warm_up_then_cosine(t: Training) -> None:
    def made(opt: Any, t: Training, n: int) -> Any:
        rise, total = schedules.LinearLR(opt, 0.1, total_iters=n), n * t.epochs
        return schedules.SequentialLR(opt, [rise, schedules.CosineAnnealingLR(opt, total - n)], [n])

    t.scheduler, t.sched_on = made, "step"


HEALTHY = (
    *(as_it_is, with_extras, cosine_by_epoch, cosine_by_step, one_cycle, steps_down, exponential),
    *(warm_up_by_step, warm_up_by_epoch, warm_up_then_cosine),
)


@pytest.mark.parametrize("change", HEALTHY, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_healthy_passes(kind: str, change: Callable[[Training], None]) -> None:
    for seed in SEEDS:
        healthy = training(kind, seed)
        change(healthy)
        diagnosis = healthy.check()
        assert not list(diagnosis), f"seed {seed}: {diagnosis}"
        assert diagnosis.ok
        assert not diagnosis.left_out, f"seed {seed}: {diagnosis}"


# Faults: each changes a healthy training so that it is ill in one way.


def last_linear(model: nn.Module) -> tuple[nn.Module, str, nn.Linear]:
    """The last linear layer, with its parent and name."""
    name, layer = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, own = name.rpartition(".")
    return model.get_submodule(parent), own, layer


def linears(model: nn.Module) -> list[nn.Linear]:
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def head_left_out(t: Training, dice: random.Random) -> None:
    left_out = {id(p) for p in last_linear(t.model)[2].parameters()}
    t.parameters = lambda model: [p for p in model.parameters() if id(p) not in left_out]


def bias_left_out(t: Training, dice: random.Random) -> None:
    left_out = dice.choice([n for n, p in t.model.named_parameters() if p.ndim == 1])
    t.parameters = lambda model: [p for n, p in model.named_parameters() if n != left_out]


class WithMore(nn.Module):
    """A model beside a layer that it does not use, or whose output it cuts off."""

    def __init__(self, inner: nn.Module, detached: bool) -> None:
        super().__init__()
        self.inner, self.more, self.detached = inner, nn.Linear(3, 3), detached

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.inner(*args, **kwargs)
        if self.detached:
            add = self.more(torch.ones(1, 3)).sum().detach()
            return {**out, "loss": out["loss"] + 0 * add} if isinstance(out, dict) else out + 0 * add
        return out


def unused_layer(t: Training, dice: random.Random) -> None:
    t.model = WithMore(t.model, detached=False)


def detached_layer(t: Training, dice: random.Random) -> None:
    t.model = WithMore(t.model, detached=True)


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def cut_off_body(t: Training, dice: random.Random) -> None:
    parent, name, layer = last_linear(t.model)
    setattr(parent, name, nn.Sequential(Cut(), layer))


def lambda_in_steps(t: Training, dice: random.Random) -> None:
    def made(opt: Any, t: Training, n: int) -> Any:
        return schedules.LambdaLR(opt, lambda step: min(1.0, (step + 1) / (n * t.epochs // 2)))

    t.scheduler = made


def cosine_in_steps(t: Training, dice: random.Random) -> None:
    t.scheduler = lambda opt, t, n: schedules.CosineAnnealingLR(opt, n * t.epochs)


def one_cycle_in_steps(t: Training, dice: random.Random) -> None:
    t.scheduler = lambda opt, t, n: schedules.OneCycleLR(opt, 0.01, epochs=t.epochs, steps_per_epoch=n)


def linear_in_steps(t: Training, dice: random.Random) -> None:
    t.scheduler = lambda opt, t, n: schedules.LinearLR(opt, 1.0, 0.0, total_iters=n * t.epochs)


def falls_in_steps(t: Training, dice: random.Random) -> None:
    share = dice.choice([3, 2])
    t.scheduler = lambda opt, t, n: schedules.StepLR(opt, n * t.epochs // share)


def drops_in_steps(t: Training, dice: random.Random) -> None:
    t.scheduler = lambda opt, t, n: schedules.MultiStepLR(opt, [n * t.epochs // 2, n * t.epochs * 3 // 4])


def cosine_in_epochs(t: Training, dice: random.Random) -> None:
    t.scheduler, t.sched_on = (lambda opt, t, n: schedules.CosineAnnealingLR(opt, t.epochs)), "step"


def one_cycle_in_epochs(t: Training, dice: random.Random) -> None:
    t.scheduler, t.sched_on = (lambda opt, t, n: schedules.OneCycleLR(opt, 0.01, t.epochs)), "step"


def drops_in_epochs(t: Training, dice: random.Random) -> None:
    t.scheduler = lambda opt, t, n: schedules.MultiStepLR(opt, [t.epochs // 2, t.epochs * 3 // 4])
    t.sched_on = "step"


def decay_in_epochs(t: Training, dice: random.Random) -> None:
    gamma = dice.choice([0.5, 0.7])
    t.epochs = 12
    t.scheduler, t.sched_on = (lambda opt, t, n: schedules.ExponentialLR(opt, gamma)), "step"


def falls_in_epochs(t: Training, dice: random.Random) -> None:
    size, gamma = dice.choice([(2, 0.5), (4, 0.1), (5, 0.3)])
    t.scheduler, t.sched_on = (lambda opt, t, n: schedules.StepLR(opt, size, gamma)), "step"


def warm_up_in_epochs(t: Training, dice: random.Random) -> None:
    t.epochs, warm = 30, dice.choice([2, 3, 5])
    t.scheduler = lambda opt, t, n: schedules.LambdaLR(opt, lambda epoch: min(1.0, (epoch + 1) / warm))
    t.sched_on = "step"


class Hand(nn.Module):
    """Softmax or sigmoid as one writes it by hand."""

    def __init__(self, what: str, dim: int) -> None:
        super().__init__()
        self.what, self.dim = what, dim

    def forward(self, x: Tensor) -> Tensor:
        return x.exp() / x.exp().sum(self.dim, keepdim=True) if self.what == "softmax" else 1 / (1 + (-x).exp())


def softmax_at_the_end(t: Training, dice: random.Random) -> None:
    parent, name, layer = last_linear(t.model)
    dim = -1
    squash = dice.choice([nn.Softmax(dim), nn.Softmax(dim), Hand("softmax", dim), nn.Sigmoid(), nn.LogSoftmax(dim)])
    setattr(parent, name, nn.Sequential(layer, squash))


def sigmoid_at_the_end(t: Training, dice: random.Random) -> None:
    squash = dice.choice([nn.Sigmoid(), Hand("sigmoid", 0)])
    t.model = nn.Sequential(t.model, squash)


def labels_from_one(t: Training, dice: random.Random) -> None:
    t.columns[-1] = t.columns[-1] + (t.columns[-1] >= 0).long()


def all_labels_too_high(t: Training, dice: random.Random) -> None:
    t.columns[-1] = t.columns[-1] + t.classes


def a_label_too_high(t: Training, dice: random.Random) -> None:
    t.columns[-1] = t.columns[-1].clone()
    t.columns[-1][t.columns[-1].shape[0] // 2 :][:60] = t.classes + dice.choice([0, 1, 90])


def a_label_of_minus_one(t: Training, dice: random.Random) -> None:
    t.columns[-1] = t.columns[-1].clone()
    t.columns[-1][dice.sample(range(len(t.columns[-1])), 40)] = -1


def signs_as_labels(t: Training, dice: random.Random) -> None:
    t.columns[-1] = 2 * t.columns[-1] - 1


def column_beside_row(t: Training, dice: random.Random) -> None:
    y = t.columns[-1]
    t.columns[-1] = y.squeeze(1) if y.ndim == 2 else y.unsqueeze(1)


def model_in_eval(t: Training, dice: random.Random) -> None:
    t.model.eval()


def parts_in_eval(t: Training, dice: random.Random) -> None:
    modal = (nn.Dropout, nn.BatchNorm1d, nn.BatchNorm2d)
    dice.choice([m for m in t.model.modules() if isinstance(m, modal)]).eval()


class Stuck(nn.Module):
    """A model whose forward pass leaves training mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.eval()
        return self.inner(*args, **kwargs)


def eval_in_forward(t: Training, dice: random.Random) -> None:
    t.model = Stuck(t.model)


def shuffled_validation(t: Training, dice: random.Random) -> None:
    t.val = {"shuffle": True}


def cut_validation(t: Training, dice: random.Random) -> None:
    t.val = {"drop_last": True}
    t.batch = next(b for b in (14, 12, 11, 9) if (len(t.columns[0]) // 4) % (2 * b))


def split_twice(t: Training, dice: random.Random) -> None:
    def split(data: Any, t: Training) -> tuple[Any, Any]:
        one, other = (torch.Generator().manual_seed(seed) for seed in (1, 2))
        return random_split(data, [0.75, 0.25], one)[0], random_split(data, [0.75, 0.25], other)[1]

    t.split = split


def split_with_overlap(t: Training, dice: random.Random) -> None:
    def split(data: Any, t: Training) -> tuple[Any, Any]:
        cut = len(data) * 3 // 4
        return Subset(data, range(cut)), Subset(data, range(cut - 5, len(data)))

    t.split = split


def validated_on_training_data(t: Training, dice: random.Random) -> None:
    t.split = lambda data, t: (data, data)


def copied_rows(t: Training, dice: random.Random) -> None:
    def split(data: TensorDataset, t: Training) -> tuple[Any, Any]:
        cut = len(data) * 3 // 4
        back = dice.choice([len(data) // 10, len(data) // 4])
        first = TensorDataset(*(column[:cut] for column in data.tensors))
        return first, TensorDataset(*(column[cut - back :].clone() for column in data.tensors))

    t.split = split


def twins(t: Training, dice: random.Random) -> None:
    @rename("accuracy")
    def other(preds: Tensor, targets: Tensor) -> Tensor:
        return (preds.argmax(1) == targets).double().mean()

    t.metrics = [accuracy, other]


def no_mean(t: Training, dice: random.Random) -> None:
    def right(preds: Tensor, targets: Tensor) -> Tensor:
        return (preds.argmax(1) == targets).float()

    t.metrics = [accuracy, right]


def called_loss(t: Training, dice: random.Random) -> None:
    @rename("loss")
    def error(preds: Any, targets: Any) -> Tensor:
        return torch.zeros(())

    t.metrics = [error]


def clip_far_above(t: Training, dice: random.Random) -> None:
    limit = dice.choice([1e4, 1e6, 1e9])
    t.callbacks = [dice.choice([GradClip(max_norm=limit), GradClip(max_value=limit)])]


class ClipsTooLate(Callback):
    def on_after_optimize(self, trainer: Any, optimize_index: Any) -> None:
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)


class ClipsTooEarly(Callback):
    def on_before_backward(self, trainer: Any, loss: Any) -> None:
        torch.nn.utils.clip_grad_value_(trainer.model.parameters(), 1.0)


def clip_at_the_wrong_time(t: Training, dice: random.Random) -> None:
    t.callbacks = [dice.choice([ClipsTooLate, ClipsTooEarly])()]


def frozen_norm(t: Training, dice: random.Random) -> None:
    norms = [m for m in t.model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms if dice.random() < 0.5 else norms[:1]:
        norm.requires_grad_(False)


def frozen_body(t: Training, dice: random.Random) -> None:
    t.model.requires_grad_(False)
    last_linear(t.model)[2].requires_grad_(True)
    t.parameters = lambda model: [p for p in model.parameters() if p.requires_grad]


def part_of_the_batch(t: Training, dice: random.Random) -> None:
    whole, which = t.loss, dice.choice(["half", "first", "last", "even", "but one"])
    cuts = {"half": slice(0, 4), "first": slice(0, 1), "last": slice(-2, None), "even": slice(0, None, 2)}
    cut = cuts.get(which, slice(1, None))
    t.loss = lambda out, y: whole(out[cut], y[cut])


def part_of_every_sample(t: Training, dice: random.Random) -> None:
    whole, cut = t.loss, dice.choice([slice(0, 2), slice(1, None), slice(0, -1)])
    t.loss = lambda out, y: whole(out[..., cut], y[..., cut])


def only_the_worst(t: Training, dice: random.Random) -> None:
    name = "cross_entropy" if t.kind in CLASSIFIERS else "mse_loss"

    def loss(out: Tensor, y: Tensor) -> Tensor:
        each = getattr(F, name)(out, y, reduction="none")
        return each.flatten(1).mean(1).max() if each.ndim > 1 else each.max()

    t.loss = loss


def bytes_as_inputs(t: Training, dice: random.Random) -> None:
    for i, column in enumerate(t.columns[:-1]):
        if column.is_floating_point():
            t.columns[i] = (column.sigmoid() * 255).round()


def far_from_zero(t: Training, dice: random.Random) -> None:
    scale, shift = dice.choice([(100.0, 0.0), (1.0, 60.0), (30.0, 10.0), (1000.0, 500.0), (1e-5, 0.0)])
    for i, column in enumerate(t.columns[:-1]):
        if column.is_floating_point():
            t.columns[i] = column * scale + shift


def one_column_off(t: Training, dice: random.Random) -> None:
    x = t.columns[0] = t.columns[0].clone()
    x[:, dice.randrange(x.shape[1])] *= dice.choice([300.0, 5000.0])


def sorted_labels(t: Training, dice: random.Random) -> None:
    order = t.columns[-1].argsort()
    t.columns = [column[order] for column in t.columns]
    t.split = lambda data, t: (Subset(data, range(0, len(data), 2)), Subset(data, range(1, len(data), 2)))
    t.train = {"drop_last": True}


def no_learning_rate(t: Training, dice: random.Random) -> None:
    t.lr = 0.0


def a_huge_learning_rate(t: Training, dice: random.Random) -> None:
    t.optimizer, t.lr = dice.choice(["Adam", "AdamW", "RMSprop"]), dice.choice([1.0, 10.0])


def gaps(t: Training, dice: random.Random) -> None:
    column = next(i for i, c in enumerate(t.columns) if c.is_floating_point())
    t.columns[column] = t.columns[column].clone()
    t.columns[column].view(len(t.columns[column]), -1)[:, 0] = dice.choice([float("nan"), float("inf")])


def all_frozen(t: Training, dice: random.Random) -> None:
    t.model.requires_grad_(False)


def summed(t: Training, dice: random.Random) -> None:
    t.loss = partial(F.cross_entropy if t.kind in CLASSIFIERS else F.mse_loss, reduction="sum")


def unreduced(t: Training, dice: random.Random) -> None:
    t.loss = partial(F.cross_entropy if t.kind in CLASSIFIERS else F.mse_loss, reduction="none")


def far_too_many_outputs(t: Training, dice: random.Random) -> None:
    parent, name, layer = last_linear(t.model)
    setattr(parent, name, nn.Linear(layer.in_features, 2 * t.classes + 3))


def a_single_output(t: Training, dice: random.Random) -> None:
    parent, name, layer = last_linear(t.model)
    setattr(parent, name, nn.Linear(layer.in_features, 1))
    t.columns[-1] = torch.zeros_like(t.columns[-1])


class Same(Dataset[Any]):
    """A dataset that ignores its index."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.data[0]


def the_same_again(t: Training, dice: random.Random) -> None:
    def split(data: Any, t: Training) -> tuple[Any, Any]:
        cut = len(data) * 3 // 4
        return Same(Subset(data, range(cut))), Subset(data, range(cut, len(data)))

    t.split = split


def nothing_comes_through(t: Training, dice: random.Random) -> None:
    parent, name, layer = last_linear(t.model)
    low = nn.Linear(layer.in_features, layer.in_features)
    nn.init.constant_(low.bias, -1e3)
    setattr(parent, name, nn.Sequential(low, nn.ReLU(), layer))


def scores_for_nll(t: Training, dice: random.Random) -> None:
    t.loss = dice.choice([nn.NLLLoss(), F.nll_loss])


def whole_labels_as_floats(t: Training, dice: random.Random) -> None:
    t.columns[-1] = t.columns[-1].float()


def a_single_sample_at_the_end(t: Training, dice: random.Random) -> None:
    t.model = nn.Sequential(nn.Linear(t.columns[0].shape[1], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, t.classes))
    t.split = lambda data, t: (Subset(data, range(6 * t.batch + 1)), Subset(data, range(6 * t.batch + 1, len(data))))
    t.train = {"shuffle": True}


FLOATS = ("mlp", "cnn", "recurrent", "two inputs", "regression", "several targets", "binary")
SEQUENTIAL = ("mlp", "cnn", "transformer", "recurrent", "two inputs", "regression", "several targets", "tokens")
TABLES = ("mlp", "two inputs", "several targets")
LOSSES = (*CLASSIFIERS, "regression", "several targets", "binary", "tokens")
MEANS = (*CLASSIFIERS, "regression", "several targets")
HAVE_MODES = ("mlp", "cnn", "transformer", "regression", "several targets", "binary", "tokens")
TENSORS = tuple(kind for kind in KINDS if kind != "own loss")

Fault = Callable[[Training, random.Random], None]
#: What is found, by what is done, in which kinds of training.
FAULTS: list[tuple[str, Fault, tuple[str, ...]]] = [
    ("parameters_not_optimized", head_left_out, KINDS),
    ("parameters_not_optimized", bias_left_out, KINDS),
    ("parameters_without_gradient", unused_layer, KINDS),
    ("parameters_without_gradient", detached_layer, KINDS),
    ("parameters_without_gradient", cut_off_body, KINDS),
    ("scheduler_unit", lambda_in_steps, KINDS),
    ("scheduler_unit", cosine_in_steps, KINDS),
    ("scheduler_unit", one_cycle_in_steps, KINDS),
    ("scheduler_unit", linear_in_steps, KINDS),
    ("scheduler_unit", falls_in_steps, KINDS),
    ("scheduler_unit", drops_in_steps, KINDS),
    ("scheduler_unit", cosine_in_epochs, KINDS),
    ("scheduler_unit", one_cycle_in_epochs, KINDS),
    ("scheduler_unit", drops_in_epochs, KINDS),
    ("scheduler_unit", decay_in_epochs, KINDS),
    ("scheduler_unit", falls_in_epochs, KINDS),
    ("scheduler_unit", warm_up_in_epochs, KINDS),
    ("softmax_before_loss", softmax_at_the_end, (*CLASSIFIERS, "tokens", "own loss")),
    ("softmax_before_loss", sigmoid_at_the_end, ("binary",)),
    ("labels_out_of_range", labels_from_one, (*CLASSIFIERS, "tokens")),
    ("labels_out_of_range", all_labels_too_high, (*CLASSIFIERS, "own loss")),
    ("labels_out_of_range", a_label_too_high, (*CLASSIFIERS, "tokens")),
    ("labels_out_of_range", a_label_of_minus_one, (*CLASSIFIERS, "tokens")),
    ("labels_out_of_range", signs_as_labels, ("binary",)),
    ("target_shape", column_beside_row, ("regression", "binary", *CLASSIFIERS)),
    ("left_in_eval", model_in_eval, KINDS),
    ("left_in_eval", parts_in_eval, HAVE_MODES),
    ("left_in_eval", eval_in_forward, KINDS),
    ("val_shuffled", shuffled_validation, KINDS),
    ("val_drop_last", cut_validation, KINDS),
    ("val_overlaps_train", split_twice, KINDS),
    ("val_overlaps_train", split_with_overlap, KINDS),
    ("val_overlaps_train", validated_on_training_data, KINDS),
    ("val_overlaps_train", copied_rows, TENSORS),
    ("metric_names", twins, CLASSIFIERS),
    ("metric_names", called_loss, KINDS),
    ("metric_per_sample", no_mean, CLASSIFIERS),
    ("clipping_without_effect", clip_far_above, KINDS),
    ("clipping_without_effect", clip_at_the_wrong_time, KINDS),
    ("frozen_batchnorm_moves", frozen_norm, ("cnn",)),
    ("frozen_batchnorm_moves", frozen_body, ("cnn",)),
    ("loss_ignores_samples", part_of_the_batch, LOSSES),
    ("loss_ignores_samples", part_of_every_sample, ("tokens", "several targets")),
    ("loss_ignores_samples", only_the_worst, MEANS),
    ("unscaled_inputs", bytes_as_inputs, FLOATS),
    ("unscaled_inputs", far_from_zero, FLOATS),
    ("unscaled_inputs", one_column_off, TABLES),
    ("train_not_shuffled", sorted_labels, CLASSIFIERS),
    ("learning_rate", no_learning_rate, KINDS),
    ("learning_rate", a_huge_learning_rate, KINDS),
    ("not_finite", gaps, (*FLOATS, "own loss")),
    ("nothing_to_train", all_frozen, KINDS),
    ("loss_reduction", summed, MEANS),
    ("no_gradient", unreduced, MEANS),
    ("outputs_do_not_fit_classes", far_too_many_outputs, CLASSIFIERS),
    ("outputs_do_not_fit_classes", a_single_output, CLASSIFIERS),
    ("same_batch", the_same_again, KINDS),
    ("outputs_constant", nothing_comes_through, ("mlp", "cnn", "recurrent", "two inputs", "regression")),
    ("parameters_without_gradient", nothing_comes_through, ("mlp", "cnn", "recurrent", "two inputs")),
    ("nll_without_log_softmax", scores_for_nll, CLASSIFIERS),
    ("target_dtype", whole_labels_as_floats, CLASSIFIERS),
    ("batch_of_one_with_batchnorm", a_single_sample_at_the_end, ("mlp",)),
]


def found_in(fault: Fault, kind: str, seed: int) -> Diagnosis:
    """Plant a fault in a healthy training, and look."""
    ill = training(kind, seed)
    dice = random.Random(f"{fault.__name__} {kind} {seed}")
    fault(ill, dice)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)  # the trainer speaks of some by itself
        return ill.check()


@pytest.mark.parametrize(("name", "fault", "kinds"), FAULTS, ids=lambda part: getattr(part, "__name__", None))
def test_a_planted_fault_is_named(name: str, fault: Fault, kinds: tuple[str, ...]) -> None:
    seeds = range(max(2, 16 // len(kinds)))
    missed, others = [], []
    for kind in kinds:
        for seed in seeds:
            diagnosis = found_in(fault, kind, seed)
            assert all(finding.fix and finding.message for finding in diagnosis)
            if name not in diagnosis:
                missed.append(f"{kind}, seed {seed}: {diagnosis}")
            if failed := [reason for reason in diagnosis.left_out.values() if "failed itself" in reason]:
                others.append(f"{kind}, seed {seed}: {failed}")
    assert not others, "\n".join(others)
    assert len(missed) <= (1 - ENOUGH) * len(kinds) * len(seeds), "\n".join(missed)


def test_every_check_has_a_fault_that_it_finds() -> None:
    elsewhere = {
        *("optimizer_holds_strangers", "shared_between_optimizers", "weight_decay_on_norms", "scheduler_length"),
        *("scheduler_of_another", "monitor_mode", "monitored_figure"),
        *("step_fails", "constant_inputs", "unscaled_targets", "loader_fails", "not_finite_gradient"),
        *("targets_all_alike", "active_in_evaluation", "zero_initialized", "clipping_too_tight"),
        *("average_outlasts_run", "warmup_outlasts_run", "accumulation_beyond_epoch"),
    }
    assert {name for name, _, _ in FAULTS} | elsewhere == set(CHECKS)
    assert not {name for name, _, _ in FAULTS} & elsewhere
    assert all(check.looks_for.endswith(".") for check in CHECKS.values())


def a_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def some_data(count: int = 120) -> TensorDataset:
    return TensorDataset(torch.randn(count, 4), torch.arange(count) * 7 % 3)


def a_loader(count: int = 120) -> DataLoader[Any]:
    return DataLoader(some_data(count), 20, shuffle=True)


# The other checks, one by one.


def test_a_layer_that_was_replaced_behind_the_optimizer() -> None:
    net = a_net()
    opt = torch.optim.Adam(net.parameters())
    net[4] = nn.Linear(8, 3)
    with pytest.warns(EngineWarning, match="leaves 2 trainable parameters out"):
        trainer = Trainer(net, nn.CrossEntropyLoss(), opt, 5, "cpu", verbose=0)
    found = trainer.check(a_loader())
    assert found.names == ["parameters_not_optimized", "optimizer_holds_strangers"]
    assert found["parameters_not_optimized"].evidence["parameters"] == ["4.weight", "4.bias"]
    assert "(3, 8)" in found["optimizer_holds_strangers"].message


def test_parameters_of_a_loss_are_no_strangers() -> None:
    scale = nn.Parameter(torch.ones(()))
    net = a_net()
    opt = torch.optim.Adam([*net.parameters(), scale])
    trainer = Trainer(net, lambda out, y: F.cross_entropy(out * scale, y), opt, 5, "cpu", verbose=0)
    assert trainer.check(a_loader()).names == []


def test_a_parameter_in_two_optimizers() -> None:
    net = a_net()
    both = [torch.optim.Adam(net.parameters()), torch.optim.SGD(net[4].parameters(), lr=0.1)]
    found = Trainer(net, nn.CrossEntropyLoss(), both, 5, "cpu", verbose=0).check(a_loader())
    assert found.names == ["shared_between_optimizers"]
    assert found[0].evidence["parameters"] == {"4.weight": ["0", "1"], "4.bias": ["0", "1"]}


def test_weight_decay_on_norms_is_a_hint() -> None:
    net = a_net()
    found = Trainer(net, nn.CrossEntropyLoss(), torch.optim.AdamW(net.parameters()), 5, "cpu", verbose=0)
    diagnosis = found.check(a_loader())
    assert (diagnosis.names, diagnosis.ok) == (["weight_decay_on_norms"], True)


def test_a_cycle_that_is_too_short() -> None:
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    cycle = Optimizer(opt, schedules.OneCycleLR(opt, 0.1, total_steps=50), sched_on="step")
    found = Trainer(net, nn.CrossEntropyLoss(), cycle, 10, "cpu", verbose=0).check(a_loader())
    assert found.names == ["scheduler_length"]
    assert "total_steps=60" in found[0].fix


def test_a_schedule_of_another_optimizer() -> None:
    net = a_net()
    opt, other = (torch.optim.SGD(net.parameters(), lr=0.1) for _ in range(2))
    mixed = Optimizer(opt, schedules.StepLR(other, 2))
    found = Trainer(net, nn.CrossEntropyLoss(), mixed, 10, "cpu", verbose=0).check(a_loader())
    assert found.names == ["scheduler_of_another"]


def test_a_figure_that_is_watched_the_wrong_way() -> None:
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for mode, names in (("min", ["monitor_mode"]), ("max", [])):
        plateau = Optimizer(opt, schedules.ReduceLROnPlateau(opt, mode), monitor="val/accuracy")
        trainer = Trainer(net, nn.CrossEntropyLoss(), plateau, 10, "cpu", metrics=[accuracy], verbose=0)
        assert trainer.check(a_loader(), DataLoader(some_data(40), 20)).names == names
    stop = EarlyStopping("val/loss", mode="max")
    trainer = Trainer(net, nn.CrossEntropyLoss(), opt, 10, "cpu", callbacks=[stop], verbose=0)
    assert "monitor_mode" in trainer.check(a_loader(), a_loader())


def test_a_figure_that_no_epoch_will_have() -> None:
    trainer = Trainer(
        a_net(),
        nn.CrossEntropyLoss(),
        epochs=10,
        callbacks=[EarlyStopping("val/acc", mode="max")],
        metrics=[accuracy],
        verbose=0,
    )
    found = trainer.check(a_loader(), DataLoader(some_data(40), 20))
    assert found.names == ["monitored_figure"]
    assert "did you mean 'val/accuracy'?" in found[0].message
    assert "nothing to validate on" in trainer.check(a_loader())["monitored_figure"].message


def test_with_two_batches_an_epoch_only_what_fits_exactly_is_judged() -> None:
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for length, sched_on, names in (
        (20, "epoch", ["scheduler_unit"]),
        (10, "step", ["scheduler_unit"]),
        (13, "epoch", []),
    ):
        cosine = Optimizer(opt, schedules.CosineAnnealingLR(opt, length), sched_on=sched_on)  # type: ignore[arg-type]
        found = Trainer(net, nn.CrossEntropyLoss(), cosine, 10, "cpu", verbose=0).check(a_loader(40))
        assert found.names == names


def test_a_schedule_for_batches_with_accumulation() -> None:
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    cosine = Optimizer(opt, schedules.CosineAnnealingLR(opt, 120), sched_on="step")
    found = Trainer(net, nn.CrossEntropyLoss(), cosine, 20, "cpu", accumulate=2, verbose=0).check(a_loader())
    assert found.names == ["scheduler_unit"]
    assert found[0].fix == "Make it for 60 steps."


def test_without_a_number_of_epochs_no_schedule_is_judged() -> None:
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    trainer = Trainer(net, nn.CrossEntropyLoss(), Optimizer(opt, schedules.CosineAnnealingLR(opt, 60)), verbose=0)
    assert "pass epochs=" in trainer.check(a_loader()).left_out["scheduler_unit"]
    assert trainer.check(a_loader(), epochs=10).names == ["scheduler_unit"]
    assert trainer.check(a_loader(), epochs=60).names == []
    assert trainer.check(a_loader(), max_steps=60).names == ["scheduler_unit"]


class AStream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        while True:
            yield torch.randn(4), int(torch.randint(3, ()))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda opt: schedules.CosineAnnealingLR(opt, 1000), []),
        (lambda opt: schedules.CosineAnnealingLR(opt, 20), ["scheduler_unit"]),
        (lambda opt: schedules.CosineAnnealingWarmRestarts(opt, 20), []),
        (lambda opt: schedules.ExponentialLR(opt, 0.95), ["scheduler_unit"]),
        (lambda opt: schedules.ExponentialLR(opt, 0.999), []),
        (lambda opt: schedules.MultiStepLR(opt, [10, 20]), ["scheduler_unit"]),
        (lambda opt: schedules.LinearLR(opt, 0.1, total_iters=20), []),
        (lambda opt: schedules.OneCycleLR(opt, 0.1, 1000), []),
        (lambda opt: schedules.OneCycleLR(opt, 0.1, 900), ["scheduler_length"]),
    ],
)
def test_on_a_stream_a_schedule_by_steps_is_judged_by_max_steps(make: Any, names: list[str]) -> None:
    net = a_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    trainer = Trainer(net, nn.CrossEntropyLoss(), Optimizer(opt, make(opt), sched_on="step"), verbose=0)
    found = trainer.check(DataLoader(AStream(), 20), max_steps=1000)
    assert found.names == names
    assert not {"scheduler_unit", "scheduler_length"} & set(found.left_out)


def test_a_step_that_fails_is_said() -> None:
    net = nn.Sequential(nn.Linear(5, 3))
    found = Trainer(net, nn.CrossEntropyLoss(), epochs=5, verbose=0).check(a_loader())
    assert found.names == ["step_fails"]
    assert "mat1 and mat2" in found[0].message
    assert found.left_out["softmax_before_loss"] == "the model failed on the first batch"


X, DIGITS = torch.linspace(0, 1, 40 * 64).view(40, 1, 8, 8), torch.arange(40) % 10


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(8, 10, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)[0][:, -1]


class _Wrapping(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.inner, self.wrap = nn.Linear(64, 10), wrap

    def forward(self, x: torch.Tensor) -> Any:
        return self.wrap(self.inner(x))


@pytest.mark.parametrize(
    ("x", "net", "fix"),
    [
        (X.flatten(1).double(), nn.Linear(64, 10), "inputs are float64, the weights float32: .* x.float()"),
        ((16 * X.flatten(1)).byte(), nn.Linear(64, 10), "inputs are uint8, the weights float32: .* x.float()"),
        ((16 * X.flatten(1)).long(), nn.Linear(64, 10), "inputs are int64, .*torch.tensor.*, dtype=torch.float32"),
        (
            X.double(),
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)),
            "inputs are float64.* x.float",
        ),
        (X.flatten(1).double(), nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10)), "inputs are float64.* x.float"),
        (X.squeeze(1).double(), _Recurrent(), "inputs are float64.* x.float"),
        (
            X.flatten(1),
            nn.Linear(64, 10).double(),
            "inputs are float32, the weights float64: .*or give the model .float",
        ),
        (X.flatten(1), nn.EmbeddingBag(17, 10), "takes whole numbers: .* x.long"),
        ((16 * X.flatten(1)).long() + 10, nn.EmbeddingBag(17, 10), "num_embeddings above the largest"),
        (X.flatten(1)[:, 1:], nn.Linear(64, 10), r"made for 64 features is given 63: make it nn.Linear\(63, 10\)"),
        (X, nn.Linear(64, 10), r"Flatten the inputs before the first layer: nn.Flatten\(\)"),
        (X[..., :4], nn.Linear(64, 10), r"for 64 features is given 4: make it nn.Linear\(4, 10\), or flatten first"),
        (X.squeeze(1), nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), r"a dimension of channels, x.unsqueeze\(1\)"),
        (X.permute(0, 2, 3, 1), nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), r"x.permute\(0, 3, 1, 2\)"),
        (X.squeeze(1)[..., :4], _Recurrent(), "for 8 features is given 4: make it input_size=4"),
        (X.flatten(1), _Wrapping(lambda out: {"logits": out}), r"returns a dict.*criterion\(out\['logits'\], y\)"),
        (X.flatten(1), _Wrapping(lambda out: (out, out)), r"returns a tuple.*criterion\(out\[0\], y\)"),
        (X.flatten(1), _Wrapping(lambda out: None), "returns None: let forward.* end in return"),
    ],
)
def test_a_step_that_fails_is_told_the_fix_for_its_reason(x: torch.Tensor, net: nn.Module, fix: str) -> None:
    trainer = Trainer(net, nn.CrossEntropyLoss(), epochs=5, verbose=0, device="cpu")
    found = trainer.check(DataLoader(TensorDataset(x, DIGITS), 20, shuffle=True))
    assert found.names == ["step_fails"]
    assert re.search(fix, found[0].fix), found[0].fix


def test_scores_beside_bce_loss() -> None:
    x = torch.randn(60, 4)
    loader = DataLoader(TensorDataset(x, (x[:, :1] > 0).float()), 20, shuffle=True)
    found = Trainer(nn.Linear(4, 1), nn.BCELoss(), epochs=5, verbose=0).check(loader)
    assert found.names == ["step_fails"]
    assert "BCEWithLogitsLoss" in found[0].fix


def test_a_column_that_tells_nothing_is_a_hint() -> None:
    x = torch.cat([torch.randn(120, 3), torch.full((120, 1), 0.25)], 1)
    loader = DataLoader(TensorDataset(x, torch.arange(120) * 7 % 3), 20, shuffle=True)
    found = Trainer(a_net(), nn.CrossEntropyLoss(), epochs=5, verbose=0).check(loader)
    assert (found.names, found.ok, found[0].evidence) == (["constant_inputs"], True, {"columns": [3]})


def test_large_targets_are_a_hint() -> None:
    x = torch.randn(120, 4)
    loader = DataLoader(TensorDataset(x, 1e5 + 1e4 * x[:, :1]), 20, shuffle=True)
    found = Trainer(nn.Linear(4, 1), nn.MSELoss(), epochs=5, verbose=0).check(loader)
    assert (found.names, found.ok) == (["unscaled_targets"], True)


def test_an_empty_loader_is_said() -> None:
    empty = DataLoader(some_data(10), 20, drop_last=True)
    found = Trainer(a_net(), nn.CrossEntropyLoss(), epochs=5, verbose=0).check(empty)
    assert found.names == ["loader_fails"]
    assert "drop_last=True leaves nothing of 10 samples" in found[0].message


def test_a_loader_that_fails_is_said() -> None:
    class Broken(Dataset[Any]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> Any:
            raise OSError("no such picture")

    found = Trainer(a_net(), nn.CrossEntropyLoss(), epochs=5, verbose=0).check(DataLoader(Broken(), 20))
    assert "OSError: no such picture" in found["loader_fails"].message


def test_an_infinite_gradient_is_said() -> None:
    def loss(out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y) + (0 * out).sum(1).sqrt().mean()

    found = Trainer(a_net(), loss, epochs=5, verbose=0).check(a_loader())
    assert "not_finite_gradient" in found


def test_tasks_whose_figures_hide_each_other() -> None:
    trainer = Trainer(a_net(), nn.CrossEntropyLoss(), epochs=5, metrics=[accuracy], verbose=0)
    alike = trainer.check(a_loader(), val_tasks=[EpochTask(a_loader()), EpochTask(a_loader())])
    assert alike["metric_names"].evidence == {"names": ["accuracy", "loss"], "stage": "val"}
    apart = trainer.check(a_loader(), val_tasks=[EpochTask(a_loader(), name=name) for name in ("a.", "b.")])
    assert "metric_names" not in apart


def test_a_metric_of_a_value_per_sample_is_told_from_one_of_a_value_per_class() -> None:
    def right(preds: Tensor, targets: Tensor) -> Tensor:
        return (preds.argmax(1) == targets).float()

    def per_class(preds: Tensor, targets: Tensor) -> Tensor:
        return torch.stack([(preds.argmax(1) == c).float().mean() for c in range(3)])

    loader = DataLoader(TensorDataset(torch.randn(48, 4), torch.arange(48) % 3), 3, shuffle=True)
    for kind, severity in (("tensor", "warning"), ("mean", "error")):
        trainer = Trainer(
            nn.Linear(4, 3), nn.CrossEntropyLoss(), epochs=5, metrics=[right, per_class], metric_patch=kind, verbose=0
        )
        found = [finding for finding in trainer.check(loader) if finding.name == "metric_per_sample"]
        assert [(one.severity, one.evidence) for one in found] == [(severity, {"shape": (3,)})]
        assert "'right'" in found[0].message


def test_clipping_half_a_window() -> None:
    class Clips(Callback):
        def on_after_backward(self, trainer: Any, loss: Any) -> None:
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)

    for accumulate, names in ((1, []), (2, ["clipping_without_effect"])):
        trainer = Trainer(
            a_net(), nn.CrossEntropyLoss(), epochs=5, callbacks=[Clips()], accumulate=accumulate, verbose=0
        )
        assert trainer.check(a_loader()).names == names


def test_forty_labels_of_which_one_is_wrong_far_down_in_the_dataset() -> None:
    data = some_data(200)
    data.tensors[1][190] = 3
    found = Trainer(a_net(), nn.CrossEntropyLoss(), epochs=5, verbose=0).check(DataLoader(data, 20))
    assert found.names == ["labels_out_of_range"]
    assert found[0].message.startswith("1 labels in the whole of train_dl are out of range")


class Rows(Dataset[Any]):
    """A dataset that says nothing of what it holds."""

    def __init__(self, data: TensorDataset, rows: range) -> None:
        self.get, self.rows = data.__getitem__, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.get(self.rows[index])


def test_datasets_that_have_to_be_asked() -> None:
    data = some_data(200)
    data.tensors[1][140] = 7
    trainer = Trainer(a_net(), nn.CrossEntropyLoss(), epochs=5, verbose=0)
    train, val = Rows(data, range(150)), Rows(data, range(145, 200))
    found = trainer.check(DataLoader(train, 20, drop_last=True), DataLoader(val, 20))
    assert found.names == ["labels_out_of_range", "val_overlaps_train"]
    assert found["val_overlaps_train"].evidence == {"shared": 5, "samples": 55}
    apart = trainer.check(DataLoader(Rows(data, range(140)), 20), DataLoader(Rows(data, range(150, 200)), 20))
    assert (apart.names, apart.left_out) == ([], {})


# Steps of the user's own are not guessed at.


class Own(Trainer):
    def train_step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> Any:
        self.loss(self.model(*batch_x), batch_y)


class OwnTask(EpochTask):
    def step(self, batch_x: Any, batch_y: Any, **step_args: Any) -> Any:
        self.loss(self.model(*batch_x), batch_y)


def own_step(trainer: Any, batch_x: Any, batch_y: Any, **step_args: Any) -> None:
    trainer.loss(trainer.model(*batch_x), batch_y)


@pytest.mark.parametrize("way", ["trainer", "task", "function"])
def test_a_step_of_the_users_own_is_not_seen_into(way: str) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)).eval()
    trainer = (Own if way == "trainer" else Trainer)(net, nn.CrossEntropyLoss(), epochs=5, device="cpu", verbose=0)
    given: dict[str, Any] = {"train_tasks": OwnTask(a_loader())} if way == "task" else {"train_dl": a_loader()}
    found = trainer.check(**given, step=own_step if way == "function" else None)
    assert {"softmax_before_loss", "loss_ignores_samples", "unscaled_inputs"} <= set(found.left_out)
    assert set(found.left_out.values()) == {"the training step is the user's own, and cannot be seen into"}
    assert not set(found.left_out) & set(found.checked)
    assert "left out" in str(found)
    assert {"val_overlaps_train", "scheduler_unit", "parameters_not_optimized"} <= set(found.checked)


def test_an_iterator_is_left_alone() -> None:
    batches = iter([(torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))] * 3)
    found = Trainer(a_net(), nn.CrossEntropyLoss(), epochs=5, verbose=0).check(batches)
    assert found.ok
    assert "can be read once only" in found.left_out["softmax_before_loss"]
    assert len(list(batches)) == 3


def test_a_model_that_cannot_be_copied_is_said() -> None:
    net = a_net()
    net.extra = (torch.ones(1, requires_grad=True) * 2,)  # not a leaf: torch refuses to copy it
    found = Trainer(net, nn.CrossEntropyLoss(), epochs=5, verbose=0).check(a_loader())
    assert found.left_out["softmax_before_loss"].startswith("the model cannot be copied (RuntimeError")


def test_inputs_that_a_callback_may_change_are_not_judged() -> None:
    class Scales(Callback):
        def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
            batch_x[0].div_(255)

    loader = DataLoader(TensorDataset(torch.rand(60, 4) * 255, torch.arange(60) % 3), 20, shuffle=True)
    trainer = Trainer(a_net(), nn.CrossEntropyLoss(), epochs=5, callbacks=[Scales()], verbose=0)
    assert "Scales.on_before_train_batch may change" in trainer.check(loader).left_out["unscaled_inputs"]


# The answer.


def ill() -> Diagnosis:
    net = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    trainer = Trainer(net, nn.CrossEntropyLoss(), epochs=5, device="cpu", verbose=0)
    return trainer.check(a_loader(), DataLoader(some_data(40), 20, shuffle=True))


def test_a_diagnosis_says_what_and_why_and_what_to_do() -> None:
    found = ill()
    assert (found.ok, bool(found), len(found)) == (False, False, 2)
    assert [finding.severity for finding in found] == ["error", "hint"]
    assert "softmax_before_loss" in found
    assert isinstance(found["val_shuffled"], Finding)
    assert found.of("hint") == [found[1]]
    lines = str(found).splitlines()
    assert lines[0].startswith(f"{len(CHECKS)} checks in 0.")
    assert lines[0].endswith("s: 1 error, 1 hint")
    assert lines[1] == "error    softmax_before_loss"
    assert max(map(len, lines)) <= 120
    assert "Fix: Take softmax out of the model" in str(found)


def test_a_diagnosis_raises_where_something_is_wrong() -> None:
    with pytest.raises(DiagnosisError, match="softmax_before_loss") as caught:
        ill().raise_if_bad()
    assert isinstance(caught.value.diagnosis, Diagnosis)
    healthy = training("mlp", 0).check()
    assert healthy.raise_if_bad() is healthy
    warned = Diagnosis([Finding("one", "warning", "This.", "That.")])
    assert warned.raise_if_bad(warnings=False) is warned
    with pytest.raises(DiagnosisError, match="This"):
        warned.raise_if_bad()


def test_a_diagnosis_renders_in_notebooks() -> None:
    page = Diagnosis([Finding("one", "hint", "a < b", "c")], {"two": "<unknown>"})._repr_html_()
    assert "a &lt; b" in page
    assert "&lt;unknown&gt;" in page
    assert page.count("<tr>") == page.count("</tr>") == 2


def test_checks_can_be_skipped() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    trainer = Trainer(net, nn.CrossEntropyLoss(), epochs=5, device="cpu", verbose=0)
    found = trainer.check(a_loader(), skip="softmax_before_loss")
    assert found.ok
    assert found.left_out == {"softmax_before_loss": "skipped, as asked for"}


def test_wrong_arguments_are_refused() -> None:
    trainer = Trainer(a_net(), nn.CrossEntropyLoss(), verbose=0)
    with pytest.raises(ArgumentError, match="did you mean 'softmax_before_loss'"):
        trainer.check(a_loader(), skip=["softmax_before_los"])
    with pytest.raises(ArgumentError, match="pass train_dl"):
        trainer.check()
    with pytest.raises(ArgumentTypeError, match="batches"):
        trainer.check(a_loader(), batches="two")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="an EpochTask is needed"):
        trainer.check(train_tasks=[a_loader()])


# No trace.


class Restless(Dataset[Any]):
    """A dataset that draws from every generator there is."""

    def __init__(self) -> None:
        self.own, self.draw = torch.Generator().manual_seed(1), np.random.default_rng(2)

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> Any:
        noise = random.random() + np.random.rand() + self.draw.random() + float(torch.rand(()))
        return torch.randn(4, generator=self.own) + noise, index * 7 % 3


class Counting(Sampler[int]):
    """A sampler with a state of its own."""

    def __init__(self) -> None:
        self.passes, self.draw = 0, random.Random(3)

    def __iter__(self) -> Any:
        self.passes += 1
        return iter(self.draw.sample(range(80), 80))

    def __len__(self) -> int:
        return 80


def generators() -> list[Any]:
    return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]


def test_no_trace_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    heard: list[str] = []

    class Listens(Callback):
        def on_before_fit(self, trainer: Any, epochs: int) -> None:
            heard.append("before_fit")

        def on_train_metrics(self, trainer: Any, loss: Any, model_out: Any, batch_y: Any, task: Any) -> None:
            heard.append("train_metrics")

    net = a_net()
    net[3].eval()
    net[0].requires_grad_(False)
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    trainer = Trainer(
        net,
        nn.CrossEntropyLoss(),
        Optimizer(opt, schedules.StepLR(opt, 2)),
        5,
        "cpu",
        callbacks=[Listens()],
        metrics=[accuracy],
        accumulate=2,
        folder=tmp_path / "runs",
        verbose=0,
    )
    for parameter in net[4].parameters():
        parameter.grad = torch.ones_like(parameter)
    dataset, sampler = Restless(), Counting()
    own = torch.Generator().manual_seed(5)
    train, val = DataLoader(dataset, 20, sampler=sampler), DataLoader(dataset, 20, shuffle=True, generator=own)
    state, modes = copy.deepcopy(trainer.state_dict()), [m.training for m in net.modules()]
    kept = [p.grad for p in net.parameters()]
    before = [generators(), own.get_state().tolist(), dataset.own.get_state().tolist()]
    before += [str(dataset.draw.bit_generator.state), sampler.draw.getstate(), sampler.passes]

    trainer.check(train, val)

    after = [generators(), own.get_state().tolist(), dataset.own.get_state().tolist()]
    after += [str(dataset.draw.bit_generator.state), sampler.draw.getstate(), sampler.passes]
    assert after == before
    assert [m.training for m in net.modules()] == modes
    assert all(a is b for a, b in zip(kept, (p.grad for p in net.parameters()), strict=True))
    assert [p.requires_grad for p in net.parameters()] == [False] * 2 + [True] * 4
    assert same(trainer.state_dict(), state)
    assert heard == []
    assert list(tmp_path.iterdir()) == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert (trainer.running, trainer.current_task, trainer.stage_tasks) == ("", None, {})


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_a_loss_that_reaches_the_model_itself_leaves_no_trace() -> None:
    net = a_net()

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y) + 0 * net(torch.randn(8, 4)).mean()

    trainer = Trainer(net, loss, epochs=5, device="cpu", verbose=0)
    before = copy.deepcopy(net.state_dict())
    assert trainer.check(a_loader()).ok
    assert same(dict(net.state_dict()), dict(before))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_the_same_with_and_without_a_check_before(kind: str) -> None:
    results = []
    for checked in (False, True):
        made = training(kind, 1)
        torch.manual_seed(3)
        train, val = made.loaders()
        trainer = made.trainer(len(train))
        if checked:
            assert trainer.check(train, val).ok
        trainer.fit(train, val, epochs=1)
        results.append((trainer.history, nn.utils.parameters_to_vector(trainer.model.parameters())))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_it_takes_less_than_a_second() -> None:
    channels = [3, 16, 32, 64]
    blocks = [
        layer for a, b in pairwise(channels) for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
    ]
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    data = TensorDataset(torch.rand(4000, 3, 32, 32), torch.arange(4000) % 10)
    train, val = random_split(data, [0.8, 0.2])
    trainer = Trainer(net, nn.CrossEntropyLoss(), epochs=5, device="cpu", metrics=[accuracy], verbose=0)
    loaders = DataLoader(train, 64, shuffle=True, num_workers=2), DataLoader(val, 64)
    trainer.check(*loaders)
    began = time.perf_counter()
    found = trainer.check(*loaders)
    assert time.perf_counter() - began < 1
    assert found.ok
