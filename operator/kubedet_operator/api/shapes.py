"""What the parts of a pod look like that users write as they are: the template, affinity, valueFrom.

`pod_shapes.json` has the names and types of their fields. charts/generate.py derives it from the official
client. The CRD (`build_schema`) and the checks in Python (`check`) follow it, so that both give one verdict.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from kubedet_operator.api.decoding import SCALARS, Violation
from kubedet_operator.api.fields import Quantity
from kubedet_trainer.contract.nearest import did_you_mean

Shape = Any
"""The name of a definition or of a scalar; ``[X]``, a list of X; ``{"*": X}``, a map of names to X."""

FILE = "pod_shapes.json"
"""Next to this module."""
_MOST_ITEMS = {"containers": 16, "initContainers": 16, "env": 256}
"""Lists that rules in CEL look through: its cost estimate needs a bound."""
_SCALAR_TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "quantity": Quantity}
ESSENTIAL = ("metadata", "spec", *_MOST_ITEMS, "name")
"""What cannot be removed by null: null means that the template says nothing about it."""


def build_schema(shape: Shape) -> dict[str, Any]:
    """The OpenAPI schema of a shape. null is allowed, because it removes a field from the pod."""
    if isinstance(shape, list):
        return {"type": "array", "items": build_schema(shape[0])}
    if isinstance(shape, dict):
        return {"type": "object", "additionalProperties": build_schema(shape["*"])}
    if shape in _definitions():
        return {
            "type": "object",
            "properties": {name: _property(name, inner) for name, inner in _definitions()[shape].items()},
        }
    if shape == "quantity":
        return {"x-kubernetes-int-or-string": True}
    return {"type": shape}


def check(value: Any, shape: Shape, path: str) -> Iterator[Violation]:
    """Every place in `value` that is not of its shape. Values are not shown: some are secret."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            yield _wrong(value, "must be a list", path)
            return
        for index, item in enumerate(value):
            yield from check(item, shape[0], f"{path}[{index}]")
    elif isinstance(shape, dict) or shape in _definitions():
        if isinstance(value, Mapping):
            yield from _check_fields(value, shape, path)
        else:
            yield _wrong(value, "must be an object", path)
    else:
        accepts, rule = SCALARS[_SCALAR_TYPES[shape]]
        if not accepts(value):
            yield _wrong(value, rule, path)


def _check_fields(value: Mapping[str, Any], shape: Shape, path: str) -> Iterator[Violation]:
    fields = None if isinstance(shape, dict) else _definitions()[shape]
    for name, item in value.items():
        where = f"{path}.{name}"
        if fields is not None and name not in fields:
            remedy = did_you_mean(str(name), fields) or f" Known: {', '.join(sorted(fields))}."
            yield _wrong(item, f"there is no such field.{remedy}", where)
            continue
        if item is None:
            continue
        most = _MOST_ITEMS.get(name) if fields is not None else None
        if most and isinstance(item, list) and len(item) > most:
            yield Violation(path=where, got=f"{len(item)} items", rule=f"must have at most {most}")
        yield from check(item, shape["*"] if fields is None else fields[name], where)


def _property(name: str, shape: Shape) -> dict[str, Any]:
    schema = build_schema(shape)
    if name in _MOST_ITEMS:
        schema["maxItems"] = _MOST_ITEMS[name]
    return schema if name in ESSENTIAL else {**schema, "nullable": True}


def _wrong(value: Any, rule: str, path: str) -> Violation:
    return Violation(path=path, got=Kind(value), rule=rule)


class Kind:
    """Stands for a value that is not shown, by its kind."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __str__(self) -> str:
        kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a text", list: "a list"}
        if self._value is None:
            return "null"
        return next((text for kind, text in kinds.items() if isinstance(self._value, kind)), "an object")


@cache
def _definitions() -> Mapping[str, Mapping[str, Shape]]:
    text = resources.files(__package__).joinpath(FILE).read_text()
    definitions: Mapping[str, Mapping[str, Shape]] = json.loads(text)["definitions"]
    return definitions
