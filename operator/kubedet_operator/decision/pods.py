"""What the operator knows about one pod: the few fields that decisions need, read from the API's JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from kubedet_operator.api import names
from kubedet_operator.api.policies import MAX_SECONDS
from kubedet_operator.decision import reports
from kubedet_operator.decision.objects import Owner, read_number, read_owner, read_version
from kubedet_trainer.contract import Environment
from kubedet_trainer.contract.times import read_time

_ENDED_PHASES = ("Succeeded", "Failed")
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the container of a pod ended."""

    exit_code: int
    reason: str
    """The kubelet's word: Completed, Error, OOMKilled, ..."""
    message: str
    """The termination message, at most `contract.TERMINATION_MESSAGE_BYTES` long."""
    time: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class PodFacts:
    """The few fields of a pod that decisions need; the whole object is not kept."""

    name: str
    uid: str
    job: str
    job_uid: str = ""
    component: str = names.WORKER
    index: int | None = None
    attempt: int = 0
    resource_version: int = 0
    phase: str = "Pending"
    """The pod's; that of the trainer where only a sidecar is left."""
    lingers: bool = False
    """The trainer has ended, and another container keeps the pod running: a webhook has added it."""
    node: str | None = None
    address: str | None = None
    image: str | None = None
    """Of the trainer's container, as the operator asked for it."""
    ready: bool = False
    deleting: bool = False
    gone_by: datetime | None = None
    """When a pod that is being deleted has used its grace up."""
    generation: int | None = None
    """Generation of the spec that the pod was built from."""
    lost_at: datetime | None = None
    """When the pod's deletion was requested, or its node was lost."""
    created: datetime
    reason: str | None = None
    """Why the whole pod failed, as whatever ended it says: Evicted, UnexpectedAdmissionError, ..."""
    message: str | None = None
    disruption: str | None = None
    """Reason of the DisruptionTarget condition, where it holds."""
    unscheduled: str | None = None
    """What the scheduler says while it finds no node."""
    gated: bool = False
    """A queue holds the pod back from the scheduler."""
    placed: datetime | None = None
    """When the scheduler chose its node."""
    waiting_reason: str | None = None
    """What the kubelet waits for before it starts the container."""
    waiting_message: str | None = None
    ending: Ending | None = None

    @property
    def ended(self) -> bool:
        """Whether no container of the pod will run again."""
        return self.phase in _ENDED_PHASES

    @property
    def active(self) -> bool:
        """Whether the pod counts as one that works or will work."""
        return not self.ended and not self.deleting


def parse_pod(manifest: Mapping[str, Any]) -> PodFacts | None:
    """The facts of a pod in the API's JSON, or None for a pod that is no child of a job."""
    metadata = manifest["metadata"]
    owner = read_owner(metadata)
    named = names.read_pod_name(metadata["name"], owner.name) if owner else None
    if owner is None or named is None:
        return None
    component, index = named
    return read_pod(manifest, owner=owner, component=component, index=index)


def read_pod(
    manifest: Mapping[str, Any], *, owner: Owner, component: str, index: int | None = None
) -> PodFacts:
    """The facts of a pod that belongs to `owner`."""
    metadata = manifest["metadata"]
    labels = metadata.get("labels") or {}
    status = manifest.get("status") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    waiting = _waiting(status)
    deleted = metadata.get("deletionTimestamp")
    gated = conditions.get("PodScheduled", {}).get("reason") == "SchedulingGated"
    phase, lingers = _phase(manifest.get("spec") or {}, status)
    return PodFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        job=owner.name,
        job_uid=owner.uid,
        component=component,
        index=index,
        attempt=read_number(labels.get(names.ATTEMPT)) or 0,
        resource_version=read_version(metadata),
        phase=phase,
        lingers=lingers,
        node=(manifest.get("spec") or {}).get("nodeName"),
        address=_address(status.get("podIP")),
        image=_image(manifest.get("spec") or {}),
        ready=any(item["name"] == names.CONTAINER and item.get("ready") for item in _containers(status)),
        deleting=deleted is not None,
        gone_by=read_time(deleted),
        lost_at=_lost_at(metadata, status, conditions),
        generation=read_number((metadata.get("annotations") or {}).get(names.GENERATION)),
        created=read_time(metadata.get("creationTimestamp")) or _EPOCH,
        reason=status.get("reason"),
        message=_text(status.get("message")),
        disruption=_said(conditions, "DisruptionTarget", "True", "reason"),
        unscheduled=None if gated else _said(conditions, "PodScheduled", "False", "message"),
        gated=gated,
        placed=_placed(conditions.get("PodScheduled", {})),
        waiting_reason=waiting.get("reason"),
        waiting_message=_text(waiting.get("message")),
        ending=_ending(status),
    )


