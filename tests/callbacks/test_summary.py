"""`trainer.summary`: what it says is right, and it leaves no trace."""

from __future__ import annotations

import html
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from deepepochs_like import Callback, Trainer
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, LoaderError
from deepepochs_like.rng import rng_state
from deepepochs_like.summary.shown import in_bytes, scaled
from support.digits import loader


class Net(nn.Module):
    """Convolution, BatchNorm, dropout, a frozen layer, a shared weight, and a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.first, self.second = nn.Linear(256, 16), nn.Linear(16, 16, bias=False)
        self.third = nn.Linear(16, 16, bias=False)
        self.third.weight = self.second.weight
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 10)
        for parameter in self.first.parameters():
            parameter.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        self.modes.append((self.training, torch.is_grad_enabled()))
        x = self.first(self.conv(x.view(-1, 1, 8, 8)).flatten(1))
        x = self.drop(self.third(self.second(self.second(x))))
        x = x + torch.rand(16)  # it draws in evaluation, too
        return self.head(x @ torch.eye(16))


def trainer(model: Any = None, loss: Any = nn.functional.cross_entropy, **options: Any) -> Trainer:
    return Trainer(Net() if model is None else model, loss, device="cpu", verbose=0, **options)


# ------------------------------------------------------------------------------------------------------ what it says


def test_parameters_are_those_of_torch() -> None:
    model = Net()
    summary = trainer(model).summary()
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert summary.frozen == 256 * 16 + 16
    assert summary.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(row["parameters"] for row in summary.rows()) == summary.parameters
    assert summary.flops is None


def test_a_shared_parameter_is_counted_once_and_named_where_it_comes_again() -> None:
    rows = {row["name"]: row for row in trainer().summary().rows()}
    assert (rows["second"]["parameters"], rows["second"]["shared"]) == (256, 0)
    assert (rows["third"]["parameters"], rows["third"]["shared"]) == (0, 256)


def test_flops_of_every_layer_are_those_by_hand() -> None:
    summary = trainer().summary(torch.zeros(2, 64))
    flops = {row["name"]: row["flops"] for row in summary.rows()}
    assert flops["conv.0"] == 2 * 2 * 64 * 4 * 9
    assert flops["first"] == 2 * 2 * 256 * 16
    assert flops["second"] == 2 * 2 * 2 * 16 * 16  # called twice
    assert flops["third"] == 2 * 2 * 16 * 16
    assert flops["head"] == 2 * 2 * 16 * 10
    assert flops["(model)"] == 2 * 2 * 16 * 16  # the product in its own forward
    assert summary.flops == sum(flops.values())


def test_flops_are_those_of_torchs_own_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = Net().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(3, 64))
    assert trainer(model).summary(torch.zeros(3, 64)).flops == counter.get_total_flops()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_what_torch_has_fused_is_counted(kind: Any) -> None:
    gates = 4 if kind is nn.LSTM else 3
    model = trainer(kind(8, 16, batch_first=True), lambda out, y: out[0].mean())
    assert model.summary(torch.zeros(4, 5, 8)).flops == 2 * 4 * 5 * gates * 16 * (8 + 16)


def test_attention_is_counted_in_evaluation() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    rows = {row["name"]: row for row in trainer(layer, lambda out, y: out.mean()).summary(torch.zeros(1, 3, 8)).rows()}
    assert rows["self_attn"]["flops"] == 2 * (3 * 8 * 24 + 3 * 8 * 8) + 2 * 2 * (2 * 3 * 3 * 4)
    assert torch.backends.mha.get_fastpath_enabled()


def test_shapes_and_calls() -> None:
    rows = {row["name"]: row for row in trainer().summary(torch.zeros(2, 64)).rows()}
    assert rows["conv.0"]["output"] == [(2, 4, 8, 8)]
    assert (rows["second"]["output"], rows["second"]["calls"]) == ([(2, 16)], 2)
    assert rows["head"]["output"] == [(2, 10)]


def test_several_outputs_and_layers_that_are_not_called() -> None:
    model = nn.ModuleDict({"rnn": nn.GRU(3, 5), "unused": nn.Linear(2, 2)})
    model.forward = lambda x: model["rnn"](x)  # type: ignore[method-assign]
    summary = trainer(model, lambda out, y: out[0].mean()).summary(torch.zeros(4, 1, 3))
    rows = {row["name"]: row for row in summary.rows()}
    assert rows["rnn"]["output"] == [(4, 1, 5), (1, 1, 5)]
    assert rows["unused"]["calls"] == 0
    assert "not called in this pass: unused" in str(summary)


def test_depth_puts_layers_together() -> None:
    everything, shallow = trainer().summary(torch.zeros(2, 64)), trainer().summary(torch.zeros(2, 64), depth=1)
    names = [row["name"] for row in shallow.rows()]
    assert names == ["(model)", "conv", "first", "second", "third", "drop", "head"]
    assert (shallow.parameters, shallow.flops) == (everything.parameters, everything.flops)
    conv = shallow.rows()[1]
    assert (conv["type"], conv["parameters"], conv["output"]) == ("Sequential", 40 + 8, [(2, 4, 8, 8)])
    whole = trainer().summary(torch.zeros(2, 64), depth=0)
    assert [(row["name"], row["parameters"]) for row in whole.rows()] == [("(model)", everything.parameters)]


def test_memory_before_and_after_the_first_update() -> None:
    model = nn.Linear(64, 10)
    opt = torch.optim.Adam(model.parameters(), amsgrad=True)
    run = trainer(model, opt=opt, epochs=1)
    before = run.summary().memory
    assert before == {"parameters": 2600, "gradients": 2600, "optimizer": 3 * 2600}
    run.fit(loader())
    assert run.summary().memory["optimizer"] == 3 * 2600 + 2 * 4  # and the counts of steps
    plain = trainer(model, opt=torch.optim.SGD(model.parameters(), lr=0.1))
    assert plain.summary().memory["optimizer"] == 0


def test_activations_leave_out_views_and_what_is_done_in_place() -> None:
    model = nn.Sequential(nn.Linear(64, 10), nn.ReLU(inplace=True), nn.Flatten(), nn.Sigmoid())
    assert trainer(model).summary(torch.zeros(2, 64)).memory["activations"] == 4 * (2 * 64 + 2 * 10 + 2 * 10)


def test_memory_of_an_unknown_optimizer_is_not_made_up() -> None:
    class Own(torch.optim.SGD):
        pass

    model = nn.Linear(2, 1)
    summary = trainer(model, opt=Own(model.parameters(), lr=0.1)).summary()
    assert summary.memory["optimizer"] is None
    assert "and optimizer, which cannot be told" in str(summary)


def test_parameters_of_the_loss_are_listed() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, out: Tensor, y: Tensor) -> Tensor:
            return (out * self.scale.sum()).mean()

    rows = trainer(nn.Linear(2, 1), Loss()).summary().rows()
    assert [(row["name"], row["parameters"]) for row in rows] == [("(model)", 3), ("loss", 3)]


# ------------------------------------------------------------------------------------------------------- every input


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.layer(a + b)  # type: ignore[no-any-return]


A = torch.ones(4, 3)


@pytest.mark.parametrize(
    "data",
    [
        {"a": A, "b": A},
        (A, A, None),
        [A, A, torch.ones(4, 1)],
        ((A, A), torch.ones(4, 1)),
        [(A, A, torch.ones(4, 1))] * 2,
        DataLoader(TensorDataset(A, A, A), batch_size=4),
        [{"a": A, "b": A}],
    ],
    ids=["dict", "inputs", "batch", "nested", "list of batches", "DataLoader", "list of dicts"],
)
def test_every_kind_of_input(data: Any) -> None:
    summary = trainer(Two(), nn.functional.mse_loss).summary(data)
    assert summary.rows()[0]["output"] == [(4, 1)]
    assert summary.flops == 4 * 3 * 2
    assert "[4, 3], [4, 3]" in str(summary)


def test_batch_x_of_a_step_is_an_input() -> None:
    seen = []

    class Look(Callback):
        def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
            seen.append(trainer.summary(batch_x).flops)

    trainer(nn.Linear(64, 10), epochs=1, callbacks=Look()).fit(loader(last=32))
    assert seen == [2 * 32 * 64 * 10]


def test_a_model_that_returns_its_loss_gets_the_whole_batch() -> None:
    class WithLoss(Two):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return super().forward(a, b).mean()

    assert trainer(WithLoss(), None).summary([(A, A)]).flops == 24


def test_several_models() -> None:
    run = trainer({"g": nn.Linear(2, 3), "d": nn.Linear(3, 1)}, nn.functional.mse_loss)
    names = [row["name"] for row in run.summary().rows()]
    assert names == ["g", "d"]
    summary = run.summary({"g": torch.zeros(5, 2), "d": torch.zeros(5, 3)})
    assert summary.flops == 2 * 5 * (6 + 3)
    with pytest.raises(ArgumentError, match=r"which gets what: summary\(\{'g': \.\.\., 'd': \.\.\.\}\)"):
        run.summary(torch.zeros(5, 2))


def test_a_compiled_model_is_looked_at_without_the_compiler() -> None:
    run = trainer(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), compile={"what": "model", "backend": "eager"})
    assert [row["calls"] for row in run.summary(A).rows()] == [1, 1]


def test_what_is_no_input() -> None:
    with pytest.raises(ArgumentTypeError, match=r"torch.zeros\(\(1, 28, 28\)\)"):
        trainer().summary((1, 28, 28))
    with pytest.raises(ArgumentTypeError, match="an iterator would lose its first batch"):
        trainer().summary(iter([(A, A)]))
    with pytest.raises(LoaderError, match="empty"):
        trainer().summary(DataLoader(TensorDataset(torch.zeros(0, 3)), batch_size=1))
    with pytest.raises(ArgumentError, match="depth=-1"):
        trainer().summary(depth=-1)
    with pytest.raises(TypeError) as caught:
        trainer(Two(), nn.functional.mse_loss).summary((A, A))
    assert "pass (a, b, None) for two inputs" in caught.value.__notes__[0]


def test_lazy_layers_are_named_and_not_initialised() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LazyLinear(4))
    run = trainer(model, opt=torch.optim.SGD(model.parameters(), lr=0.1))
    assert "not counted, as their shapes are not known yet: 1.weight, 1.bias" in str(run.summary())
    with pytest.raises(ArgumentError, match=r"1\.weight has no shape"):
        run.summary(A)
    assert isinstance(model[1], nn.LazyLinear)


# ------------------------------------------------------------------------------------------------------- no trace


def everything(run: Trainer, *generators: torch.Generator) -> Any:
    """All that a summary might leave a trace in, with the identity and version of every tensor."""
    model = run.model.model
    state = {k: (id(v), v._version, v.clone()) for k, v in model.state_dict(keep_vars=True).items()}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return (
        [(k, i, n, v.tolist()) for k, (i, n, v) in state.items()],
        [m.training for m in model.modules()],
        [p.grad for p in model.parameters()],
        hooks,
        str(rng_state()),
        [g.get_state().tolist() for g in generators],
    )


class BothModes(nn.Module):
    """BatchNorm without statistics of its own beside one that is kept in training mode by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.BatchNorm1d(64)
        self.drop = nn.Dropout(0.5).eval()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.drop(self.own(x)))


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_left(workers: int) -> None:
    generator = torch.Generator().manual_seed(3)
    data = loader(shuffle=True, generator=generator, num_workers=workers)
    run = trainer(BothModes())
    before = everything(run, generator)
    run.summary(data)
    assert everything(run, generator) == before


