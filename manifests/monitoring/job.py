"""The dashboard *Job*: one training, from its progress down to its slowest rank."""

from __future__ import annotations

from monitoring import times
from monitoring.panels import Annotation, Dashboard, Panel, Target, Variable
from monitoring.queries import CHOSEN_JOBS, EVERY_JOB

UID = "kubedet-job"
"""By which other dashboards link to this one."""

series = CHOSEN_JOBS
_RATE = "[$__rate_interval]"
_OF_NAMESPACE = 'namespace=~"$namespace"'
_IS_RUNNING = 'phase="Running"'
_IMAGES_PER_SECOND = 'metric="imagesPerSecond"'
_SECONDS_PER_ITERATION = 'metric="secondsPerIteration"'
_AVERAGE_PRECISION = 'metric=~"boxAP|maskAP|ar1000"'
_BUCKETS = f"sum by (le) (rate({series.trainer('iteration_duration_seconds', part='_bucket')}{_RATE}))"
_SUM = f"sum(rate({series.trainer('iteration_duration_seconds', part='_sum')}{_RATE}))"
_COUNT = f"sum(rate({series.trainer('iteration_duration_seconds', part='_count')}{_RATE}))"

_PROGRESS = (
    Panel(
        title="Phase",
        description="The state of the job in one word, as `kubectl get dj` shows it.",
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
        description="What is trained, and the queue that it waited in, if in any.",
        unit="short",
        kind="stat",
        width=7,
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
        description="Share of the iterations that are done.",
        unit="percentunit",
        kind="stat",
        width=3,
        height=4,
        bounds=(0, 1),
        targets=(Target(expr=f"max({series.job('progress')})", instant=True),),
    ),
    Panel(
        title="Remaining",
        description="Time until the end at the present speed, evaluations included; empty for a job that has "
        "ended. Bad: it grows.",
        unit="s",
        kind="stat",
        width=3,
        height=4,
        targets=(Target(expr=f"max({series.job('remaining')})", instant=True),),
    ),
    Panel(
        title="Restarts",
        description="Restarts over the time range shown, of pods and of processes within them.",
        unit="short",
        kind="stat",
        width=2,
        height=4,
        targets=(Target(expr=f"round(sum(increase({series.job('restarts')}[$__range])))", instant=True),),
    ),
    Panel(
        title="GPUs",
        description="GPUs that the living worker pods ask for; 0 for a job that trains on CPUs.",
        unit="short",
        kind="stat",
        width=2,
        height=4,
        targets=(Target(expr=f"max({series.job('gpus')})", instant=True),),
    ),
    Panel(
        title="Trainer",
        description="Versions of the workers' image. Bad: two at a time.",
        unit="short",
        kind="stat",
        width=4,
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
        description="What rank 0 does. Bad: long times of Initializing, Evaluating or Checkpointing.",
        unit="short",
        kind="state-timeline",
        width=12,
        height=6,
        targets=(Target(expr=f"max by (stage) ({series.job('stage')})", legend="{{stage}}"),),
    ),
    Panel(
        title="Progress over time",
        description="A straight line but for restarts, which lose what came after the newest checkpoint.",
        unit="percentunit",
        width=12,
        height=6,
        bounds=(0, 1),
        targets=(Target(expr=f"max({series.job('progress')})", legend="progress"),),
    ),
)

_LEARNING = (
    Panel(
        title="Loss by term",
        description="Means of rank 0's last log interval. Bad: a term rises for long, or there are gaps: the "
        "loss was not finite.",
        unit="short",
        targets=(Target(expr=f"max by (term) ({series.trainer('loss')})", legend="{{term}}"),),
    ),
    Panel(
        title="Learning rate",
        description="Of the last step: it warms up, stays, and falls in steps.",
        unit="sci",
        targets=(Target(expr=f"max({series.trainer('learning_rate')}) > 0", legend="learning rate"),),
    ),
    Panel(
        title="Average precision over epochs",
        description="Figures of the evaluations in percent beside the published ones of the recipe, and the "
        "epochs finished on the right. Bad: precision falls, or stays below 1 after several epochs.",
        unit="percent",
        targets=(
            Target(
                expr=f"max by (metric) ({series.trainer('evaluation', _AVERAGE_PRECISION)})",
                legend="{{metric}}",
            ),
            Target(
                expr=f"max by (metric) ({series.trainer('reference', _AVERAGE_PRECISION)})",
                legend="{{metric}} published",
            ),
            Target(expr=f"max({series.job('epoch')})", legend="epochs", unit="none"),
        ),
    ),
)

