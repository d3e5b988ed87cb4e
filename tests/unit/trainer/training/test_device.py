"""The device of a rank, on GPUs that do not exist here: what is refused, and how it computes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kubedet_trainer.__main__ import describe
from kubedet_trainer.config.recipe import Precision
from kubedet_trainer.contract import ExitCode
from kubedet_trainer.errors import GpuBroken, InvalidInput
from kubedet_trainer.recipes import RECIPES, read_recipe, smoke
from kubedet_trainer.training import device as devices

BACKENDS: Any = torch.backends

CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CUDA_12 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]

SeeGpus = Callable[..., None]


@pytest.fixture
def see_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SeeGpus:
    """A machine whose CUDA sees `count` GPUs, or fails to start with `error`; no device plugin gave any."""
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_DEVICES", tmp_path)

    def see(count: int = 0, *, error: str | None = None, capability: tuple[int, int] = (9, 0)) -> None:
        def init() -> None:
            if error is not None:
                raise RuntimeError(error)

        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CUDA_13)

    return see


def test_without_gpus_a_rank_computes_on_the_cpu() -> None:
    assert devices.open_device(gpus=0, local_rank=3) == torch.device("cpu")


def test_a_rank_takes_the_gpu_of_its_number(see_gpus: SeeGpus) -> None:
    see_gpus(8)
    assert devices.open_device(gpus=8, local_rank=5) == torch.device("cuda", 5)


def test_more_gpus_than_there_are_is_the_users_mistake(see_gpus: SeeGpus) -> None:
    see_gpus(2)
    with pytest.raises(InvalidInput, match=r"spec.worker.gpus: got 8, but CUDA sees 2 device"):
        devices.open_device(gpus=8, local_rank=2)


@pytest.mark.parametrize("error", ["Found no NVIDIA driver on your system.", "No CUDA GPUs are available"])
def test_gpus_that_nobody_gave_are_the_users_mistake(see_gpus: SeeGpus, error: str) -> None:
    see_gpus(error=error)
    with pytest.raises(InvalidInput, match=r"got 1, but CUDA sees 0 device\(s\); check the driver") as caught:
        devices.open_device(gpus=1, local_rank=0)
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("named", "file"), [("GPU-5f1c", None), ("all", None), (None, "nvidia0"), ("", "nvidia3")]
)
def test_gpus_that_were_given_and_are_not_seen_are_the_nodes_fault(
    see_gpus: SeeGpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str | None, file: str | None
) -> None:
    see_gpus(error="No CUDA GPUs are available")
    if named is not None:
        monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", named)
    if file is not None:
        (tmp_path / file).touch()
    with pytest.raises(GpuBroken, match="this pod was given GPUs, but CUDA sees none: No CUDA GPUs"):
        devices.open_device(gpus=1, local_rank=0)
    assert GpuBroken.exit_code == 153


def test_a_driver_that_cannot_start_speaks_for_itself(see_gpus: SeeGpus) -> None:
    see_gpus(error="The NVIDIA driver on your system is too old (found version 12040).")
    with pytest.raises(RuntimeError, match="is too old"):
        devices.open_device(gpus=1, local_rank=0)


def test_a_gpu_that_fails_at_its_first_call_is_judged_by_what_it_says(
    see_gpus: SeeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    see_gpus(8)
    said = "CUDA call failed lazily at initialization with error: CUDA error: uncorrectable ECC error"

    def init() -> None:
        raise torch.cuda.DeferredCudaCallError(said)

    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(RuntimeError, match="ECC") as caught:
        devices.open_device(gpus=8, local_rank=0)
    assert describe(caught.value).exitCode == ExitCode.GPU_HARDWARE


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((7, 5), CUDA_13, True),
        ((8, 9), CUDA_13, True),
        ((9, 0), CUDA_13, True),
        ((12, 1), CUDA_13, True),
        ((7, 0), CUDA_13, False),
        ((7, 0), CUDA_12, True),
        ((10, 0), CUDA_12, False),
        ((10, 0), ["sm_80", "compute_90"], True),
        ((8, 0), ["sm_86", "sm_90a"], False),
        ((8, 0), [], True),
    ],
)
def test_a_gpu_without_kernels_is_refused_and_every_gpu_named(
    caplog: pytest.LogCaptureFixture,
    capability: tuple[int, int],
    architectures: list[str],
    runs: bool,
) -> None:
    caplog.set_level(logging.INFO)
    refusal = nullcontext() if runs else pytest.raises(InvalidInput, match="build the image for CUDA 12")
    with refusal:
        devices.require_kernels("a GPU", capability=capability, architectures=architectures)
    assert f"a GPU: compute capability {capability[0]}.{capability[1]}, driver" in caplog.text


def test_the_driver_is_read_from_the_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "version"
    monkeypatch.setattr(devices, "_DRIVER", file)
    assert devices.driver_version() == "unknown"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\n"
        "GCC version:  gcc version 13.3.0\n"
    )
    assert devices.driver_version() == "580.65.06"


@pytest.fixture
def restored_arithmetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.get_float32_matmul_precision(), BACKENDS.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    BACKENDS.cudnn.allow_tf32 = before[1]  # that of convolutions, too
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("restored_arithmetic")
@pytest.mark.parametrize(
    ("precision", "capability", "multiplies", "row"),
    [
        ("tf32", (9, 0), "tf32", "tf32"),
        ("tf32", (8, 0), "tf32", "tf32"),
        ("tf32", (7, 5), "ieee", "fp32"),
        ("fp32", (9, 0), "ieee", "fp32"),
        ("bf16", (9, 0), "ieee", "bf16"),
        ("fp16", (7, 0), "ieee", "fp16"),
    ],
)
def test_products_and_convolutions_are_as_exact_as_the_recipe_says(
    see_gpus: SeeGpus, precision: Precision, capability: tuple[int, int], multiplies: str, row: str
) -> None:
    see_gpus(1, capability=capability)
    recipe = replace(smoke.smoke_faster_rcnn(), precision=precision)
    device = torch.device("cuda", 0)
    devices.set_arithmetic(recipe, device=device)
    assert BACKENDS.cuda.matmul.fp32_precision == multiplies
    assert BACKENDS.cudnn.conv.fp32_precision == multiplies
    assert devices.effective_precision(precision, device=device) == row
    # What inductor reads: it raises where these are not what the others are.
    assert torch.get_float32_matmul_precision() == ("high" if multiplies == "tf32" else "highest")
    assert BACKENDS.cuda.matmul.allow_tf32 is BACKENDS.cudnn.allow_tf32 is (multiplies == "tf32")
    with BACKENDS.cudnn.flags(enabled=True):
        pass


def test_on_a_cpu_tf32_is_fp32() -> None:
    assert devices.effective_precision("tf32", device=torch.device("cpu")) == "fp32"
    assert {read_recipe(name).precision for name in RECIPES} == {"tf32"}


@pytest.mark.usefixtures("restored_arithmetic")
def test_only_a_deterministic_recipe_asks_for_deterministic_algorithms() -> None:
    recipe, cpu = smoke.smoke_faster_rcnn(), torch.device("cpu")
    for wanted in (True, False):
        devices.set_arithmetic(replace(recipe, deterministic=wanted), device=cpu)
        assert torch.are_deterministic_algorithms_enabled() is wanted
