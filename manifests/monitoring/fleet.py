"""The dashboard *Fleet*: all jobs at once, where their time goes, and how the operator is."""

from __future__ import annotations

from monitoring import job, times
from monitoring.panels import Dashboard, Panel, Target, Variable
from monitoring.queries import CHOSEN_JOBS, EVERY_JOB

series = CHOSEN_JOBS
_LEADS = f"{series.operator('leader')} == 1"
_OPERATORS = series.operator("build_info")
_RATE = "[$__rate_interval]"
_OF_NAMESPACE = 'namespace=~"$namespace"'
_WAITING = 'phase=~"Pending|Queued|Initializing"'
_PHASE_COLOURS = {
    "Running": "green",
    "Succeeded": "blue",
    "Failed": "red",
    "Restarting": "orange",
    "Queued": "yellow",
    "Pending": "#8e8e8e",
    "Initializing": "#b0b0b0",
    "Suspended": "purple",
}


def _quantiles(key: str, *, by: str = "") -> tuple[Target, ...]:
    """Median and 90th percentile over the time range shown: what is rare has none in a single interval."""
    labels = f"le, {by}" if by else "le"
    name = f" {{{{{by}}}}}" if by else ""
    buckets = f"sum by ({labels}) (increase({series.operator(key, part='_bucket')}[$__range]))"
    return tuple(
        Target(expr=f"histogram_quantile({quantile}, {buckets})", legend=f"{word}{name}", instant=True)
        for quantile, word in ((0.5, "median"), (0.9, "90 %"))
    )


def _count(condition: str) -> Target:
    """A number of jobs that is 0 and not empty where there are none."""
    return Target(expr=f"count({condition} == 1) or vector(0)", instant=True)


_JOBS = (
    Panel(
        title="Running",
        description="Jobs whose workers run now.",
        unit="short",
        kind="stat",
        width=3,
        height=4,
        targets=(_count(series.job("status_phase", 'phase="Running"')),),
    ),
    Panel(
        title="Waiting",
        description="Jobs that wait for a queue, for nodes or for images. Bad: it stays up while GPUs are "
        "free.",
        unit="short",
        kind="stat",
        width=3,
        height=4,
        targets=(_count(series.job("status_phase", _WAITING)),),
    ),
    Panel(
        title="Restarting",
        description="Jobs that replace a failed worker. Bad: the same job for more than a few minutes.",
        unit="short",
        kind="stat",
        width=3,
        height=4,
        targets=(_count(series.job("status_phase", 'phase="Restarting"')),),
    ),
    Panel(
        title="Failed",
        description="Failed jobs that still exist; `kubectl describe dj` tells why.",
        unit="short",
        kind="stat",
        width=3,
        height=4,
        targets=(_count(series.job("status_phase", 'phase="Failed"')),),
    ),
    Panel(
        title="GPUs held",
        description="GPUs that living worker pods ask for, placed or not.",
        unit="short",
        kind="stat",
        width=3,
        height=4,
        targets=(Target(expr=f"sum({series.job('gpus')})", instant=True),),
    ),
    Panel(
        title="GPU hours by namespace",
        description="GPUs held, summed over the time range shown: what the jobs of a namespace have cost.",
        unit="h",
        kind="bargauge",
        width=9,
        height=4,
        targets=(
            Target(
                expr=f"sum by (namespace) (sum_over_time({series.job('gpus')}[$__range:1m])) / 60",
                legend="{{namespace}}",
                instant=True,
            ),
        ),
    ),
    Panel(
        title="Jobs by phase",
        description="Bad: Pending, Queued or Restarting grow while Running does not.",
        unit="short",
        stacked=True,
        colours=_PHASE_COLOURS,
        targets=(Target(expr=f"sum by (phase) ({series.job('status_phase')})", legend="{{phase}}"),),
    ),
    Panel(
        title="Waiting jobs by queue",
        description="Jobs that do not run yet, by the queue they name; without a name: in no queue.",
        unit="short",
        stacked=True,
        targets=(
            Target(
                expr=f"sum by (queue) (max by (namespace, name) ({series.job('status_phase', _WAITING)})"
                f" * on (namespace, name) group_left (queue) {series.job('info')})",
                legend="{{queue}}",
            ),
        ),
    ),
    Panel(
        title="GPUs held by namespace",
        description="GPUs that living worker pods ask for. Bad: it falls to 0 while jobs wait.",
        unit="short",
        stacked=True,
        targets=(Target(expr=f"sum by (namespace) ({series.job('gpus')})", legend="{{namespace}}"),),
    ),
    Panel(
        title="Jobs ended",
        description="Jobs of all namespaces that ended, by result. Bad: Failed outnumbers Complete.",
        unit="short",
        targets=(
            Target(
                expr=f"sum by (result) (increase({series.operator('finished')}{_RATE}))", legend="{{result}}"
            ),
        ),
    ),
    Panel(
        title="Restarts by class",
        description="Restarts in all namespaces by whom they are charged to. Infrastructure: nodes, "
        "preemption, storage; Application: the training itself. Bad: a steady rate of either.",
        unit="short",
        targets=(
            Target(
                expr=f"sum by (class) (increase({series.operator('restarts')}{_RATE}))", legend="{{class}}"
            ),
        ),
    ),
    Panel(
        title="Time to running and recovery",
        description="From a job's creation until its workers are ready, and from a failure until the "
        "training goes on, over the time range shown. Bad: minutes where images are on the nodes already.",
        unit="s",
        kind="bargauge",
        targets=(*_quantiles("time_to_running"), *_quantiles("recovery", by="class")),
    ),
    Panel(
        title="Jobs",
        description="One row a job; a click leads to its dashboard.",
        unit="short",
        kind="table",
        width=24,
        link=f"/d/{job.UID}?var-namespace=${{__data.fields.namespace}}&var-job=${{__data.fields.name}}",
        targets=(
            Target(
                expr=f"max by (namespace, name, phase) ({series.job('status_phase')} == 1)"
                f" * on (namespace, name) group_left (recipe) {series.job('info')}",
                legend="Jobs",
            ),
            Target(
                expr=f"max by (namespace, name) ({series.job('progress')})",
                legend="Progress",
                unit="percentunit",
            ),
            Target(
                expr=f"max by (namespace, name) ({series.job('remaining')})", legend="Remaining", unit="s"
            ),
            Target(
                expr=f"round(sum by (namespace, name) (increase({series.job('restarts')}[$__range])))"
                f" and on (namespace, name) {series.job('info')}",
                legend="Restarts",
            ),
            Target(expr=f"max by (namespace, name) ({series.job('gpus')})", legend="GPUs"),
        ),
    ),
)

