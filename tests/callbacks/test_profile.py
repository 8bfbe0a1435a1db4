"""`Profile`: the chosen updates are traced, and no others; what is written can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from deepepochs_like import Callback, Trainer
from deepepochs_like.callbacks.profile import Profile
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, EngineWarning
from support.digits import loader, mlp, same, weights

F = torch.nn.functional


def fit(folder: Path, *callbacks: Any, epochs: int = 2, **options: Any) -> Trainer:
    options = {"running_id": "a", "folder": folder, "verbose": 0, "device": "cpu", **options}
    trainer = Trainer(mlp(), F.cross_entropy, epochs=epochs, callbacks=list(callbacks), **options)
    trainer.fit(loader(last=160))  # 5 batches
    return trainer


def events(path: Path | None) -> list[dict[str, Any]]:
    assert path is not None
    return json.loads(path.read_text())["traceEvents"]  # type: ignore[no-any-return]


def calls(path: Path | None, name: str) -> int:
    return sum(event.get("name") == name and event.get("cat") == "cpu_op" for event in events(path))


def test_the_trace_has_the_chosen_updates(tmp_path: Path) -> None:
    profile = Profile(steps=(3, 7), show=False)
    fit(tmp_path, profile)
    assert profile.trace == tmp_path / "a" / "profile-3-7.json"
    assert calls(profile.trace, "aten::addmm") == 4 * 2  # two layers in each of four batches
    assert [path.name for path in (tmp_path / "a").glob("profile*")] == ["profile-3-7.json"]


def test_the_operations_are_those_of_the_trace(tmp_path: Path) -> None:
    profile = Profile(steps=(0, 2), show=False, top=200)
    fit(tmp_path, profile)
    found = {row["name"]: row for row in profile.operations}
    assert found["aten::addmm"]["calls"] == calls(profile.trace, "aten::addmm") == 4
    assert sum(row["share"] for row in profile.operations) == pytest.approx(1)
    seconds = [row["seconds"] for row in profile.operations]
    assert seconds == sorted(seconds, reverse=True)
    assert all(second >= 0 for second in seconds)


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = Profile(steps=(0, 2), top=4)
    fit(tmp_path, profile, verbose=1)
    said = capsys.readouterr().out
    assert str(profile.trace) in said
    assert profile.table() + "\n" in said
    fit(tmp_path, Profile(steps=(0, 2)), running_id="silent")
    assert capsys.readouterr().out == ""
    lines = profile.table().splitlines()
    assert lines[0].split() == ["operation", "calls", "own", "ms", "share"]
    assert len(lines) == 5
    assert max(map(len, lines)) <= 80


def test_a_run_that_ends_before_has_a_shorter_trace(tmp_path: Path) -> None:
    profile = Profile(steps=(8, 100), show=False)
    fit(tmp_path, profile)
    assert calls(profile.trace, "aten::addmm") == 2 * 2


def test_a_run_that_never_comes_there_writes_none(tmp_path: Path) -> None:
    profile = Profile(steps=(50, 60), show=False)
    with pytest.warns(EngineWarning, match=r"Profile\(50, 60\) traced nothing: .* ended behind 10 of them"):
        fit(tmp_path, profile)
    assert profile.trace is None
    assert list((tmp_path / "a").glob("profile*")) == []


def test_a_resumed_run_profiles_what_is_left(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.step == 4:
                trainer.stop("cut")

    first, second, late = Profile(steps=(3, 6), show=False), Profile(steps=(3, 6), show=False), Profile(steps=(0, 2))
    state = fit(tmp_path, first, Stop()).state_dict()
    assert calls(first.trace, "aten::addmm") == 1 * 2
    resumed = Trainer(
        mlp(), F.cross_entropy, epochs=2, callbacks=[second, late, Stop()], verbose=0, folder=tmp_path, device="cpu"
    )
    resumed.load_state_dict(state)
    resumed.fit(loader(last=160))
    assert calls(second.trace, "aten::addmm") == 2 * 2
    assert late.trace is None


def test_weights_are_those_without_it(tmp_path: Path) -> None:
    def run(*callbacks: Any) -> list[Tensor]:
        return weights(fit(tmp_path, *callbacks).model.model)

    assert same(run(), run(Profile(steps=(2, 4), show=False, memory=True, shapes=True, stacks=True)))


def test_an_error_ends_the_profiler(tmp_path: Path) -> None:
    class Fail(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            raise ValueError("mine")

    profile = Profile(steps=(0, 9), show=False)
    with pytest.raises(ValueError, match="mine"):
        fit(tmp_path, profile, Fail())
    assert not torch._C._autograd._profiler_enabled()
    assert profile.trace is None


def test_accumulation_counts_updates(tmp_path: Path) -> None:
    profile = Profile(steps=(1, 2), show=False)
    fit(tmp_path, profile, accumulate=2)
    assert calls(profile.trace, "aten::addmm") == 2 * 2


def test_validation_does_not_begin_it(tmp_path: Path) -> None:
    profile = Profile(steps=(0, 1), show=False)
    trainer = Trainer(mlp(), F.cross_entropy, callbacks=profile, verbose=0, folder=tmp_path, device="cpu")
    trainer.validate(loader())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [(3,), 5, (1.0, 2), (True, 2), "ab", None])
def test_what_are_no_steps(steps: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="two ints are needed"):
        Profile(steps=steps)


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match=r"steps=\(5, 5\)"):
        Profile(steps=(5, 5))
    with pytest.raises(ArgumentError, match="top=0"):
        Profile(top=0)
    with pytest.raises(ArgumentTypeError, match="did you mean 'stacks'"):
        Profile(stack=True)  # type: ignore[arg-type]
