"""Whether the pods have come up, and if not, why: in the kubelet's or scheduler's words, with a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.facts import Facts, PodFacts
from kubedet_operator.plan import Draft

CREATION_SECONDS = 120
"""A container that has not been created by then is waiting for something: mostly a volume."""


@dataclass(frozen=True, kw_only=True)
class _Obstacle:
    """What a waiting reason of the kubelet means."""

    reason: Reason
    remedy: str


_IMAGE = _Obstacle(
    reason=Reason.IMAGE_NOT_PULLED,
    remedy="check spec.worker.image and spec.worker.imagePullSecrets; the kubelet goes on trying",
)
_CONTAINER = _Obstacle(
    reason=Reason.CONTAINER_NOT_CREATED, remedy="`kubectl describe pod` shows the kubelet's events"
)
_SECRET = _Obstacle(
    reason=Reason.SECRET_NOT_FOUND,
    remedy="create the Secret with the keys accessKey and secretKey, or correct secretRef; "
    "the pod starts by itself then",
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
    "free or add such nodes, or change spec.worker.gpus, resources, nodeSelector or tolerations; "
    "the pod is placed by itself then"
)


def judge(facts: Facts, draft: Draft) -> Draft:
    """Turn Initialized, Running and Degraded by what the pods say."""
    if draft.finished or facts.job is None:
        return draft
    replicas = facts.job.spec.worker.replicas
    pods = [pod for pod in facts.pods if not pod.deleting]
    workers = [pod for pod in facts.workers if not pod.deleting]
    started = [pod for pod in workers if pod.ready or pod.ended]
    obstacle = _obstacle(facts, pods)
    draft = _turn_initialized(draft, obstacle, started=len(started), replicas=replicas)
    running = sum(pod.ready for pod in workers)
    draft = draft.turn(
        ConditionType.RUNNING,
        running >= replicas,
        reason=Reason.WORKERS_RUNNING if running >= replicas else Reason.WORKERS_NOT_RUNNING,
        message=f"{running} of {replicas} workers are ready",
    )
    waiting = [pod for pod in pods if pod.phase == "Pending" and pod.node]
    if waiting and obstacle is None:
        draft = draft.check(min(pod.created for pod in waiting) + timedelta(seconds=CREATION_SECONDS))
    return draft


def _turn_initialized(
    draft: Draft, obstacle: tuple[Reason, str] | None, *, started: int, replicas: int
) -> Draft:
    if obstacle is not None:
        reason, message = obstacle
        draft = draft.turn(ConditionType.INITIALIZED, False, reason=reason, message=message)
        return draft.turn(ConditionType.DEGRADED, True, reason=reason, message=message)
    draft = draft.turn(
        ConditionType.INITIALIZED,
        started >= replicas,
        reason=Reason.PODS_CREATED if started >= replicas else Reason.WAITING_FOR_PODS,
        message=f"{started} of {replicas} workers have started",
    )
    return draft.turn(ConditionType.DEGRADED, False, reason=Reason.AS_EXPECTED, message="nothing to do")


def _obstacle(facts: Facts, pods: list[PodFacts]) -> tuple[Reason, str] | None:
    """The first thing that keeps a pod from starting, with what to do about it."""
    if facts.rejection is not None:
        return Reason.CHILD_REJECTED, (
            f"the API server refuses a pod or Service of this job: {facts.rejection}; "
            "correct spec.worker or the namespace's quota and policies; tried again with growing delays"
        )
    for pod in pods:
        if found := _pod_obstacle(facts, pod):
            return found
    return None


def _pod_obstacle(facts: Facts, pod: PodFacts) -> tuple[Reason, str] | None:
    said = pod.waiting_message or pod.waiting_reason or ""
    known = _WAITING.get(pod.waiting_reason or "")
    if known is _CONTAINER and "secret" in said.lower():
        known = _SECRET
    if known is not None:
        return known.reason, f"pod {pod.name} ({pod.waiting_reason}): {said}; {known.remedy}"
    if pod.phase != "Pending":
        return None
    if pod.unscheduled is not None:
        return Reason.UNSCHEDULABLE, f"pod {pod.name}: {pod.unscheduled}; {_UNSCHEDULABLE}"
    seconds = (facts.now - pod.created).total_seconds()
    if pod.node and seconds >= CREATION_SECONDS:
        return Reason.CONTAINER_NOT_CREATED, (
            f"pod {pod.name} on node {pod.node} has not started within {CREATION_SECONDS} s "
            f"({pod.waiting_reason or 'no reason given'}): `kubectl describe pod {pod.name}` shows "
            "whether a volume, a Secret or an image is missing"
        )
    return None
