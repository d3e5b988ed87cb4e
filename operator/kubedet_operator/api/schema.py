"""Prints the CustomResourceDefinitions from the dataclasses of the API; `kubedet crds` shows them."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import yaml

from kubedet_operator.api import (
    decoding,
    names,
    shapes,
    status,
    types,
    validation,
    zoo,
    zoo_status,
    zoo_validation,
)
from kubedet_operator.api.fields import Bounds, JobSpec, Quantity, bounds_of, is_required
from kubedet_operator.api.transitions import TRANSITIONS, Transition
from kubedet_trainer.contract.docstrings import field_docstrings

_HEADER = """\
# Generated from operator/kubedet_operator/api: change it there, then run `make generate`.
"""

Column = tuple[str, str, str, int]
"""Name, type, path, and 1 for a column that only ``-o wide`` shows."""

_LATER = frozenset(
    {
        "spec.benchmark.iterations",
        "spec.checkpoint.saveDeadlineSeconds",
        "spec.dataset.validate",
        "spec.evaluation.report",
        "spec.task",
        "spec.writeProposals",
    }
)
"""Fields that have come since 0.1.0. Their defaults are in the programs alone: the API server would show them
in every job, and an operator that does not know them refuses such a job."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One kind of the API: where its parts are described."""

    kind: str
    list_kind: str
    plural: str
    singular: str
    short_name: str
    target: type
    """Dataclass of the whole object."""
    spec: type
    status: type
    columns: tuple[Column, ...]
    """Of ``kubectl get``."""
    rules: tuple[validation.Rule, ...]
    transitions: tuple[Transition, ...]
    scale: Mapping[str, str] | None = None
    """The scale subresource, where there is one."""


JOB = Resource(
    kind=names.KIND,
    list_kind=names.LIST_KIND,
    plural=names.PLURAL,
    singular=names.SINGULAR,
    short_name=names.SHORT_NAME,
    target=types.DetectionJob,
    spec=types.DetectionJobSpec,
    status=status.DetectionJobStatus,
    columns=(
        ("Phase", "string", ".status.phase", 0),
        ("Reason", "string", ".status.reason", 0),
        ("Workers", "string", ".status.display.workers", 0),
        ("Progress", "string", ".status.display.progress", 0),
        ("Recipe", "string", ".spec.recipe", 0),
        ("Box AP", "number", ".status.results.boxAP", 0),
        ("Age", "date", ".metadata.creationTimestamp", 0),
        ("ETA", "string", ".status.display.remaining", 1),
        ("Restarts", "integer", ".status.restarts.total", 1),
        ("Mask AP", "number", ".status.results.maskAP", 1),
        ("S/Iter", "number", ".status.results.secondsPerIteration", 1),
        ("Mem", "number", ".status.results.memoryGB", 1),
        ("FPS", "number", ".status.results.inferenceFps", 1),
    ),
    rules=validation.RULES,
    transitions=TRANSITIONS,
    scale={
        "specReplicasPath": ".spec.worker.replicas",
        "statusReplicasPath": ".status.workers.active",
        "labelSelectorPath": ".status.selector",
    },
)
ZOO = Resource(
    kind=names.ZOO_KIND,
    list_kind=names.ZOO_LIST_KIND,
    plural=names.ZOO_PLURAL,
    singular=names.ZOO_SINGULAR,
    short_name=names.ZOO_SHORT_NAME,
    target=zoo.ModelZoo,
    spec=zoo.ModelZooSpec,
    status=zoo_status.ModelZooStatus,
    columns=(
        ("Phase", "string", ".status.phase", 0),
        ("Rows", "string", ".status.display.rows", 0),
        ("Running", "integer", ".status.counts.running", 0),
        ("Failed", "integer", ".status.counts.failed", 0),
        ("AP Diff", "string", ".status.display.difference", 0),
        ("Age", "date", ".metadata.creationTimestamp", 0),
        ("Reason", "string", ".status.reason", 1),
    ),
    rules=zoo_validation.ZOO_RULES,
    transitions=zoo_validation.ZOO_IMMUTABLE_ONCE_STARTED,
)
RESOURCES = (JOB, ZOO)

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def dump_crd(resource: Resource = JOB) -> str:
    """The CRD as YAML, as it is kept in manifests/crds."""
    text: str = yaml.safe_dump(build_crd(resource), sort_keys=False, width=110, allow_unicode=True)
    return _HEADER + text


