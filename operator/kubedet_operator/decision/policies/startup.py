"""Whether the pods have come up, and if not, why: in the kubelet's or scheduler's words, with a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.api.status import HISTORY_LENGTH, FailureRecord
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft
from kubedet_operator.decision.pods import PodFacts

CREATION_SECONDS = 120
"""A container that has not been created by then is waiting for something: mostly a volume."""

FIRST_START_SECONDS = 600
"""How long a pod may wait for a fix by a person. It holds its GPUs all this time."""

LATER_START_SECONDS = 3600
"""The same for a job that has trained before: what was there is more likely to come back by itself."""


@dataclass(frozen=True, kw_only=True)
class _Cause:
    """What a waiting reason of the kubelet means."""

    reason: Reason
    remedy: str


@dataclass(frozen=True, kw_only=True)
class _Obstacle:
    """Something that keeps a pod, or the job, from starting."""

    reason: Reason
    message: str
    pod: PodFacts | None = None
    lasting: bool = False
    """It stays until a person fixes it."""


_IMAGE = _Cause(
    reason=Reason.IMAGE_NOT_PULLED,
    remedy="correct spec.worker.image or spec.worker.imagePullSecrets, or the chart's trainer.image for all "
    "jobs; the kubelet keeps retrying",
)
_CONTAINER = _Cause(
    reason=Reason.CONTAINER_NOT_CREATED, remedy="`kubectl describe pod` shows the kubelet's events"
)
_SECRET = _Cause(
    reason=Reason.SECRET_NOT_FOUND,
    remedy="create the Secret with the keys accessKey and secretKey, or correct secretRef; "
    "then the pod starts by itself",
)
_CLAIM = _Cause(
    reason=Reason.CLAIM_NOT_FOUND,
    remedy="create the PersistentVolumeClaim or correct the pvc:// URI; then the pod is scheduled by itself",
)
_WAITING = {
    "ErrImagePull": _IMAGE,
    "ImagePullBackOff": _IMAGE,
    "InvalidImageName": _IMAGE,
    "ErrImageNeverPull": _IMAGE,
    "ImageInspectError": _IMAGE,
    "RegistryUnavailable": _IMAGE,
    "CreateContainerConfigError": _CONTAINER,
    "CreateContainerError": _CONTAINER,
    "RunContainerError": _CONTAINER,
    "CrashLoopBackOff": _CONTAINER,
}
_UNSCHEDULABLE = (
    "free or add nodes, or change spec.worker.gpus, resources, nodeSelector or tolerations; "
    "then the pod is scheduled by itself"
)


def judge(facts: Facts, draft: Draft) -> Draft:
    """Set Initialized, Running and Degraded from the pods; fail a job that cannot start for too long."""
    if draft.finished or facts.job is None or facts.job.spec.suspend:
        return draft
    pods = [pod for pod in facts.pods if not pod.deleting and pod.uid not in draft.status.chargedPods]
    workers = [pod for pod in pods if pod in facts.workers]
    least = min(facts.min_replicas, len(draft.indices))
    running = sum(pod.ready for pod in workers)
    obstacle = _obstacle(facts, pods)
    if obstacle and obstacle.pod and obstacle.lasting and running < least:
        draft = _limit(facts, draft, obstacle, obstacle.pod)
        if draft.finished:
            return draft
    started = sum(pod.ready or pod.ended for pod in workers)
    draft = _turn_initialized(draft, obstacle, started=started, least=least)
    draft = draft.turn(
        ConditionType.RUNNING,
        running >= least,
        reason=Reason.WORKERS_RUNNING if running >= least else Reason.WORKERS_NOT_RUNNING,
        message=f"{running} of {len(draft.indices)} workers are ready",
    )
    waiting = [pod for pod in pods if pod.phase == "Pending" and pod.node]
    if waiting and obstacle is None:
        draft = draft.check(min(map(_since, waiting)) + timedelta(seconds=CREATION_SECONDS))
    return _build_anew(facts, draft, pods)


def _turn_initialized(draft: Draft, obstacle: _Obstacle | None, *, started: int, least: int) -> Draft:
    if obstacle is not None:
        said = {"reason": obstacle.reason, "message": obstacle.message}
        return draft.turn(ConditionType.INITIALIZED, False, **said).turn(ConditionType.DEGRADED, True, **said)
    draft = draft.turn(
        ConditionType.INITIALIZED,
        started >= least,
        reason=Reason.PODS_CREATED if started >= least else Reason.WAITING_FOR_PODS,
        message=f"{started} of {len(draft.indices)} workers have started",
    )
    return draft.turn(ConditionType.DEGRADED, False, reason=Reason.AS_EXPECTED, message="no problem")


def _limit(facts: Facts, draft: Draft, obstacle: _Obstacle, pod: PodFacts) -> Draft:
    """Fail the job once `pod` has been kept from starting for too long."""
    patience = LATER_START_SECONDS if draft.status.progress else FIRST_START_SECONDS
    due = _since(pod) + timedelta(seconds=patience)
    if facts.now < due:
        return draft.check(due)
    record = FailureRecord(
        time=draft.now,
        class_="StartUp",
        reason=obstacle.reason.value,
        pod=pod.name,
        node=pod.node,
        message=obstacle.message,
    )
    history = (record, *draft.status.failureHistory)[:HISTORY_LENGTH]
    return draft.change(lastFailure=record, failureHistory=history).end(
        ConditionType.FAILED,
        reason=Reason.START_UP_FAILED,
        message=f"not started within {patience} s: {obstacle.message}",
    )


def _build_anew(facts: Facts, draft: Draft, pods: list[PodFacts]) -> Draft:
    """Recreate pods that cannot start if the spec has changed since, because the change may fix them."""
    stuck = [
        pod
        for pod in pods
        if pod.generation is not None
        and pod.generation < facts.metadata.generation
        and _pod_obstacle(facts, pod) is not None
    ]
    if stuck and facts.grouped:
        return draft.renew(facts.workers).retire(stuck)
    return draft.retire(stuck)


def _obstacle(facts: Facts, pods: list[PodFacts]) -> _Obstacle | None:
    """The first thing that keeps a pod from starting, with what to do about it."""
    if facts.rejection is not None:
        return _Obstacle(
            reason=Reason.CHILD_REJECTED,
            message=f"the API server refuses a pod or Service of this job: {facts.rejection}; correct "
            "spec.worker, or the namespace's quota and policies; the operator retries with growing delays",
        )
    found = [obstacle for pod in pods if (obstacle := _pod_obstacle(facts, pod))]
    return next((obstacle for obstacle in found if obstacle.lasting), found[0] if found else None)


def _pod_obstacle(facts: Facts, pod: PodFacts) -> _Obstacle | None:
    said = pod.waiting_message or pod.waiting_reason or ""
    known = _WAITING.get(pod.waiting_reason or "")
    if known is _CONTAINER and "secret" in said.lower():
        known = _SECRET
    if known is not None:
        message = f"pod {pod.name} ({pod.waiting_reason}): {said}; {known.remedy}"
        # A container that has run before, as the rendezvous' may have, comes back by itself or is charged.
        return _Obstacle(reason=known.reason, message=message, pod=pod, lasting=pod.phase == "Pending")
    if pod.phase != "Pending":
        return None
    if pod.unscheduled is not None:
        before = (other for other in facts.workers if other.index == pod.index and other.deleting)
        if any(before):
            return None  # the worker before it still has its place
        return _unscheduled(pod, pod.unscheduled)
    seconds = (facts.now - _since(pod)).total_seconds()
    if pod.node and seconds >= CREATION_SECONDS:
        message = (
            f"pod {pod.name} on node {pod.node} has not started within {CREATION_SECONDS} s "
            f"({pod.waiting_reason or 'no reason given'}): `kubectl describe pod {pod.name}` shows "
            "whether a volume, a Secret or an image is missing"
        )
        return _Obstacle(reason=Reason.CONTAINER_NOT_CREATED, message=message, pod=pod)
    return None


def _since(pod: PodFacts) -> datetime:
    """Since when the kubelet has been at it: time in a queue is not its."""
    return pod.placed or pod.created


def _unscheduled(pod: PodFacts, said: str) -> _Obstacle:
    if "persistentvolumeclaim" in said and "not found" in said:
        message = f"pod {pod.name}: {said}; {_CLAIM.remedy}"
        return _Obstacle(reason=_CLAIM.reason, message=message, pod=pod, lasting=True)
    message = f"pod {pod.name}: {said}; {_UNSCHEDULABLE}"
    return _Obstacle(reason=Reason.UNSCHEDULABLE, message=message, pod=pod)
