"""`BoardServer`: TensorBoard's page, served for as long as it is looked at."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from typing import Any

from ..errors import EngineError

#: It ends with its standard input, which closes when whoever started it has gone, in whatever way.
_SERVE = """
import os, sys
from tensorboard import program
board = program.TensorBoard()
options = ["--logdir", sys.argv[1], "--port", sys.argv[2], "--host", "127.0.0.1", "--load_fast", "false"]
try:
    board.configure(argv=[None, *options])
    print(board.launch(), flush=True)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
sys.stdin.read()
os._exit(0)
"""


class BoardServer:
    """TensorBoard in a process of its own, for this machine alone, until `stop`, the end of a ``with``, or our own end.

    Nothing is left behind, not even where this process is killed.

    Args:
        folder: what it shows.
        port: where it listens; 0 takes a free one.

    Raises:
        EngineError: it does not start; the message has its last words.

    Example:
        >>> with BoardServer("logs") as board:  # doctest: +SKIP
        ...     print(board.url)
        http://127.0.0.1:40613/
    """

    def __init__(self, folder: str | os.PathLike[str], port: int = 0) -> None:
        command = [sys.executable, "-W", "ignore", "-c", _SERVE, os.fspath(folder), str(port)]
        with tempfile.TemporaryFile() as said:
            self._process: subprocess.Popen[str] | None = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )
            assert self._process.stdout is not None
            #: Where a browser finds it.
            self.url = self._process.stdout.readline().strip()
            if not self.url:
                self.stop()
                said.seek(0)
                last = said.read().decode(errors="replace").strip()[-500:]
                raise EngineError(f"TensorBoard does not start: {last}")
        atexit.register(self.stop)

    def stop(self) -> None:
        """End it; doing so again does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.stop)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def running(self) -> bool:
        """Whether it answers."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> BoardServer:
        return self

    def __exit__(self, *ignored: Any) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"BoardServer({self.url if self.running else 'stopped'})"
