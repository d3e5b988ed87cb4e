"""What can end a run, each with the exit code of the contract; the message is one line for a person."""

from __future__ import annotations

from typing import ClassVar

from kubedet_trainer.contract import ExitCode


class TrainerError(Exception):
    """Base of every ending that is understood. `exit_code` is what the process ends with."""

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED

    def __init__(self, message: str) -> None:
        # What a library says may have several lines.
        super().__init__(" ".join(message.splitlines()))


class UsageError(TrainerError):
    """The command or its environment is wrong."""

    exit_code = ExitCode.USAGE


class InvalidInput(TrainerError):
    """The recipe, an override or the data breaks a rule."""

    exit_code = ExitCode.INVALID_INPUT


class MissingInput(TrainerError):
    """A data set, a file or weights are not where they were said to be."""

    exit_code = ExitCode.MISSING_INPUT


class CredentialsRefused(TrainerError):
    """The object store answered, and refused the credentials."""

    exit_code = ExitCode.CREDENTIALS_REFUSED


class GpuTooSmall(TrainerError):
    """A GPU has less memory than the training is estimated to need."""

    exit_code = ExitCode.OUT_OF_GPU_MEMORY


class LossNotFinite(TrainerError):
    """A term of the loss became NaN or infinite."""

    exit_code = ExitCode.LOSS_NOT_FINITE


class TerminatedSaved(TrainerError):
    """The run was asked to stop, and its state is durable."""

    exit_code = ExitCode.TERMINATED_SAVED


class TerminatedUnsaved(TrainerError):
    """The run was asked to stop, and its newest state is lost."""

    exit_code = ExitCode.TERMINATED_UNSAVED


class PeerFailed(TrainerError):
    """Another rank went away; this one did nothing wrong."""

    exit_code = ExitCode.PEER_FAILED


class HelperKilled(TrainerError):
    """A process that works for a rank was killed, most often because memory was short."""

    exit_code = ExitCode.KILLED


class StorageUnreachable(TrainerError):
    """The object store did not answer, however often it was asked."""

    exit_code = ExitCode.STORAGE_UNREACHABLE


class GpuBroken(TrainerError):
    """A GPU that this pod was given cannot be used."""

    exit_code = ExitCode.GPU_HARDWARE
