"""The dashboard *Job*: one training, from its progress to its slowest rank."""

from __future__ import annotations

from monitoring import gpus, learning, times
from monitoring.panels import Annotation, Dashboard, Panel, Row, Target, Variable
from monitoring.queries import ALERTS, CHOSEN_JOBS, EVERY_JOB, OF_NAMESPACE
from monitoring.tables import COLUMNS_OF_A_ROW, build_alerts, round_events

UID = "kubedet-job"
LINK = f"/d/{UID}?var-namespace=${{__data.fields.namespace}}&var-job=${{__data.fields.name}}"
"""Where a click on the row of a job leads to."""

series = CHOSEN_JOBS
_RATE = "[$__rate_interval]"
_IS_RUNNING = 'phase="Running"'
_IMAGES_PER_SECOND = 'metric="imagesPerSecond"'
_SECONDS_PER_ITERATION = 'metric="secondsPerIteration"'
_PRECISION = 'metric=~"boxAP|maskAP|ar1000"'
_PENDING = 'phase="pending"'
_FIRING = f'{ALERTS}{{alertstate="firing",{OF_NAMESPACE},name=~"$job"}}'
_BUCKETS = f"sum by (le) (rate({series.trainer('iteration_duration_seconds', part='_bucket')}{_RATE}))"
_SUM = f"sum(rate({series.trainer('iteration_duration_seconds', part='_sum')}{_RATE}))"
_COUNT = f"sum(rate({series.trainer('iteration_duration_seconds', part='_count')}{_RATE}))"

_PROGRESS = (
    Panel(
        title="Phase",
        description="Phase of the job, as `kubectl get dj` shows it.",
        unit="short",
        kind="stat",
        width=3,
        height=4,
        shows_name=True,
        targets=(
            Target(
                expr=f"max by (phase) ({series.job('status_phase')}) == 1", legend="{{phase}}", instant=True
            ),
        ),
    ),
    Panel(
        title="Recipe and queue",
        description="Recipe of the job, and its queue if it has one.",
        unit="short",
        kind="stat",
        width=6,
        height=4,
        shows_name=True,
        targets=(
            Target(
                expr=f"max by (recipe, queue) ({series.job('info')})",
                legend="{{recipe}} {{queue}}",
                instant=True,
            ),
        ),
    ),
    Panel(
        title="Progress",
        description="Share of the iterations that are completed.",
        unit="percentunit",
        kind="stat",
        width=2,
        height=4,
        bounds=(0, 1),
        targets=(Target(expr=f"max({series.job('progress')})", instant=True),),
    ),
    Panel(
        title="Remaining",
        description="Time to the end at the current speed, including evaluations. Empty after the end of the "
        "job. Bad: it grows.",
        unit="s",
        kind="stat",
        width=2,
        height=4,
        targets=(Target(expr=f"max({series.job('remaining')})", instant=True),),
    ),
    Panel(
        title="Restarts",
        description="Restarts of pods, and of ranks within pods, in the selected time range.",
        unit="short",
        decimals=0,
        kind="stat",
        width=2,
        height=4,
        targets=(Target(expr=f"round(sum(increase({series.job('restarts')}[$__range])))", instant=True),),
    ),
    Panel(
        title="GPUs",
        description="GPUs that the existing worker pods request. 0 for a job that trains on CPUs.",
        unit="short",
        decimals=0,
        kind="stat",
        width=2,
        height=4,
        targets=(Target(expr=f"max({series.job('gpus')})", instant=True),),
    ),
    Panel(
        title="Queue time",
        description="Time in which the job has waited for quota or for free nodes, since its creation.",
        unit="s",
        kind="stat",
        width=2,
        height=4,
        targets=(Target(expr=f"max({series.job('time', _PENDING)})", instant=True),),
    ),
    Panel(
        title="GPU hours",
        description="GPUs times the hours for which the job has had them, since its creation.",
        unit="h",
        kind="stat",
        width=2,
        height=4,
        targets=(Target(expr=f"max({series.job('gpu_seconds')}) / 3600", instant=True),),
    ),
    Panel(
        title="Trainer",
        description="Versions of kubedet and torch in the workers. Bad: two at the same time.",
        unit="short",
        kind="stat",
        width=3,
        height=4,
        shows_name=True,
        targets=(
            Target(
                expr=f"count by (version, torch) ({series.trainer('build_info')})",
                legend="{{version}}, torch {{torch}}",
            ),
        ),
    ),
    Panel(
        title="Stage",
        description="What rank 0 is doing. Bad: Initializing, Evaluating or Checkpointing takes long.",
        unit="short",
        kind="state-timeline",
        width=8,
        height=6,
        targets=(Target(expr=f"max by (stage) ({series.job('stage')})", legend="{{stage}}"),),
    ),
    Panel(
        title="Progress over time",
        description="A straight line, except for restarts, which lose the work since the newest checkpoint.",
        unit="percentunit",
        width=8,
        height=6,
        bounds=(0, 1),
        targets=(Target(expr=f"max({series.job('progress')})", legend="progress"),),
    ),
    build_alerts(_FIRING, width=8, height=6),
)

