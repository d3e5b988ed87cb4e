"""Condition types, their reasons, and the one way to turn a condition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum

from kubedet_operator.api.status import Condition


class ConditionType(StrEnum):
    """Aspects of the state of a job, or of a ModelZoo, which has only those that suit it."""

    SUSPENDED = "Suspended"
    """The job is suspended and its pods are deleted."""
    QUOTA_RESERVED = "QuotaReserved"
    """No pod is held back by a queue."""
    INITIALIZED = "Initialized"
    """The Service and every pod exist, and the pods have been placed and started."""
    RUNNING = "Running"
    """The workers are running."""
    RESTARTING = "Restarting"
    """A failed worker is being replaced."""
    DEGRADED = "Degraded"
    """Something needs a person though the job has not failed: an image that cannot be pulled, say."""
    PAGE_WRITTEN = "PageWritten"
    """The page of a ModelZoo shows its rows. False says which rows it lacks, or why it cannot be written."""
    COMPLETE = "Complete"
    """The job ended well: checkpoint and results are durable."""
    FAILED = "Failed"
    """The job ended otherwise, and is not retried."""


class Reason(StrEnum):
    """Why a condition has its status."""

    # Suspended
    NOT_SUSPENDED = "NotSuspended"
    SUSPENDING = "Suspending"
    SUSPEND_REQUESTED = "SuspendRequested"
    RESUMED = "Resumed"
    # QuotaReserved
    NO_QUEUE = "NoQueue"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    ADMITTED = "Admitted"
    # Initialized
    PODS_CREATED = "PodsCreated"
    WAITING_FOR_PODS = "WaitingForPods"
    WAITING_FOR_PROPOSALS = "WaitingForProposals"
    # Running
    WORKERS_RUNNING = "WorkersRunning"
    WORKERS_NOT_RUNNING = "WorkersNotRunning"
    # Restarting
    WORKER_FAILED = "WorkerFailed"
    WORKER_LOST = "WorkerLost"
    RESIZED = "Resized"
    RECOVERED = "Recovered"
    # Degraded
    AS_EXPECTED = "AsExpected"
    IMAGE_NOT_PULLED = "ImageNotPulled"
    UNSCHEDULABLE = "Unschedulable"
    CONTAINER_NOT_CREATED = "ContainerNotCreated"
    SECRET_NOT_FOUND = "SecretNotFound"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    CHILD_REJECTED = "ChildRejected"
    NOT_RECONCILED = "NotReconciled"
    # Complete and Failed
    TRAINED = "Trained"
    NOT_FINISHED = "NotFinished"
    INVALID_SPEC = "InvalidSpec"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    PERMANENT_FAILURE = "PermanentFailure"
    TOO_MANY_DISRUPTIONS = "TooManyDisruptions"
    NO_PROGRESS = "NoProgress"
    START_UP_FAILED = "StartUpFailed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    PRE_RUNNING_DEADLINE_EXCEEDED = "PreRunningDeadlineExceeded"
    RESULTS_MISSING = "ResultsMissing"
    NOT_FAILED = "NotFailed"
    # Of a ModelZoo
    JOBS_EXIST = "JobsExist"
    NO_JOB_EXISTS = "NoJobExists"
    NAME_TAKEN = "NameTaken"
    ROWS_COMPLETE = "RowsComplete"
    ROWS_FAILED = "RowsFailed"
    ROWS_SHOWN = "RowsShown"
    ROWS_BEHIND = "RowsBehind"
    NO_PLACE = "NoPlace"
    PAGE_NOT_STARTED = "PageNotStarted"
    PAGE_FAILED = "PageFailed"


class Phase(StrEnum):
    """The state in one word, for the printer column; derived from conditions, and never read by code."""

    PENDING = "Pending"
    QUEUED = "Queued"
    INITIALIZING = "Initializing"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


_PHASES = (
    (ConditionType.FAILED, Phase.FAILED),
    (ConditionType.COMPLETE, Phase.SUCCEEDED),
    (ConditionType.SUSPENDED, Phase.SUSPENDED),
    (ConditionType.RESTARTING, Phase.RESTARTING),
    (ConditionType.RUNNING, Phase.RUNNING),
)
"""The first condition that holds names the phase."""

_EXPLAINED_BY = (
    ConditionType.FAILED,
    ConditionType.COMPLETE,
    ConditionType.SUSPENDED,
    ConditionType.RESTARTING,
    ConditionType.DEGRADED,
    ConditionType.RUNNING,
)

_IN_THE_PHASE = (Reason.WORKERS_RUNNING, Reason.TRAINED, Reason.SUSPEND_REQUESTED)
"""Reasons that Running, Succeeded and Suspended say already."""


def set_condition(
    conditions: Iterable[Condition],
    condition_type: ConditionType,
    holds: bool,
    *,
    reason: str,
    message: str,
    generation: int,
    now: str,
) -> tuple[Condition, ...]:
    """`conditions` with one of them turned, or added at the end.

    `now` (RFC 3339) becomes its lastTransitionTime only if its status changes.
    """
    before = tuple(conditions)
    turned = Condition(
        type=condition_type.value,
        status="True" if holds else "False",
        reason=str(reason),
        message=message,
        lastTransitionTime=now,
        observedGeneration=generation,
    )
    previous = find_condition(before, condition_type)
    if previous is None:
        return (*before, turned)
    if previous.status == turned.status:
        turned = replace(turned, lastTransitionTime=previous.lastTransitionTime)
    return tuple(turned if condition is previous else condition for condition in before)


def find_condition(conditions: Iterable[Condition], condition_type: ConditionType) -> Condition | None:
    """The condition of a type, or None while nobody has said anything about it."""
    return next((condition for condition in conditions if condition.type == condition_type), None)


def is_true(conditions: Iterable[Condition], condition_type: ConditionType) -> bool:
    """Whether a condition is known to hold."""
    found = find_condition(conditions, condition_type)
    return found is not None and found.status == "True"


def derive_phase(conditions: Iterable[Condition]) -> Phase:
    """The one word that sums up `conditions`."""
    known = tuple(conditions)
    for condition_type, phase in _PHASES:
        if is_true(known, condition_type):
            return phase
    queued = find_condition(known, ConditionType.QUOTA_RESERVED)
    if queued is not None and queued.status == "False":
        return Phase.QUEUED
    return Phase.INITIALIZING if find_condition(known, ConditionType.INITIALIZED) else Phase.PENDING


def derive_reason(conditions: Iterable[Condition]) -> str | None:
    """Why the phase is what it is: the reason of the first condition that says so.

    None where it would only repeat the phase.
    """
    known = tuple(conditions)
    for condition_type in _EXPLAINED_BY:
        found = find_condition(known, condition_type)
        if found is not None and found.status == "True":
            return None if found.reason in _IN_THE_PHASE else found.reason
    queued = find_condition(known, ConditionType.QUOTA_RESERVED)
    if queued is not None and queued.status == "False":
        return queued.reason
    initialized = find_condition(known, ConditionType.INITIALIZED)
    return initialized.reason if initialized else None
