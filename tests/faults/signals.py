"""SIGINT and SIGTERM, once and twice, and a file STOP: the run ends in time, with valid files, and can be gone on with.

``python tests/faults/signals.py [--full]`` prints where every signal landed.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, it is not there

from deepepochs_like import Callback
from faults.scenario import (
    PLAIN,
    RUN,
    Fork,
    Measured,
    Page,
    Telling,
    check_files,
    digests,
    finish,
    instrument,
    measure,
    new_folder,
    prepare,
    run_script,
    said,
)

EACH = {True: 20, False: 2}
KINDS = [(number, times) for number in (signal.SIGINT, signal.SIGTERM) for times in (1, 2)]
#: Seconds that every batch takes longer: enough that what comes at a random moment comes everywhere.
NAP = 0.006
#: Seconds from the last signal to the end of the process: after one a batch is finished and a checkpoint saved.
SOON = {1: 2.0, 2: 1.0}
#: Where signals are aimed at in turn, beside random moments.
AIMS = (None, "save", "val", None, "train", "prune")


def own(number: int, frame: Any) -> None:
    """The program's handler, which is to be there again after a fit."""


class Dawdling(Callback):
    """Once the run is to stop, the batch in progress takes longer than anyone would wait."""

    def __init__(self) -> None:
        super().__init__(priority=2)

    def on_before_backward(self, trainer: Any, **given: Any) -> None:
        until = time.monotonic() + 20
        while trainer.stopping and time.monotonic() < until:
            time.sleep(0.01)


def dawdling() -> list[Callback]:
    return [Dawdling()]


def interrupted(page: Page, nap: float, others: Callable[[], list[Callback]] = list) -> Callable[[], None]:
    """The work of a fork: a run that may be interrupted. What became of it goes to the file ``ending``."""

    def work() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, own)
        instrument(page)
        ending: dict[str, Any] = {"exit": None, "cause": None}
        try:
            trainer = PLAIN.train(Telling(page, nap), *others())
            ending["reason"], ending["result"] = trainer.stop_reason, digests(trainer)
        except SystemExit as error:
            ending["exit"], ending["cause"] = error.code, type(error.__cause__).__name__
            raise
        finally:
            page.enter("over")
            ending["restored"] = all(signal.getsignal(n) is own for n in (signal.SIGINT, signal.SIGTERM))
            Path("ending").write_text(json.dumps(ending))

    return work


@dataclass
class Sender:
    """Sends signals to runs and counts where they came.

    Args:
        page: where the forks tell what they do.
        chance: the generator of all that is random here.
    """

    page: Page
    chance: random.Random
    landed: Counter[str] = field(default_factory=Counter)
    longest: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.whole: Measured = measure(PLAIN, self.page, NAP)

    def trial(self, number: signal.Signals, times: int, aim: str | None, what: str) -> bool:
        """Interrupt a run and let it go on to its end; False when it ended before it could be interrupted."""
        page = self.page
        page.clear()
        # Half of those that are interrupted twice are in a batch that does not end.
        others = dawdling if times == 2 and self.chance.random() < 0.5 else list
        with new_folder() as folder:
            with Fork(interrupted(page, NAP, others), folder) as fork:
                phase, last = self._send(fork, number, times, aim)
                code = fork.wait()
                seconds = time.monotonic() - last
            ending = json.loads((folder / "ending").read_text())
            if not self._came_in_time(ending, times):
                assert code == ending["exit"] or (code == 0 and ending["exit"] is None), f"{what}: {said(folder)}"
                return False
            assert code == 128 + number, f"{what}, in {phase}: exit code {code}: {said(folder)}"
            assert ending["restored"], f"{what}, in {phase}: the former handlers are not there again"
            assert seconds < SOON[times], f"{what}, in {phase}: it took {seconds:.2f} s to end"
            step = check_files(folder, what)
            assert times == 2 or step == page.updates, f"{what}, in {phase}: {page.updates} updates, {step} are saved"
            finish(PLAIN, page, folder, self.whole.result, what)
        self.landed[phase] += 1
        self.longest[times] = max(self.longest[times], seconds)
        print(f"{what}: in {phase}, ended after {seconds:.3f} s with {code}, saved up to update {step}", flush=True)
        return True

    def _came_in_time(self, ending: dict[str, Any], times: int) -> bool:
        """Whether the first signal stopped the run and the second, if there is one, cut that short."""
        if times == 2:
            return bool(ending["cause"] == "KeyboardInterrupt")
        return ending["exit"] is not None

    def _send(self, fork: Fork, number: signal.Signals, times: int, aim: str | None) -> tuple[str, float]:
        """Send it; returns the phase in which the last one came, and when."""
        page = self.page
        fork.wait_until(lambda: page.phase != "start" and page.entered("train") > 0)
        if aim is None:
            moment = time.monotonic() + self.chance.uniform(0, 0.9 * self.whole.seconds)
            fork.wait_until(lambda: time.monotonic() >= moment)
        else:
            nth = self.chance.randint(1, max(1, self.whole.entered[aim] - 1))
            fork.wait_until(lambda: page.entered(aim) >= nth and page.phase == aim)
            time.sleep(self.chance.uniform(0, self.whole.lasting[aim] / 2))
        for count in range(times):
            if count:
                # Two of a kind that are there at once are one.
                time.sleep(self.chance.uniform(0.002, 0.03))
            phase, moment = page.phase, time.monotonic()
            if not fork.has_ended():
                fork.send(number)
        return phase, moment


