"""The status of a DetectionJob: what the operator has observed, and the row of the zoo at the end.

Progress, checkpoint and results come from the trainer unchanged, so their types are those of the contract.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, Literal

from kubedet_operator.api.dataset import Proposals
from kubedet_operator.api.decoding import api_name, field_types, without_optional
from kubedet_operator.api.fields import DEFAULT_MAX_LENGTH, bounded, bounds_of
from kubedet_trainer import contract

_MESSAGE_LENGTH = 32768
HISTORY_LENGTH = 10
"""Failures that `failureHistory` keeps."""
MAX_EXCLUDED_NODES = 50
"""Nodes that are excluded at the same time. Beyond this the oldest exclusion is dropped."""
MAX_LOG_LINES = 20
"""Lines of a replaced pod's log that `lastFailure` keeps."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One aspect of the job's state. A condition is never removed; only its status changes."""

    type: str = bounded(max_length=316)
    """Suspended, QuotaReserved, Initialized, Running, Restarting, Degraded, Complete or Failed."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    reason: str
    """The reason in one CamelCase word."""
    message: str = bounded(default="", max_length=_MESSAGE_LENGTH)
    """The reason in a sentence, with a remedy where there is one."""
    lastTransitionTime: str = bounded(max_length=64, time=True)
    """Time of the last change of status."""
    observedGeneration: int | None = None
    """Generation of the spec for which this was decided."""


@dataclass(frozen=True, kw_only=True)
class WorkerCounts:
    """Numbers of worker pods."""

    desired: int = 0
    """Pods that should exist."""
    active: int = 0
    """Pods that exist and have not ended."""
    ready: int = 0
    """Pods whose container runs and is ready."""
    succeeded: int = 0
    """Pods that ended with code 0."""
    failed: int = 0
    """Pods that ended with another code."""
    worldSize: int = 0
    """Ranks that train together at present."""


@dataclass(frozen=True, kw_only=True)
class RestartCounts:
    """Numbers of restarts, by the class that is charged."""

    total: int = 0
    """Restarts of pods of all classes, as `kubectl get dj` shows them."""
    application: int = 0
    """Restarts after application failures. Pods that fail together count once."""
    infrastructure: int = 0
    """Restarts after disruptions such as evictions and lost nodes. backoffLimit does not count them."""
    process: int = 0
    """Restarts of ranks within a running pod."""
    withoutProgress: int = 0
    """Failures since the newest checkpoint, without pods that were ended from outside."""
    applicationWithoutProgress: int = 0
    """Application failures since the newest checkpoint, which backoffLimit limits."""
    checkpointIteration: int = 0
    """Iteration of the newest checkpoint at the last charged failure."""


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """One failure of a worker and its root cause. Parent: `lastFailure`, `failureHistory`."""

    time: str = bounded(max_length=64, time=True)
    """Time at which the worker ended."""
    # `class` is a keyword of Python: the encoder and the reader of manifests drop the underscore.
    class_: str
    """Class of the failure: Permanent, Application, Infrastructure, StartUp or Peer."""
    reason: str
    """The cause in one CamelCase word."""
    pod: str | None = None
    """The pod that failed first."""
    node: str | None = None
    """The node of that pod."""
    rank: int | None = None
    """The rank that failed first."""
    exitCode: int | None = None
    """Exit code of the worker."""
    message: str | None = bounded(default=None, max_length=_MESSAGE_LENGTH)
    """The root cause in one line."""
    rule: str | None = None
    """The rule of failurePolicy that matched."""
    checkpointIteration: int | None = None
    """Iteration of the newest checkpoint at that time."""
    lastLines: tuple[str, ...] = bounded(default=(), max_items=MAX_LOG_LINES)
    """The end of the pod's log, newest line last. Only the newest failure has it."""


@dataclass(frozen=True, kw_only=True)
class ExcludedNode:
    """A node that new pods avoid, and the reason. Parent: `excludedNodes`."""

    name: str = bounded(max_length=253)
    """Name of the node."""
    mode: Literal["Preferred", "Required"]
    """Preferred: pods go there only if no other node is free. Required: no pod goes there."""
    reason: str
    """Reason of the newest failure on the node."""
    message: str = bounded(default="", max_length=_MESSAGE_LENGTH)
    """The failures on the node in one line."""
    failures: int = 0
    """Failures on the node that count."""
    until: str = bounded(max_length=64, time=True)
    """Time at which the exclusion ends."""


