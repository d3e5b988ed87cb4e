"""Checks a recipe by what its fields say: their types, their bounds, and the rules across them."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

from kubedet_trainer.contract.bounds import Bounds, bounds_of
from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.errors import InvalidInput

_FIXED = "fixed"

SCALARS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
"""Type of a field to what its value must be, in words."""


@runtime_checkable
class Ruled(Protocol):
    """A part with rules across its fields."""

    def breaches(self) -> Iterator[tuple[str, str]]:
        """For each rule that is broken: the field to name, dotted where it lies deeper, and "must be ..."."""


def fixed(*, default: Any = MISSING) -> Any:
    """A dataclass field that identifies a recipe: no override changes it, no checkpoint restores it."""
    return dataclasses.field(default=default, metadata={_FIXED: True})


def is_fixed(field: dataclasses.Field[Any]) -> bool:
    """Whether a field was made by `fixed`."""
    return bool(field.metadata.get(_FIXED))


@cache
def field_types(part: type) -> dict[str, Any]:
    """The resolved annotation of every field of a dataclass."""
    hints = get_type_hints(part)
    return {item.name: hints[item.name] for item in fields(part)}


def check(part: Any, *, path: str = "") -> None:
    """Refuse `part`, a dataclass at `path` of a recipe, where a field of it or below breaks a rule.

    Raises:
        InvalidInput: ``model.box_head.num_fcs: got 0, must be >= 1``.
    """
    prefix = f"{path}." if path else ""
    kinds = field_types(part.__class__)
    for item in fields(part):
        value, kind = getattr(part, item.name), kinds[item.name]
        if is_dataclass(value) and isinstance(kind, type) and isinstance(value, kind):
            check(value, path=f"{prefix}{item.name}")
        elif rule := _broken_rule(value, kind, bounds_of(item)):
            raise InvalidInput(f"{prefix}{item.name}: got {value!r}, must be {rule}")
    if isinstance(part, Ruled):
        for name, rule in part.breaches():
            value = part
            for step in name.split("."):
                value = getattr(value, step)
            raise InvalidInput(f"{prefix}{name}: got {value!r}, {rule}")


def _broken_rule(value: Any, kind: Any, bounds: Bounds) -> str | None:
    """What a value of type `kind` must be, where `value` is not."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        inner = next(option for option in arguments if option is not NoneType)
        return None if value is None else _broken_rule(value, inner, bounds)
    if origin is Literal:
        if value in arguments:
            return None
        return f"{one_of(arguments)}.{did_you_mean(str(value), map(str, arguments))}"
    if origin is tuple:
        return _broken_rule_of_items(value, arguments, bounds)
    if kind not in SCALARS:
        return None if isinstance(value, origin or kind) else f"a {(origin or kind).__name__}"
    if not _has_type(value, kind):
        return SCALARS[kind]
    return None if kind in (bool, str) or bounds.allows(value) else str(bounds)


def _broken_rule_of_items(value: Any, kinds: tuple[Any, ...], bounds: Bounds) -> str | None:
    is_open = kinds[-1] is Ellipsis
    sizes = range(bounds.min_items, sys.maxsize) if is_open else (len(kinds),)
    fits = isinstance(value, tuple) and len(value) in sizes
    if fits and not any(_broken_rule(item, kinds[0], bounds) for item in value):
        return None
    if kinds[0] in SCALARS:
        what = "names" if kinds[0] is str else f"numbers {bounds}".strip()
    else:
        what = f"each {one_of(get_args(kinds[0]))}"
    return what if is_open else f"{len(kinds)} {what}"


def one_of(choices: tuple[Any, ...]) -> str:
    """The `choices` in words."""
    return f"one of {', '.join(map(str, choices))}"


def _has_type(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
