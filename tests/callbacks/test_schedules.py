"""Schedules: their curves, their algebra, as torch schedulers, and as weights in a loss."""

from __future__ import annotations

import copy
import io
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from deepepochs_like import (
    EngineError,
    EngineWarning,
    LinearCosineScheduler,
    Optimizer,
    Schedule,
    Scheduled,
    Trainer,
    constant,
    cosine,
    linear,
    one_cycle,
    polynomial,
    warmup,
)
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, StateError
from support.digits import loader, mlp, same, weights

NAMES = {f.__name__: f for f in (warmup, cosine, linear, one_cycle, polynomial, constant)}

lengths = st.one_of(st.integers(0, 50), st.floats(0.25, 50, width=16))
factors = st.one_of(st.none(), st.floats(0, 4, width=16))
ends = st.floats(0, 4, width=16)
parts = st.one_of(
    st.builds(warmup, lengths, factors, ends),
    st.builds(linear, lengths, factors, ends),
    st.builds(cosine, lengths, factors, ends),
    st.builds(polynomial, lengths, st.floats(0.5, 3, width=16), factors, ends),
    st.builds(one_cycle, lengths, st.floats(0, 1, width=16), ends, factors, factors),
    st.builds(constant, lengths, factors),
)
schedules = st.lists(parts, min_size=1, max_size=4).map(lambda many: chained(*many))


def chained(first: Schedule, *others: Schedule) -> Schedule:
    for other in others:
        first = first >> other
    return first


def sgd(lr: float = 0.1, groups: int = 1) -> torch.optim.SGD:
    return torch.optim.SGD(
        [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr * (i + 1)} for i in range(groups)]
    )


def rates(scheduler: Any, steps: int) -> list[float]:
    """The learning rates of so many steps, the first included."""
    seen = []
    for _ in range(steps):
        seen.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    ("schedule", "of_torch"),
    [
        (cosine(20), lambda opt: lr_scheduler.CosineAnnealingLR(opt, 20)),
        (cosine(20, end=0.01), lambda opt: lr_scheduler.CosineAnnealingLR(opt, 20, eta_min=0.001)),
        (linear(5, 1 / 3, 1), lambda opt: lr_scheduler.LinearLR(opt, 1 / 3, 1.0, 5)),
        (linear(7, 1, 0.2), lambda opt: lr_scheduler.LinearLR(opt, 1.0, 0.2, 7)),
        (polynomial(20, power=1.7), lambda opt: lr_scheduler.PolynomialLR(opt, 20, power=1.7)),
        (constant(5, 0.3) >> constant(1, 1.0), lambda opt: lr_scheduler.ConstantLR(opt, 0.3, 5)),
        (
            one_cycle(19, rise=(0.3 * 20 - 1) / 19),
            lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, total_steps=20, cycle_momentum=False),
        ),
        (
            constant(4, 1) >> constant(4, 0.1) >> constant(4, 0.01),
            lambda opt: lr_scheduler.MultiStepLR(opt, [4, 8], 0.1),
        ),
        (
            linear(5, 0.1, 1) >> cosine(10),
            lambda opt: lr_scheduler.SequentialLR(
                opt, [lr_scheduler.LinearLR(opt, 0.1, 1.0, 5), lr_scheduler.CosineAnnealingLR(opt, 10)], [5]
            ),
        ),
    ],
    ids=["cosine", "eta_min", "linear", "linear down", "polynomial", "constant", "one_cycle", "steps", "sequential"],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")
def test_rates_are_those_of_torchs_own_scheduler(schedule: Schedule, of_torch: Any) -> None:
    steps = int(schedule.length) + (0 if schedule.pieces[-1].kind in ("one_cycle", "cosine") else 5)
    assert rates(schedule.scheduler(sgd()), steps) == pytest.approx(rates(of_torch(sgd()), steps), rel=1e-9, abs=1e-15)


def test_rates_are_those_of_the_linear_cosine_scheduler() -> None:
    old = rates(LinearCosineScheduler(sgd(), max_val=0.1, warmup_steps=5, total_steps=20, min_val=0.0), 25)
    # It begins the fall one step before the warm-up would have ended here.
    new = linear(4, 1 / 5, 1) >> cosine(16)
    assert rates(new.scheduler(sgd()), 25) == pytest.approx(old, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_end_is_reached_and_kept(name: str) -> None:
    schedule = NAMES[name](10)
    assert schedule(10) == schedule(11) == schedule(1e9) == schedule.end
    assert schedule.end == {"warmup": 1.0, "constant": 1.0, "one_cycle": 1 / 250_000}.get(name, 0.0)
    assert len(schedule.values()) == 11
    assert schedule.values(3) == [schedule(0), schedule(1), schedule(2)]


def test_no_step_of_a_warmup_is_lost_on_zero() -> None:
    assert warmup(4).values() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert (constant(2, 0.5) >> warmup(2)).values() == pytest.approx([0.5, 0.5, 0.5, 0.75, 1.0])


def test_weights_of_a_loss_go_from_one_number_to_another() -> None:
    assert linear(5, 0, 0.1).values() == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])


