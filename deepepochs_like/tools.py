"""What a trainer can do around a run: look into it, try it out, find good arguments for it."""

from __future__ import annotations

from typing import Any


class Tools:
    """A trainer as far as it is tried out before a run; nothing here leaves a trace in it."""

    models: dict[str, Any]
