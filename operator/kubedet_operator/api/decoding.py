"""Reads manifests strictly into the dataclasses of the API, and collects every violation."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, Union

from kubedet_operator.api.fields import JobSpec, Quantity, Time, bounds_of, is_required
from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.contract.times import read_time

T = TypeVar("T")
_SECRET = re.compile(r"\.env(\[\d+\](\.value)?)?$")
"""Paths of values that are not shown."""
_ABSENT = object()
_LONG_AGO = "1970-01-01T00:00:00Z"
"""Stands in for a time that has to be there and cannot be read: what else its object says still holds."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One value that breaks a rule: its path, the value and the rule."""

    path: str
    got: Any = None
    rule: str
    """``must be ...``, and the remedy."""
    absent: bool = False
    """There is no value, and `got` has no meaning."""

    def __str__(self) -> str:
        got = "a value that may be secret" if _SECRET.search(self.path) else _shown(self.got)
        return f"{self.path}: {'absent' if self.absent else f'got {got}'}, {self.rule}"


class InvalidManifest(ValueError):
    """A manifest breaks rules of the API. `violations` lists all of them."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(str(violation) for violation in violations))
        self.violations = tuple(violations)


def decode(
    target: type[T], value: Any, *, path: str, found: list[Violation], strict: bool = True
) -> T | None:
    """`value` as an instance of the dataclass `target`, or None if a required part cannot be read.

    Adds every violation below `path` to `found` and puts a default in its place. A result with violations
    serves only to find more of them. Unless `strict`, unknown fields are ignored.
    """
    decoded = _Decoder(found, strict).object(target, value, path)
    return None if decoded is _ABSENT else decoded


@cache
def field_types(target: type) -> dict[str, Any]:
    """The resolved annotation of every field of a dataclass, by field name."""
    hints = typing.get_type_hints(target)
    return {field.name: hints[field.name] for field in dataclasses.fields(target)}


@cache
def api_name(field_name: str) -> str:
    """The API's name of a dataclass field: `class_` is `class`."""
    return field_name.rstrip("_")


class _Field(NamedTuple):
    """What decoding must know of a field. Computed once, because manifests are read for every decision."""

    name: str
    """The API's."""
    argument: str
    hint: Any
    """Without the None of an optional field."""
    required: bool
    accepts: Callable[[Any], bool] | None
    """The check of plain values, which are taken unchanged."""


@cache
def _fields(target: type) -> Mapping[str, _Field]:
    """The fields of a dataclass by the API's names."""
    described = {}
    for field in dataclasses.fields(target):
        hint = without_optional(field_types(target)[field.name])
        if hint is str and bounds_of(field).time:
            hint = Time
        name, plain = api_name(field.name), hint in (bool, int, float, str, Time)
        # A whole number may be written as 1.0, which is not taken unchanged.
        accepts = (_is_integer if hint is int else SCALARS[hint][0]) if plain else None
        described[name] = _Field(name, field.name, hint, is_required(field), accepts)
    return described


