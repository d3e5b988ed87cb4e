"""The headless Service that gives the pods of a job with several workers their names."""

from __future__ import annotations

from typing import Any

from kubedet_operator.api import names, types
from kubedet_operator.children.metadata import build_metadata


def build_service(job: types.DetectionJob) -> dict[str, Any]:
    """The Service of `job`; it resolves pods before they are ready, because becoming so needs their peers."""
    name = job.metadata.name
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(job, names.service_name(name), component=names.NETWORK),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.APP_MANAGED_BY: names.MANAGER, names.JOB_NAME: name},
            "ports": [
                {
                    "name": names.METRICS_PORT,
                    "port": job.spec.metrics.port,
                    "targetPort": names.METRICS_PORT,
                    "protocol": "TCP",
                }
            ],
        },
    }
