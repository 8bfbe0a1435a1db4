"""Look at the console: fits of every kind on real terminals, photographed. By hand, from the repository's root.

``python tests/console/look.py`` plays all scenes at 60 and 200 columns in tmux, and prints what stood on the terminal
in mid-run and at the end; ``look.py chinese error --columns 80`` plays some. Besides these it says what a program can
see: control characters where there must be none, lines that wrap, a live view that is there twice.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

HERE = Path(__file__).resolve()
HEIGHT = 24
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # anything but a newline


# The scenes, each played in a process of its own


class Slow:
    """A loader that takes its time; of a known length or not."""

    def __new__(cls, count: int, seconds: float = 0.02, length: bool = True) -> Any:
        return super().__new__(Sized if length else Slow)

    def __init__(self, count: int, seconds: float = 0.02, length: bool = True) -> None:
        from support.loop import batches

        self.batches, self.seconds = batches(max(count, 1))[:count], seconds

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            time.sleep(self.seconds)
            yield batch


class Sized(Slow):
    def __len__(self) -> int:
        return len(self.batches)


def trainer(*callbacks: Any, names: list[str] | None = None, **options: Any) -> Any:
    import torch

    from deepepochs_like import Trainer
    from support.loop import net

    def metric(name: str, scale: int) -> Any:
        def distance(preds: Any, targets: Any) -> Any:
            return (preds - targets).abs().mean() * scale

        distance.__name__ = name
        return distance

    model, metrics = net(), [metric(name, i) for i, name in enumerate(["mae"] if names is None else names, 1)]
    options = {"epochs": 3, "metrics": metrics, "metric_patch": "mean", "callbacks": list(callbacks), **options}
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    return Trainer(model, torch.nn.functional.mse_loss, opt, device="cpu", **options)


def on(event: str, do: Callable[[Any], Any]) -> Any:
    """A callback that does something at an event."""
    from deepepochs_like import Callback

    class On(Callback):
        pass

    def heard(self: Any, trainer: Any, *given: Any, **named: Any) -> None:
        do(trainer)

    setattr(On, f"on_{event}", heard)
    return On()


def plain() -> None:
    trainer().fit(Slow(40), Slow(20))


def bars() -> None:
    trainer(log_tqdm=True).fit(Slow(40), Slow(20))


def thirty() -> None:
    trainer(names=[f"m{i:02}_{'long_' * 7}m" for i in range(29)]).fit(Slow(40), Slow(20))


def chinese() -> None:
    trainer(names=["准确率", "召回率_在验证集上按类别平均之后的结果", "损失 loss"]).fit(Slow(40), Slow(20))


def many() -> None:
    trainer(epochs=10_000).fit(Slow(1, 0), Slow(1, 0))


def steps() -> None:
    trainer().fit(Slow(40), Slow(10), max_steps=100, val_every_steps=30)


def stream() -> None:
    trainer().fit(Slow(40, length=False), Slow(20, length=False))


def stream_by_steps() -> None:
    trainer().fit(Slow(40, length=False), Slow(20, length=False), max_steps=100)


def nested() -> None:
    trainer(on("after_train_epoch", lambda trainer: trainer.test(Slow(30)))).fit(Slow(40), Slow(20))


def several() -> None:
    from deepepochs_like import EpochTask

    tasks = [EpochTask(Slow(15), name="near_"), EpochTask(Slow(25), name="far_"), EpochTask(Slow(10))]
    trainer(names=["mae"]).fit(Slow(40), val_tasks=tasks)


def no_validation() -> None:
    trainer().fit(Slow(60))


def empty() -> None:
    trainer().fit(Slow(40), Slow(0, length=False))


def printing() -> None:
    def say(trainer: Any) -> None:
        if trainer.progress.batch % 10 == 5:
            print(f"print at batch {trainer.progress.batch}")
            print("to stderr", file=sys.stderr)

    trainer(on("after_train_batch", say)).fit(Slow(40), Slow(20))


def _fail(trainer: Any) -> None:
    if trainer.progress.step == 60:
        raise ValueError("the data of this batch are no good")


def error() -> None:
    trainer(on("after_train_batch", _fail)).fit(Slow(40), Slow(20))


def interrupt() -> None:
    after = on("after_train_batch", lambda t: os.kill(os.getpid(), signal.SIGINT) if t.progress.step == 60 else None)
    trainer(after).fit(Slow(40), Slow(20))


def early() -> None:
    from deepepochs_like import EarlyStopping

    trainer(EarlyStopping("val/mae", patience=1, mode="max"), epochs=20).fit(Slow(40), Slow(20))


def timed() -> None:
    from deepepochs_like import Timer

    trainer(Timer()).fit(Slow(40), Slow(20))


def finished() -> None:
    folder = mkdtemp()
    for epochs in (2, 2, 3):
        trainer(epochs=epochs, resume="auto", running_id="run", folder=folder).fit(Slow(30), Slow(10))
        print("-" * 20)


def evaluation() -> None:
    run = trainer()
    run.fit(Slow(20), epochs=1)
    run.validate(Slow(60))
    run.test(Slow(60))
    run.predict(Slow(60))


PLACES = {"dumb": "TERM=dumb", "no_color": "NO_COLOR=1", "ci": "CI=1"}
SCENES = {
    scene.__name__: scene
    for scene in (
        plain, bars, thirty, chinese, many, steps, stream, stream_by_steps, nested, several, no_validation, empty,
        printing, error, interrupt, early, timed, finished, evaluation,
    )
}  # fmt: skip


# The photographer


def tmux(server: str, *words: str) -> str:
    command = ["tmux", "-u", "-L", server, "-f", "/dev/null", *words]
    return subprocess.run(command, env=environment(), capture_output=True, encoding="utf-8", check=True).stdout


def play(scene: str) -> list[str]:
    return [sys.executable, str(HERE), "--play", scene]


def environment(**extra: str) -> dict[str, str]:
    from support.terminal import clean_environment

    return clean_environment(**extra) | {"LC_ALL": "C.UTF-8"}


def photographs(scene: str, columns: int, resize: int = 0, variable: str = "") -> list[str]:
    """What stood on a terminal, five times a second while a scene was played, and at the end with all above it."""
    server, words = f"look-{os.getpid()}-{scene}-{columns}", f"{variable} {shlex.join(play(scene))}"
    begin = ["set", "-g", "history-limit", "20000", ";", "new-session", "-d", "-x", str(columns), "-y", str(HEIGHT)]
    tmux(server, *begin, f"{words}; printf 'exit %s' $?; exec sleep 600")
    frames: list[str] = []
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            frames.append(tmux(server, "capture-pane", "-p").rstrip())
            if re.search(r"^exit \d+$", frames[-1], re.MULTILINE):
                break
            if resize and (live := sum("━" in frame for frame in frames)) in (4, 10):
                tmux(server, "resize-window", "-x", str(resize if live == 4 else columns))
            time.sleep(0.2)
        return [*frames, tmux(server, "capture-pane", "-p", "-S", "-").rstrip()]
    finally:
        tmux(server, "kill-server")


def in_pipe(scene: str) -> str:
    """What a scene writes to a pipe."""
    done = subprocess.run(
        play(scene), env=environment(), capture_output=True, encoding="utf-8", timeout=90, check=False
    )
    return done.stdout + done.stderr


def faults(frames: list[str], columns: int) -> list[str]:
    """What a program can see of what is wrong."""
    found = set()
    for frame in frames:
        rows = frame.partition("Traceback")[0].splitlines()
        for head in ("epoch ", "train ", "val "):
            if sum(row.startswith(head) and "━" in row for row in rows) > 1:
                found.add(f"the live view is there twice:\n{frame}")
        found |= {f"a line as wide as the terminal: {row}" for row in rows if len(row) >= columns}
    return sorted(found)


def show(title: str, text: str, columns: int = 0) -> None:
    print(f"\n{f' {title} ':=^{min(columns or 78, 120)}}\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", nargs="*", help=f"of {', '.join(SCENES)}, resized, {', '.join(PLACES)}, pipe")
    parser.add_argument("--columns", type=int, nargs="+", default=[60, 200])
    parser.add_argument("--play", choices=SCENES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        SCENES[given.play]()
        return
    for name in given.scenes or [*SCENES, "resized", *PLACES, "pipe"]:
        if name == "pipe":
            show(name, text := in_pipe("plain"))
            print("CONTROL CHARACTERS" if CONTROL.search(text) else "no control character")
            continue
        for columns in given.columns if name != "resized" else [100]:
            scene = name if name in SCENES else "plain"
            frames = photographs(scene, columns, 50 if name == "resized" else 0, PLACES.get(name, ""))
            live = [frame for frame in frames if "━" in frame]
            looks = {4, 6, 9, 11, 14} if name == "resized" else {len(live) // 3, 2 * len(live) // 3}
            for at in sorted(at for at in looks if at < len(live)):
                show(f"{name}, {columns} columns, photograph {frames.index(live[at])}", live[at], columns)
            rows = frames[-1].splitlines()
            rows[40:-40] = [f"... {len(rows) - 80} lines ..."] if len(rows) > 80 else rows[40:-40]
            show(f"{name}, {columns} columns, at the end", "\n".join(rows), columns)
            for fault in faults(frames, columns):
                print(f"FAULT: {fault}")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))
    main()
