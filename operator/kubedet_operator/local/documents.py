"""Reads the files of `kubedet run` and `kubedet render`: one DetectionJob or ModelZoo, and any Secrets."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kubedet_operator.api import names
from kubedet_operator.api.decoding import InvalidManifest, Violation

_MOST_VALUES = 100_000


@dataclass(frozen=True, kw_only=True)
class Documents:
    """What the files hold."""

    job: Mapping[str, Any]
    """The manifest of the one DetectionJob or ModelZoo, not validated."""
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    """Name of a Secret -> key -> value."""

    @property
    def is_zoo(self) -> bool:
        """Whether it is a ModelZoo."""
        return self.job.get("kind") == names.ZOO_KIND


def read_documents(paths: Iterable[Path]) -> Documents:
    """The job or zoo and the Secrets in YAML files; documents of other kinds are passed over.

    Raises:
        InvalidManifest: a file is no YAML, or there is not exactly one job or zoo in all of them.
    """
    jobs: list[Mapping[str, Any]] = []
    secrets: dict[str, Mapping[str, str]] = {}
    files = list(paths)
    for path in files:
        for document in _read(path):
            kind = document.get("kind")
            if kind in (names.KIND, names.ZOO_KIND):
                _require_objects(document, "metadata", "spec", where=f"{path}: {kind}")
                jobs.append(document)
            elif kind == "Secret":
                _require_objects(document, "metadata", "data", "stringData", where=f"{path}: {kind}")
                name = str((document.get("metadata") or {}).get("name"))
                secrets[name] = _read_secret(document, where=f"{path}: Secret {name}")
    if len(jobs) != 1:
        where = ", ".join(str(path) for path in files)
        rule = f"must contain exactly one document of kind {names.KIND} or {names.ZOO_KIND}"
        raise InvalidManifest([Violation(path=where, got=len(jobs), rule=rule)])
    return Documents(job=jobs[0], secrets=secrets)


def _read(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date or a number may be none, too
        reason = " ".join(str(error).split())
        raise InvalidManifest([Violation(path=str(path), got=reason, rule="must be YAML")]) from error
    for number, document in enumerate(documents):
        if document is None:
            continue
        where = f"{path}: document {number}"
        _require_small(document, where=where)
        if not isinstance(document, Mapping):
            raise InvalidManifest([Violation(path=where, got=document, rule="must be an object")])
        yield document


def _require_small(document: Any, *, where: str) -> None:
    """Raise for more values than an API server would store: aliases of aliases make any number of them."""
    remaining, count = [document], 0
    while remaining:
        value = remaining.pop()
        count += 1
        if count > _MOST_VALUES:
            rule = f"must have at most {_MOST_VALUES}; aliases count as what they stand for"
            raise InvalidManifest([Violation(path=where, got=f"more than {_MOST_VALUES} values", rule=rule)])
        if isinstance(value, Mapping | list):
            remaining.extend(value.values() if isinstance(value, Mapping) else value)


def _require_objects(document: Mapping[str, Any], *parts: str, where: str) -> None:
    """Raise unless each of the `parts` that `document` has is an object. A value may be secret."""
    for part in parts:
        if not isinstance(document.get(part) or {}, Mapping):
            kind = type(document[part]).__name__
            raise InvalidManifest([Violation(path=f"{where}: {part}", got=kind, rule="must be an object")])


def _read_secret(document: Mapping[str, Any], *, where: str) -> dict[str, str]:
    """The values of a Secret, as the API server would merge them: stringData over data."""
    values: dict[str, str] = {}
    for key, encoded in (document.get("data") or {}).items():
        try:
            values[key] = base64.b64decode(str(encoded), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            rule = "must be base64 of text; or write it in stringData"
            raise InvalidManifest([Violation(path=f"{where}: data.{key}", got="...", rule=rule)]) from error
    return values | {key: str(value) for key, value in (document.get("stringData") or {}).items()}
