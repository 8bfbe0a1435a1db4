"""Checkpoints of DeepEpochs: files and, with an Accelerator, folders; read without running anything from them."""

from __future__ import annotations

import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from deepepochs_like import Optimizer, Trainer
from deepepochs_like.errors import StateError
from deepepochs_like.legacy import load_deepepochs

X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
DATA = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, 16, 4)]


def trainer_of(seed: int, build: Callable[[nn.Module], Any] | None = None, **arguments: Any) -> Trainer:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    opt = None if build is None else build(model)
    return Trainer(model, nn.functional.cross_entropy, opt, **{"device": "cpu", "verbose": 0, **arguments})


def sgd(model: nn.Module) -> Any:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def scheduled(make: Callable[[Any], Any], **options: Any) -> Callable[[nn.Module], Any]:
    def build(model: nn.Module) -> Any:
        adam = torch.optim.Adam(model.parameters(), 0.1)
        return Optimizer(adam, make(adam), **options)

    return build


def two(model: Any) -> Any:
    return [torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.Adam(model[1].parameters(), 0.1)]


BUILDS = {
    "adam by default": None,
    "momentum": sgd,
    "two": two,
    "StepLR": scheduled(lambda o: lr_scheduler.StepLR(o, 1, 0.5)),
    "MultiStepLR": scheduled(lambda o: lr_scheduler.MultiStepLR(o, [1, 5], 0.5)),
    "ReduceLROnPlateau": scheduled(lr_scheduler.ReduceLROnPlateau, sched_with_loss=True),
    "LambdaLR": scheduled(lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch)),
    "OneCycleLR": scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=40), sched_on="step"),
}


def content(trainer: Trainer, epoch: int) -> dict[str, Any]:
    """What DeepEpochs saves."""
    optimizers = [optimizer.state_dict() for optimizer in trainer.opt]
    return {
        "model_state": trainer.model.state_dict(),
        "opt_state": [{"opt_state": o["opt"], "sched_state": o["scheduler"]} for o in optimizers],
        "best_value": torch.tensor(0.5),
        "epoch": epoch,
    }


