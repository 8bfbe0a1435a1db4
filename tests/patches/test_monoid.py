"""The laws every patch keeps: identity, associativity, commutativity, operands untouched, any cut into batches."""

from __future__ import annotations

import copy
import io
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from functools import partial, reduce
from operator import add
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from deepepochs_like import metrics
from deepepochs_like.errors import PatchError
from deepepochs_like.patches import (
    ConfusionMetrics,
    ConfusionPatch,
    MeanPatch,
    Outputs,
    PatchBase,
    TensorPatch,
    TorchMetricPatch,
    ValuePatch,
)
from deepepochs_like.patches.base import own_copy
from support.classification import cut, cuts, samples

Value = Any
COUNT = 40


def error(preds: Tensor, targets: Tensor) -> Tensor:
    """A mean over samples in float64."""
    return (preds.mean(1) - targets).abs().mean()


class Extremes(PatchBase):
    """A user's patch: its add changes self, keeps parts of other and returns self."""

    def load(self, preds: Tensor, targets: Tensor) -> Extremes:
        self.high, self.counts, self.seen = preds.max(), Counter(targets.tolist()), [targets.sum()]
        return self

    def add(self, other: Extremes) -> Extremes:
        self.high = torch.maximum(self.high, other.high)
        self.counts.update(other.counts)
        other.seen[0] += sum(self.seen)
        self.seen = other.seen
        return self

    def forward(self) -> dict[str, Any]:
        return {"high": self.high, "most": max(self.counts.values()), "sum": self.seen[0]}


class Product(PatchBase):
    """A user's patch: its add returns a new one."""

    def load(self, preds: Tensor, targets: Tensor) -> Product:
        self.log = preds.abs().log().sum()
        return self

    def add(self, other: Product) -> Product:
        result = Product(self.name)
        result.log = self.log + other.log
        return result

    def forward(self) -> Tensor:
        return self.log


BUILT_IN: dict[str, Callable[[int], Any]] = {
    "mean": lambda weight: MeanPatch(error, weight),
    "mean of a dict": lambda weight: MeanPatch(lambda p, t: {"a": error(p, t), "b": p.mean()}, weight),
    "mean, weight a tensor": lambda weight: MeanPatch(error, torch.tensor(weight)),
    "tensor": lambda weight: TensorPatch(partial(metrics.f1, average="macro"), weight),
    "confusion": lambda weight: ConfusionPatch(metrics.accuracy, weight),
    "confusion metrics": lambda weight: ConfusionMetrics(average="weighted"),
    "torchmetrics": lambda weight: TorchMetricPatch(MulticlassF1Score(4, average="macro"), weight),
}
KINDS = {**BUILT_IN, "user's, changing itself": lambda _: Extremes(), "user's, new": lambda _: Product()}


