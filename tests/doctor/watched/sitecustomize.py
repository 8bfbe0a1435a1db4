"""Python imports this by itself where the folder is on its path: every `Trainer.fit` then begins with a check.

What was found is appended, a line each, to the file that DOCTOR_FINDINGS names; children of a script are watched, too.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from typing import Any


def watch(path: str) -> None:
    from deepepochs_like import Trainer

    fit = Trainer.fit
    shared = set(inspect.signature(fit).parameters) & set(inspect.signature(Trainer.check).parameters) - {"self"}

    @functools.wraps(fit)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(fit).bind(self, *args, **kwargs).arguments
        found = self.check(**{name: value for name, value in given.items() if name in shared})
        failed = [reason for reason in found.left_out.values() if "failed itself" in reason]
        row = {"names": found.names, "failed": failed, "said": str(found), "seconds": found.seconds}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return fit(self, *args, **kwargs)

    Trainer.fit = checked  # type: ignore[method-assign]


if "DOCTOR_FINDINGS" in os.environ:
    watch(os.environ["DOCTOR_FINDINGS"])
