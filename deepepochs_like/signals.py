"""Ctrl-C and SIGTERM: the first asks the run to stop, the second stops it at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruptions:
    """Turn the first SIGINT or SIGTERM into a call of `ask`, the second into KeyboardInterrupt.

    Handlers are installed only in the main thread, only where Python would act on the signal itself (a SIGINT that the
    program ignores stays ignored), and the former ones are put back on leaving.
    """

    def __init__(self, ask: Callable[[str], None]) -> None:
        self.ask = ask
        self.received: signal.Signals | None = None
        #: Whether the run has ended, and is only being put away: there is nothing left for a second signal to stop.
        self.over = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and self.over:
            return
        if self.received is not None:
            raise KeyboardInterrupt(f"second {signal.Signals(number).name}")
        self.received = signal.Signals(number)
        self.ask(self.received.name)

    _handle.stops_a_run = True  # type: ignore[attr-defined]  # what worker processes go by; see `data.workers`

    @property
    def exit_code(self) -> int | None:
        """What a script exits with after a signal: 128 + its number. None without one, or in an interactive session."""
        return None if self.received is None or interactive() else 128 + int(self.received)


def interactive() -> bool:
    """Tell a notebook or an interactive shell, where a signal ends the call and not the process."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive) or ("IPython" in sys.modules and _in_ipython())


def _in_ipython() -> bool:
    shell = getattr(sys.modules["IPython"], "get_ipython", lambda: None)
    return shell() is not None