@settings(max_examples=60, deadline=None)
@given(schedules, schedules, schedules, st.floats(0, 300))
def test_composition_is_associative(a: Schedule, b: Schedule, c: Schedule, t: float) -> None:
    left, right = (a >> b) >> c, a >> (b >> c)
    assert left == right
    assert hash(left) == hash(right)
    assert left(t) == right(t)


@settings(max_examples=60, deadline=None)
@given(schedules, schedules, st.floats(0, 100))
def test_lengths_add_up_and_the_first_stays_what_it_was(a: Schedule, b: Schedule, t: float) -> None:
    both = a >> b
    assert both.length == pytest.approx(a.length + b.length)
    if t < a.length:
        assert both(t) == a(t)


@settings(max_examples=60, deadline=None)
@given(schedules, parts)
def test_parts_meet_where_no_start_is_given(a: Schedule, b: Schedule) -> None:
    piece = b.pieces[0]
    rise = piece.n * piece.shape[0] if piece.kind == "one_cycle" else piece.n  # one of no length is at its peak at once
    if piece.start is None and a.length + rise > a.length:
        assert (a >> b)(a.length) == pytest.approx(a.end, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(schedules)
def test_repr_makes_it_again(schedule: Schedule) -> None:
    again = eval(repr(schedule), dict(NAMES))
    assert again == schedule
    assert again.values(60) == schedule.values(60)


def test_repr_says_only_what_was_said() -> None:
    schedule = warmup(5) >> cosine(95, end=0.1) >> polynomial(3, power=1.0) >> constant(2, 0.5) >> one_cycle(9)
    assert repr(schedule) == (
        "warmup(5) >> cosine(95, end=0.1) >> polynomial(3, power=1.0) >> constant(2, value=0.5) >> one_cycle(9)"
    )


def test_it_is_a_value() -> None:
    schedule = warmup(5) >> polynomial(95)
    assert schedule == pickle.loads(pickle.dumps(schedule)) == copy.deepcopy(schedule)
    assert schedule != warmup(5) >> polynomial(94)
    assert {schedule: 1}[warmup(5) >> polynomial(95)] == 1
    with pytest.raises(AttributeError):
        schedule.pieces = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        schedule >> 5  # type: ignore[operator]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: warmup(-1),
        lambda: cosine(math.nan),
        lambda: linear(5, "a"),  # type: ignore[arg-type]
        lambda: linear(5, 0, math.inf),
        lambda: polynomial(5, power=0),
        lambda: one_cycle(5, rise=1.5),
        lambda: constant(True),
        lambda: Schedule(()),
        lambda: cosine(5)(-1),
        lambda: cosine(5)(math.nan),
    ],
)
def test_wrong_numbers_are_refused(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=r"needed|at least one part"):
        wrong()


def test_it_is_drawn_with_characters() -> None:
    text = (warmup(10) >> cosine(90)).plot(width=50, height=6, ascii=True)
    lines = text.splitlines()
    assert lines[0] == "warmup(10) >> cosine(90)"
    assert max(map(len, lines)) <= 50
    assert lines[-1].split()[0] == "0"
    assert lines[-1].split()[-1] == "100"
    assert "no numbers" not in constant(0).plot(ascii=True)


def test_it_is_drawn_into_a_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = (warmup(10) >> cosine(90)).plot(tmp_path / "schedule.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


# ---------------------------------------------------------------------------------- as a scheduler


def test_every_group_keeps_its_own_rate() -> None:
    opt = sgd(groups=2)
    linear(4).scheduler(opt)
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.2]
    with pytest.raises(ArgumentTypeError, match=r"torch\.optim\.Optimizer is needed"):
        linear(4).scheduler(Optimizer(opt))  # type: ignore[arg-type]


