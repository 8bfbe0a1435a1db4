"""Faults put into a copy of the package, one at a time, of which each has to make a test fail.

``python tests/faults/sabotage.py``. The tests are as good as the faults they see.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "deepepochs_like"
DURABILITY = "tests/storage/test_durability.py"
RESUME = "tests/core/test_resume.py"
HOOKS = "tests/loop/test_errors_in_hooks.py"
CUT = f"{RESUME}::test_a_run_that_was_stopped_anywhere_and_resumed_equals_one_that_was_not"
#: Seconds that the tests of one fault may take.
PATIENCE = 300
#: Put beside the copied package: the tests are to try the copy and nothing else.
CONFTEST = f"""\
from pathlib import Path

import {PACKAGE}

assert Path({PACKAGE}.__file__).is_relative_to(Path(__file__).parent), {PACKAGE}.__file__
"""


@dataclass(frozen=True)
class Fault:
    """A fault, and the tests that are to see it.

    Attributes:
        name: what is wrong.
        edits: file in the package, text that is there exactly once, text in its place.
        tests: as pytest takes them.
        quick: whether it is among the few that are put in where time is short.
    """

    name: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]
    quick: bool = False


def fault(name: str, *edits: tuple[str, str, str], test: str, quick: bool = False) -> Fault:
    return Fault(name, edits, (test,), quick)


ORDER = f"{DURABILITY}::test_a_save_flushes_the_file_renames_it_flushes_the_folder_and_only_then_deletes"
FAULTS = (
    fault(
        "no fsync of the file",
        ("storage.py", "            os.fsync(file)\n", ""),
        test=ORDER,
    ),
    fault(
        "no fsync of the folder",
        ("storage.py", "        done = True\n        sync_folder(path.parent)\n", "        done = True\n"),
        test=ORDER,
    ),
    fault(
        "rename before fsync",
        (
            "storage.py",
            "            os.fsync(file)\n",
            "            os.rename(partial, path)\n            os.fsync(file)\n",
        ),
        ("storage.py", "        os.rename(partial, path)\n        done = True\n", "        done = True\n"),
        test=ORDER,
        quick=True,
    ),
    fault(
        "write in place",
        ("storage.py", "    partial = path.with_name(path.name + PARTIAL)\n", "    partial = path\n"),
        test=f"{DURABILITY}::test_no_checkpoint_is_opened_for_writing_under_its_own_name",
        quick=True,
    ),
    fault(
        "delete the old before the new is durable",
        (
            "checkpoint.py",
            "        size = storage.write_sealed(",
            "        self.prune(Entry(path, step, epoch, numbers, pinned, 0, now))\n"
            "        size = storage.write_sealed(",
        ),
        test=ORDER,
        quick=True,
    ),
    fault(
        "keep one",
        ("checkpoint.py", "others[: store.keep_last - 1]", "others[:0]"),
        test=f"{DURABILITY}::test_the_one_before_is_always_kept",
    ),
    fault(
        "pick the newest by file time",
        ("checkpoint.py", "key=lambda e: (e.step, e.epoch or 0, e.time)", "key=lambda e: e.path.stat().st_mtime_ns"),
        test=f"{DURABILITY}::test_the_newest_goes_by_step_and_not_by_the_time_of_its_file",
    ),
    fault(
        "skip the hash",
        ("storage.py", "        if left or digest.digest() != file.read(_HASH):\n", "        if left:\n"),
        test=f"{DURABILITY}::test_an_archive_exchanged_for_another_is_told_by_the_hash",
        quick=True,
    ),
    fault(
        "weights_only=False",
        ("storage.py", 'map_location="cpu", weights_only=True)', 'map_location="cpu", weights_only=False)'),
        test=f"{DURABILITY}::test_what_loading_would_have_to_run_is_refused_and_not_run",
    ),
    fault(
        "generators not restored on resume",
        ("state.py", '    set_rng_state(state["rng"])\n', ""),
        ("state.py", '    set_rng_state(pending["rng"])\n    pending["restored"]', '    pending["restored"]'),
        ("state.py", "        if again:\n", "        if False:\n"),
        test=f"{CUT}[7]",
        quick=True,
    ),
    fault(
        "generators restored before the skip",
        ("state.py", '    set_rng_state(pending["rng"])\n    pending["restored"]', '    pending["restored"]'),
        ("state.py", "        if again:\n", "        if False:\n"),
        (
            "state.py",
            '    for stage, saved in pending["sources"].items():\n',
            '    set_rng_state(pending["rng"])\n    for stage, saved in pending["sources"].items():\n',
        ),
        ("data/source.py", "        set_rng_state(now)\n", ""),
        test=f"{CUT}[2]",
    ),
    fault(
        "scheduler state dropped",
        ("optimizer.py", 'self.scheduler.load_state_dict(state["scheduler"])', "pass"),
        test=f"{CUT}[7]",
    ),
    fault(
        "loader generator not saved",
        ("data/source.py", "        return list({id(g): g for g in found}.values())\n", "        return []\n"),
        test="tests/core/test_state.py::test_a_run_cut_between_two_batches_in_any_hook_goes_on_to_the_same_bits"
        "[after_epoch-save]",
    ),
    fault(
        "history duplicated on resume",
        (
            "trainer.py",
            '            self.train_metrics, self.val_metrics = as_figures(opened["train_metrics"]), {}\n',
            '            self.train_metrics, self.val_metrics = as_figures(opened["train_metrics"]), {}\n'
            '            self.history.record("train", self.progress.epoch, self.train_metrics)\n',
        ),
        test=f"{CUT}[8]",
    ),
    fault(
        "owed validation forgotten",
        (
            "trainer.py",
            "if not self.stopping and plan.val_due(self.progress):",
            "if not self.stopping and plan.val_due(self.progress) and not self.progress.opened:",
        ),
        test=f"{CUT}[8]",
    ),
    fault(
        "NaN accepted as best",
        (
            "checkpoint.py",
            'if not math.isnan(e.figures.get(self.monitor or "", math.nan))',
            'if (self.monitor or "") in e.figures',
        ),
        test=f"{DURABILITY}::test_nan_is_never_the_best",
    ),
    fault(
        "NaN accepted as better",
        (
            "monitor.py",
            "        if math.isnan(value):\n            return False\n",
            "        if math.isnan(value):\n            return True\n",
        ),
        test=f"{RESUME}::test_early_stopping",
    ),
    fault(
        "an error swallowed in fit",
        (
            "scope.py",
            "            return True\n        return False\n",
            "            return True\n        return True\n",
        ),
        test=f"{HOOKS}::test_an_error_in_the_loader_says_which_batch_was_asked_for",
        quick=True,
    ),
    fault(
        "an error in a batch swallowed in fit",
        (
            "scope.py",
            "        if self.trainer.answered is error:  # in a batch, where the answer was to let it leave\n"
            "            return False\n",
            "        if self.trainer.answered is error:\n            return True\n",
        ),
        test=f"{HOOKS}::test_an_error_in_a_step_is_noted_without_a_callback",
    ),
    fault(
        "signal handlers not restored",
        ("signals.py", "            signal.signal(number, handler)\n", "            pass\n"),
        test="tests/loop/test_signals.py::test_the_users_own_handlers_are_put_back_whatever_happened",
    ),
    fault(
        "lock not taken",
        ("lock.py", "        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", ""),
        test=f"{DURABILITY}::test_a_second_writer_is_refused",
    ),
    fault(
        "accumulator aliased to the first batch's patch",
        ("figures.py", "mine = own_copy(patch)", "mine = patch"),
        test="tests/patches/test_figures.py::test_the_accumulator_is_never_the_steps_own_patch",
        quick=True,
    ),
    fault(
        "gradients of an open accumulation window lost on resume",
        ("execution/window.py", "            named[name].grad = gradient.detach()", "            gradient.detach()"),
        test=f"{CUT}[1]",
        quick=True,
    ),
    fault(
        "last and best exchanged",
        ("memory.py", 'store.newest() if which == "last" else', 'store.newest() if which == "best" else'),
        test=f"{RESUME}::test_test_can_take_the_best_weights_and_training_goes_on_from_its_own",
    ),
    fault(
        "worker seeding dependent on the number of workers",
        (
            "data/workers.py",
            "np.random.SeedSequence((seed, number))",
            "np.random.SeedSequence((seed, number, torch.utils.data.get_worker_info().num_workers))",
        ),
        test="tests/core/test_workers.py::test_what_workers_draw_does_not_depend_on_how_many_they_are",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What tests said of a copy: pytest's exit code, the tests that failed, and all it printed."""

    code: int
    failed: list[str]
    text: str


