"""An error in a hook reaches the caller as itself, says where it happened, and leaves everything as it was."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from deepepochs_like import Callback, EpochTask, Trainer
from deepepochs_like.errors import (
    CallbackException,
    EngineWarning,
    HookError,
    LoopException,
    StopLoopException,
    UnknownNameError,
)
from deepepochs_like.events import EVENTS
from support.loop import Recorder, batches, net, trainer, unchanged, weights

TEST = [event for event in EVENTS if "test" in event]
FIT = [event for event in EVENTS if event not in TEST and not event.startswith("on_")] + ["on_checkpoint"]
IN_BATCH = [e for e in EVENTS if e.endswith(("_batch", "_forward", "_backward", "_optimize"))]
IN_BATCH += ["train_metrics", "val_metrics", "test_metrics"]
#: In three epochs of two training batches and one validation batch, these are over before there is a third call.
ONCE = {"before_fit", "after_fit"}


class Boom(Exception):
    """What hooks raise here."""


class Fails:
    """An action that raises `error` at its `at`-th call (counted from 1)."""

    def __init__(self, error: BaseException, at: int = 1) -> None:
        self.error, self.at, self.calls = error, at, 0

    def __call__(self, **arguments: Any) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.error


def answering(answer: Any) -> Callable[..., Any]:
    return lambda **arguments: answer


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


class World:
    """A trainer whose model has a submodule in eval mode, with a callback on either side of the one that fails."""

    def __init__(self, actions: dict[str, Callable[..., Any]], priority: float = 2, **options: Any) -> None:
        self.log: list[str] = []
        self.outer = Recorder(self.log, "outer", priority=1)
        self.culprit = Recorder(self.log, "culprit", actions, priority=priority)
        self.inner = Recorder(self.log, "inner", priority=3)
        self.frozen = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)).eval()
        self.model = nn.Sequential(self.frozen, net())
        self.loss = nn.MSELoss().eval()
        self.trainer = trainer(self.model, [self.outer, self.culprit, self.inner], loss=self.loss, epochs=3, **options)
        self.modes = [module.training for module in self.modules]

    @property
    def modules(self) -> list[nn.Module]:
        return [*self.model.modules(), self.loss]

    @property
    def callbacks(self) -> list[Recorder]:
        return [self.outer, self.culprit, self.inner]

    def run(self, kind: str, **options: Any) -> Any:
        if kind == "fit":
            return self.trainer.fit(batches(2), batches(1), **options)
        return self.trainer.test(batches(3), **options)

    def assert_all_is_put_back(self) -> None:
        run = self.trainer
        assert torch.is_grad_enabled()
        assert [module.training for module in self.modules] == self.modes
        assert [callback.counts["on_cleanup"] for callback in self.callbacks] == [1, 1, 1]
        assert self.log[-3:] == ["inner on_cleanup", "culprit on_cleanup", "outer on_cleanup"]
        for optimizer in run.opt:
            assert not optimizer.opt._optimizer_step_post_hooks
        assert (run.running, run.current_task, run.stopping, run.answered) == ("", None, False, None)
        assert run.model.before == run.model.after == ()
        assert run.hooks.before_fit == ()

    def assert_usable(self) -> None:
        self.culprit.actions.clear()
        before = weights(self.model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EngineWarning)  # an open accumulation window that is dropped says so
            history = self.trainer.fit(batches(2), batches(1), epochs=1)
        assert len(history["train"]["loss"]) == len(history["val"]["loss"]) == 1
        assert not unchanged(self.model, before)
        assert set(self.trainer.test(batches(1))) == {"loss"}


CASES = [
    *(("fit", event, 1) for event in FIT),
    *(("fit", event, 3) for event in FIT if event not in ONCE),
    *(("test", event, 1) for event in TEST),
    *(("test", event, 3) for event in TEST if event in IN_BATCH),
]


@pytest.mark.parametrize(("kind", "event", "at"), CASES)
def test_an_error_in_any_hook_leaves_the_run_as_itself_and_everything_as_it_was(kind: str, event: str, at: int) -> None:
    error = Boom("in a hook")
    world = World({event: Fails(error, at)})
    with pytest.raises(Boom) as caught:
        world.run(kind)
    assert caught.value is error
    assert f"callback Recorder.{'' if event.startswith('on_') else 'on_'}{event}" in notes(error)
    assert notes(error).count("callback ") == 1
    assert [callback.counts["on_exception"] for callback in world.callbacks] == [1, 1, 1]
    world.assert_all_is_put_back()
    world.assert_usable()


#: event -> what its note says of the third call, in three epochs of two training batches and one validation batch.
WHERE = {
    "before_epoch": "fit, epoch 3",
    "before_train_epochs": "fit, epoch 3",
    "before_train_epoch": "stage train, epoch 3",
    "before_train_batch": "stage train, epoch 2, batch 0 (counted from 0)",
    "before_train_forward": "stage train, epoch 2, batch 0 (counted from 0)",
    "after_backward": "stage train, epoch 2, batch 0 (counted from 0)",
    "after_optimize": "stage train, epoch 2, batch 0 (counted from 0)",
    "train_metrics": "stage train, epoch 2, batch 0 (counted from 0)",
    "after_train_batch": "stage train, epoch 2, batch 0 (counted from 0)",
    "after_train_epoch": "stage train, epoch 3",
    "after_train_epochs": "fit, epoch 3",
    "before_val_batch": "stage val, epoch 3, batch 0 (counted from 0)",
    "after_val_batch": "stage val, epoch 3, batch 0 (counted from 0)",
    "after_val_epoch": "stage val, epoch 3",
    "after_epoch": "fit, epoch 3",
}


@pytest.mark.parametrize(("event", "where"), WHERE.items())
def test_the_note_says_stage_epoch_and_batch(event: str, where: str) -> None:
    error = Boom()
    with pytest.raises(Boom):
        World({event: Fails(error, 3)}).run("fit")
    assert error.__notes__ == [f"in callback Recorder.on_{event}, {where}"]


def test_the_note_of_a_test_speaks_of_no_epoch() -> None:
    error = Boom()
    with pytest.raises(Boom):
        World({"after_test_batch": Fails(error, 3)}).run("test")
    assert error.__notes__ == ["in callback Recorder.on_after_test_batch, stage test, batch 2 (counted from 0)"]


def test_an_error_in_a_step_is_noted_without_a_callback() -> None:
    def step(trainer: Trainer, batch_x: Any, batch_y: Any) -> None:
        raise Boom

    with pytest.raises(Boom) as caught:
        World({}).run("fit", step=step)
    assert caught.value.__notes__ == ["in stage train, epoch 1, batch 0 (counted from 0)"]


X, LABELS, CROSS = torch.ones(8, 2), torch.arange(8) % 2, nn.CrossEntropyLoss()
CHECKED = "trainer.check(...), with what fit was given, says why and how to mend it"


class Wrapped(nn.Module):
    def __init__(self, wrap: Callable[..., Any]) -> None:
        super().__init__()
        self.inner, self.wrap = nn.Linear(2, 2), wrap

    def forward(self, x: torch.Tensor) -> Any:
        return self.wrap(self.inner(x))


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    ("model", "loss", "x", "y"),
    [
        pytest.param(nn.Linear(2, 2), CROSS, X.double(), LABELS, id="inputs of another type"),
        pytest.param(nn.Linear(3, 2), CROSS, X, LABELS, id="inputs of another size"),
        pytest.param(nn.Conv2d(1, 2, 1), CROSS, torch.ones(8, 3, 2, 2), LABELS, id="other channels"),
        pytest.param(nn.Conv2d(1, 2, 1), CROSS, torch.ones(8, 1, 2, 2).double(), LABELS, id="images of another type"),
        pytest.param(nn.Embedding(2, 2), CROSS, LABELS + 1, LABELS, id="an index too high"),
        pytest.param(nn.Linear(2, 2), CROSS, X, LABELS.float(), id="labels that are floats"),
        pytest.param(nn.Linear(2, 2), CROSS, X, LABELS.int(), id="labels of another type"),
        pytest.param(nn.Linear(2, 2), CROSS, X, LABELS + 7, id="labels too high"),
        pytest.param(nn.Linear(2, 2), nn.MSELoss(), X, torch.ones(8, 3), id="targets of another shape"),
        pytest.param(nn.Linear(2, 1), nn.BCELoss(), 100 * X, LABELS[:, None].float(), id="scores and no probabilities"),
        pytest.param(Wrapped(lambda out: {"logits": out}), CROSS, X, LABELS, id="a dict"),
        pytest.param(Wrapped(lambda out: (out, out)), CROSS, X, LABELS, id="a tuple"),
    ],
)
def test_a_refusal_of_torch_at_first_points_to_the_check_where_that_knows_more(
    model: nn.Module, loss: Any, x: torch.Tensor, y: torch.Tensor
) -> None:
    torch.manual_seed(0)
    run = Trainer(model, loss, epochs=1, device="cpu", verbose=0)
    with pytest.raises((RuntimeError, TypeError, IndexError)) as caught:
        run.fit([(x, y), (x, y)])
    assert caught.value.__notes__ == [CHECKED, "in stage train, epoch 1, batch 0 (counted from 0)"]
    errors = [finding for finding in run.check([(x, y), (x, y)]) if finding.severity == "error"]
    assert errors
    assert not errors[0].fix.startswith("Compare what the loader yields"), errors[0].fix


def test_other_errors_of_a_step_do_not_point_to_the_check() -> None:
    def own(out: Any) -> Any:
        raise RuntimeError("my dtype is wrong")

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.model(*batch_x), batch_y)

    good, bad = (X, LABELS), (X.double(), LABELS)
    for model, data, how in [
        (Wrapped(own), [good], {}),
        (nn.Linear(2, 2), [bad], {"step": step}),
        (nn.Linear(2, 2), [good, bad], {}),
    ]:
        with pytest.raises(RuntimeError) as caught:
            Trainer(model, CROSS, epochs=1, device="cpu", verbose=0).fit(data, **how)
        assert CHECKED not in caught.value.__notes__


def test_an_error_in_the_loader_says_which_batch_was_asked_for() -> None:
    class Broken:
        def __iter__(self) -> Any:
            yield from batches(2)
            raise Boom

    with pytest.raises(Boom) as caught:
        trainer().fit(Broken())
    assert caught.value.__notes__ == ["in stage train, epoch 1, batch 2 (counted from 0)"]


def decorated(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return wrapper


class Decorated(Callback):
    @decorated
    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        pass

    @decorated
    def on_after_fit(self, trainer: Any) -> None:
        raise Boom


class Static(Callback):
    @staticmethod
    def on_after_fit(trainer: Any) -> None:
        raise Boom


class Calling(Callback):
    def __init__(self) -> None:
        super().__init__()
        self.on_after_fit = functools.partial(self.fail, 1)  # type: ignore[method-assign]

    def fail(self, extra: int, trainer: Any) -> None:
        raise Boom


class Base(Callback):
    def on_after_fit(self, trainer: Any) -> None:
        raise Boom


class Heir(Base):
    def on_after_fit(self, trainer: Any) -> None:
        super().on_after_fit(trainer)


class Helped(Callback):
    """Its hook calls a function that uses the name the loop uses."""

    def on_after_fit(self, trainer: Any) -> None:
        hook = self.fail
        hook()

    def fail(self) -> None:
        raise Boom


@pytest.mark.parametrize("kind", [Decorated, Static, Calling, Base, Heir, Helped])
def test_the_callback_is_named_however_its_hook_was_written(kind: type[Callback]) -> None:
    with pytest.raises(Boom) as caught:
        trainer(callbacks=[Silent(), kind(), Silent()]).fit(batches(1))
    assert caught.value.__notes__ == [f"in callback {kind.__name__}.on_after_fit, fit, epoch 2"]


class Silent(Callback):
    def on_after_fit(self, trainer: Any) -> None:
        pass


def test_a_hook_that_has_returned_is_not_blamed_for_what_follows_it() -> None:
    class BadOptimizer(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            raise Boom

    model, log = net(), Recorder()
    with pytest.raises(Boom) as caught:
        trainer(model, callbacks=[log], opt=BadOptimizer(model.parameters(), lr=0.1)).fit(batches(1))
    assert log.counts["before_optimize"] == 1
    assert caught.value.__notes__ == ["in stage train, epoch 1, batch 0 (counted from 0)"]


def test_a_note_is_made_once_however_many_scopes_the_error_passes() -> None:
    run = trainer(epochs=1)
    error = Boom()
    log = Recorder(actions={"after_epoch": lambda **given: run.test(batches(1)), "after_test_epoch": Fails(error)})
    run.callbacks.append(log)
    with pytest.raises(Boom):
        run.fit(batches(1))
    assert log.counts["on_exception"] == log.counts["on_cleanup"] == 1
    assert error.__notes__ == ["in callback Recorder.on_after_test_epoch, stage test"]
    assert (run.running, run.current_task, run.stopping) == ("", None, False)


# ------------------------------------------------------------------------------------------------------ cleaning up


@pytest.mark.parametrize("kind", ["fit", "test"])
def test_an_error_in_on_cleanup_leaves_the_run_after_all_others_have_cleaned_up(kind: str) -> None:
    error = Boom("while cleaning up")
    world = World({"on_cleanup": Fails(error)})
    with pytest.raises(Boom) as caught:
        world.run(kind)
    assert caught.value is error
    assert "callback Recorder.on_cleanup" in notes(error)
    world.assert_all_is_put_back()
    world.assert_usable()


def test_errors_in_on_cleanup_are_chained_to_the_first_error() -> None:
    error, later, last = Boom("first"), ValueError("second"), KeyError("third")
    world = World({"after_train_batch": Fails(error), "on_cleanup": Fails(later)})
    world.outer.actions["on_cleanup"] = Fails(last)
    with pytest.raises(Boom) as caught:
        world.run("fit")
    assert caught.value is error
    world.assert_all_is_put_back()
    assert "then, while it was handled: ValueError: second" in notes(error)
    assert "then, while it was handled: KeyError: 'third'" in notes(error)
    assert "callback Recorder.on_cleanup" in notes(later)
    assert "callback Recorder.on_cleanup" in notes(last)
    assert chained(error, later)
    assert chained(error, last)


def chained(left: BaseException, right: BaseException) -> bool:
    """Whether one of two errors is reached from the other by `__context__`."""

    def contexts(error: BaseException | None) -> list[int]:
        found: list[int] = []
        while error is not None:
            assert id(error) not in found, "the chain of errors is a circle"
            found.append(id(error))
            error = error.__context__
        return found

    return id(right) in contexts(left) or id(left) in contexts(right)


def test_a_stop_in_on_cleanup_is_no_error() -> None:
    world = World({"on_cleanup": Fails(StopLoopException())})
    assert len(world.run("fit")["train"]["loss"]) == 3
    world.assert_all_is_put_back()


def test_gradients_that_were_off_are_off_again_after_an_error() -> None:
    world = World({"after_backward": Fails(Boom())})
    with torch.no_grad():
        with pytest.raises(Boom):
            world.run("fit")
        assert not torch.is_grad_enabled()
    world.assert_all_is_put_back()


def test_a_run_that_cannot_begin_leaves_the_trainer_as_it_was() -> None:
    world = World({})
    world.trainer.callbacks.append(Recorder)  # the class
    with pytest.raises(TypeError, match=r"Recorder is a class; pass an instance, Recorder\(\)"):
        world.run("fit")
    assert world.trainer.running == ""
    assert world.log == []
    world.trainer.callbacks.pop()
    world.assert_usable()


def test_no_error_is_kept_alive_by_the_trainer() -> None:
    world = World({"after_train_batch": Fails(Boom())})
    with pytest.raises(Boom):
        world.run("fit")
    assert world.trainer.answered is None


# ----------------------------------------------------------------------------------------------- what on_exception says


def test_on_exception_gets_the_error_and_nothing_else_is_made_of_none() -> None:
    error = Boom()
    seen: list[BaseException] = []
    world = World(
        {"before_train_batch": Fails(error), "on_exception": lambda trainer, exception: seen.append(exception)}
    )
    with pytest.raises(Boom):
        world.run("fit")
    assert seen == [error]
    assert world.culprit.counts["after_fit"] == 0


@pytest.mark.parametrize(
    "event", ["before_train_batch", "before_train_forward", "after_train_forward", "before_backward", "after_backward"]
)
def test_skip_batch_goes_on_without_the_batch(event: str) -> None:
    data = batches(3)
    model = net()
    losses: list[float] = []
    log = Recorder(
        actions={
            "before_train_batch": lambda batch_x, batch_y, **given: losses.append(
                nn.functional.mse_loss(model(*batch_x), batch_y).item()
            ),
            "on_exception": answering("skip_batch"),
        }
    )
    bad = Recorder(actions={event: Fails(Boom(), 2)})
    run = trainer(model, [log, bad], epochs=1)
    history = run.fit(data)
    assert log.counts["on_exception"] == 1
    assert log.counts["before_train_batch"] == 3
    assert log.counts["after_fit"] == log.counts["after_train_epoch"] == 1
    kept = [losses[0], losses[2]]
    assert history["train"]["loss"] == [pytest.approx(sum(kept) / 2)], f"{losses} without the second"


@pytest.mark.parametrize("event", ["train_metrics", "after_train_batch"])
def test_an_error_after_the_update_cannot_undo_it_but_only_a_complete_batch_is_in_the_figures(event: str) -> None:
    told = trainer(epochs=1).fit(batches(3))
    bad = Recorder(actions={event: Fails(Boom(), 2), "on_exception": answering("skip_batch")})
    run = trainer(callbacks=[bad], epochs=1)
    assert (run.fit(batches(3)) == told) is (event == "after_train_batch")
    assert run.progress.step == 3


@pytest.mark.parametrize("event", ["before_train_batch", "after_train_forward", "before_backward", "after_backward"])
def test_skip_batch_drops_the_gradients_and_the_update(event: str) -> None:
    data = batches(3)
    model, expected = net(), net()
    for x, y in (data[0], data[2]):  # the second batch is as if it had never been
        nn.functional.mse_loss(expected(x), y).backward()
        with torch.no_grad():
            for parameter in expected.parameters():
                parameter -= 0.01 * parameter.grad
        expected.zero_grad()
    bad = Recorder(actions={event: Fails(Boom(), 2), "on_exception": answering("skip_batch")})
    run = trainer(model, [bad], epochs=1)
    run.fit(data)
    assert unchanged(model, weights(expected))
    assert run.progress.step == 2
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_skipped_batch_counts_in_no_metric() -> None:
    sizes: list[int] = []

    def count(preds: Any, targets: Any) -> float:
        sizes.append(len(preds))
        return float(len(preds))

    bad = Recorder(actions={"before_backward": Fails(Boom(), 2), "on_exception": answering("skip_batch")})
    history = trainer(callbacks=[bad], epochs=1, metrics=[count]).fit(batches(3, size=2))
    assert history["train"]["count"] == [4]


def test_an_update_that_was_made_before_the_error_is_counted() -> None:
    bad = Recorder(actions={"after_optimize": Fails(Boom(), 3), "on_exception": answering("skip_batch")})
    run = trainer(callbacks=[bad], epochs=1)
    run.fit(batches(3))
    assert bad.counts["after_optimize"] == 3
    assert run.progress.step == 3


@pytest.mark.parametrize("event", ["before_train_batch", "after_train_forward", "after_backward"])
def test_skip_batch_drops_the_accumulation_window_whose_gradients_it_has_touched_and_says_so(event: str) -> None:
    data = batches(6)
    model, expected = net(), net()
    touched = event == "after_backward"
    for pair in (data[:2], data[4:]) if touched else (data[:2], [data[2], data[4]], data[5:]):
        x, y = (torch.cat(parts) for parts in zip(*pair, strict=True))
        nn.functional.mse_loss(expected(x), y).backward()
        with torch.no_grad():
            for parameter in expected.parameters():
                parameter -= 0.01 * parameter.grad
        expected.zero_grad()
    # the fourth batch fails, and takes the third along where gradients of both are in the window
    bad = Recorder(actions={event: Fails(Boom(), 4), "on_exception": answering("skip_batch")})
    run = trainer(model, [bad], epochs=1, accumulate=2)
    with pytest.warns(EngineWarning, match="accumulation window is dropped") if touched else nullcontext():
        run.fit(data)
    for now, then in zip(weights(model), weights(expected), strict=True):
        torch.testing.assert_close(now, then)
    assert run.progress.step == (2 if touched else 3)


def test_a_first_batch_that_is_skipped_drops_no_window() -> None:
    bad = Recorder(actions={"before_train_batch": Fails(Boom()), "on_exception": answering("skip_batch")})
    run = trainer(callbacks=[bad], epochs=1, accumulate=2)
    run.fit(batches(3))
    assert run.progress.step == 1


@pytest.mark.parametrize("stage", ["val", "test"])
def test_skip_batch_works_in_evaluation_too(stage: str) -> None:
    data = batches(3)
    bad = Recorder(actions={f"before_{stage}_batch": Fails(Boom(), 2), "on_exception": answering("skip_batch")})
    run = trainer(callbacks=[bad])
    figures = run.validate(data) if stage == "val" else run.test(data)
    kept = [nn.functional.mse_loss(net()(x), y).item() for x, y in (data[0], data[2])]
    assert figures["loss"] == pytest.approx(sum(kept) / 2)


@pytest.mark.parametrize("event", ["before_fit", "before_epoch", "after_train_epoch", "after_epoch", "after_fit"])
def test_skip_batch_where_there_is_no_batch_raises_and_says_so(event: str) -> None:
    error = Boom()
    world = World({event: Fails(error), "on_exception": answering("skip_batch")})
    with pytest.raises(Boom):
        world.run("fit")
    assert "on_exception answered 'skip_batch', but there is no batch to skip here" in notes(error)
    world.assert_all_is_put_back()


def test_a_run_whose_every_batch_is_skipped_yields_no_loss() -> None:
    bad = Recorder(actions={"on_exception": answering("skip_batch")})

    def step(trainer: Trainer, batch_x: Any, batch_y: Any) -> None:
        raise Boom

    history = trainer(callbacks=[bad], epochs=1).fit(batches(2), step=step)
    assert bad.counts["on_exception"] == 2
    assert not history.get("train")


@pytest.mark.parametrize("event", FIT)
def test_the_answer_stop_ends_fit_which_returns(event: str) -> None:
    world = World({event: Fails(Boom("bad")), "on_exception": answering("stop")})
    world.run("fit")
    world.assert_all_is_put_back()
    assert world.trainer.stop_reason.startswith("on_exception: Boom")
    assert [callback.counts["on_exception"] for callback in world.callbacks] == [1, 1, 1]
    # after_fit fires once; where it is the one that failed, only for those before it
    assert world.inner.counts["after_fit"] == world.culprit.counts["after_fit"] == 1
    assert world.outer.counts["after_fit"] == (event != "after_fit")
    assert world.log[-3:] == ["inner on_cleanup", "culprit on_cleanup", "outer on_cleanup"]
    world.assert_usable()


def test_stop_in_a_batch_forgets_its_gradients() -> None:
    model = net()
    bad = Recorder(actions={"after_backward": Fails(Boom()), "on_exception": answering("stop")})
    before = weights(model)
    trainer(model, [bad]).fit(batches(2))
    assert unchanged(model, before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ((None, "stop", "skip_batch"), "stops"),
        ((None, "skip_batch", None), "goes on"),
        ((None, None, None), "raises"),
    ],
)
def test_the_strongest_of_several_answers_counts(answers: tuple[Any, ...], outcome: str) -> None:
    world = World({"before_train_batch": Fails(Boom())})
    for callback, answer in zip(world.callbacks, answers, strict=True):
        callback.actions["on_exception"] = answering(answer)
    if outcome == "raises":
        with pytest.raises(Boom):
            world.run("fit")
    else:
        history = world.run("fit")
        assert len(history.get("train", {}).get("loss", [])) == (3 if outcome == "goes on" else 0)
    assert [callback.counts["on_exception"] for callback in world.callbacks] == [1, 1, 1]


@pytest.mark.parametrize("answer", ["skip", True, 0, [], torch.zeros(2)])
def test_a_wrong_answer_is_chained_and_the_error_raised(answer: Any) -> None:
    error = Boom("first")
    world = World({"before_train_batch": Fails(error), "on_exception": answering(answer)})
    world.inner.actions["on_exception"] = answering("skip_batch")
    with pytest.raises(Boom) as caught:
        world.run("fit")
    assert caught.value is error
    assert "HookError: Recorder.on_exception returned" in notes(error)
    assert "None, 'skip_batch' or 'stop' is needed" in notes(error)
    world.assert_all_is_put_back()


def test_an_error_inside_on_exception_is_chained_and_the_others_are_still_asked() -> None:
    error, later = Boom("first"), ValueError("second")
    world = World({"before_train_batch": Fails(error), "on_exception": Fails(later)})
    world.inner.actions["on_exception"] = answering("stop")
    with pytest.raises(Boom) as caught:
        world.run("fit")
    assert caught.value is error
    assert "then, while it was handled: ValueError: second" in notes(error)
    assert "callback Recorder.on_exception" in notes(later)
    assert chained(error, later)
    assert [callback.counts["on_exception"] for callback in world.callbacks] == [1, 1, 1]
    world.assert_all_is_put_back()
    world.assert_usable()


def test_a_stop_raised_inside_on_exception_is_the_answer_stop() -> None:
    world = World({"before_train_batch": Fails(Boom()), "on_exception": Fails(StopLoopException())})
    world.run("fit")
    assert world.culprit.counts["after_fit"] == 1
    world.assert_all_is_put_back()


@pytest.mark.parametrize("event", ["before_fit", "before_train_batch", "after_backward", "after_epoch", "after_fit"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_are_seen_and_leave(kind: type[BaseException], event: str) -> None:
    error = kind("by hand")
    seen: list[BaseException] = []
    world = World({event: Fails(error), "on_exception": lambda trainer, exception: seen.append(exception)})
    with pytest.raises(kind) as caught:
        world.run("fit")
    assert caught.value is error
    assert seen == [error]
    world.assert_all_is_put_back()
    world.assert_usable()


def test_a_keyboard_interrupt_cannot_be_skipped_but_can_stop() -> None:
    world = World({"before_train_batch": Fails(KeyboardInterrupt()), "on_exception": answering("skip_batch")})
    with pytest.raises(KeyboardInterrupt):
        world.run("fit")
    world = World({"before_train_batch": Fails(KeyboardInterrupt()), "on_exception": answering("stop")})
    world.run("fit")
    assert world.culprit.counts["after_fit"] == 1


@pytest.mark.parametrize("event", [*FIT])
def test_stop_loop_exception_is_no_error(event: str) -> None:
    world = World({event: Fails(StopLoopException("done"))})
    world.run("fit")
    assert [callback.counts["on_exception"] for callback in world.callbacks] == [0, 0, 0]
    assert world.trainer.stop_reason == "done"
    world.assert_all_is_put_back()


@pytest.mark.parametrize("kind", [LoopException, CallbackException])
@pytest.mark.parametrize("event", ["before_fit", "after_train_batch", "after_epoch"])
def test_users_loop_and_callback_exceptions_are_errors(kind: type[Exception], event: str) -> None:
    error = kind("mine")
    world = World({event: Fails(error)})
    with pytest.raises(kind) as caught:
        world.run("fit")
    assert caught.value is error
    assert world.culprit.counts["on_exception"] == 1
    assert world.culprit.counts["after_fit"] == 0


def test_an_unknown_attribute_in_a_hook_does_not_hide_the_place() -> None:
    class Asking(Callback):
        def on_before_train_batch(self, trainer: Any, **kwargs: Any) -> None:
            trainer.current_task.modle  # noqa: B018

    with pytest.raises(UnknownNameError, match="did you mean 'model'") as caught:
        trainer(callbacks=[Asking()]).fit(batches(1))
    assert "callback Asking.on_before_train_batch" in notes(caught.value)


def test_a_model_that_cannot_change_its_mode_fails_as_itself() -> None:
    class Stubborn(nn.Linear):
        def train(self, mode: bool = True) -> Any:
            raise Boom

    model = Stubborn(2, 1)
    with pytest.raises(Boom) as caught:
        trainer(model).fit(batches(1))
    assert caught.value.__notes__ == ["in stage train, epoch 1"]


def test_errors_of_other_tasks_name_the_stage_they_happened_in() -> None:
    class Bad(EpochTask):
        def val_step(self, batch_x: Any, batch_y: Any) -> None:
            raise Boom

    with pytest.raises(Boom) as caught:
        trainer().fit(batches(1), val_tasks=[EpochTask(batches(1)), Bad(batches(1))])
    assert caught.value.__notes__ == ["in stage val, epoch 1, batch 0 (counted from 0)"]


def test_the_answered_error_of_one_run_is_not_taken_for_that_of_the_next() -> None:
    error = Boom()
    world = World({"after_train_batch": lambda **given: (_ for _ in ()).throw(error)})
    for times in (1, 2):
        with pytest.raises(Boom):
            world.run("fit")
        assert world.culprit.counts["on_exception"] == times


def test_a_hook_error_is_the_kind_of_error_that_python_programmers_expect() -> None:
    assert issubclass(HookError, TypeError)
