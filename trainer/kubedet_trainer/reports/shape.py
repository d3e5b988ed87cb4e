"""Checks a document against the dataclass that it was written from: reports lie where others can write."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Union

from kubedet_trainer.contract.times import read_time

_PLAIN: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    datetime: "a time such as 2026-01-01T00:00:00Z",
}
"""Type to what it is called. Texts that are times are annotated with `datetime`."""


def misfits(target: type, document: Mapping[str, Any], *, partial: bool = True) -> Iterator[str]:
    """What of `document` is not as `target` has it: path, value and rule of each field.

    Further fields are of later versions. `partial`: any field of the whole may be absent, because earlier
    versions lack some.
    """
    yield from _object(target, document, "", partial=partial)


def _object(target: type, value: Any, path: str, *, partial: bool = False) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield _say(path, value, "an object")
        return
    for field in dataclasses.fields(target):
        hint, item = _hints(target)[field.name], value.get(field.name)
        where = f"{path}.{field.name}".removeprefix(".")
        if item is not None:
            yield from _check(hint, item, where)
        elif not partial and _is_required(field) and not _takes_none(hint):
            yield f"{where}: absent, must be set"


def _check(hint: Any, value: Any, path: str) -> Iterator[str]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        yield from _check(arguments[1], value, path)
    elif origin in (Union, types.UnionType):
        # A part that is a document already is checked as what it is a document of.
        yield from _check(next(item for item in arguments if item is not type(None)), value, path)
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield from _object(hint, value, path)
    elif origin is list:
        if not isinstance(value, list):
            yield _say(path, value, "a list")
            return
        for index, item in enumerate(value):
            yield from _check(arguments[0], item, f"{path}[{index}]")
    elif origin is dict:
        if not isinstance(value, Mapping):
            yield _say(path, value, "an object")
            return
        for name, item in value.items():
            yield from _check(arguments[1], item, f"{path}.{name}")
    elif hint in _PLAIN and not _fits(hint, value):
        yield _say(path, value, _PLAIN[hint])


def _fits(hint: Any, value: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is datetime:
        return read_time(value) is not None
    return type(value) is hint


def _say(path: str, value: Any, what: str) -> str:
    shown = repr(value)
    return f"{path}: got {shown if len(shown) <= 60 else f'{shown[:57]}...'}, must be {what}"


@cache
def _hints(target: type) -> dict[str, Any]:
    return typing.get_type_hints(target, include_extras=True)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _takes_none(hint: Any) -> bool:
    return hint is Any or type(None) in typing.get_args(hint)
