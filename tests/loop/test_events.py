"""Which event fires when, how often, with what, and for whom.

The order of events is pinned by the files under golden/. `UPDATE_GOLDEN=1` writes them anew: then read the difference.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Callback, EpochTask, Trainer
from deepepochs_like.errors import ArgumentTypeError, StopLoopException
from deepepochs_like.events import EVENTS, by_priority, check_callback, listens, method_of
from deepepochs_like.hooks import Hooks
from support.loop import Recorder, batches, trainer

GOLDEN = Path(__file__).parent / "golden"

TRAIN = [e for e in EVENTS if "train" in e or "backward" in e or "optimize" in e]
VAL, TEST = ([e for e in EVENTS if stage in e] for stage in ("val", "test"))
PER_BATCH = re.compile(r"(_batch|_forward|_backward|_optimize|_metrics|\w+_metrics)$")


def matches_golden(name: str, lines: list[str]) -> None:
    """Compare with golden/<name>.txt, or write it when asked to."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert lines == path.read_text(encoding="utf-8").splitlines(), f"the order of events is not that of {path.name}"


def stopping(trainer: Trainer, **arguments: Any) -> None:
    trainer.stop("enough")


def raising(**arguments: Any) -> None:
    raise StopLoopException("enough")


# ---------------------------------------------------------------------------------------------------- the table


def test_the_table_has_38_events_and_the_base_class_has_a_hook_for_each() -> None:
    assert len(EVENTS) == 38
    hooks = [name for name in vars(Callback) if name.startswith("on_")]
    assert hooks == [method_of(event) for event in EVENTS]


def test_the_base_class_hooks_take_exactly_the_arguments_of_the_table() -> None:
    for event, arguments in EVENTS.items():
        code = getattr(Callback, method_of(event)).__code__
        assert code.co_varnames[1 : code.co_argcount] == arguments, event


def test_every_hook_of_the_base_class_says_when_it_fires() -> None:
    for event in EVENTS:
        assert (getattr(Callback, method_of(event)).__doc__ or "").startswith("Fires "), event


def test_the_docstring_of_the_base_class_tells_the_events_in_the_golden_order() -> None:
    loop = (Callback.__doc__ or "").split("::", 1)[1].split("Hooks from", 1)[0]
    told = [word for word in re.findall(r"\w+", loop) if word in EVENTS]
    told.insert(told.index("after_val_epochs"), "...")  # "before_val_epochs ... after_val_epochs"
    first_epoch = dict.fromkeys(line.split()[0] for line in (GOLDEN / "fit.txt").read_text("utf-8").splitlines())
    inside = [e for e in VAL if e not in ("before_val_epochs", "after_val_epochs")]
    without = [event for event in first_epoch if event not in inside]
    assert [event for event in told if event != "..."] == without


def test_the_table_is_in_the_order_in_which_events_fire() -> None:
    lines = (GOLDEN / "fit.txt").read_text("utf-8").splitlines() + (GOLDEN / "test.txt").read_text("utf-8").splitlines()
    fired = dict.fromkeys(line.split()[0] for line in lines)
    fired.pop("on_cleanup")
    assert list(fired) == [event for event in EVENTS if event not in ("on_exception", "on_cleanup")]


# --------------------------------------------------------------------------------------------- order and counts


def test_fit_with_a_training_and_a_validation_loader() -> None:
    log = Recorder()
    trainer(callbacks=[log]).fit(batches(2), batches(1))
    matches_golden("fit", log.log)
    once = {"before_fit": 1, "after_fit": 1, "on_cleanup": 1}
    expected = dict.fromkeys(EVENTS, 0) | once | {"before_epoch": 2, "after_epoch": 2, "on_checkpoint": 2}
    expected |= {event: 4 if PER_BATCH.search(event) else 2 for event in TRAIN}
    expected |= dict.fromkeys(VAL, 2)
    assert log.counts == expected


def test_every_event_gives_exactly_the_arguments_of_the_table() -> None:
    def fail(**arguments: Any) -> None:
        raise ValueError("for on_exception")

    log = Recorder(actions={"after_fit": fail})
    run = trainer(callbacks=[log])
    with pytest.raises(ValueError, match="for on_exception"):
        run.fit(batches(1), batches(1))
    run.test(batches(1))
    assert {event: sorted(given) for event, given in log.arguments.items()} == {e: sorted(a) for e, a in EVENTS.items()}


def test_two_tasks_in_each_stage() -> None:
    log = Recorder()
    tasks = [EpochTask(batches(1), name=name) for name in ("a.", "b.", "c.", "d.")]
    trainer(callbacks=[log], epochs=1).fit(train_tasks=tasks[:2], val_tasks=tasks[2:])
    matches_golden("fit_two_tasks", log.log)
    assert log.counts["before_train_epochs"] == log.counts["before_val_epochs"] == 1
    assert log.counts["before_train_epoch"] == log.counts["before_val_epoch"] == 2


