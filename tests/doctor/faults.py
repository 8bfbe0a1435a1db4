"""Faults to plant in healthy trainings: each changes one thing, in one of the ways in which it happens."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler as schedules
from torch.utils.data import Subset

from deepepochs_like import EMA, SWA, Callback, GradClip, cosine, rename, warmup
from doctor.families import Setup

#: Families whose scores go to cross-entropy as they are.
SCORES = (
    *("mlp", "cnn", "segmentation", "conv1d", "text", "language", "vit", "rnn", "tagging", "graphs", "experts"),
    *("residual", "two inputs", "low rank"),
)
FLAT = tuple(family for family in SCORES if family not in ("segmentation", "language", "tagging"))
NUMBERS = ("regression", "several", "autoencoder")
#: Families with a model that gives a tensor, and a loss beside it.
PLAIN = (*SCORES, *NUMBERS, "binary", "labels", "nll", "margin")
FLOATS = (
    *("mlp", "regression", "several", "binary", "labels", "cnn", "segmentation", "conv1d", "vit", "rnn", "tagging"),
    *("graphs", "experts", "residual", "autoencoder", "low rank", "margin", "own"),
)
TABLES = ("mlp", "regression", "several", "binary", "labels", "experts", "low rank", "margin", "nll")
ALL = (*PLAIN, "own", "variational")

Way = Callable[[Setup, random.Random], None]


@dataclass(frozen=True)
class Fault:
    """A fault: its name in the table, what has to be found, the ways to plant it, and the families it can be in."""

    name: str
    found: tuple[str, ...]
    ways: tuple[Way, ...]
    families: tuple[str, ...] = ALL
    suits: Callable[[Setup], bool] = lambda made: True


class Then(nn.Module):
    """A function of a tensor, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Around(nn.Module):
    """A model within another, whose forward() does something more."""

    def __init__(self, inner: nn.Module, before: Any = None, after: Any = None, **parts: nn.Module) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.before is not None:
            self.before(self)
        out = self.inner(*args, **kwargs)
        return out if self.after is None else self.after(self, out)


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def total(made: Setup) -> tuple[int, int]:
    """Updates of the run, and in an epoch."""
    rows = len(made.parts()[0])
    per_epoch = rows // made.batch if made.drop_last else -(-rows // made.batch)
    return per_epoch * made.epochs, per_epoch


# Parameters that the optimizer does not hold.


def head_left_out(made: Setup, dice: random.Random) -> None:
    made.parameters = lambda model: [p for n, p in model.named_parameters() if "head" not in n and p.requires_grad]


def one_left_out(made: Setup, dice: random.Random) -> None:
    name = dice.choice([n for n, p in made.model.named_parameters() if p.requires_grad])
    made.parameters = lambda model: [p for n, p in model.named_parameters() if n != name and p.requires_grad]


def only_the_head(made: Setup, dice: random.Random) -> None:
    made.parameters = lambda model: list(model.head.parameters())


def replaced_afterwards(made: Setup, dice: random.Random) -> None:
    def replace(model: Any) -> None:
        old = model.head
        made_anew = {nn.Linear: lambda: nn.Linear(old.in_features, old.out_features)}
        model.head = made_anew.get(type(old), lambda: nn.Conv2d(old.in_channels, old.out_channels, 1))()

    made.after_optimizer = replace


# Parameters without gradient.


def unused_layer(made: Setup, dice: random.Random) -> None:
    made.model = Around(made.model, more=dice.choice([nn.Linear(3, 3), nn.LayerNorm(4), nn.Conv2d(1, 2, 3)]))


def cut_before_head(made: Setup, dice: random.Random) -> None:
    cut = dice.choice([lambda x: x.detach(), lambda x: x.data, lambda x: torch.tensor(x.tolist())])
    made.model.head = nn.Sequential(Then(cut), made.model.head)


class WithoutGradient(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any) -> Any:
        with torch.no_grad():
            return self.inner(*args)


def body_without_grad(made: Setup, dice: random.Random) -> None:
    made.model.body = WithoutGradient(made.model.body)


