"""`Analyze`: its statistics are torch's, it looks only when it is due, and it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepepochs_like import Callback, Trainer
from deepepochs_like.callbacks.analyze import STATISTICS, Analyze, AnalyzeCallback
from deepepochs_like.errors import ArgumentError, ArgumentTypeError
from support.digits import digits, loader, mlp, same, weights

F = nn.functional


def build(*callbacks: Any, model: Any = None, epochs: int = 2, **options: Any) -> Trainer:
    model = mlp() if model is None else model
    options = {"opt": torch.optim.SGD(model.parameters(), lr=0.1), "verbose": 0, "device": "cpu", **options}
    return Trainer(model, options.pop("loss", F.cross_entropy), epochs=epochs, callbacks=list(callbacks), **options)


def data() -> Any:
    return loader(last=160)  # 5 batches


def by_hand(tensor: Tensor, bins: int = 64) -> dict[str, Any]:
    array = tensor.detach().numpy()
    counts, edges = np.histogram(array, bins)
    dead = (array == 0).all(0).mean()
    values = (array.mean(), array.std(), array.min(), array.max(), dead)
    return {**dict(zip(STATISTICS, map(float, values), strict=True)), "histogram": counts, "edges": edges[[0, -1]]}


def check(found: dict[str, Any], tensor: Tensor) -> None:
    expected = by_hand(tensor)
    for name in STATISTICS:
        assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-7), name
    assert found["edges"] == pytest.approx(tuple(expected["edges"]))
    counts = np.array(found["histogram"])
    assert counts.sum() == expected["histogram"].sum() == found["size"] == tensor.numel()
    assert (
        np.abs(np.cumsum(counts) - np.cumsum(expected["histogram"])).max() <= 2
    )  # a value on an edge may go either way


def test_outputs_are_those_by_hand() -> None:
    look, model = Analyze("outputs", every=1000), mlp()
    first = mlp()
    build(look, model=model, epochs=1).fit(data())
    x, _ = digits(32)
    hidden = first[0](x)
    assert list(look.latest) == ["0", "1", "2"]
    for name, output in {"0": hidden, "1": hidden.relu(), "2": first(x)}.items():
        check(look.latest[name], output)
    assert look.step == 0


def test_gradients_are_those_by_hand() -> None:
    look, first = Analyze("gradients", every=1000), mlp()
    build(look, epochs=1).fit(data())
    x, y = digits(32)
    hidden = first[0](x)
    active = hidden.relu()
    out = first[2](active)
    for tensor in (hidden, active, out):
        tensor.retain_grad()
    F.cross_entropy(out, y).backward()
    assert list(look.latest) == ["0", "1", "2"]
    for name, tensor in {"0": hidden, "1": active, "2": out}.items():
        assert tensor.grad is not None
        check(look.latest[name], tensor.grad)


def test_dead_units_are_counted() -> None:
    model = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    with torch.no_grad():
        model[0].bias[:3] = -1000.0
        model[0].bias[3:] = 1000.0
    look = Analyze()
    build(look, model=model, epochs=1).fit(data())
    assert look.latest["1"]["dead"] == pytest.approx(3 / 8)
    assert look.latest["0"]["dead"] == 0


def test_it_looks_every_so_many_updates() -> None:
    seen = []

    class Keep(Callback):
        def log_figures(self, trainer: Any, figures: Any, step: int) -> None:
            seen.append((step, sorted(figures)))

    build(Keep(), Analyze(every=4, layers=["2"])).fit(data())
    names = [f"outputs/2.{name}" for name in sorted(STATISTICS)]
    assert seen == [(0, names), (4, names), (8, names)]


def test_with_accumulation_it_looks_at_the_first_batch_of_a_window() -> None:
    seen = []

    class Keep(Callback):
        def log_figures(self, trainer: Any, figures: Any, step: int) -> None:
            seen.append((step, trainer.progress.batch - 1))

    build(Keep(), Analyze(every=2), accumulate=2, epochs=1).fit(data())
    assert seen == [(0, 0), (2, 4)]


def test_layers_have_hooks_only_while_it_is_due() -> None:
    hooks = []

    class Look(Callback):
        def on_before_train_forward(self, trainer: Any) -> None:
            hooks.append(sum(len(module._forward_hooks) for module in trainer.model.model.modules()))

    build(Analyze(every=3), Look(), epochs=1).fit(data())
    assert hooks == [3, 0, 0, 3, 0]


def test_an_error_takes_the_hooks_away() -> None:
    class Fail(Callback):
        def on_after_train_forward(self, trainer: Any, model_out: Any) -> None:
            raise ValueError("mine")

    class Skip(Callback):
        def on_exception(self, trainer: Any, exception: BaseException) -> str:
            return "skip_batch"

    for others in ([Fail()], [Fail(), Skip()]):
        trainer = build(Analyze(every=1), *others, epochs=1)
        if len(others) == 1:
            with pytest.raises(ValueError, match="mine"):
                trainer.fit(data())
        else:
            trainer.fit(data())
        assert not any(module._forward_hooks for module in trainer.model.model.modules())


@pytest.mark.parametrize("what", ["outputs", "gradients"])
def test_weights_are_those_without_it(what: str) -> None:
    def run(*callbacks: Any) -> list[Tensor]:
        model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout(0.3))
        torch.manual_seed(0)
        model = nn.Sequential(*model, nn.Linear(16, 10))
        for module in model:
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        build(*callbacks, model=model).fit(loader(last=160, shuffle=True))
        return weights(model)

    assert same(run(), run(Analyze(what, every=2)))


def test_layers_called_twice_and_nested_outputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.rnn, self.head = nn.Linear(64, 64), nn.GRU(64, 8), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Any:
            out, _ = self.rnn(self.layer(self.layer(x)))
            return self.head(out)

    look = Analyze("gradients", every=100)
    build(look, model=Twice(), epochs=1).fit(data())
    assert list(look.latest) == ["layer", "layer#2", "rnn", "head"]  # what is not used has no gradient
    look = Analyze("outputs", every=100)
    build(look, model=Twice(), epochs=1).fit(data())
    assert list(look.latest) == ["layer", "layer#2", "rnn", "rnn#2", "head"]


def test_values_that_are_no_numbers_are_shown_as_they_are() -> None:
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)
            self.bad = nn.Identity()

        def forward(self, x: Tensor) -> Any:
            self.bad(torch.tensor([[1.0, float("nan")], [2.0, float("inf")]]))
            self.bad(torch.full((2, 2), float("nan")))
            return self.layer(x)

    look = Analyze()
    build(look, model=Bad(), epochs=1).fit(data())
    assert np.isnan(look.latest["bad"]["mean"])
    assert sum(look.latest["bad"]["histogram"]) == 2
    assert sum(look.latest["bad#2"]["histogram"]) == 0


@pytest.mark.parametrize("what", ["model", "step"])
def test_a_compiled_model_is_seen(what: str) -> None:
    for kind in ("outputs", "gradients"):
        look = Analyze(kind, every=3)
        build(look, compile={"what": what, "backend": "eager"}, epochs=1).fit(data())
        assert list(look.latest) == ["0", "1", "2"]
        assert look.step == 3


def test_several_models() -> None:
    models = {"a": nn.Linear(64, 10), "b": nn.Sequential(nn.Linear(64, 10))}
    look = Analyze(layers=["a", "b.0"])

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.models["a"](*batch_x) + trainer.models["b"](*batch_x), batch_y)

    trainer = Trainer(models, F.cross_entropy, epochs=1, callbacks=look, verbose=0, device="cpu")
    trainer.fit(data(), step=step)
    assert list(look.latest) == ["a", "b.0"]


def test_the_table_has_a_line_per_layer() -> None:
    look = Analyze()
    build(look, epochs=1).fit(data())
    lines = look.table().splitlines()
    assert lines[0].split() == ["outputs", *STATISTICS]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2"]
    assert lines[1].endswith("0.0%")


@pytest.mark.parametrize("cut", [1, 4, 5, 7])
def test_a_resumed_run_looks_where_an_uncut_one_does(cut: int) -> None:
    class Keep(Callback):
        def __init__(self, stop: bool) -> None:
            super().__init__()
            self.seen: list[Any] = []
            self.stop = stop

        def log_figures(self, trainer: Any, figures: Any, step: int) -> None:
            self.seen.append((step, dict(figures)))

        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if self.stop and trainer.progress.step == cut:
                trainer.stop("cut")

    whole, first, second = Keep(False), Keep(True), Keep(False)
    build(whole, Analyze(every=3), accumulate=1).fit(data())
    begun = build(first, Analyze(every=3))
    begun.fit(data())
    resumed = build(second, Analyze(every=3))
    resumed.load_state_dict(begun.state_dict())
    resumed.fit(data())
    assert first.seen + second.seen == whole.seen


def test_without_a_logger_nothing_is_warned_of() -> None:
    look = Analyze()
    build(look, epochs=1).fit(data())
    assert look.latest


def events(folder: Path) -> Any:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"histograms": 0, "scalars": 0})
    reader.Reload()
    return reader


@pytest.mark.parametrize(("mode", "what"), [("forward", "outputs"), ("backward", "gradients")])
def test_analyze_callback_writes_to_tensorboard(tmp_path: Path, mode: str, what: str) -> None:
    look = AnalyzeCallback(mode, log_dir=tmp_path, every=3)
    build(look, running_id="a", epochs=1).fit(data())
    reader = events(tmp_path / "a" / "tensorboard")
    tags = reader.Tags()
    assert [tag for tag in tags["histograms"] if tag.startswith(what)] == [f"{what}/{n}" for n in range(3)]
    assert [event.step for event in reader.Scalars(f"{what}/0.mean")] == [0, 3]
    histogram = reader.Histograms(f"{what}/0")[-1].histogram_value
    found = look.latest["0"]
    assert histogram.num == found["size"]
    assert list(histogram.bucket) == found["histogram"]
    assert (histogram.min, histogram.bucket_limit[-1]) == pytest.approx(found["edges"])
    assert reader.Scalars(f"{what}/0.mean")[-1].value == pytest.approx(found["mean"], rel=1e-6)


def test_one_board_serves_all(tmp_path: Path) -> None:
    from deepepochs_like.callbacks.tensorboard import TensorBoard

    trainer = build(AnalyzeCallback("forward", tmp_path), AnalyzeCallback("backward", tmp_path), running_id="a")
    assert sum(isinstance(callback, TensorBoard) for callback in trainer.callbacks) == 1
    board = TensorBoard()
    trainer = build(AnalyzeCallback("forward", tmp_path), board, running_id="b")
    assert [callback for callback in trainer.callbacks if isinstance(callback, TensorBoard)] == [board]
    assert list(tmp_path.iterdir()) == []


def boards(trainer: Trainer) -> list[Any]:
    from deepepochs_like.callbacks.tensorboard import TensorBoard

    return [callback for callback in trainer.callbacks if isinstance(callback, TensorBoard)]


def test_the_board_that_was_added_goes_with_the_last_that_needs_it(tmp_path: Path) -> None:
    one, other = AnalyzeCallback("forward", tmp_path), AnalyzeCallback("backward", tmp_path)
    trainer = build(one, other, running_id="a", folder=tmp_path, epochs=1)
    board = boards(trainer)[0]
    trainer.callbacks.remove(one)
    trainer.fit(data())
    assert boards(trainer) == [board]
    trainer.callbacks.remove(other)
    trainer.fit(data(), epochs=1)
    assert boards(trainer) == []
    assert trainer.attached == trainer.callbacks
    trainer.callbacks.append(one)
    trainer.fit(data(), epochs=1)
    assert boards(trainer) == [board]
    folders = [path.name for path in (tmp_path / "a").iterdir() if path.is_dir()]
    assert folders == ["tensorboard"], "the curves go on where they were"
    steps = [event.step for event in events(tmp_path / "a" / "tensorboard").Scalars("loss/train")]
    assert steps == [5, 15], "the second epoch went without"


def test_without_the_only_one_that_keeps_files_none_are_made(tmp_path: Path) -> None:
    look = AnalyzeCallback("forward", tmp_path)
    trainer = build(look, running_id="a", epochs=1)
    trainer.callbacks.remove(look)
    trainer.fit(data())
    assert list(tmp_path.iterdir()) == []


def test_a_board_of_ones_own_stays(tmp_path: Path) -> None:
    from deepepochs_like.callbacks.tensorboard import TensorBoard

    look, board = AnalyzeCallback("forward", tmp_path), TensorBoard()
    trainer = build(look, board, running_id="a", folder=tmp_path, epochs=1)
    trainer.callbacks.remove(look)
    trainer.fit(data())
    assert boards(trainer) == [board]


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match="did you mean 'gradients'"):
        Analyze("gradient")
    for alias, meant in (("backward", "gradients"), ("grad", "gradients"), ("forward", "outputs"), ("Acts", "")):
        with pytest.raises(ArgumentError, match=f"did you mean '{meant}'" if meant else r"needed$"):
            Analyze(alias)
    for alias, meant in (("gradients", "backward"), ("outputs", "forward"), ("forwards", "forward")):
        with pytest.raises(ArgumentError, match=f"did you mean '{meant}'"):
            AnalyzeCallback(alias)
    with pytest.raises(ArgumentError, match="every=0"):
        Analyze(every=0)
    with pytest.raises(ArgumentTypeError, match="a list of names"):
        Analyze(layers="0")
    with pytest.raises(ArgumentTypeError, match="did you mean 'layers'"):
        Analyze(layer=["0"])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no layer 'hed'; did you mean 'head'"):
        build(Analyze(layers=["hed"]), model=nn.ModuleDict({"head": nn.Linear(1, 1)}))
    with pytest.raises(ArgumentError, match="mode='sideways'"):
        AnalyzeCallback("sideways")
    with pytest.raises(ArgumentTypeError, match="log_dir=3"):
        AnalyzeCallback(log_dir=3)  # type: ignore[arg-type]
