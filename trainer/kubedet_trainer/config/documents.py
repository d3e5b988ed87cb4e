"""A recipe as a document, for people and for the manifests of checkpoints, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from kubedet_trainer.config.overrides import apply_overrides
from kubedet_trainer.config.recipe import Recipe

_IDENTITY = ("name", "reference", "model.architecture")
"""What a document says about a recipe that is no setting of it."""


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe as what JSON can hold: nested dictionaries, tuples as lists."""
    document: dict[str, Any] = _plain(asdict(replace(recipe, published=None)))
    del document["published"]
    if document["data"].pop("fills_memory"):
        document["data"]["images_per_process"] = "auto"  # as an override says it
    return {**document, "reference": recipe.reference}


def restore_recipe(recipe: Recipe, document: Mapping[str, Any]) -> Recipe:
    """`recipe` with all settings of `document`, which `recipe_to_dict` made of an earlier state of it.

    What identifies the recipe stays as it is: a published figure may have been corrected since.

    Raises:
        InvalidInput: the document has settings that the recipe does not know, or that break its rules.
    """
    return apply_overrides(recipe, recipe_changes(recipe, document))


def recipe_changes(recipe: Recipe, document: Mapping[str, Any]) -> dict[str, str]:
    """The overrides that `restore_recipe` applies."""
    known = recipe_leaves(recipe)
    identity = tuple(f"{name}." for name in _IDENTITY)
    return {
        path: text
        for path, text in _leaves(document)
        if known.get(path) != text and not f"{path}.".startswith(identity)
    }


def recipe_leaves(recipe: Recipe) -> dict[str, str]:
    """Dotted path -> value, as an override gives it, of every field of `recipe`."""
    return dict(_leaves(recipe_to_dict(recipe)))


def _leaves(document: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and text, as overrides are written, of every field."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, prefix=f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ",".join(map(str, value))
        else:
            yield f"{prefix}{name}", str(value).lower() if isinstance(value, bool | None) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
