"""`AMP`, `GradClip` and `GradientAccumulation`, alone and together."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import (
    AMP,
    Callback,
    EpochTask,
    GradClip,
    GradClipCallback,
    GradientAccumulation,
    Optimizer,
    Trainer,
)
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, EngineWarning, StepError
from deepepochs_like.execution.precision import widen


def data(count: int = 40, batch: int = 8) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def trainer(model: nn.Module, *callbacks: Callback, lr: float = 0.1, epochs: int = 2, **options: Any) -> Trainer:
    opt = options.pop("opt", None) or torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    return Trainer(model, F.cross_entropy, opt, epochs, "cpu", list(callbacks), verbose=0, **options)


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


class Dtypes(Callback):
    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.inner: set[torch.dtype] = set()
        self.outer: set[torch.dtype] = set()
        model[0].register_forward_hook(lambda module, args, output: self.inner.add(output.dtype))

    def on_after_train_forward(self, trainer: Any, model_out: Any) -> None:
        self.outer.add(model_out.dtype)


# bfloat16.


def test_bf16_equals_autocast_by_hand() -> None:
    model, seen = net(), None
    seen = Dtypes(model)
    trainer(model, AMP("bf16"), seen).fit(data(), data())
    assert seen.inner == {torch.bfloat16}
    assert seen.outer == {torch.float32}
    own = net()
    opt = torch.optim.SGD(own.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        for x, y in data():
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(own(x).float(), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
    assert equal(model, own)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_evaluation_and_predict_run_in_the_precision_too_and_nothing_stays_behind() -> None:
    model = net()
    seen = Dtypes(model)
    it = trainer(model, AMP("bf16"), seen)
    assert it.predict(data()).dtype == torch.float32
    assert seen.inner == {torch.bfloat16}
    seen.inner.clear()
    it.test(data())
    assert seen.inner == {torch.bfloat16}
    assert not model._forward_hooks
    seen.inner.clear()
    model(torch.ones(1, 6))
    assert seen.inner == {torch.float32}, "outside of a run the model is as it was"


class Named(NamedTuple):
    logits: Tensor
    note: str = "as it was"


@dataclass
class Plain:
    logits: Tensor
    more: list[Tensor] = field(default_factory=list)
    note: str = "as it was"


@dataclass(frozen=True)
class Frozen:
    logits: Tensor
    inner: Plain | None = None

    def __post_init__(self) -> None:
        if self.logits.ndim != 2:
            raise ValueError("of two dimensions")


@dataclass(slots=True)
class Slotted:
    logits: Tensor
    made: Tensor | None = field(init=False, default=None)


@dataclass
class Both(OrderedDict[str, Any]):
    """A dict and a dataclass at once, as Hugging Face's model outputs are."""

    logits: Tensor | None = None
    states: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) is not None:
                OrderedDict.__setitem__(self, one.name, getattr(self, one.name))

    def __setitem__(self, key: str, value: Any) -> None:
        OrderedDict.__setitem__(self, key, value)
        object.__setattr__(self, key, value)

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, one.name) for one in fields(self))


def slotted(logits: Tensor) -> Slotted:
    made = Slotted(logits)
    made.made = logits.exp()
    return made


def floats(value: Any) -> set[torch.dtype]:
    """The types of all floating tensors in an output."""
    if isinstance(value, Tensor):
        return {value.dtype}
    if is_dataclass(value):
        found = set().union(*(floats(getattr(value, one.name)) for one in fields(value)))
        return found | (set().union(*map(floats, value.values())) if isinstance(value, dict) else set())
    return set().union(*map(floats, value)) if isinstance(value, (list, tuple)) else set()


@pytest.mark.parametrize(
    "make",
    [
        Named,
        lambda t: Plain(t, [t, t]),
        lambda t: Frozen(t, Plain(t)),
        slotted,
        lambda t: Both(t, (t, t)),
        lambda t: [Frozen(t), (Named(t),)],
    ],
    ids=["namedtuple", "dataclass", "frozen", "slots", "dict and dataclass", "nested"],
)
def test_outputs_that_are_objects_are_float32_too_and_keep_their_class(make: Any) -> None:
    given: list[Any] = []
    seen: list[Any] = []

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> Any:
            given.append(make(self.inner(x)))
            return given[-1]

    def loss(out: Any, y: Tensor) -> Tensor:
        seen.append(out)
        first = out[0] if isinstance(out, list) else out
        assert first.logits.requires_grad == torch.is_grad_enabled()
        return F.cross_entropy(first.logits, y)

    model = Wrapped()
    it = Trainer(model, loss, torch.optim.SGD(model.parameters(), 0.1), 1, "cpu", [AMP("bf16")], verbose=0)
    it.fit(data(16), data(8))
    assert floats(given[0]) == {torch.bfloat16}, "the model's own object stays as it was"
    for out, own in zip(seen, given, strict=True):
        assert type(out) is type(own)
        assert floats(out) == {torch.float32}
        assert getattr(out, "note", "as it was") == "as it was"