def snapshot(trainer: Trainer) -> Any:
    return pickle.dumps(
        [
            {name: value.tolist() for name, value in trainer.model.state_dict().items()},
            repr(trainer.opt.state_dict()),
            trainer.progress,
        ]
    )


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(value: Any, name: str = "checkpoint.ckpt") -> Path:
        torch.save(value, tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.parametrize("build", BUILDS.values(), ids=list(BUILDS))
def test_training_goes_on_from_a_file(saved: Callable[..., Path], build: Any) -> None:
    first = trainer_of(0, build)
    first.fit(DATA, epochs=2)
    path = saved(content(first, epoch=1))
    second = trainer_of(1, build)
    load_deepepochs(second, path)
    assert second.progress.epoch == 2
    for trainer in (first, second):
        trainer.fit(DATA, epochs=1)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert first.opt.get_current_lr() == second.opt.get_current_lr()
    assert first.opt.get_last_lr() == second.opt.get_last_lr()


def test_a_path_may_be_a_string(saved: Callable[..., Path]) -> None:
    first, second = trainer_of(0), trainer_of(1)
    load_deepepochs(second, str(saved(content(first, 0))))
    assert second.progress.epoch == 1


def test_a_compiled_model_is_saved_under_names_of_the_compiler(saved: Callable[..., Path]) -> None:
    first, second = trainer_of(0), trainer_of(1)
    state = content(first, 0)
    state["model_state"] = {f"_orig_mod.{name}": value for name, value in state["model_state"].items()}
    load_deepepochs(second, saved(state))
    assert all(torch.equal(value, second.model.state_dict()[name]) for name, value in first.model.state_dict().items())


def changed(key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, key: value}


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {k: v for k, v in state.items() if k != key}


def damaged(optimizer_state: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {**state, "opt_state": [{"opt_state": optimizer_state, "sched_state": None}]}


def smaller(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "model_state": {**state["model_state"], "0.weight": torch.zeros(2, 2)}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: [state], "holds a list, no dict"),
        (lambda state: torch.zeros(2), "holds a Tensor, no dict"),
        (without("epoch"), "'epoch' is not in it"),
        (changed("epoch", "1"), "'epoch' is a str; an int is needed"),
        (changed("epoch", -1), "'epoch' is an int"),
        (without("model_state"), "'model_state' is not in it"),
        (changed("model_state", [1]), "'model_state' is a list"),
        (changed("opt_state", {}), "'opt_state' is a dict"),
        (changed("opt_state", []), "has 0 optimizers; the trainer has 1"),
        (changed("opt_state", [{"opt_state": {}}]), "'opt_state' and 'sched_state' is needed"),
        (changed("model_state", {}), r"missing 0\.bias"),
        (smaller, r"0\.weight: \(2, 2\) instead of \(5, 4\)"),
        (damaged({}), "damaged"),
        (damaged({"state": {}, "param_groups": [{"params": [0]}]}), "parameter groups of sizes"),
        (damaged({"state": {9: {"a": torch.ones(2)}}, "param_groups": [{"params": [0, 1, 2, 3]}]}), "damaged"),
        (damaged(3), "damaged"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(saved: Callable[..., Path], change: Any, said: str) -> None:
    first, second = trainer_of(0, sgd), trainer_of(1, sgd)
    first.fit(DATA, epochs=1)
    before = snapshot(second)
    path = saved(change(content(first, 0)))
    with pytest.raises(StateError, match=said):
        load_deepepochs(second, path)
    assert snapshot(second) == before


@pytest.mark.parametrize(
    ("theirs", "mine", "said"),
    [
        (sgd, None, "another kind of optimizer"),
        (None, sgd, "another kind of optimizer"),
        (two, None, "has 2 optimizers; the trainer has 1"),
        (BUILDS["StepLR"], None, "has no scheduler; the state has one"),
        (None, BUILDS["StepLR"], "has a scheduler; the state has none"),
        (BUILDS["StepLR"], BUILDS["MultiStepLR"], "is a MultiStepLR, which has no step_size"),
        (BUILDS["OneCycleLR"], BUILDS["StepLR"], "is a StepLR, which has no cycle_momentum"),
    ],
)
def test_other_optimizers_and_schedulers(saved: Callable[..., Path], theirs: Any, mine: Any, said: str) -> None:
    first, second = trainer_of(0, theirs), trainer_of(1, mine)
    first.fit(DATA, epochs=1)
    before, path = snapshot(second), saved(content(first, 0))
    with pytest.raises(StateError, match=said):
        load_deepepochs(second, path)
    assert snapshot(second) == before


# Nothing in a file is run.

RAN: list[str] = []


def run_me(word: str) -> str:
    RAN.append(word)
    return word


class Malicious:
    def __reduce__(self) -> Any:
        return run_me, ("run",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("place", ["model_state", "opt_state", "best_value", "epoch", "more"])
def test_no_code_of_a_file_is_run(tmp_path: Path, zipped: bool, place: str) -> None:
    trainer, path = trainer_of(0), tmp_path / "checkpoint.ckpt"
    torch.save({**content(trainer, 0), place: Malicious()}, path, _use_new_zipfile_serialization=zipped)
    before = snapshot(trainer)
    with pytest.raises(StateError, match=r"is refused: it holds .*run_me, and loading that could run code"):
        load_deepepochs(trainer, path)
    assert RAN == []
    assert snapshot(trainer) == before


def test_no_code_of_a_bare_pickle_is_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.ckpt"
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(StateError, match="refused"):
        load_deepepochs(trainer_of(0), path)
    assert RAN == []


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04", bytes(1000)], ids=["empty", "text", "zip head", "zeros"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "checkpoint.ckpt"
    path.write_bytes(data)
    with pytest.raises(StateError, match=r"checkpoint\.ckpt (cannot be read|is refused)"):
        load_deepepochs(trainer_of(0), path)


def test_a_file_cut_short(saved: Callable[..., Path]) -> None:
    trainer = trainer_of(0)
    path = saved(content(trainer, 0))
    whole = path.read_bytes()
    for length in range(1, len(whole), 500):
        path.write_bytes(whole[:length])
        with pytest.raises(StateError):
            load_deepepochs(trainer, path)


def test_altered_weights_are_noticed(saved: Callable[..., Path]) -> None:
    trainer = trainer_of(0)
    path = saved(content(trainer, 0))
    whole = bytearray(path.read_bytes())
    place = whole.find(trainer.model.state_dict()["0.weight"].numpy().tobytes())
    for offset in range(place, place + 80):
        whole[offset] ^= 1
        path.write_bytes(whole)
        with pytest.raises(StateError, match="is damaged: the checksum"):
            load_deepepochs(trainer, path)
        whole[offset] ^= 1


def test_a_compressed_file_is_refused_before_it_is_unpacked(saved: Callable[..., Path]) -> None:
    trainer = trainer_of(0)
    path = saved({**content(trainer, 0), "bomb": torch.zeros(2_000_000)})
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    assert path.stat().st_size < 200_000
    with pytest.raises(StateError, match="is refused"):
        load_deepepochs(trainer, path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_deepepochs(trainer_of(0), tmp_path / "nothing.ckpt")


def test_folders_need_meta_and_an_accelerator(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"without meta\.ckpt"):
        load_deepepochs(trainer_of(0), tmp_path)
    torch.save({"epoch": 1, "best_value": torch.tensor(0.5)}, tmp_path / "meta.ckpt")
    with pytest.raises(StateError, match="written through an Accelerator"):
        load_deepepochs(trainer_of(0), tmp_path)


# With an Accelerator.


class Accelerated:
    """A trainer whose objects an Accelerator has prepared, and the folder that DeepEpochs would have written."""

    def __init__(
        self, seed: int, width: int = 5, tied: bool = False, momentum: bool = False, gamma: float = 0.5
    ) -> None:
        accelerate = pytest.importorskip("accelerate")
        self.accelerator = accelerate.Accelerator(cpu=True)
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 3))
        if tied:
            model[1].bias = model[0].bias
        parameters = model.parameters()
        opt = torch.optim.SGD(parameters, 0.1, momentum=0.9) if momentum else torch.optim.Adam(parameters, 0.1)
        schedule: Any = lr_scheduler.StepLR(opt, 1, gamma) if gamma else lr_scheduler.MultiStepLR(opt, [1])
        self.model, self.opt, self.schedule = self.accelerator.prepare(model, opt, schedule)
        self.trainer = Trainer(
            self.model,
            nn.functional.cross_entropy,
            Optimizer(self.opt, self.schedule),
            device=self.accelerator,
            verbose=0,
        )

    def save(self, folder: Path, epoch: int) -> Path:
        self.accelerator.save_state(str(folder))
        torch.save({"epoch": epoch, "best_value": torch.tensor(0.5)}, folder / "meta.ckpt")
        return folder


@pytest.fixture
def keep_generators() -> Any:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


pytestmark = pytest.mark.usefixtures("keep_generators")
accelerated = pytest.mark.filterwarnings("ignore::UserWarning:accelerate", "ignore::FutureWarning")


@accelerated
@pytest.mark.parametrize("tied", [False, True])
def test_training_goes_on_from_a_folder(tmp_path: Path, tied: bool) -> None:
    first, second = Accelerated(0, tied=tied), Accelerated(1, tied=tied)
    first.trainer.fit(DATA, epochs=2)
    load_deepepochs(second.trainer, first.save(tmp_path / "checkpoint.ckpt", epoch=1))
    assert second.trainer.progress.epoch == 2
    for one in (first, second):
        one.trainer.fit(DATA, epochs=1)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert first.trainer.opt.get_current_lr() == second.trainer.opt.get_current_lr()


@accelerated
@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"width": 6}, r"does not fit model 0: shapes 0\.weight"),
        ({"momentum": True}, "optimizer 0 is another kind of optimizer"),
        ({"gamma": 0.0}, "scheduler 0 is a StepLR, which has no milestones"),
    ],
)
def test_a_folder_that_does_not_fit_changes_nothing(tmp_path: Path, theirs: Any, said: str) -> None:
    first, second = Accelerated(0, **theirs), Accelerated(1)
    folder, before = first.save(tmp_path / "c", 0), snapshot(second.trainer)
    with pytest.raises(StateError, match=said):
        load_deepepochs(second.trainer, folder)
    assert snapshot(second.trainer) == before


