"""Batches on their way to a GPU while it computes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sae.shapes import Rows


class Coming(NamedTuple):
    """A batch that was asked for."""

    wait: Callable[[], Tensor | None]
    """Gives it, to be used by the current stream; None where there is none, an error where reading it failed."""
    copied: bool
    """Whether it is under way, or was on the device already."""


def uploaded(batches: Iterator[Rows], device: torch.device) -> Iterator[Rows]:
    """`batches` on `device`. Each is read and copied while the one before it is used, on a stream of its own that whoever uses
    the batch waits for on the device; from page-locked memory the host waits for nothing. Batches that lie on `device` are
    handed on, and not read ahead. An error of `batches` is raised where its batch is asked for."""
    device = torch.device(device.type, torch.cuda.current_device() if device.index is None else device.index)
    stream = torch.cuda.Stream(device)
    now = _begun(batches, device, stream)
    while (batch := now.wait()) is not None:
        coming = _begun(batches, device, stream) if now.copied else None
        yield batch
        now = coming or _begun(batches, device, stream)


def _begun(batches: Iterator[Rows], device: torch.device, stream: "torch.cuda.Stream") -> Coming:
    """Read the next batch and start its copy."""
    try:
        batch = next(batches, None)
    except Exception as error:
        return Coming(_raising(error), copied=False)
    if batch is None or batch.device == device:
        return Coming(lambda: batch, copied=False)
    with torch.cuda.stream(stream):
        there = batch.to(device, non_blocking=True)
        done = stream.record_event()

    def wait() -> Tensor:
        user = torch.cuda.current_stream(device)
        user.wait_event(done)
        there.record_stream(user)  # its memory is not taken again while this stream still reads it
        return there

    return Coming(wait, copied=True)


def _raising(error: Exception) -> Callable[[], Tensor | None]:
    def wait() -> Tensor | None:
        raise error

    return wait
