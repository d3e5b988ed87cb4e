"""Checks a ModelZoo: in CEL and Python what the object itself shows, in Python alone what the zoo knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from kubedet_operator.api import zoo
from kubedet_operator.api.decoding import Violation
from kubedet_operator.api.transitions import MANAGED_BY
from kubedet_operator.api.validation import NAME_RULE, Breach, Rule, validate
from kubedet_operator.api.zoo_status import MAX_ROWS, MAX_RUNS
from kubedet_trainer import contract
from kubedet_trainer.contract import catalogue
from kubedet_trainer.contract.nearest import did_you_mean


def _no_rows(document: zoo.ModelZoo) -> Iterator[Breach]:
    if not document.spec.rows.recipes and not document.spec.rows.select:
        yield Breach(path="spec.rows")


ZOO_RULES = (
    NAME_RULE,
    Rule(
        scope="spec.rows",
        cel="(has(self.recipes) && size(self.recipes) > 0) || (has(self.select) && size(self.select) > 0)",
        meaning="must have recipes or select; otherwise the table is empty",
        breaches=_no_rows,
    ),
)

ZOO_IMMUTABLE_ONCE_STARTED = (MANAGED_BY,)


def validate_zoo(document: zoo.ModelZoo) -> list[Violation]:
    """Every bound and rule that a zoo breaks, but for those of its jobs."""
    found = validate(document, ZOO_RULES)
    if found:
        return found
    found = list(_check_recipes(document.spec))
    rows = list_recipes(document.spec)
    if not found and not rows:
        found.append(Violation(path="spec.rows", got="no recipe", rule="must select at least one recipe"))
    for what, number, most in (
        ("rows", len(rows), MAX_ROWS),
        ("trainings", sum(zoo.repeats_of(document.spec, row) for row in rows), MAX_RUNS),
    ):
        if number > most:
            rule = f"must be at most {most}; use several zoos"
            found.append(Violation(path="spec.rows", got=f"{number} {what}", rule=rule))
    return found


def list_recipes(spec: zoo.ModelZooSpec) -> list[str]:
    """The recipes of the table: the zoo's in the order of its page, then all others in the order given."""
    rows = spec.rows
    known = (*catalogue.NAMES, *catalogue.SMOKE_NAMES)
    wanted = dict.fromkeys(rows.recipes) | {
        name: None for name in known if any(_selects(spec, selection, name) for selection in rows.select)
    }
    ordered = [*(name for name in known if name in wanted), *(name for name in wanted if name not in known)]
    return [name for name in ordered if name not in rows.exclude]


def _selects(spec: zoo.ModelZooSpec, selection: zoo.Selection, name: str) -> bool:
    return _is_in(name, selection) and (spec.measure == "Training" or _has_weights(spec, name))


def _has_weights(spec: zoo.ModelZooSpec, name: str) -> bool:
    """Whether there are weights to measure: published ones, or the user's."""
    changed = any(change.recipe == name and change.spec.get("pretrained") for change in spec.changes)
    return changed or bool(spec.template.spec.get("pretrained")) or catalogue.has_published_weights(name)


def _is_in(name: str, selection: zoo.Selection) -> bool:
    facets = catalogue.read_facets(name)
    if facets is None or (facets.section == catalogue.SMOKE and catalogue.SMOKE not in selection.sections):
        return False
    return zoo.selected(selection, vars(facets))


def _check_recipes(spec: zoo.ModelZooSpec) -> Iterator[Violation]:
    known = (*catalogue.NAMES, *catalogue.SMOKE_NAMES)
    rows = {
        **{f"spec.rows.recipes[{index}]": name for index, name in enumerate(spec.rows.recipes)},
        **{f"spec.rows.exclude[{index}]": name for index, name in enumerate(spec.rows.exclude)},
    }
    for path, name in rows.items():
        if name not in known and not re.fullmatch(contract.OWN_RECIPE, name):
            rule = "must be a name that `kubedet recipes` lists, or module:attribute."
            yield Violation(path=path, got=name, rule=rule + did_you_mean(name, known))
    for index, selection in enumerate(spec.rows.select):
        if not any(_selects(spec, selection, name) for name in known):
            chosen = {field: list(values) for field, values in vars(selection).items() if values}
            what = "recipe" if spec.measure == "Training" else "recipe with published weights"
            yield Violation(
                path=f"spec.rows.select[{index}]", got=chosen, rule=f"must select at least one {what}"
            )
    yield from _check_weights(spec)
    yield from _check_changes(spec, list_recipes(spec))


def _check_weights(spec: zoo.ModelZooSpec) -> Iterator[Violation]:
    if spec.measure == "Training":
        return
    for index, name in enumerate(spec.rows.recipes):
        if name not in spec.rows.exclude and not _has_weights(spec, name):
            rule = (
                "must have weights to measure, and the zoo published none for it; set pretrained for it in "
                "spec.changes, or remove it"
            )
            yield Violation(path=f"spec.rows.recipes[{index}]", got=name, rule=rule)


def _check_changes(spec: zoo.ModelZooSpec, recipes: list[str]) -> Iterator[Violation]:
    for index, change in enumerate(spec.changes):
        if change.recipe not in recipes:
            rule = f"must be a row of the table.{did_you_mean(change.recipe, recipes)}"
            yield Violation(path=f"spec.changes[{index}].recipe", got=change.recipe, rule=rule)
    places: Mapping[str, Mapping[str, object]] = {
        "spec.template.spec": spec.template.spec,
        **{f"spec.changes[{index}].spec": change.spec for index, change in enumerate(spec.changes)},
    }
    for path, given in places.items():
        for field, where in (("recipe", "spec.rows has the recipes"), ("task", "spec.measure says it")):
            if field in given:
                rule = f"must not be set: {where}; remove it"
                yield Violation(path=f"{path}.{field}", got=given[field], rule=rule)
