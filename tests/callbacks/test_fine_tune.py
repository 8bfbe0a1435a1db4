"""Freezing parts of a model, by hand and along the epochs."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepepochs_like import Callback, EngineError, FineTune, Trainer, freeze, unfreeze
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, EngineWarning
from support.digits import loader, same, weights


def net(seed: int = 0) -> nn.Sequential:
    """A model of named parts, with BatchNorm in two of them."""
    torch.manual_seed(seed)
    model = nn.Sequential()
    model.add_module("stem", nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU()))
    model.add_module("body", nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2)))
    model.add_module("head", nn.Linear(16, 10))
    return model


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """The parts of which anything, running statistics included, has changed."""
    return {name.split(".")[0] for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


# ------------------------------------------------------------------------------------------ by hand


def test_what_is_frozen_stays_in_evaluation_mode() -> None:
    model = net()
    assert freeze(model.stem) is model.stem
    model.train()
    assert [m.training for m in model.stem] == [True, False, True]
    assert model.body[1].training
    before = state(model)
    model(torch.randn(8, 64)).sum().backward()
    assert moved(before, model) == {"body"}
    assert all(p.grad is None for p in model.stem.parameters())
    assert unfreeze(model.stem) is model.stem
    assert model.stem[1].training
    model.eval()
    assert not model.stem[1].training


def test_an_optimizer_with_momentum_and_decay_leaves_it_alone() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    model(torch.randn(8, 64)).sum().backward()
    opt.step()
    freeze(model.stem)
    before = state(model)
    model(torch.randn(8, 64)).sum().backward()
    opt.step()
    assert moved(before, model) == {"body", "head"}


def test_without_bn_eval_statistics_move() -> None:
    model = net()
    freeze(model.stem, bn_eval=False)
    before = state(model)
    model.train()(torch.randn(8, 64))
    assert moved(before, model) == {"stem", "body"}
    freeze(model.stem)
    freeze(model.stem, bn_eval=False)
    assert model.train().stem[1].training


def test_freezing_twice_is_freezing_once() -> None:
    model = net()
    freeze(freeze(model))
    assert not model.train().stem[1].training
    unfreeze(model)
    assert model.train().stem[1].training
    assert "train" not in vars(model.stem[1])


def test_a_frozen_model_can_be_copied_and_saved() -> None:
    model = freeze(net())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other.train().stem[1].training
        assert model.stem[1] is not other.stem[1]
        unfreeze(other)
        assert other.stem[1].training
        assert "train" in vars(model.stem[1])
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    assert set(model.state_dict()) == set(net().state_dict())


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"a torch\.nn\.Module is needed, not a list"):
        freeze([nn.Linear(1, 1)])  # type: ignore[type-var]
    with pytest.raises(ArgumentTypeError, match="not a str"):
        unfreeze("head")  # type: ignore[type-var]


# --------------------------------------------------------------------------------- along the epochs


class Watch(Callback):
    """Note which parts each epoch has moved; stop after a batch, if asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.moved: list[set[str]] = []
        self.stop_at = stop_at

    def on_before_train_epoch(self, trainer: Any, task: Any) -> None:
        self.before = state(trainer.model.trained_module)

    def on_after_train_epoch(self, trainer: Any, task: Any, metrics: Any) -> None:
        self.moved.append(moved(self.before, trainer.model.trained_module))

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.progress.step == self.stop_at:
            trainer.stop()


def trainer(schedule: Any, *others: Any, epochs: int = 3, model: nn.Module | None = None, **options: Any) -> Trainer:
    model = net() if model is None else model
    opt = options.pop("opt", None) or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    callbacks = [FineTune(schedule, **options.pop("of_callback", {})), *others]
    options = {"verbose": 0, **options}
    return Trainer(model, nn.functional.cross_entropy, opt, epochs, callbacks=callbacks, **options)


def test_parts_are_trained_from_their_epoch_on() -> None:
    watch = Watch()
    trainer({0: "head", 1: "body", 2: "*"}, watch).fit(loader(), loader(200, 300))
    assert watch.moved == [{"head"}, {"head", "body"}, {"head", "body", "stem"}]