def test_two_callbacks_are_nested_by_priority_whatever_their_order_in_the_list() -> None:
    log: list[str] = []
    inner, outer = Recorder(log, "inner", priority=2), Recorder(log, "outer", priority=1)
    trainer(callbacks=[inner, outer], epochs=1).fit(batches(1), batches(1))
    matches_golden("fit_two_callbacks", log)
    for pair in zip(log[::2], log[1::2], strict=True):
        event = pair[0].split()[1]
        assert [line.split()[0] for line in pair] == (
            ["outer", "inner"] if event.startswith("before_") else ["inner", "outer"]
        )


def test_callbacks_of_one_priority_run_in_list_order_before_and_reversed_after() -> None:
    log: list[str] = []
    callbacks = [Recorder(log, label) for label in "abc"]
    trainer(callbacks=callbacks, epochs=1).fit(batches(1))
    by_event: dict[str, str] = {}
    for line in log:
        label, event = line.split()[:2]
        by_event[event] = by_event.get(event, "") + label
    assert {event: order for event, order in by_event.items() if order != "cba"} == {
        event: "abc" for event in by_event if event.startswith("before_")
    }


def test_callbacks_that_keep_checkpoints_come_last_whatever_their_priority() -> None:
    first, keeper, last = Recorder(priority=9), Recorder(priority=100), Recorder(priority=-5)
    keeper.keeps_checkpoints = True  # type: ignore[attr-defined]
    assert by_priority([keeper, last, first], "on_checkpoint") == [first, last, keeper]
    assert by_priority([keeper, last, first], "after_epoch") == [keeper, first, last]


@pytest.mark.parametrize("how", [stopping, raising], ids=["stop", "exception"])
@pytest.mark.parametrize(
    "where",
    [
        *("before_fit", "before_epoch", "before_train_batch", "after_train_batch", "after_train_epoch"),
        *("after_val_batch", "after_epoch", "on_checkpoint", "after_fit"),
    ],
)
def test_a_stop_is_obeyed_where_it_is_asked_for(where: str, how: Callable[..., None]) -> None:
    log = Recorder(actions={where: how})
    run = trainer(callbacks=[log])
    run.fit(batches(2), batches(1))
    matches_golden(f"stop_{'raised_' if how is raising else ''}in_{where}", log.log)
    assert run.stop_reason == "enough"
    assert log.counts["after_fit"] == log.counts["on_cleanup"] == 1
    assert log.counts["on_exception"] == 0
    assert log.heard[-2:] == ["after_fit", "on_cleanup"]


@pytest.mark.parametrize("how", [stopping, raising], ids=["stop", "exception"])
def test_a_stop_in_the_last_batch_skips_the_validation(how: Callable[..., None]) -> None:
    log = Recorder(actions={"after_train_batch": lambda batch_idx, **given: how(**given) if batch_idx else None})
    run = trainer(callbacks=[log])
    history = run.fit(batches(2), batches(1))
    assert log.counts["after_train_batch"] == 2
    assert not any(log.counts[event] for event in VAL)
    assert not history, "an epoch that was cut short is not entered in the history"


def test_a_stop_in_a_step_ends_the_run() -> None:
    log = Recorder()

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        raise StopLoopException("seen enough")

    run = trainer(callbacks=[log])
    run.fit(batches(2), step=step)
    assert run.stop_reason == "seen enough"
    assert log.counts["before_train_batch"] == log.counts["after_fit"] == log.counts["on_cleanup"] == 1


def test_a_fit_after_a_stopped_one_runs_to_its_end() -> None:
    log = Recorder(actions={"after_train_batch": stopping})
    run = trainer(callbacks=[log])
    run.fit(batches(2), batches(1))
    log.actions.clear()
    assert len(run.fit(batches(2), batches(1))["train"]["loss"]) == 2
    assert run.stop_reason == ""


@pytest.mark.parametrize(
    "where", ["after_train_batch", "after_train_epoch", "after_train_epochs", "after_val_batch", "after_val_epochs"]
)
def test_no_epoch_stands_twice_in_the_history_after_a_stop(where: str) -> None:
    log = Recorder(actions={where: stopping})
    run = trainer(callbacks=[log])
    run.fit(batches(2), batches(1))
    log.actions.clear()
    run.fit(batches(2), batches(1))
    for stage, epochs in run.history.epochs.items():
        assert len(epochs) == len(set(epochs)) == len(run.history[stage]["loss"]), (stage, epochs)


