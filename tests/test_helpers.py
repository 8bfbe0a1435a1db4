"""The helpers that scripts import: containers, samples, names, trackers, the schedule."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import deepepochs_like as d
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, BatchError

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


# listify


@pytest.mark.parametrize(
    ("value", "items"),
    [
        (None, []),
        ("ab", ["ab"]),
        ("", [""]),
        (b"ab", [b"ab"]),
        ((1, 2), [1, 2]),
        ([1, 2], [1, 2]),
        ({1}, [1]),
        (range(2), [0, 1]),
        (iter([1]), [1]),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}, [{"a": 1}]),
        (0, [0]),
        (len, [len]),
        (torch.tensor([1, 2]), [torch.tensor(1), torch.tensor(2)]),
        (torch.tensor(1.0), [torch.tensor(1.0)]),
        (np.array([1, 2]), [1, 2]),
    ],
)
def test_listify(value: Any, items: list[Any]) -> None:
    assert d.listify(value) == items


def test_listify_keeps_what_is_one_thing_though_it_can_be_iterated() -> None:
    for whole in (torch.nn.ModuleDict({"a": torch.nn.Identity()}), torch.nn.ModuleList([torch.nn.Identity()])):
        assert d.listify(whole) == [whole]


def test_listify_copies_a_list() -> None:
    given_list = [1]
    assert d.listify(given_list) is not given_list


# ddict


def test_ddict_reaches_nested_keys_as_attributes() -> None:
    options = d.ddict({"a": {"b": 1}, "c": [{"d": 1}]}, e=2)
    assert (options.a.b, options["e"], options.e) == (1, 2, 2)
    assert type(options.c[0]) is dict
    options.x = {"y": {"z": 3}}
    options["w"] = {"v": 4}
    options.update({"u": {"t": 5}})
    options |= {"s": {"r": 6}}
    assert (options.x.y.z, options.w.v, options.u.t, options.s.r) == (3, 4, 5, 6)
    assert options.setdefault("q", {"p": 7}).p == options.q.p == 7
    assert options.setdefault("e", 9) == 2
    assert options == {**options}


def test_ddict_without_a_key() -> None:
    options = d.ddict(width=1)
    assert not hasattr(options, "height")
    with pytest.raises(AttributeError, match="no key 'widht'; did you mean 'width'"):
        options.widht  # noqa: B018
    with pytest.raises(KeyError):
        options["widht"]
    with pytest.raises(AttributeError, match="there are width"):
        del options.height
    del options.width
    assert options == {}


def test_ddict_stays_one() -> None:
    options = d.ddict(a={"b": [1]})
    for twin in (options.copy(), copy.copy(options), copy.deepcopy(options), pickle.loads(pickle.dumps(options))):
        assert type(twin) is d.ddict
        assert twin == options
        assert type(twin.a) is d.ddict
        twin.c = 2
        assert "c" not in options
    assert type(options | {"c": 1}) is d.ddict
    assert copy.deepcopy(options).a.b is not options.a.b
    with pytest.raises(TypeError):
        options | [1]


# flatten_dict

KEYS = st.text("ab", min_size=1, max_size=2)
NESTED = st.recursive(
    st.dictionaries(KEYS, st.integers(), max_size=3),
    lambda inner: st.dictionaries(KEYS, inner | st.integers(), max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("nested", "arguments", "flat"),
    [
        ({"a": 1, "b": {"c": 2, "d": {"e": 3}}}, {}, {"a": 1, "b.c": 2, "b.d.e": 3}),
        ({"a": {"b": 1}}, {"parent_key": "p"}, {"p.a.b": 1}),
        ({"a": {"b": 1}}, {"sep": "/"}, {"a/b": 1}),
        ({}, {}, {}),
        ({"a": {}}, {}, {}),
        ({1: {2: 3}}, {}, {"1.2": 3}),
        ({"a": [1, {"b": 2}]}, {}, {"a": [1, {"b": 2}]}),
        ({"a.b": 1, "a": {"b": 2}}, {}, {"a.b": 2}),
    ],
)
def test_flatten_dict(nested: Any, arguments: Any, flat: Any) -> None:
    assert d.flatten_dict(nested, **arguments) == flat


@given(NESTED)
def test_flatten_dict_keeps_every_leaf_under_its_path(nested: dict[str, Any]) -> None:
    def leaves(node: Any, path: tuple[str, ...] = ()) -> Any:
        for key, value in node.items():
            yield from leaves(value, (*path, key)) if isinstance(value, dict) else [(".".join((*path, key)), value)]

    flat = d.flatten_dict(nested)
    assert flat == dict(leaves(nested))
    assert d.flatten_dict(flat) == flat


# concat_dicts and sum_dicts


def test_concat_dicts() -> None:
    joined = d.concat_dicts([{"a": 1, "b": torch.tensor(2)}, {"a": 3.5, "c": torch.tensor(1.5)}])
    assert {k: [v.tolist() for v in column] for k, column in joined.items()} == {
        "a": [1, 3.5],
        "b": [2, 0],
        "c": [0, 1.5],
    }
    assert [v.dtype for column in joined.values() for v in column] == [
        np.float64,
        np.float64,
        np.int64,
        np.float64,
        np.float64,
        np.float32,
    ]
    assert list(joined) == ["a", "b", "c"]
    assert d.concat_dicts([{"a": {"x": 1}}, {"a": {"x": 2}}]) == {"a": [{"x": 1}, {"x": 2}]}
    assert d.concat_dicts([{"a": None}], to_np=False) == {"a": [None]}


def test_sum_dicts() -> None:
    total = d.sum_dicts([{"a": 1, "b": 2}, {"a": 3}])
    assert total == {"a": 4, "b": 2}
    assert type(total) is d.ddict
    assert total.a == 4
    tensors = d.sum_dicts([{"a": torch.tensor([1, 2])}, {"a": torch.tensor([3, 4])}])
    assert tensors["a"].tolist() == [4, 6]
    (value,) = d.sum_dicts([{"a": torch.tensor(1.0)}, {"a": torch.tensor(2.0)}], to_np=True).values()
    assert isinstance(value, np.float32)
    assert value == 3


def test_sum_dicts_leaves_what_it_adds_up_alone() -> None:
    one, two = {"a": torch.zeros(2)}, {"a": torch.ones(2)}
    d.sum_dicts([one, two])
    assert one["a"].tolist() == [0, 0]
    assert two["a"].tolist() == [1, 1]


@given(st.lists(st.dictionaries(KEYS, st.integers()), min_size=1))
def test_the_sum_is_the_sum_of_the_columns(dicts: list[dict[str, int]]) -> None:
    columns = d.concat_dicts(dicts, to_np=False)
    assert d.sum_dicts(dicts) == {key: sum(column) for key, column in columns.items()}
    assert all(len(column) == len(dicts) for column in columns.values())


@pytest.mark.parametrize("function", [d.concat_dicts, d.sum_dicts])
def test_no_dicts(function: Any) -> None:
    with pytest.raises(ArgumentError, match="at least one dict"):
        function([])


def test_sum_dicts_names_what_cannot_be_added() -> None:
    with pytest.raises(ArgumentError, match="'a' is 'x', a str"):
        d.sum_dicts([{"a": "x"}])


# to_numpy and detach_clone


@pytest.mark.parametrize(
    ("data", "dtype", "value"),
    [
        (torch.tensor([1, 2]), np.int64, [1, 2]),
        (torch.tensor(1.5, requires_grad=True), np.float32, 1.5),
        (torch.tensor(1.5, dtype=torch.bfloat16), np.float32, 1.5),
        (np.array([1, 2]), np.float64, [1, 2]),
        (np.float32(2), np.float64, 2),
        (5, np.float64, 5),
        (True, np.float64, 1),
    ],
)
def test_to_numpy(data: Any, dtype: Any, value: Any) -> None:
    array = d.to_numpy(data)
    assert isinstance(array, np.ndarray)
    assert array.dtype == dtype
    assert array.tolist() == value


def test_to_numpy_of_containers() -> None:
    assert np.isnan(d.to_numpy(None))
    one, two, three = d.to_numpy([torch.tensor(1.0), 3, (1, 2)])
    assert (one.dtype, two.dtype, three.tolist()) == (np.float32, np.float64, [1, 2])
    mapping = d.to_numpy({"a": [torch.tensor(1.0), torch.tensor(2.0)], "b": {"c": 1}, "d": torch.tensor(1)})
    assert mapping["a"].dtype == np.float64
    assert (mapping["a"].tolist(), mapping["b"], mapping["d"].dtype) == ([1, 2], {"c": 1}, np.int64)
    assert d.to_numpy([]) == []


@pytest.mark.parametrize("data", ["a", [1, "a"], {"a": object()}])
def test_to_numpy_says_what_is_no_number(data: Any) -> None:
    with pytest.raises(ArgumentError, match="is no number"):
        d.to_numpy(data)


def test_detach_clone_shares_nothing() -> None:
    x = torch.ones(2, requires_grad=True) * 2
    kept = d.detach_clone({"a": (x, 1), "b": {"c": [x]}, "d": "text"})
    assert type(kept["a"]) is list
    assert kept["d"] == "text"
    for copied in (kept["a"][0], kept["b"]["c"][0]):
        assert not copied.requires_grad
        copied.zero_()
    assert x.tolist() == [2, 2]


# batches and concat


def test_batches_of_anything_with_slices() -> None:
    assert list(d.batches(range(7), 3)) == [range(0, 3), range(3, 6), range(6, 7)]
    assert list(d.batches("abcde", 2)) == ["ab", "cd", "e"]
    assert list(d.batches([1, 2, 3], 2)) == [[1, 2], [3]]
    assert list(d.batches([[1, 2], [3, 4], [5, 6]], 2)) == [[[1, 2], [3, 4]], [[5, 6]]]
    assert [part.tolist() for part in d.batches(np.arange(3), 2)] == [[0, 1], [2]]
    assert list(d.batches([], 2)) == []
    assert list(d.batches((), 2)) == []
    assert list(d.batches(torch.empty(0, 3), 2)) == []


def test_batches_of_columns() -> None:
    a, b = torch.arange(3), torch.arange(3, 6)
    for columns in ((a, b), [a, b]):
        assert [(x.tolist(), y.tolist()) for x, y in d.batches(columns, 2)] == [([0, 1], [3, 4]), ([2], [5])]
    assert list(d.batches(([1, 2, 3], "abc"), 2)) == [([1, 2], "ab"), ([3], "c")]
    ((only,),) = d.batches([a], 5)
    assert only.tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2"])
def test_batches_of_no_size(size: Any) -> None:
    with pytest.raises(ArgumentError, match="batch_size="):
        d.batches([1], size)


@pytest.mark.parametrize("inputs", [3, None, {"a": 1}, {1, 2}, torch.tensor(1), iter([1]), (1, 2)])
def test_batches_of_what_cannot_be_cut(inputs: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="cannot be cut"):
        d.batches(inputs, 1)


def test_columns_of_batches_must_be_of_one_length() -> None:
    with pytest.raises(ArgumentError, match=r"\[3, 2\] samples"):
        d.batches((torch.arange(3), torch.arange(2)), 2)


@given(st.integers(1, 20), st.integers(1, 25), st.sampled_from(["tensor", "array", "tuple", "list", "nested"]))
def test_concat_undoes_batches(length: int, size: int, kind: str) -> None:
    tensor = torch.arange(2.0 * length).view(length, 2)
    whole: Any = {
        "tensor": tensor,
        "array": tensor.numpy(),
        "tuple": (tensor, tensor[:, 0]),
        "list": list(range(length)),
        "nested": (tensor, [str(i) for i in range(length)]),
    }[kind]
    parts = list(d.batches(whole, size))
    assert len(parts) == math.ceil(length / size)
    again = d.concat(parts)
    assert type(again) is type(whole)
    for mine, given_one in zip(*((v if isinstance(v, tuple) else (v,)) for v in (again, whole)), strict=True):
        assert (mine == given_one).all() if hasattr(mine, "shape") else mine == given_one


def test_concat_keeps_structure() -> None:
    def batch(n: int) -> Any:
        return {"a": torch.ones(n, 2), "b": (torch.tensor(float(n)), [torch.zeros(n)], None), "c": ["x"] * n}

    joined = d.concat([batch(2), batch(1)])
    assert joined["a"].shape == (3, 2)
    assert joined["b"][0].tolist() == [2, 1]
    assert [t.shape for t in joined["b"][1]] == [(3,)]
    assert joined["b"][2] is None
    assert joined["c"] == ["x"] * 3


def test_concat_of_leaves() -> None:
    assert d.concat([1, 2]).tolist() == [1, 2]
    assert d.concat([1.5, 2]).dtype == torch.float32
    assert d.concat([np.float64(1.5), np.float64(2)]).dtype == torch.float64
    assert d.concat([np.array(1), np.array(2)]).tolist() == [1, 2]
    assert d.concat(["a", "b"]) == ["a", "b"]
    assert d.concat([None, torch.ones(1)]) == [None, torch.ones(1)]
    assert d.concat([None, None]) is None
    assert type(d.concat([d.TensorTuple((torch.ones(1),))] * 2)) is d.TensorTuple
    named = torch.return_types.max((torch.ones(1), torch.ones(1)))
    assert d.concat([tuple(named)] * 2)[0].tolist() == [1, 1]


def test_concat_of_what_does_not_go_together() -> None:
    with pytest.raises(BatchError, match="empty list"):
        d.concat([])
    for values in (
        [{"a": torch.ones(1)}, {"b": torch.ones(1)}],
        [{"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}],
        [{"a": torch.ones(1)}, torch.ones(1)],
        [(torch.ones(1),), (torch.ones(1), torch.ones(1))],
        [[torch.ones(1)], [torch.ones(1), torch.ones(1)]],
        [(torch.ones(1),), torch.ones(1)],
    ):
        with pytest.raises(BatchError, match="differ in structure"):
            d.concat(values)
    with pytest.raises(RuntimeError):
        d.concat([torch.ones(1, 2), torch.ones(1, 3)])


# batch_size


def test_batch_size() -> None:
    x = torch.zeros(3, 2)
    for data in (x, [x], (x, torch.zeros(5)), ((x,), 1), {"a": x, "b": torch.zeros(3)}, [None, x], x.numpy()):
        assert d.batch_size(data) == 3
    assert d.batch_size(torch.zeros(1, 3)) == 1
    assert d.batch_size(d.TensorTuple((torch.zeros(3, 1),))) == 3
    assert d.batch_size(x, 1) == d.batch_size({"a": x}, batch_dim=1) == d.batch_size(x, batch_dim=-1) == 2


@pytest.mark.parametrize("data", [None, 5, [], ["a"], torch.tensor(1.0), {"a": "text"}])
def test_batch_size_of_what_does_not_tell(data: Any) -> None:
    with pytest.raises(BatchError, match="cannot tell"):
        d.batch_size(data)


def test_batch_size_of_a_dict_that_disagrees() -> None:
    with pytest.raises(BatchError, match="disagree"):
        d.batch_size({"a": torch.zeros(3), "b": torch.zeros(4)})


# groupby_apply

PAIRS = st.lists(st.tuples(st.integers(-100, 100), st.integers(-3, 3)), max_size=20)


@given(PAIRS, st.sampled_from(["mean", "sum"]))
def test_groupby_apply_is_the_group_by_of_python(pairs: list[tuple[int, int]], reduction: Any) -> None:
    groups = itertools.groupby(sorted(pairs, key=lambda pair: pair[1]), key=lambda pair: pair[1])
    sums = [(sum(values), len(values)) for _, group in groups for values in [[v for v, _ in group]]]
    expected = [total / n if reduction == "mean" else total for total, n in sums]
    values = torch.tensor([v for v, _ in pairs], dtype=torch.float64)
    keys = torch.tensor([k for _, k in pairs], dtype=torch.int64)
    assert d.groupby_apply(values, keys, reduction).tolist() == pytest.approx(expected)


def test_groupby_apply_of_unsorted_keys() -> None:
    keys = torch.tensor([5, 1, 1, 5, 5, 0])
    assert d.groupby_apply(torch.tensor([1.0, 2, 4, 8, 16, 32]), keys, "sum").tolist() == [32, 6, 25]


def test_groupby_apply_keeps_gradients_dimensions_and_integers() -> None:
    values = torch.tensor([[1.0, 2], [3, 4], [5, 6]], requires_grad=True)
    means = d.groupby_apply(values, [1.5, 0.5, 1.5])
    assert means.tolist() == [[3, 4], [3, 4]]
    means.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.5, 0.5], [1, 1], [0.5, 0.5]]
    assert d.groupby_apply([1, 2, 4], [0, 0, 1], "sum").dtype == torch.int64
    assert d.groupby_apply([1, 2, 4], [0, 0, 1]).tolist() == [1.5, 4]
    assert d.groupby_apply(torch.empty(0), torch.empty(0)).tolist() == []


def test_groupby_apply_checks_its_arguments() -> None:
    with pytest.raises(ArgumentError, match="'mean' or 'sum'"):
        d.groupby_apply([1], [1], "max")  # type: ignore[arg-type]
    for values, keys in (([1, 2], [1]), (1, 1), ([1], [[1]])):
        with pytest.raises(ArgumentError, match="shapes"):
            d.groupby_apply(values, keys)


# rename and make_runningid


def test_rename_names_the_function_itself() -> None:
    def metric(preds: Any, targets: Any) -> int:
        return 1

    assert d.rename("m")(metric) is metric
    assert metric.__name__ == "m"

    @d.rename("")
    def nameless() -> None: ...

    assert nameless.__name__ == ""
    part = functools.partial(metric, 1)
    assert d.rename("p")(part).__name__ == "p"


def test_rename_wraps_what_takes_no_name() -> None:
    class Metric:
        def compute(self, preds: Any, targets: Any) -> Any:
            return preds + targets

    for function, arguments in ((max, (1, 2)), (Metric().compute, (1, 1))):
        renamed = d.rename("m")(function)
        assert renamed.__name__ == "m"  # type: ignore[attr-defined]
        assert renamed(*arguments) == 2  # type: ignore[operator]
    assert Metric.compute.__name__ == "compute"


def test_rename_needs_a_name_and_a_function() -> None:
    with pytest.raises(ArgumentTypeError, match="a name is needed"):
        d.rename(len)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="no function"):
        d.rename("a")(3)  # type: ignore[type-var]


def test_make_runningid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1795255166.25)
    assert d.make_runningid() == "1795255166"
    assert d.make_runningid("t", 5, "o") == "1795255166-t-5-o"
    assert d.make_runningid(other_info={"a": 1}) == "1795255166-{'a': 1}"
    assert d.make_runningid(seed=0, time_precision=100) == "179525516625-0"


# TopKQueue and Moveing


def test_top_k_queue() -> None:
    queue = d.TopKQueue(3)
    for item in ([5, "a"], (1, "b"), (4, "c"), (torch.tensor(2.0), "d"), (9, "e")):
        assert queue.put(item) is None
    assert queue.items() == [(9, "e"), [5, "a"], (4, "c")]
    assert queue.items() == [(9, "e"), [5, "a"], (4, "c")], "looking consumes nothing"
    assert len(queue) == 3


@given(st.lists(st.integers(-3, 3) | NUMBERS), st.integers(1, 6))
def test_top_k_queue_keeps_what_sorting_would(values: list[float], k: int) -> None:
    queue, items = d.TopKQueue(k), [(value, number) for number, value in enumerate(values)]
    for item in items:
        queue.put(item)
    assert queue.items() == sorted(items, key=lambda item: -item[0])[:k]  # which is stable: the earlier of equal ones


def test_top_k_queue_never_compares_items() -> None:
    queue = d.TopKQueue(2)
    for value in (1, 1, 1, math.nan, 2):
        queue.put((value, torch.ones(2)))
    assert [value for value, _ in queue.items()] == [2, 1]


def test_top_k_queue_ranks_nan_last() -> None:
    queue = d.TopKQueue(2)
    for value in (math.nan, -1e30):
        queue.put((value,))
    assert queue.items()[0] == (-1e30,)
    queue.put((-2e30,))
    assert queue.items() == [(-1e30,), (-2e30,)]


@pytest.mark.parametrize("item", [5, (), ("a",), None, ([1, 2],), {"a": 1}])
def test_top_k_queue_needs_a_number_to_rank_by(item: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="ranked by"):
        d.TopKQueue(1).put(item)


@pytest.mark.parametrize("k", [0, -1, 1.5, None])
def test_counts_are_checked(k: Any) -> None:
    with pytest.raises(ArgumentError, match="at least 1"):
        d.TopKQueue(k)
    with pytest.raises(ArgumentError, match="at least 1"):
        d.Moveing(k)


@given(st.lists(NUMBERS, min_size=1), st.integers(1, 5))
def test_moving_mean(values: list[float], length: int) -> None:
    mean = d.Moveing(length)
    for end, value in enumerate(values, 1):
        latest = values[max(0, end - length) : end]
        assert mean(value) == pytest.approx(sum(latest) / len(latest))


def test_moving_mean_of_tensors() -> None:
    mean = d.Moveing(2)
    assert [mean(torch.tensor(v)).item() for v in (1.0, 3.0, 5.0)] == [1, 2, 4]


# set_seed


def test_set_seed_is_three_plain_seeds() -> None:
    def draw() -> list[Any]:
        return [random.random(), np.random.rand(), torch.rand(2).tolist()]

    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        assert d.set_seed(5) is None
        seeded = draw()
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert draw() == seeded


# LinearCosineScheduler


def rates(steps: int, groups: int = 1, **arguments: Any) -> list[list[float]]:
    parameters = [{"params": [torch.zeros(1, requires_grad=True)], "lr": 7.0 + i} for i in range(groups)]
    sgd = torch.optim.SGD(parameters, lr=1.0)
    schedule = d.LinearCosineScheduler(sgd, **arguments)
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in sgd.param_groups])
        assert schedule.get_last_lr() == found[-1]
        sgd.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("arguments", "curve"),
    [
        (
            {"max_val": 1, "warmup_steps": 3, "total_steps": 10},
            "0.33333333 0.66666667 1 0.96308742 0.8579693 0.7006489 0.51507684 0.32950479 0.17218439 0.06706627 "
            "0.03015369 0.03015369",
        ),
        (
            {"max_val": 0.1, "warmup_steps": 3, "total_steps": 10, "min_val": 0.01},
            "0.03333333 0.06666667 0.1 0.09657458 0.08681981 0.07222075 0.055 0.03777925 0.02318019 0.01342542 "
            "0.01 0.01",
        ),
        (
            {"max_val": 0.1, "warmup_steps": 0, "total_steps": 5},
            "0.0936327 0.0762379 0.0524758 0.0287137 0.0113186 0.0049516",
        ),
        ({"max_val": 0.1, "warmup_steps": 5, "total_steps": 5}, "0.02 0.04 0.06 0.08 0.1 0.05 0.05"),
    ],
)
def test_linear_cosine_schedule(arguments: Any, curve: str) -> None:
    expected = [float(value) for value in curve.split()]
    found = rates(len(expected), groups=2, **arguments)
    assert [one for one, _ in found] == pytest.approx(expected, abs=1e-6)
    assert all(one == two for one, two in found), "every group has the same rate"


def test_linear_cosine_schedule_goes_on() -> None:
    arguments: dict[str, Any] = {"max_val": 1.0, "warmup_steps": 2, "total_steps": 6}
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    first = d.LinearCosineScheduler(sgd, **arguments)
    for _ in range(3):
        sgd.step()
        first.step()
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    second = d.LinearCosineScheduler(other, **arguments)
    second.load_state_dict(first.state_dict())
    for schedule, optimizer in ((first, sgd), (second, other)):
        optimizer.step()
        schedule.step()
    assert first.get_last_lr() == second.get_last_lr() == [first.value(4)]


@pytest.mark.parametrize(
    "wrong",
    [{"warmup_steps": 5, "total_steps": 4}, {"warmup_steps": -1}, {"max_val": 0.0}, {"min_val": -0.1}],
)
def test_linear_cosine_schedule_checks_its_arguments(wrong: Any) -> None:
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ArgumentError):
        d.LinearCosineScheduler(sgd, **{"max_val": 1.0, "warmup_steps": 1, "total_steps": 4, **wrong})


# names


def test_old_names() -> None:
    assert d.TrainerBase is d.Trainer
    assert issubclass(d.StopLoopException, Exception)
    for error in (d.LoopException, d.CallbackException, d.StopLoopException):
        with pytest.raises(error, match="why"):
            raise error("why")


def test_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert d.__version__ == version("deepepochs_like")
    assert "__version__" in dir(d)
