"""Weights in and out of files: what is written, what is taken, and what is refused."""

from __future__ import annotations

import copy
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deepepochs_like import Trainer, load_weights, save_weights, storage
from deepepochs_like.errors import ArgumentError, CheckpointError, StateError, StorageError
from deepepochs_like.weights import weights_in

Loader = Callable[[Any, Path], Any]
LOADERS: list[Loader] = [load_weights, lambda model, path: trainer_of(model).load_weights(path)]


class Holder(nn.Module):
    """A model of which a part is really called ``module``."""

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.module = nn.Linear(3, 2)
        if head:
            self.head = nn.Linear(2, 4)


class Noted(nn.Linear):
    """A layer with a state beside its tensors, which it can refuse."""

    note: Any = "n"

    def get_extra_state(self) -> Any:
        return self.note

    def set_extra_state(self, state: Any) -> None:
        if state == "refused":
            raise ValueError("not this one")
        self.note = state


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def trainer_of(model: Any, **options: Any) -> Trainer:
    return Trainer(model, F.mse_loss, verbose=0, device="cpu", **options)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict().values(), b.state_dict().values()
    return all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def left_as_it_was(model: nn.Module, load: Callable[[], Any], error: type[Exception], match: str) -> None:
    before = copy.deepcopy(model)
    with pytest.raises(error, match=match):
        load()
    assert same(model, before)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
