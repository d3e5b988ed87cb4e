"""Where a job of this machine keeps its data: paths become URIs, and what only a cluster has is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kubedet_operator.api.decoding import Violation

_FIELDS = (
    ("weightsMirror",),
    ("pretrained", "storageUri"),
    ("dataset", "storageUri"),
    ("dataset", "proposals", "storageUri"),
    ("checkpoint", "storageUri"),
    ("checkpoint", "resume"),
)
"""The fields of the spec that name a place."""


def resolve_paths(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` with a URI for every place that is a path: that starts with ``./``, ``../`` or ``/``.

    Relative paths start in the current folder.
    """
    resolved = dict(spec)
    for field in _FIELDS:
        resolved = _resolve(resolved, field)
    return resolved


def find_claims(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Every place that is a claim."""
    for field in _FIELDS:
        uri: Any = spec
        for name in field:
            uri = uri.get(name) if isinstance(uri, Mapping) else None
        if str(uri).startswith("pvc://"):
            yield Violation(
                path=".".join(("spec", *field)),
                got=uri,
                rule="must not be a claim on this machine; use a path such as ./data, or s3://",
            )


def _resolve(section: Mapping[str, Any], field: tuple[str, ...]) -> dict[str, Any]:
    name, *below = field
    value = section.get(name)
    if below and isinstance(value, Mapping):
        return {**section, name: _resolve(value, tuple(below))}
    if not below and isinstance(value, str) and f"{value}/".startswith(("./", "../", "/")):
        return {**section, name: Path(value).resolve().as_uri()}
    return dict(section)
