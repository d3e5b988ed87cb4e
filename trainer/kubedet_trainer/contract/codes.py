"""How a worker ends, and whom a failure is charged to."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class FailureClass(StrEnum):
    """Class that a failure is charged to. Each class has its own limit in the operator."""

    PERMANENT = "Permanent"
    APPLICATION = "Application"
    INFRASTRUCTURE = "Infrastructure"
    PEER = "Peer"


class ExitCode(IntEnum):
    """Exit code of a worker's PID 1. Up to 127 a retry is pointless; from 128 on it may help."""

    DONE = 0
    """The final checkpoint and the results are durable."""
    UNEXPECTED = 1
    """An unknown error. Its traceback is in the log."""
    USAGE = 2
    """The command or its environment is wrong."""
    INVALID_INPUT = 65
    """The recipe, an override or the data set breaks a rule."""
    MISSING_INPUT = 66
    """A data set, a file or weights do not exist at the given location."""
    CREDENTIALS_REFUSED = 77
    """The object store refused the credentials."""
    NO_RESTART = 93
    """The program asks not to be restarted."""
    OUT_OF_GPU_MEMORY = 95
    """A GPU has less memory than the training needs."""
    LOSS_NOT_FINITE = 96
    """A term of the loss became NaN or infinite."""
    ABORTED = 134
    """A process aborted (SIGABRT)."""
    KILLED = 137
    """A process was killed (SIGKILL). The reason is `OOMKilled` if the container was out of memory."""
    CRASHED = 139
    """A process crashed (SIGSEGV)."""
    TERMINATED_SAVED = 143
    """The worker was stopped (SIGTERM) and saved its state."""
    TERMINATED_UNSAVED = 144
    """The worker was stopped (SIGTERM) before it could save its state."""
    RENDEZVOUS_LOST = 150
    """The rendezvous store does not answer."""
    PEER_FAILED = 151
    """Another worker failed; this one is not at fault."""
    HANG = 152
    """A rank made no progress for longer than `spec.failurePolicy` allows."""
    GPU_HARDWARE = 153
    """A GPU is broken (Xid, ECC, NVLink). Its node is excluded."""
    STORAGE_UNREACHABLE = 154
    """The object store did not answer, despite retries."""


_CLASSES: dict[int, FailureClass] = {
    ExitCode.TERMINATED_SAVED: FailureClass.INFRASTRUCTURE,
    ExitCode.TERMINATED_UNSAVED: FailureClass.INFRASTRUCTURE,
    ExitCode.RENDEZVOUS_LOST: FailureClass.INFRASTRUCTURE,
    ExitCode.GPU_HARDWARE: FailureClass.INFRASTRUCTURE,
    ExitCode.STORAGE_UNREACHABLE: FailureClass.INFRASTRUCTURE,
    ExitCode.PEER_FAILED: FailureClass.PEER,
}


def failure_class(exit_code: int) -> FailureClass:
    """The class that a non-zero exit code of a worker is charged to.

    Codes outside the table follow PyTorchJob's convention: up to 127 Permanent, above that Application.
    """
    if exit_code < 128:
        return FailureClass.PERMANENT
    return _CLASSES.get(exit_code, FailureClass.APPLICATION)
