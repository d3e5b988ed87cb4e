"""What the operator knows about one job at one moment: a frozen view that decisions are made from.

Nothing here asks the API server or a clock; manifests and the time come from outside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, NamedTuple

from kubedet_operator.api import decoding, names, types, validation
from kubedet_operator.api.dataset import Proposals
from kubedet_operator.api.policies import MAX_SECONDS
from kubedet_operator.api.status import DetectionJobStatus, ExcludedNode
from kubedet_operator.decision import reports
from kubedet_operator.decision.objects import Owner, read_number, read_owner, read_version
from kubedet_operator.decision.reports import read_time
from kubedet_trainer import contract
from kubedet_trainer.contract import without_none
from kubedet_trainer.contract.times import parse_time

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
    node: str | None = None
    address: str | None = None
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


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """The job whose proposals another one takes."""

    place: Proposals | None = None
    """Where its proposals are, and how they are reached."""
    missing: str = "has not ended yet"
    """Why they are not there, after the job's name."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One job and its pods, now."""

    metadata: types.Metadata
    status: DetectionJobStatus
    job: types.DetectionJob | None
    """None where the spec cannot be read at all; `violations` says why."""
    violations: tuple[decoding.Violation, ...] = ()
    training: str = ""
    """Identifies the training that the spec asks for, as `status.training` does that of the workers."""
    fault: str | None = None
    """What is wrong with the recipe or an override; None also where only the worker can tell."""
    pods: tuple[PodFacts, ...] = ()
    """The job's own pods."""
    occupied: frozenset[str] = frozenset()
    """Names of pods that a deleted job of the same name has left, and that are not gone yet."""
    progress: contract.ProgressRecord | None = None
    """The newest answer of rank 0; None while nobody answers."""
    suspects: tuple[ExcludedNode, ...] = ()
    """Nodes that have broken workers of several jobs lately."""
    source: SourceFacts | None = None
    """The job of dataset.proposals.fromJob; None while there is none."""
    rejection: str | None = None
    """What the API server said when it last refused a child of this job."""
    written_status: Mapping[str, Any] = field(default_factory=dict)
    """The status as it is, with what others may have written."""
    repair: bool = False
    """Whether the Service is missing, or somebody has made something else of it."""
    now: datetime

    @property
    def workers(self) -> tuple[PodFacts, ...]:
        """The worker pods; the rendezvous pod is none."""
        return tuple(pod for pod in self.pods if pod.component == names.WORKER)

    @property
    def grouped(self) -> bool:
        """Whether the queue admits all workers as one: none can be replaced or added alone."""
        return self.job is not None and self.job.spec.schedulingPolicy.gang == "Kueue"

    @property
    def min_replicas(self) -> int:
        """The fewest workers that train; 1 where the spec cannot be read."""
        if self.job is None:
            return 1
        spec = self.job.spec
        return spec.elasticPolicy.minReplicas if spec.elasticPolicy else spec.worker.replicas


class Parsed(NamedTuple):
    """The spec of a job as it was read: the same as long as the job's generation is."""

    job: types.DetectionJob | None
    violations: tuple[decoding.Violation, ...]
    training: str = ""
    fault: str | None = None


def parse_spec(manifest: Mapping[str, Any], *, own_account: str = "") -> Parsed:
    """The job in `manifest` without its status, and every rule of the API that it breaks.

    `own_account` is the operator's service account, which no worker may use.
    """
    try:
        job = types.parse_job({**manifest, "status": {}})
    except decoding.InvalidManifest as error:
        return Parsed(None, error.violations)
    broken = validation.validate(job) or validation.check_account(job, own_account)
    return Parsed(job, tuple(broken), _identify_training(job.spec))


def _identify_training(spec: types.DetectionJobSpec) -> str:
    """A digest of what must not change once a worker has trained: the fields of `transitions.TRAINED`."""
    place = spec.checkpoint.storageUri if spec.checkpoint else None
    dataset = without_none(asdict(spec.dataset))
    parts: tuple[Any, ...] = (spec.recipe, sorted(spec.overrides.items()), dataset, place)
    if spec.task == "Measure":
        parts += (spec.task, without_none(asdict(spec.pretrained)) if spec.pretrained else None)
    return sha256(json.dumps(parts).encode()).hexdigest()[:16]


