"""The status of a DetectionJob: what the operator has seen, and the row of the zoo it ends with.

Progress, checkpoint and results come from the trainer as they are, so their types are the contract's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from kubedet_operator.api.decoding import api_name
from kubedet_operator.api.fields import bounded
from kubedet_trainer import contract

_MESSAGE_LENGTH = 32768
HISTORY_LENGTH = 10
"""Failures that `failureHistory` keeps."""
MAX_EXCLUDED_NODES = 50
"""Nodes that are excluded at a time: beyond it the oldest exclusion goes."""
MAX_LOG_LINES = 20
"""Lines of the log that `lastFailure` keeps of a pod that is replaced."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One aspect of the job's state; never removed, only turned."""

    type: str = bounded(max_length=316)
    """Suspended, QuotaReserved, Initialized, Running, Restarting, Degraded, Complete or Failed."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """Why, in one CamelCase word."""
    message: str = bounded(default="", max_length=_MESSAGE_LENGTH)
    """Why, in one sentence for a person."""
    lastTransitionTime: str = bounded(max_length=64, time=True)
    """When the status last changed."""
    observedGeneration: int | None = None
    """The generation of the spec that this was decided by."""


@dataclass(frozen=True, kw_only=True)
class WorkerCounts:
    """The worker pods, counted."""

    desired: int = 0
    """Pods that should exist."""
    active: int = 0
    """Pods that exist and have not ended."""
    ready: int = 0
    """Pods whose container runs and is ready."""
    succeeded: int = 0
    """Pods that ended with code 0."""
    failed: int = 0
    """Pods that ended otherwise."""
    worldSize: int = 0
    """Processes that train together now."""


@dataclass(frozen=True, kw_only=True)
class RestartCounts:
    """Restarts, by whom they are charged to."""

    total: int = 0
    """Restarts of pods, whoever is charged with them: what the printer column shows."""
    application: int = 0
    """Restarts after the application's own failures; pods that fail together count once."""
    infrastructure: int = 0
    """Restarts after evictions, lost nodes and the like; backoffLimit does not count them."""
    process: int = 0
    """Processes restarted within a living pod."""
    withoutProgress: int = 0
    """Failures since the newest checkpoint, but for pods ended from outside."""
    applicationWithoutProgress: int = 0
    """Those of them that are the application's own: what backoffLimit limits."""
    checkpointIteration: int = 0
    """Iteration of the newest checkpoint at the last failure that was charged."""


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """One failure of a worker and its root cause. Parent: `lastFailure`, `failureHistory`."""

    time: str = bounded(max_length=64, time=True)
    """When it ended."""
    # `class` is a keyword of Python: the encoder and the reader of manifests drop the underscore.
    class_: str
    """Whom it is charged to: Permanent, Application, Infrastructure, StartUp or Peer."""
    reason: str
    """What happened, in one CamelCase word."""
    pod: str | None = None
    """The pod that failed first."""
    node: str | None = None
    """The node it ran on."""
    rank: int | None = None
    """The rank that failed first."""
    exitCode: int | None = None
    """How its PID 1 ended."""
    message: str | None = bounded(default=None, max_length=_MESSAGE_LENGTH)
    """The root cause, one line."""
    rule: str | None = None
    """The rule of failurePolicy that decided what is done about it."""
    checkpointIteration: int | None = None
    """Iteration of the newest checkpoint at the time."""
    lastLines: tuple[str, ...] = bounded(default=(), max_items=MAX_LOG_LINES)
    """The end of its log, newest last; of the newest failure only."""


@dataclass(frozen=True, kw_only=True)
class ExcludedNode:
    """A node that new pods keep clear of, and why. Parent: `excludedNodes`."""

    name: str = bounded(max_length=253)
    """Name of the node."""
    mode: Literal["Preferred", "Required"]
    """Preferred: pods go there only for want of another node; Required: not at all."""
    reason: str
    """Reason of the newest failure there."""
    message: str = bounded(default="", max_length=_MESSAGE_LENGTH)
    """What speaks against the node, one line."""
    failures: int = 0
    """Failures there that count."""
    until: str = bounded(max_length=64, time=True)
    """When it is given another chance."""


@dataclass(frozen=True, kw_only=True)
class ElasticStatus:
    """The size of an elastic job: what it was started with, and which of its workers do not exist for now."""

    replicas: int = 0
    """Workers wanted, within elasticPolicy."""
    minReplicas: int = 0
    """The fewest that train, as the workers of this attempt know it."""
    maxReplicas: int = 0
    """The most, likewise."""
    batch: str | None = bounded(default=None, max_length=64)
    """What becomes of the batch at another size, likewise."""
    absent: tuple[int, ...] = bounded(default=(), max_items=1000)
    """Indices of those that are not there: no node has room, or they have not joined yet."""
    since: str | None = bounded(default=None, max_length=64, time=True)
    """Since when; scaleUpDelaySeconds runs from then on."""


