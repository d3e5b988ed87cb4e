"""Every label, annotation, child name and field manager, named once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

GROUP = "kubedet.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DetectionJob"
LIST_KIND = "DetectionJobList"
PLURAL = "detectionjobs"
SINGULAR = "detectionjob"
SHORT_NAME = "dj"

ZOO_KIND = "ModelZoo"
ZOO_LIST_KIND = "ModelZooList"
ZOO_PLURAL = "modelzoos"
ZOO_SINGULAR = "modelzoo"
ZOO_SHORT_NAME = "zoo"

MANAGED_BY = f"{GROUP}/operator"
"""Value of `spec.managedBy` that means this operator."""

FIELD_MANAGER = "kubedet-operator"
"""Owner of the fields that the operator applies, for server-side apply."""

LEASE = "kubedet-operator"
"""Name of the Lease that the acting replica holds."""

APP_NAME = "app.kubernetes.io/name"
APP_INSTANCE = "app.kubernetes.io/instance"
APP_COMPONENT = "app.kubernetes.io/component"
APP_MANAGED_BY = "app.kubernetes.io/managed-by"
JOB_NAME = f"{GROUP}/job-name"
JOB_UID = f"{GROUP}/job-uid"
REPLICA_INDEX = f"{GROUP}/replica-index"
ATTEMPT = f"{GROUP}/attempt"
GENERATION = f"{GROUP}/generation"
"""Annotation of pods: the generation of the spec that they were built from."""

ZOO = f"{GROUP}/zoo"
"""Label of a job: the ModelZoo that owns it."""
ZOO_RECIPE = f"{GROUP}/zoo-recipe"
ZOO_SEED = f"{GROUP}/zoo-seed"
ZOO_HASH = f"{GROUP}/zoo-hash"
ZOO_ATTEMPT = f"{GROUP}/zoo-attempt"
"""Annotations of such a job: its row, the number of the repeat, what the row means, the how manieth job."""
ZOO_SUSPENDED = f"{GROUP}/zoo-suspended"
"""Annotation of such a job while its zoo has it suspended."""
ZOO_ROWS = f"{GROUP}/zoo-rows"
ZOO_TABLE = f"{GROUP}/zoo-table"
"""Annotations of the pod that writes a zoo's page: the digest of the rows, and the zoo with them."""

APPLICATION = "kubedet"
MANAGER = "kubedet-operator"

WORKER = "worker"
RENDEZVOUS = "rendezvous"
NETWORK = "network"
GANG = "gang"
PAGE = "page"
"""Values of the component label: worker pods, the rendezvous pod, the Service, the PodGroup, the pod that
writes a zoo's page."""

CONTAINER = "trainer"
"""Name of the one container of worker and rendezvous pods."""

METRICS_PORT = "metrics"
RENDEZVOUS_PORT = "rendezvous"
"""Names of container and Service ports."""

JOB_NAME_PATTERN = r"[a-z]([-a-z0-9]*[a-z0-9])?"
"""Of a DetectionJob, as a regular expression."""

MAX_JOB_NAME_LENGTH = 48
"""Leaves room for ``-worker-999-b`` within the 63 characters of a host name."""

_SPARE = "-b"


def worker_name(job: str, index: int) -> str:
    """Name of worker pod `index`, its host name too."""
    return f"{job}-worker-{index}"


def spare_worker_name(job: str, index: int) -> str:
    """Name of worker pod `index` where the one before it still has its usual name, because it is ending."""
    return worker_name(job, index) + _SPARE


def rendezvous_name(job: str) -> str:
    """Name of the pod that holds the rendezvous store, its host name too."""
    return f"{job}-rendezvous"


def read_pod_name(name: str, job: str) -> tuple[str, int | None] | None:
    """The component that a pod of `job` with this name is, and a worker's index; None: no pod of a job."""
    if name == rendezvous_name(job):
        return RENDEZVOUS, None
    usual = name.removesuffix(_SPARE)
    index = usual.removeprefix(worker_name(job, 0).removesuffix("0"))
    is_worker = index.isdecimal() and len(index) <= 4 and worker_name(job, int(index)) == usual
    return (WORKER, int(index)) if is_worker else None


def find_container(pod_spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The trainer's container in the spec of a pod; an empty one if there is none."""
    containers = pod_spec.get("containers") or ()
    return next((item for item in containers if item.get("name") == CONTAINER), {})


def page_name(zoo: str) -> str:
    """Name of the pod that writes the page of a zoo."""
    return f"{zoo}-page"


def service_name(job: str) -> str:
    """Name of the headless Service that gives the pods of a job with several workers their addresses."""
    return f"{job}-workers"


def pod_group_name(job: str) -> str:
    """Name of the PodGroup by which Volcano or coscheduling places the workers together."""
    return job


@lru_cache(4096)
def row_job_name(zoo: str, recipe: str, seed: int) -> str:
    """Name of the job that trains a row of a zoo; too long or unusual ones end with a hash of the whole."""
    slug = re.sub(r"[^a-z0-9]+", "-", recipe.lower()).strip("-")
    name = f"{zoo}-{slug}" + (f"-s{seed}" if seed else "")
    if len(name) <= MAX_JOB_NAME_LENGTH and slug == recipe.replace("_", "-"):
        return name
    digest = hashlib.sha256(f"{zoo}/{recipe}/{seed}".encode()).hexdigest()[:8]
    return f"{name[: MAX_JOB_NAME_LENGTH - 9].rstrip('-')}-{digest}"


def pod_address(pod: str, *, job: str, namespace: str) -> str:
    """Name that other pods resolve to the address of one of the job's pods."""
    return f"{pod}.{service_name(job)}.{namespace}.svc"


def labels(
    job: str, *, component: str, uid: str | None, index: int | None = None, attempt: int | None = None
) -> dict[str, str]:
    """Labels of a child of `job`; `index` and `attempt` are those of a worker pod."""
    optional = {JOB_UID: uid, REPLICA_INDEX: index, ATTEMPT: attempt}
    return {
        APP_NAME: APPLICATION,
        APP_INSTANCE: job,
        APP_COMPONENT: component,
        APP_MANAGED_BY: MANAGER,
        JOB_NAME: job,
        **{name: str(value) for name, value in optional.items() if value is not None},
    }


def worker_selector(job: str) -> str:
    """Label selector of the worker pods of `job`: `status.selector`, which the scale subresource shows."""
    return f"{JOB_NAME}={job},{APP_COMPONENT}={WORKER}"


def children_selector(job: str | None = None) -> str:
    """Label selector of every child of `job`, or of every job."""
    of_job = f",{JOB_NAME}={job}" if job else ""
    return f"{APP_MANAGED_BY}={MANAGER}{of_job}"
