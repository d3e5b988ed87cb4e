"""The dashboard *Fleet*: all jobs, where their time goes, and the health of the operator."""

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
    """Median and 90th percentile over the selected time range: rare events have none in a single interval."""
    labels = f"le, {by}" if by else "le"
    name = f" {{{{{by}}}}}" if by else ""
    buckets = f"sum by ({labels}) (increase({series.operator(key, part='_bucket')}[$__range]))"
    return tuple(
        Target(expr=f"histogram_quantile({quantile}, {buckets})", legend=f"{word}{name}", instant=True)
        for quantile, word in ((0.5, "median"), (0.9, "90 %"))
    )


def _count(condition: str) -> Target:
    """A number of jobs that is 0, not empty, if there are none."""
    return Target(expr=f"count({condition} == 1) or vector(0)", instant=True)


_JOBS = (
    Panel(
        title="Running",
        description="Jobs whose workers run at present.",
        unit="short",
        kind="stat",
        width=3,
        height=4,
        targets=(_count(series.job("status_phase", 'phase="Running"')),),
    ),
    Panel(
        title="Waiting",
        description="Jobs that wait in a queue, for nodes or for images. Bad: it stays high while GPUs are "
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
        description="Failed jobs that still exist. `kubectl describe dj` says why they failed.",
        unit="short",
        kind="stat",
        width=3,
        height=4,
        targets=(_count(series.job("status_phase", 'phase="Failed"')),),
    ),
    Panel(
        title="GPUs held",
        description="GPUs that existing worker pods request, scheduled or not.",
        unit="short",
        kind="stat",
        width=3,
        height=4,
        targets=(Target(expr=f"sum({series.job('gpus')})", instant=True),),
    ),
    Panel(
        title="GPU hours by namespace",
        description="GPUs held, summed over the selected time range: the cost of the jobs of a namespace.",
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
        description="Number of jobs in each phase. Bad: Pending, Queued or Restarting grow, but not Running.",
        unit="short",
        stacked=True,
        colours=_PHASE_COLOURS,
        targets=(Target(expr=f"sum by (phase) ({series.job('status_phase')})", legend="{{phase}}"),),
    ),
    Panel(
        title="Waiting jobs by queue",
        description="Jobs that do not run yet, by queue. Jobs without a queue have no name in the legend.",
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
        description="GPUs that existing worker pods request. Bad: it falls to 0 while jobs wait.",
        unit="short",
        stacked=True,
        targets=(Target(expr=f"sum by (namespace) ({series.job('gpus')})", legend="{{namespace}}"),),
    ),
    Panel(
        title="Jobs ended",
        description="Jobs of all namespaces that ended, by result. Bad: more Failed than Complete.",
        unit="short",
        targets=(
            Target(
                expr=f"sum by (result) (increase({series.operator('finished')}{_RATE}))", legend="{{result}}"
            ),
        ),
    ),
    Panel(
        title="Restarts by class",
        description="Restarts in all namespaces, by class. Infrastructure: nodes, preemption, storage. "
        "Application: the training itself. Bad: a steady rate of either.",
        unit="short",
        targets=(
            Target(
                expr=f"sum by (class) (increase({series.operator('restarts')}{_RATE}))", legend="{{class}}"
            ),
        ),
    ),
    Panel(
        title="Time to running and recovery",
        description="Time from a job's creation until its workers are ready, and from a failure until the "
        "training continues, in the selected time range. Bad: minutes although the nodes have the images.",
        unit="s",
        kind="bargauge",
        targets=(*_quantiles("time_to_running"), *_quantiles("recovery", by="class")),
    ),
    Panel(
        title="Jobs",
        description="One row for each job. Click a row to open the job's dashboard.",
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
        "Share of each phase in 15 minutes of all jobs' time. training is the goodput, every other phase is "
        "overhead. Bad: lost, restarting or data_wait above a few percent.",
        width=12,
    ),
    Panel(
        title="Goodput of the ten worst jobs",
        description="Share of training in 15 minutes of a job's time. Bad: below one half for longer than "
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
        description="Replicas that lead: 1. Bad: 0, because then no job is processed.",
        unit="short",
        kind="stat",
        width=4,
        height=4,
        targets=(Target(expr=f"sum({series.operator('leader')})", instant=True),),
    ),
    Panel(
        title="Replicas by version",
        description="Scraped replicas of the operator, by version. Bad: two versions outside an upgrade.",
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
        description="Jobs of all namespaces in the leader's cache, by phase.",
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
        description="Kubernetes Events that were not written. Bad: any, because `kubectl describe` lacks "
        "them.",
        unit="short",
        targets=(Target(expr=f"sum(increase({series.operator('events_dropped')}{_RATE}))", legend="events"),),
    ),
    Panel(
        title="Bugs of the operator",
        description="Background tasks that were started again, and objects that could not be read. Bad: any. "
        "The operator's log has the cause.",
        unit="short",
        targets=(
            Target(
                expr=f"sum by (task) (increase({series.operator('task_restarts')}{_RATE}))",
                legend="task {{task}}",
            ),
            Target(
                expr=f"sum by (resource) (increase({series.operator('unreadable')}{_RATE}))",
                legend="unreadable {{resource}}",
            ),
        ),
    ),
)

FLEET = Dashboard(
    uid="kubedet-fleet",
    title="kubedet / Fleet",
    description="All DetectionJobs: phases, queues, restarts, GPU hours, goodput, and the operator's health.",
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
