"""`TensorPatch`: one call of the metric over everything, whatever the outputs look like."""

from __future__ import annotations

import io
from collections import OrderedDict, namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc

from deepepochs_like.errors import PatchError
from deepepochs_like.patches import Outputs, TensorPatch
from support.classification import cut, cuts, samples

Pair = namedtuple("Pair", ["a", "b"])


class ModelOutput(OrderedDict[str, Any]):
    """A dict that also answers to attributes, as models' outputs do."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class Seen:
    """A metric that keeps what it was given."""

    def __init__(self) -> None:
        self.preds: Any = None
        self.targets: Any = None

    def __call__(self, preds: Any, targets: Any) -> float:
        self.preds, self.targets = preds, targets
        return 0.0


def given_to_metric(batches: Sequence[tuple[Any, Any]]) -> Seen:
    metric = Seen()
    sum(TensorPatch(metric).load(preds, targets) for preds, targets in batches)()
    return metric


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@given(sizes=cuts(60))
def test_auc_equals_scikit_learn_however_the_samples_are_cut(sizes: list[int]) -> None:
    data = samples(7, 60, 2)
    positive = data.scores.softmax(1)[:, 1]
    patches = [
        TensorPatch(binary_auroc).load(p, t)
        for p, t in zip(positive.split(sizes), data.targets.split(sizes), strict=True)
    ]
    assert float(sum(patches)()) == pytest.approx(roc_auc_score(data.targets, positive), abs=1e-6)


def test_auc_of_several_classes_equals_scikit_learn() -> None:
    data = samples(8, 90, 3)
    scores = data.scores.softmax(1)
    patches = [
        TensorPatch(lambda p, t: multiclass_auroc(p, t, num_classes=3)).load(p.softmax(1), t)
        for p, t in cut(data, [20, 40])
    ]
    theirs = roc_auc_score(data.targets, scores, multi_class="ovr", average="macro")
    assert float(sum(patches)()) == pytest.approx(theirs, abs=1e-6)


def test_outputs_are_put_together_in_the_order_of_the_sum() -> None:
    seen = given_to_metric([(torch.tensor([float(n)]), torch.tensor([n])) for n in range(5)])
    assert seen.preds.tolist() == seen.targets.tolist() == [0, 1, 2, 3, 4]


def test_structures_of_outputs_are_put_together_leaf_by_leaf() -> None:
    one = torch.ones(2, 3)
    seen = given_to_metric([((one, {"a": one}), Pair(one, None)), ((one, {"a": one}), Pair(one, None))])
    assert seen.preds[0].shape == seen.preds[1]["a"].shape == seen.targets.a.shape == (4, 3)
    assert isinstance(seen.targets, Pair)
    assert seen.targets.b is None


def test_a_single_batch_is_given_as_it_is() -> None:
    preds = torch.ones(())
    assert given_to_metric([(preds, None)]).preds.shape == ()
    assert given_to_metric([(preds, None), (preds, None)]).preds.shape == (2,)


@pytest.mark.parametrize(
    "second",
    [
        pytest.param((torch.ones(2, 4), torch.ones(2)), id="ragged predictions"),
        pytest.param((torch.ones(2, 3), torch.ones(2, 2)), id="ragged targets"),
        pytest.param(((torch.ones(2, 3),), torch.ones(2)), id="another structure"),
        pytest.param((None, torch.ones(2)), id="none at all"),
    ],
)
def test_what_cannot_be_put_together_is_given_as_lists_of_batches(second: tuple[Any, Any]) -> None:
    first = (torch.ones(2, 3), torch.ones(2))
    seen = given_to_metric([first, second])
    assert isinstance(seen.preds, list)
    assert isinstance(seen.targets, list)
    assert seen.preds[0] is not None
    assert len(seen.preds) == len(seen.targets) == 2


def test_want_of_memory_is_not_taken_for_ragged_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(values: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("deepepochs_like.patches.tensor.concat", fail)
    with pytest.raises(torch.OutOfMemoryError):
        given_to_metric([(torch.ones(2), None), (torch.ones(2), None)])


def test_outputs_are_detached_and_not_copied() -> None:
    weight = torch.ones(3, requires_grad=True)
    patch = TensorPatch(lambda p, t: p["a"].sum()).load({"a": weight * 2}, None)
    assert not patch().requires_grad
    plain = torch.ones(3)
    assert patch.load({"a": plain}, None).leaves()[0][0]["a"].data_ptr() == plain.data_ptr()


SHAPES: dict[str, list[tuple[Any, Any]]] = {
    "tensors": [(torch.randn(n + 1, 2), torch.arange(n + 1)) for n in range(6)],
    "scalars": [(torch.tensor(float(n)), None) for n in range(6)],
    "numbers": [(float(n), n) for n in range(6)],
    "tuples": [((torch.randn(2), torch.randn(2, n % 2 + 1)), torch.ones(2)) for n in range(6)],
    "ragged": [(torch.randn(2, n + 1), torch.ones(2)) for n in range(6)],
    "named tuples": [(Pair(torch.randn(2), torch.randn(2)), None) for n in range(6)],
    "model outputs": [(ModelOutput(logits=torch.randn(2)), {"y": torch.ones(2)}) for n in range(6)],
    "lists of samples": [([torch.randn(n + 1) for _ in range(n)], ["x"] * n) for n in range(6)],
    "strings": [(torch.randn(1), f"target {n}") for n in range(6)],
}


def described(value: Any) -> Any:
    """A value with its types, comparable."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return type(value), {key: described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [described(item) for item in value]
    return value


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("half", range(6))
def test_the_metric_sees_the_same_after_a_resume_half_way(shape: str, half: int) -> None:
    straight, resumed = Seen(), Seen()
    whole, first, second = TensorPatch(straight), TensorPatch(straight), TensorPatch(resumed)
    for n, batch in enumerate(SHAPES[shape]):
        whole = whole.absorb(Outputs(*batch))
        first = first.absorb(Outputs(*batch)) if n < half else first
    second.load_state_dict(through_a_file(first.state_dict()))
    for batch in SHAPES[shape][half:]:
        second = second.absorb(Outputs(*batch))
    whole()
    second()
    assert described(resumed.preds) == described(straight.preds)
    assert described(resumed.targets) == described(straight.targets)