@cache
def _kind(hint: Any) -> tuple[Any, Any]:
    """How a value of this type is decoded, and the parameter for it."""
    hint = without_optional(hint)
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return "object", hint
    if origin is Literal:
        return "one", {value: value for value in typing.get_args(hint)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one", {member.value: member for member in hint}
    if origin in (tuple, list):
        return origin, typing.get_args(hint)[0]
    if origin in (dict, Mapping):
        return dict, typing.get_args(hint)[1]
    return "scalar", hint


def without_optional(hint: Any) -> Any:
    """`X` for ``X | None``."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return next(item for item in typing.get_args(hint) if item is not type(None))
    return hint


class _Decoder:
    """Decodes a value by the annotation that describes it."""

    def __init__(self, found: list[Violation], strict: bool) -> None:
        self._found = found
        self._strict = strict

    def object(self, target: Any, value: Any, path: str) -> Any:
        if not isinstance(value, dict) and not isinstance(value, Mapping):
            return self._wrong(path, value, "must be an object")
        fields = _fields(target)
        if self._strict and not value.keys() <= fields.keys():
            self._refuse_unknown(value, fields, path)
        arguments: dict[str, Any] = {}
        readable = True
        for name, argument, hint, required, accepts in fields.values():
            item = value.get(name)
            if item is None:
                if not required:
                    continue
                self._found.append(Violation(path=f"{path}.{name}", rule="must be set", absent=True))
                decoded = _stand_in(hint)
            elif accepts is not None and accepts(item):
                decoded = item
            else:
                decoded = self.value(hint, item, f"{path}.{name}")
            if decoded is _ABSENT and hint is Time and required:
                decoded = _LONG_AGO
            if decoded is not _ABSENT:
                arguments[argument] = decoded
            readable = readable and not (required and decoded is _ABSENT)
        return target(**arguments) if readable else _ABSENT

    def value(self, hint: Any, value: Any, path: str) -> Any:
        kind, parameter = _kind(hint)
        if kind == "object":
            return self.object(parameter, value, path)
        if kind == "one":
            return self._one_of(parameter, value, path)
        if kind is dict:
            return self._map(parameter, value, path)
        if kind in (tuple, list):
            return self._list(kind, parameter, value, path)
        return value if parameter is Any else self._scalar(parameter, value, path)

    def _scalar(self, hint: Any, value: Any, path: str) -> Any:
        accepts, rule = SCALARS[hint]
        if not accepts(value):
            return self._wrong(path, value, rule)
        if hint is int:
            return int(value)
        return str(value) if hint is Quantity else value

    def _list(self, origin: type, item: Any, value: Any, path: str) -> Any:
        if not isinstance(value, list | tuple):
            return self._wrong(path, value, "must be a list")
        decoded = [self.value(item, element, f"{path}[{index}]") for index, element in enumerate(value)]
        return origin(element for element in decoded if element is not _ABSENT)

    def _map(self, item: Any, value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            return self._wrong(path, value, "must be an object")
        # The API server drops null, too.
        given = {key: element for key, element in value.items() if element is not None or item is Any}
        decoded = {key: self.value(item, element, f"{path}.{key}") for key, element in given.items()}
        return {key: element for key, element in decoded.items() if element is not _ABSENT}

    def _one_of(self, allowed: Mapping[Any, Any], value: Any, path: str) -> Any:
        if value.__hash__ is not None and value in allowed:
            return allowed[value]
        return self._wrong(path, value, f"must be {' or '.join(str(item) for item in allowed)}")

    def _refuse_unknown(self, value: Mapping[str, Any], known: Mapping[str, Any], path: str) -> None:
        for name in value:
            if name in known:
                continue
            remedy = did_you_mean(str(name), known) or f" Known: {', '.join(sorted(known))}."
            self._found.append(
                Violation(path=f"{path}.{name}", got=value[name], rule=f"there is no such field.{remedy}")
            )

    def _wrong(self, path: str, value: Any, rule: str) -> Any:
        self._found.append(Violation(path=path, got=value, rule=rule))
        return _ABSENT


def _stand_in(hint: Any) -> Any:
    """Stands in for a required value that is absent, so that the rest can still be checked."""
    if hint is str:
        return ""
    return _Decoder([], strict=False).object(hint, {}, "") if dataclasses.is_dataclass(hint) else _ABSENT


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_whole(value: Any) -> bool:
    """Whether the API server takes `value` for an integer; so it does 1.0."""
    return _is_integer(value) or (isinstance(value, float) and value.is_integer() and abs(value) < 2**53)


def _is_reasonable(value: Any) -> bool:
    """Whether `value` is a float that sums and means can be made of."""
    return isinstance(value, float) and abs(value) < 2**63


SCALARS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "must be true or false"),
    int: (_is_whole, "must be a whole number"),
    float: (lambda value: _is_integer(value) or _is_reasonable(value), "must be a number"),
    str: (lambda value: isinstance(value, str), "must be a string; put it in quotes"),
    Time: (lambda value: read_time(value) is not None, "must be a time such as 2026-01-01T00:00:00Z"),
    Quantity: (
        lambda value: _is_integer(value) or isinstance(value, str),
        "must be a quantity such as 16Gi",
    ),
    JobSpec: (lambda value: isinstance(value, Mapping), "must be an object"),
}


def _shown(value: Any) -> str:
    if isinstance(value, str):
        # What contains an @ may hold a password.
        return "a text with @" if "@" in value else f"'{value}'"
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
