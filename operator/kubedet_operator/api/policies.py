"""The parts of a DetectionJob that say how it runs rather than what it learns: size, failures, scheduling."""

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
    """Lets the training go on with fewer workers, and take more in while it runs. Needs a checkpoint."""

    minReplicas: int = bounded(default=1, minimum=1, maximum=1000)
    """The fewest workers that train; below it the job waits for replacements."""
    maxReplicas: int = bounded(minimum=1, maximum=1000)
    """The most that worker.replicas may be set to."""
    scaleUpDelaySeconds: int = bounded(default=120, minimum=0, maximum=86400)
    """Seconds that a wish for more workers must last; then the next checkpoint is waited for as well."""
    batch: Literal["KeepGlobal", "ScaleLearningRate"] = "KeepGlobal"
    """With another number of processes: the same images per step, or a learning rate in proportion."""


@dataclass(frozen=True, kw_only=True)
class NodeExclusion:
    """Keeps new pods for a while from nodes that failures speak against, as status.excludedNodes says."""

    afterFailures: int = bounded(default=2, minimum=1, maximum=10)
    """Crashes and hangs on a node within ttlSeconds until it is avoided; broken hardware excludes at once."""
    ttlSeconds: int = bounded(default=3600, minimum=0, maximum=604800)
    """How long a node is excluded; 0 excludes none."""


@dataclass(frozen=True, kw_only=True)
class FailureRule:
    """What to do about one kind of failures of a worker's container, whatever its exit code usually means."""

    name: str = bounded(
        min_length=1,
        max_length=63,
        pattern=Pattern(regex=r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", meaning="lower-case letters, digits and '-'"),
    )
    """Name of the rule, which status.lastFailure.rule shows."""
    onExitCodes: tuple[int, ...] = bounded(default=(), max_items=32, minimum=1, maximum=255)
    """Exit codes of the worker that the rule is for; none: any code."""
    onMessagePatterns: tuple[str, ...] = bounded(default=(), max_items=16, min_length=1, max_length=256)
    """Regular expressions, one of which must be found in the failure's message; none: any message."""
    action: RuleAction
    """FailJob; Restart within backoffLimit; RestartIgnoreLimit and ExcludeNodeAndRestart, beside it."""


@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """How often what is restarted, beside backoffLimit, and what is done about nodes."""

    maxInfrastructureRestarts: int = bounded(default=100, minimum=0, maximum=10000)
    """Restarts after evictions, lost nodes and the like until the job fails."""
    stopAfterNoProgressRestarts: int | None = bounded(default=None, minimum=0, maximum=1000)
    """Failures of any class that bring no newer checkpoint; default: backoffLimit, and 3 at least.

    Pods that are ended from outside (evicted, preempted, deleted) do not count.
    """
    hangTimeoutSeconds: int = bounded(default=600, minimum=10, maximum=86400)
    """A worker whose training makes no step for so long ends with code 152, and its stacks in the log."""
    hangMedianSteps: int | None = bounded(default=None, minimum=10, maximum=10000)
    """So does one whose step takes so many times the median of the last 100, and a minute at least."""
    nodeExclusion: NodeExclusion = NodeExclusion()
    """When nodes are kept clear of."""
    rules: tuple[FailureRule, ...] = bounded(default=(), max_items=16, map_key="name")
    """Exceptions by exit code and message; the first that matches wins."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Which nodes the workers of one job should share."""

    key: str = bounded(min_length=1, max_length=317, pattern=_LABEL_KEY)
    """Label of nodes whose value the workers' nodes should have in common."""
    mode: Literal["Preferred", "Required"] = "Preferred"
    """Whether workers that find no such node wait (Required) or go elsewhere."""


@dataclass(frozen=True, kw_only=True)
class SchedulingPolicy:
    """How the workers get their places. What it names must be installed; nothing here is a dependency."""

    queue: str | None = bounded(default=None, min_length=1, max_length=63, pattern=_LABEL_VALUE)
    """Queue that the workers wait in: Volcano's with gang Volcano, else Kueue's LocalQueue."""
    priorityClassName: str | None = bounded(default=None, min_length=1, max_length=253, pattern=_CLASS_NAME)
    """PriorityClass of the pods."""
    gang: Gang = "None"
    """Who starts all workers (of an elastic job: the fewest that can train) together or none."""
    topology: Topology | None = None
    """Which nodes the workers should share."""
