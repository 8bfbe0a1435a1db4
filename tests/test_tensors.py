"""`TensorTuple` and `TensorDict` read both ways: as the containers they are, and as the one tensor they hold."""

from __future__ import annotations

import copy
import io
import operator
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from deepepochs_like import TensorDict, TensorTuple
from deepepochs_like.errors import BatchError

CASTS = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "int": torch.int32,
    "long": torch.int64,
    "bool": torch.bool,
}


@pytest.fixture
def tensor() -> torch.Tensor:
    return torch.arange(6.0).view(2, 3) + 1


@pytest.fixture
def one(tensor: torch.Tensor) -> TensorTuple:
    return TensorTuple((tensor,))


@pytest.fixture
def two(tensor: torch.Tensor) -> TensorTuple:
    return TensorTuple((tensor, tensor * 2))


def equal(left: Any, right: Any) -> bool:
    return type(left) is type(right) and torch.equal(left, right)


def test_it_is_the_tuple(one: TensorTuple, two: TensorTuple, tensor: torch.Tensor) -> None:
    assert isinstance(one, tuple)
    assert (len(one), len(two)) == (1, 2)
    assert one[0] is tensor
    assert one[-1] is tensor
    assert [t is tensor for t in one] == [True]
    assert (lambda *args: args[0])(*one) is tensor
    a, b = two
    assert a is two[0]
    assert b is two[1]
    assert type(two[:1]) is TensorTuple
    assert len(two[:1]) == 1
    assert hash(one) == hash((tensor,))
    with pytest.raises(IndexError):
        two[2]


def test_one_input_has_the_tensors_attributes(one: TensorTuple, tensor: torch.Tensor) -> None:
    assert one.shape == tensor.shape
    assert one.size(0) == 2
    assert one.dtype == torch.float32
    assert one.ndim == 2
    assert equal(one.view(3, 2), tensor.view(3, 2))
    assert one.sum().item() == 21
    assert equal(one.T, tensor.T)


def test_several_inputs_say_that_they_are_several(two: TensorTuple) -> None:
    with pytest.raises(AttributeError, match="batch_x holds 2 inputs, so it has no attribute 'shape'"):
        two.shape  # noqa: B018
    assert not hasattr(TensorTuple(()), "shape")
    with pytest.raises(BatchError, match="2 inputs"):
        two - 1
    with pytest.raises(BatchError, match="2 inputs"):
        torch.relu(two)


def test_indices_that_no_tuple_takes_are_the_tensors(one: TensorTuple, two: TensorTuple, tensor: torch.Tensor) -> None:
    assert equal(one[:, 0], tensor[:, 0])
    assert equal(one[..., 1:], tensor[..., 1:])
    assert equal(one[None], tensor[None])
    assert equal(one[[1, 0]], tensor[[1, 0]])
    assert equal(one[tensor > 2], tensor[tensor > 2])
    assert equal(one[TensorTuple((tensor > 2,))], tensor[tensor > 2])
    assert equal(one[torch.tensor([1])], tensor[[1]])
    assert one[np.int64(0)] is tensor
    with pytest.raises(TypeError):
        two[:, 0]


BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "eq", "ne", "lt", "le", "gt", "ge"]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("other", [2, 2.5, torch.full((2, 3), 2.0), "itself"], ids=["int", "float", "tensor", "itself"])
def test_operators_are_the_tensors(one: TensorTuple, tensor: torch.Tensor, name: str, other: Any) -> None:
    function = getattr(operator, name)
    bare, wrapped = (tensor, one) if isinstance(other, str) else (other, other)
    assert equal(function(one, wrapped), function(tensor, bare))
    assert equal(function(wrapped, one), function(bare, tensor))


@pytest.mark.parametrize("name", ["and_", "or_", "xor", "lshift", "rshift"])
def test_operators_of_integers(name: str) -> None:
    tensor, function = torch.tensor([1, 2, 3]), getattr(operator, name)
    one = TensorTuple((tensor,))
    assert equal(function(one, 2), function(tensor, 2))
    assert equal(function(one, one), function(tensor, tensor))
    if name != "rshift":  # of a tensor and a wrapped one torch takes all but this
        assert equal(function(tensor, one), function(tensor, tensor))


