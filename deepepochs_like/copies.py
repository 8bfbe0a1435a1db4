"""Copies of batches to a GPU that overlap with its work."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

#: Up to so many bytes CUDA takes a copy from ordinary memory at once, without waiting for the work before it:
#: https://docs.nvidia.com/cuda/cuda-runtime-api/api-sync-behavior.html
AT_ONCE = 64 * 1024


@lru_cache(maxsize=64)
def copy_stream(device: torch.device) -> Any:
    """The stream of a device that batches are copied on, beside the one that it computes on."""
    return torch.cuda.Stream(device)


def can_overlap(tensor: Any, device: torch.device) -> bool:
    """Tell whether a copy of a tensor to a device is worth, and able, to overlap with what the device does."""
    return (
        device.type == "cuda"
        and type(tensor) is torch.Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and tensor.is_contiguous()  # torch would pin all that lies between its elements, and fails at expanded ones
        and not tensor.requires_grad
        and tensor.nbytes > AT_ONCE
        and not torch.cuda.is_current_stream_capturing()
    )


def send(tensor: Any, device: torch.device, cuda: Any = torch.cuda) -> Any:
    """Copy a tensor to a GPU while the GPU does what it has been told before.

    The host runs ahead of the device: it asks for the copy of a batch when the device still computes the step before.
    On the stream that computes, from ordinary memory, the copy would wait for that step, and the host for the copy.
    So it starts from pinned memory, on a stream of its own; what is computed from now on waits for it. No batch is
    asked for ahead of its time, so that order and generators are those of the loader.

    Args:
        tensor: in the computer's memory, of any shape and dtype; pinned or not.
        device: the GPU.
        cuda: what has the streams: `torch.cuda`.

    Returns:
        The copy, on `device`, for use on the current stream.
    """
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    computing, copying = cuda.current_stream(device), copy_stream(device)
    with cuda.stream(copying):
        copy = pinned.to(device, non_blocking=True)
    computing.wait_stream(copying)
    copy.record_stream(computing)  # else its memory could be given to the next copy while it is still computed with
    return copy
