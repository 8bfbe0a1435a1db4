"""The store of checkpoints: what it keeps, what it finds, and what it refuses."""

from __future__ import annotations

import enum
import os
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepepochs_like import storage
from deepepochs_like.checkpoint import CheckpointStore, load_into
from deepepochs_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    CheckpointError,
    EngineWarning,
    StateError,
    StorageError,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CheckpointStore]:
    made = CheckpointStore(tmp_path / "checkpoints")
    yield made
    made.close()


def steps(store: CheckpointStore) -> list[int]:
    return [entry.step for entry in store.entries()]


def test_a_save_is_found_and_loaded_by_name(store: CheckpointStore) -> None:
    net, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    saved = store.save({"net": net, "note": "n"}, step=7, epoch=2, figures={"loss": torch.tensor(0.5)})
    found = store.restore({"net": other})
    assert found == saved
    assert (saved.step, saved.epoch, saved.figures, saved.size) == (7, 2, {"loss": 0.5}, saved.path.stat().st_size)
    assert torch.equal(net.weight, other.weight)


def test_torch_alone_can_read_a_checkpoint(store: CheckpointStore) -> None:
    path = store.save({"weights": torch.arange(3)}, 1).path
    assert torch.load(path, weights_only=True)["weights"].tolist() == [0, 1, 2]


def test_an_empty_folder_has_no_newest(store: CheckpointStore) -> None:
    assert (store.newest(), store.restore({}), store.entries()) == (None, None, [])


@pytest.mark.parametrize("keep_last", [2, 3])
def test_only_the_last_are_kept(tmp_path: Path, keep_last: int) -> None:
    store = CheckpointStore(tmp_path, keep_last=keep_last)
    for step in range(6):
        store.save({}, step)
    assert steps(store) == [5, 4, 3][:keep_last]


def test_keeping_one_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="at least 2 is needed; with fewer, damage to one file would lose the run"):
        CheckpointStore(tmp_path, keep_last=1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"keep_last": 2.0}, ArgumentTypeError),
        ({"keep_last": True}, ArgumentTypeError),
        ({"keep_best": -1, "monitor": "loss"}, ArgumentError),
        ({"keep_best": 1}, ArgumentError),
        ({"mode": "mix"}, ArgumentError),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        CheckpointStore(tmp_path, **options)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"step": -1}, ArgumentError),
        ({"step": True}, ArgumentError),
        ({"step": 1 << 63}, ArgumentError),
        ({"step": 1, "epoch": 1.5}, ArgumentTypeError),
        ({"step": 1, "figures": {"loss": "low"}}, ArgumentTypeError),
        ({"step": 1, "figures": {"loss": 10**400}}, ArgumentTypeError),
    ],
)
def test_a_save_that_could_not_be_listed_is_refused(
    store: CheckpointStore, given: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        store.save({}, **given)
    assert not store.folder.exists()


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 3)])
def test_the_best_stays_and_nan_is_never_best(tmp_path: Path, mode: str, best: int) -> None:
    store = CheckpointStore(tmp_path, keep_best=1, monitor="loss", mode=mode)
    for step, loss in enumerate([float("nan"), 0.5, 0.1, 0.9, 0.5, float("nan"), 0.5]):
        store.save({}, step, figures={"loss": loss})
    assert steps(store) == [6, 5, best]
    found = store.best()
    assert found is not None
    assert found.step == best


def test_without_the_figure_there_is_no_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, monitor="loss")
    store.save({}, 1, figures={"loss": float("nan")})
    assert store.best() is None
    store.close()
    with pytest.raises(ArgumentError, match="monitor"):
        CheckpointStore(tmp_path).best()


def test_a_pinned_one_stays_even_when_its_step_is_saved_again(store: CheckpointStore) -> None:
    store.save({}, 1, pinned=True)
    store.save({}, 1)
    for step in (2, 3, 4):
        store.save({}, step)
    assert steps(store) == [4, 3, 1]


def test_the_newest_is_that_of_the_highest_step_whatever_the_times_of_files(store: CheckpointStore) -> None:
    old, new = store.save({}, 1).path, store.save({}, 2).path
    os.utime(old, (2e9, 2e9))
    os.utime(new, (1, 1))
    assert steps(store) == [2, 1]


def test_names_do_not_tell_the_order(store: CheckpointStore) -> None:
    for step in (2, 10):
        store.save({}, step).path.rename(store.folder / f"{step}.ckpt")
    assert steps(store) == [10, 2]


def test_many_updates_are_no_problem(store: CheckpointStore) -> None:
    for step in (10**7, 10**7 + 1, 10**13):
        store.save({}, step)
    assert steps(store) == [10**13, 10**7 + 1]