@dataclass(frozen=True, kw_only=True)
class StragglerStatus:
    """The rank that all others wait for in every step."""

    rank: int
    """The rank."""
    pod: str = bounded(max_length=253)
    """The worker that it belongs to."""
    node: str | None = bounded(default=None, max_length=253)
    """The node of that worker."""
    ratio: float
    """Time of its forward passes, divided by that of the median rank."""
    since: str = bounded(max_length=64, time=True)
    """Time from which it has been slow."""

    def __str__(self) -> str:
        where = f"{self.pod} on {self.node}" if self.node else self.pod
        return (
            f"all ranks wait for rank {self.rank} in {where}, whose forward passes take {self.ratio:g} times "
            "as long as those of the median rank"
        )


@dataclass(frozen=True, kw_only=True)
class ElasticStatus:
    """The size of an elastic job: what it started with, and which of its workers are absent at present."""

    replicas: int = 0
    """Number of workers wanted, within elasticPolicy."""
    minReplicas: int = 0
    """minReplicas with which this attempt started."""
    maxReplicas: int = 0
    """maxReplicas with which this attempt started."""
    batch: str | None = bounded(default=None, max_length=64)
    """elasticPolicy.batch with which this attempt started."""
    absent: tuple[int, ...] = bounded(default=(), max_items=1000)
    """Indices of absent workers: no node has room for them, or they have not joined yet."""
    since: str | None = bounded(default=None, max_length=64, time=True)
    """Time at which scaleUpDelaySeconds started."""


@dataclass(frozen=True, kw_only=True)
class Display:
    """Texts for the printer columns, which show no units otherwise. Code never reads them."""

    workers: str | None = bounded(default=None, max_length=32)
    """Workers that are ready or done, out of those wanted: ``1/2``."""
    progress: str | None = bounded(default=None, max_length=32)
    """Progress in percent: ``42%``."""
    remaining: str | None = bounded(default=None, max_length=32)
    """Estimated remaining time: ``1h05m``."""


@dataclass(frozen=True, kw_only=True)
class TimeAccount:
    """Where the job's time went. The sum of `seconds` says how much of its life is accounted for."""

    phase: str = bounded(default=contract.TimePhase.PENDING.value, max_length=32)
    """Phase to which the time from now on is charged. running: rank 0 reports it. ended: none."""
    begins: str = bounded(default=contract.TimePhase.STARTING.value, max_length=32)
    """Phase until rank 0 trains: starting, or restarting after a failure."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase: pending, starting, restoring, training, data_wait, checkpoint_stall, evaluating,
    restarting, lost, suspended. Goodput is training divided by the sum; lost is work that was repeated."""
    reached: int = 0
    """The highest iteration reached so far. Repeating iterations up to it is not progress."""