def test_unary_operators_and_numbers(one: TensorTuple, tensor: torch.Tensor) -> None:
    assert equal(-one, -tensor)
    assert equal(+one, tensor)
    assert equal(abs(one), tensor)
    assert equal(~TensorTuple((tensor > 2,)), ~(tensor > 2))
    assert equal(one @ tensor.T, tensor @ tensor.T)
    assert equal(tensor @ TensorTuple((tensor.T,)), tensor @ tensor.T)
    number = TensorTuple((torch.tensor(3),))
    assert (float(number), int(number), complex(number), [0, 1, 2, 3][operator.index(number)]) == (3.0, 3, 3 + 0j, 3)
    changed = one
    changed += 1
    assert equal(changed, tensor + 1)
    assert one[0] is tensor


def test_tuples_stay_tuples_among_themselves(one: TensorTuple, two: TensorTuple, tensor: torch.Tensor) -> None:
    assert len(two + (1,)) == 3  # noqa: RUF005 - the operator is what is tried
    assert len((1,) + two) == 3  # noqa: RUF005
    assert len(one + (1,)) == 2  # noqa: RUF005
    assert len((1,) + one) == 2  # noqa: RUF005
    assert len(two * 2) == 4
    assert TensorTuple((1, "a")) == (1, "a")
    assert TensorTuple((1, "a")) != (1, "b")


