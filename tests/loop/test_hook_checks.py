"""A callback with a hook that can never run right is refused when it is attached, and told what was probably meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deepepochs_like import Callback
from deepepochs_like.errors import ArgumentTypeError, EngineError, HookError
from deepepochs_like.events import EVENTS, method_of
from support.loop import Recorder, batches, trainer


def callback(**members: Any) -> Callback:
    """A callback of a new class with these members."""
    return type("Mine", (Callback,), members)()


def refusal(attached: Any) -> str:
    """The message with which a trainer refuses a callback."""
    with pytest.raises((HookError, ArgumentTypeError)) as caught:
        trainer(callbacks=[Recorder(), attached])
    assert isinstance(caught.value, EngineError)
    assert isinstance(caught.value, TypeError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_before_trian_batch", "on_before_train_batch"),
        ("on_after_epochs", "on_after_epoch"),
        ("on_before_train_foward", "on_before_train_forward"),
        ("on_after_val_epochss", "on_after_val_epochs"),
        ("on_befor_fit", "on_before_fit"),
        ("on_clean_up", "on_cleanup"),
        ("on_exeption", "on_exception"),
        ("on_checkpoints", "on_checkpoint"),
        ("on_test_metric", "on_test_metrics"),
        ("on_after_optimise", "on_after_optimize"),
    ],
)
def test_a_misspelt_hook_is_refused_with_the_nearest_name(name: str, meant: str) -> None:
    message = refusal(callback(**{name: lambda self, **kwargs: None}))
    assert f"Mine.{name} is no event; did you mean {meant!r}?" in message


@pytest.mark.parametrize("event", EVENTS)
def test_a_letter_missing_in_any_hook_is_noticed(event: str) -> None:
    name = method_of(event)
    misspelt = name[:4] + name[5:]
    assert f"did you mean {name!r}?" in refusal(callback(**{misspelt: lambda self, **kwargs: None}))


def test_a_hook_of_another_library_is_refused() -> None:
    message = refusal(callback(on_fit_start=lambda self, trainer, module: None))
    assert "Mine.on_fit_start is no event" in message
    assert "methods named on_* are hooks" in message


def test_a_misspelt_hook_in_a_base_class_or_on_the_instance_is_noticed() -> None:
    base = type(callback(on_befor_fit=lambda self, **kwargs: None))
    assert "Heir.on_befor_fit" in refusal(type("Heir", (base,), {})())
    instance = callback()
    instance.on_befor_fit = lambda **kwargs: None  # type: ignore[attr-defined]
    assert "Mine.on_befor_fit" in refusal(instance)


def test_settings_named_on_something_are_no_hooks() -> None:
    attached = callback()
    attached.on_stage = "val"  # type: ignore[attr-defined]
    attached.only_once = lambda: None  # type: ignore[attr-defined]
    trainer(callbacks=[attached], epochs=1).fit(batches(1))


@pytest.mark.parametrize("value", [5, "val", True, ["a"]])
def test_a_hook_that_cannot_be_called_is_refused(value: Any) -> None:
    message = refusal(callback(on_after_fit=value))
    assert f"Mine.on_after_fit is {value!r}; a method (or None) is needed" in message


@pytest.mark.parametrize(
    ("name", "hook", "parts"),
    [
        (
            "on_before_train_batch",
            lambda self, trainer, batch_x, batch_y: None,
            ["does not take 'batch_idx'", "on_before_train_batch(trainer, batch_x, batch_y, batch_idx)", "**kwargs"],
        ),
        ("on_after_fit", lambda self: None, ["does not take 'trainer'", "on_after_fit(trainer)"]),
        ("on_after_fit", lambda self, *args: None, ["does not take 'trainer'"]),
        (
            "on_after_epoch",
            lambda self, trainer, epoch_idx: None,
            ["does not take 'train_tasks', 'val_tasks', 'train_metrics', 'val_metrics'"],
        ),
    ],
)
def test_a_hook_that_lacks_an_argument_is_refused(name: str, hook: Callable[..., Any], parts: list[str]) -> None:
    message = refusal(callback(**{name: hook}))
    assert f"Mine.{name}" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("name", "hook", "parts"),
    [
        (
            "on_after_train_batch",
            lambda self, trainer, metrics, batch_index: None,
            ["'batch_index'", "did you mean 'batch_idx'?", "on_after_train_batch(trainer, metrics, batch_idx)"],
        ),
        ("on_after_fit", lambda self, trainer, epochs: None, ["'epochs', which the event does not give"]),
        ("on_after_fit", lambda self, trainer, *, model: None, ["'model', which the event does not give"]),
        ("on_after_fit", lambda self, trainer, extra, **kwargs: None, ["'extra', which the event does not give"]),
    ],
)
def test_a_hook_that_needs_what_the_event_does_not_give_is_refused(
    name: str, hook: Callable[..., Any], parts: list[str]
) -> None:
    message = refusal(callback(**{name: hook}))
    assert f"Mine.{name} takes" in message
    assert "by keyword" in message
    for part in parts:
        assert part in message


def test_a_positional_only_argument_is_refused_since_hooks_are_called_by_keyword() -> None:
    class Mine(Callback):
        def on_after_fit(self, trainer: Any, /) -> None:
            pass

    message = refusal(Mine())
    assert "Mine.on_after_fit" in message
    assert "by keyword" in message


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("on_after_train_batch", lambda self, trainer, metrics, batch_idx: None),
        ("on_after_train_batch", lambda self, batch_idx, metrics, trainer: None),
        ("on_after_train_batch", lambda self, **kwargs: None),
        ("on_after_train_batch", lambda self, trainer, **kwargs: None),
        ("on_after_train_batch", lambda self, trainer, metrics, batch_idx, every=10: None),
        ("on_after_train_batch", lambda self, *, trainer, metrics, batch_idx: None),
        ("on_after_train_batch", lambda self, *args, **kwargs: None),
        ("on_exception", lambda self, trainer, exception: None),
        ("on_checkpoint", lambda self, trainer: None),
    ],
)
def test_a_hook_that_can_be_called_with_the_events_arguments_is_taken(name: str, hook: Callable[..., Any]) -> None:
    trainer(callbacks=[callback(**{name: hook})], epochs=1).fit(batches(1))


def test_a_class_instead_of_an_instance_is_refused() -> None:
    assert "callbacks: Recorder is a class; pass an instance, Recorder()" in refusal(Recorder)


@pytest.mark.parametrize("wrong", [print, "console", 5, None, {"a": Recorder()}, [Recorder()], Exception()])
def test_what_is_no_callback_is_refused(wrong: Any) -> None:
    message = refusal(wrong)
    assert f"callbacks: {wrong!r} is no Callback; subclass deepepochs_like.Callback" in message


@pytest.mark.parametrize("priority", ["high", None, True])
def test_a_priority_that_is_no_number_is_refused(priority: Any) -> None:
    message = refusal(Callback(priority))
    assert f"Callback: priority={priority!r}: a number is needed" in message


def test_a_callback_that_does_not_call_the_bases_init_has_the_usual_priority() -> None:
    class Mine(Callback):
        def __init__(self) -> None:
            self.calls = 0

        def on_after_fit(self, trainer: Any) -> None:
            self.calls += 1

    mine = Mine()
    trainer(callbacks=[mine], epochs=1).fit(batches(1))
    assert (mine.priority, mine.calls) == (1, 1)


def test_one_callback_alone_needs_no_list() -> None:
    log = Recorder()
    trainer(callbacks=log, epochs=1).fit(batches(1))
    assert log.counts["after_fit"] == 1


def test_a_refused_callback_leaves_the_callers_list_as_it_was() -> None:
    given = [Recorder(), "console"]
    with pytest.raises(ArgumentTypeError):
        trainer(callbacks=given)
    assert len(given) == 2
