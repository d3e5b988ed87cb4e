"""How much memory a rank takes: of its GPU as the caching allocator counts it, else of the machine."""

from __future__ import annotations

import resource
import sys
from typing import Literal

import torch

GPU_KINDS = ("allocated", "reserved", "peak_allocated", "peak_reserved", "capacity")
"""What `gpu_bytes` tells, and the values of the metric's label."""

Kind = Literal["reserved", "allocated"]
"""The peaks of the caching allocator. They cannot be compared: what is reserved may lie unused."""


def gpu_bytes(device: torch.device) -> dict[str, int]:
    """Bytes of each of `GPU_KINDS` on a CUDA device. Asks the allocator; never waits for the device."""
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak_allocated": torch.cuda.max_memory_allocated(device),
        "peak_reserved": torch.cuda.max_memory_reserved(device),
        "capacity": torch.cuda.get_device_properties(device).total_memory,
    }


def peak_kind(device: torch.device, *, kind: Kind) -> str:
    """What `peak_bytes` means there: `Results.hardware["memoryKind"]`."""
    return f"gpu_peak_{kind}" if device.type == "cuda" else "process_peak_resident"


def peak_bytes(device: torch.device, *, kind: Kind = "reserved") -> int:
    """The most memory this process has held so far: what the zoo's memory column counts (`docs/zoo.md`, 10).

    On a GPU that is the peak of this `kind`, most of its tables have the reserved one; on a CPU the process's
    peak resident set, its loader workers not included.
    """
    if device.type == "cuda":
        return gpu_bytes(device)[f"peak_{kind}"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
