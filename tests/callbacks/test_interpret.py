"""`Interpret`: the samples it keeps are those that a sort of all of them gives, in memory that does not grow."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Callback, EpochTask, Trainer
from deepepochs_like.callbacks.interpret import Interpret
from deepepochs_like.callbacks.interprete_callback import InterpreteCallback
from deepepochs_like.callbacks.kept import Kept
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, EngineWarning, MetricError, StateError
from deepepochs_like.events import EVENTS, listens
from support.digits import digits, loader, mlp, same, weights

F = nn.functional


def per_sample(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y, reduction="none")


def build(*callbacks: Any, model: Any = None, **options: Any) -> Trainer:
    model = mlp() if model is None else model
    options = {"epochs": 2, "verbose": 0, "device": "cpu", **options}
    return Trainer(model, options.pop("loss", F.cross_entropy), callbacks=list(callbacks), **options)


def by_hand(model: nn.Module, count: int, mode: str = "max") -> tuple[Tensor, Tensor]:
    """Every sample's loss, and which ranks where."""
    x, y = digits(count)
    with torch.no_grad():
        values = per_sample(model(x), y).double()
    return values, values.argsort(descending=mode == "max", stable=True)


# ------------------------------------------------------------------------------------------------------ what it keeps


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_samples_are_those_that_sorting_all_gives(mode: str, k: int) -> None:
    keep, model = Interpret(per_sample, k, mode, "test", keep_inputs=True), mlp()
    build(keep, model=model).test(loader(last=200, batch_size=32))
    values, order = by_hand(model, 200, mode)
    x, y = digits(200)
    found = keep.samples()
    assert [sample["index"] for sample in found] == order[:k].tolist()
    assert len(found) == min(k, 200)
    for sample in found:
        place = sample["index"]
        assert sample["value"] == pytest.approx(values[place].item(), rel=1e-5)
        assert sample["target"] == y[place].item()
        assert sample["prediction"] == model(x[place : place + 1]).argmax().item()
        assert torch.equal(sample["input"][0], x[place])
        assert (sample["number"], sample["task"]) == (place, 0)


def test_indices_are_the_datasets_whatever_the_order() -> None:
    keep, model = Interpret(per_sample, 20, stages="test"), mlp()
    build(keep, model=model).test(loader(last=200, shuffle=True))
    assert [sample["index"] for sample in keep.samples()] == by_hand(model, 200)[1][:20].tolist()
    assert [sample["number"] for sample in keep.samples()] != [sample["index"] for sample in keep.samples()]


def test_a_loader_that_does_not_tell_leaves_the_number() -> None:
    keep, model = Interpret(per_sample, 20, stages="test"), mlp()
    build(keep, model=model).test(list(loader(last=200)))
    assert [sample["index"] for sample in keep.samples()] == [None] * 20
    assert [sample["number"] for sample in keep.samples()] == by_hand(model, 200)[1][:20].tolist()


def test_of_equal_values_those_that_came_first_are_kept_and_nan_ranks_last() -> None:
    values = [1.0, 2.0, float("nan"), 2.0, 1.0, float("nan"), 2.0]
    for mode, expected in (("max", [1, 3, 6, 0, 4, 2, 5]), ("min", [0, 4, 1, 3, 6, 2, 5])):
        for k in (2, 5, 7):
            kept = Kept(k, mode, 0)
            for part in torch.tensor(values).split(2):
                kept.take(part, torch.full((len(part),), -1), 0, part, part, None)
            assert [row["number"] for row in kept.samples()] == expected[:k]


def test_every_stage_is_kept_by_itself_and_begins_anew_every_epoch() -> None:
    keep, model = Interpret(per_sample, 5, stages=("train", "val")), mlp()
    trainer = build(keep, model=model)
    trainer.fit(loader(0, 100), loader(last=60))
    values, order = by_hand(model, 60)
    assert (
        [sample["index"] for sample in keep.samples("val")]
        == order[:5].tolist()
        == [sample["index"] for sample in keep.samples()]
    )
    assert len(keep.samples("train")) == 5
    assert keep.samples()[0]["value"] == pytest.approx(values.max().item(), rel=1e-5)
    matrix = keep.confusion("train")
    assert matrix is not None
    assert matrix.sum() == 100


