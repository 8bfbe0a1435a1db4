"""`Report`: one page about a run, whatever the run was and however it ended."""

from __future__ import annotations

import html.parser
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deepepochs_like import Callback, Checkpoint, Interpret, Optimizer, Report, Trainer, ValuePatch, storage
from deepepochs_like.callbacks import report as report_module
from deepepochs_like.callbacks.report import scrubbed
from deepepochs_like.callbacks.settings import settings
from deepepochs_like.errors import ArgumentError, ArgumentTypeError, CheckpointError, EngineWarning
from deepepochs_like.metrics import accuracy, confusion_matrix
from support.digits import digits, loader, mlp
from support.loop import net

HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x onerror=1>&\x00\x1b[2J\ud800"
VOID = {"meta", "img", "br"}


class Reader(html.parser.HTMLParser):
    """What a browser would make of a page: its elements, their attributes, its text; all that was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += f"{data}\n"

    def count(self, tag: str, **attributes: str) -> int:
        return sum(t == tag and all(a.get(k.rstrip("_")) == v for k, v in attributes.items()) for t, a in self.elements)


class Worst(Callback):
    """What an interpreting callback has to offer, of the digits it is given."""

    mode = "max"

    def __init__(self) -> None:
        super().__init__()
        self.matrix: Any = None
        self.samples: list[Any] = []

    def on_after_val_epochs(self, trainer: Any, tasks: Any, metrics: Any, epoch_idx: int = 0) -> None:
        x, y = digits(60)
        out = trainer.model.model(x)
        losses = F.cross_entropy(out, y, reduction="none")
        self.matrix = confusion_matrix(out, y, 10)
        self.samples = [[losses[i], out[i], y[i], x[i]] for i in losses.argsort(descending=True)[:12].tolist()]

    def top_samples(self) -> list[Any]:
        return self.samples

    def confusion(self) -> Any:
        return self.matrix


def trainer(folder: Path, *callbacks: Any, epochs: int = 3, **options: Any) -> Trainer:
    model = mlp()
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    opt = Optimizer(adam, torch.optim.lr_scheduler.StepLR(adam, 1, 0.5))
    options = {"metrics": accuracy, "running_id": "r", "folder": folder, "verbose": 0, **options}
    return Trainer(model, F.cross_entropy, opt, epochs=epochs, device="cpu", callbacks=list(callbacks), **options)


def read(folder: Path, name: str = "r/report.html") -> Reader:
    return Reader((folder / name).read_text(encoding="utf-8"))


def test_a_report_tells_of_the_whole_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, Report(image_shape=(8, 8)), Worst(), hyper_params={"data": {"size": 64}, "note": "as is"})
    history = run.fit(loader(), loader(200, 260))
    assert [path.name for path in (tmp_path / "r").iterdir() if path.name != ".lock"] == ["report.html"]
    page = read(tmp_path)
    for told in (
        "finished",
        "Sequential · 1,210 parameters · cpu",
        "best val accuracy",
        "updates of the weights",
        "Curves",
        "learning rate",
        "Confusion matrix",
        "target \\ prediction",
        "Worst: the highest values",
        "data.size",
        "cross_entropy",
        "lr=0.01",
        "StepLR by epochs",
        "gamma=0.5",
        torch.__version__,
        platform.python_version(),
    ):
        assert told in page.text, told
    for stage in ("train", "val"):
        for values in history[stage].values():
            assert all(f"{value:.4f}" in page.text for value in values)
    assert page.count("svg") == 3  # loss, accuracy, learning rate
    assert page.count("figure") == page.count("img") == 12
    assert page.count("td", class_="best") == 4


def test_it_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    trainer(tmp_path, Report(image_shape=(8, 8)), Worst()).fit(loader(), loader(200, 260))
    text = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    assert set(re.findall(r"https?://[^\s\"<]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in text
    policies = [a for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policies[0]["content"])


def test_names_and_settings_are_text_and_nothing_else(tmp_path: Path) -> None:
    class Named(Trainer):
        def train_step(self, batch_x: Any, batch_y: Any, **args: Any) -> Any:
            self.loss(self.model(*batch_x), batch_y)
            return {HOSTILE: ValuePatch(len(batch_y)).load(torch.tensor(1.0))}

    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError(HOSTILE)

    hostile: Any = type(HOSTILE.replace("\x00", "").replace("\ud800", ""), (Worst,), {"mode": HOSTILE})
    settings = {HOSTILE: HOSTILE, "bad": Bad(), "long": "x" * 1000, "tensor": torch.zeros(3)}
    names = [HOSTILE] * 10
    report = Report(title=HOSTILE, class_names=names)
    options: Any = {"hyper_params": settings, "running_id": "r", "folder": tmp_path, "verbose": 0}
    model = mlp()
    run = Named(
        model, F.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1), 2, "cpu", [report, hostile()], **options
    )
    run.fit(loader(0, 64), loader(200, 260))
    page = read(tmp_path)
    assert not {"script", "iframe"} & {tag for tag, _ in page.elements}
    assert all((a.get("src") or "data:").startswith("data:") for _, a in page.elements)
    assert "whose repr failed with RuntimeError" in page.text
    assert page.text.count("<script>alert('x')</script>") > 4
    assert all(c.isprintable() or c == "\n" for c in page.text)


def test_a_setting_hides_nothing_of_the_run(tmp_path: Path) -> None:
    given = {"model": "wide", "augment": {}, "data": {"size": {"w": 8}}}
    run = trainer(tmp_path, Report())
    run.hyper_params = given
    found = settings(run, {})
    assert found["model"] == type(run.model.model).__name__
    assert [found[name] for name in ("hyper_params.model", "augment", "data.size.w")] == ["wide", "{}", "8"]
    run.hyper_params = "a sentence"
    assert settings(run, {})["hyper_params"] == "a sentence"


def test_it_shows_what_interpret_has_found(tmp_path: Path) -> None:
    def losses(out: Any, y: Any) -> Any:
        return F.cross_entropy(out, y, reduction="none")

    names = ["zero", "one", *map(str, range(2, 10))]
    seen = Interpret(losses, k=5, stages=("val", "test"), keep_inputs=True, class_names=names)
    blind = Interpret(losses, k=3, mode="min", stages="train")
    run = trainer(tmp_path, Report(image_shape=(8, 8)), seen, blind)
    run.fit(loader(), loader(200, 260))
    page = read(tmp_path)
    assert page.count("table", class_="matrix") == 2
    assert page.count("figure") == page.count("img") == 5
    assert "index value target prediction" in " ".join(page.text.split())  # of those that have no image
    for sample in blind.samples():
        assert f"{sample['index']} {sample['value']:.4g} " in " ".join(page.text.split())
    assert "Interpret val: the highest values" in page.text
    assert "Interpret train: the lowest values" in page.text
    assert "zero" in page.text
    run.test(loader(300, 400))
    page = read(tmp_path)
    assert page.count("table", class_="matrix") == 3
    assert page.count("img") == 10


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Embedding(7, 7)

    def forward(self, x: Any) -> Any:
        return self.scores(x)


def test_it_shows_what_was_predicted_for_sequences_and_in_regression(tmp_path: Path) -> None:
    def tokens(out: Any, y: Any) -> Any:
        return F.cross_entropy(out.transpose(1, 2), y, reduction="none").mean(1)

    def squares(out: Any, y: Any) -> Any:
        return (out - y).pow(2).mean(1)

    x = torch.arange(12).reshape(4, 3) % 7
    model = Tokens()
    with torch.no_grad():
        model.scores.weight.copy_(torch.eye(7).roll(1, 1))
    seen = Interpret(tokens, k=1)
    loss = lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten())  # noqa: E731
    options: Any = {"epochs": 1, "verbose": 0, "folder": tmp_path, "device": "cpu"}
    adam = torch.optim.SGD(model.parameters(), lr=0.0)
    Trainer(model, loss, adam, callbacks=[Report(), seen], running_id="a", **options).fit([(x, x)], [(x[1:2], x[1:2])])
    assert seen.samples()[0]["prediction"].tolist() == [4, 5, 6]
    assert "2.165 3 4 5 4 5 6" in " ".join(read(tmp_path, "a/report.html").text.split())
    line = nn.Linear(1, 3)
    with torch.no_grad():
        line.weight.zero_()
        line.bias.copy_(torch.tensor([0.5, 2.25, -1.0]))
    y = torch.tensor([[1.5, 2.0, 3.0]])
    adam = torch.optim.SGD(line.parameters(), lr=0.0)
    both = [(torch.ones(1, 1), y)]
    Trainer(line, F.mse_loss, adam, callbacks=[Report(), Interpret(squares)], running_id="b", **options).fit(both, both)
    assert "1.5 2 3 0.5 2.25 -1" in " ".join(read(tmp_path, "b/report.html").text.split())


def test_it_says_what_the_last_fit_was_asked_for(tmp_path: Path) -> None:
    def asked() -> str:
        return " ".join(read(tmp_path).text.split())

    run = trainer(tmp_path, Report(), epochs=50)
    run.fit(loader(), epochs=1)
    assert "epochs asked for 1 " in asked()
    run.fit(loader(), epochs=2)
    assert "epochs asked for 3 " in asked()
    run.fit(loader(), max_steps=4)
    assert "max_steps 4 " in asked()
    assert "epochs asked for" not in asked()


def test_what_others_cannot_tell_is_left_out_with_a_warning(tmp_path: Path) -> None:
    class Broken(Callback):
        def top_samples(self) -> Any:
            raise OSError("no '/data/alice/images.npy'")

    run = trainer(tmp_path, Report(), Broken())
    with pytest.warns(EngineWarning, match="'Samples' was left out: OSError"):
        run.fit(loader(0, 64))
    page = read(tmp_path)
    assert "This part could not be written: OSError: no '…/images.npy'" in page.text
    assert "Environment" in page.text


# How a run ends


class Fail(Callback):
    def __init__(self, error: BaseException, epoch: int = 1, answer: str | None = None) -> None:
        super().__init__()
        self.error, self.epoch, self.answer = error, epoch, answer

    def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
        if trainer.progress.epoch == self.epoch and batch_idx == 1:
            raise self.error

    def on_exception(self, trainer: Any, exception: BaseException) -> str | None:
        return self.answer


def test_a_crashed_run_has_one_too(tmp_path: Path) -> None:
    run = trainer(tmp_path, Report(), Fail(ValueError("shapes 3 & 4 in '/data/alice/secret/train.csv'")))
    with pytest.raises(ValueError, match="shapes"):
        run.fit(loader())
    page = read(tmp_path)
    assert page.count("span", class_="state failed") == 1
    assert "ValueError: shapes 3 & 4 in '…/train.csv'" in page.text
    assert "alice" not in page.text
    assert "learning rate" in page.text


def test_a_run_that_fails_before_its_first_epoch(tmp_path: Path) -> None:
    run = trainer(tmp_path, Report(), Fail(RuntimeError("early"), 0))
    with pytest.raises(RuntimeError, match="early"):
        run.fit(loader())
    assert "No epoch was completed." in read(tmp_path).text


def test_an_error_of_many_words_is_cut(tmp_path: Path) -> None:
    class Fail(Callback):
        def on_before_train_batch(self, trainer: Any, batch_x: Any, batch_y: Any, batch_idx: int) -> None:
            raise ValueError("too long " * 10_000)

    with pytest.raises(ValueError, match="too long"):
        trainer(tmp_path, Report(), Fail()).fit(loader())
    assert 200 <= read(tmp_path).text.count("too long") < 250


def test_a_stopped_run_says_why(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            trainer.stop("enough <b>")

    trainer(tmp_path, Report(), Stop()).fit(loader())
    page = read(tmp_path)
    assert page.count("span", class_="state stopped") == 1
    assert "enough <b>" in page.text


def test_an_interrupted_run_says_by_what(tmp_path: Path) -> None:
    class Interrupt(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        trainer(tmp_path, Report(), Checkpoint(), Interrupt()).fit(loader())
    page = read(tmp_path)
    assert page.count("span", class_="state stopped") == 1
    assert "SIGTERM" in page.text


def test_a_keyboard_interrupt_out_of_nowhere(tmp_path: Path) -> None:
    run = trainer(tmp_path, Report(), Fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run.fit(loader())
    page = read(tmp_path)
    assert page.count("span", class_="state failed") == 1
    assert "interrupted" in page.text or "KeyboardInterrupt" in page.text


def test_an_error_that_the_run_survives_is_none_of_the_report(tmp_path: Path) -> None:
    trainer(tmp_path, Report(), Fail(ValueError("survived"), answer="skip_batch")).fit(loader())
    page = read(tmp_path)
    assert page.count("span", class_="state finished") == 1
    assert "survived" not in page.text


def test_every_epochs_writes_while_the_run_goes_on(tmp_path: Path) -> None:
    states: list[str] = []

    class Look(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            path = tmp_path / "r/report.html"
            states.append("running" if path.exists() and "state running" in path.read_text("utf-8") else "")

    trainer(tmp_path, Report(every_epochs=2), Look(), epochs=4).fit(loader(0, 64))
    assert states == ["", "", "running", "running"]


def test_a_disk_that_refuses_is_an_error_and_the_old_page_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path, Report())
    run.fit(loader(0, 64))
    before = (tmp_path / "r/report.html").read_bytes()

    def refuse(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", refuse)
    with pytest.raises(CheckpointError, match="No space left"):
        run.fit(loader(0, 64), epochs=1)
    assert (tmp_path / "r/report.html").read_bytes() == before


# What comes after, and before


def test_a_test_afterwards_is_in_it(tmp_path: Path) -> None:
    run = trainer(tmp_path, Report())
    run.fit(loader(0, 64))
    assert "Test" not in read(tmp_path).text.split("\n")
    result = run.test(loader(300, 400))
    page = read(tmp_path)
    assert "Test" in page.text.split("\n")
    assert f"{result['accuracy']:.4f}" in page.text
    assert page.count("span", class_="state finished") == 1


def test_a_test_before_more_training_is_none_of_the_run_any_more(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.epoch == 6:
                trainer.stop("in mid-epoch")

    report = Report()
    run = trainer(tmp_path, report, Stop())
    shown, reasons = [], []
    for epochs in (2, 3, 3):
        run.fit(loader(0, 64), epochs=epochs)
        reasons.append(run.stop_reason)
        shown.append("Test" in read(tmp_path).text.split("\n"))
        run.test(loader(300, 400))
        shown.append("Test" in read(tmp_path).text.split("\n"))
    assert reasons == ["", "", "in mid-epoch"]
    assert shown == [False, True] * 3
    twin_report = Report()
    trainer(tmp_path, twin_report, running_id="twin")
    twin_report.load_state_dict(report.state_dict())
    assert (twin_report.tested, twin_report.tested_at) == (report.tested, run.progress.step)


def test_a_test_alone_writes_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path, Report())
    run.fit(loader(0, 64))
    before = (tmp_path / "r/report.html").read_bytes()
    trainer(tmp_path, Report()).test(loader(300, 400))
    assert (tmp_path / "r/report.html").read_bytes() == before


def test_a_resumed_run_reports_all_of_it(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            if trainer.progress.epoch == 2 and batch_idx == 1:
                trainer.stop("in mid-epoch")

    whole = trainer(tmp_path / "whole", Report(), epochs=5)
    torch.manual_seed(0)
    whole.fit(loader())
    first = trainer(tmp_path, Report(), Checkpoint(), Stop(), epochs=5, resume="auto")
    torch.manual_seed(0)
    first.fit(loader())
    second_report = Report()
    second = trainer(tmp_path, second_report, Checkpoint(), epochs=5, resume="auto")
    second.fit(loader())
    assert second_report.epochs == [0, 1, 2, 3, 4]
    assert second_report.learning_rates == {"lr": [0.01, 0.005, 0.0025, 0.00125, 0.000625]}
    assert second_report.learning_rates == next(c for c in whole.callbacks if isinstance(c, Report)).learning_rates
    page, expected = read(tmp_path), read(tmp_path / "whole")
    numbers = [re.findall(r"\d\.\d{4}", one.text.partition("Configuration")[0]) for one in (page, expected)]
    assert numbers[0] == numbers[1]
    assert page.count("span", class_="state finished") == 1


def test_its_state_goes_into_a_new_trainer(tmp_path: Path) -> None:
    report = Report()
    run = trainer(tmp_path, report, epochs=2)
    run.fit(loader(0, 64))
    twin_report = Report()
    twin = trainer(tmp_path, twin_report, epochs=3, running_id="twin")
    twin.load_state_dict(run.state_dict())
    twin.fit(loader(0, 64))
    assert twin_report.epochs == [0, 1, 2]
    assert twin_report.seconds > report.seconds > 0
    assert "twin" in read(tmp_path, "twin/report.html").text


def test_time_is_that_of_all_sessions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = Report()
    report.load_state_dict({"rates": {}, "epochs": [], "tested": {}, "seconds": 100.0})
    clock = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    report._began = 40.0
    assert report.state_dict()["seconds"] == 110.0


def test_several_optimizers_have_a_learning_rate_each(tmp_path: Path) -> None:
    models = {"a": net(), "b": net()}
    opt = {
        name: torch.optim.SGD(model.parameters(), lr=lr)
        for (name, model), lr in zip(models.items(), (0.1, 0.2), strict=True)
    }

    class Both(Trainer):
        def step(self, batch_x: Any, batch_y: Any, **args: Any) -> None:
            self.loss(self.models["a"](*batch_x) + self.models["b"](*batch_x), batch_y)

    report = Report("both.html")
    Both(models, nn.functional.mse_loss, opt, 1, "cpu", [report], verbose=0, folder=tmp_path, running_id="r").fit(
        [(torch.ones(2, 2), torch.ones(2, 1))]
    )
    assert report.learning_rates == {"a lr": [0.1], "b lr": [0.2]}
    assert "optimizer b" in read(tmp_path, "r/both.html").text


# Large runs, and small ones


def test_long_runs_and_many_figures_stay_readable(tmp_path: Path) -> None:
    report = Report()
    run = trainer(tmp_path, report)
    for epoch in range(10_000):
        values = {f"a_long_name_of_a_metric_{i}_loss": np.float64((epoch * 7919 + i) % 10_007) for i in range(12)}
        run.history.record("train", epoch, values)
        report.epochs.append(epoch)
    report.learning_rates = {"lr": [0.1] * 10_000}
    began = time.process_time()
    text = report.html(run)
    assert time.process_time() - began < 20
    assert len(text) < 3_000_000
    page = Reader(text)
    assert page.count("svg") == 13
    assert page.count("tr") < 300
    assert "of 10000 epochs, among them the best" in page.text


def test_many_classes_become_a_picture(tmp_path: Path) -> None:
    class Many(Callback):
        def confusion(self) -> Any:
            return np.arange(200 * 200).reshape(200, 200)

    trainer(tmp_path, Report(), Many()).fit(loader(0, 64))
    page = read(tmp_path)
    assert page.count("img", class_="heat") == 1
    assert page.count("td") < 500


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    trainer(tmp_path, Report(), Worst()).fit(loader(0, 64), loader(200, 260))
    assert read(tmp_path).count("svg") == 3


def test_nothing_of_the_machine_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module.platform, "node", lambda: "workstation-7")
    settings = {"data": str(tmp_path / "x.csv"), "host": "ran on workstation-7", "cwd": os.getcwd()}
    trainer(tmp_path, Report(), hyper_params=settings).fit(loader(0, 64))
    text = (tmp_path / "r/report.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "workstation-7" not in text
    assert str(Path.home()) + "/" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/a/b/c.txt", "…/c.txt"),
        ("~/x/y.pt", "…/y.pt"),
        (r"D:\data\me\x.pt", "…/x.pt"),
        ("train/loss and 3/4", "train/loss and 3/4"),
        ("https://example.org/a/b/c", "https://example.org/a/b/c"),
        ("(/a/b/c, '/d/e f/g')", "(…/c, '…/e f/g')"),
    ],
)
def test_paths_are_cut_down(text: str, shown: str) -> None:
    assert scrubbed(text) == shown


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"filename": 3}, ArgumentTypeError),
        ({"title": 7}, ArgumentTypeError),
        ({"filename": "a/b.html"}, ArgumentError),
        ({"filename": "../b.html"}, ArgumentError),
        ({"filename": "report.pdf"}, ArgumentError),
        ({"filename": ""}, ArgumentError),
        ({"samples": -1}, ArgumentError),
        ({"every_epochs": 0}, ArgumentError),
        ({"every_epochs": True}, ArgumentError),
        ({"class_names": "abc"}, ArgumentTypeError),
        ({"filname": "x.html"}, ArgumentTypeError),
    ],
)
def test_arguments_are_checked(wrong: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(wrong))):
        Report(**wrong)


# A browser


@pytest.mark.slow
def test_a_browser_shows_it(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    trainer(tmp_path, Report(image_shape=(8, 8)), Worst()).fit(loader(), loader(200, 260))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=2000"]
    address = (tmp_path / "r/report.html").as_uri()
    shot = tmp_path / "shot.png"
    command = [chromium, *options, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,2400"]
    done = subprocess.run([*command, f"--screenshot={shot}", address], capture_output=True, timeout=120, check=False)
    assert shot.exists(), done.stderr.decode(errors="replace")[-2000:]
    image = pytest.importorskip("PIL.Image").open(shot).convert("RGB")
    assert image.size == (1200, 2400)
    colours = {colour for _, colour in image.getcolors(1 << 24)}
    assert {(0, 114, 178), (213, 94, 0)} <= colours  # the curves of both stages
    assert len(colours) > 100
