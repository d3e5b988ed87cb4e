"""The dashboard *Fleet*: all jobs, where their time goes, and the health of the operator."""

from __future__ import annotations

from monitoring import gpus, health, job, times
from monitoring.panels import Dashboard, Panel, Row, Target, Variable
from monitoring.queries import ALERTS, CHOSEN_JOBS, EVERY_JOB, OF_NAMESPACE
from monitoring.tables import build_alerts, round_events

series = CHOSEN_JOBS
_RATE = "[$__rate_interval]"
_WAITING = 'phase=~"Pending|Queued|Initializing"'
_STARTING = 'phase=~"Initializing|Restarting"'
_AP = 'metric=~"boxAP|ar1000"'
_PENDING = 'phase="pending"'
_WHOSE = "namespace, name"
_FIRING = f'{ALERTS}{{alertstate="firing",alertname=~"Kubedet.+"}}'
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
        decimals=0,
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
        decimals=0,
        kind="stat",
        width=3,
        height=4,
        targets=(_count(series.job("status_phase", _WAITING)),),
    ),
    Panel(
        title="Restarting",
        description="Jobs that replace a failed worker. Bad: the same job for more than a few minutes.",
        unit="short",
        decimals=0,
        kind="stat",
        width=3,
        height=4,
        targets=(_count(series.job("status_phase", 'phase="Restarting"')),),
    ),
    Panel(
        title="Failed",
        description="Failed jobs that still exist. `kubectl describe dj` says why they failed.",
        unit="short",
        decimals=0,
        kind="stat",
        width=3,
        height=4,
        targets=(_count(series.job("status_phase", 'phase="Failed"')),),
    ),
    Panel(
        title="GPUs held",
        description="GPUs that existing worker pods request, scheduled or not.",
        unit="short",
        decimals=0,
        kind="stat",
        width=3,
        height=4,
        targets=(Target(expr=f"sum({series.job('gpus')})", instant=True),),
    ),
    Panel(
        title="Held while waiting",
        description="GPUs that pods of jobs request that start or restart: those pods that have a node hold "
        "them idle. Bad: for longer than images and data take; a gang scheduler avoids it.",
        unit="short",
        decimals=0,
        kind="stat",
        width=3,
        height=4,
        targets=(
            Target(
                expr=f"sum({series.job('gpus')} and on ({_WHOSE})"
                f" {series.job('status_phase', _STARTING)} == 1) or vector(0)",
                instant=True,
            ),
        ),
    ),
    Panel(
        title="GPUs free",
        description="GPUs of the cluster that no pod holds. Empty without NVIDIA's DCGM exporter. Bad: jobs "
        "wait while GPUs are free.",
        unit="short",
        decimals=0,
        kind="stat",
        width=3,
        height=4,
        targets=(gpus.FREE,),
    ),
    Panel(
        title="Alerts",
        description="Alerts of kubedet that fire. Bad: any.",
        unit="short",
        decimals=0,
        kind="stat",
        width=3,
        height=4,
        targets=(Target(expr=f"count({_FIRING}) or vector(0)", instant=True),),
    ),
    build_alerts(_FIRING, width=8),
    Panel(
        title="Excluded nodes",
        description="Nodes that new pods of jobs avoid, with the number of jobs. Bad: several jobs avoid the "
        "same node, because it is broken then.",
        unit="short",
        decimals=0,
        kind="table",
        width=7,
        columns=("node", "mode", "reason", "Jobs"),
        targets=(
            Target(
                expr=f"max by (node, mode, reason) ({EVERY_JOB.job('excluded_nodes')})",
                legend="Jobs",
            ),
        ),
    ),
    Panel(
        title="Suspect nodes",
        description="Nodes that have broken workers within the last hour, with the number of jobs. Bad: 3, "
        "because new pods of all jobs avoid the node then.",
        unit="short",
        decimals=0,
        kind="table",
        width=4,
        columns=("node", "Jobs"),
        targets=(Target(expr=f"max by (node) ({EVERY_JOB.job('suspect_nodes')})", legend="Jobs"),),
    ),
    Panel(
        title="GPU hours by namespace",
        description="GPUs held, summed over the selected time range: the cost of the jobs of a namespace.",
        unit="h",
        kind="bargauge",
        width=5,
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
        decimals=0,
        stacked=True,
        colours=_PHASE_COLOURS,
        targets=(Target(expr=f"sum by (phase) ({series.job('status_phase')})", legend="{{phase}}"),),
    ),
    Panel(
        title="Waiting jobs by queue",
        description="Jobs that do not run yet, by queue. Jobs without a queue have no name in the legend.",
        unit="short",
        decimals=0,
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
        decimals=0,
        stacked=True,
        targets=(
            Target(expr=f"sum by (namespace) ({series.job('gpus')})", legend="{{namespace}}"),
            Target(expr=f"sum({series.job('gpus')})", legend="total", is_total=True),
        ),
    ),
    Panel(
        title="Jobs ended",
        description="Jobs of all namespaces that ended, by result. Bad: more Failed than Complete.",
        unit="short",
        decimals=0,
        bars=True,
        interval="5m",
        targets=(
            Target(
                expr=round_events(f"sum by (result) (increase({series.operator('finished')}{_RATE}))"),
                legend="{{result}}",
            ),
        ),
    ),
    Panel(
        title="Restarts by class",
        description="Restarts in all namespaces, by class. Infrastructure: nodes, preemption, storage. "
        "Application: the training itself. Bad: a steady rate of either.",
        unit="short",
        decimals=0,
        bars=True,
        interval="5m",
        targets=(
            Target(
                expr=round_events(f"sum by (class) (increase({series.operator('restarts')}{_RATE}))"),
                legend="{{class}}",
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
        description="One row for each job. AP is the box AP in percent (of an RPN the AR of 1000 proposals): "
        "of the newest evaluation, then of the result. Click a row to open the job's dashboard.",
        unit="short",
        kind="table",
        width=24,
        height=12,
        link=job.LINK,
        columns=("namespace", "name", "phase", "reason", "recipe", "queue", "zoo", "AP"),
        targets=(
            Target(
                expr=f"max by ({_WHOSE}, phase) ({series.job('status_phase')} == 1)"
                f" * on ({_WHOSE}) group_left (recipe, queue, zoo) {series.job('info')}",
                legend="Jobs",
                adds_labels=True,
            ),
            Target(
                expr=f"max by ({_WHOSE}, reason) ({series.job('status_reason')})",
                legend="Reasons",
                adds_labels=True,
            ),
            Target(
                expr=f"max by ({_WHOSE}) ({series.job('result', _AP)})"
                f" or max by ({_WHOSE}) ({series.trainer('evaluation', _AP)})",
                legend="AP",
                unit="none",
                decimals=1,
            ),
            Target(
                expr=f"max by ({_WHOSE}) ({series.job('progress')})", legend="Progress", unit="percentunit"
            ),
            Target(expr=f"max by ({_WHOSE}) ({series.job('remaining')})", legend="Remaining", unit="s"),
            Target(expr=f"max by ({_WHOSE}) ({series.job('time', _PENDING)})", legend="Queue time", unit="s"),
            Target(expr=f"time() - max by ({_WHOSE}) ({series.job('created')})", legend="Age", unit="s"),
            Target(
                expr=f"round(sum by ({_WHOSE}) (increase({series.job('restarts')}[$__range])))"
                f" and on ({_WHOSE}) {series.job('info')}",
                legend="Restarts",
            ),
            Target(expr=f"max by ({_WHOSE}) ({series.job('gpus')})", legend="GPUs"),
            Target(
                expr=f"max by ({_WHOSE}) ({series.job('gpu_seconds')}) / 3600",
                legend="GPU hours",
                unit="h",
                decimals=1,
            ),
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
            query=f"label_values({EVERY_JOB.job('info', OF_NAMESPACE)}, name)",
            several=True,
        ),
        gpus.FLEET_VARIABLE,
    ),
    rows=(
        Row(title="Jobs", panels=_JOBS),
        Row(title="Goodput", panels=_GOODPUT),
        gpus.FLEET_ROW,
        health.ROW,
    ),
    range="now-24h",
)
