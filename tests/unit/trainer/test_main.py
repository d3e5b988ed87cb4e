"""What an exception of a rank means for its exit code."""

from __future__ import annotations

import pytest
import torch

from kubedet_trainer.__main__ import describe
from kubedet_trainer.contract import ExitCode
from kubedet_trainer.errors import InvalidInput, PeerFailed, StorageUnreachable


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (InvalidInput("x: got 1, must be 2"), ExitCode.INVALID_INPUT, "InvalidInput"),
        (PeerFailed("gone"), ExitCode.PEER_FAILED, "PeerFailed"),
        (StorageUnreachable("gone"), ExitCode.STORAGE_UNREACHABLE, "StorageUnreachable"),
        (torch.OutOfMemoryError("CUDA out of memory."), ExitCode.OUT_OF_GPU_MEMORY, "OutOfMemoryError"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            ExitCode.KILLED,
            "RuntimeError",
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
            ExitCode.KILLED,
            "RuntimeError",
        ),
        (
            RuntimeError("CUDA error: uncorrectable ECC error encountered"),
            ExitCode.GPU_HARDWARE,
            "RuntimeError",
        ),
        (RuntimeError("shape mismatch"), ExitCode.UNEXPECTED, "RuntimeError"),
        (KeyError("name"), ExitCode.UNEXPECTED, "KeyError"),
    ],
)
def test_an_error_has_its_code(error: Exception, code: ExitCode, reason: str) -> None:
    failure = describe(error)
    assert (failure.exitCode, failure.reason) == (code, reason)


def test_a_failure_carries_message_and_end_of_the_traceback() -> None:
    try:
        raise ValueError("the cause")
    except ValueError as error:
        failure = describe(error)
    assert failure.message == "the cause"
    assert failure.lastLines[-1] == "ValueError: the cause"
    assert any("test_main.py" in line for line in failure.lastLines)


def test_the_message_of_a_users_error_is_all_that_there_is_to_say() -> None:
    try:
        raise InvalidInput("x: got 1, must be 2")
    except InvalidInput as error:
        failure = describe(error)
    assert failure.message == "x: got 1, must be 2"
    assert failure.lastLines == []


def test_running_out_of_gpu_memory_says_what_to_change() -> None:
    assert "lower data.images_per_process" in describe(torch.OutOfMemoryError("CUDA out of memory.")).message
