"""`Report`: a run as one page to read, to keep and to hand on."""

from __future__ import annotations

import contextlib
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .. import storage
from ..display.record import Best, describe_run
from ..display.words import Words, duration, scalars
from ..errors import ArgumentError, ArgumentTypeError, refuse_unknown
from ..pictures import STAGES, Curves, curves_of, html_table, rate_names, sample_parts
from ..types import StateDict
from ..utils import page
from ..utils.svg import escaped, line_svg
from ..utils.warn import warn
from .asked import max_steps_of
from .base import Callback
from .settings import environment, settings, version

#: Lines of the table, and curves, beyond which a page gets too long to read.
MOST_ROWS, MOST_CURVES = 200, 60
#: How much of an error's message is shown, in characters.
MOST_WORDS = 2000
#: The folders of a path on some machine, which are nobody's business who reads the page.
_FOLDERS = re.compile(r"(?<![\w:/.~])~?/(?:[^\s/'\"<>:,;()]+/)+|\b[A-Za-z]:\\(?:[^\\\s'\"<>]+\\)+")


class Told(NamedTuple):
    """What a history tells, computed once for all parts of a page."""

    rows: list[dict[str, Any]]
    curves: Curves
    best: Best


class Report(Callback):
    """Write ``report.html`` into the run's folder: one page that needs nothing else, neither a network nor a script.

    It has the best figures, all curves, learning rates, the figures of every epoch, what was tested afterwards, the
    confusion matrix and the samples of a callback that has them (`Interpret`), the configuration and the environment.
    A resumed run's page covers all of it. It is written when the run ends, however it ends short of a kill, and again
    after a later test in the same program. What was tested is shown until there is more training. Paths are cut down to
    their last part, and no name of a machine is in it.

    Args:
        filename: its name in the run's folder.
        title: its heading; by default the run's id.
        class_names: what the classes are called, in the confusion matrix and under the samples.
        image_shape: what flat inputs of samples are given to be shown as images, ``(28, 28)``.
        samples: how many samples are shown, at most.
        every_epochs: write it after every so many epochs, too, to look at while the run goes on.
        priority: its place among the callbacks; at -1 what it shows of the others is up to date.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is not what is needed.

    Example:
        >>> Report().filename, Report("digits.html", every_epochs=5).state_key()
        ('report.html', 'Report(digits.html)')
    """

    keeps_files = optional_state = True

    def __init__(
        self,
        filename: str = "report.html",
        *,
        title: str | None = None,
        class_names: Sequence[Any] | None = None,
        image_shape: Sequence[int] | None = None,
        samples: int = 24,
        every_epochs: int | None = None,
        priority: float = -1,
        **unknown: NoReturn,
    ) -> None:
        refuse_unknown("Report", unknown, Report.__init__)
        super().__init__(priority)
        for name, text in (("filename", filename), ("title", "" if title is None else title)):
            if not isinstance(text, str):
                raise ArgumentTypeError(f"{name}={text!r}: a string is needed")
        if Path(filename).name != filename or Path(filename).suffix.lower() not in (".html", ".htm"):
            raise ArgumentError(f"filename={filename!r}: a name that ends with .html is needed, without a folder")
        for name, count, least in (("samples", samples, 0), ("every_epochs", every_epochs, 1)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < least):
                raise ArgumentError(f"{name}={count!r}: an int from {least} on is needed")
        if isinstance(class_names, str):
            raise ArgumentTypeError(f"class_names={class_names!r}: a list of names is needed")
        self.filename, self.title, self.samples, self.every_epochs = filename, title, samples, every_epochs
        self.class_names, self.image_shape = class_names, image_shape
        #: The learning rates by name, one per epoch in `epochs`; what was tested; seconds of all sessions so far.
        #: `tested_at` is the number of updates behind the test: with more of them it is that of another model.
        self.learning_rates: dict[str, list[float]] = {}
        self.epochs: list[int] = []
        self.tested: dict[str, float] = {}
        self.tested_at: int | None = None
        self.seconds = 0.0
        self.path: Path | None = None
        self._began: float | None = None
        self._about, self._state, self._why = "", "running", ""
        self._due = False
        #: What the fit was asked for, by the argument's name.
        self._asked: dict[str, str] = {}

    def state_key(self) -> str:
        return f"{type(self).__name__}({self.filename})"

    def state_dict(self) -> StateDict:
        rates = {name: list(values) for name, values in self.learning_rates.items()}
        tested = {"tested": dict(self.tested), "tested_at": self.tested_at}
        return {"rates": rates, "epochs": list(self.epochs), "seconds": self._elapsed(), **tested}

    def load_state_dict(self, state_dict: StateDict) -> None:
        self.learning_rates = {name: list(values) for name, values in state_dict["rates"].items()}
        self.epochs, self.tested = list(state_dict["epochs"]), dict(state_dict["tested"])
        self.tested_at = state_dict.get("tested_at")
        self.seconds = float(state_dict["seconds"])
        self._began = None if self._began is None else time.monotonic()

    def _elapsed(self) -> float:
        return self.seconds + (0.0 if self._began is None else time.monotonic() - self._began)

    def on_before_fit(self, trainer: Any, epochs: int) -> None:
        """Note what is asked for, before anything has happened."""
        self.path = trainer.run_folder.path / self.filename
        self.seconds, self._began = self._elapsed(), time.monotonic()
        steps = max_steps_of(trainer)
        self._asked = {"epochs asked for": f"{epochs:,}"} if steps is None else {"max_steps": f"{steps:,}"}
        self._about = describe_run(trainer, Words())
        self._state, self._why, self._due = "running", "", True

    def on_after_epoch(
        self, trainer: Any, train_tasks: Any, val_tasks: Any, train_metrics: Any, val_metrics: Any, epoch_idx: int
    ) -> None:
        """Note the epoch's rates, and rewrite the page where that is due."""
        self.epochs.append(epoch_idx)
        for name, rate in _rates(trainer).items():
            # A group that joins in later had no rate before.
            values = self.learning_rates.setdefault(name, [])
            values += [float("nan")] * (len(self.epochs) - 1 - len(values)) + [rate]
        if self.every_epochs is not None and (epoch_idx + 1) % self.every_epochs == 0:
            self._write(trainer)

    def on_exception(self, trainer: Any, exception: BaseException) -> str | None:
        self._why = f"{type(exception).__name__}: {exception}"
        return None

    def on_after_fit(self, trainer: Any) -> None:
        self._state, self._why = ("stopped", trainer.stop_reason) if trainer.stopping else ("finished", "")
        self._write(trainer)
        self._due = False

    def on_after_test_epochs(self, trainer: Any, tasks: Any, metrics: Any) -> None:
        self.tested, self.tested_at = scalars({name: metrics[name] for name in metrics}), trainer.progress.step
        self._due = True

    def on_cleanup(self, trainer: Any) -> None:
        """Write the page also behind an error, which is when it is read most closely."""
        if self._due and trainer.running == "fit" and self._state == "running":
            self._state, self._why = "failed", self._why or "the run was interrupted"
        if self._due and self.path is not None:
            self._write(trainer)
        self._due = False
        self.seconds, self._began = self._elapsed(), None

    def _write(self, trainer: Any) -> None:
        assert self.path is not None
        if trainer.main_process:
            storage.write_bytes(self.path, self.html(trainer).encode("utf-8", "replace"))

    def html(self, trainer: Any) -> str:
        """The page, of what the run has come to by now."""
        title = self.title or (self.path.parent.name if self.path is not None else "a run")
        sections: tuple[tuple[str, Callable[[Any, Told], str]], ...] = (
            ("", self._summary),
            ("Test", self._test),
            ("Curves", self._curves),
            ("Figures", self._figures),
            ("Confusion matrix", self._confusion),
            ("Samples", self._samples),
            ("Configuration", self._configuration),
            ("Environment", self._environment),
        )
        told = Told(trainer.history.rows(), curves_of(trainer.history), Best(trainer.history))
        parts = [self._header(title)]
        for heading, build in sections:
            if content := _safely(build, trainer, told, heading):
                parts.append(f"<section>{f'<h2>{heading}</h2>' if heading else ''}{content}</section>")
        written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        parts.append(f"<footer>Written {written} by deepepochs_like {escaped(version())}.</footer>")
        return page.page(title, parts)

    def _header(self, title: str) -> str:
        state = f'<span class="state {self._state}">{self._state}</span>'
        said = scrubbed(self._why)
        said = said if len(said) <= MOST_WORDS else f"{said[:MOST_WORDS]} …"
        why = f'<div class="note {self._state}">{page.block(said)}</div>' if said else ""
        about = f'<p class="soft">{escaped(self._about)}</p>'
        return f"<header><h1>{escaped(title)}{state}</h1>{about}</header>{why}"

    def _summary(self, trainer: Any, told: Told) -> str:
        best, words = told.best, Words()
        found = list(best.stages.get(best.judge, {}).items())[:5]
        entries = [(words.number(v), f"best {best.judge} {name} (epoch {e + 1})") for name, (v, e) in found]
        progress = trainer.progress
        entries.append((f"{len(told.rows):,}", "epochs"))
        entries.append((f"{progress.step:,}", "updates of the weights"))
        entries.append((duration(self._elapsed()), "time"))
        return page.tiles(entries)

    def _test(self, trainer: Any, told: Told) -> str:
        if not self.tested or self.tested_at != trainer.progress.step:
            return ""
        words = Words()
        return page.tiles((words.number(v), name) for name, v in self.tested.items())

    def _curves(self, trainer: Any, told: Told) -> str:
        curves = list(told.curves.items())
        shown = [line_svg(c, title=name, x_label="epoch", colours=STAGES) for name, c in curves[:MOST_CURVES]]
        if self.learning_rates and self.epochs:
            xs = [epoch + 1 for epoch in self.epochs]
            rates = {name: (xs[: len(values)], values) for name, values in self.learning_rates.items()}
            shown.append(line_svg(rates, title="learning rate", x_label="epoch"))
        more = f"<p>The first {MOST_CURVES} of {len(curves)} figures.</p>" if len(curves) > MOST_CURVES else ""
        cards = "".join(f'<div class="card">{one}</div>' for one in shown)
        return f'<div class="charts">{cards}</div>{more}' if shown else "<p>No epoch was completed.</p>"

    def _figures(self, trainer: Any, told: Told) -> str:
        rows, curves, words = told.rows, told.curves, Words()
        columns = [(stage, name) for stage in trainer.history for name in curves if stage in curves[name]]
        if not rows or not columns:
            return ""
        best = {(e + 1, s, n) for s, names in told.best.stages.items() for n, (_, e) in names.items()}
        some = _some(len(rows), {i for i, row in enumerate(rows) for mark in best if mark[0] == row["epoch"]})
        cells, marked = [], set()
        for line, index in enumerate(some):
            row = rows[index]
            values = [row.get(f"{stage}/{name}") for stage, name in columns]
            shown = ["-" if v is None or np.ndim(v) else words.number(float(v)) for v in values]
            cells.append([str(row["epoch"]), *shown])
            marked |= {(line, c) for c, (stage, name) in enumerate(columns) if (row["epoch"], stage, name) in best}
        note = f"<p>{len(some)} of {len(rows)} epochs, among them the best.</p>" if len(some) < len(rows) else ""
        return note + page.figures_table(columns, cells, marked)

    def _confusion(self, trainer: Any, told: Told) -> str:
        parts = []
        for label, matrix, names in _matrices(trainer):
            names = names if self.class_names is None else self.class_names
            fitting = names if names is not None and len(names) == len(matrix) else None
            parts.append(f'<p class="soft">{escaped(label)}</p>{page.heat_table(matrix, fitting)}')
        return "".join(parts)

    def _samples(self, trainer: Any, told: Told) -> str:
        parts = []
        order = {"max": ": the highest values", "min": ": the lowest values"}
        for callback in trainer.callbacks if self.samples else ():
            names = self.class_names if self.class_names is not None else getattr(callback, "class_names", None)
            for stage, found in _offered(callback, ("samples", "top_samples")):
                some = list(found)[: self.samples]
                label = f"{type(callback).__name__} {stage}".strip() + order.get(str(getattr(callback, "mode", "")), "")
                parts += [f'<p class="soft">{escaped(label)}</p>{self._shown(some, names)}'] if some else []
        return "".join(parts)

    def _shown(self, samples: Sequence[Any], names: Sequence[Any] | None) -> str:
        """Samples as images, or as a table where none of them has one."""
        entries = [sample_parts(one, names, self.image_shape) for one in samples]
        if any(pixels is not None for *_, pixels in entries):
            return page.sheet(entries)
        indices = [one.get("index") if isinstance(one, Mapping) else None for one in samples]
        rows = [
            ["-" if index is None else str(index), value, target, said]
            for index, (value, said, target, _) in zip(indices, entries, strict=True)
        ]
        return f'<div class="scroll">{html_table(["index", "value", "target", "prediction"], rows)}</div>'

    def _configuration(self, trainer: Any, told: Told) -> str:
        pairs = settings(trainer, self._asked)
        models = "\n".join(repr(handle.model) for handle in trainer.models.values())
        model = page.folded("the model's layers", page.preformatted(scrubbed(models)))
        return page.pairs({name: scrubbed(value) for name, value in pairs.items()}) + model

    def _environment(self, trainer: Any, told: Told) -> str:
        return page.pairs(environment(trainer))


