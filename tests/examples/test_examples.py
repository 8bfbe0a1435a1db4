"""The examples run as users run them, print what they are there to show, and leave nothing behind."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.repo import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# What each example is there to show: every expression must be found in its output, in this order.
EXPECTED = {
    "01_quickstart.py": [r"test accuracy 0\.9[5-9]\d\d"],
    "02_parameters.py": [
        r"first fit:  4 epochs, validated 2 times",
        r"second fit: 2 epochs, trained 6 in all",
        r"test: f1 0\.9\d+, accuracy 0\.9\d+",
    ],
    "03_metrics.py": [
        r"loss +0\.\d{6}\naccuracy +(0\.\d{6})\ntop1 +\1\ntop3 +0\.\d{6}\nMulticlassCohenKappa +0\.\d{6}",
        r"C\.p +0\.\d{6}\nC\.r +0\.\d{6}",
        r"as tensor: +(0\.\d{6})\n.*as confusion: +\1\n.*as mean: +(?!\1)0\.\d{6}",
    ],
    "04_learning_rate_schedules.py": [
        r"per_step ( 0\.\d{5}){8} +accuracy 0\.9",
        r"per_epoch 0\.01000( 0\.\d{5}){7} +accuracy 0\.9",
        r"on_metric 0\.01000( 0\.\d{5}){7} +accuracy 0\.9",
    ],
    "05_several_optimizers.py": [r"epoch 100: g_loss \d\.\d{3} d_loss \d\.\d{3} d_right 0\.\d{3}", r"(.{54}\n){8}"],
    "06_several_loaders.py": [
        r"epoch 8: train/clean\.loss .* val/clean\.accuracy 0\.9\d+ val/noisy\.accuracy 0\.\d+ val/noisy\.f1 0\.\d+",
        r"noise costs \d+\.\d points",
        r"loss 0\.\d+, accuracy 0\.9\d+, noisy\.loss 0\.\d+, noisy\.accuracy 0\.8\d+",
    ],
    "07_node_classification.py": [r"(?m)^ +60 ", r"test accuracy (1\.0|0\.[89]).* on 24 members, after 2 were shown"],
    "08_custom_callback.py": [
        r"on_before_fit\(trainer, epochs\): KeepBest",
        r"stopped after epoch \d+ of 100: no better loss for 3 epochs",
        r"weights of epoch \d+: validation loss 0\.\d+",
    ],
    "09_steps_on_trainer.py": [r"Trainer +loss .* accuracy 0\.[3-6]", r"ShiftTrainer loss .* accuracy 0\.(8|9)"],
    "10_steps_on_task.py": [
        r"teacher, 450 labels: +test accuracy 0\.9",
        r"student, 450 labels: +test accuracy 0\.",
        r"student, from the teacher: +test accuracy 0\.9",
    ],
    "11_step_function.py": [r"error of a pixel: 0\.\d+ after epoch 1, 0\.1\d+ after 20", r"(.{56}\n){8}"],
    "12_patches.py": [
        r"mean\.confidence +(0\.\d{4} ?){5}",
        r"mean\.entropy",
        r"accuracy +(0\.\d{4} ?){5}\nmargin .*\nmacro F1 .*\nmacro\.p .*\nmacro\.r ",
        r"= 2\.0; sum\(\) works, too: 2\.0",
    ],
    "13_custom_patch.py": [r" 8 +(0\.\d+) .*\n +64 +\1 .*\n +1257 +(\1) +\1"],
    "14_accumulation.py": [
        r"1792 samples, full .*\n  by hand +\de-1\d\n  accumulate=4 +\de-1\d",
        r"1797 samples, a short .*\n  by hand +\de-0\d\n  accumulate=4 +\de-1\d",
    ],
    "15_dict_batches.py": [r"epoch +train loss +train accuracy +val loss", r"predicted \[(\d, ){7}\d\] labels \["],
    "16_training_by_steps.py": [r"(?m)^ +200 ", r"(?m)^ +1000 .* 0\.9\d+$", r"1000 updates, learning rate at the end"],
    "17_language_model.py": [
        r"batches of   1: (\d\.\d{3})\d*, .*\n.* of  32: \1\d*, .*\n.* \1\d*, of 30 characters",
        r"it writes: the value of ",
    ],
    "18_predict.py": [r"'label': \(898,\), 'confidence': \(898,\)\} for 898 images", r"\d taken for \d", r"\d\d\.\d%"],
    "19_state_round_trip.py": [
        r"stopped in epoch 3, after 10 batches of it",
        r"weights equal bit for bit: True\nhistory equal: True",
    ],
    "20_checkpoint_and_early_stop.py": [
        r"stopped after epoch \d\d of 100: val/loss was no better than 0\.\d+ for 4 epochs",
        r"(step-\d{12}\.ckpt +\d+ +\d+ +0\.\d{4}  \d+\n){2}step-\d{12}\.ckpt +(\d+) +\d+ +(0\.\d{4})  \d+  the best\n"
        r"\n.* history: \3, epoch \2\n",
        r"last weights: test .*\nbest weights: test (.*)\na file's weights: test \1",
    ],
    "21_crash_and_resume.py": [
        r"begins\n +is killed after 47 updates, batch 18 of epoch 2",
        r"goes on from step-0+40-open\.ckpt\n +is killed after 99 updates, batch 12 of epoch 4",
        r"goes on from step-0+90-open\.ckpt",
        r"weights equal bit for bit: True\nhistory equal: True",
    ],
    "22_store_around_a_loop.py": [
        r"killed in the middle of epoch 5\nfrom step-0+116\.ckpt: 4 epochs are done",
        r"the same, uncut:\nfrom the beginning",
        r"weights equal bit for bit: True\nkept .*: epoch 8, accuracy 0\.\d{4}\nkept ",
    ],
    "23_compiled_step.py": [r"None +(0\.9\d+) .*\nmodel +\1 .*\nstep +\1 .*\nthe weights are the same"],
}


@pytest.mark.parametrize("name", [path.name for path in EXAMPLES])
def test_example_runs(name: str, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CI": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(ROOT / "examples" / name)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    said = f"\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    assert done.returncode == 0, said
    assert not re.search(r"Traceback|Warning", done.stderr), said
    assert [path.name for path in tmp_path.iterdir()] == []
    position = 0
    for expression in EXPECTED[name]:
        found = re.compile(expression).search(done.stdout, position)
        assert found, f"{expression!r} not found from character {position} on{said}"
        position = found.end()


def test_every_example_has_its_expectations() -> None:
    assert [path.name for path in EXAMPLES] == sorted(EXPECTED)


def test_examples_are_numbered_without_gaps() -> None:
    assert [path.name[:3] for path in EXAMPLES] == [f"{number:02}_" for number in range(1, len(EXAMPLES) + 1)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short_and_says_what_it_shows(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    lines = len(source.splitlines())
    assert 30 <= lines <= (45 if path.name == "01_quickstart.py" else 80)
    described = (ast.get_docstring(ast.parse(source)) or "").splitlines()
    assert 2 <= len([line for line in described if line]) <= 4
    assert described[0].endswith((".", ":", "?", "!"))


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_readme_lists_every_example_once(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[[^|]*\]\((examples/[\w.]+\.py)\) \|", text, re.MULTILINE)
    assert listed == [f"examples/{path.name}" for path in EXAMPLES]