def test_an_epoch_beyond_the_fit_is_said() -> None:
    with pytest.warns(EngineWarning, match=r"schedule for body, \* does nothing in this fit: it begins with epoch 3"):
        trainer({0: "head", 3: "body", 5: "*"}).fit(loader())
    trainer({0: "head", 3: "body"}).fit(loader(), max_steps=2)


def test_phases_of_a_schedule_are_no_reason_to_warn() -> None:
    said: list[str] = []
    run = trainer({0: "head", 2: "body", 3: "*"}, epochs=9, verbose=1, show_info=False, log_batch=False)
    run.print = lambda *words, **options: said.append(" ".join(map(str, words)))
    for _ in range(4):
        run.fit(loader(0, 40), epochs=1)
    told = [line for line in said if "does nothing in this fit" in line]
    assert len(told) == 2, "once for both parts, and once for what was left behind the first of them"
    assert told[0].endswith("it begins with epoch 2, counted from 0, and the last one is 0; a later fit may come there")


@pytest.mark.parametrize("epochs", [None, 6])
@pytest.mark.parametrize("verbose", [0, 1])
def test_phases_are_no_reason_to_warn_whatever_the_trainer_was_given(verbose: int, epochs: int | None) -> None:
    said: list[str] = []
    model, options = net(), {} if epochs is None else {"epochs": epochs}
    opt, tune = torch.optim.SGD(model.parameters(), lr=0.05), FineTune({0: "head", 2: "body", 4: "*"})
    options |= {"verbose": verbose, "log_batch": False}
    run = Trainer(model, nn.functional.cross_entropy, opt, callbacks=[tune], **options)
    run.print = lambda *words, **options: said.append(" ".join(map(str, words)))
    for _ in range(3):
        run.fit(loader(0, 40), epochs=2)
    told = ["body" in line for line in said if "does nothing in this fit" in line]
    assert told == [True, False] * verbose
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_taken_out_it_leaves_everything_as_it_was() -> None:
    model: Any = net()
    freeze(model.stem)
    model.body[0].bias.requires_grad_(False)
    run = trainer({0: "stem", 5: "head"}, model=model, epochs=9)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for _ in range(2):
        tune = run.callbacks[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EngineWarning)
            run.fit(loader(0, 40), epochs=1)
        assert [layer.weight.requires_grad for layer in (model.head, model.stem[0])] == [False, True]
        run.callbacks.remove(tune)
        start = state(model)
        run.fit(loader(0, 40), epochs=1)
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
        assert moved(start, model) == {"body", "head"}
        run.callbacks.insert(0, tune)


def test_taken_out_it_lets_go_of_layers_that_it_held() -> None:
    model = net()
    run = trainer({0: "head"}, model=model)
    run.fit(loader(0, 40), epochs=1)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d)]
    model.train()
    assert [layer.training for layer in norms] == [False, False]
    run.callbacks.clear()
    run.test(loader(0, 40))
    assert all(layer.training and "train" not in vars(layer) for layer in norms)
    model.eval()
    assert not any(layer.training for layer in norms)


@pytest.mark.parametrize("training", [False, True])
def test_taken_out_it_leaves_layers_in_the_mode_that_the_model_is_in(training: bool) -> None:
    model: Any = net().train(training)
    run = trainer({0: "head"}, model=model)
    run.fit(loader(0, 40), epochs=1)
    model.train(not training)
    run.callbacks.clear()
    run.test(loader(0, 40))
    assert [model.stem[1].training, model.body[1].training] == [not training] * 2


def test_taken_out_it_leaves_a_layer_in_evaluation_mode_that_was_so_alone() -> None:
    model: Any = net().train()
    model.body.eval()
    run = trainer({0: "head"}, model=model)
    run.fit(loader(0, 40), epochs=1)
    run.callbacks.clear()
    run.test(loader(0, 40))
    assert [model.stem[1].training, model.body[1].training] == [True, False]