def test_loading_is_all_or_nothing() -> None:
    good, bad = torch.nn.Linear(2, 1), torch.nn.Linear(3, 1)
    before = good.weight.detach().clone()
    content = {"good": torch.nn.Linear(2, 1).state_dict(), "bad": torch.nn.Linear(4, 1).state_dict()}
    with pytest.raises(StateError, match="file: the state of 'bad' does not fit"):
        load_into({"good": good, "bad": bad}, content, "file")
    assert torch.equal(good.weight, before)
    with pytest.raises(StateError, match="has no 'other'"):
        load_into({"good": good, "other": bad}, content, "file")
    assert torch.equal(good.weight, before)


def test_an_interrupt_while_loading_puts_everything_back() -> None:
    class Interrupted(torch.nn.Linear):
        def load_state_dict(self, *args: Any, **named: Any) -> Any:
            raise KeyboardInterrupt

    good = torch.nn.Linear(2, 1)
    before = good.weight.detach().clone()
    content = {"good": torch.nn.Linear(2, 1).state_dict(), "bad": {}}
    with pytest.raises(KeyboardInterrupt):
        load_into({"good": good, "bad": Interrupted(1, 1)}, content, "file")
    assert torch.equal(good.weight, before)


class Color(str, enum.Enum):
    RED = "red"


class Marked(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (b"", b""),
        (Color.RED, "red"),
        (np.float64(1.5), 1.5),
        (np.array(2.0), torch.tensor(2.0, dtype=torch.float64)),
        (np.array([1, 2], ">i4"), torch.tensor([1, 2], dtype=torch.int32)),
        (torch.arange(1000)[3:5], torch.tensor([3, 4])),
        (torch.nn.Parameter(torch.ones(2)), torch.ones(2)),
        (torch.ones(2).as_subclass(Marked), torch.ones(2)),
        ({(1, "a"): [{2}, (None, True)]}, {(1, "a"): [{2}, (None, True)]}),
        ("\ud800", "\ud800"),
    ],
)
def test_what_is_saved_comes_back_plain(tmp_path: Path, given: Any, stored: Any) -> None:
    path = tmp_path / "file"
    assert storage.write_sealed(path, given, {}) < 4000
    found = storage.read_sealed(path)[0]
    assert type(found) is type(stored)
    if isinstance(stored, torch.Tensor):
        torch.testing.assert_close(found, stored)
    else:
        assert found == stored


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(250):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"a": [1, object()]}, r"step-0+1\.ckpt\['a'\]\[1\] is an object"),
        ({"a": {b"key": 1}}, r"\['a'\] has a key b'key'"),
        ({"a": 2**3000}, r"\['a'\] is an int of 3001 bits"),
        ({"a": np.datetime64("2020-01-01")}, r"\['a'\] is a date"),
        ({"a": np.array(["x"])}, r"\['a'\] is an ndarray"),
        ({"a": lambda: None}, r"\['a'\] is a function"),
        ({"a": deep()}, "nested too deeply"),
    ],
)
def test_what_cannot_be_saved_is_named_by_its_place(store: CheckpointStore, content: Any, says: str) -> None:
    with pytest.raises(StorageError, match=says):
        store.save(content, 1)
    assert store.entries() == []


leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**1999), 2**1999), st.floats(allow_nan=False), st.text())
contents = st.recursive(
    leaves | st.binary() | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=8,
)


@given(content=contents)
def test_all_plain_data_comes_back_as_it_was(content: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file"
        storage.write_sealed(path, content, {"about": 1})
        assert storage.read_sealed(path) == (content, {"about": 1})
        assert storage.describe(path) == {"about": 1}
        assert storage.is_sealed(path)


saves = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from([0.1, 0.5, 0.9, float("nan"), None]), st.booleans()),
    min_size=1,
    max_size=8,
)


