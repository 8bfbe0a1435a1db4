"""`JSONLLogger`: figures as lines of JSON."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from ..errors import refuse_unknown
from .line_logger import LineLogger


class JSONLLogger(LineLogger):
    """Write every set of figures as a line of JSON to ``metrics.jsonl`` in the run's folder; see `Logger`.

    ``{"step": 40, "epoch": 1, "train/loss": 0.83, "val/loss": 0.61, "lr": 0.001}``: numbers read back exactly as they
    were. JSON has no NaN and no infinities: they are ``null``, so that any reader takes every line, and a column stays
    one of numbers; `CSVLogger` tells which it was. A resumed run continues the file without overlap or gap; a test that
    is run again at a step replaces its row, see `LineLogger`. Hyper-parameters go to ``hyper_params.json`` beside it,
    where such numbers are the strings ``"nan"``, ``"inf"`` and ``"-inf"``.

    Args:
        file: the file's name.
        every: also write a batch's figures, ``"train_batch/loss"``, after every so many updates.
        priority: its place among the callbacks.

    Raises:
        ArgumentError: `file` is no plain name, or `every` no int from 1 on.

    Example:
        >>> import json, tempfile, pathlib
        >>> from deepepochs_like import Trainer
        >>> net = torch.nn.Linear(2, 1); data = [(torch.ones(4, 2), torch.ones(4, 1))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = Trainer(net, torch.nn.functional.mse_loss, epochs=2, callbacks=JSONLLogger(), verbose=0,
        ...                   folder=folder, running_id="a")
        ...     history = run.fit(data)
        ...     lines = (pathlib.Path(folder) / "a" / "metrics.jsonl").read_text().splitlines()
        >>> rows = [json.loads(line) for line in lines]
        >>> [row["train/loss"] for row in rows] == history["train"]["loss"]
        True
    """

    def __init__(
        self, file: str = "metrics.jsonl", every: int | None = None, *, priority: float = 1, **unknown: NoReturn
    ) -> None:
        refuse_unknown("JSONLLogger", unknown, JSONLLogger.__init__)
        super().__init__(file, every, priority=priority)

    def render(self, row: dict[str, Any]) -> str:
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        return json.dumps(finite, allow_nan=False)

    def step_of(self, line: str) -> int:
        return int(json.loads(line)["step"])

    def is_of(self, line: str, step: int, names: set[str]) -> bool:
        return line.startswith(f'{{"step": {step},') and set(json.loads(line)) == names | {"step"}