def training_of(model: nn.Module) -> tuple[list[bool], list[bool]]:
    """What requires a gradient, and which layers with statistics are held."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d)]
    return [p.requires_grad for p in model.parameters()], ["train" in vars(layer) for layer in norms]


def frozen_again(model: Any) -> None:
    freeze(model.stem)


def released_and_frozen(model: Any) -> None:
    freeze(unfreeze(model).body)


def flags_alone(model: Any) -> None:
    for parameter in model.head.parameters():
        parameter.requires_grad_(False)


@pytest.mark.parametrize("by_hand", [frozen_again, released_and_frozen, unfreeze, flags_alone])
@pytest.mark.parametrize("at_first", [None, frozen_again])
@pytest.mark.parametrize("schedule", [{0: "head"}, {0: "head", 1: "*"}])
def test_taken_out_it_leaves_alone_what_was_changed_by_hand_since(schedule: Any, at_first: Any, by_hand: Any) -> None:
    model: Any = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.05)
    if at_first is not None:
        at_first(model)
    run = trainer(schedule, model=model, opt=opt, epochs=2)
    run.fit(loader(0, 40), epochs=2)
    run.callbacks.clear()
    by_hand(model)
    wanted = training_of(model)
    parts = {"stem": frozen_again, "body": released_and_frozen, "head": flags_alone}
    touched = [name for name, of in parts.items() if by_hand in (of, unfreeze)]
    run.validate(loader(0, 40))
    run.fit(loader(0, 40), epochs=1)
    names = [name.partition(".")[0] for name, _ in model.named_parameters()]
    seen = training_of(model)
    for before, after, name in zip(wanted[0], seen[0], names, strict=True):
        assert name not in touched or after == before
    if by_hand in (unfreeze, released_and_frozen):
        assert seen == wanted
    if by_hand is frozen_again:
        assert seen[1][0], "its layers with statistics, too"


def test_taken_out_before_any_epoch_it_has_nothing_to_take_back() -> None:
    model: Any = net()
    run = trainer({0: "head"}, model=model)
    freeze(model.stem)
    wanted = training_of(model)
    run.callbacks.clear()
    run.test(loader(0, 40))
    assert training_of(model) == wanted


def test_of_two_schedules_the_second_does_not_take_the_work_of_the_first_for_the_beginning() -> None:
    model = net()
    run = trainer({0: "head"}, model=model)
    run.fit(loader(0, 40), epochs=1)
    run.callbacks.append(FineTune({0: "body"}))
    run.fit(loader(0, 40), epochs=1)
    run.callbacks.clear()
    run.test(loader(0, 40))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_not_named_is_never_trained() -> None:
    watch = Watch()
    run = trainer({0: "head", 1: ["body.0", "body.1.bias"]}, watch, epochs=2)
    run.fit(loader())
    assert watch.moved == [{"head"}, {"head", "body"}]
    model: Any = run.model.model
    assert not model.body[1].weight.requires_grad
    assert model.body[1].bias.requires_grad
    assert model.body[1].running_mean.abs().sum() > 0, "a BatchNorm layer of which something is trained takes part"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("stem", {"stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"}),
        ("head.bias", {"head.bias"}),
        ("*.0", {"stem.0.weight", "stem.0.bias", "body.0.weight", "body.0.bias"}),
        ("[sb]*.1.weight", {"stem.1.weight", "body.1.weight"}),
        ("*d.bias", {"head.bias"}),
    ],
)
def test_names_and_patterns(pattern: str, expected: set[str]) -> None:
    run = trainer({0: pattern}, epochs=1)
    run.fit(loader(0, 40))
    assert {name for name, p in run.model.named_parameters() if p.requires_grad} == expected


def test_only_what_is_trained_gets_gradients() -> None:
    seen: list[set[str]] = []

    class Look(Callback):
        def on_after_backward(self, trainer: Any, loss: Any) -> None:
            seen.append({n.split(".")[0] for n, p in trainer.model.named_parameters() if p.grad is not None})

    trainer({0: "head", 1: "*"}, Look(), epochs=2).fit(loader(0, 32))
    assert seen == [{"head"}, {"stem", "body", "head"}]


@pytest.mark.parametrize("stop_at", [3, 7, 10, 17])
def test_a_run_resumed_in_the_middle_of_an_epoch_is_exact(stop_at: int) -> None:
    schedule = {0: "head", 1: "body", 2: "*"}
    whole = trainer(schedule)
    whole.fit(loader(shuffle=True))
    first = trainer(schedule, Watch(stop_at))
    first.fit(loader(shuffle=True))
    saved = copy.deepcopy(first.state_dict())
    torch.manual_seed(99)
    second = trainer(schedule, Watch(), model=net(1))
    second.load_state_dict(saved)
    history = second.fit(loader(shuffle=True))
    assert same(weights(whole.model.model), weights(second.model.model))
    assert len(history["train"]["loss"]) > 0
    assert [p.requires_grad for p in second.model.parameters()] == [True] * 10


def test_accumulation_goes_with_it() -> None:
    watch = Watch()
    trainer({0: "head", 1: "*"}, watch, epochs=2, accumulate=3).fit(loader())
    assert watch.moved == [{"head"}, {"head", "body", "stem"}]


def test_several_models_have_their_names_before() -> None:
    models = {"a": nn.Linear(64, 10), "b": nn.Linear(64, 10)}
    opt = torch.optim.SGD([*models["a"].parameters(), *models["b"].parameters()], lr=0.1)

    def step(trainer: Any, batch_x: Any, batch_y: Any) -> None:
        trainer.loss(trainer.models["a"](batch_x) + trainer.models["b"](batch_x), batch_y)

    before = {name: state(model) for name, model in models.items()}
    run = Trainer(models, nn.functional.cross_entropy, opt, 1, callbacks=[FineTune({0: "b"})], verbose=0)
    run.fit(loader(), step=step)
    assert not moved(before["a"], models["a"])
    assert moved(before["b"], models["b"])
    with pytest.raises(ArgumentError, match="'c' is no part"):
        Trainer(models, nn.functional.cross_entropy, opt, 1, callbacks=[FineTune({0: "c"})], verbose=0)


def test_a_tied_parameter_needs_one_of_its_names() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    model[1].weight = model[0].weight
    run = trainer({0: ["1", "2"]}, model=model, epochs=1)
    run.fit(loader(0, 32))
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["0.bias"]


def test_it_is_said_what_is_trained() -> None:
    said: list[str] = []
    run = trainer({0: "head", 1: "*"}, epochs=2, verbose=1, show_info=False, log_batch=False)
    run.print = lambda *words, **options: said.append(" ".join(map(str, words)))
    run.fit(loader(0, 32))
    told = [line for line in said if "from here on" in line]
    assert told == [
        "epoch 1: head trained from here on, 170 numbers in all",
        "epoch 2: * trained from here on, 1,546 numbers in all",
    ]


# ---------------------------------------------------------------------------------------- mistakes


def test_parameters_that_the_optimizer_lacks_are_named() -> None:
    model = net()
    freeze(model.stem), freeze(model.body)
    only_head = torch.optim.SGD(model.head.parameters(), lr=0.1)
    with pytest.raises(ArgumentError, match=r"does not hold stem\.0\.weight, .* and 2 more.*of\s+all of model"):
        trainer({0: "head", 3: "*"}, model=model, opt=only_head)
    trainer({0: "head"}, model=model, opt=only_head, epochs=1).fit(loader(0, 32))


def test_a_default_optimizer_lacks_what_was_frozen_before() -> None:
    model = net()
    freeze(model.stem)
    with pytest.raises(ArgumentError, match="before anything is frozen"):
        Trainer(model, nn.functional.cross_entropy, callbacks=[FineTune({0: "head", 1: "*"})], verbose=0)


def test_a_name_that_is_nowhere_has_a_suggestion() -> None:
    with pytest.raises(ArgumentError, match=r"'heads' is no part.*did you mean 'head'\?.*body, head, stem"):
        trainer({0: "heads"})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["head"], "a dict is needed"),
        ({1: "head"}, "nothing is named for epoch 0"),
        ({}, "nothing is named for epoch 0"),
        ({"0": "head"}, "'0' is no epoch"),
        ({-1: "head", 0: "head"}, "-1 is no epoch"),
        ({0: []}, "a name or a list of names"),
        ({0: [nn.Linear(1, 1)]}, "a name or a list of names"),
        ({0: 5}, "a name or a list of names"),
    ],
)
def test_schedules_that_are_none_are_refused(wrong: Any, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        FineTune(wrong)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="did you mean 'bn_eval'"):
        FineTune({0: "*"}, bn_evl=True)  # type: ignore[arg-type]
    assert FineTune.part_of_training
