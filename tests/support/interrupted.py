"""Scripts that are sent signals, for `test_signals.py`: ``python -m support.interrupted NAME ...``.

One name runs that script in this process. With ``--fork`` before them, each of several names runs in a process of its
own, forked from this one, which has imported torch once for all; a line of JSON tells how each of them ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from deepepochs_like import EpochTask, Trainer
from support.loop import HearAll, Recorder, batches, trainer

SCRIPTS: dict[str, Callable[[], None]] = {}
TOLD = ("after_train_batch", "after_train_epoch", "on_checkpoint", "after_fit", "on_exception", "on_cleanup")


def script(function: Callable[[], None]) -> Callable[[], None]:
    SCRIPTS[function.__name__] = function
    return function


def say(*words: Any) -> None:
    print(*words, flush=True)


def send(*signals: signal.Signals) -> Callable[..., None]:
    """An action that sends signals to this process: Python handles each before it goes on."""

    def action(**arguments: Any) -> None:
        for number in signals:
            os.kill(os.getpid(), number)

    return action


class Telling(HearAll):
    """Print the events that tell how a run ended; `actions` as for a Recorder."""

    def __init__(self, actions: dict[str, Callable[..., Any]] | None = None, keeps_checkpoints: bool = False) -> None:
        super().__init__()
        self.actions, self.keeps_checkpoints = actions or {}, keeps_checkpoints

    def hear(self, event: str, arguments: dict[str, Any]) -> Any:
        if event in TOLD:
            say(event, *[type(e).__name__ for e in [arguments.get("exception")] if e is not None])
        action = self.actions.get(event)
        return None if action is None else action(**arguments)


def run(actions: dict[str, Callable[..., Any]], keeps_checkpoints: bool = False) -> Trainer:
    """Fit with actions; say so when it returns."""
    silent = trainer(callbacks=[Telling(actions, keeps_checkpoints)])
    silent.fit(batches(3), batches(1))
    say("returned", silent.stop_reason)
    return silent


@script
def sigint() -> None:
    run({"before_backward": send(signal.SIGINT)})


@script
def sigterm() -> None:
    run({"before_backward": send(signal.SIGTERM)})


@script
def sigint_twice() -> None:
    run({"before_backward": send(signal.SIGINT, signal.SIGINT)})


@script
def sigterm_then_sigint() -> None:
    run({"before_backward": send(signal.SIGTERM, signal.SIGINT)})


@script
def keeper() -> None:
    run({"before_backward": send(signal.SIGINT)}, keeps_checkpoints=True)


@script
def warnings_are_errors() -> None:
    warnings.simplefilter("error")
    run({"before_backward": send(signal.SIGINT)})


@script
def in_validation() -> None:
    run({"before_val_batch": send(signal.SIGTERM)})


@script
def in_after_fit() -> None:
    run({"after_fit": send(signal.SIGINT)})


@script
def in_cleanup() -> None:
    run({"on_cleanup": send(signal.SIGINT)})


@script
def second_in_cleanup() -> None:
    run({"before_backward": send(signal.SIGINT), "on_cleanup": send(signal.SIGINT)})


@script
def second_when_put_away() -> None:
    release = EpochTask.release

    def releasing(task: EpochTask) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        release(task)

    EpochTask.release = releasing  # type: ignore[method-assign]
    run({"before_backward": send(signal.SIGTERM)})


@script
def second_when_handlers_go_back() -> None:
    put = signal.signal

    def putting(number: int, handler: Any) -> Any:
        former = put(number, handler)
        if handler is signal.default_int_handler:  # SIGINT is the program's again, SIGTERM not yet
            signal.signal = put
            os.kill(os.getpid(), signal.SIGINT)
        return former

    signal.signal = putting  # type: ignore[assignment]
    run({"before_backward": send(signal.SIGTERM)})


@script
def then_an_error() -> None:
    try:
        run({"before_backward": send(signal.SIGINT), "after_fit": lambda **given: 1 / 0})
    except ZeroDivisionError:
        say("caught")


@script
def in_a_test_within_fit() -> None:
    inner = {"before_test_batch": send(signal.SIGINT)}
    run({**inner, "after_train_batch": lambda trainer, **given: trainer.test(batches(2))})


@script
def exit_caught() -> None:
    signal.signal(signal.SIGINT, own)
    try:
        run({"before_backward": send(signal.SIGINT)})
    except SystemExit as error:
        say("exit", error.code, signal.getsignal(signal.SIGINT) is own)


@script
def interactive() -> None:
    sys.ps1 = ">>> "
    silent = run({"before_backward": send(signal.SIGINT)})
    say("batches", silent.progress.step)
    silent.callbacks.clear()
    say("again", len(silent.fit(batches(1), epochs=1)["train"]["loss"]))


@script
def interactive_twice() -> None:
    sys.ps1 = ">>> "
    try:
        run({"before_backward": send(signal.SIGTERM, signal.SIGTERM)})
    except KeyboardInterrupt as error:
        say("caught", error)


def own(number: int, frame: Any) -> None:
    say("own handler", signal.Signals(number).name)


def held() -> tuple[Any, ...]:
    return tuple(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))


@script
def handlers() -> None:
    signal.signal(signal.SIGINT, own)
    signal.signal(signal.SIGTERM, own)
    during: list[bool] = []
    looking = {"before_train_batch": lambda **given: during.append(own in held())}
    run(looking)
    say("after a run", held() == (own, own), any(during))
    try:
        run({"before_backward": lambda **given: 1 / 0})
    except ZeroDivisionError:
        say("after an error", held() == (own, own))
    sys.ps1 = ">>> "
    run({"before_backward": send(signal.SIGINT)})
    say("after a signal", held() == (own, own))
    during.clear()
    trainer(callbacks=[Recorder(actions={"before_test_batch": looking["before_train_batch"]})]).test(batches(1))
    say("in a test", all(during))
    os.kill(os.getpid(), signal.SIGINT)


@script
def ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run({"before_backward": send(signal.SIGINT)})
    say("ignored", signal.getsignal(signal.SIGINT) is signal.SIG_IGN)


@script
def thread() -> None:
    before, during = held(), []
    work = threading.Thread(target=run, args=({"before_train_batch": lambda **given: during.append(held() == before)},))
    work.start()
    work.join()
    say("untouched", all(during), len(during))


@script
def in_test() -> None:
    silent = trainer(callbacks=[Telling({"before_test_batch": send(signal.SIGINT)})])
    try:
        silent.test(batches(3))
    except KeyboardInterrupt:
        say("caught KeyboardInterrupt")


@script
def waiting() -> None:
    """Ask for a signal from outside, in the middle of a batch, and wait until it has come."""

    def wait(trainer: Any, **given: Any) -> None:
        say("waiting")
        until = time.monotonic() + 30
        while not trainer.stopping and time.monotonic() < until:
            time.sleep(0.001)

    run({"before_backward": wait})


@script
def at_a_prompt() -> None:
    """For ``python -i``: no ps1 is set while a script still runs."""
    assert not hasattr(sys, "ps1")
    run({"before_backward": send(signal.SIGINT)})


def exit_code(function: Callable[[], None]) -> int:
    """Call a script and return what its process would exit with, without the second that torch takes to go away."""
    code = 0
    try:
        function()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def in_its_own_process(name: str) -> dict[str, Any]:
    """Run a script in a fork of this process, and tell how it ended."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(exit_code(SCRIPTS[name]))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [file.seek(0) or file.read() for file in (out, err)]
    return {"name": name, "code": code, "out": texts[0].splitlines(), "err": texts[1]}


def main(names: list[str]) -> None:
    # Whoever started us may have had signals ignored (a shell does so for what it runs in the background).
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if names[0] != "--fork":
        SCRIPTS[names[0]]()
        return
    trainer().fit(batches(1))  # what torch imports for its first step is imported once for all
    for name in names[1:]:
        say(json.dumps(in_its_own_process(name)))


if __name__ == "__main__":
    main(sys.argv[1:])
