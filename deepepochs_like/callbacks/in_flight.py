"""The batch that a task is in the middle of, found when something has gone wrong: until then it costs nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

import torch


@dataclass
class InFlight:
    """A batch in the middle of its step."""

    task: Any
    batch_x: Any
    batch_y: Any
    batch_idx: int


def batch_in_flight(trainer: Any) -> InFlight | None:
    """Find the batch that the current task is working on, by looking up the calls that led here; None between batches.

    Args:
        trainer: in one of whose hooks this is called.
    """
    task = trainer.current_task
    runs = {c.__dict__["run"].__code__ for c in type(task).__mro__ if "run" in c.__dict__}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in runs:
            there = frame.f_locals
            if there.get("self") is task and "batch_x" in there:
                return InFlight(task, there["batch_x"], there["batch_y"], there["batch_idx"])
        frame = frame.f_back
    return None


def frames_of(error: BaseException) -> list[FrameType]:
    """The frames that an error came through, the outermost first."""
    frames: list[FrameType] = []
    link: TracebackType | None = error.__traceback__
    while link is not None:
        frames.append(link.tb_frame)
        link = link.tb_next
    return frames


def let_go(error: BaseException | None) -> None:
    """Free what an error that is dealt with holds on to: the variables of the calls that it ended."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for frame in frames_of(error):
            try:
                frame.clear()
            except RuntimeError:  # it is still running
                continue
            frame.f_locals  # noqa: B018 - of variables that were looked at there is a copy, which this brings up to date
        error = error.__context__
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
