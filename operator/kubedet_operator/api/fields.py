"""What the API says about a field beyond its type: bounds and patterns, kept in the dataclass field itself.

The CRD (`schema`), the reader of manifests (`decoding`) and the rules in Python (`validation`) all derive
from these; there is no second list. A field's description is the docstring below it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import Any, NewType

Quantity = NewType("Quantity", str)
"""A Kubernetes quantity such as ``16Gi`` or ``500m``; a manifest may write it as a whole number too."""

_KEY = "kubedet.dev/bounds"

DEFAULT_MAX_LENGTH = 1024
DEFAULT_MAX_ITEMS = 100
"""Bounds of strings and lists that name none: CEL's cost estimate needs one everywhere."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A regular expression, and the same in words for whoever breaks it."""

    regex: str
    """RE2 and Python's `re` must read it alike; the whole value has to match."""
    meaning: str
    """Completes the sentence "must be ..."."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The limits of one field. What does not apply to its type is None."""

    minimum: int | None = None
    maximum: int | None = None
    min_length: int | None = None
    max_length: int = DEFAULT_MAX_LENGTH
    """Of a string, or of each value of a map of strings."""
    pattern: Pattern | None = None
    max_items: int = DEFAULT_MAX_ITEMS
    """Of a list or a map."""
    map_key: str | None = None
    """The list is a map keyed by this field of its items: server-side apply merges it by key."""
    time: bool = False
    """The string is a time, RFC 3339."""


_NO_BOUNDS = Bounds()


def bounded(
    *, default: Any = MISSING, default_factory: Callable[[], Any] | Any = MISSING, **limits: Any
) -> Any:
    """A dataclass field with the `limits` that `Bounds` names."""
    metadata = {_KEY: Bounds(**limits)}
    if default_factory is not MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def bounds_of(field: dataclasses.Field[Any]) -> Bounds:
    """The limits of a dataclass field, the general ones where it names none."""
    bounds: Bounds = field.metadata.get(_KEY, _NO_BOUNDS)
    return bounds


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether the field has no default, so that a manifest must set it."""
    return field.default is MISSING and field.default_factory is MISSING