def test_torch_functions(one: TensorTuple, tensor: torch.Tensor) -> None:
    weight = torch.ones(4, 3)
    assert equal(torch.flatten(one, 1), tensor.flatten(1))
    assert equal(nn.functional.linear(one, weight), nn.functional.linear(tensor, weight))
    assert equal(nn.functional.softmax(one, dim=-1), tensor.softmax(-1))
    assert equal(torch.cat([one, one], dim=1), torch.cat([tensor, tensor], dim=1))
    assert equal(torch.cat((one, tensor)), torch.cat((tensor, tensor)))
    assert equal(torch.stack([one]), torch.stack([tensor]))
    assert equal(torch.where(one > 2, one, 0.0), torch.where(tensor > 2, tensor, 0.0))
    assert equal(torch.add(input=one, other=one), tensor * 2)
    assert equal(nn.functional.mse_loss(one, tensor), torch.tensor(0.0))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(3, 2), (4, 3)),
        (nn.Conv2d(3, 2, 1), (4, 3, 2, 2)),
        (nn.BatchNorm1d(3), (4, 3)),
        (nn.LayerNorm(3), (4, 3)),
        (nn.Flatten(), (4, 3, 2)),
        (nn.Sequential(nn.Flatten(), nn.Linear(6, 2), nn.ReLU(), nn.Dropout(0.0)), (4, 3, 2)),
        (nn.GRU(3, 2, batch_first=True), (4, 5, 3)),
        (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), (2, 5, 4)),
    ],
)
def test_a_module_takes_one_input_either_way(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    batch_x = TensorTuple((x,))
    results = [module(*batch_x), module(batch_x), module(x)]
    first, second, third = (r[0] if isinstance(r, tuple) else r for r in results)
    assert equal(first, third)
    assert equal(second, third)


def test_an_embedding_takes_one_input_either_way() -> None:
    embedding, ids = nn.Embedding(5, 2), torch.tensor([1, 2])
    assert equal(embedding(TensorTuple((ids,))), embedding(ids))


def test_gradients_flow(tensor: torch.Tensor) -> None:
    leaf = tensor.clone().requires_grad_()
    (TensorTuple((leaf,)).float() * 2).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [[2, 2, 2]] * 2


def test_numpy_reads_the_tensor(one: TensorTuple, tensor: torch.Tensor) -> None:
    assert np.asarray(one).shape == (2, 3)
    assert np.array_equal(np.asarray(one), tensor.numpy())


@pytest.mark.parametrize("name", CASTS)
def test_casts_keep_both_readings(one: TensorTuple, two: TensorTuple, tensor: torch.Tensor, name: str) -> None:
    for batch in (one, two, TensorTuple((tensor, "text", [tensor], {"a": tensor}, None))):
        batch.indices = [4, 5]
        cast = getattr(batch, name)()
        assert type(cast) is TensorTuple
        assert len(cast) == len(batch)
        assert cast.indices == [4, 5]
        assert cast[0].dtype == CASTS[name]
    assert cast[1] == "text"
    assert cast[2][0].dtype == cast[3]["a"].dtype == CASTS[name]
    assert cast[4] is None


def test_moves_and_copies(two: TensorTuple) -> None:
    for moved in (two.to("cpu"), two.to(device="cpu", dtype=torch.float64), two.cpu(), two.clone(), two.detach()):
        assert type(moved) is TensorTuple
    assert two.to(torch.float64)[1].dtype == torch.float64
    assert two.to("meta").device == torch.device("meta")
    assert (two.device, TensorTuple(("a",)).device, TensorTuple(()).device) == (torch.device("cpu"),) * 3
    assert two.clone()[0].data_ptr() != two[0].data_ptr()
    leaf = TensorTuple((torch.ones(1, requires_grad=True),))
    assert not leaf.detach()[0].requires_grad
    assert not leaf.data[0].requires_grad
    leaf.data.zero_()
    assert leaf[0].item() == 0


@pytest.mark.parametrize(
    "copied", [pickle.dumps, "torch", copy.copy, copy.deepcopy], ids=["pickle", "torch", "copy", "deepcopy"]
)
def test_copies_are_of_the_same_kind(one: TensorTuple, two: TensorTuple, copied: Any) -> None:
    for batch in (one, two, TensorDict(a=one[0])):
        batch.indices = [1, 2]
        if copied == "torch":
            file = io.BytesIO()
            torch.save(batch, file)
            file.seek(0)
            twin = torch.load(file, weights_only=False)
        else:
            twin = pickle.loads(pickle.dumps(batch)) if copied is pickle.dumps else copied(batch)
        assert type(twin) is type(batch)
        assert twin.indices == [1, 2]
        assert len(twin) == len(batch)
        first = next(iter(twin.values())) if isinstance(twin, TensorDict) else twin[0]
        assert equal(first, one[0])


def wrap(samples: list[int]) -> TensorTuple:
    batch = TensorTuple((torch.tensor(samples),))
    batch.indices = samples
    return batch


@pytest.mark.parametrize("workers", [0, 2])
def test_it_comes_out_of_a_loader(workers: int) -> None:
    loader = DataLoader(range(4), batch_size=2, collate_fn=wrap, num_workers=workers)  # type: ignore[arg-type]
    batches = list(loader)
    assert [type(batch) for batch in batches] == [TensorTuple] * 2
    assert [batch[0].tolist() for batch in batches] == [[0, 1], [2, 3]]
    assert [batch.indices for batch in batches] == [[0, 1], [2, 3]]


def test_shown(one: TensorTuple) -> None:
    assert repr(TensorTuple((1, 2))) == "TensorTuple(1, 2)"
    assert repr(one).startswith("TensorTuple(tensor(")


@pytest.mark.parametrize("name", CASTS)
def test_dict_casts(tensor: torch.Tensor, name: str) -> None:
    batch = TensorDict(a=tensor, b=[tensor], c="text", d={"e": tensor})
    batch.indices = [1]
    cast = getattr(batch, name)()
    assert type(cast) is TensorDict
    assert cast.indices == [1]
    assert {cast["a"].dtype, cast["b"][0].dtype, cast["d"]["e"].dtype} == {CASTS[name]}
    assert cast["c"] == "text"


def test_dict_moves(tensor: torch.Tensor) -> None:
    batch = TensorDict(c="text", a=tensor)
    assert batch.device == torch.device("cpu")
    assert TensorDict().device == torch.device("cpu")
    assert batch.to("meta").device == torch.device("meta")
    assert (lambda **kwargs: kwargs["a"])(**batch) is tensor
    assert batch.clone()["a"].data_ptr() != tensor.data_ptr()
    assert isinstance(batch, dict)