def test_several_tasks_of_a_stage() -> None:
    keep, model = Interpret(per_sample, 300, stages="test"), mlp()
    build(keep, model=model).test(tasks=[EpochTask(loader(last=40), name="a."), EpochTask(loader(40, 60), name="b.")])
    assert sorted((s["task"], s["index"]) for s in keep.samples()) == [
        *((0, n) for n in range(40)),
        *((1, n) for n in range(20)),
    ]


def test_memory_does_not_grow_with_the_data() -> None:
    kept = Kept(10, "max", 5)

    def size() -> int:
        file = io.BytesIO()
        torch.save(kept.state_dict(), file)
        return len(file.getvalue())

    sizes = []
    for number in range(60):
        generator = torch.Generator().manual_seed(number)
        values, outputs = torch.rand(64, generator=generator), torch.rand(64, 5, generator=generator)
        kept.take(values, torch.arange(64), 0, outputs, outputs.argmax(1), (torch.rand(64, 100),))
        sizes.append(size())
        column = kept.columns["input"][0]
        assert column.shape == (10, 100)
        assert column.untyped_storage().nbytes() == 10 * 100 * 4  # no view that keeps a batch alive
    assert max(sizes) - min(sizes) < 100


def test_without_inputs_none_is_kept() -> None:
    keep = Interpret(per_sample, 5, stages="test")
    build(keep).test(loader())
    assert "input" not in keep.samples()[0]
    assert keep._batch is None


def test_nothing_is_read_back_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__int__"):
        original = getattr(Tensor, name)

        def spy(self: Tensor, *args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            read.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, spy)
    kept = Kept(5, "max", None)
    for _ in range(3):
        kept.take(torch.rand(8), torch.arange(8), 0, torch.rand(8, 3), torch.arange(8) % 3, (torch.rand(8, 2),))
    assert read == []


# ----------------------------------------------------------------------------------------------- every kind of sample


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, x: Tensor, text: list[str]) -> dict[str, Any]:
        return {"scores": self.layer(x), "aside": (x * 2, None)}


def test_nested_outputs_and_inputs_that_are_no_tensors() -> None:
    x = torch.arange(6.0).view(6, 1)
    data = [((x[i : i + 3], [f"w{n}" for n in range(i, i + 3)]), x[i : i + 3]) for i in (0, 3)]
    keep = Interpret(lambda out, y: y.squeeze(1), 4, stages="test", keep_inputs=True)
    build(keep, model=Words(), loss=lambda out, y: out["scores"].mean()).test(data)
    found = keep.samples()
    assert [sample["value"] for sample in found] == [5.0, 4.0, 3.0, 2.0]
    assert [sample["input"][1] for sample in found] == ["w5", "w4", "w3", "w2"]
    assert [sample["prediction"]["aside"][0].item() for sample in found] == [10.0, 8.0, 6.0, 4.0]
    assert keep.confusion() is None
    assert keep.confusion_table().startswith("no confusion matrix")
    with pytest.raises(ArgumentError, match="there is no confusion matrix"):
        keep.plot_confusion()


def test_dict_batches() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, a: Tensor) -> dict[str, Tensor]:
            out = self.layer(a)
            return {"loss": out.mean(), "out": out}

    keep = Interpret(lambda out, y: out["out"][:, 0], 2, stages="test", keep_inputs=True)
    a = torch.randn(5, 3)
    model = WithLoss()
    build(keep, model=model, loss=None).test([{"a": a}])
    expected = model(a)["out"][:, 0].topk(2)
    assert [sample["value"] for sample in keep.samples()] == pytest.approx(expected.values.tolist())
    assert torch.equal(keep.samples()[0]["input"]["a"], a[expected.indices[0]])
    assert keep.samples()[0]["target"] is None


