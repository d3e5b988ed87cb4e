"""Manifests and typed objects for tests: a valid default, and only what matters to the test spelled out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubedet_operator.api import names, types

UID = "8b4c3a52-6f0e-4f43-9d0e-2f5f3c1f7a11"

_INTERVALS = {"storageUri": "s3://checkpoints/x", "intervalSeconds": 9, "intervalIterations": 9}
_TOO_SMALL = {"sharedMemory": "2Gi", "resources": {"limits": {"memory": "1500M"}}}
_GPU = "nvidia.com/gpu"
STATE = {"storageUri": "s3://checkpoints/x"}
BROKEN_RULES: list[tuple[dict[str, Any], str]] = [
    ({"name": "x" * 49}, "metadata.name"),
    ({"name": "9lives"}, "metadata.name"),
    ({"checkpoint": _INTERVALS}, "spec.checkpoint"),
    ({"worker": _TOO_SMALL}, "spec.worker.sharedMemory"),
    ({"worker": {"resources": {"limits": {_GPU: 8}}}}, f"spec.worker.resources.limits.{_GPU}"),
    ({"worker": {"env": [{"name": "KUBEDET_RECIPE", "value": "x"}]}}, "spec.worker.env[0].name"),
    (
        {
            "worker": {
                "template": {"spec": {"initContainers": [{"env": [{"name": "A"}, {"name": "KUBEDET_GPUS"}]}]}}
            }
        },
        "spec.worker.template.spec.initContainers[0].env[1].name",
    ),
    ({"worker": {"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {}}}]}}, "spec.worker.env[0]"),
    (
        {"worker": {"replicas": 5}, "checkpoint": STATE, "elasticPolicy": {"maxReplicas": 4}},
        "spec.worker.replicas",
    ),
    ({"elasticPolicy": {"maxReplicas": 4}}, "spec.checkpoint"),
    (
        {"dataset": {"validate": False}, "evaluation": {"stopAfter": 3}},
        "spec.evaluation",
    ),
    ({"dataset": {"validate": False}, "evaluation": {"report": "Best"}}, "spec.evaluation"),
    ({"task": "Measure", "dataset": {"validate": False}}, "spec.dataset.validate"),
    (
        {"task": "Measure", "checkpoint": STATE, "elasticPolicy": {"maxReplicas": 4}},
        "spec.elasticPolicy",
    ),
    ({"schedulingPolicy": {"gang": "Kueue"}}, "spec.schedulingPolicy.queue"),
    ({"dataset": {"proposals": {}}}, "spec.dataset.proposals"),
    ({"writeProposals": True}, "spec.checkpoint"),
    ({"failurePolicy": {"rules": [{"name": "x", "action": "FailJob"}]}}, "spec.failurePolicy.rules[0]"),
    (
        {"failurePolicy": {"rules": [{"name": "x", "action": "FailJob", "onMessagePatterns": ["(a"]}]}},
        "spec.failurePolicy.rules[0].onMessagePatterns[0]",
    ),
]
"""Arguments of `make_manifest` that break one rule across fields each, and where: for both ways to check."""


def make_manifest(*, name: str = "demo", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """A DetectionJob as a user writes it: one CPU worker on synthetic data, `spec` laid over it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": merge(
            {
                "recipe": "smoke_faster_rcnn",
                "dataset": {"storageUri": "synthetic://shapes"},
                "worker": {"gpus": 0},
            },
            spec,
        ),
    }


def make_job(
    *,
    name: str = "demo",
    namespace: str = "default",
    uid: str | None = UID,
    generation: int = 1,
    deletion_timestamp: str | None = None,
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> types.DetectionJob:
    """The same as the API server holds it: with a uid, a generation and a status."""
    manifest = make_manifest(name=name, namespace=namespace, **spec)
    manifest["metadata"] |= {
        "uid": uid,
        "generation": generation,
        "deletionTimestamp": deletion_timestamp,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return types.parse_job({**manifest, "status": status or {}})


def make_owner(job: str = "demo", uid: str = UID) -> dict[str, Any]:
    """The owner reference of a child of `job`."""
    kind = {"apiVersion": names.API_VERSION, "kind": names.KIND}
    return {**kind, "name": job, "uid": uid, "controller": True}


def find_pod(pods: Mapping[str, Mapping[str, Any]], job: str, index: int | None) -> str | None:
    """Name of a worker, or with None of the rendezvous; of two of one index that which is not ending."""
    if index is None:
        usual = [names.rendezvous_name(job)]
    else:
        usual = [names.worker_name(job, index), names.spare_worker_name(job, index)]
    known = [name for name in usual if name in pods]
    return min(known, key=lambda name: "deletionTimestamp" in pods[name]["metadata"], default=None)


def make_pod(
    *,
    job: str = "demo",
    namespace: str = "default",
    name: str | None = None,
    index: int = 0,
    attempt: int = 0,
    component: str = names.WORKER,
    phase: str = "Running",
    ready: bool = True,
    node: str | None = "node-0",
    exit_code: int | None = None,
    reason: str | None = None,
    message: str = "",
    waiting: str | None = None,
    conditions: list[dict[str, Any]] | None = None,
    deletion_timestamp: str | None = None,
    uid: str = "pod-uid",
) -> dict[str, Any]:
    """A pod of `job` as the API server returns it.

    `exit_code` makes its container a terminated one, with `reason` and the termination `message`; `waiting`
    is the reason that its container waits for (``ImagePullBackOff``).
    """
    is_worker = component == names.WORKER
    name = name or (names.worker_name(job, index) if is_worker else names.rendezvous_name(job))
    if exit_code is not None:
        state: dict[str, Any] = {
            "terminated": {
                "exitCode": exit_code,
                "reason": reason or ("Completed" if exit_code == 0 else "Error"),
                "message": message,
                "finishedAt": "2026-01-01T00:10:00Z",
            }
        }
    elif waiting is not None:
        state = {"waiting": {"reason": waiting, "message": message}}
    else:
        state = {"running": {"startedAt": "2026-01-01T00:00:10Z"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **({"deletionTimestamp": deletion_timestamp} if deletion_timestamp else {}),
            "ownerReferences": [make_owner(job)],
            "labels": names.labels(
                job,
                component=component,
                uid=UID,
                index=index if is_worker else None,
                attempt=attempt if is_worker else None,
            ),
        },
        "spec": {"containers": [{"name": names.CONTAINER}], **({"nodeName": node} if node else {})},
        "status": {
            "phase": phase,
            "podIP": "10.0.0.1",
            "conditions": conditions or [],
            "containerStatuses": [
                {
                    "name": names.CONTAINER,
                    "ready": ready and exit_code is None and waiting is None,
                    "restartCount": 0,
                    "state": state,
                }
            ],
        },
    }


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid over it, object by object; None removes a field."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = merge(base[key], value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged
