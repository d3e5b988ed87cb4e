"""The recipes as a list to choose from: what each is of, and which of them fit a choice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubedet_trainer.config import Recipe
from kubedet_trainer.contract.nearest import did_you_mean
from kubedet_trainer.errors import InvalidInput, UsageError
from kubedet_trainer.recipes import RECIPES, own, read_recipe, smoke
from kubedet_trainer.recipes.published import SECTIONS
from kubedet_trainer.recipes.published_files import has_published_file, published_uri

SMOKE = "smoke"
"""Section of the small recipes, for which nothing is published."""
YOURS = "yours"
"""Section of all other recipes for which nothing is published."""

FACETS = ("method", "backbone", "style", "schedule", "dataset", "section")
"""What recipes can be chosen by."""


_OTHER_SECTIONS = {SMOKE: "Smoke: small, learns from scratch on two CPU cores", YOURS: "Yours"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One recipe and what is published of it."""

    recipe: Recipe

    @property
    def section(self) -> str:
        """Key of the table that lists it."""
        name, row = self.recipe.name, self.recipe.published
        if name in smoke.RECIPES:
            return SMOKE
        return YOURS if row is None or own.is_own(name) else row.section

    @property
    def facets(self) -> dict[str, str | None]:
        """`FACETS` to what the recipe has of each; None where it is no choice of the zoo's."""
        row = self.recipe.published
        return {
            "method": self.recipe.model.architecture,
            "backbone": row.backbone if row else None,
            "style": row.style if row else None,
            "schedule": row.schedule if row else None,
            "dataset": row.dataset if row else None,
            "section": self.section,
        }

    def as_document(self) -> dict[str, object]:
        """The entry as what JSON can hold; the names of figures are those of `contract.Results`."""
        name = self.recipe.name
        return {
            "recipe": name,
            **self.facets,
            "reference": dict(self.recipe.reference),
            "memoryKind": self.recipe.memory_kind if self.recipe.published else None,
            "weights": published_uri(name) if has_published_file(name) else None,
        }


def section_title(section: str) -> str:
    """The heading of a section."""
    return {**SECTIONS, **_OTHER_SECTIONS}[section]


def select_entries(chosen: Mapping[str, Sequence[str]], *, is_published: bool = False) -> list[Entry]:
    """The entries that have one of the values chosen of each facet, in the zoo's order.

    Case and punctuation do not count, ``R-50`` is ``r50``. No value chosen of a facet means all of them.

    Args:
        chosen: facet to values.
        is_published: whether only recipes count whose weights the zoo published.

    Raises:
        UsageError: no recipe has a value; the message names the nearest. Or none has all of them.
    """
    entries = [Entry(recipe=read_recipe(name)) for name in RECIPES]
    for facet, values in chosen.items():
        known = dict.fromkeys(value for entry in entries if (value := entry.facets[facet]))
        wanted = {_find(value, list(known), facet=facet) for value in values}
        chosen = {**chosen, facet: sorted(wanted)}
    found = [
        entry
        for entry in entries
        if all(not values or entry.facets[facet] in values for facet, values in chosen.items())
        and (not is_published or has_published_file(entry.recipe.name))
    ]
    if not found:
        raise UsageError("no recipe matches all filters; use fewer")
    return found


def is_module(name: str) -> bool:
    """Whether `name` is no recipe but a module, which may have some."""
    return name not in RECIPES and own.has_module(name)


def list_module(name: str) -> list[Entry]:
    """The recipes of the user's own in the module called `name`.

    Raises:
        MissingInput: there is no such module here.
        InvalidInput: the module or a recipe of it fails, or it has none.
    """
    recipes = own.list_own(own.import_module(name))
    if not recipes:
        raise InvalidInput(f"recipe: the module {name} has no recipe, must have {own.WHAT_COUNTS}")
    return [Entry(recipe=own.read_own(f"{name}:{attribute}")) for attribute in recipes]


def _find(value: str, known: Sequence[str], *, facet: str) -> str:
    by_spelling = {_plain(item): item for item in known}
    spelling = _plain(value).removesuffix("fpn")
    if spelling not in by_spelling:
        near = did_you_mean(value.lower(), known)
        raise UsageError(f"--{facet}: got '{value}', must be one of {', '.join(known)}.{near}")
    return by_spelling[spelling]


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