def copy_to(folder: Path) -> None:
    """Copy what the tests need: the package, the tests and their configuration."""
    leave = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.pyc")
    for part in (PACKAGE, "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "conftest.py").write_text(CONFTEST)


def put_in(folder: Path, edits: Sequence[tuple[str, str, str]]) -> None:
    """Edit the copied package.

    Raises:
        AssertionError: a text to be replaced is not there exactly once.
    """
    for name, old, new in edits:
        path = folder / PACKAGE / name
        text = path.read_text()
        assert text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times, not once"
        path.write_text(text.replace(old, new))


def try_out(folder: Path, tests: Sequence[str]) -> Outcome:
    """Run tests against the package in a folder."""
    options = ("-p", "no:cacheprovider", "-x", "-q", "-rfE", "--no-header", "--rootdir", str(folder))
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    failed = re.findall(r"^FAILED \S+::([^\s\[]+)", ended.stdout, re.MULTILINE)
    return Outcome(ended.returncode, failed, ended.stdout + ended.stderr)


def sabotage(fault: Fault) -> str:
    """Put a fault into a copy and return the test that saw it.

    Raises:
        AssertionError: the fault cannot be put in, or no test fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_to(folder)
        put_in(folder, fault.edits)
        outcome = try_out(folder, fault.tests)
    # 1 is "tests failed"; a package that cannot be imported, or tests that are not there, end otherwise.
    assert outcome.code in (0, 1), f"{fault.name}: pytest ended with {outcome.code}\n{outcome.text}"
    assert outcome.failed, f"{fault.name}: no test fails\n{outcome.text[-2000:]}"
    return outcome.failed[0]


def control(faults: Sequence[Fault]) -> None:
    """Run the tests of all faults against a copy without any.

    Raises:
        AssertionError: one fails.
    """
    tests = list(dict.fromkeys(test for fault in faults for test in fault.tests))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_to(folder)
        outcome = try_out(folder, tests)
    assert outcome.code == 0, f"without any fault, pytest ended with {outcome.code}\n{outcome.text[-4000:]}"


def run(full: bool) -> dict[str, Any]:
    """Put in every fault, or the quick ones, and see that a test fails with each and none without.

    Returns:
        ``{'injected': faults, 'landed': {fault: 1}, 'survived': faults that were seen, 'detail': by which test}``.

    Raises:
        AssertionError: a fault was not seen, or could not be put in; or a test fails without any.
    """
    faults, began = [fault for fault in FAULTS if full or fault.quick], time.monotonic()
    control(faults)
    seen, unseen = dict[str, str](), list[str]()
    with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
        for fault, result in [(fault, pool.submit(sabotage, fault)) for fault in faults]:
            try:
                seen[fault.name] = result.result()
            except AssertionError as error:
                unseen.append(str(error))
    assert not unseen, "\n".join(unseen)
    told = "; ".join(f"{name}: {test}" for name, test in seen.items())
    return {
        "injected": len(faults),
        "landed": dict.fromkeys(seen, 1),
        "survived": len(seen),
        "detail": f"{len(seen)} faults seen in {time.monotonic() - began:.0f} s: {told}",
    }


if __name__ == "__main__":
    print(run(full="--quick" not in sys.argv)["detail"].replace("; ", "\n  ").replace(" s: ", " s:\n  "))