def test_an_output_without_halves_is_handed_on_as_it_is() -> None:
    output = {"logits": torch.ones(2), "more": Plain(torch.ones(1), [torch.ones(1)])}
    assert widen(None, None, output) is output


def test_a_second_forward_pass_in_a_step_sees_the_weights_updated_in_between() -> None:
    outputs = []

    class Twice(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Any) -> None:
            self.loss(self.model(*batch_x), batch_y)
            with torch.enable_grad():
                outputs.append(self.model(*batch_x).detach())

    model = net()
    trainer(model, AMP("bf16"), epochs=1).fit(train_tasks=Twice(data(8)))
    with torch.autocast("cpu", torch.bfloat16):
        now = model(next(iter(data(8)))[0]).float()
    assert torch.equal(outputs[0], now)


# float16.


class Overflow(Callback):
    """Make one gradient infinite in the batches that are named."""

    def __init__(self, batches: set[int]) -> None:
        super().__init__()
        self.batches = batches

    def on_after_backward(self, trainer: Any, loss: Tensor) -> None:
        if trainer.progress.batch in self.batches:
            next(iter(trainer.model.parameters())).grad[0, 0] = float("inf")


def test_an_update_that_overflows_is_left_out_with_its_scheduler_and_the_scale_halves() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    optimizer = Optimizer(opt, torch.optim.lr_scheduler.ExponentialLR(opt, 0.5), sched_on="step")
    amp = AMP("fp16", init_scale=1024.0)
    before = [p.detach().clone() for p in model.parameters()]
    it = trainer(model, amp, Overflow({0, 1, 2, 3, 4}), opt=optimizer, epochs=1)
    it.fit(data())
    assert all(map(torch.equal, before, model.parameters()))
    assert (amp.skipped, amp.scale, it.progress.step) == (5, 1024.0 / 32, 0)
    assert opt.param_groups[0]["lr"] == 0.1
    it.callbacks.pop()
    it.fit(data(), epochs=1)
    assert (amp.skipped, it.progress.step) == (5, 5)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**5)


def test_gradients_are_unscaled_before_anybody_clips_or_sees_them() -> None:
    norms: dict[str, list[float]] = {"fp16": [], "plain": []}

    class Norms(Callback):
        def __init__(self, into: list[float]) -> None:
            super().__init__(priority=5)
            self.into = into

        def on_before_optimize(self, trainer: Any, optimize_index: Any) -> None:
            self.into.append(float(nn.utils.get_total_norm([p.grad for p in trainer.model.parameters()])))

    for name, callbacks in (("fp16", [AMP("fp16")]), ("plain", [])):
        trainer(net(), *callbacks, GradClip(0.05), Norms(norms[name])).fit(data())
    assert norms["fp16"] == pytest.approx(norms["plain"], rel=0.02)
    assert max(norms["fp16"]) <= 0.0501


def test_the_norm_of_an_update_left_out_is_not_in_the_figure() -> None:
    history = trainer(net(), AMP("fp16"), GradClip(1.0), Overflow({2}), epochs=1).fit(data())
    assert 0 < history["train"]["grad_norm"][0] < 10


