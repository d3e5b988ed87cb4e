"""Figures of the jobs, read out of their manifests when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from kubedet_operator.api import types
from kubedet_operator.api.conditions import Phase
from kubedet_operator.decision import evidence
from kubedet_operator.decision.policies import accounting
from kubedet_operator.decision.zoo.facts import owner_of
from kubedet_operator.telemetry.manifests import WHOSE, Figure, Manifest, Reader
from kubedet_trainer.contract.metrics import Definition
from kubedet_trainer.contract.times import parse_time

_DEFAULT_GPUS = types.Worker().gpus
_CHARGED = ("application", "infrastructure", "process")
_RESULTS = ("memoryGB", "secondsPerIteration", "inferenceFps", "boxAP", "maskAP", "ar1000")
_ENDED = (Phase.SUCCEEDED, Phase.FAILED)


JOB_TABLE: Mapping[str, Definition] = {
    "jobs": Definition(
        kind="gauge",
        name="kubedet_operator_jobs",
        help="Jobs by phase.",
        labels=("phase",),
        known=tuple(phase.value for phase in Phase),
    ),
    "excluded_nodes": Definition(
        kind="gauge",
        name="kubedet_operator_excluded_nodes",
        help="Jobs whose new pods avoid a node, by node, mode (Preferred, Required) and the reason of the "
        "newest failure there. Several jobs on one node mean that it is broken.",
        labels=("node", "mode", "reason"),
    ),
    "suspect_nodes": Definition(
        kind="gauge",
        name="kubedet_operator_suspect_nodes",
        help="Jobs of which a node has broken a worker within the last hour, by node. From 3 on, new pods of "
        "all jobs avoid the node.",
        labels=("node",),
    ),
    "info": Definition(
        kind="gauge",
        name="kubedet_job_info",
        help="Always 1. The labels join a job to its recipe, its queue and its zoo. The last two may be "
        "empty.",
        labels=(*WHOSE, "recipe", "queue", "zoo"),
    ),
    "created": Definition(
        kind="gauge",
        name="kubedet_job_created_timestamp_seconds",
        help="UNIX time of the creation of a job.",
        labels=WHOSE,
    ),
    "status_phase": Definition(
        kind="gauge",
        name="kubedet_job_status_phase",
        help="1 for the phase of a job.",
        labels=(*WHOSE, "phase"),
    ),
    "status_reason": Definition(
        kind="gauge",
        name="kubedet_job_status_reason",
        help="1 for the reason of a job's phase, where the phase does not say it.",
        labels=(*WHOSE, "reason"),
    ),
    "stage": Definition(
        kind="gauge",
        name="kubedet_job_stage",
        help="1 for the stage of the training that rank 0 last reported.",
        labels=(*WHOSE, "stage"),
    ),
    "gpus": Definition(
        kind="gauge",
        name="kubedet_job_gpus",
        help="GPUs that the existing worker pods of a job request. The sum over time is GPU hours.",
        labels=WHOSE,
    ),
    "restarts": Definition(
        kind="counter",
        name="kubedet_job_restarts_total",
        help="Restarts of a job, by class. More than a few per hour are a loop.",
        labels=(*WHOSE, "class"),
    ),
    "last_failure": Definition(
        kind="gauge",
        name="kubedet_job_last_failure_timestamp_seconds",
        help="UNIX time of the newest failure of a job. The labels have its class and reason.",
        labels=(*WHOSE, "class", "reason"),
    ),
    "checkpoint": Definition(
        kind="gauge",
        name="kubedet_job_checkpoint_timestamp_seconds",
        help="UNIX time of the newest checkpoint. A failure loses the work since then.",
        labels=WHOSE,
    ),
    "checkpoint_interval": Definition(
        kind="gauge",
        name="kubedet_job_checkpoint_interval_seconds",
        help="Seconds between checkpoints, if the job sets them.",
        labels=WHOSE,
    ),
    "epoch": Definition(
        kind="gauge",
        name="kubedet_job_epoch",
        help="Finished epochs of a job.",
        labels=WHOSE,
    ),
    "progress": Definition(
        kind="gauge",
        name="kubedet_job_progress_ratio",
        help="Share of the iterations that are completed, 0 to 1.",
        labels=WHOSE,
    ),
    "remaining": Definition(
        kind="gauge",
        name="kubedet_job_eta_seconds",
        help="Seconds to the end of the training, as rank 0 estimates.",
        labels=WHOSE,
    ),
    "straggler": Definition(
        kind="gauge",
        name="kubedet_job_straggler_ratio",
        help="Forward time of the rank that all others wait for, divided by that of the median rank. Absent "
        "while there is no such rank.",
        labels=(*WHOSE, "worker", "node", "rank"),
    ),
    "result": Definition(
        kind="gauge",
        name="kubedet_job_result",
        help="The row of a completed job, by column of the zoo.",
        labels=(*WHOSE, "metric"),
    ),
    "published": Definition(
        kind="gauge",
        name="kubedet_job_published",
        help="The published row of the recipe of a completed job, by column of the zoo.",
        labels=(*WHOSE, "metric"),
    ),
    "gpu_seconds": Definition(
        kind="counter",
        name="kubedet_job_gpu_seconds_total",
        help="GPUs of a job times the seconds for which it had them, since its creation. It is counted at "
        "changes and reports, so it may be a minute behind.",
        labels=WHOSE,
    ),
    "time": Definition(
        kind="counter",
        name="kubedet_job_time_seconds_total",
        help="Seconds of a job's life, by phase. Most of them should be training.",
        labels=(*WHOSE, "phase"),
    ),
}
"""What is read out of the jobs' manifests."""