def observe(
    manifest: Mapping[str, Any],
    *,
    parsed: Parsed | None = None,
    pods: Iterable[PodFacts],
    progress: contract.ProgressRecord | None,
    suspects: tuple[ExcludedNode, ...] = (),
    source: Mapping[str, Any] | None = None,
    rejection: str | None = None,
    repair: bool = False,
    now: datetime,
) -> Facts:
    """The facts of the job in `manifest`, which may break any rule of the API, or is `parsed` already.

    `source` is the manifest of the job whose proposals it takes, and `suspects` come from all jobs.
    """
    job, violations, training, fault = parsed or parse_spec(manifest)
    ignored: list[decoding.Violation] = []
    metadata = manifest.get("metadata") or {}
    status = manifest.get("status") or {}
    uid = metadata.get("uid")
    known = sorted(pods, key=lambda pod: pod.name)
    return Facts(
        metadata=decoding.decode(types.Metadata, metadata, path="metadata", found=ignored, strict=False)
        or types.Metadata(),
        status=_read_status(status),
        job=job,
        violations=violations,
        training=training,
        fault=fault,
        pods=tuple(pod for pod in known if pod.job_uid == uid),
        occupied=frozenset(pod.name for pod in known if pod.job_uid != uid),
        progress=progress,
        suspects=suspects,
        source=read_source(source) if source else None,
        rejection=rejection,
        written_status=status,
        repair=repair,
        now=now,
    )


def source_of(manifest: Mapping[str, Any]) -> str | None:
    """The job whose proposals a job takes, as its spec has it, which may break any rule of the API."""
    place: Any = manifest.get("spec")
    for part in ("dataset", "proposals", "fromJob"):
        place = place.get(part) if isinstance(place, Mapping) else None
    return place if isinstance(place, str) else None


def read_source(manifest: Mapping[str, Any]) -> SourceFacts:
    """What a job has to offer to those that take its proposals."""
    job = parse_spec(manifest).job
    status = manifest.get("status") or {}
    turned = {item.get("type") for item in status.get("conditions") or () if item.get("status") == "True"}
    if "Failed" in turned:
        return SourceFacts(
            missing="failed; delete it and create it again, or give dataset.proposals.storageUri"
        )
    if "Complete" not in turned or job is None:
        return SourceFacts()
    uri, checkpoint = (status.get("results") or {}).get("proposalsUri"), job.spec.checkpoint
    if not isinstance(uri, str):
        return SourceFacts(missing="has written no proposals; create it again with spec.writeProposals: true")
    return SourceFacts(
        place=Proposals(
            storageUri=uri,
            endpoint=checkpoint.endpoint if checkpoint else None,
            secretRef=checkpoint.secretRef if checkpoint else None,
        )
    )


def _read_status(written: Mapping[str, Any]) -> DetectionJobStatus:
    """The status as far as it can be read: older operators and others have written to it, too."""
    status = decoding.decode(DetectionJobStatus, written, path="status", found=[], strict=False)
    if status is None:
        return DetectionJobStatus()
    return replace(
        status,
        progress=reports.clean_progress(status.progress) if status.progress else None,
        checkpoint=reports.clean_checkpoint(status.checkpoint),
        time=reports.clean_account(status.time) if status.time else None,
    )


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
    return PodFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        job=owner.name,
        job_uid=owner.uid,
        component=component,
        index=index,
        attempt=read_number(labels.get(names.ATTEMPT)) or 0,
        resource_version=read_version(metadata),
        phase=status.get("phase", "Pending"),
        node=(manifest.get("spec") or {}).get("nodeName"),
        address=_address(status.get("podIP")),
        ready=any(item["name"] == names.CONTAINER and item.get("ready") for item in _containers(status)),
        deleting=deleted is not None,
        gone_by=read_time(deleted),
        lost_at=_lost_at(metadata, status, conditions),
        generation=read_number((metadata.get("annotations") or {}).get(names.GENERATION)),
        created=read_time(metadata.get("creationTimestamp")) or _EPOCH,
        reason=status.get("reason"),
        message=status.get("message"),
        disruption=_said(conditions, "DisruptionTarget", "True", "reason"),
        unscheduled=None if gated else _said(conditions, "PodScheduled", "False", "message"),
        gated=gated,
        placed=_placed(conditions.get("PodScheduled", {})),
        waiting_reason=waiting.get("reason"),
        waiting_message=waiting.get("message"),
        ending=_ending(status),
    )


def is_newer(progress: contract.Progress, known: contract.Progress | None) -> bool:
    """Whether `progress` is not of an earlier time than what is `known`."""
    if known is None or known.lastProgressTime is None:
        return True
    if progress.lastProgressTime is None:
        return False
    return parse_time(progress.lastProgressTime) >= parse_time(known.lastProgressTime)


def read_termination(pod: PodFacts) -> reports.Termination:
    """What the trainer left in the termination message of `pod`."""
    return reports.read_termination(pod.ending.message if pod.ending else "")


def _containers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


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
            message=terminated.get("message", ""),
            time=read_time(terminated.get("finishedAt")) or _EPOCH,
        )
    return None


def _said(conditions: Mapping[str, Mapping[str, Any]], kind: str, status: str, field: str) -> str | None:
    condition = conditions.get(kind, {})
    return condition.get(field) or kind if condition.get("status") == status else None


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
