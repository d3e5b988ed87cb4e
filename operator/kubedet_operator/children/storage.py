"""Where a worker finds its data set, weights and checkpoints: claims become mounts, their URIs paths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kubedet_operator.api import types
from kubedet_operator.api.dataset import Proposals

WORK_DIRECTORY = "/var/lib/kubedet"
"""Scratch of a worker; lives as long as its pod."""

_CLAIM_SCHEME = "pvc://"


@dataclass(frozen=True, kw_only=True)
class Location:
    """One place that a worker reads from or writes to."""

    uri: str
    """As the worker sees it: a claim's is ``file://`` below its mount."""
    purpose: str = ""
    claim: str | None = None
    """The PersistentVolumeClaim to mount, if it is one."""
    read_only: bool = True

    @property
    def mount_path(self) -> str:
        """Where the claim is mounted."""
        return f"/data/{self.purpose}"


@dataclass(frozen=True, kw_only=True)
class Locations:
    """Every place of one job."""

    dataset: Location
    checkpoint: Location
    pretrained: Location | None = None
    weights_mirror: Location | None = None
    proposals: Location | None = None
    resume: Location | None = None
    """None where `resume` is a word (Auto, Never) rather than a URI."""

    @property
    def claimed(self) -> tuple[Location, ...]:
        """Those that a claim has to be mounted for."""
        places = (
            self.dataset,
            self.proposals,
            self.checkpoint,
            self.pretrained,
            self.weights_mirror,
            self.resume,
        )
        return tuple(place for place in places if place and place.claim)


def locate(spec: types.DetectionJobSpec) -> Locations:
    """The places that the URIs of `spec` mean to a worker."""
    checkpoint, proposals = spec.checkpoint, spec.dataset.proposals
    resume = checkpoint.resume if checkpoint and "://" in checkpoint.resume else None
    return Locations(
        dataset=_locate(spec.dataset.storageUri, "dataset"),
        # Without a place of its own the state lives as long as the pod, so that its processes can restart.
        checkpoint=_locate(checkpoint.storageUri, "checkpoint", read_only=False)
        if checkpoint
        else Location(uri=f"file://{WORK_DIRECTORY}/checkpoints"),
        pretrained=_locate(spec.pretrained.storageUri, "pretrained") if spec.pretrained else None,
        weights_mirror=_locate(spec.weightsMirror, "weights-mirror") if spec.weightsMirror else None,
        proposals=_locate(proposals.storageUri, "proposals") if proposals and proposals.storageUri else None,
        resume=_locate(resume, "resume") if resume else None,
    )


def with_proposals(job: types.DetectionJob, taken: Proposals | None) -> types.DetectionJob:
    """`job` with the proposals that it has taken from another job, if any."""
    if taken is None:
        return job
    return replace(job, spec=replace(job.spec, dataset=replace(job.spec.dataset, proposals=taken)))


def build_claim_volumes(locations: Locations) -> list[dict[str, Any]]:
    """One volume for each claim, however many places lie in it."""
    claims = _volume_names(locations)
    return [{"name": name, "persistentVolumeClaim": {"claimName": claim}} for claim, name in claims.items()]


def build_claim_mounts(locations: Locations) -> list[dict[str, Any]]:
    """One mount for each place that lies in a claim."""
    claims = _volume_names(locations)
    return [
        {
            "name": claims[place.claim],
            "mountPath": place.mount_path,
            **({"readOnly": True} if place.read_only else {}),
        }
        for place in locations.claimed
        if place.claim
    ]


def _volume_names(locations: Locations) -> dict[str, str]:
    """Claim -> volume. Some volume drivers never mount a claim that two volumes of one pod name."""
    names: dict[str, str] = {}
    for place in locations.claimed:
        if place.claim:
            names.setdefault(place.claim, place.purpose)
    return names


def _locate(uri: str, purpose: str, *, read_only: bool = True) -> Location:
    if not uri.startswith(_CLAIM_SCHEME):
        return Location(uri=uri, purpose=purpose, read_only=read_only)
    claim, _, path = uri.removeprefix(_CLAIM_SCHEME).partition("/")
    mounted = Location(uri="", purpose=purpose, claim=claim, read_only=read_only)
    return Location(
        uri=f"file://{mounted.mount_path}/{path}".rstrip("/"),
        purpose=purpose,
        claim=claim,
        read_only=read_only,
    )