def test_the_window_of_an_update_left_out_is_over() -> None:
    model = net()
    amp = AMP("fp16", init_scale=64.0)
    it = trainer(model, amp, Overflow({1}), accumulate=2, epochs=1)
    it.fit(data(64))
    assert amp.skipped == 1
    assert it.progress.step == 3
    own = net()
    by_hand = trainer(own, AMP("fp16", init_scale=64.0), accumulate=2, epochs=1)
    batches = list(data(64))
    by_hand.fit([batches[i] for i in (2, 3, 4, 5, 6, 7)])
    for mine, theirs in zip(model.parameters(), own.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_two_optimizers_of_which_one_overflows() -> None:
    model = net()
    opts = [torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.SGD(model[2].parameters(), 0.1)]
    before = [p.detach().clone() for p in model.parameters()]
    it = trainer(model, AMP("fp16"), Overflow({0}), opt=opts, epochs=1)
    it.fit(data(8))
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert changed == [False, False, True, True]


def test_the_scaler_survives_a_restart() -> None:
    def make() -> tuple[Trainer, AMP]:
        amp = AMP("fp16", init_scale=256.0, growth_interval=3)
        return trainer(net(), amp, Overflow({1}), epochs=3), amp

    whole, amp = make()
    whole.fit(data())
    first, _ = make()

    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.epoch == 1 and batch_idx == 2:
                trainer.stop()

    first.callbacks.append(Stop())
    first.fit(data())
    second, again = make()
    second.load_state_dict(first.state_dict())
    second.fit(data())
    assert (again.skipped, again.scale) == (amp.skipped, amp.scale)
    assert equal(second.model.model, whole.model.model)


def lines_of(it: Trainer) -> list[str]:
    """What a trainer prints of updates that were left out, from here on."""
    said: list[str] = []
    it.verbose = 1
    it.print = lambda *words, **options: said.append(" ".join(map(str, words)))
    return said


def test_one_that_was_taken_out_and_put_back_goes_on_with_its_scale_and_its_count() -> None:
    amp = AMP("fp16", init_scale=1024.0, growth_interval=12)
    it = trainer(net(), amp, epochs=9)
    overflow = Overflow({0, 1, 2})
    it.callbacks.append(overflow)
    said = lines_of(it)
    it.fit(data(), epochs=1)
    it.callbacks.remove(amp)
    it.test(data())
    assert it.state_dict()["callbacks"].get("AMP") is None
    assert (amp.skipped, amp.scale) == (3, 128.0)
    it.callbacks.append(amp)
    it.test(data())
    assert (amp.skipped, amp.scale) == (3, 128.0)
    it.fit(data(), epochs=1)
    assert (amp.skipped, amp.scale) == (6, 16.0)
    told = [line for line in said if "left out" in line]
    assert ["3 updates left out" in line for line in told] == [True, True]


def test_put_back_into_one_of_two_trainers_it_has_what_it_left_there() -> None:
    amp = AMP("fp16", init_scale=1024.0)
    first, second = trainer(net(), amp, Overflow({0, 1})), trainer(net(), amp)
    said = lines_of(first)
    first.fit(data(), epochs=1)
    second.fit(data(), epochs=1)
    first.callbacks.remove(amp)
    first.test(data())
    first.callbacks.append(amp)
    first.test(data())
    assert (amp.skipped, amp.scale) == (2, 256.0)
    first.fit(data(), epochs=1)
    assert amp.skipped == 4
    assert ["2 updates left out" in line for line in said if "left out" in line] == [True, True]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AMP("fp8"), "'bf16', 'fp16' is needed"),
        (lambda: AMP("bf16", init_scale=2.0), "only 'fp16' scales"),
        (lambda: AMP("fp16", initial=2.0), "refuses the options"),
        (lambda: trainer(net(), AMP(), AMP()), "another AMP"),
    ],
)
def test_amp_refuses(make: Any, words: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=words):
        make()


# Clipping.


def test_clipping_by_norm_equals_torchs_and_tells_the_norm() -> None:
    model, own = net(), net()
    it = trainer(model, GradClip(0.1))
    history = it.fit(data())
    opt = torch.optim.SGD(own.parameters(), 0.1, momentum=0.9)
    means = []
    for _ in range(2):
        norms = []
        for x, y in data():
            F.cross_entropy(own(x), y).backward()
            norms.append(float(nn.utils.clip_grad_norm_(own.parameters(), 0.1)))
            opt.step()
            opt.zero_grad()
        means.append(sum(norms) / len(norms))
    assert equal(model, own)
    assert history["train"]["grad_norm"] == pytest.approx(means)


