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
    "24_tensorboard.py": [
        r"lr-0\.01 \{19: '0\.\d{3}', 38: .* 76: '0\.9\d\d'\}\nlr-0\.03 \{19: ",
        r"tags: accuracy/train, accuracy/train_batch, accuracy/val, loss/train, .*, lr, weights/norm",
        r"batches at \[10, 20, 30, 40, 50, 60, 70\]; equal to the history: True",
    ],
    "25_loggers.py": [
        r"> digits, update 0, .*\n> +20: #+ 0\.\d{3}\n> +40: .*\n> closed\nthe lights went out\n> digits, update 40",
        r"batches: \[8, 16, 24, 32, 40, 48, 56, 64, 72, 80\]\nlosses of epochs equal the history's: True",
        r"(?m)^step +epoch +train/loss .* lr +size\n20 .*\n40 .*\n60 .*\n80 .*\n80 +4810\.0$",
    ],
    "28_schedules.py": [
        r"warmup\(20\) >> cosine\(140, end=0\.01\)\n",
        r"constant\(1, value=0\.0\) >> linear\(3, start=0\.0, end=0\.001\)\n",
        r" 3      0\.3076     0\.1026  0\.00033    0\.9",
        r"the same numbers: True\nand the same weights: True",
    ],
    "29_fine_tune.py": [
        r"epoch 4: head  .*\n +epoch 5: body, head  ",
        r"epoch 8: body, head, stem ",
        r"from scratch   0\.[78].*\n +the head alone 0\.8.*\n +part by part   0\.9",
    ],
    "30_guards.py": [
        r"became nan at batch \d+ of epoch 1 .*\n.*'1' \(Log\): \d+ of 2048 numbers infinite, given finite inputs",
        r"before that batch: True",
        r"56 trained in parts, 0 left out\n.* by \de-0[789]",
        r"1\.0 \(BatchNorm1d\) normalises over the whole batch",
        r"memory at most \d+ MiB\nkept per epoch: epoch, rss, rss_peak, samples_per_s",
    ],
    "31_summary.py": [
        r"patches\.0 +Conv2d +\[16, 32, 4, 4\] +160 +yes +65\.5 k",
        r"parameters: 10,154, 9,098 trained, 1,056 frozen\na forward pass of \[16, 1, 8, 8\]: 4\.83 MFLOP",
        r"in 60 columns.*\n(.{1,60}\n)+\nmost work: attention\.self_attn, 54% of 4,827,136 FLOP\n",
        r"as before: True; generators: True",
    ],
    "32_where_the_time_goes.py": [
        r"phase +share +sum +mean +epoch 1 +epoch 2\ndata +\d.*\nforward .*\nloss .*\n(.*\n){5}all +100% ",
        r"most of it is data: [4-9]\d%; with a quick disk",
        r"operation +calls +own ms +share\n(.*%\n){6}",
        r"digits/profile-5-10\.json, .*: \d+ KiB",
    ],
    "33_look_inside.py": [
        r"update 100:\noutputs .* dead\n(.*\n){3}3 .* (2[5-9]|3\d|4\d)\.\d%\n",
        r"(?m)^2 .* (2[5-9]|3\d|4\d)\.\d%$",
        r"the worst of 898 samples:\nrank +index +value +prediction +target\n(.*\n){5}",
        r"  is a \d, taken for a \d",
        r"target +0 .* found\n( +\d .*%\n){10}9\d\.\d% are right",
    ],
    "34_pictures_and_report.py": [
        r"loss\n.*┤.*\n(.*\n)*.* train 0\.1\d+",
        r"accuracy\n(.*\n)*target +0 +1 .* found\n +0 +\d+ ",
        r"confusion\.png .* KiB\ncurves\.png .*\ndigits/report\.html .*\nlearning_rates\.png .*\nworst\.png ",
        r"the page holds 3 curves, 16 images, 0 links",
    ],
    "26_find_lr.py": [
        r"suggested learning rate (\d\.\d\de-0[12]) \(steepest\), .* \(valley\)",
        r"weights as before: True; generator as before: True\n.*lr=1e-4: 0\.[1-4]\d+, with the suggested one: 0\.9",
        r"drawn into \['lr\.png'\]\n\nsamples (.*\n){6}suggested batch size 1024",
    ],
    "27_dry_runs.py": [
        r"monitor='val/acc': no epoch yields this figure; did you mean 'val/accuracy'",
        r"training works: 2 batches, 2 updates .*\nvalidation works: 2 batches; .*\n.*stayed out: Checkpoint\n",
        r"the model can learn a batch: in 100 steps the loss fell from 2",
        r"the model CANNOT learn a batch: .*\n\nupdates of the weights so far: 0, figures in the history: 0",
    ],
    "35_doctor.py": [
        r"\d+ checks in 0\.\d\d s: 3 errors, 1 warning",
        r"to be run as it is: False; found: scheduler_unit, softmax_before_loss, unscaled_inputs, val_overlaps_train",
        r"corrected: \d+ checks in 0\.\d\d s: nothing found",
        r"with the faults +[12]\.\d+\nvalidation loss without them +0\.\d+",
    ],
    "36_precision_and_clipping.py": [
        r"float32 +test accuracy 0\.[89]\d+, 528 updates\nbfloat16 +test accuracy 0\.[89]",
        r"bfloat16, clipped, fewer +test accuracy 0\.[89]\d+, 330 updates, norms before clipping (\d\.\d\d ?){6}",
        r"float16: [1-9]\d* updates left out, the loss is scaled by \d+",
    ],
    "37_averaged_weights.py": [
        r"the weights themselves .*\nEMA.*\nSWA.*accuracy 0\.9[678]",
        r"456 updates in the one average, 6 epochs in the other",
        r"has the same test loss: True",
    ],
    "38_ten_callbacks.py": [
        r"is killed after 13 updates, in epoch 2(.*\n)*.*is killed after 61 updates",
        r"resumed and ended: 6 epochs, \d+ updates\nweights equal bit for bit: True\naverages equal bit for bit: True",
        r"history equal: True\nlog equal: True \(6 lines\)\nthe report has \d+ kB",
        r" 6 +0\.\d+ +0\.9",
    ],
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
    assert 30 <= lines <= {"01_quickstart.py": 45, "38_ten_callbacks.py": 100}.get(path.name, 80)
    described = (ast.get_docstring(ast.parse(source)) or "").splitlines()
    assert 2 <= len([line for line in described if line]) <= 4
    assert described[0].endswith((".", ":", "?", "!"))


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_readme_lists_every_example_once(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[[^|]*\]\((examples/[\w.]+\.py)\) \|", text, re.MULTILINE)
    assert listed == [f"examples/{path.name}" for path in EXAMPLES]
