"""Everything that the operator creates for one job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubedet_operator.api import types
from kubedet_operator.api.status import ExcludedNode
from kubedet_operator.children import environment, placement, service, workers
from kubedet_operator.settings import OperatorSettings


def build_children(
    job: types.DetectionJob,
    *,
    attempt: int,
    settings: OperatorSettings,
    indices: Sequence[int] | None = None,
    excluded: Sequence[ExcludedNode] = (),
    cause: str | None = None,
) -> list[dict[str, Any]]:
    """What `job` needs, in this order: PodGroup, Service, rendezvous pod, and the workers with `indices`.

    By default these are all of its workers. Some gang schedulers need a PodGroup; Service and rendezvous pod
    exist where there are or may be several workers. `cause` is why the attempt before failed.
    """
    group = placement.build_pod_group(job)
    shared = [service.build_service(job), workers.build_rendezvous(job, settings=settings)]
    return [
        *([group] if group else []),
        *(shared if environment.has_peers(job.spec) else []),
        *(
            workers.build_worker(
                job, index, attempt=attempt, settings=settings, excluded=excluded, cause=cause
            )
            for index in (range(job.spec.worker.replicas) if indices is None else indices)
        ),
    ]
