"""How much memory a rank takes: on a GPU as the caching allocator counts it, on a CPU as the kernel does."""

from __future__ import annotations

import resource
import sys

import torch
from torch import nn

from kubedet_trainer.config.published import MemoryKind

GPU_KINDS = ("allocated", "reserved", "peak_allocated", "peak_reserved", "capacity")
"""The keys of `gpu_bytes`, and the values of the metric's label."""


def gpu_bytes(device: torch.device) -> dict[str, int]:
    """Bytes of each of `GPU_KINDS` on a CUDA device. It asks the allocator and never waits for the device."""
    return {
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "peak_allocated": torch.cuda.max_memory_allocated(device),
        "peak_reserved": torch.cuda.max_memory_reserved(device),
        "capacity": torch.cuda.get_device_properties(device).total_memory,
    }


def peak_kind(device: torch.device, *, kind: MemoryKind) -> str:
    """What `peak_bytes` measures on `device`, for `Results.hardware["memoryKind"]`."""
    return f"gpu_peak_{kind}" if device.type == "cuda" else "process_peak_resident"


def peak_bytes(device: torch.device, *, kind: MemoryKind = "reserved") -> int:
    """The most memory that this process has held so far, as in the zoo's memory column (`docs/zoo.md`, 10).

    On a GPU it is the peak of this `kind`; most of the zoo's tables have the reserved peak. On a CPU it is
    the peak resident set of this process, without its loader processes.
    """
    if device.type == "cuda":
        return gpu_bytes(device)[f"peak_{kind}"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of a model's weights and buffers, of their gradients, and of what the optimiser keeps.

    Without gradients at the moment as much as they take.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return {
        "weights": sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())),
        "gradients": sum(parameter.nbytes for parameter in trained),
        "optimizer": sum(tensor.nbytes for tensor in kept),
    }


def forget_peak(device: torch.device) -> None:
    """Let `peak_bytes` count from now on, on a GPU; the kernel never forgets the peak of a process.

    What the allocator keeps of work that is over would count as reserved, so it is given back.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
