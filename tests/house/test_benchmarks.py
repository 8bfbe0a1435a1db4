"""The benchmarks measure what they say: contenders do the same work, figures are right, the command runs."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import os
import subprocess
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from support.repo import ROOT

if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of these sources", allow_module_level=True)


def _package() -> None:
    """Make `benchmarks` importable by itself: the root of the checkout is kept off the path."""
    spec = importlib.util.spec_from_file_location("benchmarks", ROOT / "benchmarks" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def part(name: str) -> ModuleType:
    """A module of the benchmarks."""
    if "benchmarks" not in sys.modules:
        _package()
    return importlib.import_module(f"benchmarks.{name}")


by_hand, calls, consoles, gpu, install_peers, loops, shares = map(
    part, ("by_hand", "calls", "consoles", "gpu", "install_peers", "loops", "shares")
)
measure, ours, peers, registry, remote, report, statistics, workloads = map(
    part, ("measure", "ours", "peers", "registry", "remote", "report", "statistics", "workloads")
)
WORKLOADS = workloads.WORKLOADS


def little(name: str) -> Any:
    return workloads.quick(WORKLOADS[name])


# The loops.


def run(loop: Any, name: str = "w1", **options: Any) -> tuple[list[torch.Tensor], Any]:
    work = little(name)
    net = work.model()
    rows = loop(net, *work.loaders(), epochs=2, **options)
    return list(net.state_dict().values()), rows


@pytest.mark.parametrize("heavy", [False, True])
def test_the_loops_agree(heavy: bool) -> None:
    naive_weights, naive_rows = run(loops.naive, heavy=heavy)
    best_weights, best_rows = run(loops.best, heavy=heavy)
    assert measure.distance(naive_weights, best_weights) < 1e-6
    assert measure.different_figure(best_rows, naive_rows) == ""
    assert set(best_rows[1]["val"]) == {"loss", "accuracy"} | ({"precision", "recall", "f1", "cm"} if heavy else set())


def test_how_often_the_best_loop_reduces_changes_nothing() -> None:
    weights, rows = run(loops.best, heavy=True, every=1)
    others, other_rows = run(loops.best, heavy=True)
    assert measure.distance(weights, others) == 0
    assert measure.different_figure(rows, other_rows) == ""


def test_the_baseline_trains_as_the_best_loop_does() -> None:
    work, (weights, _) = little("w1"), run(loops.best)
    net = work.model()
    loops.totals_its_loss(net, loops.adam(net, fused=True), work.loaders()[0], 2)
    assert measure.distance(list(net.state_dict().values()), weights) == 0


def test_macro_figures() -> None:
    found = loops.macro(torch.tensor([[1, 1], [0, 2]]))
    assert found["precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


# The contenders.


@pytest.mark.parametrize("name", WORKLOADS)
def test_ours_end_with_the_weights_and_figures_of_the_loops(name: str) -> None:
    # Where a step takes long, one of ours is enough: what differs between them is shown by the quick ones.
    few = registry.chosen(registry.local(), ["lean", "naive"] if name in ("w4", "w5", "w6") else [""])
    session = measure.Session(little(name), few)
    session.round()
    assert {n: record.fault for n, record in session.records.items() if record.fault} == {}
    assert all(session.records[c.name].apart == 0 for c in ours.OURS if c.name in session.contenders)
    assert {"best", "naive", "lean"} <= set(session.contenders)


def test_a_contender_that_trains_otherwise_is_found_out() -> None:
    def without_training(job: Any) -> Any:
        return loops.best(job.net, job.train_dl, job.val_dl, epochs=0)

    def wrong_figures(job: Any) -> Any:
        rows = loops.best(job.net, job.train_dl, job.val_dl, epochs=job.epochs)
        rows[0]["val"]["loss"] += 1e-4
        return rows

    def broken(job: Any) -> Any:
        raise OSError("no luck")

    wrong = {"idle": without_training, "wrong": wrong_figures, "broken": broken}
    session = measure.Session(
        little("w1"), [by_hand.BEST, *(replace(by_hand.BEST, name=n, run=loop) for n, loop in wrong.items())]
    )
    session.round()
    session.round()
    faults = {name: record.fault for name, record in session.records.items()}
    assert faults["best"] == ""
    assert faults["idle"].startswith("its weights differ from those of best by")
    assert faults["wrong"].startswith("its figures differ from those of best: val loss of epoch 1 is ")
    assert faults["broken"] == "failed: OSError: no luck"
    records = session.records
    rows = [report.Row(c, records[c.name], records["best"]) for c in session.contenders.values()]
    text = report.workload_report(session.work, rows)
    assert "| idle" not in text
    assert "- broken: failed: OSError: no luck" in text


def test_checkpoints_are_compared_with_the_same_contender_without_them() -> None:
    session = measure.Session(little("w6"), registry.chosen(registry.local(), ["lean"]))
    assert session.contenders["lean"].base == "lean (no files)"
    assert session.contenders["lean (no files)"].base == "best (no files)"
    assert session.contenders["lean"].job(session.work).save_every == 1
    assert session.contenders["lean (no files)"].job(session.work).save_every is None
    assert session.contenders["lean"].job(session.work).files
    assert not session.contenders["lean (no files)"].job(session.work).files


def test_who_has_another_optimizer_is_compared_with_a_loop_that_has_it() -> None:
    work = little("w4")  # where the fused optimizer and the other one end up apart by more than 1e-6
    likes = {"unfused": "naive", "taken for fused": "best"}
    session = measure.Session(
        work,
        [by_hand.BEST, *(replace(by_hand.NAIVE, name=n, like=like, tolerance=1e-6) for n, like in likes.items())],
        references=[by_hand.NAIVE],
    )
    session.round(counts=False)
    session.round()
    assert set(session.contenders) == {"best", *likes}
    assert session.records["unfused"].apart == 0
    assert session.records["taken for fused"].fault.startswith("its weights differ from those of best by")


def test_peers_take_all_that_reports_loss_and_accuracy_and_checkpoints_of_theirs_have_twins() -> None:
    plain = [WORKLOADS[name] for name in ("w1", "w2", "w4", "w5", "w6")]
    assert all(peer.takes(work) for peer in peers.PEERS for work in plain)
    twins = measure.paired(WORKLOADS["w6"], peers.PEERS[:1])
    assert [(c.name, c.base, c.model, c.unsaved) for c in twins] == [
        ("ignite default", "ignite default (no files)", "naive", False),
        ("ignite default (no files)", "best (no files)", "naive", True),
    ]
    assert measure.paired(WORKLOADS["w4"], peers.PEERS[:1]) == peers.PEERS[:1]


def test_what_a_process_that_died_was_to_measure_is_named_with_its_bases() -> None:
    session = remote.RemoteSession(little("w6"), peers.PEERS[:1], sys.executable)
    session.process.kill()
    session.round()
    records, found = session.close()
    assert found == {}
    assert {"ignite default", "ignite default (no files)", "best (no files)"} <= set(records)
    assert all(record.fault.startswith("failed: its process ended") for record in records.values())


def test_tables_are_sorted_by_whole_fits() -> None:
    def row(name: str, own: float, base: float) -> Any:
        record = measure.Record([own], [own])
        return report.Row(replace(by_hand.BEST, name=name), record, measure.Record([base], [base]), None, best)

    best = measure.Record([2.0], [2.0])
    slow, fast = row("slow", 4.0, 4.0), row("fast", 3.0, 1.0)
    assert (slow.rank, fast.rank) == (2.0, 1.5)
    text = report.workload_report(little("w6"), [slow, fast])
    assert text.index("| fast") < text.index("| slow")


def test_rounds_are_shuffled_the_same_way_each_time() -> None:
    one, other = (measure.Session(little("w1"), registry.local()) for _ in range(2))
    orders = []
    for number in range(4):
        one.rounds = other.rounds = number
        assert one.order() == other.order()
        orders.append(tuple(one.order()))
    assert len(set(orders)) > 1


def test_peers_are_listed_once_and_can_be_installed() -> None:
    names = [peer.name for peer in peers.PEERS]
    assert len(set(names)) == len(names)
    assert not any("," in name for name in [*names, *(c.name for c in registry.local())])
    assert {name.partition(" ")[0] for name in names} == set(install_peers.PACKAGES) == set(peers.MODULES)


@pytest.mark.parametrize(("console", "watched"), [("to_pipe", False), ("to_terminal", True)])
def test_consoles_are_what_they_say(console: str, watched: bool) -> None:
    before = sys.stdout
    with getattr(consoles, console)():
        assert sys.stdout.isatty() is watched
        print("nobody sees this")
    assert sys.stdout is before
    with pytest.raises(KeyError), getattr(consoles, console)():
        raise KeyError
    assert sys.stdout is before


@pytest.mark.parametrize("console", ["to_pipe", "to_terminal"])
def test_a_console_does_not_wait_for_workers_that_somebody_left_behind(console: str) -> None:
    with getattr(consoles, console)():
        left = subprocess.Popen(["sleep", "60"], stdout=sys.stdout.fileno())
    assert left.poll() is None
    left.kill()
    left.wait()


# What a part of a fit takes.


def test_a_clock_counts_what_calls_itself_once_and_knows_the_hooks_of_batches(monkeypatch: Any) -> None:
    now = itertools.count()
    monkeypatch.setattr(shares, "time", SimpleNamespace(process_time=lambda: next(now)))
    clock = shares.Clock()

    def on_after_train_batch() -> None:
        """Takes a second, as all do here."""

    inner = clock.around(on_after_train_batch)
    clock.around(lambda: inner())()
    assert (clock.seconds, clock.of_steps) == (1, 0)
    inner()
    assert (clock.seconds, clock.of_steps) == (2, 1)


def test_shares_are_those_of_the_display_and_of_saving(monkeypatch: Any) -> None:
    monkeypatch.setattr(shares, "WORKLOADS", {"w2": little("w2"), "w6": little("w6")})
    monkeypatch.setattr(shares, "EPOCHS", 1)
    assert all(0 < steps.median < whole.median for steps, whole in shares.displays(1).values())
    saved = shares.saves(1)
    assert list(saved) == ["best", "lean"]
    assert all(whole.median > 0 for _, whole in saved.values())


# The statistics.


def test_quartiles() -> None:
    assert statistics.spread([3.0]) == statistics.Spread(3.0, 3.0, 3.0)
    assert statistics.spread([4.0, 1.0, 3.0, 2.0]) == statistics.Spread(1.75, 2.5, 3.25)
    assert statistics.spread([5, 1, 4, 2, 3]) == statistics.Spread(2, 3, 4)
    with pytest.raises(ValueError, match="no values"):
        statistics.spread([])


def test_ratios_are_those_of_a_round() -> None:
    assert statistics.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        statistics.ratios([1.0], [1.0, 2.0])


def test_distance() -> None:
    a = [torch.tensor([1.0, -math.inf])]
    assert measure.distance(a, [torch.tensor([1.0, -math.inf])]) == 0
    assert measure.distance(a, [torch.tensor([1.5, -math.inf])]) == 0.5
    assert measure.distance(a, [torch.tensor([math.nan, -math.inf])]) == math.inf
    assert measure.distance(a, [torch.tensor([1.0])]) == math.inf


def test_figures_are_compared_by_name_and_value() -> None:
    rows = [{"train": {"loss": 1.0, "cm": torch.eye(2)}}]
    assert measure.different_figure([{"train": {"loss": 1.0 + 1e-7, "cm": torch.eye(2), "more": 1}}], rows) == ""
    assert measure.different_figure([{"train": {"loss": 1.0}}], rows) == "no train cm"
    assert "train loss of epoch 1 is 1.1" in measure.different_figure([{"train": {"loss": 1.1}}], rows)
    assert measure.different_figure([], rows) == "0 epochs, not 1"


@pytest.mark.parametrize("name", ["w1", "w2", "w4"])
def test_calls_are_counted_the_same_each_time(name: str) -> None:
    work = little(name)
    lean = next(contender for contender in ours.OURS if contender.name == "lean")
    first, second = (calls.calls_over_baseline(lean, work, "accuracy") for _ in range(2))
    assert first == second
    assert calls.calls_over_baseline(lean, work, "loss") < first
    assert calls.calls_over_baseline(by_hand.TOTALS, work, "loss") == 0
    assert calls.calls_over_baseline(by_hand.BEST, work, "loss") is None


def test_the_time_that_spans_cover() -> None:
    assert gpu.covered([]) == 0
    assert gpu.covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4


def test_the_loops_for_gpus_train_as_the_best_loop_does() -> None:
    work = little("w1")
    batches = gpu.Case.of(work, torch.device("cpu")).batches
    weights, rows = run(loops.best)
    net = work.model()
    figures = gpu.by_hand(net, batches, 2)
    assert measure.distance(list(net.state_dict().values()), weights) == 0
    assert figures[1] == pytest.approx((rows[1]["train"]["loss"], rows[1]["train"]["accuracy"]))
    net = work.model()
    gpu.ours(net, batches, 2)
    assert measure.distance(list(net.state_dict().values()), weights) == 0


def test_the_table_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("synchronize", "set_sync_debug_mode", "get_sync_debug_mode"):
        monkeypatch.setattr(torch.cuda, name, lambda *mode: None)
    monkeypatch.setattr(gpu, "busy", lambda loop, case: float("nan"))
    text = gpu.measured(gpu.Case.of(little("w1"), torch.device("cpu")), rounds=1)
    names = [line.split("|")[1].strip() for line in text.splitlines()[4:]]
    assert names == ["by hand", "by hand again", "tutorial", "lean"]
    lean = text.splitlines()[-1].split("|")
    assert lean[5].strip() == "0.00"
    assert lean[6].strip() == "nan%"
    assert lean[7].strip() == "equal"


def test_batches_are_pinned_where_they_have_to_be_copied() -> None:
    here = [(torch.zeros(2), torch.ones(2))]
    assert gpu.brought(here, torch.device("cpu")) is here
    parts = [SimpleNamespace(pin_memory=lambda name=name: Pinned(name), device="cpu") for name in "xy"]
    assert list(gpu.brought([tuple(parts)], torch.device("cuda", 0))) == [("x on cuda:0, True", "y on cuda:0, True")]


class Pinned:
    """A tensor in pinned memory."""

    def __init__(self, name: str) -> None:
        self.name = name

    def to(self, device: torch.device, non_blocking: bool) -> str:
        return f"{self.name} on {device}, {non_blocking}"


STEADY = """
import os
from benchmarks import steady
there = os.sched_getaffinity(0)
steady.steady()
steady.steady()
assert steady.cores() == sorted(there)
assert os.sched_getaffinity(0) == {min(there)}
child = os.fork()
if not child:
    os._exit(os.sched_getaffinity(0) != set(steady.others()))
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes stay on no core here")
def test_a_steady_process_and_those_that_it_forks_stay_on_their_cores() -> None:
    done = subprocess.run([sys.executable, "-c", STEADY], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The command.


def command(*options: str, module: str = "benchmarks") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_command_prints_a_table_and_its_control() -> None:
    done = command("--quick", "--workloads", "w1", "--rounds", "2", "--contenders", "lean,best again")
    assert done.returncode == 0, done.stderr
    assert "A/A: best again ÷ best is" in done.stdout
    assert "| lean " in done.stdout
    assert "a fit of one batch" in done.stdout
    assert "Not ranked" not in done.stdout


@pytest.mark.parametrize("wrong", [["--workloads", "w9"], ["--rounds", "0"], ["--contenders", "nobody"]])
def test_the_command_refuses_what_it_does_not_know(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        part("__main__").arguments(wrong)
    assert refused.value.code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_command_for_gpus_says_so_and_fails() -> None:
    assert gpu.main() == 1


# Memory.


def test_memory_of_few_and_many_batches_is_asked_of_fresh_processes() -> None:
    found = part("flat").growth(20, 200, ["confusion"])
    assert all(100 < few < 4000 and abs(many - few) < 50 for few, many in found.values())
    assert "confusion" in report.growth_report(found)


def test_what_is_measured_anew_takes_the_place_of_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "commit", lambda: "of commit 1234567")
    first = report.written("one", ["## w2: a\n\nold", "## The display, in %\n\na\n\n## Checkpoints, in %\n\nb"], "")
    both = report.written("two", ["## w1: b\n\nnew", "## w2: c\n\nnew"], first)
    heads = [line for line in both.splitlines() if line.startswith("#")]
    assert heads == [
        "# What a training loop costs",
        *("## w1: b", "## w2: c", "## The display, in %", "## Checkpoints, in %"),
    ]
    assert "old" not in both
    assert both.count(report.EXPLANATION) == 1
    assert [both.count(f"`{command}`, ") for command in ("one", "two")] == [2, 2]
    assert both.count("of commit 1234567") == 4


def test_a_commit_is_named_with_what_was_changed_since() -> None:
    name = report.commit()
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert name.startswith(f"of commit {head.stdout.strip()}" if head.returncode == 0 else "of no known commit")