def _read_state(job: Manifest) -> Iterator[Figure]:
    spec, status, owner = job.get("spec") or {}, job.get("status") or {}, owner_of(job)
    phase = _phase(status)
    yield "jobs", (phase,), 1
    yield "status_phase", (phase,), 1
    queue = (spec.get("schedulingPolicy") or {}).get("queue", "")
    yield "info", (str(spec.get("recipe", "")), queue, owner[1] if owner else ""), 1


def _read_course(job: Manifest, *, clock: Callable[[], datetime]) -> Iterator[Figure]:
    """What the operator says of a job's course."""
    status = job.get("status") or {}
    if reason := status.get("reason"):
        yield "status_reason", (str(reason),), 1
    if created := job["metadata"].get("creationTimestamp"):
        yield "created", (), _seconds(created)
    yield "gpus", (), _gpus(job.get("spec") or {}, status)
    for spent_on, seconds in accounting.seconds_by_phase(job, now=clock()).items():
        yield "time", (spent_on,), seconds
    yield "gpu_seconds", (), status.get("gpuSeconds") or 0


def _read_training(job: Manifest) -> Iterator[Figure]:
    """What rank 0 has reported."""
    status = job.get("status") or {}
    reported, results = status.get("progress") or {}, status.get("results") or {}
    yield "progress", (), reported.get("percentage", 0) / 100
    if "stage" in reported:
        yield "stage", (reported["stage"],), 1
    if "epoch" in reported:
        yield "epoch", (), reported["epoch"]
    if "estimatedRemainingSeconds" in reported:
        yield "remaining", (), reported["estimatedRemainingSeconds"]
    if slow := status.get("straggler"):
        yield "straggler", (slow["pod"], slow.get("node", ""), str(slow["rank"])), slow["ratio"]
    published = results.get("reference") or {}
    for column in _RESULTS:
        if column in results:
            yield "result", (column,), results[column]
        if column in published:
            yield "published", (column,), published[column]


def _read_durability(job: Manifest) -> Iterator[Figure]:
    """How often a job failed, and how much of its work is safe."""
    spec, status = job.get("spec") or {}, job.get("status") or {}
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


def _read_exclusions(job: Manifest, *, clock: Callable[[], datetime]) -> Iterator[Figure]:
    """Counted over all jobs: a series for each job and node could be as many as both together."""
    status, now = job.get("status") or {}, clock()
    for name, against in evidence.read_evidence(job).items():
        if evidence.is_fresh(against, now=now):
            yield "suspect_nodes", (name,), 1
    if _phase(status) in _ENDED:
        return
    for node in status.get("excludedNodes") or ():
        if parse_time(node["until"]) > now:
            yield "excluded_nodes", (node["name"], node["mode"], node["reason"]), 1


def job_readers(clock: Callable[[], datetime]) -> Sequence[Reader]:
    """What reads the figures of `JOB_TABLE` out of a job, by the time of `clock`."""
    return (
        _read_state,
        partial(_read_course, clock=clock),
        _read_training,
        _read_durability,
        partial(_read_exclusions, clock=clock),
    )


def _phase(status: Mapping[str, Any]) -> str:
    """Another controller may have written any word."""
    found = status.get("phase")
    return found if found in JOB_TABLE["jobs"].known else Phase.PENDING.value


def _gpus(spec: Mapping[str, Any], status: Mapping[str, Any]) -> int:
    per_worker: int = (spec.get("worker") or {}).get("gpus", _DEFAULT_GPUS)
    return per_worker * int((status.get("workers") or {}).get("active", 0))


def _seconds(time: str) -> float:
    return parse_time(time).timestamp()
