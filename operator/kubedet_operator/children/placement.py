"""Where the workers go and with whom: queues, gangs, topology and nodes to keep clear of.

Queues and gangs are labels, annotations and manifests only. The scheduler that acts on them is installed
separately. `spec.worker.template` is merged last and may change all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubedet_operator.api import names, types
from kubedet_operator.api.status import ExcludedNode
from kubedet_operator.children.merge import merge
from kubedet_operator.children.metadata import build_metadata

POD_GROUP = "PodGroup"

_KUEUE = "kueue.x-k8s.io"
_VOLCANO_GROUP = "scheduling.k8s.io/group-name"
_COSCHEDULING_GROUP = "scheduling.x-k8s.io/pod-group"
_SCHEDULERS = {"Volcano": "volcano", "Coscheduling": "scheduler-plugins-scheduler"}

_PERMIT_SECONDS = 120
"""How long coscheduling holds the places of the first workers while it looks for the others'."""


def build_pod_group(job: types.DetectionJob) -> dict[str, Any] | None:
    """The PodGroup of the gang scheduler that the job names, if it needs one.

    As many workers as can train are its least: the rest of an elastic job comes when there is room.
    """
    scheduling, elastic = job.spec.schedulingPolicy, job.spec.elasticPolicy
    least = elastic.minReplicas if elastic else job.spec.worker.replicas
    given: dict[str, Any] = {}
    if scheduling.gang == "Volcano":
        version = "scheduling.volcano.sh/v1beta1"
        named = {"queue": scheduling.queue, "priorityClassName": scheduling.priorityClassName}
        given = {field: value for field, value in named.items() if value}
    elif scheduling.gang == "Coscheduling":
        version = "scheduling.x-k8s.io/v1alpha1"
        given = {"scheduleTimeoutSeconds": _PERMIT_SECONDS}
    else:
        return None
    return {
        "apiVersion": version,
        "kind": POD_GROUP,
        "metadata": build_metadata(job, names.pod_group_name(job.metadata.name), component=names.GANG),
        "spec": {"minMember": least, **given},
    }


def place_worker(
    job: types.DetectionJob, pod: dict[str, Any], *, attempt: int, excluded: Sequence[ExcludedNode]
) -> dict[str, Any]:
    """`pod`, a worker, as the job's queue, gang and topology and the excluded nodes have it."""
    scheduling = job.spec.schedulingPolicy
    spec: dict[str, Any] = {}
    if scheduler := _SCHEDULERS.get(scheduling.gang):
        spec["schedulerName"] = scheduler
    affinity = dict(job.spec.worker.affinity or {})
    if scheduling.topology is not None:
        affinity = _beside_its_peers(job, affinity, scheduling.topology.key, scheduling.topology.mode)
    if affinity := _clear_of(excluded, affinity):
        spec["affinity"] = affinity
    return merge(pod, {"metadata": _build_membership(job, attempt=attempt), "spec": spec})


def _build_membership(job: types.DetectionJob, *, attempt: int) -> dict[str, Any]:
    """Labels and annotations by which the queue and the gang scheduler know the pod's job."""
    scheduling = job.spec.schedulingPolicy
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    if scheduling.gang == "Volcano":
        annotations[_VOLCANO_GROUP] = names.pod_group_name(job.metadata.name)
    elif scheduling.queue is not None:
        labels[f"{_KUEUE}/queue-name"] = scheduling.queue
    if scheduling.gang == "Coscheduling":
        labels[_COSCHEDULING_GROUP] = names.pod_group_name(job.metadata.name)
    if scheduling.gang == "Kueue":
        # A group of its own for every attempt. Kueue would keep failed pods, and with them the names of
        # their successors, until there are successors, unless the group cannot be retried.
        uid = f"{job.metadata.uid[:8]}-" if job.metadata.uid else ""
        labels[f"{_KUEUE}/pod-group-name"] = f"{job.metadata.name}-{uid}{attempt}"
        annotations[f"{_KUEUE}/pod-group-total-count"] = str(job.spec.worker.replicas)
        annotations[f"{_KUEUE}/retriable-in-group"] = "false"
    found = {"labels": labels, "annotations": annotations}
    return {part: entries for part, entries in found.items() if entries}


def _beside_its_peers(
    job: types.DetectionJob, affinity: dict[str, Any], key: str, mode: str
) -> dict[str, Any]:
    selector = {names.JOB_NAME: job.metadata.name, names.APP_COMPONENT: names.WORKER}
    term = {"labelSelector": {"matchLabels": selector}, "topologyKey": key}
    if mode == "Preferred":
        return _with_term(affinity, "podAffinity", {"weight": 100, "podAffinityTerm": term})
    pods = dict(affinity.get("podAffinity") or {})
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    return {**affinity, "podAffinity": {**pods, required: [*(pods.get(required) or ()), term]}}


def _clear_of(excluded: Sequence[ExcludedNode], affinity: dict[str, Any]) -> dict[str, Any]:
    """`affinity` with the excluded nodes left out. By name: the host name label may be another's."""
    for node in excluded:
        if node.mode == "Preferred":
            term = {"weight": 100, "preference": {"matchFields": [_not(node)]}}
            affinity = _with_term(affinity, "nodeAffinity", term)
    forbidden = [_not(node) for node in excluded if node.mode == "Required"]
    if not forbidden:
        return affinity
    nodes = dict(affinity.get("nodeAffinity") or {})
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    # One of the user's terms is enough for the scheduler: each of them has to rule the nodes out.
    terms = (nodes.get(required) or {}).get("nodeSelectorTerms") or [{}]
    terms = [{**term, "matchFields": [*term.get("matchFields", ()), *forbidden]} for term in terms]
    return {**affinity, "nodeAffinity": {**nodes, required: {"nodeSelectorTerms": terms}}}


def _with_term(affinity: dict[str, Any], kind: str, term: dict[str, Any]) -> dict[str, Any]:
    known = dict(affinity.get(kind) or {})
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    return {**affinity, kind: {**known, preferred: [*(known.get(preferred) or ()), term]}}


def _not(node: ExcludedNode) -> dict[str, Any]:
    return {"key": "metadata.name", "operator": "NotIn", "values": [node.name]}