_SPEED = (
    Panel(
        title="Images per second",
        description="Images of all workers, and the recipe's published figure on 8 V100. Bad: far below the "
        "published figure on newer hardware.",
        unit="suffix: images/s",
        targets=(
            Target(expr=f"sum(rate({series.trainer('images')}{_RATE}))", legend="images/s"),
            Target(expr=f"max({series.trainer('reference', _IMAGES_PER_SECOND)})", legend="published"),
        ),
    ),
    Panel(
        title="Seconds per iteration",
        description="Time from the end of one iteration to the end of the next, over all ranks. Bad: the "
        "99th percentile is a multiple of the median.",
        unit="s",
        targets=(
            *(
                Target(expr=f"histogram_quantile({quantile}, {_BUCKETS})", legend=word)
                for quantile, word in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))
            ),
            Target(expr=f"{_SUM} / {_COUNT}", legend="mean"),
            Target(expr=f"max({series.trainer('reference', _SECONDS_PER_ITERATION)})", legend="published"),
        ),
    ),
    Panel(
        title="Iterations per second",
        description="Optimiser steps of the job. Bad: 0 while the stage is Training.",
        unit="suffix: it/s",
        targets=(Target(expr=f"sum(rate({series.trainer('iterations')}{_RATE}))", legend="iterations/s"),),
    ),
    Panel(
        title="Waiting for data",
        description="Share of time in which ranks wait for a batch, by worker. Bad: above a few percent. "
        "More loader processes, a faster disk or smaller images help.",
        unit="percentunit",
        width=5,
        targets=(
            Target(
                expr=f"sum by (pod) (rate({series.trainer('data_wait_seconds')}{_RATE}))"
                f" / sum by (pod) (rate({series.trainer('iteration_duration_seconds', part='_sum')}{_RATE}))",
                legend="{{pod}}",
            ),
        ),
    ),
    Panel(
        title="Slowest ranks",
        description="Forward pass of the five slowest ranks and of the median rank. It is the part of a step "
        "that waits for no other rank. Bad: one rank stays above the others, because all wait for it.",
        unit="s",
        width=7,
        targets=(
            Target(
                expr=f"topk(5, max by (pod, local_rank) ({series.trainer('forward_seconds')}))",
                legend="{{pod}} rank {{local_rank}}",
            ),
            Target(expr=f"quantile(0.5, {series.trainer('forward_seconds')})", legend="median"),
        ),
    ),
    Panel(
        title="Straggler",
        description="Rank whose forward passes have taken 1.5 times as long as those of the median rank for "
        "100 steps, and how many times as long. Empty if there is none. Bad: any.",
        unit="short",
        decimals=2,
        kind="table",
        width=7,
        columns=("worker", "node", "rank", "Ratio"),
        targets=(Target(expr=f"max by (worker, node, rank) ({series.job('straggler')})", legend="Ratio"),),
    ),
    Panel(
        title="Since the last step",
        description="Time since the last optimiser step. Bad: it grows while the stage is Training.",
        unit="s",
        width=5,
        targets=(
            Target(
                expr=f"time() - max({series.trainer('last_step_timestamp_seconds')} > 0)", legend="seconds"
            ),
        ),
    ),
)

_MEMORY = (
    Panel(
        title="GPU memory of the fullest rank",
        description="Memory of PyTorch's caching allocator, and the capacity of the GPU. Bad: peak_allocated "
        "is near the capacity. reserved may be near it without harm. Empty for a job that trains on CPUs.",
        unit="bytes",
        width=12,
        targets=(Target(expr=f"max by (kind) ({series.trainer('gpu_memory_bytes')})", legend="{{kind}}"),),
    ),
    Panel(
        title="Memory of the fullest worker",
        description="Memory of the container, including loader processes and /dev/shm, and its memory limit "
        "if it has one. Bad: above 90 % of the limit.",
        unit="bytes",
        width=12,
        targets=(Target(expr=f"max by (kind) ({series.trainer('worker_memory_bytes')})", legend="{{kind}}"),),
    ),
)

