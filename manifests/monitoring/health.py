"""The panels of the operator's own health, for the dashboard *Fleet*."""

from __future__ import annotations

from monitoring.panels import Panel, Row, Target
from monitoring.queries import EVERY_JOB
from monitoring.tables import round_events

series = EVERY_JOB
_LEADS = f"{series.operator('leader')} == 1"
_OPERATORS = series.operator("build_info")
_RATE = "[$__rate_interval]"

_PANELS = (
    Panel(
        title="Leaders",
        description="Replicas that lead: 1. Bad: 0, because then no job is processed.",
        unit="short",
        decimals=0,
        kind="stat",
        width=4,
        height=4,
        targets=(Target(expr=f"sum({series.operator('leader')})", instant=True),),
    ),
    Panel(
        title="Replicas by version",
        description="Scraped replicas of the operator, by version. Bad: two versions outside an upgrade.",
        unit="short",
        decimals=0,
        kind="bargauge",
        width=8,
        height=4,
        targets=(
            Target(
                expr=f"count by (version, python) ({series.operator('build_info')})",
                legend="{{version}} on Python {{python}}",
                instant=True,
            ),
        ),
    ),
    Panel(
        title="Jobs known to the operator",
        description="Jobs of all namespaces in the leader's cache, by phase.",
        unit="short",
        decimals=0,
        kind="bargauge",
        width=12,
        height=4,
        targets=(
            Target(expr=f"sum by (phase) ({EVERY_JOB.job('jobs')}) > 0", legend="{{phase}}", instant=True),
        ),
    ),
    Panel(
        title="Reconciliation",
        description="Duration of a reconciliation of one job, including requests. Bad: the 99th percentile "
        "is above 1 s, which means that the API server is slow.",
        unit="s",
        targets=tuple(
            Target(
                expr=f"histogram_quantile({quantile}, sum by (le)"
                f" (rate({series.operator('reconcile_duration', part='_bucket')}{_RATE})))",
                legend=word,
            )
            for quantile, word in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))
        ),
    ),
    Panel(
        title="Reconciliations and errors",
        description="Reconciliations per second, and those that failed and are retried, by reason. Bad: "
        "errors that do not stop.",
        unit="ops",
        targets=(
            Target(
                expr=f"sum(rate({series.operator('reconcile_duration', part='_count')}{_RATE}))", legend="all"
            ),
            Target(
                expr=f"sum by (reason) (rate({series.operator('reconcile_errors')}{_RATE}))",
                legend="{{reason}}",
            ),
        ),
    ),
    Panel(
        title="Jobs waiting for reconciliation",
        description="Depth of the leader's work queue. Bad: it keeps growing, which means that the operator "
        "is too slow.",
        unit="short",
        decimals=0,
        targets=(
            Target(
                expr=f"max({series.operator('queue_depth')} and on (instance) {_LEADS})",
                legend="jobs",
            ),
        ),
    ),
    Panel(
        title="Age of watches",
        description="Time since a watch was last known to be current. Jobs: up to 60 s, after which they are "
        "compared with a list. Bad: above 100 s.",
        unit="s",
        targets=(Target(expr=f"max by (resource) ({series.operator('watch_age')})", legend="{{resource}}"),),
    ),
    Panel(
        title="Event loop lag",
        description="Time by which the event loop woke up late. Bad: above 1 s, because something blocks it.",
        unit="s",
        targets=(Target(expr=f"max by (pod) ({series.operator('event_loop_lag')})", legend="{{pod}}"),),
    ),
    Panel(
        title="Requests to the API server",
        description="Requests per second without kopf's, by verb and code. Code 0: no answer. Bad: a "
        "steady rate of 409 or 429, any 5xx.",
        unit="reqps",
        targets=(
            Target(
                expr=f"sum by (verb, code) (rate({series.operator('api_requests')}{_RATE}))",
                legend="{{verb}} {{code}}",
            ),
        ),
    ),
    Panel(
        title="Memory of the operator",
        description="Resident memory of each replica. Bad: it keeps growing.",
        unit="bytes",
        targets=(
            Target(
                expr=f"process_resident_memory_bytes and on (instance) {series.operator('build_info')}",
                legend="{{instance}}",
            ),
        ),
    ),
    Panel(
        title="CPU of the operator",
        description="CPU cores that each replica uses. Bad: near 1, because the operator runs on one core.",
        unit="suffix: cores",
        targets=(
            Target(
                expr=f"rate(process_cpu_seconds_total{_RATE}) and on (instance) {_OPERATORS}",
                legend="{{instance}}",
            ),
        ),
    ),
    Panel(
        title="Events dropped",
        description="Kubernetes Events that were not written. Bad: any, because `kubectl describe` lacks "
        "them.",
        unit="short",
        decimals=0,
        bars=True,
        interval="5m",
        targets=(
            Target(
                expr=round_events(f"sum(increase({series.operator('events_dropped')}{_RATE}))"),
                legend="events",
            ),
        ),
    ),
    Panel(
        title="Bugs of the operator",
        description="Background tasks that were started again, and objects that could not be read. Bad: any. "
        "The operator's log has the cause.",
        unit="short",
        decimals=0,
        bars=True,
        interval="5m",
        targets=(
            Target(
                expr=round_events(f"sum by (task) (increase({series.operator('task_restarts')}{_RATE}))"),
                legend="task {{task}}",
            ),
            Target(
                expr=round_events(f"sum by (resource) (increase({series.operator('unreadable')}{_RATE}))"),
                legend="unreadable {{resource}}",
            ),
        ),
    ),
)

ROW = Row(title="Operator", panels=_PANELS)