def signals(full: bool, page: Page) -> Sender:
    """So many of each kind."""
    sender = Sender(page, random.Random(2))
    for number, times in KINDS:
        hits = tried = 0
        while hits < EACH[full]:
            assert tried < 5 * EACH[full], f"{number.name}: the signals come too late"
            what = f"{number.name}{' twice' if times == 2 else ''}, trial {tried + 1}"
            hits += sender.trial(number, times, AIMS[tried % len(AIMS)], what)
            tried += 1
    return sender


def stop_file(page: Page, expected: dict[str, str]) -> str:
    """A file STOP in the run's folder, of which the run is to know within a second."""
    page.clear()
    with new_folder() as folder:
        file = folder / RUN / "STOP"
        with Fork(interrupted(page, 0.05), folder) as fork:  # long enough for a second look
            fork.wait_until(lambda: page.updates >= 2)
            began = time.monotonic()
            file.touch()
            code, seconds = fork.wait(), time.monotonic() - began
        assert code == 0, f"STOP: exit code {code}: {said(folder)}"
        ending = json.loads((folder / "ending").read_text())
        assert ending["reason"].endswith(str(RUN / "STOP")), f"STOP: the reason is {ending['reason']!r}"
        assert ending["restored"], "STOP: the former handlers are not there again"
        assert not file.exists(), "STOP: the file is still there"
        assert ending["result"] != expected, "STOP: the run went on to its end"
        assert seconds < 3, f"STOP: the run ended after {seconds:.1f} s"
        check_files(folder, "STOP", 1)
        finish(PLAIN, page, folder, expected, "STOP")
    return f"a file STOP ended a run after {seconds:.2f} s"


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Do it, in a process that has no threads and can be forked."""
    full, began = "--full" in arguments, time.monotonic()
    prepare()
    page = Page()
    sender = signals(full, page)
    stopped = stop_file(page, sender.whole.result)
    count = sender.landed.total()
    detail = (
        f"{count} runs interrupted, {EACH[full]} each by SIGINT and SIGTERM, once and twice: exit codes 130 and 143 "
        f"within {sender.longest[1]:.2f} s after one and {sender.longest[2]:.2f} s after two, files valid, and resumed "
        f"to the bits of the run that was left alone; {stopped}; {time.monotonic() - began:.0f} s"
    )
    landed = {**sender.landed, "STOP": 1}
    return {"injected": count + 1, "landed": landed, "survived": count + 1, "detail": detail}


def run(full: bool) -> dict[str, Any]:
    """Interrupt runs by signals, eight or eighty times, and one by a file.

    Returns:
        ``{'injected': times, 'landed': {phase: times}, 'survived': times, 'detail': figures}``.

    Raises:
        AssertionError: a run did not end as it should; the message says which and how.
    """
    return run_script(__file__, full)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
