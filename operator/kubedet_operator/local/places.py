"""Where a job of this machine keeps its data: paths become URIs, and what only a cluster has is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kubedet_operator.api.decoding import InvalidManifest, Violation

_FIELDS = (
    ("weightsMirror",),
    ("pretrained", "storageUri"),
    ("dataset", "storageUri"),
    ("dataset", "proposals", "storageUri"),
    ("checkpoint", "storageUri"),
    ("checkpoint", "resume"),
)
"""The fields of the spec that name a place."""


def require_folder(output: Path) -> None:
    """Raise unless `output` is a folder to write to, or can be made.

    Raises:
        InvalidManifest: a file is in its place or in that of a folder above, or it must not be written to.
    """
    nearest = next(path for path in (output, *output.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        rule = f"must be a folder, but {nearest} is a file; name another"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        rule = f"must be a folder to write to, and {nearest} is none; name another"
    else:
        return
    raise InvalidManifest([Violation(path="--output", got=str(output), rule=rule)])


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
