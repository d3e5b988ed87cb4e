"""What the host may know or send without a wait for the device, which on a GPU lags behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

_is_estimated = False


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """Within it detectors do on any device what they do on a GPU, with constants of their own."""
    global _is_estimated
    constant.cache_clear()
    _is_estimated = True
    try:
        yield
    finally:
        _is_estimated = False
        constant.cache_clear()


def counts_are_free(device: torch.device) -> bool:
    """Whether the host may look at values on `device`: on a GPU it would wait for all that it has begun."""
    return computes(device)


def computes(device: torch.device) -> bool:
    """Whether the host itself computes with what is on `device`, and should do so in its own way."""
    return device.type == "cpu" and not _is_estimated


@lru_cache(maxsize=1024)
def constant(
    values: tuple[float, ...], device: torch.device, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """`values` as (N,) of `dtype` on `device`. Callers share the tensor: never write to it.

    Batches come in hundreds of sizes, each with constants of its own. They are made on the device, value by
    value: a copy from the host would wait for all that the device has begun. An evaluation may be the first
    to ask for one; its inference mode would make tensors that no training step can use.
    """
    with torch.inference_mode(False):
        return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values])
