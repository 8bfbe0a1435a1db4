"""All that looks inside a run, in one run: it changes nothing, and a cut run shows the same."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepepochs_like import Analyze, Callback, Checkpoint, Interpret, Profile, Timer, Trainer
from deepepochs_like.callbacks.analyze import AnalyzeCallback
from deepepochs_like.callbacks.interprete_callback import InterpreteCallback
from support.digits import loader, mlp, same, weights

F = nn.functional


def per_sample(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y, reduction="none")


class StopAt(Callback):
    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        self.left -= 1
        if not self.left:
            trainer.stop("cut")

    on_after_val_batch = on_after_train_batch


def looking() -> list[Callback]:
    return [
        Timer(show=None),
        Analyze("outputs", every=3),
        Analyze("gradients", every=2),
        Profile((2, 4), show=False),
        Interpret(per_sample, 9, stages=("train", "val"), keep_inputs=True),
    ]


def run(folder: Path, *callbacks: Any, state: Any = None) -> Trainer:
    torch.manual_seed(0)
    model = mlp(dropout=0.3)
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    options: dict[str, Any] = {"epochs": 2, "verbose": 0, "device": "cpu", "accumulate": 2, "folder": folder}
    trainer = Trainer(model, F.cross_entropy, opt, callbacks=list(callbacks), **options)
    if state is not None:
        trainer.load_state_dict(state)
    trainer.fit(loader(0, 100, shuffle=True), loader(100, 164))  # 4 batches and 2
    return trainer


def test_a_run_ends_at_the_same_bits_with_all_of_them(tmp_path: Path) -> None:
    plain, watched = run(tmp_path), run(tmp_path, *looking())
    assert same(weights(plain.model.model), weights(watched.model.model))
    assert plain.history.state_dict() == watched.history.state_dict()


@pytest.mark.parametrize("cut", [1, 3, 5, 6, 9])
def test_a_cut_run_shows_the_same(tmp_path: Path, cut: int) -> None:
    seen = []
    whole = run(tmp_path, *(callbacks := looking()))
    seen.append(callbacks)
    begun = run(tmp_path, *looking(), Checkpoint(), StopAt(cut))
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    resumed = run(tmp_path, *(callbacks := looking()), Checkpoint(), state=torch.load(file, weights_only=True))
    seen.append(callbacks)
    assert same(weights(whole.model.model), weights(resumed.model.model))
    (_, outputs, gradients, _, kept), (timer, outputs_2, gradients_2, _, kept_2) = seen
    assert isinstance(timer, Timer)
    assert len(timer.epochs) == 2
    for one, other in ((outputs, outputs_2), (gradients, gradients_2)):
        assert isinstance(one, Analyze)
        assert isinstance(other, Analyze)
        assert other.latest in ({}, one.latest)  # {} where nothing was due behind the cut
    assert isinstance(kept, Interpret)
    assert isinstance(kept_2, Interpret)
    for stage in ("train", "val"):
        rows, again = kept.samples(stage), kept_2.samples(stage)
        assert [(r["index"], r["value"]) for r in rows] == [(r["index"], r["value"]) for r in again]
        assert kept.confusion_table(stage) == kept_2.confusion_table(stage)


def test_a_summary_within_a_run_is_seen_by_none_of_them(tmp_path: Path) -> None:
    class Look(Callback):
        def on_before_train_forward(self, trainer: Any) -> None:
            trainer.summary(torch.zeros(4, 64))

    (timer, *others), look = looking(), Look()
    watched, plain = run(tmp_path, timer, *others, look), run(tmp_path, *(again := looking()))
    assert same(weights(watched.model.model), weights(plain.model.model))
    kept, kept_2 = others[-1], again[-1]
    assert isinstance(kept, Interpret)
    assert isinstance(kept_2, Interpret)
    assert kept.table() == kept_2.table()


def test_the_board_that_samples_are_written_to_goes_with_them(tmp_path: Path) -> None:
    kept, look = InterpreteCallback(per_sample, 3, log_dir=tmp_path), AnalyzeCallback("forward", tmp_path)
    trainer = Trainer(mlp(), F.cross_entropy, epochs=2, callbacks=[kept, look], verbose=0, device="cpu")
    for callback, left in ((look, 2), (kept, 0)):
        trainer.callbacks.remove(callback)
        trainer.fit(loader(0, 40), epochs=1)
        assert len(trainer.callbacks) == left
