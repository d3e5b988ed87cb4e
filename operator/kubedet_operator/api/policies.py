"""The parts of a DetectionJob that say how it runs, not what it learns: size, failures, scheduling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kubedet_operator.api.fields import Pattern, bounded

MAX_SECONDS = 2**31 - 1
"""The most that an int32 of the API holds."""

_LABEL_VALUE = Pattern(
    regex=r"[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?", meaning="the name of a queue (a label's value)"
)
_LABEL_KEY = Pattern(
    regex=r"([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?",
    meaning="the key of a label, such as topology.kubernetes.io/zone",
)
_CLASS_NAME = Pattern(regex=r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", meaning="the name of a PriorityClass")

RuleAction = Literal["FailJob", "Restart", "RestartIgnoreLimit", "ExcludeNodeAndRestart"]
Gang = Literal["None", "Kueue", "Volcano", "Coscheduling"]


@dataclass(frozen=True, kw_only=True)
class ElasticPolicy:
    """Lets the training continue with fewer workers, and add workers while it runs. Needs a checkpoint."""

    minReplicas: int = bounded(default=1, minimum=1, maximum=1000)
    """The fewest workers that train. With fewer the job waits for replacements."""
    maxReplicas: int = bounded(minimum=1, maximum=1000)
    """The most that worker.replicas may be set to."""
    scaleUpDelaySeconds: int = bounded(default=120, minimum=0, maximum=86400)
    """Seconds to wait before more workers join. They join with the next checkpoint after that."""
    batch: Literal["KeepGlobal", "ScaleLearningRate"] = "KeepGlobal"
    """What happens when the number of processes changes. KeepGlobal: the images of a step stay the same.
    ScaleLearningRate: the images of each process stay the same, and the learning rate scales."""


@dataclass(frozen=True, kw_only=True)
class NodeExclusion:
    """Keeps new pods away from nodes with failures for a while. status.excludedNodes lists the nodes."""

    afterFailures: int = bounded(default=2, minimum=1, maximum=10)
    """Crashes and hangs on a node within ttlSeconds before it is avoided. Broken hardware excludes a node
    the first time."""
    ttlSeconds: int = bounded(default=3600, minimum=0, maximum=604800)
    """Seconds for which a node is excluded. 0 excludes no node."""


@dataclass(frozen=True, kw_only=True)
class FailureRule:
    """What to do about one kind of failure, instead of what its exit code usually means."""

    name: str = bounded(
        min_length=1,
        max_length=63,
        pattern=Pattern(regex=r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", meaning="lower-case letters, digits and '-'"),
    )
    """Name of the rule. status.lastFailure.rule shows it."""
    onExitCodes: tuple[int, ...] = bounded(default=(), max_items=32, minimum=1, maximum=255)
    """Exit codes of the worker that the rule applies to. None: any code."""
    onMessagePatterns: tuple[str, ...] = bounded(default=(), max_items=16, min_length=1, max_length=256)
    """RE2 expressions, one of which must match within the failure's message or the end of its log. None: any
    message."""
    action: RuleAction
    """FailJob fails the job. Restart counts against backoffLimit. RestartIgnoreLimit and
    ExcludeNodeAndRestart do not; the latter also excludes the node."""


@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """Limits for failures that backoffLimit does not count, exceptions by rule, hang detection, and nodes to
    avoid."""

    maxInfrastructureRestarts: int = bounded(default=100, minimum=0, maximum=10000)
    """Restarts after disruptions (evictions, lost nodes, preemptions) before the job fails."""
    stopAfterNoProgressRestarts: int | None = bounded(default=None, minimum=0, maximum=1000)
    """Restarts after failures of any class before the job fails, counted since the newest checkpoint.
    Default: backoffLimit, but at least 3.

    Pods that are ended from outside (evicted, preempted, deleted) do not count.
    """
    hangTimeoutSeconds: int = bounded(default=600, minimum=10, maximum=86400)
    """Seconds without a training step after which a worker ends with code 152. Its stacks are in the log."""
    hangMedianSteps: int | None = bounded(default=None, minimum=10, maximum=10000)
    """The same for a step that takes this many times the median of the last 100 steps, and at least a
    minute. Absent: not checked."""
    nodeExclusion: NodeExclusion = NodeExclusion()
    """When to avoid nodes with failures."""
    rules: tuple[FailureRule, ...] = bounded(default=(), max_items=16, map_key="name")
    """Exceptions by exit code and message. The first rule that matches applies."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Which label the nodes of one job's workers should have in common."""

    key: str = bounded(min_length=1, max_length=317, pattern=_LABEL_KEY)
    """Key of a node label, such as topology.kubernetes.io/zone. The workers' nodes share its value."""
    mode: Literal["Preferred", "Required"] = "Preferred"
    """When no such node is free. Preferred: use another node. Required: wait."""


@dataclass(frozen=True, kw_only=True)
class SchedulingPolicy:
    """How the worker pods are queued and scheduled. What it names must be installed in the cluster."""

    queue: str | None = bounded(default=None, min_length=1, max_length=63, pattern=_LABEL_VALUE)
    """Queue in which the workers wait: a queue of Volcano with gang Volcano, else a LocalQueue of Kueue."""
    priorityClassName: str | None = bounded(default=None, min_length=1, max_length=253, pattern=_CLASS_NAME)
    """PriorityClass of the pods."""
    gang: Gang = "None"
    """Scheduler that starts all workers together or none. For an elastic job: at least minReplicas."""
    topology: Topology | None = None
    """Which nodes the workers should share, by a label."""
