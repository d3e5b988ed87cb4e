"""Strict changes to a recipe: ``optimizer.lr=0.01``, parsed by the type of the field it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from kubedet_trainer.config.fields import SCALARS, field_types, is_fixed
from kubedet_trainer.config.recipe import Recipe
from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.errors import InvalidInput

_AUTOMATIC = {"data.images_per_process": "data.fills_memory"}
"""Fields that may be left to the machine, and what says so. The recipe's own value stays known."""
_AUTO = "auto"


def apply_overrides(recipe: Recipe, overrides: Mapping[str, str]) -> Recipe:
    """`recipe` with every named field replaced by its value, given as text.

    Lists are separated by commas, ``data.scale=320,240``; ``none`` empties an optional field, and ``auto``
    leaves `data.images_per_process` to the machine. All fields of one part are replaced together, so that
    values which fit only each other can be given in any order.

    Raises:
        InvalidInput: a name is unknown or fixed, a value is not of its type, or the result breaks a rule.
    """
    types = {leaf.path: leaf.kind for leaf in list_leaves(recipe)}
    for path, text in overrides.items():
        if path not in types:
            remedy = did_you_mean(path, types) or " `kubedet explain spec.overrides` lists the fields."
            raise InvalidInput(f"{path}: got '{text}', must be a field of the recipe.{remedy}")
    values: dict[str, Any] = {}
    for path, text in overrides.items():
        is_left = path in _AUTOMATIC and text.strip().lower() == _AUTO
        if path in _AUTOMATIC:
            values[_AUTOMATIC[path]] = is_left
        if not is_left:
            values[path] = _parse(path, text, types[path])
    changed: Recipe = _replace(recipe, values, prefix="")
    return changed


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A field of a recipe that overrides can name."""

    path: str
    """Dotted, as overrides name it."""
    owner: type
    """The dataclass that it is a field of."""
    field: Field[Any]
    kind: Any
    """Its annotation."""
    value: Any


def list_leaves(part: Any, *, prefix: str = "") -> Iterator[Leaf]:
    """Every field below `part`, a recipe or a part of one; without those that identify a recipe."""
    kinds = field_types(part.__class__)
    for item in fields(part):
        path = f"{prefix}{item.name}"
        value = getattr(part, item.name)
        if is_fixed(item):
            continue
        if is_dataclass(value):
            yield from list_leaves(value, prefix=f"{path}.")
        else:
            yield Leaf(path=path, owner=part.__class__, field=item, kind=kinds[item.name], value=value)


def _replace(part: Any, values: Mapping[str, Any], *, prefix: str) -> Any:
    changes = {}
    for item in fields(part):
        path = f"{prefix}{item.name}"
        value = getattr(part, item.name)
        if path in values:
            changes[item.name] = values[path]
        elif is_dataclass(value) and any(name.startswith(f"{path}.") for name in values):
            changes[item.name] = _replace(value, values, prefix=f"{path}.")
    return replace(part, **changes) if changes else part


def _parse(path: str, text: str, kind: Any) -> Any:
    try:
        return _convert(text.strip(), kind)
    except ValueError as error:
        raise InvalidInput(f"{path}: got '{text}', must be {error}") from error


def _convert(text: str, kind: Any) -> Any:
    """`text` as a value of the type `kind`; the message of a ValueError says what it must be.

    What is no choice of a `Literal` is left to the check of the whole recipe.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        (inner,) = [option for option in get_args(kind) if option is not NoneType]
        return None if text.lower() == "none" else _convert(text, inner)
    if origin is tuple:
        return _convert_tuple(text, get_args(kind))
    if origin is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)
    if kind not in _PARSERS:
        raise ValueError("set where the recipe is made: no text stands for its type")
    try:
        return _PARSERS[kind](text)
    except (KeyError, ValueError):
        raise ValueError(SCALARS[kind]) from None


def _convert_tuple(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    items = [item.strip() for item in text.strip("()[]").split(",") if item.strip()]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_convert(item, kinds[0]) for item in items)
    if len(items) != len(kinds):
        raise ValueError(f"{len(kinds)} values separated by commas")
    return tuple(_convert(item, kind) for item, kind in zip(items, kinds, strict=True))


_BOOLEANS = {"true": True, "false": False}
_PARSERS: dict[type, Callable[[str], Any]] = {
    int: int,
    float: float,
    bool: lambda text: _BOOLEANS[text.lower()],
    str: str,
}