_SPEED = (
    Panel(
        title="Images a second",
        description="Of all workers together, and what the recipe's published figures make on 8 V100. Bad: "
        "far below it on hardware that is newer.",
        unit="short",
        targets=(
            Target(expr=f"sum(rate({series.trainer('images')}{_RATE}))", legend="images/s"),
            Target(expr=f"max({series.trainer('reference', _IMAGES_PER_SECOND)})", legend="published"),
        ),
    ),
    Panel(
        title="Seconds per iteration",
        description="From the end of one iteration to the end of the next, on all ranks. Bad: the 99th "
        "percentile is a multiple of the median.",
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
        title="Iterations a second",
        description="Optimiser steps of the run. Bad: it falls to 0 while the stage is Training.",
        unit="ops",
        targets=(Target(expr=f"sum(rate({series.trainer('iterations')}{_RATE}))", legend="iterations/s"),),
    ),
    Panel(
        title="Waiting for data",
        description="Share of the iterations' time in which a rank waited for a batch, by worker. Bad: "
        "above a few percent: more loader processes, a faster disk or smaller images.",
        unit="percentunit",
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
        description="Seconds of a forward pass, the part of a step that waits for no other rank: the five "
        "slowest ranks and the median. Bad: one rank lies above the others for good; all wait for it.",
        unit="s",
        targets=(
            Target(
                expr=f"topk(5, max by (pod, local_rank) ({series.trainer('forward_seconds')}))",
                legend="{{pod}} rank {{local_rank}}",
            ),
            Target(expr=f"quantile(0.5, {series.trainer('forward_seconds')})", legend="median"),
        ),
    ),
    Panel(
        title="Since the last step",
        description="Age of the last optimiser step. Bad: it grows while the stage is Training.",
        unit="s",
        targets=(
            Target(
                expr=f"time() - max({series.trainer('last_step_timestamp_seconds')} > 0)", legend="seconds"
            ),
        ),
    ),
)

_MEMORY = (
    Panel(
        title="GPU memory of the worst rank",
        description="By the caching allocator, against the capacity of the GPU. Bad: peak_allocated near "
        "capacity; reserved may be near it and mean nothing. Empty for a job that trains on CPUs.",
        unit="bytes",
        width=12,
        targets=(Target(expr=f"max by (kind) ({series.trainer('gpu_memory_bytes')})", legend="{{kind}}"),),
    ),
    Panel(
        title="Memory of the fullest worker",
        description="Memory of the container, loader processes and /dev/shm included, and the limit at "
        "which it is killed, where there is one. Bad: above 90 % of the limit.",
        unit="bytes",
        width=12,
        targets=(Target(expr=f"max by (kind) ({series.trainer('worker_memory_bytes')})", legend="{{kind}}"),),
    ),
)

_DURABILITY = (
    Panel(
        title="Age of the newest checkpoint",
        description="While the job runs: what a failure now would lose, beside the interval that the job "
        "asks for, if it does. Bad: several intervals.",
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
        title="Seconds of the last checkpoint",
        description="Until it was durable, for how long training stood still for it, and what the last "
        "restore took. Bad: the stall is more than a few percent of the interval.",
        unit="s",
        width=6,
        targets=tuple(
            Target(expr=f"max({series.trainer(f'checkpoint_{part}_seconds')})", legend=part)
            for part in ("save", "stall", "restore")
        ),
    ),
    Panel(
        title="Size of a checkpoint",
        description="Bytes of the last one. Bad: it changes within a run.",
        unit="bytes",
        width=6,
        targets=(Target(expr=f"max({series.trainer('checkpoint_bytes')})", legend="size"),),
    ),
    Panel(
        title="Checkpoints that failed",
        description="Checkpoints that could not be made durable. Bad: any.",
        unit="short",
        width=6,
        targets=(
            Target(
                expr=f"sum by (pod) (increase({series.trainer('checkpoint_failures')}{_RATE}))",
                legend="{{pod}}",
            ),
        ),
    ),
)

_LIFE = (
    times.build_panel(
        "Share of each phase in 15 minutes of the job's life. Training is goodput. Bad: lost, "
        "restarting or data_wait above a few percent.",
        width=10,
    ),
    Panel(
        title="Restarts by class",
        description="Restarts by whom they are charged to: the application, the infrastructure, or a "
        "process that was started again within its pod. Bad: a steady rate.",
        unit="short",
        width=7,
        targets=(
            Target(expr=f"sum by (class) (increase({series.job('restarts')}{_RATE}))", legend="{{class}}"),
        ),
    ),
    Panel(
        title="Result",
        description="The row of the zoo of a job that has ended; empty before.",
        unit="short",
        kind="bargauge",
        width=7,
        targets=(
            Target(expr=f"max by (metric) ({series.job('result')})", legend="{{metric}}", instant=True),
        ),
    ),
)

JOB = Dashboard(
    uid=UID,
    title="kubedet / Job",
    description="One detection job: progress, losses, precision, speed, memory, checkpoints and restarts.",
    variables=(
        Variable(
            name="namespace", label="Namespace", query=f"label_values({EVERY_JOB.job('info')}, namespace)"
        ),
        Variable(
            name="job", label="Job", query=f"label_values({EVERY_JOB.job('info', _OF_NAMESPACE)}, name)"
        ),
    ),
    rows=(
        ("Progress", _PROGRESS),
        ("Learning", _LEARNING),
        ("Speed", _SPEED),
        ("Memory", _MEMORY),
        ("Checkpoints", _DURABILITY),
        ("Life", _LIFE),
    ),
    annotations=(
        Annotation(
            name="Failure",
            expr=f"max by (class, reason) ({series.job('last_failure')}) * 1000",
            text="{{class}}: {{reason}}",
        ),
    ),
)