def test_round_trip(tmp_path: Path, ending: str) -> None:
    model, other = net(0), net(1)
    model[1].running_mean.add_(3.0)
    path = save_weights(model, tmp_path / f"net{ending}")
    report = load_weights(other, str(path))
    assert same(model, other)
    assert (report.taken, report.skipped, report.missing) == (list(model.state_dict()), {}, [])


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_trainer_saves_and_loads_them_too(tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, other = net(0), net(1)
    path = trainer_of(model).save_weights(tmp_path / f"net{ending}")
    trainer = trainer_of(other)
    assert trainer.load_weights(path).missing == []
    assert same(model, other)
    assert capsys.readouterr().out == ""


def test_torch_alone_reads_and_loads_them(tmp_path: Path) -> None:
    model, other = net(0), net(1)
    state = torch.load(save_weights(model, tmp_path / "net.pt"), weights_only=True)
    other.load_state_dict(state)
    assert same(model, other)


def test_safetensors_alone_reads_and_loads_them(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, other = net(0), net(1)
    other.load_state_dict(load_file(save_weights(model, tmp_path / "net.safetensors")))
    assert same(model, other)


def test_weights_that_do_not_lie_in_a_row_are_saved(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    model.weight = nn.Parameter(torch.arange(6.0).reshape(3, 2).t())
    for name in ("a.pt", "a.safetensors"):
        load_weights(other, save_weights(model, tmp_path / name))
        assert same(model, other)


@pytest.mark.parametrize("name", ["net.ckpt", "net.PT", "net.bin", "net.safetensor"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"saved as \.pt, \.pth or \.safetensors, not \{Path(name).suffix}"):
        save_weights(net(), tmp_path / name)
    with pytest.raises(ArgumentError, match="this has no ending"):
        save_weights(net(), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_strictly_a_misfit_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    path = save_weights(net(), tmp_path / "net.pt")
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(4, affine=False), nn.ReLU(), nn.Linear(4, 2), nn.Linear(2, 1))
    with pytest.raises(StateError) as caught:
        load_weights(model, path)
    said = str(caught.value)
    assert "strict=False loads what does" in said
    for line in (
        "0.weight: shape (4, 3), the model's is shape (5, 3)",
        "1.weight: the model has no such name",
        "4.bias: missing in the file",
    ):
        assert f"  {line}" in said.splitlines()
    for load in LOADERS:
        left_as_it_was(model, lambda load=load: load(model, path), StateError, "does not fit the model")


def test_without_strict_what_fits_is_taken_and_a_trainer_says_what(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = net()
    path = save_weights(source, tmp_path / "net.pt")
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(4, affine=False), nn.ReLU(), nn.Linear(4, 2), nn.Linear(2, 1))
    report = trainer_of(model).load_weights(path, strict=False)
    assert report.taken == ["1.running_mean", "1.running_var", "1.num_batches_tracked", "3.weight", "3.bias"]
    assert list(report.skipped) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert report.missing == ["4.weight", "4.bias"]
    assert torch.equal(model[3].weight, source[3].weight)
    said = capsys.readouterr().out
    assert said == f"{report}\n"
    assert said.startswith("weights: 5 taken, 4 skipped, 2 missing\n")
    assert "  taken    3.bias\n" in said
    assert "  skipped  0.weight: shape (4, 3), the model's is shape (5, 3)\n" in said
    assert "  skipped  1.bias: the model has no such name\n" in said
    assert said.endswith("  missing  4.weight\n  missing  4.bias\n")


@pytest.mark.parametrize("strict", [True, False])
def test_nothing_that_fits_is_an_error(tmp_path: Path, strict: bool) -> None:
    path = save_weights(nn.Linear(3, 2), tmp_path / "a.pt")
    model = nn.Linear(5, 4)
    match = r"fit[\s\S]*weight: shape \(2, 3\), the model's is shape \(4, 5\)"
    left_as_it_was(model, lambda: load_weights(model, path, strict), StateError, match)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda model: model,
    "parallel": nn.DataParallel,
    "compiled": compiled,
    "compiled in parallel": lambda model: nn.DataParallel(compiled(model)),
    "parallel, compiled": lambda model: compiled(nn.DataParallel(model)),
    "parallel twice": lambda model: nn.DataParallel(nn.DataParallel(model)),
    "averaged": torch.optim.swa_utils.AveragedModel,
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": net,
    "with a module": Holder,
    "nothing but a module": lambda: Holder(head=False),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("inside", [w for w in WRAPPERS if w != "averaged"])
@pytest.mark.parametrize("outside", [w for w in WRAPPERS if w != "averaged"])
def test_wrappers_make_no_difference(tmp_path: Path, make: Any, inside: str, outside: str) -> None:
    model, other = make(), make()
    raw, path = tmp_path / "raw.pt", save_weights(WRAPPERS[inside](model), tmp_path / "a.pt")
    assert list(torch.load(path, weights_only=True)) == list(model.state_dict())
    torch.save(WRAPPERS[inside](model).state_dict(), raw)
    for source in (path, raw):
        with torch.no_grad():
            [weight.zero_() for weight in other.parameters()]
        assert load_weights(WRAPPERS[outside](other), source).missing == []
        assert same(model, other)


def test_a_wrapped_part_makes_no_difference(tmp_path: Path) -> None:
    model, other = net(0), net(1)
    wrapped = nn.Sequential(compiled(model[0]), nn.DataParallel(model[1]), model[2], model[3])
    torch.save(wrapped.state_dict(), tmp_path / "raw.pt")
    for path in (save_weights(wrapped, tmp_path / "a.pt"), tmp_path / "raw.pt"):
        load_weights(other, path)
        assert same(model, other)
    load_weights(wrapped, save_weights(net(2), tmp_path / "b.pt"))
    assert same(model, net(2))


def test_a_prefix_that_means_something_beside_the_same_names_without_it(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.weight = nn.Linear(3, 2, bias=False), nn.Parameter(torch.randn(2, 3))

    model, other = Both(), Both()
    torch.save(nn.DataParallel(model).state_dict(), tmp_path / "raw.pt")
    for path in (tmp_path / "raw.pt", save_weights(model, tmp_path / "a.pt")):
        for loaded in (other, nn.DataParallel(other)):
            load_weights(loaded, path)
            assert same(model, other)


def test_a_wrapper_that_adds_something_of_its_own(tmp_path: Path) -> None:
    model, other = net(0), net(1)
    torch.save(WRAPPERS["averaged"](model).state_dict(), tmp_path / "raw.pt")
    report = load_weights(other, tmp_path / "raw.pt", strict=False)
    assert same(model, other)
    assert report.skipped == {"n_averaged": "the model has no such name"}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.outer.weight = self.inner.weight


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_tied_weights_stay_tied(tmp_path: Path, ending: str) -> None:
    model, other = Tied(), Tied()
    load_weights(other, save_weights(model, tmp_path / f"a{ending}"))
    assert same(model, other)
    assert other.outer.weight is other.inner.weight


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    model = Tied()
    model.inner.weight.data = torch.randn(5, 3000)
    assert save_weights(model, tmp_path / "a.pt").stat().st_size < 1.2 * 5 * 3000 * 4


def test_tied_weights_that_were_saved_under_one_name(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    model, other = Tied(), Tied()
    save_model(model, str(tmp_path / "a.safetensors"))
    report = load_weights(other, tmp_path / "a.safetensors")
    assert (len(report.taken), report.missing) == (1, [])
    assert same(model, other)


def test_several_models(tmp_path: Path) -> None:
    def trainer(seed: int) -> Trainer:
        return trainer_of({"a": net(seed), "b": nn.Linear(3, 2)})

    one = trainer(0)
    path = one.save_weights(tmp_path / "both.pt")
    assert {name.partition(".")[0] for name in torch.load(path, weights_only=True)} == {"a", "b"}
    for source in (path, one.save_checkpoint(tmp_path / "both.ckpt")):
        other = trainer(1)
        other.load_weights(source)
        assert same(one.model.model, other.model.model)


def test_one_model_out_of_several(tmp_path: Path) -> None:
    path = trainer_of({"a": net(), "b": nn.Linear(3, 2)}).save_checkpoint(tmp_path / "both.ckpt")
    with pytest.raises(StateError, match="nothing in it fits"):
        load_weights(net(1), path, strict=False)


def test_a_checkpoint_of_this_library(tmp_path: Path) -> None:
    model, other = net(0), net(1)
    load_weights(other, trainer_of(model).save_checkpoint(tmp_path / "a.ckpt"))
    assert same(model, other)


SOURCES = {
    "DeepEpochs": lambda s: {"model_state": s, "opt_state": [], "epoch": 3, "best_value": 0.5},
    "Lightning": lambda s: {"state_dict": s, "epoch": 1, "hyper_parameters": {"model": {"width": 3}}},
    "others": lambda s: {"epoch": 1, "model_state_dict": s, "optimizer_state_dict": {"state": {}, "param_groups": []}},
    "nested": lambda s: {"model": {"state_dict": s}},
    "a part named model": lambda s: {"model": {"hidden": 4}, "weights": s},
    "bare": lambda s: s,
}


@pytest.mark.parametrize("wrap", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".bin"])
def test_files_of_others(tmp_path: Path, wrap: Any, ending: str) -> None:
    model, other = net(0), net(1)
    path = tmp_path / f"a{ending}"
    torch.save(wrap({f"_orig_mod.{name}": value for name, value in model.state_dict().items()}), path)
    load_weights(other, path)
    assert same(model, other)


@pytest.mark.parametrize("content", [{}, [1], 3, {"model": {}}, {"epoch": 1}, {"models": {"model": 7}}, {"models": {}}])
def test_a_file_without_weights(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    model = net()
    left_as_it_was(model, lambda: load_weights(model, tmp_path / "a.pt"), StateError, "holds no weights by name")


def test_a_file_that_holds_itself(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content["state_dict"] = content
    assert weights_in(content) == {}


@pytest.mark.parametrize(
    "content", [{"weight": 3, "bias": torch.zeros(2)}, {1: torch.ones(2), "bias": [torch.ones(2)]}]
)
def test_what_is_no_tensor_is_none(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    model = nn.Linear(3, 2)
    left_as_it_was(model, lambda: load_weights(model, tmp_path / "a.pt"), StateError, r"(an int|a list), the model's")


def test_state_beside_the_tensors(tmp_path: Path) -> None:
    model, other = Noted(3, 2), Noted(3, 2)
    model.note = {"seen": 5}
    load_weights(other, save_weights(model, tmp_path / "a.pt"))
    assert other.note == {"seen": 5}
    assert torch.equal(model.weight, other.weight)
    with pytest.raises(ArgumentError, match=r"_extra_state is none; use \.pt"):
        save_weights(model, tmp_path / "a.safetensors")


def test_a_layer_that_refuses_its_state_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model, other = nn.Sequential(nn.Linear(3, 3), Noted(3, 2)), nn.Sequential(nn.Linear(3, 3), Noted(3, 2))
    model[1].note = "refused"
    path = save_weights(model, tmp_path / "a.pt")
    before = copy.deepcopy(other)
    with pytest.raises(StateError, match="not this one"):
        load_weights(other, path)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), before.parameters(), strict=True))
    assert other[1].note == "n"


def test_layers_without_shapes_take_what_comes(tmp_path: Path) -> None:
    model, lazy = nn.Linear(3, 2), nn.LazyLinear(2)
    load_weights(lazy, save_weights(model, tmp_path / "a.pt"))
    assert torch.equal(model.weight, lazy.weight)


def test_numbers_that_safetensors_does_not_have(tmp_path: Path) -> None:
    model = nn.Module()
    model.register_buffer("grid", torch.eye(3).to_sparse())
    with pytest.raises(ArgumentError, match=r"\.safetensors cannot hold these weights .*use \.pt"):
        save_weights(model, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.ckpt"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    for load in LOADERS:
        with pytest.raises(CheckpointError, match="there is no such file"):
            load(net(), tmp_path / name)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_folder_is_no_file(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"a{ending}").mkdir()
    with pytest.raises(StorageError, match="is a folder"):
        load_weights(net(), tmp_path / f"a{ending}")


def damaged(data: bytes) -> dict[str, bytes]:
    middle = len(data) // 3
    return {
        "empty": b"",
        "cut short": data[: len(data) // 2],
        "a bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "zeros": bytes(len(data)),
        "text": b"version https://git-lfs.github.com/spec/v1\n",
    }


@pytest.mark.parametrize("how", damaged(b"some"))
def test_a_damaged_file_is_refused(tmp_path: Path, how: str) -> None:
    path = save_weights(net(), tmp_path / "a.pt")
    path.write_bytes(damaged(path.read_bytes())[how])
    model = net(1)
    for load in LOADERS:
        left_as_it_was(model, lambda load=load: load(model, path), StorageError, "a.pt")


def test_a_file_that_has_lost_its_seal_alone_is_like_one_of_torch(tmp_path: Path) -> None:
    path, model = save_weights(net(0), tmp_path / "a.pt"), net(1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError):
        storage.read_sealed(path)
    load_weights(model, path)  # the archive has checksums of its own
    assert same(model, net(0))


@pytest.mark.parametrize("how", [how for how in damaged(b"some") if how != "a bit"])
def test_a_damaged_safetensors_file_is_refused(tmp_path: Path, how: str) -> None:
    path = save_weights(net(), tmp_path / "a.safetensors")
    path.write_bytes(damaged(path.read_bytes())[how])
    model = net(1)
    left_as_it_was(model, lambda: load_weights(model, path), StorageError, "a.safetensors cannot be read")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".bin", ".safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path, ending: str, zipped: bool) -> None:
    path, ran = tmp_path / f"a{ending}", tmp_path / "ran"
    torch.save({**net().state_dict(), "bomb": Bomb(ran)}, path, _use_new_zipfile_serialization=zipped)
    model = net(1)
    left_as_it_was(model, lambda: load_weights(model, path), StorageError, "is refused|cannot be read")
    assert not ran.exists()
    with open(path, "rb") as file:
        torch.load(file, weights_only=False)
    assert ran.exists()  # it is one


def test_a_hostile_file_under_our_seal_is_refused_and_not_run(tmp_path: Path) -> None:
    plain, path, ran = tmp_path / "plain.pt", tmp_path / "a.pt", tmp_path / "ran"
    torch.save({**net().state_dict(), "bomb": Bomb(ran)}, plain)
    archive = plain.read_bytes()
    path.write_bytes(archive + storage.seal_of(archive, {"kind": "deepepochs_like weights", "format": 1}))
    with pytest.raises(StorageError, match="could run code"):
        load_weights(net(), path)
    assert not ran.exists()


def test_a_pickle_and_a_bomb_of_zeros_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"weight": 1}))
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(StorageError, match="is refused"):
            load_weights(net(), tmp_path / name)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, ending: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, other = net(0), net(2)
    path = save_weights(model, tmp_path / f"a{ending}")

    def fail(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(storage.os, call, fail)
        with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
            save_weights(net(1), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    load_weights(other, path)
    assert same(model, other)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written: No such file or directory"):
        save_weights(net(), tmp_path / "nowhere" / "a.pt")


def test_weights_that_were_loaded_are_those_that_training_goes_on_from(tmp_path: Path) -> None:
    model, data = nn.Linear(3, 2), [(torch.ones(4, 3), torch.zeros(4, 2))]
    trainer = trainer_of(model, epochs=1, opt=torch.optim.SGD(model.parameters(), lr=0.0))
    other = save_weights(nn.Linear(3, 2), tmp_path / "other.pt")
    mine = trainer.save_weights(tmp_path / "mine.pt")
    trainer.test(data, weights=mine)
    trainer.load_weights(other)
    trainer.fit(data)
    assert torch.equal(model.weight, torch.load(other, weights_only=True)["weight"])


class Versioned(nn.Module):
    """A layer whose state has a version, without which it does not take it."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return self.inner(x)

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version") != 2:
            raise ValueError(f"version {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        (lambda model: model, lambda model: model),
        (nn.DataParallel, lambda model: model),
        (lambda model: model, nn.DataParallel),
        (lambda model: nn.DataParallel(compiled(model)), lambda model: model),
        (lambda model: nn.Sequential(compiled(model)), nn.Sequential),
        (nn.Sequential, lambda model: nn.Sequential(compiled(model))),
    ],
)
@pytest.mark.parametrize("how", ["ours", "torch"])
def test_the_versions_of_modules_come_along(tmp_path: Path, saved: Any, loaded: Any, how: str) -> None:
    model, other = Versioned(), Versioned()
    if how == "ours":
        save_weights(saved(model), tmp_path / "a.pt")
    else:
        torch.save(saved(model).state_dict(), tmp_path / "a.pt")
    load_weights(loaded(other), tmp_path / "a.pt")
    assert same(model, other)


def test_the_versions_of_several_models_come_along(tmp_path: Path) -> None:
    states = {"g": Versioned().state_dict(), "d": Versioned().state_dict()}
    torch.save({"models": states}, tmp_path / "a.pt")
    both = nn.ModuleDict({"g": Versioned(), "d": Versioned()})
    load_weights(both, tmp_path / "a.pt")
    assert torch.equal(both["g"].inner.weight, states["g"]["inner.weight"])


def test_a_state_without_its_version_is_an_error_that_names_the_cause(tmp_path: Path) -> None:
    model, other = Versioned(), Versioned()
    torch.save(dict(model.state_dict()), tmp_path / "a.pt")
    left_as_it_was(other, lambda: load_weights(other, tmp_path / "a.pt"), StateError, "version None")


def test_a_module_that_takes_no_state_at_all_is_named_with_its_reason(tmp_path: Path) -> None:
    class Never(nn.Linear):
        def _load_from_state_dict(self, *arguments: Any) -> None:
            raise ValueError("never")

    with pytest.raises(StateError, match="does not fit the model: never") as caught:
        load_weights(Never(3, 2), save_weights(nn.Linear(3, 2), tmp_path / "a.pt"))
    assert isinstance(caught.value.__cause__, ValueError)