_DURABILITY = (
    Panel(
        title="Age of the newest checkpoint",
        description="The work that a failure now would lose, while the job runs, and the job's checkpoint "
        "interval if it sets one. Bad: several intervals.",
        unit="s",
        width=6,
        targets=(
            Target(
                expr=f"time() - max({series.job('checkpoint')})"
                f" and on () max({series.job('status_phase', _IS_RUNNING)}) == 1",
                legend="age",
            ),
            Target(expr=f"max({series.job('checkpoint_interval')})", legend="interval"),
        ),
    ),
    Panel(
        title="Duration of the last checkpoint",
        description="save: until it was durable. stall: how long the training paused for it. restore: "
        "duration of the last restore. Bad: the stall is more than a few percent of the interval.",
        unit="s",
        width=6,
        targets=tuple(
            Target(expr=f"max({series.trainer(f'checkpoint_{part}_seconds')})", legend=part)
            for part in ("save", "stall", "restore")
        ),
    ),
    Panel(
        title="Size of a checkpoint",
        description="Size of the last checkpoint. Bad: it changes during a training.",
        unit="bytes",
        width=6,
        targets=(Target(expr=f"max({series.trainer('checkpoint_bytes')})", legend="size"),),
    ),
    Panel(
        title="Failed checkpoints",
        description="Checkpoints that could not be saved. Bad: any.",
        unit="short",
        decimals=0,
        bars=True,
        interval="5m",
        width=6,
        targets=(
            Target(
                expr=round_events(f"sum by (pod) (increase({series.trainer('checkpoint_failures')}{_RATE}))"),
                legend="{{pod}}",
            ),
        ),
    ),
)

_LIFE = (
    times.build_panel(
        "Share of each phase in 15 minutes of the job's time. training is the goodput. Bad: lost, "
        "restarting or data_wait above a few percent.",
        width=10,
    ),
    Panel(
        title="Restarts by class",
        description="Restarts by class: of the application, of the infrastructure, and of ranks within their "
        "pod (process). Bad: a steady rate.",
        unit="short",
        decimals=0,
        bars=True,
        interval="5m",
        width=7,
        targets=(
            Target(
                expr=round_events(f"sum by (class) (increase({series.job('restarts')}{_RATE}))"),
                legend="{{class}}",
            ),
        ),
    ),
    Panel(
        title="Result",
        description="The row of a completed job next to the published one. Empty before. Memory and speed "
        "compare on the published hardware only, 8 V100. Bad: precision more than 0.5 below.",
        unit="none",
        kind="table",
        width=7,
        words=COLUMNS_OF_A_ROW,
        columns=("metric", "Ours", "Published", "Difference"),
        targets=(
            Target(expr=f"max by (metric) ({series.job('result')})", legend="Ours"),
            Target(expr=f"max by (metric) ({series.job('published')})", legend="Published"),
            Target(
                expr=f"max by (metric) ({series.job('result', _PRECISION)})"
                f" - max by (metric) ({series.job('published', _PRECISION)})",
                legend="Difference",
            ),
        ),
    ),
    Panel(
        title="Newest recovery",
        description="Seconds of each phase from the loss of a rank to the next step. Empty before. "
        "Bad: more than 5 s in all.",
        unit="s",
        width=24,
        targets=(Target(expr=f"max by (phase) ({series.trainer('recovery_seconds')})", legend="{{phase}}"),),
    ),
)

JOB = Dashboard(
    uid=UID,
    title="kubedet / Job",
    description="One DetectionJob: progress, loss, precision, speed, memory, checkpoints and restarts.",
    variables=(
        Variable(
            name="namespace", label="Namespace", query=f"label_values({EVERY_JOB.job('info')}, namespace)"
        ),
        Variable(name="job", label="Job", query=f"label_values({EVERY_JOB.job('info', OF_NAMESPACE)}, name)"),
        gpus.JOB_VARIABLE,
    ),
    rows=(
        Row(title="Progress", panels=_PROGRESS),
        learning.ROW,
        Row(title="Speed", panels=_SPEED),
        Row(title="Memory", panels=_MEMORY),
        gpus.JOB_ROW,
        Row(title="Checkpoints", panels=_DURABILITY),
        Row(title="Life", panels=_LIFE),
    ),
    annotations=(
        Annotation(
            name="Failure",
            expr=f"max by (class, reason) ({series.job('last_failure')}) * 1000",
            text="{{class}}: {{reason}}",
        ),
    ),
)
