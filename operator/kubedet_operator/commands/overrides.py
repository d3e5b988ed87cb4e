"""Describes the fields of recipes, for `kubedet explain spec.overrides`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from kubedet_operator import recipes
from kubedet_operator.recipes import RecipeField

MOST_VALUES = 4
"""A field with more values than this in the zoo has none that could be called its default."""


def list_below(path: str) -> list[RecipeField]:
    """The fields at `path` and below it, all for an empty one; none if there is no such field."""
    return [field for field in recipes.list_fields() if not path or f"{field.path}.".startswith(f"{path}.")]


def describe_default(field: RecipeField) -> str:
    """The values of a field in the zoo's recipes, as an override gives them."""
    if len(field.values) > MOST_VALUES:
        return "by recipe"
    return "; ".join(value or "(empty)" for value in field.values)


def explain(field: RecipeField) -> str:
    """What a field means, and which detectors have it if it is one of a detector's."""
    return (
        f"{field.meaning} Detectors: {field.detectors}." if field.path.startswith("model.") else field.meaning
    )


def explain_fields(fields: list[RecipeField], *, width: int) -> Iterator[str]:
    """A block of text for each field."""
    for field in fields:
        facts = "; ".join(filter(None, [f"default: {describe_default(field)}", field.bounds]))
        about = textwrap.indent(textwrap.fill(explain(field), width=width - 6), " " * 6)
        yield f"  {field.path} <{field.type}>  {facts}\n{about}"
