"""The messages of CUDA, cuDNN, cuBLAS, NCCL, gloo and the driver, and what each means for a run."""

from __future__ import annotations

import pytest

from kubedet_trainer.__main__ import describe
from kubedet_trainer.contract import ExitCode
from kubedet_trainer.errors import native

_CUDA_HINT = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below "
    "might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."
)
_SEARCH = (
    "\nSearch for `{}' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more "
    "information."
)
_COUNT = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
    "NumCudaDevices() that might have already set an error? Error "
)
_NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, "
_OPS = "/pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, "

MESSAGES: dict[ExitCode, tuple[str, ...]] = {
    # A retry may help.
    ExitCode.ABORTED: (
        "CUDA error: unspecified launch failure" + _CUDA_HINT,
        "CUDA error: an illegal memory access was encountered" + _CUDA_HINT,
        "CUDA error: an illegal memory access was encountered"
        + _SEARCH.format("cudaErrorIllegalAddress")
        + _CUDA_HINT,
        "CUDA error: an illegal instruction was encountered" + _CUDA_HINT,
        "CUDA error: misaligned address" + _CUDA_HINT,
        "CUDA error: the launch timed out and was terminated" + _CUDA_HINT,
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable" + _CUDA_HINT,
        "CUDA error: initialization error" + _CUDA_HINT,
        "CUDA error: unknown error" + _CUDA_HINT,
        "CUDA driver error: unknown error",
        _COUNT + "802: system not yet initialized",
        "CUDA error: system not yet initialized" + _CUDA_HINT,
        _COUNT + "2: initialization error",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "cuDNN error: CUDNN_STATUS_MAPPING_ERROR",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasLtMatmul(...)`",
        _NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.30.7\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\n"
        "Last error:\nCuda failure 700 'an illegal memory access was encountered'",
        _NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.30.7\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
        "Cuda failure 226 'Invalid access of peer GPU memory over nvlink or a hardware error'",
        _NCCL + "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.30.7\n"
        "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.",
        _NCCL + "internal error - please report this issue to the NCCL developers, NCCL version 2.30.7\n"
        "ncclInternalError: Internal check failed.",
    ),
    # The GPU or its node is broken.
    ExitCode.GPU_HARDWARE: (
        "CUDA error: uncorrectable ECC error encountered" + _CUDA_HINT,
        "CUDA error: uncorrectable NVLink error detected during the execution" + _CUDA_HINT,
        "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost. Reboot the system to "
        "recover this GPU",
        "GPU 0000:3B:00.0 has fallen off the bus",
        _COUNT + "803: system has unsupported display driver / cuda driver combination",
        "Failed to initialize NVML: Driver/library version mismatch",
        _NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.30.7\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\n"
        "Last error:\nCuda failure 214 'uncorrectable ECC error encountered'",
    ),
    ExitCode.OUT_OF_GPU_MEMORY: (
        "CUDA out of memory. Tried to allocate 392.00 MiB. GPU 0 has a total capacity of 15.77 GiB of which "
        "151.88 MiB is free. Including non-PyTorch memory, this process has 15.62 GiB memory in use.",
        "CUDA error: out of memory" + _CUDA_HINT,
        "CUDA error: out of memory" + _SEARCH.format("cudaErrorMemoryAllocation") + _CUDA_HINT,
        "CUDA driver error: out of memory",
        "CUDA ran out of memory outside PyTorch's allocator. If this workload uses many dynamic shapes, "
        "cuDNN may need additional device memory to JIT-compile shape-specialized kernels.",
        "OOM trying to allocate workspace for cublaslt",
        "Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated : 14.9 GiB",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        _NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.30.7\n"
        "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'",
        _NCCL + "unhandled cuda error, NCCL version 2.30.7\nLast error:\n"
        "Failed to CUDA calloc async 608 bytes",
    ),
    # The user's or the administrator's to change.
    ExitCode.INVALID_INPUT: (
        "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by "
        "downloading and installing a new version",
        "CUDA error: CUDA driver version is insufficient for CUDA runtime version" + _CUDA_HINT,
        "CUDA error: API call is not supported in the installed CUDA driver" + _CUDA_HINT,
        _COUNT + "804: forward compatibility was attempted on non supported HW",
        "CUDA error: no kernel image is available for execution on the device" + _CUDA_HINT,
        "CUDA error: the provided PTX was compiled with an unsupported toolchain." + _CUDA_HINT,
        "CUDA error: invalid device function" + _CUDA_HINT,
        "cuDNN error: CUDNN_STATUS_ARCH_MISMATCH",
        "cuDNN version incompatibility: PyTorch was compiled against (9, 24, 0) but found runtime version "
        "(9, 10, 2).",
        "CUDA error: invalid device ordinal" + _CUDA_HINT,
        _NCCL + "invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.30.7\n"
        "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\n"
        "Last error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 1b000",
        _NCCL + "unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.30.7\n"
        "ncclSystemError: System call (e.g. socket, malloc) or external library call failed.\n"
        "Last error:\nError while creating shared memory segment /dev/shm/nccl-Zs2xXv (size 9637888)",
        "compute_grad_input does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'.",
    ),
    ExitCode.UNEXPECTED: (
        "CUDA error: device-side assert triggered" + _CUDA_HINT,
        "CUDA error: invalid configuration argument" + _CUDA_HINT,
        _NCCL + "invalid argument (run with NCCL_DEBUG=WARN for details), NCCL version 2.30.7\n"
        "ncclInvalidArgument: Invalid value for an argument.",
        "shape '[2, 3]' is invalid for input of size 5",
        "cuDNN error: CUDNN_STATUS_BAD_PARAM",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
    ),
    ExitCode.PEER_FAILED: (
        "NCCL error in: " + _OPS + "remote process exited or there was a network error, NCCL version 2.30.7\n"
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting "
        "prematurely.\nLast error:\nsocketProgress: Connection closed by remote peer worker-1<43210>",
        "NCCL error in: " + _OPS + "remote process exited or there was a network error, NCCL version 2.30.7\n"
        "Last error:\nNET/IB : Got completion from peer 10.0.0.7<39138> with error 12, opcode 0, len 0",
        "NCCL communicator was aborted on rank 3.",
        "NCCL communicator encountered error set by ProcessGroupNCCL: the watchdog has aborted it",
        "[Rank 6] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=199, OpType=ALLREDUCE, "
        "NumelIn=7098994, Timeout(ms)=600000) ran for 600012 milliseconds before timing out.",
        "[/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:12345",
        "Broken pipe",
    ),
    ExitCode.HANG: (
        "ProcessGroupNCCL's watchdog got stuck for 480 seconds without making progress in monitoring "
        "enqueued collectives. This typically indicates a NCCL/CUDA API (e.g., CudaEventDestroy) hang "
        "blocking the watchdog, and could be triggered by another thread holding the GIL inside a CUDA api, "
        "or other deadlock-prone behaviors.If you suspect the watchdog is not actually stuck and a longer "
        "timeout would help, you can either increase the timeout (TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC) to a "
        "larger value or disable the heartbeat monitor (TORCH_NCCL_ENABLE_MONITORING=0).",
    ),
}


@pytest.mark.parametrize(
    ("code", "message"), [(code, message) for code, messages in MESSAGES.items() for message in messages]
)
def test_a_message_ends_a_rank_with_the_code_of_its_cause(code: ExitCode, message: str) -> None:
    failure = describe(RuntimeError(message))
    assert failure.exitCode == code
    assert message.partition("\n")[0] in failure.message


def test_an_error_of_the_thread_that_pins_batches_is_told_by_what_cuda_said() -> None:
    failure = describe(
        RuntimeError(
            "Caught AcceleratorError in pin memory thread for device 0.\n"
            "Original Traceback (most recent call last):\n"
            '  File "/opt/venv/torch/utils/data/_utils/pin_memory.py", line 41, in do_one_step\n'
            "    data = pin_memory(data, device)\n"
            "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered\n"
        )
    )
    assert failure.exitCode == ExitCode.GPU_HARDWARE
    assert failure.message == (
        "a GPU is broken: torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered"
    )


def test_an_error_without_a_retry_says_what_to_change() -> None:
    for code in (ExitCode.OUT_OF_GPU_MEMORY, ExitCode.INVALID_INPUT):
        for message in MESSAGES[code]:
            verdict = native.judge(message)
            assert verdict is not None
            assert verdict.remedy, message


_STACK = "\n".join(
    f"frame #{number}: c10d::ProcessGroupNCCL::watchdogHandler() + 0x890" for number in range(60)
)
_THREADS = (
    "\nFatal Python error: Aborted\n\nThread 0x00007f1c2bfff640 (most recent call first):\n"
    '  File "/usr/lib/python3.11/multiprocessing/connection.py", line 948 in wait\n'
    '  File "/opt/venv/torch/utils/data/_utils/pin_memory.py", line 41 in do_one_step\n'
    + '  File "/opt/kubedet/loop.py", line 9 in _step\n'
    * 90
)
_WATCHDOG = "[PG ID 0 PG GUID 0(default_pg) Rank 3] Process group watchdog thread terminated with exception: "


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("NCCL error: remote process exited or there was a network error, NCCL version 2.30.7", 151),
        (
            "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=4, OpType=ALLREDUCE) ran "
            "for 600011 milliseconds before timing out.",
            151,
        ),
        ("CUDA error: an illegal memory access was encountered", 134),
        ("CUDA error: uncorrectable ECC error encountered", 153),
    ],
)
def test_the_reason_of_an_abort_is_found_before_its_stacks(reason: str, code: int) -> None:
    output = (
        "[rank3]: Broken pipe, which is old news\n"
        "terminate called after throwing an instance of 'c10::DistBackendError'\n"
        f"  what():  {_WATCHDOG}{reason}\nException raised from checkForNCCLErrors\n{_STACK}{_THREADS}"
    )
    found = native.judge_abort(output)
    assert found is not None
    verdict, line = found
    assert verdict.exit_code == code
    assert reason in line


@pytest.mark.parametrize("output", ["", "free(): invalid pointer\n", "corrupted double-linked list\n"])
def test_an_abort_without_such_a_reason_stays_an_abort(output: str) -> None:
    assert native.judge_abort(output) is None
