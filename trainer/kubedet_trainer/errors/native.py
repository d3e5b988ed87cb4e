"""What CUDA and its libraries say when they fail, and what that means for a run: a table, read from the top.

Their errors reach Python as a `RuntimeError`, or only standard error, if a thread of theirs aborts the
process; the text is all there is. Sources: `cudaGetErrorString` and the headers of CUDA, cuBLAS, cuDNN and
NCCL; c10d's ``ProcessGroupNCCL.cpp``; gloo's ``transport/tcp``. It needs no torch, because PID 1 reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kubedet_trainer.contract import ExitCode


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a message means."""

    exit_code: ExitCode
    meaning: str
    """What happened, for a person."""
    remedy: str = ""
    """What to change; empty where a retry or another node is the remedy."""

    def explain(self, text: str) -> str:
        """The error message for this verdict on `text`, with the first of its lines that means anything.

        That is mostly the first one, but not of an error that a thread of a loader handed on.
        """
        lines = text.strip().splitlines() or [""]
        said = next((line.strip() for line in lines if judge(line) is not None), lines[0])
        return f"{self.meaning}: {said}" + (f"; {self.remedy}" if self.remedy else "")


_OUT_OF_MEMORY = Verdict(
    exit_code=ExitCode.OUT_OF_GPU_MEMORY,
    meaning="out of GPU memory",
    remedy="lower data.images_per_process or set it to auto: accumulation keeps the global batch; or lower "
    "data.scale",
)
_BROKEN = Verdict(exit_code=ExitCode.GPU_HARDWARE, meaning="a GPU is broken")
_BROKEN_NODE = Verdict(exit_code=ExitCode.GPU_HARDWARE, meaning="the GPU driver of the node is broken")
_PEER = Verdict(exit_code=ExitCode.PEER_FAILED, meaning="another rank went away")
_HANG = Verdict(exit_code=ExitCode.HANG, meaning="the GPU does not answer")
_OLD_DRIVER = Verdict(
    exit_code=ExitCode.INVALID_INPUT,
    meaning="the GPU driver of the node is too old for this image",
    remedy="update the driver, choose other nodes with nodeSelector, or build the image for CUDA 12 "
    "(docs/gpus/nodes.md)",
)
_WRONG_GPU = Verdict(
    exit_code=ExitCode.INVALID_INPUT,
    meaning="this image's torch has no kernels for the GPU",
    remedy="choose other nodes with nodeSelector, or build the image for CUDA 12 (docs/gpus/nodes.md)",
)
_WRONG_LIBRARIES = Verdict(
    exit_code=ExitCode.INVALID_INPUT,
    meaning="the image's CUDA libraries do not fit together",
    remedy="use torch's own, and set no LD_LIBRARY_PATH",
)
_WRONG_RANKS = Verdict(
    exit_code=ExitCode.INVALID_INPUT,
    meaning="the ranks do not fit the GPUs",
    remedy="spec.worker.procsPerReplica must not be above spec.worker.gpus",
)
_SHARED_MEMORY = Verdict(
    exit_code=ExitCode.INVALID_INPUT,
    meaning="NCCL has too little shared memory",
    remedy="raise spec.worker.sharedMemory",
)
_NOT_DETERMINISTIC = Verdict(
    exit_code=ExitCode.INVALID_INPUT,
    meaning="an operation of this detector has no deterministic form on GPUs",
    remedy="set deterministic to false",
)
_BUG = Verdict(
    exit_code=ExitCode.UNEXPECTED,
    meaning="a kernel was called with what it cannot take",
    remedy="run with CUDA_LAUNCH_BLOCKING=1 to see where",
)
_RETRY = Verdict(exit_code=ExitCode.ABORTED, meaning="the GPU or one of its libraries failed")

_TABLE: tuple[tuple[str, Verdict], ...] = (
    (r"CUDA (ran )?out of memory|CUDA( driver)? (error|failure).{0,20}out of memory", _OUT_OF_MEMORY),
    (r"CU(DNN|BLAS|BLASLT|SOLVER)_STATUS_\w*ALLOC\w*_FAILED|CUDA calloc", _OUT_OF_MEMORY),
    (r"OOM trying to allocate workspace|would exceed allowed memory", _OUT_OF_MEMORY),
    (r"uncorrectable (ECC|NVLink) error|GPU is lost|fallen off the bus", _BROKEN),
    (r"Error 803|unsupported display driver|Driver/library version mismatch", _BROKEN_NODE),
    (r"driver on your system is too old|driver version is insufficient", _OLD_DRIVER),
    (r"not supported in the installed CUDA driver", _OLD_DRIVER),
    (r"Error 804|forward compatibility was attempted", _OLD_DRIVER),
    (r"no kernel image is available|PTX was compiled with an unsupported toolchain", _WRONG_GPU),
    (r"device kernel image is invalid|invalid device function|\w+_STATUS_ARCH_MISMATCH", _WRONG_GPU),
    (r"cuDNN version incompatibility|CUDNN_STATUS_\w*VERSION_MISMATCH", _WRONG_LIBRARIES),
    (r"Duplicate GPU detected|invalid device ordinal", _WRONG_RANKS),
    (r"shared memory segment|/dev/shm/nccl", _SHARED_MEMORY),
    (r"does not have a deterministic implementation", _NOT_DETERMINISTIC),
    (r"device-side assert triggered|ncclInvalid(Usage|Argument)", _BUG),
    (r"CUDA error: invalid (argument|configuration argument|resource handle)", _BUG),
    (r"Error 802|system not yet initialized", _RETRY),
    (r"CUDA error|CUDA driver error|Cuda failure|Unexpected error from cuda", _RETRY),
    (r"watchdog got stuck|watchdog hang", _HANG),
    (r"remote process exited|ncclRemoteError|collective operation timeout|collective timeout", _PEER),
    (r"NCCL communicator (was aborted|encountered error)|nccl.*(peer|connection|timed? ?out)", _PEER),
    (r"gloo/|connection (was )?(closed|reset|refused|aborted)|broken pipe", _PEER),
    (r"socket (closed|timeout|error)", _PEER),
    (r"CU(DNN|BLAS|BLASLT|SOLVER)_STATUS_(NOT_INITIALIZED|\w*(EXECUTION|INTERNAL|MAPPING)\w*)", _RETRY),
    (r"nccl(SystemError|InternalError|UnhandledCudaError)|NCCL error", _RETRY),
)
_PATTERNS = tuple((re.compile(pattern, re.IGNORECASE | re.DOTALL), verdict) for pattern, verdict in _TABLE)

_STACK = re.compile(
    r"^(Exception raised from|frame #\d|Fatal Python error|Thread 0x|Current thread)", re.MULTILINE
)
"""Where stacks begin: names of functions and files in them mean nothing."""

_ABORT = re.compile(r"terminate called after throwing|thread terminated with exception|watchdog got stuck")


def judge(text: str) -> Verdict | None:
    """What `text` means by the first row that fits it; None where it is not of these libraries."""
    said = _STACK.split(text, maxsplit=1)[0]
    return next((verdict for pattern, verdict in _PATTERNS if pattern.search(said)), None)


def judge_abort(output: str) -> tuple[Verdict, str] | None:
    """Why a thread of a library aborted a process, and the line that says so; None if none did.

    Args:
        output: the end of its standard error. Stacks of many lines follow the reason.
    """
    if (found := _ABORT.search(output)) is None:
        return None
    said = output[found.start() :]
    if (verdict := judge(said)) is None:
        return None
    return verdict, next((line for line in said.splitlines() if judge(line) is verdict), said).strip()
