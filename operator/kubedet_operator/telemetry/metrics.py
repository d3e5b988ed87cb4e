"""Every metric of the operator in one table.

Figures of single jobs are read from the cache when Prometheus asks, so a job that is gone leaves no series.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from kubedet_operator.api import types
from kubedet_operator.api.conditions import Phase
from kubedet_operator.decision.policies import accounting
from kubedet_operator.telemetry.health import EVENTS, PROGRESS, RECONCILIATION, ZOOS
from kubedet_trainer.contract import FailureClass
from kubedet_trainer.contract.metrics import Definition
from kubedet_trainer.contract.times import parse_time

_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_MINUTES = (1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1800, 3600)
_DEFAULT_GPUS = types.Worker().gpus
_CHARGED = ("application", "infrastructure", "process")
_RESULTS = ("memoryGB", "secondsPerIteration", "inferenceFps", "boxAP", "maskAP", "ar1000")


TABLE: Mapping[str, Definition] = {
    "finished": Definition(
        kind="counter",
        name="kubedet_operator_finished_total",
        help="Jobs that ended while this operator was running, by result.",
        labels=("result",),
        known=("Complete", "Failed"),
    ),
    "restarts": Definition(
        kind="counter",
        name="kubedet_operator_restarts_total",
        help="Restarts of workers, by class of the failure. A steady rate means lost work.",
        labels=("class",),
        known=(FailureClass.APPLICATION.value, FailureClass.INFRASTRUCTURE.value),
    ),
    "reconcile_duration": Definition(
        kind="histogram",
        name="kubedet_operator_reconcile_duration_seconds",
        help="Seconds of one reconciliation of one job, including requests. Above 1 the API server is slow.",
        buckets=_QUICK,
    ),
    "reconcile_errors": Definition(
        kind="counter",
        name="kubedet_operator_reconcile_errors_total",
        help="Reconciliations that failed and are retried, by reason.",
        labels=("reason",),
    ),
    "queue_depth": Definition(
        kind="gauge",
        name="kubedet_operator_queue_depth",
        help="Jobs that wait for reconciliation. If the number keeps growing, the operator is too slow.",
    ),
    "event_loop_lag": Definition(
        kind="gauge",
        name="kubedet_operator_event_loop_lag_seconds",
        help="Seconds by which the event loop last woke up late. Above 1 something blocks it.",
    ),
    "watch_age": Definition(
        kind="gauge",
        name="kubedet_operator_watch_age_seconds",
        help="Seconds since a watch was last known to be current. Above 100 it is stalled.",
        labels=("resource",),
    ),
    "api_requests": Definition(
        kind="counter",
        name="kubedet_operator_api_requests_total",
        help="Requests to the API server, without kopf's, by verb, resource and code (0: no answer).",
        labels=("verb", "resource", "code"),
    ),
    "leader": Definition(
        kind="gauge",
        name="kubedet_operator_leader",
        help="1 if this replica holds the Lease and leads, else 0. The sum over replicas must be 1.",
    ),
    "events_dropped": Definition(
        kind="counter",
        name="kubedet_operator_events_dropped_total",
        help="Events that were not written, because there were too many or the API server refused them.",
    ),
    "task_restarts": Definition(
        kind="counter",
        name="kubedet_operator_task_restarts_total",
        help="Background tasks that a bug has ended and that were started again, by task. Must stay 0.",
        labels=("task",),
        known=("watches", "gauges", "election", "orphans", PROGRESS, EVENTS, RECONCILIATION, ZOOS),
    ),
    "unreadable": Definition(
        kind="counter",
        name="kubedet_operator_unreadable_objects_total",
        help="Objects that could not be read and were passed over, by kind. The log names each once.",
        labels=("resource",),
        known=("detectionjobs", "modelzoos", "pods", "services", "status"),
    ),
    "time_to_running": Definition(
        kind="histogram",
        name="kubedet_operator_time_to_running_seconds",
        help="Seconds from the creation of a job until all its workers are first ready.",
        buckets=_MINUTES,
    ),
    "recovery": Definition(
        kind="histogram",
        name="kubedet_operator_recovery_seconds",
        help="Seconds from a failure until the training continues, by class of the failure.",
        labels=("class",),
        buckets=_MINUTES,
        known=(FailureClass.APPLICATION.value, FailureClass.INFRASTRUCTURE.value),
    ),
    "build_info": Definition(
        kind="gauge",
        name="kubedet_operator_build_info",
        help="Always 1. The labels have the versions.",
        labels=("version", "python"),
    ),
}
"""What the code records."""

_JOB = ("namespace", "name")

JOB_TABLE: Mapping[str, Definition] = {
    "jobs": Definition(kind="gauge", name="kubedet_operator_jobs", help="Jobs by phase.", labels=("phase",)),
    "info": Definition(
        kind="gauge",
        name="kubedet_job_info",
        help="Always 1. The labels join a job to its recipe and its queue, which is empty if it has none.",
        labels=(*_JOB, "recipe", "queue"),
    ),
    "status_phase": Definition(
        kind="gauge",
        name="kubedet_job_status_phase",
        help="1 for the phase of a job.",
        labels=(*_JOB, "phase"),
    ),
    "stage": Definition(
        kind="gauge",
        name="kubedet_job_stage",
        help="1 for the stage of the training that rank 0 last reported.",
        labels=(*_JOB, "stage"),
    ),
    "gpus": Definition(
        kind="gauge",
        name="kubedet_job_gpus",
        help="GPUs that the existing worker pods of a job request. The sum over time is GPU hours.",
        labels=_JOB,
    ),
    "restarts": Definition(
        kind="counter",
        name="kubedet_job_restarts_total",
        help="Restarts of a job, by class. More than a few per hour are a loop.",
        labels=(*_JOB, "class"),
    ),
    "last_failure": Definition(
        kind="gauge",
        name="kubedet_job_last_failure_timestamp_seconds",
        help="UNIX time of the newest failure of a job. The labels have its class and reason.",
        labels=(*_JOB, "class", "reason"),
    ),
    "checkpoint": Definition(
        kind="gauge",
        name="kubedet_job_checkpoint_timestamp_seconds",
        help="UNIX time of the newest checkpoint. A failure loses the work since then.",
        labels=_JOB,
    ),
    "checkpoint_interval": Definition(
        kind="gauge",
        name="kubedet_job_checkpoint_interval_seconds",
        help="Seconds between checkpoints, if the job sets them.",
        labels=_JOB,
    ),
    "epoch": Definition(
        kind="gauge",
        name="kubedet_job_epoch",
        help="Finished epochs of a job.",
        labels=_JOB,
    ),
    "progress": Definition(
        kind="gauge",
        name="kubedet_job_progress_ratio",
        help="Share of the iterations that are completed, 0 to 1.",
        labels=_JOB,
    ),
    "remaining": Definition(
        kind="gauge",
        name="kubedet_job_eta_seconds",
        help="Seconds to the end of the training, as rank 0 estimates.",
        labels=_JOB,
    ),
    "result": Definition(
        kind="gauge",
        name="kubedet_job_result",
        help="The row of a completed job, by column of the zoo.",
        labels=(*_JOB, "metric"),
    ),
    "time": Definition(
        kind="counter",
        name="kubedet_job_time_seconds_total",
        help="Seconds of a job's life, by phase. Most of them should be training.",
        labels=(*_JOB, "phase"),
    ),
}
"""What is read out of the jobs' manifests whenever Prometheus asks."""

