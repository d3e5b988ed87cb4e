"""Every field of a recipe that an override may set: its type, bounds, values in the zoo and meaning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from kubedet_trainer.config.documents import recipe_leaves
from kubedet_trainer.config.overrides import Leaf, list_leaves
from kubedet_trainer.contract.bounds import bounds_of
from kubedet_trainer.contract.docstrings import field_docstrings
from kubedet_trainer.recipes import RECIPES, read_recipe
from kubedet_trainer.recipes.smoke import RECIPES as SMOKE_RECIPES

_WORDS = {int: "whole number", float: "number", bool: "true | false", str: "text"}


@dataclass(frozen=True, kw_only=True)
class RecipeField:
    """A field that `spec.overrides` and the arguments of `kubedet train` may name."""

    path: str
    type: str
    """In words: ``list of 2 whole numbers``."""
    bounds: str
    """``>= 1``; empty where there are none."""
    values: tuple[str, ...]
    """Those of the zoo's recipes, as an override gives them, the most frequent first."""
    meaning: str
    detectors: str
    """Those that have it, in words."""


def list_fields() -> list[RecipeField]:
    """All fields in the order in which a recipe has them. Two parts of detectors may share a path."""
    leaves: dict[tuple[str, type], Leaf] = {}
    values: dict[tuple[str, type], Counter[str]] = {}
    detectors: dict[tuple[str, type], dict[str, None]] = {}
    for name in (name for name in RECIPES if name not in SMOKE_RECIPES):
        recipe = read_recipe(name)
        texts = recipe_leaves(recipe)
        for leaf in list_leaves(recipe):
            key = leaf.path, leaf.owner
            leaves.setdefault(key, leaf)
            values.setdefault(key, Counter())[texts[leaf.path]] += 1
            detectors.setdefault(key, {})[recipe.model.architecture] = None
    everything = dict.fromkeys(name for names in detectors.values() for name in names)
    return [
        RecipeField(
            path=leaf.path,
            type=_describe(leaf.kind),
            bounds=str(bounds_of(leaf.field)),
            values=tuple(value for value, _ in values[key].most_common()),
            meaning=field_docstrings(leaf.owner)[leaf.field.name],
            detectors=_list_detectors(detectors[key], known=everything),
        )
        for key, leaf in leaves.items()
    ]


def _list_detectors(having: Collection[str], *, known: Collection[str]) -> str:
    lacking = [name for name in known if name not in having]
    if len(lacking) < len(having):
        return f"all but {', '.join(lacking)}" if lacking else "all"
    return ", ".join(having)


def _describe(kind: Any) -> str:
    """The type of a field in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (inner,) = (option for option in arguments if option is not NoneType)
        return f"{_describe(inner)} | none"
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is tuple:
        number = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        item = arguments[0]
        return f"list of {number}{_describe(item)}{'s' if item in (int, float, str) else ''}"
    return _WORDS[kind]