@pytest.mark.parametrize("clip", [GradClip(max_value=0.01), GradClipCallback(0.01)])
def test_clipping_by_value_equals_torchs(clip: Callback) -> None:
    model, own = net(), net()
    trainer(model, clip).fit(data())
    opt = torch.optim.SGD(own.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        for x, y in data():
            F.cross_entropy(own(x), y).backward()
            nn.utils.clip_grad_value_(own.parameters(), 0.01)
            opt.step()
            opt.zero_grad()
    assert equal(model, own)


def test_clipping_clips_the_mean_of_a_window_once() -> None:
    norms = []

    class Count(Callback):
        def on_after_optimize(self, trainer: Any, optimize_index: Any) -> None:
            norms.append(1)

    model, own = net(), net()
    trainer(model, GradClip(0.1), Count(), accumulate=2, epochs=1).fit(data(32))
    trainer(own, GradClip(0.1), epochs=1).fit(data(32, 16))
    assert len(norms) == 2
    for mine, theirs in zip(model.parameters(), own.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_one_optimizer_at_a_time_clips_its_own_parameters() -> None:
    class Each(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Any) -> None:
            self.loss(self.model(*batch_x), batch_y, do_optimize=False)
            self.optimize(0)
            self.optimize(1)

    model = net()
    opts = [torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.SGD(model[2].parameters(), 0.1)]
    history = trainer(model, GradClip(1e-3), opt=opts, epochs=1).fit(train_tasks=Each(data()))
    assert set(history["train"]) == {"loss", "grad_norm_0", "grad_norm_1"}


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0, "max_value": 1.0}, {"max_norm": 0}, {"max_norm": True}])
def test_clip_refuses(options: Any) -> None:
    with pytest.raises(ArgumentError, match="needed"):
        GradClip(**options)


# Accumulation.


