"""The CRD as it is generated; tests/integration has a real API server judge it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

import first_release
from builders import make_manifest
from kubedet_operator.api import names, schema


def _walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}")
    for part in ("items", "additionalProperties"):
        if isinstance(node.get(part), dict):
            yield from _walk(node[part], f"{path}[]")


NODES = dict(_walk(schema.build_schema(), ""))
AS_IN_A_POD = (".worker.template.", ".worker.affinity.", ".worker.env[].valueFrom.")
"""Below these, Kubernetes has described and bounded the fields."""
_FREE = {"ModelZoo": [".spec.changes[].spec"]}
"""A part of a job's spec, which is checked together with the rest."""
of_both = pytest.mark.parametrize("resource", schema.RESOURCES, ids=lambda resource: resource.kind)


@of_both
def test_every_field_is_described(resource: schema.Resource) -> None:
    nodes = dict(_walk(schema.build_schema(resource), ""))
    fields = [path for path in nodes if path.count(".") > 1 and not path.endswith("[]")]
    fields = [path for path in fields if not any(part in path for part in AS_IN_A_POD)]
    assert len(fields) > 100
    assert [path for path in fields if not nodes[path].get("description")] == []


@of_both
def test_every_list_map_and_string_is_bounded(resource: schema.Resource) -> None:
    unbounded = [
        path
        for path, node in _walk(schema.build_schema(resource), "")
        if path.startswith(".spec")
        and not any(part in path for part in AS_IN_A_POD)
        and (
            (node.get("type") == "string" and not {"maxLength", "enum"} & set(node))
            or (node.get("type") == "array" and "maxItems" not in node)
            or ("additionalProperties" in node and "maxProperties" not in node)
        )
    ]
    assert unbounded == []


def test_the_status_has_no_defaults() -> None:
    assert [path for path, node in NODES.items() if path.startswith(".status") and "default" in node] == []


def test_a_default_is_the_dataclasses_own() -> None:
    assert NODES[".spec.worker.replicas"]["default"] == 1
    assert NODES[".spec.worker"]["default"] == {}
    assert "default" not in NODES[".spec.worker.env"]
    assert "default" not in NODES[".spec.checkpoint"]


def test_conditions_are_merged_by_type() -> None:
    assert NODES[".status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]


@of_both
def test_columns_and_scale_point_at_fields_that_exist(resource: schema.Resource) -> None:
    nodes = dict(_walk(schema.build_schema(resource), ""))
    version = schema.build_crd(resource)["spec"]["versions"][0]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    paths += version["subresources"].get("scale", {}).values()
    assert [path for path in paths if path not in nodes and not path.startswith(".metadata")] == []


@pytest.mark.parametrize(
    "invalid", [{"worker": {"replicas": 0}}, {"recipe": 3}, {"dataset": {"format": "KITTI"}}]
)
def test_the_schema_tells_good_from_bad(invalid: dict[str, Any]) -> None:
    jsonschema.validate(make_manifest(), schema.build_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(make_manifest(**invalid), schema.build_schema())


@of_both
def test_nothing_that_users_write_is_without_a_shape(resource: schema.Resource) -> None:
    nodes = dict(_walk(schema.build_schema(resource), ""))
    free = [path for path, node in nodes.items() if node.get("x-kubernetes-preserve-unknown-fields")]
    assert [path for path in free if path.startswith(".spec")] == _FREE.get(resource.kind, [])


@of_both
def test_the_crd_leaves_room_for_client_side_apply(resource: schema.Resource) -> None:
    assert len(json.dumps(schema.build_crd(resource))) < 200_000  # an annotation has at most 262,144 bytes


def test_the_text_is_the_crd() -> None:
    crd = yaml.safe_load(schema.dump_crd())
    assert crd == schema.build_crd()
    assert crd["metadata"]["name"] == f"{names.PLURAL}.{names.GROUP}"


def test_the_api_server_writes_no_default_into_jobs_that_the_first_release_does_not_know() -> None:
    """Its operator would refuse every job that has them, during an upgrade or after a roll-back."""
    root = yaml.safe_load(first_release.read_definition())
    known = dict(_walk(root["spec"]["versions"][0]["schema"]["openAPIV3Schema"], ""))
    defaulted = {path for path, node in NODES.items() if "default" in node}
    assert {path for path in defaulted if "default" not in known.get(path, {})} == set()