def test_a_stop_between_two_tasks_does_not_begin_the_second() -> None:
    log = Recorder(actions={"after_train_epoch": stopping})
    trainer(callbacks=[log]).fit(train_tasks=[EpochTask(batches(1), name="a."), EpochTask(batches(1), name="b.")])
    assert log.counts["before_train_epoch"] == log.counts["before_train_batch"] == 1


def test_the_reason_of_a_stop_outlives_a_test_in_after_fit() -> None:
    def also_test(trainer: Trainer) -> None:
        trainer.test(batches(1))

    run = trainer(callbacks=[Recorder(actions={"after_epoch": stopping, "after_fit": also_test})])
    run.fit(batches(1))
    assert run.stop_reason == "enough"


def test_a_test_run() -> None:
    log = Recorder()
    trainer(callbacks=[log]).test(batches(2))
    matches_golden("test", log.log)
    assert log.counts == dict.fromkeys(EVENTS, 0) | {"on_cleanup": 1} | {
        event: 2 if PER_BATCH.search(event) else 1 for event in TEST
    }


def test_a_validation_alone() -> None:
    log = Recorder()
    trainer(callbacks=[log]).validate(batches(2))
    matches_golden("validate", log.log)
    assert {line.split()[0] for line in log.log} == {*VAL, "on_cleanup"}


def test_two_test_tasks() -> None:
    log = Recorder()
    trainer(callbacks=[log]).test(tasks=[EpochTask(batches(1), name="a."), EpochTask(batches(1), name="b.")])
    matches_golden("test_two_tasks", log.log)


def test_max_steps_with_validation_every_so_many() -> None:
    log = Recorder()
    trainer(callbacks=[log]).fit(batches(3), batches(1), max_steps=5, val_every_steps=2)
    matches_golden("max_steps", log.log)
    assert log.counts["after_optimize"] == 5
    assert log.counts["before_val_epochs"] == log.counts["before_epoch"] == 3
    assert [line for line in log.log if line.startswith("before_fit")] == ["before_fit epochs=3"]


def test_accumulation_with_a_short_last_window() -> None:
    log = Recorder()
    trainer(callbacks=[log], accumulate=2).fit(batches(3))
    matches_golden("accumulate", log.log)
    assert log.counts["before_optimize"] == log.counts["after_optimize"] == 4
    assert log.counts["before_backward"] == log.counts["after_backward"] == 6


def test_val_freq_leaves_validation_and_its_figures_out() -> None:
    seen: list[tuple[int, list[str]]] = []

    def look(epoch_idx: int, val_metrics: Any, **others: Any) -> None:
        seen.append((epoch_idx, list(val_metrics)))

    log = Recorder(actions={"after_epoch": look})
    trainer(callbacks=[log], epochs=4).fit(batches(1), batches(1), val_freq=2)
    assert seen == [(0, []), (1, ["loss"]), (2, []), (3, ["loss"])]
    assert log.counts["before_val_epochs"] == 2


def test_metrics_hooks_fire_also_where_evaluation_computes_no_loss() -> None:
    log = Recorder(actions={"test_metrics": lambda loss, **others: losses.append(loss)})
    losses: list[Any] = []
    trainer(callbacks=[log]).test(batches(2), do_loss=False)
    assert losses == [None, None]


def test_a_dataloader_fires_as_a_list_does() -> None:
    log, listed = Recorder(), Recorder()
    x, y = (torch.cat(parts) for parts in zip(*batches(2), strict=True))
    trainer(callbacks=[log]).fit(DataLoader(TensorDataset(x, y), batch_size=2))
    trainer(callbacks=[listed]).fit(batches(2))
    assert log.log == listed.log


# -------------------------------------------------------------------------------------------------- who listens


class Silent(Callback):
    """Overrides nothing."""


class One(Callback):
    def on_after_fit(self, trainer: Any) -> None:
        pass


class Heir(One):
    pass


class Calling(Callback):
    def on_after_fit(self, trainer: Any) -> None:
        super().on_after_fit(trainer)


class Returning(One):
    """Takes the base's hook again."""

    on_after_fit = Callback.on_after_fit


class Refusing(One):
    on_after_fit = None  # type: ignore[assignment]