@dataclass(frozen=True, kw_only=True)
class DetectionJobStatus:
    """What the operator has observed. Decisions read conditions and facts, never the phase."""

    observedGeneration: int | None = None
    """Generation of the spec that this status describes."""
    phase: str | None = None
    """For display: Pending, Queued, Initializing, Running, Restarting, Suspended, Succeeded or Failed."""
    reason: str | None = bounded(default=None, max_length=256)
    """For display: the reason of the phase in one word, where the phase does not say it. The conditions
    explain it in a sentence."""
    conditions: tuple[Condition, ...] = bounded(default=(), max_items=32, map_key="type")
    """The state of the job in its aspects."""
    startTime: str | None = bounded(default=None, max_length=64, time=True)
    """Time at which the operator first created the workers."""
    activeSince: str | None = bounded(default=None, max_length=64, time=True)
    """Time at which the job last became active. Absent while it is suspended and after its end."""
    activeSeconds: int = 0
    """Seconds of activity before activeSince. activeDeadlineSeconds limits the total."""
    completionTime: str | None = bounded(default=None, max_length=64, time=True)
    """Time at which the job completed or failed."""
    selector: str | None = None
    """Label selector of the worker pods, for the scale subresource."""
    workers: WorkerCounts | None = None
    """Numbers of worker pods."""
    elastic: ElasticStatus | None = None
    """The size of an elastic job."""
    attempt: int = 0
    """Number of the attempt: one set of workers that trains together. It is part of the rendezvous id."""
    training: str | None = bounded(default=None, max_length=64)
    """Digest of what identifies the training for which the workers were created. If the spec asks for another
    one, the workers are replaced in a new attempt."""
    restarts: RestartCounts | None = None
    """Numbers of restarts, by the class that is charged."""
    lastFailure: FailureRecord | None = None
    """The newest failure."""
    failureHistory: tuple[FailureRecord, ...] = bounded(default=(), max_items=HISTORY_LENGTH)
    """The newest failures, newest first."""
    excludedNodes: tuple[ExcludedNode, ...] = bounded(
        default=(), max_items=MAX_EXCLUDED_NODES, map_key="name"
    )
    """Nodes that new pods avoid for a while."""
    straggler: StragglerStatus | None = None
    """The slowest rank, if its forward passes have taken 1.5 times as long as those of the median rank for
    the last 100 steps. Absent otherwise."""
    chargedPods: tuple[str, ...] = bounded(default=(), max_items=2000, max_length=64)
    """Uids of pods that still exist and whose end is already recorded, so that none is charged twice.

    They failed and are charged, or the operator ended them: suspended, scaled down, replaced.
    """
    proposals: Proposals | None = None
    """Where the proposals of dataset.proposals.fromJob are, from when that job was complete."""
    progress: contract.Progress | None = None
    """Progress of the training."""
    checkpoint: contract.CheckpointStatus | None = None
    """The newest checkpoint."""
    time: TimeAccount | None = None
    """Where the job's time went."""
    gpuSeconds: float | None = None
    """GPUs of the workers times the seconds for which the job had them, without the wait for nodes."""
    display: Display | None = None
    """Texts of the printer columns."""
    results: contract.Results | None = None
    """The row of the model zoo. The operator decides nothing by its figures."""


def format_seconds(seconds: int) -> str:
    """A duration in its two leading units: ``42s``, ``1m05s``, ``3h20m``, ``2d04h``."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m{seconds % 60:02}s" if minutes else f"{seconds}s"


def dump_status(status: object) -> dict[str, Any]:
    """A status, or a part of one, as the API stores it.

    Absent values are left out, tuples are lists, and texts are cut to the length that the CRD allows.
    """
    dumped: dict[str, Any] = _plain(status)
    return dumped


_CONTINUED = (ElasticStatus, RestartCounts, TimeAccount)
"""Parts of the status that a decision takes over from the one before it."""


def keep_unknown(
    dumped: Mapping[str, Any], written: Mapping[str, Any], target: type = DetectionJobStatus
) -> dict[str, Any]:
    """`dumped` with the fields of `written` that this version does not know.

    An operator of a newer version wrote them, and may lead again: as after a roll-back, or while replicas of
    two versions run.

    Args:
        dumped: the new status, or a part of it.
        written: what is stored.
        target: the dataclass of both.
    """
    known, kept = _known(target), dict(dumped)
    for name, value in written.items():
        if name not in known:
            kept[name] = value
        elif known[name] in _CONTINUED and isinstance(value, Mapping) and name in kept:
            kept[name] = keep_unknown(kept[name], value, known[name])
    return kept


@cache
def _known(target: type) -> dict[str, Any]:
    """The type of each field of a dataclass, by the API's name."""
    return {api_name(name): without_optional(hint) for name, hint in field_types(target).items()}


_AS_THEY_ARE = frozenset((int, float, bool))


def _plain(value: Any, max_length: int = DEFAULT_MAX_LENGTH) -> Any:
    # Runs for every decision, so the most frequent types are tested first.
    if type(value) is str:
        return value if len(value) <= max_length else f"{value[: max_length - 4]} ..."
    if value is None or type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(item, max_length) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item, max_length) for key, item in value.items() if item is not None}
    target: Any = type(value)
    limits = _max_lengths(target)
    return {
        api_name(key): _plain(item, limits.get(key, DEFAULT_MAX_LENGTH))
        for key, item in vars(value).items()
        if item is not None
    }


@cache
def _max_lengths(target: type) -> dict[str, int]:
    """The most characters of each text of a dataclass: the API server takes no status with a longer one."""
    return {field.name: bounds_of(field).max_length for field in dataclasses.fields(target)}
