"""What the host may know or send without a wait for the device, which on a GPU lags behind it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def counts_are_free(device: torch.device) -> bool:
    """Whether the host may look at values on `device`: on a GPU it would wait for all that it has begun."""
    return device.type == "cpu"


@lru_cache(maxsize=1024)
def constant(
    values: tuple[float, ...], device: torch.device, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """`values` as (N,) of `dtype` on `device`. Callers share the tensor: never write to it.

    Batches come in hundreds of sizes, each with constants of its own. They are made on the device, value by
    value: a copy from the host would wait for all that the device has begun.
    """
    return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values])