def logged(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return wrapper


class Decorated(Callback):
    @logged
    def on_after_fit(self, trainer: Any) -> None:
        pass


class DecoratedBase(Callback):
    on_after_fit = logged(Callback.on_after_fit)


class Static(Callback):
    @staticmethod
    def on_after_fit(trainer: Any) -> None:
        pass


class Mixin:
    def on_after_fit(self, trainer: Any) -> None:
        pass


class Mixed(Mixin, Callback):
    pass


class Forwarding(Callback):
    on_after_fit = functools.partialmethod(lambda self, extra, trainer: None, 1)


def test_fifty_callbacks_that_override_nothing_have_no_listener_at_all() -> None:
    hooks = Hooks([Silent() for _ in range(50)])
    assert [event for event in EVENTS if getattr(hooks, event) != ()] == []
    for stage in hooks.stages.values():
        assert [name for name, listeners in vars(stage).items() if listeners != ()] == []


@pytest.mark.parametrize("kind", [One, Heir, Calling, Decorated, DecoratedBase, Static, Mixed, Forwarding])
def test_an_overridden_hook_is_heard_and_no_other(kind: type[Callback]) -> None:
    callback = kind()
    check_callback(callback)
    assert [event for event in EVENTS if listens(callback, event)] == ["after_fit"]
    assert len(Hooks([callback]).after_fit) == 1
    trainer(callbacks=[callback], epochs=1).fit(batches(1))


@pytest.mark.parametrize("kind", [Silent, Returning, Refusing, Callback])
def test_a_hook_that_is_the_bases_own_or_none_is_not_heard(kind: type[Callback]) -> None:
    callback = kind()
    check_callback(callback)
    assert not any(listens(callback, event) for event in EVENTS)


def test_a_hook_set_on_the_instance_is_heard() -> None:
    calls: list[str] = []
    callback, other = Callback(), Callback()
    callback.on_after_fit = lambda trainer: calls.append("function")  # type: ignore[method-assign]
    other.on_after_fit = MethodType(lambda self, trainer: calls.append("method"), other)  # type: ignore[method-assign]
    trainer(callbacks=[callback, other], epochs=1).fit(batches(1))
    assert calls == ["method", "function"]


def test_hooks_are_found_out_once_per_run() -> None:
    calls: list[str] = []
    late = Callback()

    def attach(**arguments: Any) -> None:
        late.on_after_fit = lambda trainer: calls.append("heard")  # type: ignore[method-assign]

    run = trainer(callbacks=[late, Recorder(actions={"before_fit": attach})], epochs=1)
    run.fit(batches(1))
    assert calls == []
    run.fit(batches(1), epochs=1)
    assert calls == ["heard"]


def test_a_callback_added_later_is_checked_and_heard_in_the_next_run() -> None:
    run, log = trainer(epochs=1), Recorder()
    run.fit(batches(1))
    run.callbacks.append(log)
    run.fit(batches(1), epochs=1)
    assert log.counts["after_fit"] == log.counts["on_cleanup"] == 1


def test_explain_tells_every_hook_in_the_order_of_events(capsys: pytest.CaptureFixture[str]) -> None:
    inner, outer = Recorder(priority=2), Recorder(priority=1)
    trainer(callbacks=[inner, outer]).explain()
    told = re.findall(r"^  on_(?:before_|after_)?\w+", capsys.readouterr().out, re.MULTILINE)
    assert [name.strip() for name in told] == [method_of(event) for event in EVENTS]


def test_explain_takes_tasks_and_loaders_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    data = DataLoader(TensorDataset(torch.ones(4, 2), torch.ones(4, 1)), 2)
    trainer().explain(data, EpochTask(data), train_dl=data)
    lines = [line for line in capsys.readouterr().out.splitlines() if "cut from memory" in line]
    assert [line.partition(":")[0] for line in lines] == ["loader 1", "loader 2", "train_dl"]


@pytest.mark.parametrize("wrap", [list, tuple])
def test_explain_takes_loaders_one_by_one(wrap: Any) -> None:
    data = DataLoader(TensorDataset(torch.ones(4, 2), torch.ones(4, 1)), 2)
    with pytest.raises(ArgumentTypeError, match=rf"loader 1 is a {wrap.__name__} of loaders; pass them one by one"):
        trainer().explain(wrap([data, EpochTask(data)]))
    with pytest.raises(ArgumentTypeError, match="train_dl=3"):
        trainer().explain(train_dl=3)


# ------------------------------------------------------------------------------------------- runs inside a run


def test_a_test_inside_a_hook_leaves_the_run_as_it_was() -> None:
    log = Recorder()
    run = trainer(callbacks=[log], epochs=1)
    modes: list[bool] = []

    def also_test(**arguments: Any) -> None:
        if not modes:
            run.test(batches(1))
        modes.append(run.models["model"].model.training)

    log.actions["after_train_batch"] = also_test
    run.fit(batches(2), batches(1))
    assert modes == [True, True]
    assert log.counts["before_test_batch"] == 1
    assert log.counts["before_train_forward"] == log.counts["after_train_forward"] == 2
    assert log.counts["after_train_epoch"] == log.counts["after_fit"] == log.counts["on_cleanup"] == 1
    assert log.heard[-1] == "on_cleanup"
