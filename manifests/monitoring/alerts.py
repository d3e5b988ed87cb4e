"""The alerts, each with a page of `docs/runbooks`, as a rule file of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kubedet_trainer import errors
from monitoring.queries import EVERY_JOB

RUNBOOKS = "https://kubedet.dev/docs/runbooks"
"""Address of the pages of `docs/runbooks`, to which the name of the alert is added."""

series = EVERY_JOB
_WHO = "{{ $labels.namespace }}/{{ $labels.name }}"
_JOB = "namespace, name"


def _of_job(selector: str) -> str:
    """One series for each job, without the labels of operator replicas and workers."""
    return f"max by ({_JOB}) ({selector})"


_IS_RUNNING = 'phase="Running"'
_IS_TRAINING = 'stage="Training"'
_RUNNING = f" and on ({_JOB}) {_of_job(series.job('status_phase', _IS_RUNNING))} == 1"
_TRAINING = f" and on ({_JOB}) {_of_job(series.job('stage', _IS_TRAINING))} == 1"
_LAST_STEP = _of_job(f"{series.trainer('last_step_timestamp_seconds')} > 0")
_GOODPUT = 'phase="training"'
_NOT_YET = 'phase=~"Pending|Initializing"'
_NOT_FINITE = f'reason="{errors.LossNotFinite.__name__}"'
_STORAGE = f'reason=~"{errors.StorageUnreachable.__name__}|{errors.CredentialsRefused.__name__}"'
_AGE = f"time() - {_of_job(series.job('checkpoint'))}"
_FORWARD = f"avg_over_time({series.trainer('forward_seconds')}[10m])"
_GPU = 'kind="peak_allocated"'
_GPU_LIMIT = 'kind="capacity"'
_WORKER = 'kind="working_set"'
_WORKER_LIMIT = 'kind="limit"'
_OPEN_ROWS = 'phase=~"pending|running"'
_FAILED_ROWS = 'phase="failed"'
_OPEN_ZOO = 'phase=~"Pending|Running"'
_OF_A_ZOO = 'zoo!=""'
_WRITABLE = 'reason!~"NoPlace|RowsBehind"'
_TRAINING_ZOOS = (
    f"label_replace(count by (namespace, zoo) ({series.job('info', _OF_A_ZOO)} and on ({_JOB})"
    f' {series.job("status_phase", _IS_RUNNING)} == 1), "name", "$1", "zoo", "(.+)")'
)


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alerting rule."""

    name: str
    """``KubedetNounVerbed``; also the name of its runbook."""
    expr: str
    held: str
    """How long the condition must hold."""
    severity: Literal["critical", "warning"]
    """critical: look now, because work or money is being lost. warning: look within a day."""
    summary: str
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels in addition to the severity, where two rules share a name."""


def _memory(metric: str, used: str, limit: str) -> str:
    worst = "max by (namespace, name, pod)"
    return f"{worst} ({series.trainer(metric, used)}) / {worst} ({series.trainer(metric, limit)})"


ALERTS: tuple[Alert, ...] = (
    Alert(
        name="KubedetTrainingStalled",
        expr=f"time() - {_LAST_STEP} > 900{_TRAINING}{_RUNNING}",
        held="1m",
        severity="critical",
        summary=f"{_WHO} has not trained for {{{{ $value | humanizeDuration }}}}",
        description="The job runs and reports that it trains, but no step has ended for 15 minutes.",
    ),
    Alert(
        name="KubedetRestartsRepeated",
        expr=f"sum by ({_JOB}) (increase({series.job('restarts')}[1h])) > 3",
        held="5m",
        severity="warning",
        summary=f"{_WHO} has restarted {{{{ $value | humanize }}}} times within an hour",
        description="The job keeps restarting. Each restart loses the work since the newest checkpoint.",
    ),
    Alert(
        name="KubedetLossDiverged",
        expr=f"time() - max by ({_JOB}) ({series.job('last_failure', _NOT_FINITE)}) < 3600",
        held="0m",
        severity="critical",
        summary=f"The loss of {_WHO} became NaN or infinite",
        description="A term of the loss, or the norm of the gradient, was not finite "
        "{{ $value | humanizeDuration }} ago. The job has failed, unless a rule of its failurePolicy says "
        "otherwise.",
    ),
    Alert(
        name="KubedetCheckpointOutdated",
        expr=f"({_AGE} > 3 * {_of_job(series.job('checkpoint_interval'))} or "
        f"({_AGE} > 21600 unless on ({_JOB}) {series.job('checkpoint_interval')})){_RUNNING}",
        held="15m",
        severity="warning",
        summary=f"The newest checkpoint of {_WHO} is {{{{ $value | humanizeDuration }}}} old",
        description="The job runs, but has saved no checkpoint for three of its intervals (for 6 hours if it "
        "sets none). A failure now loses that work.",
    ),
    Alert(
        name="KubedetCheckpointFailed",
        expr=f"sum by ({_JOB}) (increase({series.trainer('checkpoint_failures')}[30m])) > 0 or "
        f"time() - max by ({_JOB}) ({series.job('last_failure', _STORAGE)}) < 1800",
        held="0m",
        severity="critical",
        summary=f"{_WHO} cannot save its checkpoints",
        description="Within the last 30 minutes a checkpoint could not be saved, or the object store did not "
        "answer or refused the credentials.",
    ),
    Alert(
        name="KubedetMemoryFilled",
        expr=f"{_memory('gpu_memory_bytes', _GPU, _GPU_LIMIT)} > 0.95",
        held="5m",
        severity="warning",
        labels={"memory": "gpu"},
        summary="Pod {{ $labels.pod }} of "
        f"{_WHO} has used {{{{ $value | humanizePercentage }}}} of its GPU's memory",
        description="A larger batch would fail the job with an out-of-memory error, which a restart does not "
        "fix.",
    ),
    Alert(
        name="KubedetMemoryFilled",
        expr=f"{_memory('worker_memory_bytes', _WORKER, _WORKER_LIMIT)} > 0.9",
        held="5m",
        severity="warning",
        labels={"memory": "worker"},
        summary="Pod {{ $labels.pod }} of "
        f"{_WHO} uses {{{{ $value | humanizePercentage }}}} of its memory limit",
        description="At the limit the kernel kills a process of the worker, and the job restarts.",
    ),
    Alert(
        name="KubedetRankStraggled",
        expr=f"{_FORWARD} / on ({_JOB}) group_left () quantile by ({_JOB}) (0.5, {_FORWARD}) > 1.25",
        held="15m",
        severity="warning",
        summary="Rank {{ $labels.local_rank }} of pod {{ $labels.pod }} of "
        f"{_WHO} takes {{{{ $value | humanize }}}} times as long as the median rank",
        description="All other ranks wait for the slowest one in every step.",
    ),
    Alert(
        name="KubedetGoodputDropped",
        expr=f"sum by ({_JOB}) (rate({series.job('time', _GOODPUT)}[1h]))"
        f" / sum by ({_JOB}) (rate({series.job('time')}[1h])) < 0.5{_RUNNING}",
        held="30m",
        severity="warning",
        summary=f"{_WHO} has trained for only {{{{ $value | humanizePercentage }}}} of the last hour",
        description="The job holds its GPUs, but spends more than half of its time on something other than "
        "training.",
    ),
    Alert(
        name="KubedetZooStalled",
        expr=f"sum by ({_JOB}) ({series.zoo('rows', _OPEN_ROWS)}) > 0"
        f" and on ({_JOB}) {series.zoo('status_phase', _OPEN_ZOO)} == 1"
        f" unless on ({_JOB}) {_TRAINING_ZOOS}",
        held="1h",
        severity="warning",
        summary=f"The zoo {_WHO} has {{{{ $value }}}} rows to train, and none of its jobs runs",
        description="For an hour no job of the zoo has been Running, although rows are left and it is not "
        "suspended.",
    ),
    Alert(
        name="KubedetZooRowsFailed",
        expr=f"max by ({_JOB}) ({series.zoo('rows', _FAILED_ROWS)}) > 0",
        held="0m",
        severity="warning",
        summary=f"{{{{ $value }}}} rows of the zoo {_WHO} have failed",
        description="The other rows are trained on, unless spec.failurePolicy is Stop. The zoo cannot be "
        "complete.",
    ),
    Alert(
        name="KubedetZooPageFailed",
        expr=f"max by ({_JOB}, reason) ({series.zoo('page_written', _WRITABLE)}) == 0",
        held="30m",
        severity="warning",
        summary=f"The page of the zoo {_WHO} cannot be written: {{{{ $labels.reason }}}}",
        description="For half an hour the page has not shown all rows that have ended. The rows and their "
        "results are safe in the status.",
    ),
    Alert(
        name="KubedetOperatorLost",
        expr=f"absent({series.operator('leader')} == 1)",
        held="5m",
        severity="critical",
        summary="No operator of kubedet leads",
        description="No scraped replica holds the Lease. Running jobs continue to train, but no job is "
        "started, restarted or finished.",
    ),
    Alert(
        name="KubedetWatchStalled",
        expr=f"max by (pod, resource) ({series.operator('watch_age')}) > 100",
        held="1m",
        severity="warning",
        summary="The operator's view of {{ $labels.resource }} has not been current for "
        "{{ $value | humanizeDuration }}",
        description="Watches of pods and Services are renewed every 10 s, and jobs are listed every 60 s. "
        "Until this succeeds, the operator acts on an outdated view of them.",
    ),
    Alert(
        name="KubedetJobDelayed",
        expr=f"max by (namespace, name, phase) ({series.job('status_phase', _NOT_YET)}) == 1",
        held="30m",
        severity="warning",
        summary=f"{_WHO} has been {{{{ $labels.phase }}}} for half an hour",
        description="Not all pods of the job exist and run: no node has room, an image cannot be pulled, a "
        "Secret is missing, or the operator does not process the job.",
    ),
)


def build_rules() -> dict[str, Any]:
    """The rule file."""
    return {"groups": [{"name": "kubedet", "rules": [_build_rule(alert) for alert in ALERTS]}]}


def _build_rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.held,
        "labels": {"severity": alert.severity, **alert.labels},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": f"{RUNBOOKS}/{alert.name}.md",
        },
    }