def test_samples_of_different_sizes_are_padded() -> None:
    kept = Kept(3, "max", 0)
    for length in (2, 4, 3):
        x = torch.full((2, length), float(length))
        kept.take(x.sum(1), torch.arange(2), 0, x, x, (x,))
    rows = kept.samples()
    assert [row["value"] for row in rows] == [16.0, 16.0, 9.0]
    assert rows[2]["input"][0].tolist() == [3.0, 3.0, 3.0, 0.0]


def test_scores_in_the_last_dimension_are_classes_too() -> None:
    torch.manual_seed(0)
    x, y = torch.randint(7, (6, 3)), torch.randint(7, (6, 3))
    keep = Interpret(lambda out, y: F.cross_entropy(out.movedim(-1, 1), y, reduction="none").mean(1), 2, stages="test")
    model = nn.Embedding(7, 7)
    build(keep, model=model, loss=lambda out, y: F.cross_entropy(out.movedim(-1, 1), y)).test([(x, y)])
    labels = model(x).argmax(-1)
    for sample in keep.samples():
        assert torch.equal(sample["prediction"], labels[sample["number"]])
    want = torch.zeros(7, 7, dtype=torch.long)
    want.index_put_((y.flatten(), labels.flatten()), torch.tensor(1), accumulate=True)
    assert torch.equal(torch.as_tensor(keep.confusion()), want)


def test_of_very_many_classes_no_matrix_is_made_unasked() -> None:
    x, y = torch.rand(2, 2001), torch.tensor([0, 2000])
    keep = Interpret(per_sample, 1, stages="test")
    build(keep, model=nn.Sequential(nn.Identity(), nn.Hardtanh()), opt=None, loss=F.cross_entropy).test([(x, y)])
    assert keep.confusion() is None
    assert isinstance(keep.samples()[0]["prediction"], int)
    assert "2,000" in keep.confusion_table()


def test_regression_keeps_the_outputs() -> None:
    model = nn.Linear(2, 3)
    x, y = torch.randn(8, 2), torch.randn(8, 3)
    keep = Interpret(lambda out, y: (out - y).pow(2).mean(1), 3, stages="test")
    build(keep, model=model, loss=F.mse_loss).test(DataLoader(TensorDataset(x, y), batch_size=3))
    best = keep.samples()[0]
    assert torch.equal(best["target"], y[best["index"]])
    assert torch.allclose(best["prediction"], model(x)[best["index"]])


@pytest.mark.parametrize(
    ("metric", "got"),
    [
        (F.cross_entropy, r"a tensor \(\)"),
        (lambda out, y: out, r"a tensor \(32, 10\)"),
        (lambda out, y: 3.0, "3.0"),
    ],
)
def test_a_metric_that_is_not_one_value_per_sample(metric: Any, got: str) -> None:
    with pytest.raises(MetricError, match=f"returned {got}; one value per sample.*reduction='none'"):
        build(Interpret(metric, stages="test")).test(loader())


# ---------------------------------------------------------------------------------------------------------- confusion


def test_the_confusion_matrix_is_that_by_hand() -> None:
    keep, model = Interpret(per_sample, stages="test"), mlp()
    build(keep, model=model).test(loader(last=300))
    x, y = digits(300)
    expected = np.zeros((10, 10), dtype=np.int64)
    for target, label in zip(y.tolist(), model(x).argmax(1).tolist(), strict=True):
        expected[target, label] += 1
    matrix = keep.confusion()
    assert matrix is not None
    assert matrix.dtype == np.int64
    assert np.array_equal(matrix, expected)


def test_the_confusion_matrix_of_labels_and_of_names() -> None:
    class Label(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x.long()

    data = [(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])), (torch.tensor([2]), torch.tensor([2]))]
    names = ["cat", "dog", "ox"]
    keep = Interpret(lambda out, y: (out != y).float(), 1, stages="test", num_classes=3, class_names=names)
    build(keep, model=Label(), loss=lambda out, y: out.float().mean()).test(data)
    matrix = keep.confusion()
    assert matrix is not None
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert keep.confusion_table().splitlines() == [
        "target  cat  dog  ox   found",
        "   cat    1    1   .   50.0%",
        "   dog    .    1   .  100.0%",
        "    ox    .    .   1  100.0%",
    ]
    assert keep.table().splitlines() == [
        "rank   index  value  prediction  target",
        "   1  2 seen      1         dog     cat",
    ]


