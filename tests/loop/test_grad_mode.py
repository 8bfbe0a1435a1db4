"""Where gradients are on, where they are off, and what of the graph hooks get to see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepepochs_like import EpochTask
from deepepochs_like.events import EVENTS
from support.loop import HearAll, Recorder, batches, net, trainer, unchanged, weights

#: They run inside the step of training; all others run with gradients off.
WITH_GRADIENTS = {"before_backward", "after_backward", "before_optimize", "after_optimize"}


class Modes(HearAll):
    """Note at which events gradients are on."""

    def __init__(self) -> None:
        super().__init__(priority=2)
        self.seen: dict[str, set[bool]] = {}

    def hear(self, event: str, arguments: dict[str, Any]) -> None:
        assert not torch.is_inference_mode_enabled()
        self.seen.setdefault(event, set()).add(torch.is_grad_enabled())


@pytest.mark.parametrize("ambient", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_only_the_hooks_from_before_backward_to_after_optimize_see_gradients_on(accumulate: int, ambient: bool) -> None:
    modes = Modes()
    failing = Recorder(actions={"after_fit": lambda **given: 1 / 0})
    run = trainer(callbacks=[modes, failing], accumulate=accumulate)
    with torch.set_grad_enabled(ambient):
        with pytest.raises(ZeroDivisionError):
            run.fit(batches(3), batches(1))
        run.test(batches(1))
        run.validate(batches(1))
    assert modes.seen == {event: {event in WITH_GRADIENTS} for event in EVENTS}


@pytest.mark.parametrize("where", ["before_train_batch", "before_backward", "before_optimize"])
def test_on_exception_in_a_training_batch_sees_gradients_off(where: str) -> None:
    seen: list[bool] = []
    log = Recorder(
        actions={where: lambda **given: 1 / 0, "on_exception": lambda **given: seen.append(torch.is_grad_enabled())}
    )
    with pytest.raises(ZeroDivisionError):
        trainer(callbacks=[log]).fit(batches(1))
    assert seen == [False]


def test_a_skipped_batch_leaves_gradients_on_for_the_next() -> None:
    def fail_once(batch_idx: int, **given: Any) -> None:
        if batch_idx == 0:
            raise ValueError

    model = net()
    before = weights(model)
    actions = {"before_train_batch": fail_once, "on_exception": lambda **given: "skip_batch"}
    trainer(model, callbacks=[Recorder(actions=actions)], epochs=1).fit(batches(2))
    assert not unchanged(model, before)


@pytest.mark.parametrize("ambient", [True, False])
def test_steps_train_with_gradients_and_evaluate_without(ambient: bool) -> None:
    seen: dict[str, bool] = {}

    class Looking(EpochTask):
        def step(self, batch_x: Any, batch_y: Any) -> None:
            seen[self.stage] = torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            self.loss(self.model(*batch_x), batch_y)

    with torch.set_grad_enabled(ambient):
        run = trainer(epochs=1)
        run.fit(train_tasks=Looking(batches(1)), val_tasks=Looking(batches(1)))
        run.test(tasks=Looking(batches(1)))
        assert torch.is_grad_enabled() is ambient
    assert seen == {"train": True, "val": False, "test": False}


@pytest.mark.parametrize("ambient", [True, False])
def test_predict_runs_without_gradients(ambient: bool) -> None:
    with torch.set_grad_enabled(ambient):
        output = trainer().predict(batches(2))
        assert torch.is_grad_enabled() is ambient
    assert not output.requires_grad


def test_a_run_inside_no_grad_trains_all_the_same() -> None:
    model, twin = net(), net()
    with torch.no_grad():
        trainer(model, epochs=1).fit(batches(2))
    trainer(twin, epochs=1).fit(batches(2))
    assert unchanged(model, weights(twin))


def test_evaluated_tensors_are_no_inference_tensors() -> None:
    kept: list[Tensor] = []
    log = Recorder(actions={"after_val_forward": lambda model_out, **given: kept.append(model_out)})
    trainer(callbacks=[log]).validate(batches(1))
    assert not kept[0].is_inference()


def test_loss_and_model_out_in_hooks_are_detached_and_not_copied() -> None:
    seen: list[tuple[str, Tensor]] = []
    storage: list[int] = []

    def look(event: str) -> Any:
        return lambda **given: seen.extend((event, given[n]) for n in ("loss", "model_out") if n in given)

    class Keeping(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            storage.append(out.data_ptr())
            return out

    events = [e for e, names in EVENTS.items() if {"loss", "model_out"} & set(names)]
    log = Recorder(actions={event: look(event) for event in events})
    run = trainer(Keeping(2, 1), callbacks=[log], epochs=1)
    run.fit(batches(1), batches(1))
    run.test(batches(1))
    assert {event for event, _ in seen} == set(events)
    for event, value in seen:
        assert not value.requires_grad, event
        assert value.grad_fn is None, event
    outputs = [value for _, value in seen if value.shape == (2, 1)]
    assert {value.data_ptr() for value in outputs} == set(storage)


def test_every_tensor_of_a_structured_output_is_detached_and_the_structure_kept() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> dict[str, Any]:
            out = self.inner(x)
            return {"out": out, "pair": (out, [out * 2]), "name": "n"}

    seen: list[Any] = []
    log = Recorder(actions={"after_train_forward": lambda model_out, **given: seen.append(model_out)})
    run = trainer(Named(), callbacks=[log], epochs=1, loss=lambda out, y: nn.functional.mse_loss(out["out"], y))
    run.fit(batches(1))
    (out,) = seen
    assert isinstance(out["pair"], tuple)
    assert out["name"] == "n"
    assert not any(tensor.requires_grad for tensor in (out["out"], out["pair"][0], out["pair"][1][0]))


def test_gradients_can_be_changed_before_the_update_and_are_cleared_after_it() -> None:
    model = net()
    before = weights(model)
    cleared: list[bool] = []

    def no_gradients(**given: Any) -> None:
        assert all(parameter.grad is not None for parameter in model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def look(**given: Any) -> None:
        cleared.append(all(parameter.grad is None for parameter in model.parameters()))

    actions = {"before_optimize": no_gradients, "after_optimize": look}
    trainer(model, callbacks=[Recorder(actions=actions)], epochs=1).fit(batches(2))
    assert unchanged(model, before)
    assert cleared == [True, True]


def test_modes_of_modules_are_right_in_every_stage_and_restored() -> None:
    model = nn.Sequential(net(), nn.Dropout(0.5).eval())
    seen: dict[str, set[bool]] = {}

    class Looking(HearAll):
        def hear(self, event: str, arguments: dict[str, Any]) -> None:
            if event.endswith("_forward"):
                seen.setdefault(event.split("_")[1], set()).update(m.training for m in model.modules())

    run = trainer(model, callbacks=[Looking()], epochs=2)
    run.fit(batches(1), batches(1))
    run.test(batches(1))
    assert seen == {"train": {True}, "val": {False}, "test": {False}}
    assert [m.training for m in model.modules()] == [True, True, False]
