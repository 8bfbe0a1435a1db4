"""Copies to a GPU: what is asked of CUDA, and in which order. There need be no GPU: it is a stand-in that notes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from deepepochs_like import copies, tensors
from deepepochs_like.copies import AT_ONCE, can_overlap, send
from deepepochs_like.tensors import to_device

GPU = torch.device("cuda", 0)
LARGE = AT_ONCE // 4 + 1


class Notes(list[str]):
    """What was asked for."""


class Stream:
    def __init__(self, name: str, notes: Notes) -> None:
        self.name, self.notes = name, notes

    def wait_stream(self, other: Stream) -> None:
        self.notes.append(f"{self.name} waits for {other.name}")


class Cuda:
    """In the place of `torch.cuda`."""

    def __init__(self, notes: Notes) -> None:
        self.notes, self.computing = notes, Stream("computing", notes)

    def current_stream(self, device: torch.device) -> Stream:
        assert device == GPU
        return self.computing

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.notes.append(f"on {stream.name}")
        yield
        self.notes.append(f"off {stream.name}")


class Batch:
    """In the place of a tensor."""

    def __init__(self, notes: Notes, pinned: bool = False) -> None:
        self.notes, self.pinned = notes, pinned

    def is_pinned(self) -> bool:
        return self.pinned

    def pin_memory(self) -> Batch:
        self.notes.append("pin")
        return Batch(self.notes, pinned=True)

    def to(self, device: torch.device, non_blocking: bool) -> Batch:
        assert self.pinned
        assert device == GPU
        self.notes.append(f"copy, non_blocking={non_blocking}")
        return Batch(self.notes)

    def record_stream(self, stream: Stream) -> None:
        self.notes.append(f"used on {stream.name}")


@pytest.mark.parametrize("pinned", [False, True])
def test_a_copy_is_made_beside_the_stream_that_computes_which_then_waits_for_it(
    pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    monkeypatch.setattr(copies, "copy_stream", lambda device: Stream("copying", notes))
    send(Batch(notes, pinned), GPU, cuda=Cuda(notes))
    copied = ["on copying", "copy, non_blocking=True", "off copying"]
    assert notes == ["pin"] * (not pinned) + [*copied, "computing waits for copying", "used on computing"]


def test_only_what_gains_by_it_and_can_be_copied_so_is(monkeypatch: pytest.MonkeyPatch) -> None:
    capturing = False
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    large = torch.zeros(LARGE)
    assert can_overlap(large, GPU)
    assert not can_overlap(large, torch.device("cpu"))
    assert not can_overlap(large, torch.device("meta"))
    assert not can_overlap(large[:-1], GPU)  # CUDA takes it at once as it is
    assert not can_overlap(large.clone().requires_grad_(), GPU)
    assert not can_overlap(torch.nn.Parameter(large, requires_grad=False), GPU)
    assert not can_overlap(large.to_sparse(), GPU)
    assert not can_overlap(torch.zeros(LARGE, 2)[:, 0], GPU)
    assert not can_overlap(torch.zeros(LARGE, 1).expand(LARGE, 2), GPU)
    assert not can_overlap(large.to("meta"), GPU)
    capturing = True
    assert not can_overlap(large, GPU)


def test_large_tensors_overlap_wherever_they_are_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.Tensor] = []

    def note(tensor: torch.Tensor, device: torch.device) -> str:
        sent.append(tensor)
        return f"on {device}"

    monkeypatch.setattr(tensors, "send", note)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    batch = {"x": (torch.zeros(LARGE), [torch.ones(LARGE)]), "name": "a", "n": 3, "none": None}
    assert to_device(batch, GPU) == {"x": ("on cuda:0", ["on cuda:0"]), "name": "a", "n": 3, "none": None}
    assert [float(tensor[0]) for tensor in sent] == [0.0, 1.0]