@dataclass(frozen=True, kw_only=True)
class Display:
    """What printer columns show where a bare number would need an explanation. Never read by code."""

    workers: str | None = bounded(default=None, max_length=32)
    """Workers that are ready or done, of those wanted: ``1/2``."""
    progress: str | None = bounded(default=None, max_length=32)
    """``42%``"""
    remaining: str | None = bounded(default=None, max_length=32)
    """Estimated time to the end: ``1h05m``."""


@dataclass(frozen=True, kw_only=True)
class TimeAccount:
    """What the job's life went into. The sum of `seconds` says how much of it is accounted for."""

    phase: str = bounded(default=contract.TimePhase.PENDING.value, max_length=32)
    """What all time after that goes into; running: what rank 0 will say, ended: nothing."""
    begins: str = bounded(default=contract.TimePhase.STARTING.value, max_length=32)
    """What a run goes into until rank 0 trains: starting, or restarting if something has failed before it."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By phase: pending, starting, restoring, training, data_wait, checkpoint_stall, evaluating, restarting,
    lost, suspended. Training over the sum is the goodput; lost is what had to be done again."""
    reached: int = 0
    """The most iterations that were ever done: doing them again is no progress."""


@dataclass(frozen=True, kw_only=True)
class DetectionJobStatus:
    """What the operator has seen. Decisions read conditions and facts, never the phase."""

    observedGeneration: int | None = None
    """The generation of the spec that this status describes."""
    phase: str | None = None
    """For people: Pending, Queued, Initializing, Running, Restarting, Suspended, Succeeded or Failed."""
    reason: str | None = bounded(default=None, max_length=256)
    """For people: why the phase is what it is, in one word; the conditions have the sentence."""
    conditions: tuple[Condition, ...] = bounded(default=(), max_items=32, map_key="type")
    """The state of the job, aspect by aspect."""
    startTime: str | None = bounded(default=None, max_length=64, time=True)
    """When the operator first created the workers."""
    activeSince: str | None = bounded(default=None, max_length=64, time=True)
    """Since when the job has been active without a break; absent while suspended, and after its end."""
    activeSeconds: int = 0
    """Seconds that it had been active before that; activeDeadlineSeconds limits the sum of both."""
    completionTime: str | None = bounded(default=None, max_length=64, time=True)
    """When the job ended, well or not."""
    selector: str | None = None
    """Label selector of the worker pods, for the scale subresource."""
    workers: WorkerCounts | None = None
    """The worker pods, counted."""
    elastic: ElasticStatus | None = None
    """The size of an elastic job."""
    attempt: int = 0
    """Number of the current set of workers; part of the rendezvous id."""
    restarts: RestartCounts | None = None
    """Restarts, by whom they are charged to."""
    lastFailure: FailureRecord | None = None
    """The newest failure."""
    failureHistory: tuple[FailureRecord, ...] = bounded(default=(), max_items=HISTORY_LENGTH)
    """The newest failures, newest first."""
    excludedNodes: tuple[ExcludedNode, ...] = bounded(
        default=(), max_items=MAX_EXCLUDED_NODES, map_key="name"
    )
    """Nodes that new pods keep clear of for a while."""
    chargedPods: tuple[str, ...] = bounded(default=(), max_items=2000, max_length=64)
    """Uids of pods that are not yet gone and whose end is accounted for, so that none is ever charged twice.

    They have failed and are charged, or were told to end: suspended, scaled down, replaced.
    """
    progress: contract.Progress | None = None
    """How far the training is."""
    checkpoint: contract.CheckpointStatus | None = None
    """The newest checkpoint."""
    time: TimeAccount | None = None
    """What the job's life went into."""
    display: Display | None = None
    """The words of the printer columns."""
    results: contract.Results | None = None
    """The row of the model zoo; measurements are plain numbers, and nothing is decided by them."""


def format_seconds(seconds: int) -> str:
    """A duration in its two leading units: ``42s``, ``1m05s``, ``3h20m``, ``2d04h``."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m{seconds % 60:02}s" if minutes else f"{seconds}s"


def dump_status(status: DetectionJobStatus) -> dict[str, Any]:
    """`status` as the API has it: what is absent is left out, tuples are lists."""
    dumped: dict[str, Any] = _plain(status)
    return dumped


_AS_THEY_ARE = frozenset((str, int, float, bool))


def _plain(value: Any) -> Any:
    # Written for every decision: what is most frequent is asked for first.
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    given = value if isinstance(value, Mapping) else vars(value)
    return {api_name(key): _plain(item) for key, item in given.items() if item is not None}