def test_the_state_of_many_batches_is_a_few_tensors() -> None:
    patch = TensorPatch(Seen())
    for _ in range(1000):
        patch = patch.absorb(Outputs((torch.ones(2, 3), {"a": torch.ones(2)}), torch.ones(2)))
    (leaf,) = patch.state_dict()["leaves"]
    assert leaf[0][0].shape == (2000, 3)


def test_outputs_that_cannot_be_saved_are_refused_by_name() -> None:
    patch = TensorPatch(Seen(), name="auc").load({"a": object()}, None)
    with pytest.raises(PatchError, match=r"TensorPatch 'auc': preds\['a'\] is an object"):
        patch.state_dict()
    with pytest.raises(PatchError, match="targets is an ndarray"):
        TensorPatch(Seen()).load(torch.ones(1), np.ones(1)).state_dict()


def test_a_state_of_batches_that_were_changed_in_place_is_refused_when_it_is_read() -> None:
    preds = torch.ones(2)
    patch = TensorPatch(Seen(), name="auc").load(preds, None)
    preds.zero_()
    later, last = TensorPatch(Seen(), name="auc"), TensorPatch(Seen(), name="auc")
    later.load_state_dict(through_a_file(patch.state_dict()))
    last.load_state_dict(through_a_file((later + TensorPatch(Seen(), name="auc").load(preds, None)).state_dict()))
    for resumed in (later, last, last + last):
        with pytest.raises(PatchError, match=r"'auc': the predictions of batch 0 .*changed in place"):
            resumed()


def test_a_state_that_does_not_say_whether_its_batches_were_changed_is_loaded() -> None:
    patch, later = TensorPatch(lambda p, t: p.sum()).load(torch.ones(2), None), TensorPatch(lambda p, t: p.sum())
    state = patch.state_dict()
    del state["spoilt"]
    later.load_state_dict(state)
    assert later().item() == 2.0


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
def test_memory_that_runs_out_in_a_metric_of_lists_is_said_as_it_is(kind: type[Exception]) -> None:
    def greedy(preds: list[Tensor], targets: Any) -> float:
        raise kind("no room")

    ragged = [TensorPatch(greedy).load(torch.ones(2, n), torch.ones(2, n)) for n in (1, 2)]
    with pytest.raises(kind, match="no room"):
        sum(ragged)()


def test_a_deep_tree_of_merges_is_read_without_recursion() -> None:
    left = sum(TensorPatch(lambda p, t: p.sum()).load(torch.ones(1), None) for _ in range(5000))
    right = TensorPatch(left.metric).load(torch.ones(1), None)
    for _ in range(5000):
        right = TensorPatch(left.metric).load(torch.ones(1), None) + right
    assert (left + right)().item() == 10_001


def test_the_meta_device_works() -> None:
    patches = [TensorPatch(lambda p, t: p.sum()).load(torch.ones(2, device="meta"), None) for _ in range(3)]
    assert sum(patches)().is_meta