def scrubbed(text: Any) -> str:
    """Cut paths down to their last part, and take the machine's name out.

    Example:
        >>> scrubbed("cannot open '/data/me/x/train.csv', see https://example.org/a/b")
        "cannot open '…/train.csv', see https://example.org/a/b"
    """
    shown, node = _FOLDERS.sub("…/", str(text)), platform.node()
    return re.sub(rf"(?<!\w){re.escape(node)}(?!\w)", "host", shown) if len(node) > 3 else shown


def _safely(build: Callable[[Any, Told], str], trainer: Any, told: Told, heading: str) -> str:
    """A part of the page, or why it is not there: a run must not fail over its report."""
    try:
        return build(trainer, told)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        warn(f"Report: '{heading or 'summary'}' was left out: {message}")
        return f'<div class="note">This part could not be written: {page.block(scrubbed(message))}</div>'


def _rates(trainer: Any) -> dict[str, float]:
    """The learning rate of every group, by name."""
    rates: dict[str, float] = {}
    for name, optimizer in trainer.opt.items():
        groups, prefix = optimizer.param_groups, f"{name} " if len(trainer.opt) > 1 else ""
        rates |= {f"{prefix}{n}": float(g["lr"]) for n, g in zip(rate_names(groups), groups, strict=True)}
    return rates