def test_a_class_that_does_not_occur_is_found_nowhere() -> None:
    keep = Interpret(per_sample, stages="test")
    build(keep).test(loader(last=5))
    assert "nan%" in keep.confusion_table().splitlines()[-1]


def test_the_confusion_matrix_can_be_left_out() -> None:
    keep = Interpret(per_sample, stages="test", num_classes=0)
    build(keep).test(loader())
    assert keep.confusion() is None


def test_it_can_be_drawn() -> None:
    pytest.importorskip("matplotlib")
    keep = Interpret(per_sample, stages="test", class_names=[f"digit {n}" for n in range(10)])
    build(keep).test(loader())
    figure = keep.plot_confusion()
    texts = [text.get_text() for text in figure.axes[0].texts]
    matrix = keep.confusion()
    assert matrix is not None
    assert texts == [str(count) for count in matrix.flatten()]
    assert figure.axes[0].get_xticklabels()[3].get_text() == "digit 3"


# ------------------------------------------------------------------------------------------------------------ resume


class StopAt(Callback):
    """Stop the run after so many batches, of training and validation together."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.left -= 1
        if not self.left:
            trainer.stop("cut")

    on_after_val_batch = on_after_train_batch


def told(keep: Interpret) -> Any:
    rows = {}
    for stage in ("train", "val"):
        matrix = keep.confusion(stage)
        assert matrix is not None
        found = [{**row, "input": [part.tolist() for part in row["input"]]} for row in keep.samples(stage)]
        rows[stage] = (found, matrix.tolist())
    return rows


def cut_run(keep: Interpret, *others: Any) -> Trainer:
    torch.manual_seed(0)
    return build(keep, *others, model=mlp(dropout=0.2))


def data() -> tuple[Any, Any]:
    return loader(0, 100, shuffle=True), loader(100, 200, shuffle=True)  # 4 batches each


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_run_that_was_cut_anywhere_keeps_the_same(cut: int) -> None:
    whole, first, second = (Interpret(per_sample, 20, stages=("train", "val"), keep_inputs=True) for _ in range(3))
    cut_run(whole).fit(*data())
    begun = cut_run(first, StopAt(cut))
    begun.fit(*data())
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    resumed = cut_run(second)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    resumed.fit(*data())
    assert told(second) == told(whole)


def test_a_checkpoint_holds_it(tmp_path: Path) -> None:
    def run(keep: Interpret, *others: Any) -> Trainer:
        trainer = build(keep, *others, resume="auto", running_id="a", folder=tmp_path, model=mlp())
        trainer.fit(loader(0, 100), loader(100, 200))
        return trainer

    whole, second = (Interpret(per_sample, 20, stages=("train", "val"), keep_inputs=True) for _ in range(2))
    build(whole, model=mlp()).fit(loader(0, 100), loader(100, 200))
    run(Interpret(per_sample, 20, stages=("train", "val"), keep_inputs=True), StopAt(14))
    run(second)
    assert told(second) == told(whole)


def test_two_of_them_in_a_run_are_told_apart() -> None:
    worst, best = Interpret(per_sample, 3), Interpret(per_sample, 3, "min")
    trainer = build(worst, best)
    trainer.fit(*data())
    assert list(trainer.state_dict()["callbacks"]) == ["Interpret(per_sample, max)", "Interpret(per_sample, min)"]
    assert worst.samples()[0]["value"] > best.samples()[0]["value"]


# ------------------------------------------------------------------------------------------------------------- cost


def test_it_hears_nothing_of_other_stages() -> None:
    heard = {event for event in EVENTS if listens(Interpret(per_sample, stages="val"), event)}
    assert heard == {"before_val_epochs", "before_val_batch", "val_metrics", "after_val_epochs", "on_cleanup"}
    copied = copy.deepcopy(Interpret(per_sample, stages="val"))
    build(copied).validate(loader())
    assert len(copied.samples()) == 100


def test_weights_are_those_without_it() -> None:
    def run(*callbacks: Any) -> list[Tensor]:
        model = mlp(dropout=0.3)
        build(*callbacks, model=model).fit(*data())
        return weights(model)

    assert same(run(), run(Interpret(per_sample, stages=("train", "val"), keep_inputs=True)))


def test_what_has_not_run_is_said() -> None:
    keep = Interpret(per_sample, stages=("val", "test"))
    with pytest.raises(ArgumentError, match="no stage has run"):
        keep.samples()
    build(keep).test(loader())
    with pytest.raises(ArgumentError, match=r"stage 'val' has run; it looks at \('val', 'test'\), and has test"):
        keep.samples("val")


def test_wrong_arguments() -> None:
    for call, match in (
        (lambda: Interpret(per_sample, 0), "k=0"),
        (lambda: Interpret(per_sample, mode="highest"), "mode='highest'"),
        (lambda: Interpret(per_sample, stages="valid"), "stages='valid'"),
        (lambda: Interpret(per_sample, stages=()), "stages is empty"),
        (lambda: Interpret(per_sample, num_classes=-1), "num_classes=-1"),
    ):
        with pytest.raises(ArgumentError, match=match):
            call()
    for call, match in (
        (lambda: Interpret("loss"), "metric='loss'"),  # type: ignore[arg-type]
        (lambda: Interpret(nn.CrossEntropyLoss), "a function"),
        (lambda: Interpret(per_sample, keep_input=True), "did you mean 'keep_inputs'"),  # type: ignore[arg-type]
        (lambda: InterpreteCallback(per_sample, log_dir=3), "log_dir=3"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ArgumentTypeError, match=match):
            call()


# ------------------------------------------------------------------------------------------------- DeepEpochs' name


def test_top_samples_are_lists_of_four() -> None:
    keep, model = InterpreteCallback(per_sample, k=5, class_num=10), mlp()
    with pytest.warns(EngineWarning, match="the run has no folder, as there was no fit"):
        build(keep, model=model).test(loader(last=200))
    x, y = digits(200)
    values, order = by_hand(model, 200)
    for row, place in zip(keep.top_samples(), order[:5].tolist(), strict=True):
        value, pred, target, image = row
        assert value == pytest.approx(values[place].item(), rel=1e-5)
        assert (pred, target) == (model(x[place : place + 1]).argmax().item(), y[place].item())
        assert torch.equal(image, x[place])


def test_it_looks_at_all_stages_and_writes_what_it_can_without_images(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    keep = InterpreteCallback(per_sample, k=5, log_dir=tmp_path)
    trainer = build(keep, running_id="a")
    trainer.fit(*data())
    trainer.test(loader())
    assert [len(keep.samples(stage)) for stage in ("train", "val", "test")] == [5, 5, 5]
    assert keep.confusion().sum() == 200  # type: ignore[union-attr]
    reader = board(tmp_path / "a" / "tensorboard")
    steps = trainer.progress.step
    for stage, written in (("train", [steps // 2, steps]), ("val", [steps // 2, steps]), ("test", [steps])):
        for what, table in (("samples", keep.table(5, stage)), ("confusion", keep.confusion_table(stage))):
            events = reader.Tensors(f"{what}/{stage}/text_summary")
            assert [event.step for event in events] == written
            lines = events[-1].tensor_proto.string_val[0].decode().splitlines()
            assert lines == [f"    {line}" for line in table.splitlines()]


def test_the_best_and_the_worst_samples_do_not_hide_each_other(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    worst, best = (InterpreteCallback(per_sample, 3, mode, "val", log_dir=tmp_path) for mode in ("max", "min"))
    build(worst, best, running_id="a", epochs=1).fit(*data())
    reader = board(tmp_path / "a" / "tensorboard")
    for tag, keep in (("samples/val", worst), ("samples-2/val", best)):
        (event,) = reader.Tensors(f"{tag}/text_summary")
        lines = event.tensor_proto.string_val[0].decode().splitlines()
        assert [line[4:] for line in lines] == keep.table(3, "val").splitlines()


def test_where_there_are_no_classes_it_writes_the_samples(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    x = torch.linspace(-1, 1, 24).unsqueeze(1)
    regression = DataLoader(TensorDataset(x, 2 * x), batch_size=8)
    keep = InterpreteCallback(lambda out, y: (out - y).pow(2).mean(1), k=3, stages="val", log_dir=tmp_path)
    build(keep, model=nn.Linear(1, 1), loss=F.mse_loss, running_id="a").fit(regression, regression)
    reader = board(tmp_path / "a" / "tensorboard")
    assert "confusion/val/text_summary" not in reader.Tags()["tensors"]
    assert reader.Tensors("samples/val/text_summary")[-1].tensor_proto.string_val[0].decode().count("\n") == 3


def board(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    reader.Reload()
    return reader


def test_images_and_confusion_matrices_are_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
    from PIL import Image

    x, y = digits(60)
    images = DataLoader(TensorDataset(x.view(-1, 1, 8, 8), y), batch_size=20)
    model = nn.Sequential(nn.Flatten(), *mlp())
    keep = InterpreteCallback(per_sample, k=3, stages="val", log_dir=tmp_path, image_data=True)
    trainer = build(keep, model=model, running_id="a")
    trainer.fit(images, images)
    reader = board(tmp_path / "a" / "tensorboard")
    assert [event.step for event in reader.Images("samples/val")] == [3, 6]
    sheet = np.asarray(Image.open(io.BytesIO(reader.Images("samples/val")[-1].encoded_image_string)))[..., 0]
    worst = torch.cat([row[3][0] for row in keep.top_samples()], 1)
    assert sheet.shape == (8, 24)
    assert np.abs(sheet / 255 - worst.numpy()).max() < 0.01
    assert [event.step for event in reader.Images("confusion/val")] == [3, 6]
    text = reader.Tensors("confusion/val/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert [line[4:] for line in text.splitlines()] == keep.confusion_table().splitlines()


def test_what_are_no_images_is_said_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    keep = InterpreteCallback(per_sample, k=3, stages="val", log_dir=tmp_path, image_data=True)
    with pytest.warns(EngineWarning, match=r"images \(1 or 3, height, width\) are needed, not \(64,\)") as caught:
        build(keep, running_id="a").fit(*data())
    assert len(caught) == 1


def test_of_many_classes_the_most_frequent_confusions_are_shown() -> None:
    kept = Interpret(lambda out, y: y.double(), stages="test")
    scores = torch.eye(40)[torch.tensor([1, 1, 1, 2, 0, 39])]
    build(kept, loss=lambda out, y: out.sum(), model=nn.Identity()).test([(scores, torch.tensor([0, 0, 1, 3, 0, 38]))])
    assert kept.confusion_table().splitlines() == [
        "target  prediction  times",
        "     0           1      2",
        "     3           2      1",
        "    38          39      1",
    ]


def test_a_state_with_other_inputs_is_refused() -> None:
    first, second = Interpret(per_sample, 3, stages="train"), Interpret(per_sample, 3, stages="train", keep_inputs=True)
    begun = cut_run(first, StopAt(2))
    begun.fit(*data())
    resumed = cut_run(second)
    resumed.load_state_dict(begun.state_dict())
    with pytest.raises(StateError, match="keep_inputs="):
        resumed.fit(*data())


def test_a_subclass_may_have_hooks_of_its_own() -> None:
    class Own(Interpret):
        heard = 0

        def on_val_metrics(self, trainer: Any, loss: Any, model_out: Any, batch_y: Any, task: Any) -> None:
            super().on_val_metrics(trainer, loss, model_out, batch_y, task)
            self.heard += 1

    keep = Own(per_sample, 3)
    build(keep).validate(loader())
    assert keep.heard == 7
    assert len(keep.samples()) == 3