def read_termination(pod: PodFacts) -> reports.Termination:
    """What the trainer left in the termination message of `pod`."""
    return reports.read_termination(pod.ending.message if pod.ending else "")


def _containers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _image(spec: Mapping[str, Any]) -> str | None:
    """What the container's environment says; in the field of the image a webhook may have put another one."""
    trainer = names.find_container(spec)
    told = (item.get("value") for item in trainer.get("env") or () if item.get("name") == Environment.IMAGE)
    found = next(told, None) or trainer.get("image")
    return sys.intern(found) if isinstance(found, str) else None  # thousands of pods have the same


def _address(text: Any) -> str | None:
    """`text` if it is the address of one host: anything else would lead requests elsewhere."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return None if address.is_multicast or address.is_unspecified else str(address)


def _waiting(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the first container waits for that waits for more than the ones before it."""
    for container in _containers(status):
        waiting: Mapping[str, Any] = (container.get("state") or {}).get("waiting") or {}
        if waiting and waiting.get("reason") != "PodInitializing":
            return waiting
    return {}


def _phase(spec: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[str, bool]:
    """The phase of a pod, and whether it only runs for a container that is not the trainer's.

    Between the end of the only container and that of the pod, a kubelet reports it as running, too.
    """
    phase = status.get("phase", "Pending")
    if phase != "Running" or spec.get("restartPolicy") != "Never":
        return phase, False
    containers = status.get("containerStatuses") or ()
    states = {item.get("name"): item.get("state") or {} for item in containers}
    ended = states.pop(names.CONTAINER, {}).get("terminated")
    if not ended or not any("running" in state for state in states.values()):
        return phase, False
    return ("Failed" if ended.get("exitCode") else "Succeeded"), True


def _ending(status: Mapping[str, Any]) -> Ending | None:
    """The ending of the trainer's container, or of the first other one that failed before it could start."""
    endings = [
        (container.get("name"), container["state"]["terminated"])
        for container in _containers(status)
        if (container.get("state") or {}).get("terminated")
    ]
    own = [terminated for name, terminated in endings if name == names.CONTAINER]
    failed = [terminated for _, terminated in endings if terminated.get("exitCode")]
    for terminated in (*own, *failed):
        return Ending(
            exit_code=terminated.get("exitCode", 0),
            reason=terminated.get("reason", ""),
            message=_text(terminated.get("message")) or "",
            time=read_time(terminated.get("finishedAt")) or _EPOCH,
        )
    return None


def _text(value: str | None) -> str | None:
    return reports.clean_text(value) if value else None


def _said(conditions: Mapping[str, Mapping[str, Any]], kind: str, status: str, field: str) -> str | None:
    condition = conditions.get(kind, {})
    return _text(condition.get(field)) or kind if condition.get("status") == status else None


def _placed(scheduled: Mapping[str, Any]) -> datetime | None:
    return read_time(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None


def _lost_at(
    metadata: Mapping[str, Any], status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]
) -> datetime | None:
    disruption = conditions.get("DisruptionTarget", {})
    if disruption.get("status") == "True" and (since := read_time(disruption.get("lastTransitionTime"))):
        return since
    if gone_by := read_time(metadata.get("deletionTimestamp")):
        grace = min(max(metadata.get("deletionGracePeriodSeconds") or 0, 0), MAX_SECONDS)
        return max(gone_by - timedelta(seconds=grace), _EPOCH)
    turned = [time for item in conditions.values() if (time := read_time(item.get("lastTransitionTime")))]
    return max(turned, default=None) if status.get("phase") == "Failed" else None