def build_crd(resource: Resource = JOB) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": resource.kind,
                "listKind": resource.list_kind,
                "plural": resource.plural,
                "singular": resource.singular,
                "shortNames": [resource.short_name],
            },
            "versions": [_build_version(resource)],
        },
    }


def build_schema(resource: Resource = JOB, *, for_people: bool = False) -> dict[str, Any]:
    """The OpenAPI schema of a whole object of one kind, with its rules in CEL.

    That for people has the defaults of the programs, too, which the API server must not write.
    """
    return _SchemaBuilder(resource, later=frozenset() if for_people else _LATER).root()


def _build_version(resource: Resource) -> dict[str, Any]:
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, **({"scale": dict(resource.scale)} if resource.scale else {})},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, **({"priority": priority} if priority else {})}
            for name, kind, path, priority in resource.columns
        ],
        "schema": {"openAPIV3Schema": build_schema(resource)},
    }


class _SchemaBuilder:
    """Turns annotations, bounds and rules into OpenAPI; every rule must find its place."""

    def __init__(self, resource: Resource, *, later: frozenset[str]) -> None:
        self._resource = resource
        self._later = later
        self._rules: dict[str, list[dict[str, str]]] = {}
        self._add_rules(resource.rules)

    def _add_rules(self, rules: Iterable[validation.Rule], *, below: str = "") -> None:
        for rule in rules:
            where = {"fieldPath": rule.field} if rule.field else {}
            shown = {"rule": rule.cel, **_message(rule.meaning, rule.got), **where}
            self._rules.setdefault(below + rule.scope, []).append(shown)

    def root(self) -> dict[str, Any]:
        resource = self._resource
        described = field_docstrings(resource.target)
        spec = self._object(resource.spec, path="spec")
        reported = self._object(resource.status, path="status")
        root = {
            "type": "object",
            "description": inspect.getdoc(resource.target),
            "required": ["spec"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "spec": {"description": described["spec"], **spec},
                "status": {"description": described["status"], **reported},
            },
            "x-kubernetes-validations": [
                *self._rules.pop("", []),
                *(_transition_rule(transition, resource) for transition in resource.transitions),
            ],
        }
        if self._rules:
            raise LookupError(f"rules of no field of the API: {', '.join(self._rules)}")
        return root

    def _job_spec(self, *, path: str) -> dict[str, Any]:
        """The schema of a DetectionJob's spec without its recipe and task, within another kind."""
        rules = [rule for rule in JOB.rules if rule.scope]
        self._add_rules(rules, below=path.removesuffix("spec"))
        schema = self._object(types.DetectionJobSpec, path=path)
        del schema["properties"]["recipe"], schema["properties"]["task"]
        schema["required"].remove("recipe")
        return schema

    def _object(self, target: Any, *, path: str) -> dict[str, Any]:
        described = field_docstrings(target)
        properties = {}
        required = []
        for field in dataclasses.fields(target):
            name = decoding.api_name(field.name)
            hint = decoding.without_optional(decoding.field_types(target)[field.name])
            schema = self._value(hint, bounds_of(field), path=f"{path}.{name}")
            # Only what users write is defaulted; the operator's own status stays as it was written.
            is_defaulted = path.startswith("spec") and f"{path}.{name}" not in self._later
            default = _default(field, schema) if is_defaulted else {}
            properties[name] = {"description": described[field.name], **default, **schema}
            if is_required(field):
                required.append(name)
        schema = {"type": "object", **({"required": required} if required else {}), "properties": properties}
        return self._with_rules(schema, path)

    def _with_rules(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        rules = self._rules.pop(path, None)
        return {**schema, "x-kubernetes-validations": rules} if rules else schema

    def _value(self, hint: Any, bounds: Bounds, *, path: str) -> dict[str, Any]:
        origin = typing.get_origin(hint)
        if hint is JobSpec:
            return self._job_spec(path=path)
        if dataclasses.is_dataclass(hint):
            return self._object(hint, path=path)
        if origin is Literal:
            return {"type": "string", "enum": list(typing.get_args(hint))}
        if isinstance(hint, type) and issubclass(hint, Enum):
            return {"type": "string", "enum": [member.value for member in hint]}
        if origin in (tuple, list):
            return self._list(typing.get_args(hint)[0], bounds, path=path)
        if origin in (dict, Mapping):
            if bounds.shape:
                return shapes.build_schema(bounds.shape)
            return self._map(typing.get_args(hint)[1], bounds, path=path)
        return _scalar(hint, bounds)

    def _list(self, item: Any, bounds: Bounds, *, path: str) -> dict[str, Any]:
        keyed = (
            {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [bounds.map_key]}
            if bounds.map_key
            else {"x-kubernetes-list-type": "atomic"}
        )
        items = self._value(item, bounds, path=f"{path}[]")
        return {"type": "array", "maxItems": bounds.max_items, **keyed, "items": items}

    def _map(self, item: Any, bounds: Bounds, *, path: str) -> dict[str, Any]:
        if item is Any:
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        values = self._value(item, bounds, path=f"{path}{{}}")
        return {"type": "object", "maxProperties": bounds.max_items, "additionalProperties": values}


def _scalar(hint: Any, bounds: Bounds) -> dict[str, Any]:
    if hint is Quantity:
        pattern = {"pattern": f"^({bounds.pattern.regex})$"} if bounds.pattern else {}
        either = [{"type": "integer"}, {"type": "string"}]
        length = {"maxLength": bounds.max_length, "minimum": 0}
        return {"x-kubernetes-int-or-string": True, "anyOf": either, **length, **pattern}
    schema: dict[str, Any] = {"type": _TYPES[hint]}
    if hint is str:
        return schema | _text_limits(bounds)
    if hint is int:
        fits = bounds.maximum is not None and bounds.maximum < 2**31
        schema["format"] = "int32" if fits else "int64"
    limits = {"minimum": bounds.minimum, "maximum": bounds.maximum}
    return schema | {name: limit for name, limit in limits.items() if limit is not None}


def _text_limits(bounds: Bounds) -> dict[str, Any]:
    limits: dict[str, Any] = {"maxLength": bounds.max_length}
    if bounds.min_length:
        limits["minLength"] = bounds.min_length
    if bounds.time:
        limits["format"] = "date-time"
    if bounds.pattern:
        # In CEL rather than as `pattern`, whose message would show the expression instead of its meaning.
        rule = f"self.matches(r'^({bounds.pattern.regex})$')"
        # What contains an @ may hold a password.
        got = "(self.contains('@') ? 'a text with @' : '\\'' + self + '\\'')"
        shown = _message(f"must be {bounds.pattern.meaning}", got)
        limits["x-kubernetes-validations"] = [{"rule": rule, **shown}]
    return limits


def _message(meaning: str, got: str) -> dict[str, str]:
    """What a rule says: its meaning, and the value if `got`, an expression, gives it."""
    shown = {"messageExpression": f"'got ' + {got} + {json.dumps(', ' + meaning)}"} if got else {}
    return {"message": meaning, **shown}


def _default(field: dataclasses.Field[Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The default that the API server writes into stored objects; empty maps and lists stay absent."""
    if is_required(field):
        return {}
    value = field.default_factory() if callable(field.default_factory) else field.default
    if dataclasses.is_dataclass(value):
        inner = schema["properties"].values()
        return {"default": {}} if any("default" in item for item in inner) else {}
    return {} if value is None or value in ((), {}, []) else {"default": value}


def _transition_rule(transition: Transition, resource: Resource) -> dict[str, str]:
    noun = "job" if resource is JOB else "zoo"
    moment = transition.moment.words.format(noun=noun)
    return {
        "rule": f"!({transition.moment.passed}) || ({transition.unchanged})",
        "message": f"{transition.field} must not change once {moment}; create another {noun}",
    }
