"""The metrics that the operator records of itself in one table, and the registry that exposes all of them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from importlib import metadata
from typing import Any

import prometheus_client
from prometheus_client.registry import CollectorRegistry

from kubedet_operator.telemetry.health import EVENTS, PROGRESS, RECONCILIATION, ZOOS
from kubedet_operator.telemetry.job_metrics import JOB_TABLE, job_readers
from kubedet_operator.telemetry.manifests import Manifest, ManifestCollector
from kubedet_operator.telemetry.zoo_metrics import ZOO_READERS, ZOO_TABLE
from kubedet_trainer.contract import FailureClass
from kubedet_trainer.contract.metrics import Definition

_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_MINUTES = (1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1800, 3600)

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

    def expose(
        self,
        *,
        jobs: Callable[[], Iterable[Manifest]],
        zoos: Callable[[], Iterable[Manifest]],
        clock: Callable[[], datetime],
    ) -> None:
        """Expose figures of the jobs and zoos whose manifests these return, whenever they are asked for.

        `clock` is what decisions are made by.
        """
        unreadable = self["unreadable"].labels("status").inc
        of_jobs = job_readers(clock)
        for table, manifests, readers in ((JOB_TABLE, jobs, of_jobs), (ZOO_TABLE, zoos, ZOO_READERS)):
            self.registry.register(ManifestCollector(table, manifests, readers, unreadable=unreadable))


def _create(definition: Definition, registry: CollectorRegistry) -> Any:
    options: dict[str, Any] = {"registry": registry, "labelnames": definition.labels}
    if definition.buckets:
        options["buckets"] = definition.buckets
    metric = _KINDS[definition.kind](definition.name, definition.help, **options)
    for value in definition.known:
        metric.labels(value)
    return metric