_GOODPUT = (
    times.build_panel(
        "Seconds of all jobs' lives within 15 minutes, by phase, as a share of their sum. "
        "Training is goodput; all else is what it costs to get there. Bad: lost, restarting or data_wait "
        "above a few percent.",
        width=12,
    ),
    Panel(
        title="Goodput of the ten worst jobs",
        description="Share of training in 15 minutes of a job's life. Bad: below one half for longer than "
        "the start-up takes.",
        unit="percentunit",
        width=12,
        bounds=(0, 1),
        targets=(
            Target(
                expr=f"bottomk(10, {times.goodput('namespace, name')})",
                legend="{{namespace}}/{{name}}",
            ),
        ),
    ),
)

_OPERATOR = (
    Panel(
        title="Leaders",
        description="Replicas that act: 1. Bad: 0, then no job is looked after.",
        unit="short",
        kind="stat",
        width=4,
        height=4,
        targets=(Target(expr=f"sum({series.operator('leader')})", instant=True),),
    ),
    Panel(
        title="Replicas by version",
        description="Replicas of the operator that are scraped. Bad: two versions outside of an upgrade.",
        unit="short",
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
        description="Jobs of all namespaces that the leading replica has in its cache, by phase.",
        unit="short",
        kind="bargauge",
        width=12,
        height=4,
        targets=(
            Target(expr=f"sum by (phase) ({EVERY_JOB.job('jobs')}) > 0", legend="{{phase}}", instant=True),
        ),
    ),
    Panel(
        title="Reconciliation",
        description="Seconds for one reconciliation of one job, requests included. Bad: the 99th percentile "
        "is above 1 s, then the API server is slow.",
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
        title="Reconciliations and their errors",
        description="Reconciliations a second, and those that failed and are tried again, by reason. Bad: "
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
        title="Jobs waiting for a reconciliation",
        description="Depth of the leader's work queue; what the others have queued waits for their turn to "
        "lead. Bad: it grows and does not fall: the operator is too slow.",
        unit="short",
        targets=(
            Target(
                expr=f"max({series.operator('queue_depth')} and on (instance) {_LEADS})",
                legend="jobs",
            ),
        ),
    ),
    Panel(
        title="Age of watches",
        description="Seconds since a watch last gave a sign of life. Bad: above 100; at 200 the operator is "
        "restarted by its probe.",
        unit="s",
        targets=(Target(expr=f"max by (resource) ({series.operator('watch_age')})", legend="{{resource}}"),),
    ),
    Panel(
        title="Lag of the event loop",
        description="Seconds by which the event loop woke up late. Bad: above 1, something blocks it.",
        unit="s",
        targets=(Target(expr=f"max by (pod) ({series.operator('event_loop_lag')})", legend="{{pod}}"),),
    ),
    Panel(
        title="Requests to the API server",
        description="Requests a second beside the watches, by verb and code; code 0: no answer. Bad: 409 "
        "and 429 at a steady rate, any 5xx.",
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
        description="Resident memory of each replica. Bad: it grows without an end.",
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
        description="CPUs that each replica keeps busy. Bad: near 1, for it runs on one.",
        unit="short",
        targets=(
            Target(
                expr=f"rate(process_cpu_seconds_total{_RATE}) and on (instance) {_OPERATORS}",
                legend="{{instance}}",
            ),
        ),
    ),
    Panel(
        title="Events dropped",
        description="Kubernetes events that were not written. Bad: any; people then look in vain.",
        unit="short",
        targets=(Target(expr=f"sum(increase({series.operator('events_dropped')}{_RATE}))", legend="events"),),
    ),
)

FLEET = Dashboard(
    uid="kubedet-fleet",
    title="kubedet / Fleet",
    description="All detection jobs: phases, queues, restarts, GPU hours, goodput, and the operator's "
    "health.",
    variables=(
        Variable(
            name="namespace",
            label="Namespace",
            query=f"label_values({EVERY_JOB.job('info')}, namespace)",
            several=True,
        ),
        Variable(
            name="job",
            label="Job",
            query=f"label_values({EVERY_JOB.job('info', _OF_NAMESPACE)}, name)",
            several=True,
        ),
    ),
    rows=(("Jobs", _JOBS), ("Goodput", _GOODPUT), ("Operator", _OPERATOR)),
    range="now-24h",
)