def test_the_pass_is_in_evaluation_without_gradients_and_buffers_are_put_back() -> None:
    model = Net()
    run = trainer(model)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = str(rng_state())
    run.summary(torch.zeros(2, 64))
    assert model.modes == [(False, False)]
    assert model.calls.item() == 0
    assert str(rng_state()) == before
    assert torch.is_grad_enabled()


def test_nothing_is_left_by_a_pass_that_fails() -> None:
    run = trainer(BothModes())
    before = everything(run)
    with pytest.raises(RuntimeError):
        run.summary(torch.zeros(2, 63))
    assert everything(run) == before


def test_training_goes_on_as_if_there_had_been_no_summary() -> None:
    def run(look: bool) -> list[Any]:
        class Look(Callback):
            def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
                if look:
                    trainer.summary(data)

        torch.manual_seed(0)
        one = trainer(Net(), epochs=2, callbacks=Look())
        data = loader(last=100, shuffle=True)
        one.fit(data)
        return [value.tolist() for value in one.model.state_dict().values()]

    assert run(True) == run(False)


def test_a_loader_with_a_state_keeps_it() -> None:
    class Own:
        def __init__(self) -> None:
            self.given = 0

        def __iter__(self) -> Iterator[Any]:
            while self.given < 3:
                self.given += 1
                yield torch.zeros(2, 64), torch.zeros(2).long()

        def state_dict(self) -> dict[str, Any]:
            return {"given": self.given}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.given = state["given"]

    own = Own()
    trainer().summary(own)
    assert own.given == 0


