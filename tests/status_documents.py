"""Statuses that the CRD admits and no operator writes: other controllers and people write to them, too."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

_TIMES = (
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "1970-01-01T00:00:00Z",
    "2026-01-01T00:00:00Z",
    "2026-01-01T01:00:00.123456789Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-14:00",
)
_INTEGERS = (0, 1, -1, 100, 2**31, 2**53, 2**63 - 1, -(2**63))
_NUMBERS = (0, 1, -1, 0.5, 5e-324, 2**53, 2**63 - 1, 1e308, -1e308)
_TEXTS = ("", "x", "<b>\n|", "demo-worker-0", "node-0", "running", "ended", "s3://x/y", "ü" * 30)
_KEYS = ("training", "lost", "restarting", "running", "boxAP", "x")
_FREE: tuple[dict[str, Any], ...] = ({}, {"accelerator": ["x"], "worldSize": True, "precision": 1.5})
_BY_NAME = {
    "type": ("Suspended", "QuotaReserved", "Initialized", "Running", "Restarting", "Complete", "Failed"),
    "reason": ("WorkerFailed", "Resized", "SuspendRequested", "InvalidSpec", "x"),
}
"""Fields whose words matter to decisions."""


def generate(schema: Mapping[str, Any], chance: random.Random, *, name: str = "") -> Any:
    """A value that `schema`, a part of a CRD, admits; `name` is that of its field."""
    kind = schema.get("type")
    if "enum" in schema:
        return chance.choice(schema["enum"])
    if kind == "string":
        is_time = schema.get("format") == "date-time"
        texts = _TIMES if is_time else _BY_NAME.get(name, _TEXTS)
        return chance.choice([text for text in texts if len(text) >= schema.get("minLength", 0)])
    if kind == "array":
        items = [generate(schema["items"], chance) for _ in range(chance.randrange(4))]
        keys = schema.get("x-kubernetes-list-map-keys") or ()
        return list({json.dumps([item[key] for key in keys] or item): item for item in items}.values())
    if "properties" in schema:
        required = schema.get("required") or ()
        return {
            field: generate(below, chance, name=field)
            for field, below in schema["properties"].items()
            if field in required or chance.random() < 0.7
        }
    if kind == "object":
        values = schema.get("additionalProperties")
        if not isinstance(values, Mapping):
            return chance.choice(_FREE)
        return {key: generate(values, chance) for key in chance.sample(_KEYS, chance.randrange(4))}
    return chance.choice({"integer": _INTEGERS, "number": _NUMBERS}.get(str(kind), (True, False)))
