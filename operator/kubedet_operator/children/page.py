"""The pod that writes the page of a zoo: a small one of the trainer's image, which runs `kubedet report`.

It carries the rows in an annotation, compressed, and reads them from a file (downward API). So it needs no
access to the API server, the rows are those of one moment, they go with the pod, and the operator needs no
rights on ConfigMaps. The rows of the whole zoo take 8 KB; an object may have 256 KB of annotations.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kubedet_operator.api import decoding, names, types, zoo
from kubedet_operator.children import environment, storage, workers
from kubedet_operator.children.merge import merge
from kubedet_operator.children.rows import build_ownership
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer import contract

TABLE_FOLDER = "zoo"
"""Below the work directory: the folder of the file with the rows."""
TABLE_FILE = "table"

_MOST_BYTES = 200_000
"""Of the rows as they are written. Kubernetes allows 262144 for all annotations together."""
_MESSAGE_LENGTHS = (512, 100, 0)
_SECONDS = 1800
"""A pod that takes longer hangs: 95 reports of 2 MB are read in less than a minute."""
_REQUESTS = {"cpu": "100m", "memory": "256Mi"}
_QUEUE = "kueue.x-k8s.io/queue-name"
_NOT_FROM_THE_TEMPLATE = (
    "containers",
    "initContainers",
    "serviceAccountName",
    "serviceAccount",
    "automountServiceAccountToken",
)
"""What prepares a training has no place here, a sidecar would keep the pod from ending, and no account may
reach it by way of a zoo."""


@dataclass(frozen=True, kw_only=True)
class PagePlace:
    """Where the page of a zoo goes."""

    uri: str
    """Of the folder, as the zoo's spec has it."""
    job: types.DetectionJob
    """The job of the template, whose store and image the pod uses."""

    @property
    def page_uri(self) -> str:
        """Of the page itself."""
        return f"{self.uri}/{contract.ZOO_PAGE_FILE}"


def locate_page(document: zoo.ModelZoo, *, recipe: str) -> PagePlace | None:
    """The place of the page: next to the rows' checkpoints. None for a template that names no place.

    `recipe` is that of any row.
    """
    given = {**document.spec.template.spec, "recipe": recipe}
    spec = decoding.decode(types.DetectionJobSpec, given, path="spec", found=[], strict=False)
    if spec is None or spec.checkpoint is None:
        return None
    alone = replace(spec, worker=replace(spec.worker, replicas=1), elasticPolicy=None)
    return PagePlace(
        uri=f"{spec.checkpoint.storageUri.rstrip('/')}/{document.metadata.name}",
        job=types.DetectionJob(metadata=document.metadata, spec=alone),
    )


def build_page_pod(
    document: zoo.ModelZoo,
    place: PagePlace,
    *,
    status: Mapping[str, Any],
    digest: str,
    settings: OperatorSettings,
) -> dict[str, Any]:
    """The pod that writes the page of these rows.

    Args:
        document: the zoo.
        place: of `locate_page`.
        status: of the zoo, as the API has it.
        digest: of the rows in it.
        settings: of the operator.
    """
    name, spec = names.page_name(document.metadata.name), place.job.spec
    metadata = _build_metadata(document, spec, status=status, digest=digest)
    locations = _only_the_checkpoints(spec)
    container = workers.build_container(spec.worker, settings, module=contract.COMMAND_MODULE)
    target = f"{locations.checkpoint.uri}/{document.metadata.name}"
    container |= {
        "command": [*container["command"], "report", "--zoo", _table_path(), "--output", target],
        "env": [
            *environment.checkpoint_variables(spec, locations),
            *(environment.user_variable(variable) for variable in spec.worker.env),
        ],
        "resources": {"requests": dict(_REQUESTS)},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": TABLE_FOLDER, "mountPath": f"{storage.WORK_DIRECTORY}/{TABLE_FOLDER}", "readOnly": True},
            *storage.build_claim_mounts(locations),
        ],
    }
    pod_spec = {
        **workers.build_pod_spec(place.job, name, container),
        "restartPolicy": "Never",
        "activeDeadlineSeconds": _SECONDS,
        "terminationGracePeriodSeconds": 5,
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": TABLE_FOLDER, "downwardAPI": {"items": [_build_table_item()]}},
            *storage.build_claim_volumes(locations),
        ],
    }
    template = spec.worker.template or {}
    given = template.get("spec") or {}
    over = {name: value for name, value in given.items() if name not in _NOT_FROM_THE_TEMPLATE}
    pod = merge(
        workers.build_pod(metadata, pod_spec), {"metadata": template.get("metadata") or {}, "spec": over}
    )
    return merge(pod, {"metadata": metadata})


def _build_metadata(
    document: zoo.ModelZoo, spec: types.DetectionJobSpec, *, status: Mapping[str, Any], digest: str
) -> dict[str, Any]:
    queue = spec.schedulingPolicy.queue
    return {
        "name": names.page_name(document.metadata.name),
        "namespace": document.metadata.namespace,
        "labels": {
            names.APP_NAME: names.APPLICATION,
            names.APP_INSTANCE: document.metadata.name,
            names.APP_COMPONENT: names.PAGE,
            names.APP_MANAGED_BY: names.MANAGER,
            names.ZOO: document.metadata.name,
            **({_QUEUE: queue} if queue else {}),
        },
        "annotations": {names.ZOO_ROWS: digest, names.ZOO_TABLE: pack_table(document, status)},
        **build_ownership(document),
    }


def pack_table(document: zoo.ModelZoo, status: Mapping[str, Any]) -> str:
    """The zoo as `kubedet report --zoo` reads it: gzip of JSON in base64.

    Messages are cut where all rows would be too long. What is too long even without them, because workers
    report unreasonable addresses, is refused by the API server, and the condition shows that.
    """
    packed = ""
    for length in _MESSAGE_LENGTHS:
        packed = _pack({
            "apiVersion": names.API_VERSION,
            "kind": names.ZOO_KIND,
            "metadata": {"name": document.metadata.name, "namespace": document.metadata.namespace},
            "spec": {"tolerance": vars(document.spec.tolerance)},
            "status": {**status, "rows": [_cut_messages(row, length) for row in status.get("rows") or ()]},
        })  # fmt: skip
        if len(packed) <= _MOST_BYTES:
            break
    return packed


def _pack(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _cut_messages(row: Mapping[str, Any], length: int) -> dict[str, Any]:
    runs = [
        {**run, "message": run["message"][:length]} if run.get("message") else run
        for run in row.get("runs") or ()
    ]
    return {**row, "runs": runs}


def _table_path() -> str:
    return f"{storage.WORK_DIRECTORY}/{TABLE_FOLDER}/{TABLE_FILE}"


def _build_table_item() -> dict[str, Any]:
    return {
        "path": TABLE_FILE,
        "fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{names.ZOO_TABLE}']"},
    }


def _only_the_checkpoints(spec: types.DetectionJobSpec) -> storage.Locations:
    return storage.Locations(dataset=storage.Location(uri=""), checkpoint=storage.locate(spec).checkpoint)
