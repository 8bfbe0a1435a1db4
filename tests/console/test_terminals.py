"""Real programs: their output in pipes, and on terminals of several sizes."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.terminal import Screen, clean_environment, on_terminal

COMMON = """
    import os, sys, time
    import torch
    from deepepochs_like import Callback, Trainer
    from support.loop import batches, net

    class Slow(list):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.02)
                yield batch

    def named(i):
        def metric(preds, targets):
            return (preds - targets).abs().mean() * i
        metric.__name__ = f"{i:02}_{'long_' * 11}end"
        return metric

    def run(*callbacks, count=2, **options):
        model = net()
        opt = torch.optim.SGD(model.parameters(), lr=0.01)
        trainer = Trainer(model, torch.nn.functional.mse_loss, opt, device="cpu", callbacks=list(callbacks),
                          metrics=[named(i) for i in range(count)], metric_patch="mean", **options)
        trainer.fit(Slow(batches(15)), Slow(batches(5)))
        return trainer
"""
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # anything but a newline


def script(folder: Path, source: str) -> Path:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(COMMON) + textwrap.dedent(source), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def piped(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    path = script(
        tmp_path_factory.mktemp("piped"),
        """
        trainer = run(count=30, epochs=3)
        trainer.test(batches(2))
        print("rich" in sys.modules, file=sys.stderr)
        run(verbose=0, epochs=2).test(batches(2))
        """,
    )
    return subprocess.run(
        [sys.executable, str(path)], env=clean_environment(), capture_output=True, text=True, timeout=90, check=True
    )


def test_in_a_pipe_an_epoch_is_a_line(piped: subprocess.CompletedProcess[str]) -> None:
    header, *epochs, end, test = piped.stdout.splitlines()
    assert header == "Linear · 3 parameters · cpu · 15 batches/epoch, 5 for validation"
    assert [line.split("  ")[0] for line in epochs] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    for line in epochs:  # all of 31 figures, twice, whole
        assert line.count(" loss ") == 2
        assert line.count("_end ") == 60
    assert end.startswith("3 epochs in ")
    assert test.startswith("test  loss ")
    assert not CONTROL.search(piped.stdout)


def test_rich_is_loaded_for_terminals_only(piped: subprocess.CompletedProcess[str]) -> None:
    assert piped.stderr.split() == ["False"]


def test_a_closed_pipe_ends_the_output_and_not_the_run(tmp_path: Path) -> None:
    path = script(tmp_path, "print(run(epochs=3).progress.epoch); print('done', file=sys.stderr)")
    process = subprocess.Popen(
        [sys.executable, str(path)],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        assert process.stdout.readline().startswith("Linear")
        process.stdout.close()
        said = process.stderr.read()
    assert (said, process.returncode) == ("done\n", 0)


def test_a_narrow_terminal(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import warnings

        class Busy(Callback):
            def on_after_train_batch(self, trainer, metrics, batch_idx):
                if batch_idx == 9:
                    print("plain print")
                    trainer.print("trainer.print")
                    warnings.warn("watch out")

            def on_after_train_epoch(self, trainer, task, metrics):
                trainer.test(Slow(batches(5)))

        class Fail(Callback):
            def on_after_train_batch(self, trainer, metrics, batch_idx):
                if trainer.progress.step == 20:
                    raise RuntimeError("broken")

        run(Busy(), count=30, epochs=2)
        print("=== bars")
        run(epochs=2, log_tqdm=True, show_info=False)
        for name, value in {"CI": "1", "NO_COLOR": "1", "TERM": "dumb"}.items():
            former = os.environ.pop(name, None)
            os.environ[name] = value
            print("=== plain", flush=True)
            run(epochs=1)
            os.environ.pop(name)
            if former is not None:
                os.environ[name] = former
        print("=== error", flush=True)
        run(Fail(), epochs=2)
        """,
    )
    output, code = on_terminal(path, 60, 20)
    assert code == 1
    view, bars, *plain, error = re.split(r"=== \w+\r?\n", output)
    screen = Screen(60, view)
    assert screen.wrapped == 0
    assert screen.cursor_shown
    rows = screen.text().splitlines()
    assert rows.count("plain print") == 2
    assert rows.count("trainer.print") == 2
    assert sum("watch out" in row for row in rows) >= 1
    assert sum(row.startswith("test  loss") for row in rows) == 2
    assert [row.split()[0] for row in rows if re.match(r" *\d/2 ", row)] == ["1/2", "2/2"]
    assert any(row.startswith("2 epochs in ") for row in rows[-2:])
    assert "best val  loss " in "\n".join(rows[-2:])
    assert "━" not in screen.text()
    assert "━" in view

    screen = Screen(60, bars)
    assert screen.wrapped == 0
    assert [row[:5] for row in screen.text().splitlines() if "━" in row] == ["1/2  ", "2/2  "]

    for lines in plain:
        assert not CONTROL.search(lines)
        assert lines.count("\n") == 3

    screen = Screen(60, error)
    assert screen.cursor_shown
    rows = screen.text().splitlines()
    at = next(i for i, row in enumerate(rows) if row.startswith("Traceback"))
    assert any(row.startswith("train ") and "━" in row for row in rows[:at])
    assert "RuntimeError: broken" in rows
    assert "in callback Fail.on_after_train_batch" in screen.text()


def test_a_wide_terminal_that_becomes_narrow(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        class Wait(Callback):
            def on_after_epoch(self, trainer, epoch_idx, **rest):
                if epoch_idx == 0:
                    print("resize me")
                    while os.get_terminal_size().columns == 200:
                        time.sleep(0.01)

        run(Wait(), epochs=3)
        """,
    )
    output, code = on_terminal(path, 200, 50, resize=(60, 20))
    assert code == 0
    before, after = output.split("resize me")
    assert Screen(200, before).wrapped == 0
    screen = Screen(60, after.partition("\x1b[2K 2/3")[2])
    assert screen.cursor_shown
    lines = Screen(200, output).text().splitlines()
    assert lines[-2].startswith("3 epochs in ") or lines[-1].startswith("3 epochs in ")
    assert screen.wrapped == 0
