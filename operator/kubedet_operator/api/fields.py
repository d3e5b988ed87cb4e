"""Bounds and patterns of the API's fields, kept as metadata of the dataclass field.

The CRD (`schema`), the reader of manifests (`decoding`) and the checks in Python (`validation`) all derive
from them; there is no second list. A field's description is the docstring below it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from decimal import Decimal
from typing import Any, NewType

from kubedet_trainer.contract import bounds as contract

Quantity = NewType("Quantity", str)
"""A Kubernetes quantity such as ``16Gi`` or ``500m``. A manifest may also write it as a whole number."""

Time = NewType("Time", str)
"""How a text that is `bounded(time=True)` is decoded: RFC 3339, of a year that sums of times stay below."""

JobSpec = NewType("JobSpec", dict[str, Any])
"""The spec of a DetectionJob without its recipe, as a manifest has it."""

DEFAULT_MAX_LENGTH = 1024
DEFAULT_MAX_ITEMS = 100
"""Bounds of strings and lists that state none: CEL's cost estimate needs one everywhere."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A regular expression and its meaning in words, which the error message shows."""

    regex: str
    """Must mean the same to RE2 and to Python's `re`. The whole value has to match."""
    meaning: str
    """Completes the sentence "must be ..."."""


@dataclass(frozen=True, kw_only=True)
class Bounds(contract.Bounds):
    """The limits of one field of the API. Limits that do not apply to its type are None."""

    min_length: int | None = None
    max_length: int = DEFAULT_MAX_LENGTH
    """Of a string, or of each value of a map of strings."""
    pattern: Pattern | None = None
    max_items: int = DEFAULT_MAX_ITEMS
    """Of a list or a map."""
    map_key: str | None = None
    """Makes the list a map keyed by this field of its items, so that server-side apply merges it by key."""
    shape: str | None = None
    """A definition of `shapes`, which the object must have."""
    time: bool = False
    """The string is a time, RFC 3339."""


_GENERAL_BOUNDS = Bounds()


def bounded(
    *, default: Any = MISSING, default_factory: Callable[[], Any] | Any = MISSING, **limits: Any
) -> Any:
    """A dataclass field with the `limits` that `Bounds` names."""
    metadata = {contract.KEY: Bounds(**limits)}
    return dataclasses.field(default=default, default_factory=default_factory, metadata=metadata)


def bounds_of(field: dataclasses.Field[Any]) -> Bounds:
    """The limits of a dataclass field; the general limits if it states none."""
    bounds: Bounds = field.metadata.get(contract.KEY, _GENERAL_BOUNDS)
    return bounds


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a manifest must set the field, because it has no default."""
    return field.default is MISSING and field.default_factory is MISSING


_SUFFIXES: dict[str, Decimal] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTP", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTP", start=1)},
}


def parse_quantity(text: str) -> Decimal:
    """The value of a Kubernetes quantity in base units (bytes, cores)."""
    number = text.rstrip("kmKMGTPi")
    return Decimal(number) * _SUFFIXES[text[len(number) :]]