_FAMILIES: Mapping[str, Callable[..., CounterMetricFamily | GaugeMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
}

_KINDS: Mapping[str, Callable[..., Any]] = {
    "counter": prometheus_client.Counter,
    "gauge": prometheus_client.Gauge,
    "histogram": prometheus_client.Histogram,
}


class Metrics:
    """The recorded metrics, by their key in `TABLE`, and the registry that exposes them."""

    def __init__(self) -> None:
        # They would double the series for nothing.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        self._recorded = {key: _create(definition, self.registry) for key, definition in TABLE.items()}
        self["build_info"].labels(version=metadata.version("kubedet"), python=platform.python_version()).set(
            1
        )

    def __getitem__(self, key: str) -> Any:
        return self._recorded[key]

    def expose_jobs(self, jobs: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Expose figures of the jobs whose manifests `jobs` returns, whenever they are asked for."""
        self.registry.register(JobCollector(jobs, unreadable=self["unreadable"].labels("status").inc))


class JobCollector(Collector):
    """Reads the figures of every job out of its status, at the moment of a scrape."""

    def __init__(
        self, jobs: Callable[[], Iterable[Mapping[str, Any]]], *, unreadable: Callable[[], None]
    ) -> None:
        """`unreadable` is called for each job whose status gives no figures."""
        self._jobs = jobs
        self._unreadable = unreadable

    def collect(self) -> Iterator[Metric]:
        """The families, filled with the jobs of now."""
        families = {
            key: _FAMILIES[definition.kind](definition.name, definition.help, labels=definition.labels)
            for key, definition in JOB_TABLE.items()
        }
        totals = dict.fromkeys((phase.value for phase in Phase), 0)
        now = datetime.now(UTC)
        for job in self._jobs():
            phase = (job.get("status") or {}).get("phase")
            if phase not in totals:  # another controller's word
                phase = Phase.PENDING.value
            totals[phase] += 1
            whose = (job["metadata"]["namespace"], job["metadata"]["name"])
            try:
                figures = [(key, labels, float(value)) for key, labels, value in _figures(job, phase, now)]
            except Exception:  # others write statuses, too: one job must not keep all from a scrape
                self._unreadable()
                continue
            for key, labels, value in figures:
                families[key].add_metric((*whose, *labels), value)
        for phase, total in totals.items():
            families["jobs"].add_metric([phase], total)
        yield from families.values()


def _figures(
    job: Mapping[str, Any], phase: str, now: datetime
) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """The figures of one job: key in `JOB_TABLE`, labels other than the job's name, value."""
    spec, status = job.get("spec") or {}, job.get("status") or {}
    reported = status.get("progress") or {}
    queue = (spec.get("schedulingPolicy") or {}).get("queue", "")
    yield "info", (str(spec.get("recipe", "")), queue), 1
    yield "status_phase", (phase,), 1
    yield "gpus", (), _gpus(spec, status)
    yield "progress", (), reported.get("percentage", 0) / 100
    if "stage" in reported:
        yield "stage", (reported["stage"],), 1
    if "epoch" in reported:
        yield "epoch", (), reported["epoch"]
    if "estimatedRemainingSeconds" in reported:
        yield "remaining", (), reported["estimatedRemainingSeconds"]
    yield from _durability(spec, status)
    results = status.get("results") or {}
    for column in _RESULTS:
        if column in results:
            yield "result", (column,), results[column]
    for spent_on, seconds in accounting.seconds_by_phase(job, now=now).items():
        yield "time", (spent_on,), seconds


def _durability(
    spec: Mapping[str, Any], status: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, ...], float]]:
    """How often a job failed, and how much of its work is safe."""
    restarts = status.get("restarts") or {}
    for charged in _CHARGED:
        yield "restarts", (charged.title(),), restarts.get(charged, 0)
    if failure := status.get("lastFailure"):
        yield "last_failure", (failure["class"], failure["reason"]), _seconds(failure["time"])
    if saved := (status.get("checkpoint") or {}).get("time"):
        with suppress(ValueError):  # the trainer's word: no image may keep every other job from a scrape
            yield "checkpoint", (), _seconds(saved)
    if interval := (spec.get("checkpoint") or {}).get("intervalSeconds"):
        yield "checkpoint_interval", (), interval


def _gpus(spec: Mapping[str, Any], status: Mapping[str, Any]) -> int:
    per_worker: int = (spec.get("worker") or {}).get("gpus", _DEFAULT_GPUS)
    return per_worker * int((status.get("workers") or {}).get("active", 0))


def _seconds(time: str) -> float:
    return parse_time(time).timestamp()


def _create(definition: Definition, registry: CollectorRegistry) -> Any:
    options: dict[str, Any] = {"registry": registry, "labelnames": definition.labels}
    if definition.buckets:
        options["buckets"] = definition.buckets
    metric = _KINDS[definition.kind](definition.name, definition.help, **options)
    for value in definition.known:
        metric.labels(value)
    return metric