# -------------------------------------------------------------------------------------------------------- how it looks


@pytest.mark.parametrize("width", [60, 80, 133, 200])
@pytest.mark.parametrize("data", [None, torch.zeros(2, 64)], ids=["parameters", "pass"])
def test_it_fits_every_width(width: int, data: Any) -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_part_with_quite_a_long_name_of_its_own = nn.ModuleDict({"and_a_layer_in_it_too": Net()})

        def forward(self, x: Any) -> Any:
            return self.a_part_with_quite_a_long_name_of_its_own["and_a_layer_in_it_too"](x)

    lines = trainer(Long()).summary(data).text(width).splitlines()
    assert max(map(len, lines)) <= width
    assert len({len(line) for line in lines if set(line) == {"-"}}) == 1
    assert any("batc" in line.lower() or "conv" in line for line in lines)
    assert lines[0].split()[0] == "layer"
    assert "parameters" in lines[0]


def test_a_narrower_screen_than_60_columns_is_taken_for_60(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    summary = trainer().summary()
    assert str(summary) == summary.text(60) == summary.text(20)


def test_the_html_is_a_table_and_escaped() -> None:
    model = nn.ModuleDict({"a<b": nn.Linear(2, 1)})
    page = trainer(model, nn.functional.mse_loss).summary()._repr_html_()
    assert page.startswith("<table>")
    assert html.escape("a<b") in page
    assert "a<b" not in page
    assert page.count("<tr>") == page.count("</tr>") == 2


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 "), (999, "999 "), (1000, "1.00 k"), (999_999, "1.00 M"), (12_345_678, "12.3 M")]
)
def test_numbers_have_three_digits(number: float, text: str) -> None:
    assert scaled(number) == text


def test_bytes() -> None:
    assert [in_bytes(size) for size in (0, 1023, 1024, 150 * 1024, 2**31)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "150 KiB",
        "2.0 GiB",
    ]


def test_sparse_inputs_graphs_and_lazy_buffers() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor, edges: Tensor) -> Any:
            return self.layer(torch.sparse.mm(edges, x))

    edges = torch.eye(4).to_sparse()
    summary = trainer(Graph()).summary({"x": torch.ones(4, 3), "edges": edges})
    assert summary.rows()[-1]["output"] == [(4, 2)]
    summary = trainer(Two(), nn.functional.mse_loss).summary({"a": torch.ones(4, 3), "b": torch.ones(1, 3)})
    assert "a sample" not in str(summary)  # which dimension counts them, nobody knows
    model = nn.Sequential(nn.Linear(3, 2), nn.LazyBatchNorm1d())
    run = trainer(model, opt=torch.optim.SGD(model.parameters(), lr=0.1))
    assert "1.weight" in str(run.summary())
    with pytest.raises(ArgumentError, match="has no shape"):
        run.summary(A)


def test_a_loss_with_parameters_is_no_layer_that_was_not_called() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    assert "not called" not in str(trainer(nn.Linear(3, 1), Loss()).summary(A))
