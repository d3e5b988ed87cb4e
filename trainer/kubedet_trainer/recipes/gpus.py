"""What GPUs can do at best, by NVIDIA's data sheets: arithmetic, traffic and size of their memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kubedet_trainer.config.recipe import Precision
from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU."""

    name: str
    memory_gb: float
    """GB of 10^9 bytes, as a data sheet counts them."""
    terabytes_per_second: float
    """Between the chip and its memory."""
    teraflops: Mapping[Precision, float]
    """By precision, without sparsity; without tf32 and bf16 where it has neither."""
    source: str

    def flops_per_second(self, precision: Precision) -> float:
        """At most; what it lacks it computes as float32."""
        return 1e12 * self.teraflops.get(precision, self.teraflops["fp32"])

    @property
    def bytes_per_second(self) -> float:
        """At most, read and written together."""
        return 1e12 * self.terabytes_per_second

    @property
    def memory_bytes(self) -> int:
        """What a process may use at most."""
        return int(self.memory_gb * 10**9)


GPUS = {
    "v100": Gpu(
        name="V100",
        memory_gb=32,
        terabytes_per_second=0.9,
        teraflops={"fp32": 15.7, "fp16": 125},
        source="NVIDIA V100 Tensor Core GPU data sheet, January 2020: V100 SXM2 32 GB",
    ),
    "a100": Gpu(
        name="A100",
        memory_gb=80,
        terabytes_per_second=2.039,
        teraflops={"fp32": 19.5, "tf32": 156, "bf16": 312, "fp16": 312},
        source="NVIDIA A100 Tensor Core GPU data sheet, June 2021: A100 80 GB SXM",
    ),
    "h100": Gpu(
        name="H100",
        memory_gb=80,
        terabytes_per_second=3.35,
        teraflops={"fp32": 67, "tf32": 494.5, "bf16": 989.5, "fp16": 989.5},
        source="NVIDIA H100 Tensor Core GPU data sheet, 2023: H100 SXM; half of the figures with sparsity",
    ),
    "h200": Gpu(
        name="H200",
        memory_gb=141,
        terabytes_per_second=4.8,
        teraflops={"fp32": 67, "tf32": 494.5, "bf16": 989.5, "fp16": 989.5},
        source="NVIDIA H200 Tensor Core GPU data sheet, 2024: H200 SXM; half of the figures with sparsity",
    ),
    "b200": Gpu(
        name="B200",
        memory_gb=180,
        terabytes_per_second=7.7,
        teraflops={"fp32": 75, "tf32": 1125, "bf16": 2250, "fp16": 2250},
        source="NVIDIA HGX data sheet, 2025: an eighth of HGX B200; half of the figures with sparsity",
    ),
}
"""By the names that `kubedet estimate --gpu` takes."""


def find_gpu(name: str) -> Gpu:
    """The GPU called `name`, in any case.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    if (gpu := GPUS.get(name.lower())) is None:
        near = did_you_mean(name.lower(), GPUS)
        raise UsageError(f"--gpu: got '{name}', must be one of {', '.join(GPUS)}.{near}")
    return gpu