def same(left: Value, right: Value) -> bool:
    """Whether values are equal to 1e-12 (torchmetrics' own arithmetic: 1e-6)."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    single = isinstance(left, Tensor) and left.dtype == torch.float32
    return math.isclose(float(left), float(right), rel_tol=1e-6 if single else 1e-12, abs_tol=1e-13)


def batches(sizes: list[int], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    return cut(samples(seed, COUNT), sizes)


def loaded(kind: str, sizes: list[int], seed: int = 0) -> list[Any]:
    """One patch for each batch."""
    return [KINDS[kind](len(targets)).load(preds, targets) for preds, targets in batches(sizes, seed)]


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("kind", KINDS)
@given(sizes=cuts(COUNT), seed=st.integers(0, 100))
def test_any_cut_into_batches_gives_the_value_of_the_whole(kind: str, sizes: list[int], seed: int) -> None:
    (whole,) = loaded(kind, [COUNT], seed)
    parts = loaded(kind, sizes, seed)
    assert same(sum(parts)(), whole())
    assert same(reduce(lambda mine, other: mine.merge_(other), parts[1:], own_copy(parts[0]))(), whole())


@pytest.mark.parametrize("kind", BUILT_IN)
@given(sizes=cuts(COUNT))
def test_absorbing_batch_by_batch_gives_the_value_of_the_whole(kind: str, sizes: list[int]) -> None:
    (whole,) = loaded(kind, [COUNT])
    total = BUILT_IN[kind](1).empty()
    for preds, targets in batches(sizes):
        total = total.absorb(Outputs(preds, targets, len(targets)))
    assert same(total(), whole())


@pytest.mark.parametrize("kind", KINDS)
@given(order=st.permutations(range(5)))
def test_merging_is_associative_and_commutative(kind: str, order: list[int]) -> None:
    parts = loaded(kind, [3, 10, 1, 6])
    a, b, c, d, e = parts
    value = sum(parts)()
    assert same((a + (b + c) + (d + e))(), value)
    assert same(((a + b) + (c + (d + e)))(), value)
    assert same(sum(parts[i] for i in order)(), value)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_an_empty_patch_is_the_identity(kind: str) -> None:
    (patch,) = loaded(kind, [COUNT])
    empty = patch.empty()
    for result in (patch + empty, empty + patch, empty + empty + patch, empty.empty().merge_(patch)):
        assert same(result(), patch())
    with pytest.raises(PatchError, match="holds nothing yet"):
        empty()


@pytest.mark.parametrize("kind", KINDS)
def test_zero_plus_a_patch_is_a_copy(kind: str) -> None:
    (patch,) = loaded(kind, [COUNT])
    for twin in (0 + patch, patch + 0, sum([patch])):
        assert twin is not patch
        assert same(twin(), patch())


@pytest.mark.parametrize("kind", KINDS)
def test_adding_leaves_the_operands_as_they_were(kind: str) -> None:
    a, b, c = loaded(kind, [10, 20])
    before = [copy.deepcopy(p()) for p in (a, b, c)]
    for _ in range(3):
        _ = a + b
        _ = sum([a, b, c, a])
        total = a + b
        total = total + c
        total.merge_(c).merge_(b).merge_(a)
        merged = (0 + a).merge_(b)
        merged.merge_(merged + c)
    assert all(same(p(), value) for p, value in zip((a, b, c), before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_changing_an_operand_later_leaves_the_sum_as_it_was(kind: str) -> None:
    a, b, c = loaded(kind, [10, 20])
    total, mine = a + b, own_copy(a).merge_(b)
    value = copy.deepcopy(total())
    for patch in (a, b):
        patch.merge_(c)
        for attribute in vars(patch).values():
            if isinstance(attribute, Tensor):
                attribute.zero_()
    assert same(total(), value)
    assert same(mine(), value)


@pytest.mark.parametrize("kind", KINDS)
def test_loading_again_replaces_what_was_loaded(kind: str) -> None:
    first, second = batches([25])
    patch = KINDS[kind](25).load(*first)
    again = KINDS[kind](25).load(*first).load(*second)
    assert same(again(), KINDS[kind](15).load(*second)())
    assert not same(again(), patch())


@pytest.mark.parametrize("kind", BUILT_IN)
@given(sizes=cuts(COUNT), half=st.integers(0, 8))
def test_a_state_saved_half_way_goes_on_as_if_nothing_had_happened(kind: str, sizes: list[int], half: int) -> None:
    pieces = [(p, t, len(t)) for p, t in batches(sizes)]
    straight, first = BUILT_IN[kind](1).empty(), BUILT_IN[kind](1).empty()
    for piece in pieces:
        straight = straight.absorb(Outputs(*piece))
    for piece in pieces[:half]:
        first = first.absorb(Outputs(*piece))
    state = through_a_file(first.state_dict())
    second = BUILT_IN[kind](1)
    second.load_state_dict(state)
    for piece in pieces[half:]:
        second = second.absorb(Outputs(*piece))
    assert same(second(), straight())
    # What was loaded was copied: the state still is what it was.
    third = BUILT_IN[kind](1)
    third.load_state_dict(state)
    assert str(through_a_file(third.state_dict())) == str(through_a_file(first.state_dict()))


@pytest.mark.parametrize("kind", ["user's, changing itself", "user's, new"])
def test_a_users_patch_is_saved_by_its_attributes(kind: str) -> None:
    a, b, c = loaded(kind, [10, 20])
    state = through_a_file((a + b).state_dict())
    fresh = KINDS[kind](1)
    fresh.load_state_dict(state)
    assert same((fresh + c)(), (a + b + c)())


# What a patch must be, and what is said where it is not.


def test_patches_of_different_kinds_do_not_merge() -> None:
    value, confusion = ValuePatch(1, "v").load(1.0), ConfusionMetrics(name="v").load(*batches([COUNT])[0])
    for wrong in (confusion, 1, 1.5, None, "x", torch.ones(())):
        with pytest.raises(PatchError, match="cannot merge ValuePatch with"):
            value + wrong
        with pytest.raises(PatchError, match=r"cannot merge ValuePatch with .* under the name 'v'"):
            value.merge_(wrong)
    with pytest.raises(PatchError, match="cannot merge MeanPatch with ValuePatch"):
        MeanPatch(error, 2).load(*batches([COUNT])[0]) + value


def test_an_add_that_forgets_to_return_is_named() -> None:
    class Forgetful(PatchBase):
        def add(self, other: Any) -> None:
            pass

    with pytest.raises(PatchError, match=r"Forgetful\.add\(\) returned None"):
        Forgetful() + Forgetful()


@pytest.mark.parametrize("method", ["load", "forward", "add"])
def test_a_missing_method_is_named(method: str) -> None:
    class Half(PatchBase):
        pass

    with pytest.raises(PatchError, match=rf"Half defines no {method}\("):
        getattr(Half(), method)(*([Half()] if method == "add" else []))


def test_a_subclass_of_a_built_in_patch_may_write_its_own_add() -> None:
    class Largest(ValuePatch):
        def add(self, other: Any) -> Any:
            self.sums = max(self.sums, other.sums, key=lambda sums: float(sums[""][0]))
            return self

    class Newest(TensorPatch):
        def add(self, other: Any) -> Any:
            self.tree = other.tree
            return self

    patches = [Largest(1).load(v) for v in (1.0, 5.0, 3.0)]
    assert sum(patches)().item() == 5.0
    assert own_copy(patches[0]).merge_(patches[1]).merge_(patches[2])().item() == 5.0
    assert [p().item() for p in patches] == [1.0, 5.0, 3.0]
    total = sum(Newest(lambda p, t: p.sum()).load(torch.tensor([float(n)]), None) for n in range(3))
    assert total().item() == 2.0


Point = namedtuple("Point", ["x", "y"])


class Odd(PatchBase):
    """A patch of attributes that are awkward to copy, or to save."""

    __slots__ = ("slot",)

    def load(self, tensor: Tensor) -> Odd:
        self.slot = [tensor.clone()]
        self.graph = (tensor.clone().requires_grad_() * 2).sum()
        self.default: Any = defaultdict(list, a=[tensor.clone()])
        self.ordered = OrderedDict(b=tensor.clone())
        self.recent = deque([tensor.clone()], maxlen=3)
        self.point = Point(tensor.clone(), [1])
        self.names = {"x"}
        self.array = np.zeros(2)
        self.circle: list[Any] = [tensor.clone()]
        self.circle.append(self.circle)
        self.function, self.kind, self.model = math.sqrt, Tensor, torch.nn.Linear(1, 1)
        self.numbers = (value for value in range(3))
        self.metric = MulticlassAccuracy(3)
        return self


def test_a_copy_shares_nothing_that_can_change() -> None:
    patch = Odd().load(torch.ones(1))
    twin = own_copy(patch)
    twin.slot[0].add_(1)
    twin.default["a"][0].add_(1)
    twin.default["new"].append(1)
    twin.ordered["b"].add_(1)
    twin.recent.extend([0, 0, 0])
    twin.point.x.add_(1)
    twin.point.y.append(2)
    twin.names.add("y")
    twin.array += 1
    twin.circle[1][0].add_(1)
    twin.metric.update(torch.tensor([1]), torch.tensor([1]))
    assert patch.slot[0].item() == patch.default["a"][0].item() == patch.ordered["b"].item() == 1.0
    assert list(patch.default) == ["a"]
    assert len(patch.recent) == 1
    assert twin.recent.maxlen == 3
    assert patch.point == Point(torch.ones(1), [1])
    assert patch.names == {"x"}
    assert patch.array.sum() == 0
    assert twin.circle[1] is twin.circle
    assert patch.circle[0].item() == 1.0
    assert not patch.metric.update_called
    # What is no figure is shared.
    assert (twin.function, twin.kind, twin.model) == (patch.function, patch.kind, patch.model)
    assert twin.numbers is patch.numbers
    assert (twin.graph - patch.graph).item() == 0.0


def test_a_patch_of_odd_containers_is_restored_with_their_types() -> None:
    class Containers(PatchBase):
        def __init__(self) -> None:
            super().__init__()
            self.default: Any = defaultdict(int)
            self.counter: Any = Counter()
            self.recent: Any = deque(maxlen=2)
            self.point = Point(0, 0)
            self.frozen: Any = frozenset()
            self.scalar: Any = None

    full = Containers()
    full.default["a"] += 2
    full.counter.update("aab")
    full.recent.extend([1, 2, 3])
    full.point, full.frozen, full.scalar = Point(1, torch.ones(1)), frozenset([1]), np.float32(0.5)
    fresh = Containers()
    fresh.load_state_dict(through_a_file(full.state_dict()))
    fresh.default["new"] += 1
    assert fresh.default == {"a": 2, "new": 1}
    assert fresh.counter["a"] == 2
    assert fresh.counter["missing"] == 0
    assert fresh.recent == deque([2, 3], maxlen=2)
    assert fresh.recent.maxlen == 2
    assert (fresh.point.x, fresh.point.y.item()) == (1, 1.0)
    assert fresh.frozen == {1}
    assert isinstance(fresh.frozen, frozenset)
    assert type(fresh.scalar) is float


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (np.zeros(2), r"Holder\.held is an ndarray"),
        ([1, object()], r"Holder\.held\[1\] is an object"),
        ({"a": {"b": slice(1)}}, r"Holder\.held\['a'\]\['b'\] is a slice"),
    ],
)
def test_what_cannot_be_saved_is_refused_by_name(value: Any, where: str) -> None:
    class Holder(PatchBase):
        def __init__(self) -> None:
            super().__init__()
            self.held = value

    with pytest.raises(PatchError, match=where):
        Holder().state_dict()


def test_numpy_scalars_are_saved_as_numbers() -> None:
    class Holder(PatchBase):
        def load(self) -> Holder:
            self.held = {np.int64(3): [np.float64(0.5), np.float32(0.25), np.bool_(True), np.str_("s")]}
            return self

    state = through_a_file(Holder().load().state_dict())
    assert state == {"name": None, "held": {3: [0.5, 0.25, True, "s"]}}
    assert [type(v) for v in state["held"][3]] == [float, float, bool, str]


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_counts_are_exact(batches_: list[tuple[int, int, int]]) -> None:
    """Weights far beyond what float32 can count; labels one at a time."""
    total = sum(ValuePatch(torch.tensor(weight)).load(1.0) for weight, _, _ in batches_)
    assert int(total.sums[""][1]) == sum(weight for weight, _, _ in batches_)
    matrix = sum(
        ConfusionPatch(metrics.accuracy).load(torch.eye(4)[[pred]], torch.tensor([target]))
        for _, target, pred in batches_
    ).matrix()
    expected = Counter((target, pred) for _, target, pred in batches_)
    assert {(i, j): int(n) for i, row in enumerate(matrix) for j, n in enumerate(row) if n} == dict(expected)


def test_sums_of_patches_need_no_start() -> None:
    assert reduce(add, [ValuePatch(1).load(float(n)) for n in range(5)])().item() == 2.0