@settings(max_examples=15, deadline=None)
@given(
    schedule=st.dictionaries(st.integers(0, 3), st.integers(1, 5), min_size=1, max_size=3),
    count=st.integers(17, 44),
)
def test_a_schedule_equals_trainers_with_one_number_each(schedule: dict[int, int], count: int) -> None:
    model, own = net(), net()
    it = trainer(model, GradientAccumulation(schedule), epochs=4)
    it.fit(data(count))
    state = None
    for epoch in range(4):
        begun = [n for first, n in sorted(schedule.items()) if first <= epoch]
        one = trainer(own, accumulate=begun[-1] if begun else 1, epochs=1)
        if state is not None:
            one.opt[0].opt.load_state_dict(state)
        one.fit(data(count))
        state = one.opt[0].opt.state_dict()
    for mine, theirs in zip(model.parameters(), own.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_window_of_the_schedule_survives_a_restart() -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.epoch == 1 and batch_idx == 1:
                trainer.stop()

    def make(*more: Callback) -> Trainer:
        return trainer(net(), GradientAccumulation({0: 2, 1: 4}), *more, epochs=3)

    whole, first, second = make(), make(Stop()), make()
    whole.fit(data())
    first.fit(data())
    state = first.state_dict()
    assert state["window"]["batches"] == 2
    second.load_state_dict(state)
    second.fit(data())
    assert equal(second.model.model, whole.model.model)


@pytest.mark.parametrize("schedule", [{}, {-1: 2}, {0: 0}, {0: 1.5}, {"a": 2}, {True: 2}])
def test_a_schedule_refuses(schedule: Any) -> None:
    with pytest.raises(ArgumentError, match="needed"):
        GradientAccumulation(schedule)


def test_two_schedules_of_one_thing_are_refused() -> None:
    with pytest.raises(ArgumentError, match="leave one of the two out"):
        trainer(net(), GradientAccumulation({0: 2}), accumulate=4)


# What must not go wrong without a word.


def test_a_window_that_is_open_in_a_state_may_be_closed_before_any_loss_is_scaled() -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.epoch == 1 and batch_idx == 4:
                trainer.stop()

    whole = trainer(net(), AMP("fp16"), accumulate=2)
    whole.fit(data())
    first, second = trainer(net(), AMP("fp16"), Stop(), accumulate=2), trainer(net(), AMP("fp16"), accumulate=2)
    first.fit(data())
    second.load_state_dict(first.state_dict())
    second.fit(data())
    assert equal(second.model.model, whole.model.model)


@pytest.mark.parametrize("before", [None, "bf16", "fp16"])
@pytest.mark.parametrize("after", ["bf16", "fp16"])
def test_a_window_that_is_open_in_a_state_goes_on_in_another_precision(before: str | None, after: str) -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                trainer.stop()

    plain = trainer(net(), epochs=1, accumulate=5)
    plain.fit(data())
    first = trainer(net(), Stop(), *([AMP(before)] if before else []), epochs=1, accumulate=5)
    first.fit(data())
    second = trainer(net(1), AMP(after), epochs=1, accumulate=5)
    second.load_state_dict(first.state_dict())
    second.fit(data(), epochs=1)
    assert second.progress.step == 1
    for own, there in zip(second.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(own, there, atol=2e-3)


def test_an_evaluation_in_the_middle_of_an_update_leaves_the_scale_alone() -> None:
    class Validate(Callback):
        def on_before_optimize(self, trainer: Any, optimize_index: Any) -> None:
            trainer.validate(data(8))

    one, other = net(), net()
    trainer(one, AMP("fp16"), Validate(), accumulate=2).fit(data())
    trainer(other, AMP("fp16"), accumulate=2).fit(data())
    assert equal(one, other)


def test_a_batch_that_is_skipped_takes_its_window_along_as_without_it() -> None:
    class Skip(Callback):
        def on_before_optimize(self, trainer: Any, optimize_index: Any) -> None:
            if trainer.progress.batch == 1:
                raise ValueError("no")

        def on_exception(self, trainer: Any, exception: BaseException) -> str:
            return "skip_batch"

    norms = []
    for callbacks in ([], [AMP("fp16")]):
        with pytest.warns(EngineWarning, match="window is dropped"):
            history = trainer(net(), *callbacks, Skip(), GradClip(9.0), accumulate=2, epochs=1).fit(data(48))
        norms.append(history["train"]["grad_norm"][0])
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


class Bare(EpochTask):
    def train_step(self, batch_x: Any, batch_y: Any) -> None:
        with torch.enable_grad():
            F.cross_entropy(self.model(*batch_x), batch_y).backward()
        self.optimize()


class ByItself(EpochTask):
    def train_step(self, batch_x: Any, batch_y: Any) -> None:
        with torch.enable_grad():
            self.trainer.backward(F.cross_entropy(self.model(*batch_x), batch_y))
        self.opt.step()


class Twice(EpochTask):
    def train_step(self, batch_x: Any, batch_y: Any) -> None:
        for _ in range(2):
            self.loss(self.model(*batch_x), batch_y)


@pytest.mark.parametrize(
    ("task", "words"), [(Bare, "nothing was back-propagated"), (ByItself, "opt.step"), (Twice, "twice in one batch")]
)
def test_steps_that_float16_would_make_wrong_are_refused(task: Any, words: str) -> None:
    with pytest.raises(StepError, match=words):
        trainer(net(), AMP("fp16"), epochs=1).fit(train_tasks=task(data()))
    trainer(net(), AMP("bf16"), epochs=1).fit(train_tasks=task(data()))


def test_gradients_that_no_scale_makes_finite_end_the_run() -> None:
    it = trainer(net(), AMP("fp16"), Overflow({0, 1, 2, 3, 4}), epochs=50)
    with pytest.raises(StepError, match="60 updates in a row were left out"):
        it.fit(data())


def test_float16_and_a_compiled_step_exclude_each_other() -> None:
    with pytest.raises(ArgumentError, match="compile='step'"):
        trainer(net(), AMP("fp16"), compile="step")


def test_one_callback_in_two_trainers_trains_each_as_one_of_its_own_does() -> None:
    def run(*amps: AMP) -> list[nn.Module]:
        models = [net(seed) for seed in range(2)]
        one, two = (trainer(model, amp) for model, amp in zip(models, amps, strict=True))
        for it in (one, two, one):
            it.fit(data(), epochs=1)
        return models

    shared = AMP("fp16")
    assert all(map(equal, run(shared, shared), run(AMP("fp16"), AMP("fp16"))))


@pytest.mark.parametrize(
    ("name", "value", "words"), [("loss", 1.0, "this name"), ("x", torch.ones(2), r"shape \(2,\)")]
)
def test_a_figure_that_is_none_is_refused(name: str, value: Any, words: str) -> None:
    class Add(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            trainer.add_figure(name, value)

    with pytest.raises(ArgumentError, match=words):
        trainer(net(), Add()).fit(data())


def test_a_figure_that_comes_when_the_epoch_has_been_read_is_refused() -> None:
    class Late(Callback):
        def on_after_train_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
            trainer.add_figure("late", 1.0)

    with pytest.raises(ArgumentError, match=r"use trainer\.log"):
        trainer(net(), Late()).fit(data())