@accelerated
@pytest.mark.parametrize("name", ["meta.ckpt", "optimizer.bin", "scheduler.bin", "custom_checkpoint_0.pkl"])
def test_no_code_of_a_folder_is_run(tmp_path: Path, name: str) -> None:
    first, second = Accelerated(0), Accelerated(1)
    folder, before = first.save(tmp_path / "c", 0), snapshot(second.trainer)
    torch.save(Malicious(), folder / name)
    with pytest.raises(StateError, match=r"run any code|could run code"):
        load_deepepochs(second.trainer, folder)
    assert RAN == []
    assert snapshot(second.trainer) == before


@accelerated
def test_no_code_of_the_generators_file_is_run(tmp_path: Path) -> None:
    first, second = Accelerated(0), Accelerated(1)
    folder = first.save(tmp_path / "c", 0)
    torch.save(Malicious(), folder / "random_states_0.pkl")
    load_deepepochs(second.trainer, folder)  # accelerate goes on without the generators it cannot read
    assert RAN == []


@accelerated
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "scheduler.bin"])
def test_a_folder_with_a_damaged_or_missing_file(tmp_path: Path, name: str) -> None:
    first, second = Accelerated(0), Accelerated(1)
    folder, before = first.save(tmp_path / "c", 0), snapshot(second.trainer)
    (folder / name).write_bytes(b"x")
    with pytest.raises(StateError, match=name.replace(".", r"\.")):
        load_deepepochs(second.trainer, folder)
    (folder / name).unlink()
    with pytest.raises((StateError, FileNotFoundError)):
        load_deepepochs(second.trainer, folder)
    assert snapshot(second.trainer) == before


@accelerated
def test_a_file_fits_a_trainer_with_an_accelerator(saved: Callable[..., Path]) -> None:
    first, second = Accelerated(0), Accelerated(1)
    first.trainer.fit(DATA, epochs=1)
    load_deepepochs(second.trainer, saved(content(first.trainer, 0)))
    assert all(torch.equal(value, second.model.state_dict()[name]) for name, value in first.model.state_dict().items())
