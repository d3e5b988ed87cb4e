"""The pods of a job: workers that train, and the small one that holds their rendezvous store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kubedet_operator.api import names, types
from kubedet_operator.api.fields import Quantity, parse_quantity
from kubedet_operator.api.status import ExcludedNode
from kubedet_operator.children import environment, placement, storage
from kubedet_operator.children.merge import merge
from kubedet_operator.children.metadata import build_metadata
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import contract

_USER = 1000
_SHARED_MEMORY = {True: Quantity("16Gi"), False: Quantity("1Gi")}
"""With GPUs and without. Data loaders hand their batches over here, and NCCL has its buffers here too."""

_RENDEZVOUS_REQUESTS = {"cpu": "50m", "memory": "32Mi"}
"""The rendezvous is a small program on the standard library (ARCHITECTURE, "What torch costs a process")."""

_LOST_NODE_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_LOST_NODE_SECONDS = 30
"""Kubernetes waits 300 s by default, during which the other workers would stand still."""


def build_worker(
    job: types.DetectionJob,
    index: int,
    *,
    attempt: int,
    settings: OperatorSettings,
    excluded: Sequence[ExcludedNode] = (),
    cause: str | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Worker pod `index` of `job`. It never restarts in place: the operator replaces it, within budgets.

    `cause` is why the attempt before failed; `name` is another one than usual.
    """
    name = name or names.worker_name(job.metadata.name, index)
    metadata = build_metadata(job, name, component=names.WORKER, index=index, attempt=attempt)
    metadata["annotations"] = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(job.spec.metrics.port),
        **_generation(job),
    }
    worker = job.spec.worker
    locations = storage.locate(job.spec)
    base = build_container(worker, settings, module=contract.LAUNCH_MODULE)
    container = {
        **base,
        "env": environment.build_environment(job, index, attempt=attempt, image=base["image"], cause=cause),
        "ports": [{"name": names.METRICS_PORT, "containerPort": job.spec.metrics.port, "protocol": "TCP"}],
        "resources": _build_resources(worker),
        "volumeMounts": [
            {"name": "work", "mountPath": storage.WORK_DIRECTORY},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *storage.build_claim_mounts(locations),
        ],
    }
    pod_spec = {
        **build_pod_spec(job, name, container),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": worker.terminationGracePeriodSeconds,
        "volumes": [
            {"name": "work", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": _shared_memory(worker)}},
            *storage.build_claim_volumes(locations),
        ],
    }
    if worker.nodeSelector:
        pod_spec["nodeSelector"] = dict(worker.nodeSelector)
    pod = placement.place_worker(job, build_pod(metadata, pod_spec), attempt=attempt, excluded=excluded)
    return _with_template(pod, worker.template)


def build_rendezvous(job: types.DetectionJob, *, settings: OperatorSettings) -> dict[str, Any]:
    """The pod that holds the rendezvous store, so that no worker's loss takes it along.

    It runs the trainer's image, with the user's template, but needs no GPU: its resources are its own, and
    it goes wherever there is room.
    """
    name = names.rendezvous_name(job.metadata.name)
    base = build_container(job.spec.worker, settings, module=contract.RENDEZVOUS_MODULE)
    container = {
        **base,
        "env": environment.build_rendezvous_environment(job, image=base["image"]),
        "ports": [
            {"name": names.RENDEZVOUS_PORT, "containerPort": contract.RENDEZVOUS_PORT, "protocol": "TCP"}
        ],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod_spec = {
        **build_pod_spec(job, name, container),
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 5,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    metadata = build_metadata(job, name, component=names.RENDEZVOUS)
    if generation := _generation(job):
        metadata["annotations"] = generation
    pod = _with_template(build_pod(metadata, pod_spec), job.spec.worker.template)
    for built in pod["spec"]["containers"]:
        if built.get("name") == names.CONTAINER:
            built["resources"] = {"requests": dict(_RENDEZVOUS_REQUESTS)}
    return pod


def _generation(job: types.DetectionJob) -> dict[str, str]:
    """The annotation that marks the generation of the spec; none for a job that is not stored."""
    generation = job.metadata.generation
    return {names.GENERATION: str(generation)} if generation else {}


def build_pod(metadata: Mapping[str, Any], pod_spec: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a pod."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": dict(metadata), "spec": dict(pod_spec)}


def build_pod_spec(job: types.DetectionJob, name: str, container: Mapping[str, Any]) -> dict[str, Any]:
    """What all kinds of pods share; it passes the Pod Security level `restricted`."""
    worker, service = job.spec.worker, names.service_name(job.metadata.name)
    spec = {
        **({"hostname": name, "subdomain": service} if environment.has_peers(job.spec) else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": _build_tolerations(worker),
        "containers": [dict(container)],
    }
    if job.spec.schedulingPolicy.priorityClassName:
        spec["priorityClassName"] = job.spec.schedulingPolicy.priorityClassName
    if worker.imagePullSecrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in worker.imagePullSecrets]
    return spec


def build_container(worker: types.Worker, settings: OperatorSettings, *, module: str) -> dict[str, Any]:
    """The container that runs a module of the trainer."""
    return {
        "name": names.CONTAINER,
        "image": image_of(worker, settings),
        **({"imagePullPolicy": worker.imagePullPolicy} if worker.imagePullPolicy else {}),
        "command": ["python3", "-m", module],
        "terminationMessagePath": environment.TERMINATION_MESSAGE_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def image_of(worker: types.Worker, settings: OperatorSettings) -> str:
    """The image of all pods of a job."""
    given = names.find_container((worker.template or {}).get("spec") or {}).get("image")
    return given or worker.image or settings.trainer_image


def _build_resources(worker: types.Worker) -> dict[str, Any]:
    limits = dict(worker.resources.limits)
    if worker.gpus:
        limits[worker.gpuResource] = Quantity(str(worker.gpus))
    parts = {"limits": limits, "requests": dict(worker.resources.requests)}
    return {part: amounts for part, amounts in parts.items() if amounts}


def _shared_memory(worker: types.Worker) -> Quantity:
    """Size of /dev/shm; by default never more than the memory limit, which it counts against."""
    if worker.sharedMemory:
        return worker.sharedMemory
    default = _SHARED_MEMORY[worker.gpus > 0]
    limit = worker.resources.limits.get("memory", default)
    return min(default, limit, key=parse_quantity)


def _build_tolerations(worker: types.Worker) -> list[dict[str, Any]]:
    given = [
        {name: value for name, value in vars(toleration).items() if value is not None}
        for toleration in worker.tolerations
    ]
    named = {toleration.get("key") for toleration in given}
    if None in named:  # every taint is tolerated already
        return given
    return given + [
        {
            "key": taint,
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": _LOST_NODE_SECONDS,
        }
        for taint in _LOST_NODE_TAINTS
        if taint not in named
    ]


def _with_template(pod: dict[str, Any], template: Mapping[str, Any] | None) -> dict[str, Any]:
    """`pod` with the user's template over it; identity, labels and owner stay the operator's."""
    if not template:
        return pod
    partial = {part: template[part] for part in ("metadata", "spec") if template.get(part)}
    return merge(merge(pod, partial), {"metadata": pod["metadata"]})
