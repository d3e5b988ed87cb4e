"""Lays a partial pod template over a built pod, the way a strategic merge patch would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubedet_operator.api import shapes

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
}
"""Lists whose items are merged, and the field that identifies them, as in the Kubernetes API.

Every other list (tolerations, arguments) is replaced as a whole.
"""


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid over it; None removes a field that may be absent. No argument is changed."""
    merged = dict(base)
    for name, value in over.items():
        if value is None:
            if name not in shapes.ESSENTIAL:
                merged.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            merged[name] = merge(merged[name], value)
        elif name in _MERGE_KEYS and isinstance(value, list) and isinstance(merged.get(name), list):
            merged[name] = _merge_items(merged[name], value, _MERGE_KEYS[name])
        else:
            merged[name] = value
    return merged


def _merge_items(base: list[Any], over: list[Any], key: str) -> list[Any]:
    """Items of `over` merged into those of `base` with the same `key`, the others added at the end."""
    merged = list(base)
    places = {item.get(key): place for place, item in enumerate(base) if key in item}
    for item in over:
        identity = item.get(key) if isinstance(item, Mapping) else None
        if identity is not None and identity in places:
            merged[places[identity]] = merge(merged[places[identity]], item)
        else:
            merged.append(item)
    return merged
