"""Kill a run at any moment, again and again: it ends at the same bits as one that was left alone.

``python tests/faults/kill.py [--full]`` prints where every kill landed.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, it is not there

from faults.scenario import (
    PLAIN,
    SCENARIOS,
    Fork,
    Measured,
    Page,
    Scenario,
    check_files,
    check_result,
    end_orphans,
    finish,
    measure,
    new_folder,
    prepare,
    run_script,
    said,
    training,
)

#: How many kills have to land in each of the rare phases; a few more are aimed there than are needed.
NEEDED = {True: {"save": 40, "val": 10, "load": 10, "prune": 10}, False: {"save": 3, "val": 1, "load": 1, "prune": 1}}
TRIALS = {True: 200, False: 12}
KILLS_EACH = {True: 8, False: 2}
QUICK = (
    "augmentation in two workers",
    "augmentation in persistent workers, accumulation",
    "val_every_steps, accumulation, schedule",
    "two tasks",
    "iterable loader with a state",
    "CheckCallback, two models",
    "everything at once",
)


@dataclass
class Killer:
    """Kills runs of a scenario, at random moments or in a phase that is wanted, and counts where it hit.

    Args:
        scenario: what is run.
        page: where its forks tell what they do.
        chance: the generator of all that is random here.
        wanted: by phase, how many kills to aim there, beside those at random moments.
    """

    scenario: Scenario
    page: Page
    chance: random.Random
    wanted: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.whole: Measured = measure(self.scenario, self.page)
        self.landed: Counter[str] = Counter()
        self.within_saves: list[int] = []
        self.trials = 0

    def trial(self, kills: int) -> int:
        """Kill a run so many times and let it end; return how many of the kills came in time."""
        self.trials += 1
        what, hits, step, pids = f"{self.scenario.name}, trial {self.trials}", 0, 0, list[int]()
        with new_folder() as folder:
            for number in range(kills):
                if not self._kill(folder, f"{what}, kill {number + 1}", step, pids):
                    break
                hits += 1
                step = check_files(folder, f"{what}, kill {number + 1}", step)
            if hits == kills:
                finish(self.scenario, self.page, folder, self.whole.result, what)
            check_result(folder, self.whole.result, what)
            end_orphans(pids if self.scenario.workers else [])
        return hits

    def _kill(self, folder: Path, what: str, step: int, pids: list[int]) -> bool:
        """Let the run go on from an update, and kill it; False when it ended before."""
        page, left = self.page, 1 - step / max(1, self.whole.updates)
        page.clear()
        with Fork(training(self.scenario, page), folder) as fork:
            pids.append(fork.pid)
            aim = self._aim(resuming=step > 0)
            if aim is None:
                if self.chance.random() < 0.9:  # else also before the fit begins
                    fork.wait_until(lambda: page.entered("other") > 0)
                moment = time.monotonic() + self.chance.uniform(0, self.whole.seconds * left)
                fork.wait_until(lambda: time.monotonic() >= moment)
            else:
                nth = 1 if aim == "load" else self.chance.randint(1, max(1, int(self.whole.entered[aim] * left)))
                fork.wait_until(lambda: page.entered(aim) >= nth and page.phase == aim)
                moment = time.monotonic() + self.chance.uniform(0, self._lasting(aim))
                while time.monotonic() < moment:
                    pass  # a sleep could last longer than the phase
            fork.send(signal.SIGKILL)
            code = fork.wait()
        if code != -signal.SIGKILL:
            assert code == 0, f"{what}: exit code {code} before it was killed: {said(folder)}"
            return False
        phase, written = page.phase, page.written
        self.landed[phase] += 1
        about = f", {written} bytes written" if phase == "save" else ""
        self.within_saves += [written] if phase == "save" else []
        print(f"{what}: in {phase}{about}, {page.updates} updates done by this process", flush=True)
        return True

    def _aim(self, resuming: bool) -> str | None:
        """A phase that has too few hits, half of the time; loading takes place only when something is there."""
        missing = [p for p, count in self.wanted.items() if self.landed[p] < count and (resuming or p != "load")]
        if not missing or self.chance.random() < 0.5:
            return None
        return max(missing, key=lambda phase: self.wanted[phase] - self.landed[phase] + self.chance.random())

    def _lasting(self, phase: str) -> float:
        return self.whole.lasting[phase] if phase != "load" else 0.012


def random_moments(full: bool, page: Page) -> Killer:
    """One to three kills per trial."""
    needed = NEEDED[full]
    killer = Killer(PLAIN, page, random.Random(20), {phase: count + count // 2 for phase, count in needed.items()})

    def short() -> list[str]:
        return [f"{killer.landed[p]} of {count} in {p}" for p, count in needed.items() if killer.landed[p] < count]

    # On a machine that is busy with other things a kill may miss what it was aimed at: some more trials then.
    while killer.trials < TRIALS[full] or (short() and killer.trials < 2 * TRIALS[full]):
        killer.trial(killer.chance.randint(1, 3))
    assert not short(), f"too few kills landed: {', '.join(short())}"
    return killer


def configurations(full: bool, page: Page) -> list[Killer]:
    """So many kills of each scenario, one to three per run."""
    chosen = SCENARIOS if full else [scenario for scenario in SCENARIOS if scenario.name in QUICK]
    assert full or len(chosen) == len(QUICK), QUICK
    killers, failed = [], []
    for number, scenario in enumerate(chosen):
        try:
            killer = Killer(scenario, page, random.Random(number))
            _kill_often(killer, max(scenario.kills, KILLS_EACH[full]) if full else KILLS_EACH[full])
        except AssertionError as error:  # the others are worth knowing, too
            failed.append(str(error))
            print(f"FAILED: {error}", flush=True)
        else:
            killers.append(killer)
    assert not failed, "\n".join(failed)
    return killers


def _kill_often(killer: Killer, kills: int) -> None:
    hits = 0
    while hits < kills:
        assert killer.trials < 5 * kills, f"{killer.scenario.name}: kills come too late"
        hits += killer.trial(min(killer.chance.randint(1, 3), kills - hits))
    print(f"{killer.scenario.name}: {hits} kills in {killer.trials} runs, each ends at the same bits", flush=True)


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Do it, in a process that has no threads and can be forked."""
    full, began = "--full" in arguments, time.monotonic()
    prepare()
    page = Page()
    killers = [random_moments(full, page), *configurations(full, page)]
    landed = sum((killer.landed for killer in killers), Counter[str]())
    first, others = killers[0], killers[1:]
    cut = sorted(n for killer in killers for n in killer.within_saves)
    detail = (
        f"{first.trials} of {first.trials} runs killed {first.landed.total()} times {dict(first.landed)}, and "
        f"{len(others)} configurations killed {sum(k.landed.total() for k in others)} times, end at the bits of the "
        f"run that was left alone; saves were cut after {cut[0]} to {cut[-1]} bytes, {len(set(cut))} different; "
        f"{time.monotonic() - began:.0f} s"
    )
    return {"injected": landed.total(), "landed": dict(landed), "survived": landed.total(), "detail": detail}


def run(full: bool) -> dict[str, Any]:
    """Kill runs at random moments, then runs of other configurations; `full` hundreds of times.

    Returns:
        ``{'injected': kills, 'landed': {phase: kills}, 'survived': kills, 'detail': figures}``.

    Raises:
        AssertionError: a run did not end as if nothing had happened; the message says which and how.
    """
    return run_script(__file__, full)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
