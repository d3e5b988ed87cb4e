"""Everything that the operator creates for one job."""

from __future__ import annotations

from typing import Any

from kubedet_operator.api import types
from kubedet_operator.build import service, workers
from kubedet_operator.settings import OperatorSettings


def build_children(
    job: types.DetectionJob, *, attempt: int, settings: OperatorSettings
) -> list[dict[str, Any]]:
    """The Service, the rendezvous pod where there are several workers, and the workers, in that order."""
    replicas = job.spec.worker.replicas
    rendezvous = [workers.build_rendezvous(job, settings=settings)] if replicas > 1 else []
    return [
        service.build_service(job),
        *rendezvous,
        *(workers.build_worker(job, index, attempt=attempt, settings=settings) for index in range(replicas)),
    ]
