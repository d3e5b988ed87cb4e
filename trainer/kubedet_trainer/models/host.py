"""What the host may know or send without a wait for the device, which on a GPU lags behind it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def counts_are_free(device: torch.device) -> bool:
    """Whether the host may look at values on `device`: on a GPU it would wait for all that it has begun."""
    return device.type == "cpu"


@lru_cache(maxsize=256)
def constant(
    values: tuple[float, ...], device: torch.device, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """`values` as (N,) of `dtype`, copied to `device` once. Callers share the tensor: never write to it."""
    return torch.tensor(values, dtype=dtype, device=device)