def last_of_a_list_forgotten(made: Setup, dice: random.Random) -> None:
    class Several(nn.Module):
        def __init__(self, head: nn.Module, size: int) -> None:
            super().__init__()
            self.layers, self.head = nn.ModuleList(nn.Linear(size, size) for _ in range(3)), head

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers[:-1]:
                x = layer(x).tanh()
            out: Tensor = self.head(x)
            return out

    head = made.model.head
    if isinstance(head, nn.Linear):
        made.model.head = Several(head, head.in_features)
    else:
        unused_layer(made, dice)


# Schedules stepped in the wrong unit.


def in_updates_by_epochs(made: Setup, dice: random.Random) -> None:
    way = dice.randrange(8)

    def schedule(opt: Any, made: Setup, per_epoch: int) -> tuple[Any, str]:
        steps = per_epoch * made.epochs
        rise = schedules.LinearLR(opt, 0.1, total_iters=max(2, steps // 10))
        return (
            lambda: schedules.CosineAnnealingLR(opt, steps),
            lambda: schedules.OneCycleLR(opt, 0.01, epochs=made.epochs, steps_per_epoch=per_epoch),
            lambda: schedules.StepLR(opt, steps // 3),
            lambda: schedules.LinearLR(opt, 1.0, 0.0, steps),
            lambda: schedules.PolynomialLR(opt, steps),
            lambda: (warmup(steps // 10) >> cosine(steps - steps // 10)).scheduler(opt),
            lambda: schedules.SequentialLR(
                opt, [rise, schedules.CosineAnnealingLR(opt, steps - steps // 10)], [steps // 10]
            ),
            lambda: schedules.LambdaLR(opt, lambda n: max(0.0, 1 - n / steps)),
        )[way](), "epoch"

    made.scheduler = schedule


def in_epochs_by_updates(made: Setup, dice: random.Random) -> None:
    way = dice.randrange(8)

    def schedule(opt: Any, made: Setup, per_epoch: int) -> tuple[Any, str]:
        n = made.epochs
        return (
            lambda: schedules.CosineAnnealingLR(opt, n),
            lambda: schedules.OneCycleLR(opt, 0.01, total_steps=n),
            lambda: schedules.StepLR(opt, max(1, n // 3)),
            lambda: schedules.LinearLR(opt, 1.0, 0.0, n),
            lambda: schedules.MultiStepLR(opt, [n // 2, n * 3 // 4]),
            lambda: (warmup(2) >> cosine(n - 2)).scheduler(opt),
            lambda: schedules.LambdaLR(opt, lambda e: max(0.0, 1 - e / n)),
            lambda: schedules.ExponentialLR(opt, 0.1 ** (1 / n)),
        )[way](), "step"

    made.scheduler = schedule


# Softmax before cross-entropy.


def _at_the_end(made: Setup, function: Callable[[Tensor], Tensor], module: nn.Module, dice: random.Random) -> None:
    if dice.random() < 0.5:
        made.model = Around(made.model, after=lambda _, out: function(out))
    elif len(made.columns) == 2:
        made.model = nn.Sequential(made.model, module)
    else:
        made.model = Around(made.model, after=lambda own, out: own.last(out), last=module)


def softmax_at_the_end(made: Setup, dice: random.Random) -> None:
    _at_the_end(made, lambda out: out.softmax(1), nn.Softmax(dim=1), dice)


def softmax_in_the_loss(made: Setup, dice: random.Random) -> None:
    smooth = dice.choice([0.0, 0.1])
    made.loss = lambda out, y: F.cross_entropy(F.softmax(out, 1), y, label_smoothing=smooth)


def sigmoid_before_binary(made: Setup, dice: random.Random) -> None:
    _at_the_end(made, torch.sigmoid, nn.Sigmoid(), dice)


# Labels out of range.


def labels_from_one(made: Setup, dice: random.Random) -> None:
    made.columns[-1] = made.columns[-1] + 1


def one_too_high(made: Setup, dice: random.Random) -> None:
    y = made.columns[-1] = made.columns[-1].clone()
    y.view(-1)[dice.randrange(y.numel())] = made.classes + dice.choice([0, 1, 245])


def minus_one(made: Setup, dice: random.Random) -> None:
    y = made.columns[-1] = made.columns[-1].clone()
    y.view(-1)[dice.randrange(y.numel())] = -1


def signs(made: Setup, dice: random.Random) -> None:
    made.columns[-1] = made.columns[-1] * 2 - 1


# Modes.


def in_eval(made: Setup, dice: random.Random) -> None:
    made.model.eval()


def eval_in_forward(made: Setup, dice: random.Random) -> None:
    def to_eval(model: nn.Module) -> None:
        model.inner.eval()  # type: ignore[operator, union-attr]

    made.model = Around(made.model, before=to_eval)


def part_in_eval(made: Setup, dice: random.Random) -> None:
    parts = [m for m in made.model.modules() if isinstance(m, (nn.Dropout, nn.modules.batchnorm._BatchNorm))]
    if parts:
        dice.choice(parts).eval()
    else:
        made.model.eval()


# Validation.


def shuffled(made: Setup, dice: random.Random) -> None:
    made.val_options = {"shuffle": True}


def overlapping(made: Setup, dice: random.Random) -> None:
    count, cut = len(made.columns[0]), dice.choice([0.1, 0.3, 0.7])

    def split(data: Any, _: Setup) -> tuple[Any, Any]:
        order = torch.randperm(count).tolist()
        shared = max(2, int(count // 4 * cut))
        return Subset(data, order[: count * 3 // 4]), Subset(data, order[count * 3 // 4 - shared :])

    made.split = split


def split_twice(made: Setup, dice: random.Random) -> None:
    def split(data: Any, _: Setup) -> tuple[Any, Any]:
        orders = [torch.randperm(len(data)).tolist() for _ in range(2)]
        return Subset(data, orders[0][: len(data) * 3 // 4]), Subset(data, orders[1][: len(data) // 4])

    made.split = split


def the_whole_twice(made: Setup, dice: random.Random) -> None:
    made.split = lambda data, _: (data, Subset(data, range(0, len(data), 3)))


# Names of metrics.


def same_names(made: Setup, dice: random.Random) -> None:
    def score(preds: Tensor, targets: Tensor) -> Tensor:
        return preds.float().mean()

    def another(preds: Tensor, targets: Tensor) -> Tensor:
        return preds.float().std()

    made.metrics = [score, rename("score")(another)]


def called_loss(made: Setup, dice: random.Random) -> None:
    def loss(preds: Any, targets: Any) -> float:
        return 0.0

    made.metrics = [loss]


# Clipping.


def clip_far_above(made: Setup, dice: random.Random) -> None:
    limit = 10.0 ** dice.choice([4, 5, 6, 9])
    made.callbacks = [GradClip(limit) if dice.random() < 0.6 else GradClip(max_value=limit)]


class ClipsAfterwards(Callback):
    def on_after_optimize(self, trainer: Any, optimize_index: Any) -> None:
        nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)


class ClipsBefore(Callback):
    def on_before_backward(self, trainer: Any, loss: Any) -> None:
        nn.utils.clip_grad_value_(list(trainer.model.parameters()), 1.0)


def clip_at_the_wrong_time(made: Setup, dice: random.Random) -> None:
    made.callbacks = [dice.choice([ClipsAfterwards, ClipsBefore])()]


def clip_everything(made: Setup, dice: random.Random) -> None:
    limit = 10.0 ** dice.choice([-6, -7, -9])
    made.callbacks = [GradClip(limit) if dice.random() < 0.6 else GradClip(max_value=limit)]


# BatchNorm.


def frozen_norms(made: Setup, dice: random.Random) -> None:
    for norm in norms(made.model):
        norm.requires_grad_(False)


def frozen_body(made: Setup, dice: random.Random) -> None:
    made.model.body.requires_grad_(False)  # type: ignore[union-attr]


def one_left_over(made: Setup, dice: random.Random) -> None:
    made.kind = "tensors" if made.kind == "stream" else made.kind
    cut = made.batch * dice.choice([3, 5, 7]) + 1
    made.split = lambda data, _: (Subset(data, range(cut)), Subset(data, range(cut, len(data))))
    made.drop_last = False


def one_left_over_in_validation(made: Setup, dice: random.Random) -> None:
    for norm in norms(made.model):
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None  # type: ignore[assignment]
        norm.num_batches_tracked = None  # type: ignore[assignment]
    cut = 2 * made.batch * dice.choice([1, 2]) + 1
    made.split = lambda data, _: (Subset(data, range(cut, len(data))), Subset(data, range(cut)))


# A loss that ignores part of the batch.


def part_of_the_batch(made: Setup, dice: random.Random) -> None:
    whole = made.loss
    part = dice.choice([slice(0, 1), slice(0, -1), slice(1, None), slice(None, None, 2), slice(0, 5), slice(4)])
    made.loss = lambda out, y: whole(out[part], y[part])


def one_sample(made: Setup, dice: random.Random) -> None:
    whole, place = made.loss, dice.choice([0, -1, 2])
    made.loss = lambda out, y: whole(out[place][None], y[place][None])


def a_mask_of_zeros(made: Setup, dice: random.Random) -> None:
    whole, keep = made.loss, dice.choice([3, 6])

    def loss(out: Tensor, y: Tensor) -> Tensor:
        weight = (torch.arange(len(out)) < keep).float().view(-1, *[1] * (out.ndim - 1))
        return whole(out * weight, y)  # type: ignore[no-any-return]

    made.loss = loss


# Inputs.


def as_bytes(made: Setup, dice: random.Random) -> None:
    made.columns[0] = (made.columns[0].sigmoid() * 255).round()


def far_away(made: Setup, dice: random.Random) -> None:
    made.columns[0] = made.columns[0] * dice.choice([1.0, 50.0]) + dice.choice([100.0, -1000.0])


def huge(made: Setup, dice: random.Random) -> None:
    made.columns[0] = made.columns[0] * dice.choice([100.0, 1e4])


def tiny(made: Setup, dice: random.Random) -> None:
    made.columns[0] = made.columns[0] * dice.choice([1e-5, 1e-6])


def one_column(made: Setup, dice: random.Random) -> None:
    x = made.columns[0] = made.columns[0].clone()
    x[:, dice.randrange(x.shape[1])] += dice.choice([1000.0, 1e5])


# Targets.


def one_class(made: Setup, dice: random.Random) -> None:
    made.columns[-1] = torch.full_like(made.columns[-1], dice.randrange(max(1, made.classes)))


def one_number(made: Setup, dice: random.Random) -> None:
    made.columns[-1] = torch.full_like(made.columns[-1], dice.choice([0.0, 1.0, 0.37]))


def one_class_in_training(made: Setup, dice: random.Random) -> None:
    """The split goes by the class."""
    y = made.columns[-1] = torch.randint(2, made.columns[-1].shape)
    first, second = (y == 0).nonzero().flatten().tolist(), (y == 1).nonzero().flatten().tolist()
    made.split = lambda data, _: (Subset(data, first), Subset(data, second))


# Dropout in evaluation.


def functional_dropout(made: Setup, dice: random.Random) -> None:
    p = dice.choice([0.1, 0.5])
    drop = dice.choice(
        [lambda x: F.dropout(x, p), lambda x: F.dropout(x, p, training=True), lambda x: torch.dropout(x, p, True)]
    )
    made.model.head = nn.Sequential(Then(drop), made.model.head)


def alpha_dropout(made: Setup, dice: random.Random) -> None:
    made.model.head = nn.Sequential(Then(lambda x: F.alpha_dropout(x, 0.2, training=True)), made.model.head)


class AlwaysDrops(nn.Dropout):
    def train(self, mode: bool = True) -> Any:
        return super().train(True)


def stuck_dropout(made: Setup, dice: random.Random) -> None:
    made.model.head = nn.Sequential(AlwaysDrops(0.3), made.model.head)


def by_hand(made: Setup, dice: random.Random) -> None:
    p = dice.choice([0.2, 0.5])
    ways: Sequence[Callable[[Tensor], Tensor]] = (
        lambda x: x * (torch.rand_like(x) > p).float() / (1 - p),
        lambda x: x * torch.bernoulli(torch.full_like(x, 1 - p)),
        lambda x: x.masked_fill(torch.rand(x.shape) < p, 0.0),
        lambda x: x * x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - p).div_(1 - p),
        lambda x: torch.where(torch.rand_like(x) < p, torch.zeros_like(x), x),
        lambda x: x * torch.floor(1 - p + torch.rand_like(x)),
        lambda x: x * 0.5 if random.random() < 0.5 else x,
    )
    made.model.head = nn.Sequential(Then(dice.choice(ways)), made.model.head)


def attention_dropout(made: Setup, dice: random.Random) -> None:
    for mixer in made.model.body.mixers:  # type: ignore[union-attr]
        mixer.p, mixer.fixed = 0.1, True


# Weights that begin as zero.


def all_zero(made: Setup, dice: random.Random) -> None:
    for parameter in made.model.parameters():
        nn.init.zeros_(parameter)


def weights_zero(made: Setup, dice: random.Random) -> None:
    """Those of all layers; of norms and embeddings not, and of biases only now and then."""
    biases = dice.random() < 0.5
    for module in made.model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.RNNBase)):
            for name, parameter in module.named_parameters():
                if biases or "weight" in name:
                    nn.init.zeros_(parameter)


def constant_weights(made: Setup, dice: random.Random) -> None:
    number = dice.choice([0.01, 0.1, 1.0])
    for module in made.model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.RNNBase)):
            for name, parameter in module.named_parameters():
                nn.init.constant_(parameter, number if "weight" in name else 0.0)


def first_layer_zero(made: Setup, dice: random.Random) -> None:
    first = next(m for m in made.model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d)))
    nn.init.zeros_(first.weight)
    nn.init.zeros_(first.bias)  # type: ignore[arg-type]


# What is measured in updates.


def average_too_long(made: Setup, dice: random.Random) -> None:
    made.callbacks = [EMA(1 - 1 / (total(made)[0] * dice.choice([10, 100, 1000])))]


def average_never_begins(made: Setup, dice: random.Random) -> None:
    made.callbacks = [SWA(made.epochs + dice.choice([0, 1, 50]))]


def warm_up_too_long(made: Setup, dice: random.Random) -> None:
    times, by_step, way = dice.choice([2, 5, 30]), dice.random() < 0.6, dice.randrange(4)

    def schedule(opt: Any, made: Setup, per_epoch: int) -> tuple[Any, str]:
        n = times * (per_epoch * made.epochs if by_step else made.epochs)
        rise = schedules.LinearLR(opt, 0.01, total_iters=n)
        return (
            lambda: rise,
            lambda: schedules.LambdaLR(opt, lambda i: min(1.0, (i + 1) / n)),
            lambda: (warmup(n) >> cosine(n)).scheduler(opt),
            lambda: schedules.SequentialLR(opt, [rise, schedules.CosineAnnealingLR(opt, n)], [n]),
        )[way](), "step" if by_step else "epoch"

    made.scheduler = schedule


def more_than_there_are(made: Setup, dice: random.Random) -> None:
    made.accumulate = total(made)[1] * dice.choice([2, 3, 10]) + dice.choice([0, 1])


FAULTS = (
    Fault("optimizer lacks parameters", ("parameters_not_optimized",), (head_left_out, one_left_out)),
    Fault("optimizer of another part", ("parameters_not_optimized",), (only_the_head, replaced_afterwards)),
    Fault("layers unused", ("parameters_without_gradient",), (unused_layer,)),
    Fault(
        "gradient cut off",
        ("parameters_without_gradient",),
        (cut_before_head, body_without_grad, last_of_a_list_forgotten),
        tuple(f for f in PLAIN if f != "low rank"),
    ),
    Fault(
        "schedule in updates, stepped by epochs",
        ("scheduler_unit",),
        (in_updates_by_epochs,),
        ALL,
        lambda m: total(m)[1] > 3,
    ),
    Fault(
        "schedule in epochs, stepped by updates",
        ("scheduler_unit",),
        (in_epochs_by_updates,),
        ALL,
        lambda m: total(m)[1] > 3,
    ),
    Fault("softmax before cross-entropy", ("softmax_before_loss",), (softmax_at_the_end, softmax_in_the_loss), SCORES),
    Fault("sigmoid before its loss", ("softmax_before_loss",), (sigmoid_before_binary,), ("binary", "labels")),
    Fault(
        "labels out of range", ("labels_out_of_range",), (labels_from_one, one_too_high, minus_one), (*SCORES, "nll")
    ),
    Fault("labels of -1 and 1", ("labels_out_of_range",), (signs,), ("binary", "labels")),
    Fault("left in eval", ("left_in_eval",), (in_eval, eval_in_forward, part_in_eval)),
    Fault("validation shuffled", ("val_shuffled",), (shuffled,)),
    Fault("validation overlaps training", ("val_overlaps_train",), (overlapping, split_twice, the_whole_twice)),
    Fault("metric names collide", ("metric_names",), (same_names, called_loss), PLAIN),
    Fault("clipping without effect", ("clipping_without_effect",), (clip_far_above, clip_at_the_wrong_time)),
    Fault("clipping leaves nothing", ("clipping_too_tight",), (clip_everything,)),
    Fault(
        "frozen BatchNorm moves",
        ("frozen_batchnorm_moves",),
        (frozen_norms, frozen_body),
        PLAIN,
        lambda made: bool(norms(made.model)),
    ),
    Fault(
        "loss ignores samples",
        ("loss_ignores_samples",),
        (part_of_the_batch, one_sample, a_mask_of_zeros),
        PLAIN,
    ),
    Fault("inputs not scaled", ("unscaled_inputs",), (as_bytes, far_away, huge, tiny), FLOATS),
    Fault("one column not scaled", ("unscaled_inputs",), (one_column,), TABLES),
    Fault("targets all alike", ("targets_all_alike",), (one_class, one_class_in_training), (*FLAT, "nll", "own")),
    Fault("numbers to learn all alike", ("targets_all_alike",), (one_number,), (*NUMBERS, "binary", "labels")),
    Fault(
        "dropout active in evaluation",
        ("active_in_evaluation",),
        (functional_dropout, alpha_dropout, stuck_dropout, by_hand),
        PLAIN,
    ),
    Fault(
        "attention's dropout in evaluation",
        ("active_in_evaluation",),
        (attention_dropout,),
        ("text", "language", "vit"),
    ),
    Fault(
        "all weights zero",
        ("zero_initialized",),
        (all_zero, weights_zero),
        ALL,
    ),
    Fault(
        "weights all the same",
        ("zero_initialized",),
        (constant_weights,),
        ALL,
    ),
    Fault(
        "first layer zero",
        ("zero_initialized",),
        (first_layer_zero,),
        ("mlp", "regression", "cnn", "conv1d", "several", "graphs"),
    ),
    Fault("average longer than the run", ("average_outlasts_run",), (average_too_long, average_never_begins)),
    Fault("warm-up longer than the run", ("warmup_outlasts_run",), (warm_up_too_long,)),
    Fault("accumulation beyond the epoch", ("accumulation_beyond_epoch",), (more_than_there_are,)),
    Fault(
        "a single sample for BatchNorm",
        ("batch_of_one_with_batchnorm",),
        (one_left_over,),
        ("mlp", "regression", "several", "binary", "labels", "autoencoder", "nll", "margin"),
        lambda made: bool(norms(made.model)),
    ),
    Fault(
        "a single sample in validation",
        ("batch_of_one_with_batchnorm",),
        (one_left_over_in_validation,),
        ("mlp", "regression", "several", "binary", "labels", "autoencoder", "nll", "margin"),
        lambda made: bool(norms(made.model)),
    ),
)