def _some(count: int, wanted: set[int]) -> list[int]:
    """As many lines of a long table as can be read, with those that are wanted, the first and the last among them."""
    if count <= MOST_ROWS:
        return list(range(count))
    spread = {round(i * (count - 1) / (MOST_ROWS - 1)) for i in range(MOST_ROWS)}
    return sorted(spread | set(sorted(wanted)[:MOST_ROWS]))


def _offered(callback: Any, methods: Sequence[str]) -> list[tuple[str, Any]]:
    """What the first of some methods of a callback returns, by stage where it goes by stages; else ``''``."""
    method = next((m for name in methods if callable(m := getattr(callback, name, None))), None)
    if method is None:
        return []
    found: list[tuple[str, Any]] = []
    for stage in getattr(callback, "stages", None) or [None]:
        by_stage = stage is not None and method.__name__ != "top_samples"
        with contextlib.suppress(ArgumentError):  # that stage has not run
            found.append((stage, method(stage)) if by_stage else ("", method()))
        if not by_stage:
            break
    return [(stage, what) for stage, what in found if what is not None]


def _matrices(trainer: Any) -> list[tuple[str, np.ndarray[Any, Any], Any]]:
    """The confusion matrices of callbacks, and figures that are some: what each is of, itself, and names of classes."""
    found: list[tuple[str, Any, Any]] = []
    for callback in trainer.callbacks:
        names = getattr(callback, "class_names", None)
        for stage, matrix in _offered(callback, ("confusion", "confusion_matrix")):
            found.append((f"{type(callback).__name__} {stage}".strip(), matrix, names))
    for stage, figures in trainer.history.items():
        for name, values in figures.items():
            if values and np.ndim(values[-1]) == 2:
                found.append((f"{stage} {name}, last epoch", values[-1], None))
    arrays = [(a, np.asarray(m.detach().cpu() if hasattr(m, "detach") else m), names) for a, m, names in found]
    return [one for one in arrays if one[1].ndim == 2 and one[1].shape[0] == one[1].shape[1] > 1]
