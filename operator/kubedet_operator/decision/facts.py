"""What the operator knows about one job at one moment: a frozen view that decisions are made from.

Nothing here asks the API server or a clock; manifests and the time come from outside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

from kubedet_operator.api import decoding, names, types, validation
from kubedet_operator.api.dataset import Proposals
from kubedet_operator.api.status import DetectionJobStatus, ExcludedNode
from kubedet_operator.decision import reports
from kubedet_operator.decision.pods import PodFacts
from kubedet_trainer import contract
from kubedet_trainer.contract import without_none
from kubedet_trainer.contract.times import parse_time


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
    def spec_changed(self) -> bool:
        """Whether the status was decided for another spec. Otherwise only an operator of another version can
        have decided otherwise about it, and what it decided holds."""
        return self.status.observedGeneration != self.metadata.generation

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
    """The status as far as it can be read: operators of other versions and others have written to it, too."""
    written = reports.with_known_stage(written)
    status = decoding.decode(DetectionJobStatus, written, path="status", found=[], strict=False)
    if status is None:
        return DetectionJobStatus()
    return replace(
        status,
        activeSeconds=reports.clean_seconds(status.activeSeconds),
        progress=reports.clean_progress(status.progress) if status.progress else None,
        checkpoint=reports.clean_checkpoint(status.checkpoint),
        time=reports.clean_account(status.time) if status.time else None,
    )


def is_newer(progress: contract.Progress, known: contract.Progress | None) -> bool:
    """Whether `progress` is not of an earlier time than what is `known`.

    What one worker has counted says so whatever its clock does. Of two workers their clocks must.
    """
    if known is None or known.lastProgressTime is None:
        return True
    if progress.lastProgressTime is None:
        return False
    if progress.time and known.time and progress.time.since == known.time.since:
        return sum(progress.time.seconds.values()) >= sum(known.time.seconds.values())
    return parse_time(progress.lastProgressTime) >= parse_time(known.lastProgressTime)
