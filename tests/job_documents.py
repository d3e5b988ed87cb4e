"""DetectionJobs that nobody would write, and some that somebody would: valid ones with a few values changed.

Where a value may stand is read from the CRD's schema, so that new fields are covered as well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import builders
from kubedet_operator.api.schema import build_schema

Document = dict[str, Any]
Path = tuple[str | int, ...]

_ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 65536, 2**31 - 1, 2**31, 2**63, 10**30, 0.5, 1.0, -5),
    *(
        "",
        "0",
        "1",
        "a",
        "A b",
        "x" * 64,
        "x" * 1100,
        "ünï",
        "a\tb",
        "a\nb",
        "\x00",
        "\x1b[2J",
        "../x",
        "/x",
        "(a",
    ),
    *(
        "16Gi",
        "-1",
        "1e3",
        "0.5",
        "nvidia.com/gpu",
        "KUBEDET_RECIPE",
        "s3://bucket/x",
        "pvc://claim",
        "file:///x",
    ),
    *(
        "http://[::1",
        "http://[::1]:9000",
        "http://user:pw@host",
        "https://host/x",
        "https://user@host/x",
        "http://",
    ),
    *(
        "https://host:123456",
        "https://host\x00",
        "s3://b/\x07",
        "Auto",
        "all:Recipes",
        "shapes.my_module:recipe",
    ),
    *([], {}, [None], [1], [{}], {"a": None}, {"a": 1}, {"a": "b"}, ["a", "a"], [[]], {"": "x"}),
    *({f"key{index}": "x" for index in range(101)}, ["x"] * 101, [{"name": "a"}] * 2),
]
_PLAIN: dict[str, list[Any]] = {
    "string": ["a", "x-1", "Auto", "16Gi", "s3://bucket/y", "file:///y", "https://host:1", "a.b/c", "Exists"],
    "integer": [1, 2, 60, 5000],
    "boolean": [True, False],
    "object": [{}, None],
    "array": [[], None],
}
_TEMPLATE: Document = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
    "spec": {
        "containers": [
            {
                "name": "trainer",
                "env": [{"name": "A", "value": "x"}],
                "volumeMounts": [{"name": "work", "mountPath": "/x"}],
                "resources": {"limits": {"cpu": "2"}},
                "ports": [{"containerPort": 80}],
            }
        ],
        "volumes": [{"name": "more", "emptyDir": {"sizeLimit": "1Gi"}}],
        "runtimeClassName": "nvidia",
        "terminationGracePeriodSeconds": 30,
    },
}
_AFFINITY: Document = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]
        }
    }
}
_FULL: Document = {
    "overrides": {"optimizer.lr": "0.01"},
    "pretrained": {"storageUri": "https://host/x.pth"},
    "weightsMirror": "https://mirror/weights",
    "dataset": {
        "storageUri": "s3://data/coco",
        "endpoint": "https://minio:9000",
        "secretRef": {"name": "data"},
        "train": {"images": "train"},
        "test": {"annotations": "test.json"},
    },
    "worker": {
        "gpus": 0,
        "replicas": 2,
        "env": [
            {"name": "A", "value": "x"},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "resources": {"limits": {"cpu": 2, "memory": "4Gi"}, "requests": {"cpu": "500m"}},
        "sharedMemory": "1Gi",
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": _AFFINITY,
        "template": _TEMPLATE,
        "imagePullSecrets": [{"name": "registry"}],
    },
    "elasticPolicy": {"minReplicas": 1, "maxReplicas": 4},
    "checkpoint": {"storageUri": "s3://checkpoints/x", "intervalSeconds": 60, "keepBest": {}},
    "failurePolicy": {"rules": [{"name": "a", "onExitCodes": [65], "action": "FailJob"}]},
    "schedulingPolicy": {"gang": "Kueue", "queue": "vision", "topology": {"key": "zone"}},
}


def generate(random: Random, *, namespace: str) -> Iterator[Document]:
    """Documents without end."""
    schema = build_schema()["properties"]["spec"]
    while True:
        job = builders.make_manifest(namespace=namespace)
        if random.random() < 0.7:
            job = builders.make_manifest(namespace=namespace, **copy.deepcopy(_FULL))
        if random.random() < 0.03:
            job["metadata"]["name"] = random.choice(["x" * 49, "9lives", "a-", "a.b", "ok-1", "x" * 48])
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            _change(job["spec"], schema, random)
        yield job


def _change(spec: Document, schema: Mapping[str, Any], random: Random) -> None:
    """Set, remove or add one value somewhere below `spec`."""
    value: Any = spec
    while True:
        inner = _choose(value, schema, random)
        if inner is None:
            return
        key, below = inner
        is_object = isinstance(value, dict)
        known = value.get(key) if is_object else value[key]
        if isinstance(known, dict | list) and known and random.random() < 0.55:
            value, schema = known, below
            continue
        if is_object and key in value and random.random() < 0.1:
            del value[key]
        else:
            value[key] = _odd(below, random)
        return


def _choose(value: Any, schema: Mapping[str, Any], random: Random) -> tuple[Any, Mapping[str, Any]] | None:
    """A place within `value`, and the schema of what may stand there."""
    if isinstance(value, list):
        return random.randrange(len(value)), schema.get("items", {})
    properties = schema.get("properties")
    if properties is None:
        key = random.choice([*value, "more", "KUBEDET_X", "x" * 64])
        return key, schema.get("additionalProperties", {})
    if random.random() < 0.05:
        return random.choice(["noSuchField", "replica", "nope"]), {}
    # Mostly what is there: the rest would rarely be reached.
    key = random.choice([name for name in properties if name in value] or list(properties))
    key = key if random.random() < 0.6 else random.choice(list(properties))
    return key, properties[key]


def _odd(schema: Mapping[str, Any], random: Random) -> Any:
    """A value at or beyond a bound, of the right type, or of any."""
    near: list[Any] = [*schema.get("enum", ()), *_PLAIN.get(schema.get("type", ""), ())]
    for bound in ("minimum", "maximum"):
        if bound in schema:
            near += [schema[bound] - 1, schema[bound], schema[bound] + 1]
    if "maxLength" in schema:
        near += ["x" * schema["maxLength"], "x" * (schema["maxLength"] + 1)]
    if "maxItems" in schema:
        near += [[{"name": f"n{index}"} for index in range(schema["maxItems"] + 1)]]
    return copy.deepcopy(random.choice(near if near and random.random() < 0.5 else _ODD))
