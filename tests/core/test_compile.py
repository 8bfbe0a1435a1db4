"""`Trainer(compile=...)`: the same numbers as without, the same hooks, and the same run where the compiler fails.

Most tests compile with ``aot_eager``, which traces all that inductor is given and generates no code: what is tested is
what becomes of a step, not inductor's kernels. They have one test of their own, and one without a C++ compiler.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from deepepochs_like import AMP, Callback, EpochTask, Trainer, compiling, metrics
from deepepochs_like.errors import ArgumentError, EngineWarning
from deepepochs_like.rng import rng_state
from support.digits import loader, mlp, same, weights

INDUCTOR = "inductor" if shutil.which("g++") else "aot_eager"


@pytest.fixture(autouse=True)
def _own_graphs() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's own, while it compiles
        yield
    torch.compiler.reset()


def aot(what: str, **options: Any) -> dict[str, Any]:
    return {"what": what, "backend": "aot_eager", **options}


def small(seed: int = 0, dropout: float = 0.5) -> nn.Sequential:
    """A model with all that may go wrong: buffers that a step writes to, and draws from the generator."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 10))


def train(compile: Any, net: nn.Module | None = None, epochs: int = 2, **options: Any) -> tuple[list[Tensor], Any]:
    """Weights and history of a run of seven batches an epoch, the last one short, with validation."""
    net = small() if net is None else net
    opt = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    trainer = Trainer(
        net, F.cross_entropy, opt, compile=compile, device="cpu", verbose=0, metrics=[metrics.accuracy], **options
    )
    torch.manual_seed(1)
    history = trainer.fit(loader(0, 200, shuffle=True), loader(200, 300), epochs=epochs)
    return [*weights(net), torch.rand(3)], history


def close(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(left, right, strict=True))


class Clip(Callback):
    def on_after_backward(self, trainer: Any, loss: Any) -> None:
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 0.05)


