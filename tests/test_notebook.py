"""Notebooks: the console in one, and the executed one among the examples."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import types
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepepochs_like import Callback, Trainer
from deepepochs_like import display as display_module
from deepepochs_like.display.plain import Plain
from deepepochs_like.utils.notebook import in_notebook
from support.loop import batches, net
from support.repo import ROOT

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


class KernelsStream(io.StringIO):
    """Standard output as the kernel makes it."""


KernelsStream.__module__ = "ipykernel.iostream"


class Elsewhere(io.StringIO):
    """What users lead standard output to."""


class Handle:
    def __init__(self, front: list[list[dict[str, str]]]) -> None:
        self.versions = front[-1]

    def update(self, bundle: dict[str, str], raw: bool = False) -> None:
        assert raw
        self.versions.append(bundle)


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, str]]]:
    """A notebook: the areas that were shown, each with what it showed one after the other."""
    areas: list[list[dict[str, str]]] = []

    def display(bundle: dict[str, str], raw: bool = False, display_id: bool = False) -> Handle:
        assert raw
        assert display_id
        areas.append([bundle])
        return Handle(areas)

    ipython, shown = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    shown.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    # Pytest has its own standard output by the time a test runs.
    monkeypatch.setattr(display_module, "_is_the_notebooks", lambda stream: not isinstance(stream, Elsewhere))
    return areas


def trainer(*callbacks: Any, epochs: int = 3, **options: Any) -> Trainer:
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    return Trainer(model, nn.functional.mse_loss, opt, epochs, "cpu", list(callbacks), **options)


# The console


def test_a_fit_is_one_area_that_changes(front: list[list[dict[str, str]]], capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer()
    history = run.fit(batches(), batches())
    (area,) = front
    last = area[-1]
    assert last["text/html"].count("<tr>") == 1 + 3
    assert last["text/html"].startswith("<div>Linear · 3 parameters · cpu")
    assert all(f"{value:.4f}" in last["text/html"] for value in history["train"]["loss"])
    assert "<b>" in last["text/html"]
    lines = last["text/plain"].split("\n")
    assert [line[:9] for line in lines[1:4]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert lines[4].startswith("3 epochs in ")
    for version in area:
        ET.fromstring(f"<div>{version['text/html']}</div>")
    assert capsys.readouterr().out == ""


def test_an_epoch_in_progress_has_bars(front: list[list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Slow(Callback):
        def on_after_train_batch(self, trainer: Any, metrics: Any, batch_idx: int) -> None:
            clock[0] += 0.2

    trainer(Slow(), epochs=2).fit(batches(10))
    shown = [version["text/html"] for version in front[0]]
    assert any("10.0%" in one or "width:15.0%" in one for one in shown)
    assert any("train\N{EM SPACE}8/10" in re.sub(r"<[^>]*>", " ", one) for one in shown)
    assert 8 <= len(shown) <= 14  # every half second, not at every batch
    assert "width:" not in shown[-1]


def test_short_epochs_wait_for_the_clock(front: list[list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    trainer(epochs=100).fit(batches())
    (area,) = front
    assert len(area) <= 4
    assert area[-1]["text/html"].count("<tr>") == 1 + 20
    assert "80 earlier epochs" in area[-1]["text/html"]


def test_a_test_by_itself_is_a_line(front: list[list[dict[str, str]]]) -> None:
    run = trainer(verbose=1)
    result = run.test(batches())
    assert front[-1][-1]["text/plain"].startswith(f"test  loss {result['loss']:.4f}")


def test_a_run_that_fails_leaves_what_it_had(front: list[list[dict[str, str]]]) -> None:
    class Fail(Callback):
        def on_before_epoch(self, trainer: Any, train_tasks: Any, val_tasks: Any, epoch_idx: int) -> None:
            if epoch_idx == 2:
                raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        trainer(Fail()).fit(batches())
    assert front[-1][-1]["text/html"].count("<tr>") == 1 + 2


def test_hostile_names_stay_text(front: list[list[dict[str, str]]]) -> None:
    def score(preds: Any, targets: Any) -> Any:
        return {"<script>a</script>&\x1b": (preds - targets).abs().mean()}

    trainer(metrics=score, metric_patch="mean").fit(batches())
    last = front[-1][-1]
    assert "<script" not in last["text/html"]
    assert "\x1b" not in last["text/html"] + last["text/plain"]
    ET.fromstring(f"<div>{last['text/html']}</div>")


def test_output_that_is_led_elsewhere_goes_there(
    front: list[list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Elsewhere()
    monkeypatch.setattr(sys, "stdout", elsewhere)
    trainer().fit(batches())
    assert front == []
    assert elsewhere.getvalue().count("epoch ") >= 3


def test_the_kernels_stream_is_told_from_others() -> None:
    assert display_module._is_the_notebooks(KernelsStream())
    assert not any(display_module._is_the_notebooks(stream) for stream in (io.StringIO(), sys.__stdout__, None))


def test_a_script_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepepochs_like.display import open_display

    monkeypatch.setenv("CI", "1")
    assert not in_notebook()
    terminal = types.ModuleType("IPython")  # in a terminal the shell has no kernel
    terminal.get_ipython = lambda: types.SimpleNamespace()  # type: ignore[attr-defined]
    for module in (terminal, types.ModuleType("IPython"), None):
        monkeypatch.setitem(sys.modules, "IPython", module)
        assert not in_notebook()
        assert type(open_display(trainer(verbose=0), False, True, False)) is Plain


# The example


def cells(kind: str) -> list[dict[str, Any]]:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def test_the_notebook_runs_as_a_script_from_top_to_bottom(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source = "\n\n".join("".join(cell["source"]) for cell in cells("code"))
    script = tmp_path / "notebook.py"
    script.write_text(source, encoding="utf-8")
    folder = tmp_path / "here"
    folder.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CI": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", "error::UserWarning", str(script)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"epoch 12/12  train  loss 0\.0\d+ .* val  loss 0\.[12]", done.stdout)
    assert re.search(r"test  loss 0\.\d+  accuracy 0\.9", done.stdout)
    assert list(folder.iterdir()) == []


def test_the_notebook_was_executed_in_order_and_shows_what_it_says() -> None:
    code = cells("code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [{kind for output in cell["outputs"] for kind in output.get("data", {})} for cell in code]
    assert sum("image/png" in kind for kind in kinds) == 3  # learning rates, history, worst samples
    assert sum("text/html" in kind for kind in kinds) >= 4  # summary, progress, history, result
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "Warning" not in text
    assert len(text) < 200_000


def test_the_notebook_explains_itself() -> None:
    assert len(cells("markdown")) >= 5
    assert "".join(cells("markdown")[0]["source"]).startswith("# ")
