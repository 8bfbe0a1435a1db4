"""Ctrl-C and SIGTERM in real processes: the scripts are in `support/interrupted.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from support.interrupted import SCRIPTS
from support.repo import ROOT

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="these signals are those of POSIX"),
    pytest.mark.xdist_group("signals"),  # they share one process that starts the others
]

#: What a run prints that is stopped in its first training batch, which it finishes.
FINISHED = ["after_train_batch", "on_checkpoint", "after_fit", "on_cleanup"]
NOT_SAVED = "nothing was saved, as no callback keeps checkpoints"


@dataclass
class Ending:
    """How a script ended: its exit code, its lines, and what it wrote to stderr."""

    code: int
    out: list[str]
    err: str


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONWARNINGS", None)
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT / "tests",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def endings() -> dict[str, Ending]:
    """All scripts that need nobody outside, each in its own process."""
    names = [name for name in SCRIPTS if name not in ("waiting", "at_a_prompt")]
    with start("-m", "support.interrupted", "--fork", *names) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    return {one["name"]: Ending(one["code"], one["out"], one["err"]) for one in told}


@pytest.mark.parametrize(("name", "signal_name", "code"), [("sigint", "SIGINT", 130), ("sigterm", "SIGTERM", 143)])
def test_the_first_signal_lets_the_batch_finish_and_the_script_exit(
    endings: dict[str, Ending], name: str, signal_name: str, code: int
) -> None:
    ending = endings[name]
    assert ending.code == code
    assert ending.out == FINISHED, "no second batch, no validation, no on_exception, no return"
    assert f"EngineWarning: {signal_name}: stopped in epoch 1, update 1; {NOT_SAVED}" in ending.err
    assert "interrupted.py" in ending.err, "the warning points to the script's own line"
    assert "Traceback" not in ending.err


@pytest.mark.parametrize(("name", "code"), [("sigint_twice", 130), ("sigterm_then_sigint", 143)])
def test_the_second_signal_interrupts_at_once_and_cleans_up(endings: dict[str, Ending], name: str, code: int) -> None:
    ending = endings[name]
    assert ending.code == code
    assert ending.out == ["on_exception KeyboardInterrupt", "on_cleanup"]
    assert NOT_SAVED in ending.err


def test_where_a_callback_keeps_checkpoints_nothing_is_said(endings: dict[str, Ending]) -> None:
    assert endings["keeper"] == Ending(130, FINISHED, "")


def test_the_exit_code_stands_where_warnings_are_errors(endings: dict[str, Ending]) -> None:
    assert endings["warnings_are_errors"].code == 130
    assert endings["warnings_are_errors"].out == FINISHED


def test_a_signal_in_validation_ends_it_after_the_batch(endings: dict[str, Ending]) -> None:
    ending = endings["in_validation"]
    assert ending.code == 143
    assert ending.out[-3:] == ["on_checkpoint", "after_fit", "on_cleanup"]
    assert ending.out.count("after_train_epoch") == 1


@pytest.mark.parametrize("name", ["in_after_fit", "in_cleanup"])
def test_a_signal_at_the_very_end_still_counts(endings: dict[str, Ending], name: str) -> None:
    assert endings[name].code == 130
    assert endings[name].out[-2:] == ["after_fit", "on_cleanup"]


def test_a_second_signal_while_cleaning_up_exits_with_the_same_code(endings: dict[str, Ending]) -> None:
    assert endings["second_in_cleanup"].code == 130
    assert endings["second_in_cleanup"].out == FINISHED


@pytest.mark.parametrize("name", ["second_when_put_away", "second_when_handlers_go_back"])
def test_so_does_one_that_comes_when_the_run_is_put_away(endings: dict[str, Ending], name: str) -> None:
    assert endings[name].code == 143
    assert endings[name].out == FINISHED


def test_an_error_after_a_signal_leaves_as_itself(endings: dict[str, Ending]) -> None:
    ending = endings["then_an_error"]
    assert ending.code == 0
    assert ending.out == [*FINISHED[:3], "on_exception ZeroDivisionError", "on_cleanup", "caught"]


def test_a_signal_during_a_test_within_fit_stops_the_fit(endings: dict[str, Ending]) -> None:
    ending = endings["in_a_test_within_fit"]
    assert ending.code == 130
    assert ending.out == FINISHED


def test_the_exit_is_an_exception_that_a_script_can_catch(endings: dict[str, Ending]) -> None:
    ending = endings["exit_caught"]
    assert ending.code == 0
    assert ending.out == [*FINISHED, "exit 130 True"], "and the handlers are the script's own again"


def test_in_an_interactive_session_fit_returns(endings: dict[str, Ending]) -> None:
    ending = endings["interactive"]
    assert ending.code == 0
    assert ending.out == [*FINISHED, "returned SIGINT", "batches 1", "again 1"]
    assert NOT_SAVED in ending.err


def test_in_an_interactive_session_the_second_signal_is_a_keyboard_interrupt(endings: dict[str, Ending]) -> None:
    ending = endings["interactive_twice"]
    assert ending.code == 0
    assert ending.out == ["on_exception KeyboardInterrupt", "on_cleanup", "caught second SIGTERM"]


def test_the_users_own_handlers_are_put_back_whatever_happened(endings: dict[str, Ending]) -> None:
    ending = endings["handlers"]
    assert ending.code == 0
    told = [line for line in ending.out if line.startswith(("after a", "in a", "own")) and "_" not in line]
    assert told == [
        "after a run True False",
        "after an error True",
        "after a signal True",
        "in a test True",
        "own handler SIGINT",
    ]


def test_a_signal_that_the_program_ignores_stays_ignored(endings: dict[str, Ending]) -> None:
    ending = endings["ignored"]
    assert ending.code == 0
    assert ending.out[-2:] == ["returned ", "ignored True"]
    assert ending.err == ""


def test_no_handler_is_installed_in_a_thread(endings: dict[str, Ending]) -> None:
    ending = endings["thread"]
    assert ending.code == 0
    assert ending.out[-2:] == ["returned ", "untouched True 6"]


def test_in_a_test_run_ctrl_c_is_a_plain_keyboard_interrupt(endings: dict[str, Ending]) -> None:
    ending = endings["in_test"]
    assert ending.code == 0
    assert ending.out == ["on_exception KeyboardInterrupt", "on_cleanup", "caught KeyboardInterrupt"]
    assert ending.err == ""


def test_a_signal_from_another_process_is_obeyed() -> None:
    with start("-m", "support.interrupted", "waiting") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.splitlines() == FINISHED
    assert NOT_SAVED in err


def test_python_started_with_i_comes_to_its_prompt() -> None:
    with start("-i", "-m", "support.interrupted", "at_a_prompt", stdin=subprocess.PIPE) as process:
        out, err = process.communicate("print('still', 'here')\n", timeout=60)
    assert process.returncode == 0, err
    assert out.splitlines() == [*FINISHED, "returned SIGINT", "still here"]
