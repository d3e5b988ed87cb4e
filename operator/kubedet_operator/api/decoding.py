"""Reads manifests into the dataclasses of the API, strictly, and lists everything that is wrong at once."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union

from kubedet_operator.api.fields import Quantity, is_required

T = TypeVar("T")
_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One value that breaks a rule: where, what, why."""

    path: str
    got: Any = None
    rule: str
    """``must be ...``, and what to do about it."""
    absent: bool = False
    """There is no value: `got` means nothing."""

    def __str__(self) -> str:
        return f"{self.path}: {'absent' if self.absent else f'got {_shown(self.got)}'}, {self.rule}"


class InvalidManifest(ValueError):
    """A manifest breaks rules of the API; `violations` has all of them."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(str(violation) for violation in violations))
        self.violations = tuple(violations)


def decode(
    target: type[T], value: Any, *, path: str, found: list[Violation], strict: bool = True
) -> T | None:
    """`value` as an instance of the dataclass `target`; None where a required part of it cannot be read.

    Every violation below `path` is added to `found`; where there is one the result has defaults in its place,
    and is good for nothing but looking for more. Unless `strict`, unknown fields are passed over.
    """
    decoded = _Decoder(found, strict).object(target, value, path)
    return None if decoded is _ABSENT else decoded


@cache
def field_types(target: type) -> dict[str, Any]:
    """The resolved annotation of every field of a dataclass, by the name the API has for it."""
    hints = typing.get_type_hints(target)
    return {field.name: hints[field.name] for field in dataclasses.fields(target)}


def api_name(field_name: str) -> str:
    """The API's name of a dataclass field: `class_` is `class`."""
    return field_name.rstrip("_")


def without_optional(hint: Any) -> Any:
    """`X` for ``X | None``."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return next(item for item in typing.get_args(hint) if item is not type(None))
    return hint


class _Decoder:
    """Walks a value beside the annotation that describes it."""

    def __init__(self, found: list[Violation], strict: bool) -> None:
        self._found = found
        self._strict = strict

    def object(self, target: Any, value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            return self._wrong(path, value, "must be an object")
        fields = {api_name(field.name): field for field in dataclasses.fields(target)}
        if self._strict:
            self._refuse_unknown(value, fields, path)
        arguments: dict[str, Any] = {}
        for name, field in fields.items():
            item = value.get(name)
            hint = field_types(target)[field.name]
            if item is not None:
                decoded = self.value(hint, item, f"{path}.{name}")
            elif is_required(field):
                self._found.append(Violation(path=f"{path}.{name}", rule="must be set", absent=True))
                decoded = _stand_in(hint)
            else:
                continue
            if decoded is not _ABSENT:
                arguments[field.name] = decoded
        if any(is_required(field) and field.name not in arguments for field in fields.values()):
            return _ABSENT
        return target(**arguments)

    def value(self, hint: Any, value: Any, path: str) -> Any:
        hint = without_optional(hint)
        origin = typing.get_origin(hint)
        if dataclasses.is_dataclass(hint):
            return self.object(hint, value, path)
        if origin is Literal:
            return self._one_of(typing.get_args(hint), value, path)
        if isinstance(hint, type) and issubclass(hint, Enum):
            chosen = self._one_of([member.value for member in hint], value, path)
            return chosen if chosen is _ABSENT else hint(chosen)
        if origin in (tuple, list):
            return self._list(origin, typing.get_args(hint)[0], value, path)
        if origin in (dict, Mapping):
            return self._map(typing.get_args(hint)[1], value, path)
        if hint is Any:
            return value
        return self._scalar(hint, value, path)

    def _scalar(self, hint: Any, value: Any, path: str) -> Any:
        accepts, rule = _SCALARS[hint]
        if not accepts(value):
            return self._wrong(path, value, rule)
        return str(value) if hint is Quantity else value

    def _list(self, origin: type, item: Any, value: Any, path: str) -> Any:
        if not isinstance(value, list | tuple):
            return self._wrong(path, value, "must be a list")
        decoded = [self.value(item, element, f"{path}[{index}]") for index, element in enumerate(value)]
        return origin(element for element in decoded if element is not _ABSENT)

    def _map(self, item: Any, value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            return self._wrong(path, value, "must be an object")
        decoded = {key: self.value(item, element, f"{path}.{key}") for key, element in value.items()}
        return {key: element for key, element in decoded.items() if element is not _ABSENT}

    def _one_of(self, allowed: Sequence[Any], value: Any, path: str) -> Any:
        if value in allowed:
            return value
        return self._wrong(path, value, f"must be {' or '.join(str(item) for item in allowed)}")

    def _refuse_unknown(self, value: Mapping[str, Any], known: Mapping[str, Any], path: str) -> None:
        for name in value:
            if name in known:
                continue
            near = get_close_matches(str(name), known, n=1)
            remedy = f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(sorted(known))}."
            self._found.append(
                Violation(path=f"{path}.{name}", got=value[name], rule=f"there is no such field.{remedy}")
            )

    def _wrong(self, path: str, value: Any, rule: str) -> Any:
        self._found.append(Violation(path=path, got=value, rule=rule))
        return _ABSENT


def _stand_in(hint: Any) -> Any:
    """Takes the place of what must be set and is not, so that the rest can still be looked at."""
    if hint is str:
        return ""
    return _Decoder([], strict=False).object(hint, {}, "") if dataclasses.is_dataclass(hint) else _ABSENT


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_SCALARS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "must be true or false"),
    int: (_is_integer, "must be a whole number"),
    float: (lambda value: _is_integer(value) or isinstance(value, float), "must be a number"),
    str: (lambda value: isinstance(value, str), "must be a string; put it in quotes"),
    Quantity: (
        lambda value: _is_integer(value) or isinstance(value, str),
        "must be a quantity such as 16Gi",
    ),
}


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