@given(saves=saves, keep_last=st.integers(2, 4), keep_best=st.integers(0, 2), mode=st.sampled_from(["min", "max"]))
def test_kept_is_what_the_definition_says(
    saves: list[tuple[int, float | None, bool]], keep_last: int, keep_best: int, mode: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        store = CheckpointStore(name, keep_last, keep_best, "loss", mode)
        there: dict[int, tuple[float | None, bool]] = {}
        for step, loss, pinned in saves:
            store.save({}, step, figures={} if loss is None else {"loss": loss}, pinned=pinned)
            there[step] = loss, pinned or there.get(step, (None, False))[1]
            kept = defined(there, step, keep_last, keep_best, mode)
            assert steps(store) == sorted(kept, reverse=True)
            assert step in kept
            assert len(kept) >= min(2, len(there))
            there = {s: there[s] for s in kept}
        store.close()


def defined(
    there: dict[int, tuple[float | None, bool]], new: int, keep_last: int, keep_best: int, mode: str
) -> set[int]:
    others = sorted(set(there) - {new}, reverse=True)
    losses = {s: loss for s, (loss, _) in there.items() if loss is not None and loss == loss}
    best = sorted(losses, key=lambda s: (losses[s] if mode == "min" else -losses[s], s))
    pinned = {s for s, (_, pinned) in there.items() if pinned}
    return {new, *others[: keep_last - 1], *best[:keep_best], *pinned}


def test_damage_is_named_and_the_one_before_is_used(store: CheckpointStore) -> None:
    store.save({"a": 1}, 1)
    path = store.save({"a": 2}, 2).path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(EngineWarning, match=f"{path.name} is damaged.*step-0+1.ckpt is used instead"):
        found = store.newest()
    assert found is not None
    assert found.step == 1


def test_with_nothing_valid_left_each_file_is_listed(store: CheckpointStore) -> None:
    paths = [store.save({}, step).path for step in (1, 2)]
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"{paths[0].name} is empty; .*{paths[1].name} is empty"):
        store.newest()


def test_what_a_killed_save_left_is_cleared_away_before_the_next(store: CheckpointStore) -> None:
    store.save({}, 1)
    left = store.folder / f"step-000000000005.ckpt{storage.PARTIAL}"
    os.mkfifo(left)
    store.save({}, 2)
    assert not left.exists()


def test_a_folder_that_vanished_is_made_and_locked_anew(store: CheckpointStore) -> None:
    path = store.save({}, 1).path
    path.unlink()
    (store.folder / ".lock").unlink()
    store.folder.rmdir()
    with pytest.warns(EngineWarning, match="it is made anew"):
        store.save({}, 2)
    assert steps(store) == [2]
    with pytest.raises(CheckpointError, match="in use by process"):
        CheckpointStore(store.folder).open()


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = CheckpointStore("checkpoints")
    store.save({}, 1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.save({}, 2)
    assert steps(store) == [2, 1]


def test_a_save_behind_checkpoints_that_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    for step in (20, 30):
        CheckpointStore(tmp_path).save({"a": step}, step)
    store = CheckpointStore(tmp_path)
    for _ in range(2):
        with pytest.raises(ArgumentError, match=r"step=10: .* up to step 30, .*call restore\(\).*another folder"):
            store.save({"a": 0}, 10)
    CheckpointStore(tmp_path).save({"a": 30}, 30)  # nothing was locked, and the same step may be saved again
    first = store.entries()[-1]
    assert first.load_into({}) is first
    store.save({"a": 0}, 25)  # somebody who has looked goes back on purpose
    store.close()
    assert CheckpointStore(tmp_path).save({"a": 0}, 31).step == 31


def test_two_rules_for_one_folder_keep_what_either_keeps(tmp_path: Path) -> None:
    first = CheckpointStore(tmp_path, keep_best=1, monitor="a")
    second = CheckpointStore(tmp_path, keep_last=3, keep_best=1, monitor="b", mode="max")
    second.join(first)
    for step, (a, b) in enumerate([(0, 5), (1, 9), (2, 1), (3, 1), (4, 1), (5, 1)]):
        (first, second)[step % 2].save({}, step, figures={"a": a, "b": b})
    assert sorted(entry.step for entry in first.entries()) == [0, 1, 3, 4, 5]
    first.close()
    CheckpointStore(tmp_path).save({}, 6)


def test_a_counter_and_the_versions_of_a_state_dict_come_back(tmp_path: Path) -> None:
    store, net = CheckpointStore(tmp_path), torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    schedule = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD(net.parameters(), 0.1), [2, 2, 5])
    ordered = OrderedDict(b=1, a=frozenset([1]))
    store.save({"net": net, "schedule": schedule, "c": Counter("aab"), "o": ordered}, 1)
    content = store.newest().read()  # type: ignore[union-attr]
    assert content["net"]._metadata == net.state_dict()._metadata
    assert content["net"]._metadata["0"] == {"version": 2}
    assert content["schedule"]["milestones"] == Counter({2: 2, 5: 1})
    assert (type(content["c"]), content["c"]) == (Counter, Counter("aab"))
    assert (type(content["o"]), list(content["o"].items())) == (OrderedDict, [("b", 1), ("a", {1})])
    store.restore({"net": net, "schedule": schedule})
    assert isinstance(schedule.milestones, Counter)
    loaded = torch.load(store.entries()[0].path, weights_only=True)
    assert loaded["net"]._metadata["0"] == {"version": 2}
