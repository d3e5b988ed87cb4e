"""What can go wrong between the operator and the API server, each with one line for a person.

`reason` is the label of the error metric: a closed set.
"""

from __future__ import annotations

from typing import ClassVar


class OperatorError(Exception):
    """Base of everything that the operator knows how to go on after."""

    reason: ClassVar[str] = "Unknown"
    longest_retry_seconds: ClassVar[float] = 60.0
    """The longest pause between two attempts at the same thing."""


class ApiUnreachable(OperatorError):
    """The API server does not answer, or answers that it cannot serve now."""

    reason = "ApiUnreachable"
    longest_retry_seconds = 5.0


class ApiBusy(OperatorError):
    """The API server asks to come back later. That is nobody's failure."""

    reason = "ApiBusy"

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class LoginFailed(OperatorError):
    """There are no credentials for the API server, or it refuses them."""

    reason = "LoginFailed"


class PermissionMissing(OperatorError):
    """The operator's account may not do what it has to."""

    reason = "PermissionMissing"


class DefinitionMissing(OperatorError):
    """The API server does not know DetectionJobs."""

    reason = "DefinitionMissing"


class Unreadable(OperatorError):
    """The answer is no JSON that can be read: some object in it is nested too deeply."""

    reason = "Unreadable"


class Paused(ApiBusy):
    """A request was not sent, because the API server has asked to wait."""


class NotFound(OperatorError):
    """The object is gone."""

    reason = "NotFound"


class Gone(OperatorError):
    """The API server no longer knows the requested version; only a list shows the current state."""

    reason = "Gone"


class Conflict(OperatorError):
    """Somebody has changed the object since it was read; read it again."""

    reason = "Conflict"
    longest_retry_seconds = 5.0


class Rejected(OperatorError):
    """The API server refuses an object for what is in it: validation, admission, quota."""

    reason = "Rejected"


class NotLeading(OperatorError):
    """Another replica acts: nothing is to be written until the Lease is ours."""

    reason = "NotLeading"
