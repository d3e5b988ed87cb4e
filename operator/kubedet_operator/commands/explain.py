"""Describes fields of a DetectionJob or a ModelZoo from the schema of the CRD, and those of recipes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kubedet_operator.api import schema
from kubedet_trainer.contract.nearest import nearest

_LIMITS = (
    ("minimum", ">="),
    ("maximum", "<="),
    ("minLength", "characters >="),
    ("maxLength", "characters <="),
    ("maxItems", "entries <="),
    ("maxProperties", "entries <="),
)


_OVERRIDES = ["spec", "overrides"]
"""The field whose keys are fields of recipes."""


class UnknownField(LookupError):
    """A path that is no field of that kind. The message names the nearest field."""


def explain(path: str, *, width: int) -> str:
    """The text about the field at `path`, such as ``spec.worker.replicas``; about the object if it is empty.

    A path of a zoo begins with its name: ``zoo.spec.rows``. All others are of a DetectionJob.

    Raises:
        UnknownField: there is no such field.
    """
    fields = [part for part in path.split(".") if part]
    resource = schema.JOB
    if fields and (named := [item for item in schema.RESOURCES if fields[0] in _names(item)]):
        resource, fields = named[0], fields[1:]
    below = None
    if resource is schema.JOB and fields[:2] == _OVERRIDES:
        fields, below = fields[:2], ".".join(fields[2:])
    found = schema.build_schema(resource, for_people=True)
    for depth, field in enumerate(fields):
        inner = _inner(found)
        if field not in inner:
            above = ".".join(fields[:depth])
            instead = _instead(field, above=above, known=list(inner), kind=resource.kind)
            raise UnknownField(f"{path}: no such field; {instead}")
        found = inner[field]
    paragraphs = list(_paragraphs(".".join(fields) or resource.kind, found, width=width))
    if below is not None:
        paragraphs.append(_list_overrides(below, width=width))
    return "\n\n".join(paragraphs)


def _names(resource: schema.Resource) -> tuple[str, str, str]:
    return resource.short_name, resource.singular, resource.plural


def _list_overrides(path: str, *, width: int) -> str:
    """The fields of recipes at `path` and below it."""
    from kubedet_operator.commands import overrides  # the recipes take a tenth of a second

    chosen = overrides.list_below(path)
    if not chosen:
        known = [field.path for field in overrides.list_below("")]
        above = ".".join(_OVERRIDES)
        instead = _instead(path, above=above, known=known, kind=schema.JOB.kind)
        raise UnknownField(f"{above}.{path}: no such field; {instead}")
    heading = "Fields of recipes, with the defaults of the zoo; `kubedet recipes NAME` prints a recipe:"
    return "\n".join([heading, *overrides.explain_fields(chosen, width=width)])


def type_name(found: Mapping[str, Any]) -> str:
    """The type of a field in words: its choices, ``list of string``, ``quantity``."""
    if "enum" in found:
        return " | ".join(found["enum"])
    if "items" in found:
        return f"list of {type_name(found['items'])}"
    if "additionalProperties" in found:
        return f"map of {type_name(found['additionalProperties'])}"
    return "quantity" if "x-kubernetes-int-or-string" in found else str(found["type"])


def list_facts(found: Mapping[str, Any]) -> list[str]:
    """The default and the bounds of a field, one phrase for each."""
    value = found.get("default")
    shown = str(value).lower() if isinstance(value, bool) else value  # as YAML has it
    default = [f"default: {shown}"] if value not in (None, {}) else []
    return default + [f"{words} {found[limit]}" for limit, words in _LIMITS if limit in found]


def _paragraphs(title: str, found: Mapping[str, Any], *, width: int) -> Iterator[str]:
    facts = "; ".join(list_facts(found))
    yield f"{title} <{type_name(found)}>{f'  {facts}' if facts else ''}"
    yield textwrap.fill(found.get("description", ""), width=width)
    rules = [rule["message"] for rule in _item(found).get("x-kubernetes-validations", ())]
    if rules:
        yield "\n".join(["Rules:", *_indented(rules, width=width)])
    inner, required = _inner(found), _item(found).get("required", ())
    if inner:
        yield "\n".join(["Fields:", *_blocks(inner, required, width=width)])


def _blocks(inner: Mapping[str, Any], required: Sequence[str], *, width: int) -> Iterator[str]:
    for name, field in inner.items():
        facts = "; ".join([*(["required"] if name in required else []), *list_facts(field)])
        about = textwrap.indent(textwrap.fill(field.get("description", ""), width=width - 6), " " * 6)
        yield f"  {name} <{type_name(field)}>{f'  {facts}' if facts else ''}\n{about}"


def _item(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a list's items, or the schema itself if it is no list."""
    item: Mapping[str, Any] = found.get("items", found)
    return item


def _inner(found: Mapping[str, Any]) -> dict[str, Any]:
    inner: dict[str, Any] = _item(found).get("properties", {})
    return inner


def _indented(lines: list[str], *, width: int) -> Iterator[str]:
    for line in lines:
        yield textwrap.fill(line, width=width, initial_indent="  ", subsequent_indent="    ")


def _instead(field: str, *, above: str, known: list[str], kind: str) -> str:
    if near := nearest(field, known):
        return f"did you mean '{'.'.join(filter(None, [above, near]))}'?"
    if not known:
        return f"{above} has no fields of its own"
    return f"{above or kind} has {', '.join(known)}"
