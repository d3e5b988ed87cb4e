"""What every child of a job carries: its name, labels and owner."""

from __future__ import annotations

from typing import Any

from kubedet_operator.api import names, types


def build_metadata(
    job: types.DetectionJob,
    name: str,
    *,
    component: str,
    index: int | None = None,
    attempt: int | None = None,
) -> dict[str, Any]:
    """Metadata of the child `name`; without an owner while the job has no uid (local mode, render)."""
    labels = names.labels(
        job.metadata.name, component=component, uid=job.metadata.uid, index=index, attempt=attempt
    )
    metadata = {"name": name, "namespace": job.metadata.namespace, "labels": labels}
    return metadata | ({"ownerReferences": [_owner(job)]} if job.metadata.uid else {})


def _owner(job: types.DetectionJob) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
