"""Everything that the operator creates for one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kubedet_operator.api import types
from kubedet_operator.api.names import worker_name
from kubedet_operator.api.status import ExcludedNode
from kubedet_operator.children import environment, placement, service
from kubedet_operator.children.workers import build_rendezvous, build_worker
from kubedet_operator.settings import OperatorSettings


def build_children(
    job: types.DetectionJob,
    *,
    attempt: int,
    settings: OperatorSettings,
    workers: Mapping[int, str] | None = None,
    excluded: Sequence[ExcludedNode] = (),
    cause: str | None = None,
) -> list[dict[str, Any]]:
    """What `job` needs, in this order: PodGroup, Service, rendezvous pod, and `workers`: names by index.

    By default these are all of its workers. Some gang schedulers need a PodGroup; Service and rendezvous pod
    exist where there are or may be several workers. `cause` is why the attempt before failed.
    """
    if workers is None:
        workers = {index: worker_name(job.metadata.name, index) for index in range(job.spec.worker.replicas)}
    group = placement.build_pod_group(job)
    shared = [service.build_service(job), build_rendezvous(job, settings=settings)]
    return [
        *([group] if group else []),
        *(shared if environment.has_peers(job.spec) else []),
        *(
            build_worker(
                job, index, attempt=attempt, settings=settings, excluded=excluded, cause=cause, name=name
            )
            for index, name in workers.items()
        ),
    ]