@pytest.mark.parametrize("what", ["model", "step"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_figures_and_generators_are_those_without_the_compiler(what: str, accumulate: int) -> None:
    plain, history = train(None, accumulate=accumulate, callbacks=[Clip()])
    net = small()
    names = list(net.state_dict())
    compiled, figures = train(aot(what), net, accumulate=accumulate, callbacks=[Clip()])
    assert close(plain, compiled)
    for stage in history:
        assert set(figures[stage]) == {"loss", "accuracy"}
        for name in history[stage]:
            assert figures[stage][name] == pytest.approx(history[stage][name], rel=1e-5)
    assert list(net.state_dict()) == names
    # A full and a short batch, in training and in validation.
    assert counters["stats"]["unique_graphs"] == 4


@pytest.mark.skipif(INDUCTOR != "inductor", reason="no C++ compiler here")
def test_a_step_of_generated_code_trains_the_same_weights() -> None:
    plain, _ = train(None, mlp(), epochs=1)
    compiled, _ = train({"what": "step", "dynamic": True}, mlp(), epochs=1)
    assert close(plain, compiled)
    assert counters["stats"]["unique_graphs"] == 2


def test_a_compiled_step_trains_when_mixed_precision_was_taken_out() -> None:
    ended = []
    for compile in (None, aot("step")):
        net = small(dropout=0.0)
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        trainer = Trainer(net, F.cross_entropy, opt, device="cpu", callbacks=[AMP("bf16")], compile=compile, verbose=0)
        trainer.fit(loader(0, 40), epochs=1)
        assert not close(weights(net), weights(small(dropout=0.0)))
        trainer.callbacks.clear()
        net.load_state_dict(small(dropout=0.0).state_dict())
        trainer.fit(loader(0, 40), epochs=2)
        ended.append(weights(net))
    assert close(*ended)
    assert not close(ended[0], weights(small(dropout=0.0)))


def test_a_resumed_run_goes_on_to_the_same_bits() -> None:
    def build(*callbacks: Any) -> Trainer:
        net = small()
        opt = torch.optim.Adam(net.parameters(), lr=1e-2)
        options: dict[str, Any] = {"accumulate": 2, "verbose": 0, "device": "cpu"}
        compile = {"what": "step", "backend": INDUCTOR}
        return Trainer(net, F.cross_entropy, opt, 2, callbacks=callbacks, compile=compile, **options)

    class Cut(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if (trainer.progress.epoch, batch_idx) == (1, 0):
                trainer.stop("cut")

    whole = build()
    torch.manual_seed(1)
    history = whole.fit(loader(0, 80, shuffle=True))
    cut = build(Cut())
    torch.manual_seed(1)
    cut.fit(loader(0, 80, shuffle=True))
    file = io.BytesIO()
    torch.save(cut.state_dict(), file)
    file.seek(0)
    torch.compiler.reset()
    resumed = build()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    resumed.fit(loader(0, 80, shuffle=True))
    assert same(weights(whole.model.model), weights(resumed.model.model))
    assert resumed.history == history


class Telling(Callback):
    """Write down every event of a step, and whether there are gradients then."""

    def __init__(self, told: list[Any]) -> None:
        super().__init__()
        self.told = told

    def tell(self, event: str, trainer: Any) -> None:
        gradients = [p.grad is not None for p in trainer.model.parameters()]
        assert all(gradients) or not any(gradients)
        self.told.append((event, all(gradients)))

    def on_before_train_batch(self, trainer: Any, **_: Any) -> None:
        self.tell("batch", trainer)

    def on_before_train_forward(self, trainer: Any) -> None:
        self.tell("before forward", trainer)

    def on_after_train_forward(self, trainer: Any, model_out: Any) -> None:
        assert not model_out.requires_grad
        self.tell("after forward", trainer)

    def on_before_backward(self, trainer: Any, loss: Any) -> None:
        self.tell("before backward", trainer)

    def on_after_backward(self, trainer: Any, loss: Any) -> None:
        self.tell("after backward", trainer)

    def on_before_optimize(self, trainer: Any, **_: Any) -> None:
        self.tell("before optimize", trainer)

    def on_after_optimize(self, trainer: Any, **_: Any) -> None:
        self.tell("after optimize", trainer)

    def on_train_metrics(self, trainer: Any, loss: Any, model_out: Any, batch_y: Any, task: Any) -> None:
        assert model_out.shape == (len(batch_y), 10)
        self.tell("metrics", trainer)

    def on_before_val_forward(self, trainer: Any) -> None:
        self.told.append("val forward")


def test_every_event_fires_and_gradients_are_there_from_after_backward_on() -> None:
    told: dict[str, list[Any]] = {"": [], "model": [], "step": []}
    for what, events in told.items():
        train(aot(what) if what else None, mlp(), 1, callbacks=[Telling(events)])
    assert told["model"] == told["step"] == told[""]
    assert ("before backward", False) in told[""]
    assert ("after backward", True) in told[""]


def test_hooks_of_modules_and_parameters_are_called_also_those_that_come_later() -> None:
    def run(compile: Any) -> list[Tensor]:
        net = mlp()
        net[0].weight.register_hook(lambda gradient: gradient * 0.5)
        net[2].register_forward_hook(lambda module, args, out: out * 2)

        class Later(Callback):
            def on_before_train_epoch(self, trainer: Any, task: Any) -> None:
                if trainer.progress.epoch == 1:
                    net[0].register_forward_hook(lambda module, args, out: out + 1)
                    net[2].bias.register_hook(torch.zeros_like)

        return train(compile, net, callbacks=[Later()])[0]

    plain = run(None)
    assert close(plain, run(aot("step")))
    assert close(plain, run(aot("model")))


def test_a_hook_may_back_propagate_a_loss_of_its_own_before_the_steps() -> None:
    class Penalty(Callback):
        def on_before_backward(self, trainer: Any, loss: Any) -> None:
            if not self.busy:
                self.busy = True
                trainer.execution.backward(sum(p.square().sum() for p in trainer.model.parameters()))
                self.busy = False

        busy = False

    for accumulate in (1, 2):
        plain, _ = train(None, mlp(), callbacks=[Penalty()], accumulate=accumulate)
        assert close(plain, train(aot("step"), mlp(), callbacks=[Penalty()], accumulate=accumulate)[0])


class Shared(nn.Module):
    """Two parameters that have one gradient, one whose gradient is a view, one that is not used, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.unused, self.frozen = nn.Linear(64, 10), nn.Linear(3, 3), nn.Linear(64, 10)
        self.left, self.right, self.spread = (nn.Parameter(torch.rand(10)) for _ in range(3))
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.frozen(x) + (self.left + self.right) + self.spread.sum()


def test_gradients_are_each_parameters_own_and_none_where_it_is_not_used() -> None:
    class Halve(Callback):
        def on_before_optimize(self, trainer: Any, **_: Any) -> None:
            net = trainer.model
            assert net.unused.weight.grad is None
            assert net.frozen.weight.grad is None
            for parameter in (net.left, net.right, net.spread):
                parameter.grad.mul_(0.5)

    plain, _ = train(None, Shared(), callbacks=[Halve()])
    for what in ("step", "model"):
        assert close(plain, train(aot(what), Shared(), callbacks=[Halve()])[0])


def test_a_loss_with_parameters_and_a_model_that_returns_its_loss_are_trained() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, out: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(out * self.scale, y)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss = mlp(), Scaled()

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            out = self.net(x)
            return {"loss": self.loss(out, y), "out": out}

    def run(compile: Any, own: bool) -> list[Tensor]:
        net, loss = (Own(), None) if own else (mlp(), Scaled())
        parts: list[Any] = [part for part in (net, loss) if part is not None]
        opt = torch.optim.SGD([p for part in parts for p in part.parameters()], lr=0.5)
        Trainer(net, loss, opt, 2, device="cpu", verbose=0, compile=compile).fit(loader(0, 100), loader(100, 120))
        return [tensor for part in parts for tensor in weights(part)]

    for own in (False, True):
        assert close(run(None, own), run(aot("step"), own))


def broken(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no such kernel")


#: Compiles forward passes, and no backward pass.
half = aot_autograd(fw_compiler=lambda graph, inputs: graph.forward, bw_compiler=broken)


@pytest.mark.parametrize(("what", "backend"), [("model", broken), ("model", half), ("step", broken)])
def test_where_the_compiler_fails_it_is_said_once_and_the_run_is_the_one_without_it(what: str, backend: Any) -> None:
    plain, history = train(None)
    with pytest.warns(EngineWarning) as said:
        left, figures = train({"what": what, "backend": backend})
    assert same(plain, left)
    assert figures == history
    assert len(said) == 1
    assert f"compile={what!r} failed" in str(said[0].message)
    assert "no such kernel" in str(said[0].message)
    assert "aot_eager" in str(said[0].message)


@pytest.mark.parametrize("read", [lambda total: total.item() > 0, lambda total: total > 0], ids=["item", "tensor"])
def test_a_model_that_branches_on_its_data_is_pointed_to_compiling_the_model_alone(read: Any) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: torch.Tensor) -> Any:
            return self.inner(2 * x if read(x.sum()) else x)

    def run(what: str) -> None:
        Trainer(Branches(), F.cross_entropy, compile=aot(what), epochs=1, verbose=0).fit(loader(0, 32))

    with pytest.warns(EngineWarning, match=r"compile='step' failed.*; use compile='model', which compiles") as said:
        run("step")
    assert "aot_eager" not in str(said[0].message)
    run("model")


def test_where_a_later_graph_of_a_new_shape_fails_what_the_one_before_did_is_taken_back() -> None:
    class Broken(nn.Module):
        """Two graphs: one draws and writes to buffers, the other comes behind it."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5))
            self.tail = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            out = self.head(x)
            torch._dynamo.graph_break()
            return self.tail(out)

    def backend(graph: Any, inputs: Any) -> Any:
        if any(isinstance(i, Tensor) and i.shape == (8, 16) for i in inputs):  # the short batch of the second graph
            raise RuntimeError("no such kernel")
        return graph.forward

    def build() -> Broken:
        torch.manual_seed(0)
        return Broken()

    plain, history = train(None, build())
    with pytest.warns(EngineWarning, match="no such kernel"):
        left, figures = train({"what": "model", "backend": backend}, build())
    assert same(plain, left)
    assert figures == history


@pytest.mark.parametrize("what", ["model", "step"])
def test_a_graph_that_ran_and_fails_by_itself_is_an_error_as_nobody_knows_what_it_left_behind(what: str) -> None:
    calls = []

    def backend(graph: Any, inputs: Any) -> Any:
        def forward(*args: Any) -> Any:
            calls.append(len(calls))
            if len(calls) == 3:
                raise RuntimeError("a kernel of the third batch")
            return graph.forward(*args)

        return forward

    net = small()
    with pytest.raises(RuntimeError, match="a kernel of the third batch") as raised:
        train({"what": what, "backend": backend}, net)
    assert "batch 2" in "".join(raised.value.__notes__)
    assert "without compile=" in "".join(raised.value.__notes__)
    assert calls == [0, 1, 2]


def test_a_batch_whose_graph_failed_and_that_is_skipped_moves_no_statistic_twice() -> None:
    class Skip(Callback):
        def on_exception(self, trainer: Any, exception: BaseException) -> str:
            return "skip_batch"

    def run(compile: Any) -> Tensor:
        net = small(dropout=0)
        batches = [(torch.rand(8, 64), torch.full((8,), label)) for label in (0, 1, 10, 2)]
        options: dict[str, Any] = {"device": "cpu", "verbose": 0, "compile": compile}
        Trainer(net, F.cross_entropy, epochs=1, callbacks=[Skip()], **options).fit(batches)
        return net[1].num_batches_tracked  # type: ignore[return-value]

    assert run(None) == 4
    assert run(aot("step")) in (3, 4)  # a graph writes to buffers at its end


def test_with_dynamic_shapes_nothing_is_kept_of_each(monkeypatch: Any) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(compiling, "rng_state", lambda: kept.append(1) or rng_state())
    batches = [(torch.rand(n, 64), torch.zeros(n, dtype=torch.long)) for n in range(2, 12)]
    Trainer(mlp(), F.cross_entropy, epochs=2, device="cpu", verbose=0, compile=aot("step", dynamic=True)).fit(batches)
    assert len(kept) == 1


@pytest.mark.parametrize("what", ["model", "step"])
def test_without_a_cpp_compiler_the_run_goes_on_and_says_what_to_install(what: str, tmp_path: Path) -> None:
    script = f"""
import torch
from deepepochs_like import Trainer
net = torch.nn.Linear(2, 1)
trainer = Trainer(net, torch.nn.functional.mse_loss, epochs=2, device="cpu", verbose=0, compile={what!r})
print(len(trainer.fit([(torch.ones(4, 2), torch.ones(4, 1))] * 3)["train"]["loss"]), trainer.progress.step)
"""
    environment = {**os.environ, "CXX": "/no/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout == "2 6\n", done.stderr
    assert done.stderr.count("EngineWarning") == 1
    assert "install a C++ compiler (g++" in done.stderr


def test_too_many_shapes_are_a_warning_that_names_the_option_for_them() -> None:
    batches = [(torch.rand(n, 64), torch.zeros(n, dtype=torch.long)) for n in range(2, 14)]

    def run(compile: Any) -> list[Tensor]:
        net = mlp()
        trainer = Trainer(net, F.cross_entropy, torch.optim.SGD(net.parameters(), 0.1), 1, compile=compile, verbose=0)
        trainer.fit(batches)
        return weights(net)

    with pytest.warns(EngineWarning, match="'dynamic': True"):
        limited = run(aot("step"))
    counters.clear()
    assert close(limited, run(aot("step", dynamic=True)))
    assert counters["stats"]["unique_graphs"] <= 2


@pytest.mark.parametrize("what", ["model", "step"])
def test_an_error_of_the_users_is_no_failure_of_the_compiler(what: str) -> None:
    trainer = Trainer(mlp(), F.cross_entropy, compile=aot(what), device="cpu", verbose=0)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        trainer.fit([(torch.rand(4, 63), torch.zeros(4, dtype=torch.long))], epochs=1)
    trainer.fit(loader(0, 64), epochs=1)  # compiled
    assert counters["stats"]["unique_graphs"] == 1


def test_a_custom_step_has_the_model_compiled_and_is_refused_for_the_step() -> None:
    class Own(EpochTask):
        def train_step(self, batch_x: Any, batch_y: Any) -> None:
            self.loss(self.model(*batch_x), batch_y, loss_adjust=0.5)

    def run(compile: Any) -> list[Tensor]:
        net = mlp()
        trainer = Trainer(net, F.cross_entropy, torch.optim.SGD(net.parameters(), 0.1), compile=compile, verbose=0)
        trainer.fit(train_tasks=Own(loader(0, 64)), epochs=1)
        return weights(net)

    assert close(run(None), run(aot("model")))
    with pytest.raises(ArgumentError, match=r"train runs Own\.train_step; .*only compile='model'"):
        run(aot("step"))
    with pytest.raises(ArgumentError, match=r"train runs function; "):
        Trainer(mlp(), F.cross_entropy, compile="step", verbose=0).fit(loader(0, 64), step=function)
    with pytest.raises(ArgumentError, match="here are a, b"):
        Trainer({"a": mlp(), "b": mlp()}, F.cross_entropy, compile="step")


def function(trainer: Any, batch_x: Any, batch_y: Any) -> None: ...


def test_test_and_predict_are_those_without_the_compiler_and_explain_says_what_is_compiled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    net = small()
    plain, compiled = (Trainer(net, F.cross_entropy, verbose=0, compile=c) for c in (None, aot("step")))
    assert compiled.test(loader(0, 64)) == pytest.approx(plain.test(loader(0, 64)))
    assert compiled.validate(loader(0, 64), do_loss=False) == {}
    assert torch.allclose(compiled.predict(loader(0, 64)), plain.predict(loader(0, 64)))
    compiled.explain()
    assert "through torch.compile: what='step', backend='aot_eager'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("modle", r"compile='modle'.*did you mean 'model'\?"),
        ("steps", r"compile='steps'.*did you mean 'step'\?"),
        (True, r"compile=True: 'model', 'step', None, .*did you mean 'model'\?"),
        ({"mode": "default"}, "'what'"),
        ({"what": "step", "mod": "default"}, r"no option 'mod'; did you mean 'mode'\?"),
        ({"what": "step", "mode": "reduce_overhead"}, r"did you mean 'reduce-overhead'\?"),
        ({"what": "model", "backend": "inducktor"}, "inducktor"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_nearest_name(given: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Trainer(mlp(), F.cross_entropy, compile=given)


def test_the_name_of_deepepochs_is_the_model() -> None:
    assert Trainer(mlp(), F.cross_entropy, compile_model=True).compile == {"what": "model"}
    with pytest.raises(ArgumentError, match="pass one of the two"):
        Trainer(mlp(), F.cross_entropy, compile="step", compile_model=True)
