"""The device of a rank: whether it is there, whether this torch can use it, and how exactly it computes."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kubedet_trainer.config import Recipe
from kubedet_trainer.config.recipe import Precision
from kubedet_trainer.errors import GpuBroken, InvalidInput, native

_FIRST_WITH_TF32 = (8, 0)
"""Compute capability of the first GPUs that have TF32, those of 2020 (A100)."""

AUTOCAST: dict[Precision, torch.dtype | None] = {
    "fp32": None,
    "tf32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""By a recipe's precision, what its forward pass computes in where that is exact enough; None: in float32."""

_DEVICES = Path("/dev")
_DRIVER = Path("/proc/driver/nvidia/version")
_GIVEN = "NVIDIA_VISIBLE_DEVICES"
"""What NVIDIA's device plugin sets in a container that it gives GPUs to."""

_backends: Any = torch.backends
_utils: Any = torch.utils
"""Both have attributes that torch declares at run time only."""

_log = logging.getLogger(__name__)


def open_device(*, gpus: int, local_rank: int) -> torch.device:
    """The device of this rank, the present one from now on.

    Args:
        gpus: GPUs of this replica; 0 trains on the CPU.
        local_rank: the number of this rank within its replica.

    Raises:
        InvalidInput: there are fewer GPUs than asked for, or this torch does not know their kind.
        GpuBroken: this container was given GPUs, and CUDA sees none of them.
        RuntimeError: CUDA cannot start, for a reason in the table of `errors.native`.
    """
    if not gpus:
        return torch.device("cpu")
    seen, why = _count_gpus()
    if seen == 0 and _is_given_gpus():
        raise GpuBroken(f"this pod was given GPUs, but CUDA sees none: {why}; check the driver of the node")
    if seen <= local_rank:
        raise InvalidInput(
            f"spec.worker.gpus: got {gpus}, but CUDA sees {seen} device(s); check the driver, "
            f"gpuResource, and that procsPerReplica is not above gpus{f' ({why})' if why else ''}"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    require_kernels(
        torch.cuda.get_device_name(device),
        capability=torch.cuda.get_device_capability(device),
        architectures=torch.cuda.get_arch_list(),
    )
    return device


def _count_gpus() -> tuple[int, str]:
    """How many GPUs CUDA sees, and why none, if it says so."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        # An AssertionError comes from a torch without CUDA; the last one is no RuntimeError.
        if native.judge(str(error)) is not None:
            raise RuntimeError(str(error)) from error
        return 0, str(error).strip().partition("\n")[0]
    return torch.cuda.device_count(), ""


def _is_given_gpus() -> bool:
    """Whether this container has GPUs by its own account, whatever CUDA sees."""
    named = os.environ.get(_GIVEN, "")
    return named not in ("", "none", "void") or any(_DEVICES.glob("nvidia[0-9]*"))


def require_kernels(name: str, *, capability: tuple[int, int], architectures: Sequence[str]) -> None:
    """Log what the GPU called `name` is, and refuse one that torch was not built for.

    Args:
        name: of the GPU.
        capability: its compute capability, major and minor.
        architectures: what torch has kernels for: ``sm_90`` runs on 9.0 and later minors, ``compute_90`` on
            9.0 and all later ones (CUDA C++ Programming Guide, "Binary Compatibility", "PTX Compatibility").

    Raises:
        InvalidInput: none of `architectures` runs on it.
    """
    has = f"{capability[0]}.{capability[1]}"
    built = f"torch {torch.__version__} has kernels for {' '.join(architectures)}"
    _log.info("%s: compute capability %s, driver %s; %s", name, has, driver_version(), built)
    if architectures and not any(_runs_on(architecture, capability) for architecture in architectures):
        raise InvalidInput(
            f"spec.worker.gpus: got a {name} of compute capability {has}, but {built}; choose other nodes "
            "with nodeSelector, or build the image for CUDA 12 (docs/gpus/nodes.md)"
        )


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)", architecture)) is None:
        return False  # sm_90a and its like add to sm_90, which torch has, too
    built_for = (int(match[2]), int(match[3]))
    return built_for <= capability and (match[1] == "compute" or built_for[0] == capability[0])


def driver_version() -> str:
    """The version of NVIDIA's driver, such as ``580.65.06``; ``unknown`` where the kernel does not say."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", _DRIVER.read_text())
    except OSError:
        found = None
    return found[1] if found else "unknown"


def set_arithmetic(recipe: Recipe, *, device: torch.device) -> None:
    """Have `device` multiply as the recipe says, in this whole process.

    CPUs multiply float32 exactly whatever the recipe says.
    """
    has_tf32 = effective_precision(recipe.precision, device=device) == "tf32"
    # torch keeps older settings next to these, and what reads the older ones raises where the two differ:
    # inductor does, in torch 2.9 and later (https://github.com/pytorch/pytorch/issues/166387).
    torch.set_float32_matmul_precision("high" if has_tf32 else "highest")
    _backends.cudnn.allow_tf32 = has_tf32
    for products in (torch.backends.cuda.matmul, _backends.cudnn.conv, _backends.cudnn.rnn):
        products.fp32_precision = "tf32" if has_tf32 else "ieee"
    if torch.are_deterministic_algorithms_enabled() != recipe.deterministic:
        # cuBLAS is deterministic only with workspaces of its own, and reads this when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        _utils.deterministic.fill_uninitialized_memory = False  # nothing here reads any
        torch.use_deterministic_algorithms(recipe.deterministic)


def effective_precision(precision: Precision, *, device: torch.device) -> Precision:
    """What a recipe's `precision` means on `device`: without TF32 that is float32."""
    if precision != "tf32":
        return precision
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FIRST_WITH_TF32
    return "tf32" if has_tf32 else "fp32"
