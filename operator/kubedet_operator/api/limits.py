"""Checks values against the bounds and shapes of their fields."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from kubedet_operator.api import decoding, fields, shapes
from kubedet_operator.api.decoding import Violation


def check_bounds(value: Any, path: str) -> Iterator[Violation]:
    """Every value of a dataclass, or below it, that is not within the bounds of its field."""
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if item is not None:
            yield from _check_field(item, fields.bounds_of(field), f"{path}.{decoding.api_name(field.name)}")


def _check_field(value: Any, bounds: fields.Bounds, path: str) -> Iterator[Violation]:
    if dataclasses.is_dataclass(value):
        yield from check_bounds(value, path)
    elif bounds.shape:
        yield from shapes.check(value, bounds.shape, path)
    elif isinstance(value, str):
        yield from _check_text(value, bounds, path)
    elif isinstance(value, int | float):
        yield from _check_number(value, bounds, path)
    elif isinstance(value, tuple | Mapping):
        yield from _check_items(value, bounds, path)


def _check_items(value: Any, bounds: fields.Bounds, path: str) -> Iterator[Violation]:
    if len(value) > bounds.max_items:
        yield Violation(path=path, got=f"{len(value)} items", rule=f"must have at most {bounds.max_items}")
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _check_field(item, bounds, f"{path}.{key}")
        return
    keys: set[Any] = set()
    for index, item in enumerate(value):
        yield from _check_field(item, bounds, f"{path}[{index}]")
        key = getattr(item, bounds.map_key) if bounds.map_key else index
        if key in keys:
            yield Violation(
                path=f"{path}[{index}].{bounds.map_key}", got=key, rule="must be unique; remove one"
            )
        keys.add(key)


def _check_number(value: float, bounds: fields.Bounds, path: str) -> Iterator[Violation]:
    if not bounds.allows(value):
        yield Violation(path=path, got=value, rule=f"must be {bounds}")


def _check_text(value: str, bounds: fields.Bounds, path: str) -> Iterator[Violation]:
    if len(value) > bounds.max_length:
        yield Violation(
            path=path, got=f"{len(value)} characters", rule=f"must have at most {bounds.max_length}"
        )
    elif (bounds.min_length and len(value) < bounds.min_length) or (
        bounds.pattern and not re.fullmatch(bounds.pattern.regex, value)
    ):
        rule = f"must be {bounds.pattern.meaning}" if bounds.pattern else "must not be empty"
        yield Violation(path=path, got=value, rule=rule)