def test_the_state_is_plain_and_loads_with_weights_only() -> None:
    first = (warmup(2) >> polynomial(8)).scheduler(sgd())
    rates(first, 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = (warmup(2) >> polynomial(8)).scheduler(sgd())
    second.load_state_dict(state)
    second.optimizer.param_groups[0]["lr"] = first.optimizer.param_groups[0]["lr"]
    assert rates(second, 8) == rates(first, 8)


def test_another_schedule_in_the_state_is_gone_on_with_and_said() -> None:
    state = cosine(10).scheduler(sgd()).state_dict()
    other = cosine(20).scheduler(sgd())
    with pytest.warns(EngineWarning, match=r"goes on with the schedule of its state, cosine\(10\).*cosine\(20\)"):
        other.load_state_dict(state)
    assert other.schedule == cosine(10)
    rates(other, 10)
    assert other.get_last_lr() == [pytest.approx(0.0)]
    with pytest.raises(StateError, match="another kind"):
        other.load_state_dict(lr_scheduler.StepLR(sgd(), 3).state_dict())


def scheduled_trainer(sched_on: Any, **options: Any) -> tuple[Trainer, list[float]]:
    """A trainer with a schedule, and the rates that its updates were made with."""
    model, seen = mlp(), []
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    opt.register_step_post_hook(lambda opt, args, kwargs: seen.append(opt.param_groups[0]["lr"]))
    schedule = warmup(2) >> cosine(6) if sched_on == "epoch" else warmup(5) >> cosine(16)
    optimizer = Optimizer(opt, schedule.scheduler(opt), sched_on=sched_on)
    return Trainer(model, torch.nn.functional.cross_entropy, optimizer, verbose=0, **options), seen


def test_epochs_and_steps() -> None:
    by_epoch, seen = scheduled_trainer("epoch", epochs=4)
    by_epoch.fit(loader())
    assert seen[::7] == pytest.approx([0.1 * f for f in (warmup(2) >> cosine(6)).values(4)])
    by_step, seen = scheduled_trainer("step", epochs=3)
    by_step.fit(loader())
    assert seen == pytest.approx([0.1 * f for f in (warmup(5) >> cosine(16)).values(21)])


@pytest.mark.parametrize("sched_on", ["epoch", "step"])
def test_a_resumed_run_goes_on_with_the_rates(sched_on: str) -> None:
    whole, seen = scheduled_trainer(sched_on, epochs=3)
    whole.fit(loader())
    first, before = scheduled_trainer(sched_on, epochs=3)
    first.callbacks.append(StopAfter(10))
    first.fit(loader())
    second, after = scheduled_trainer(sched_on, epochs=3)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.fit(loader())
    assert before + after == seen
    assert same(weights(whole.model.model), weights(second.model.model))


# ---------------------------------------------------------------------------------- as a weight in a loss


class StopAfter(Scheduled):
    """Stop a run after so many updates."""

    def __init__(self, updates: int) -> None:
        super().__init__(constant(0))
        self.updates = updates

    def state_key(self) -> str:
        return "StopAfter"

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.progress.step == self.updates:
            trainer.stop()


def weighted(on: Any) -> tuple[Trainer, list[float], Any]:
    weight, seen = Scheduled(linear(3 if on == "epoch" else 21, 0, 0.1), on), []

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        seen.append(weight.value)
        model_out = trainer.model(batch_x)
        loss = torch.nn.functional.cross_entropy(model_out, batch_y)
        trainer.backward(loss + weight.value * sum(p.abs().sum() for p in trainer.model.parameters()))
        trainer.optimize()
        trainer.do_metric(loss)

    model = mlp()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, torch.nn.functional.cross_entropy, opt, 3, callbacks=[weight], verbose=0)
    return trainer, seen, step


@pytest.mark.parametrize("on", ["epoch", "step"])
def test_a_weight_follows_the_run_and_survives_a_restart(on: str) -> None:
    whole, seen, step = weighted(on)
    whole.fit(loader(), step=step)
    first, before, step = weighted(on)
    first.callbacks.append(StopAfter(10))
    first.fit(loader(), step=step)
    second, after, step = weighted(on)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.fit(loader(), step=step)
    expected = [0.1 * (i // 7 if on == "epoch" else i) / (3 if on == "epoch" else 21) for i in range(21)]
    assert seen == pytest.approx(expected)
    assert before + after == seen
    assert same(weights(whole.model.model), weights(second.model.model))


def test_a_weight_has_no_hook_at_all() -> None:
    trainer, _, _ = weighted("step")
    from deepepochs_like.events import EVENTS, listens

    assert not [event for event in EVENTS if listens(trainer.callbacks[0], event)]


def test_a_weight_without_a_run_says_so() -> None:
    with pytest.raises(ArgumentError, match="callbacks="):
        _ = Scheduled(linear(3)).value
    with pytest.raises(EngineError, match="did you mean 'step'"):
        Scheduled(linear(3), "steps")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="a schedule such as"):
        Scheduled(0.5)
