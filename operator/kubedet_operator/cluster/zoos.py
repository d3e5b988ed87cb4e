"""The ModelZoos as their watch has told, as `ListWatch` keeps them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kubedet_operator.cluster.isolation import Isolation
from kubedet_operator.cluster.relations import Key
from kubedet_operator.decision.objects import read_version

_METADATA = (
    "name",
    "namespace",
    "uid",
    "generation",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
)


class Zoos:
    """Manifests of zoos without what decisions do not need."""

    def __init__(self, changed: Callable[[Key], None], isolated: Isolation) -> None:
        """`changed` is called with the key of a zoo that is new, gone or not as it was."""
        self._changed = changed
        self._isolated = isolated
        self._zoos: dict[Key, dict[str, Any]] = {}

    def zoo(self, key: Key) -> dict[str, Any] | None:
        """The manifest of a zoo, or None if there is none. Not to be changed."""
        return self._zoos.get(key)

    def zoos(self) -> list[dict[str, Any]]:
        """The manifests of all zoos, for metrics."""
        return list(self._zoos.values())

    def store(self, plural: str, manifest: Mapping[str, Any]) -> None:
        """Take in a zoo as an event, a list or the answer to a write shows it; older news is passed over."""
        with self._isolated(plural, manifest):
            self._store(manifest)

    def _store(self, manifest: Mapping[str, Any]) -> None:
        metadata = manifest["metadata"]
        key = (metadata["namespace"], metadata["name"])
        known = self._zoos.get(key)
        if known is not None and read_version(known["metadata"]) >= read_version(metadata):
            return
        self._zoos[key] = stored = {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "metadata": {field: metadata[field] for field in _METADATA if field in metadata},
            "spec": manifest.get("spec") or {},
            "status": manifest.get("status") or {},
        }
        if known is None or _orders(known) != _orders(stored) or known["status"] != stored["status"]:
            self._changed(key)

    def drop(self, plural: str, manifest: Mapping[str, Any]) -> None:
        """Forget a zoo that is gone, unless another one has its name by now."""
        with self._isolated(plural, manifest):
            metadata = manifest["metadata"]
            self.forget((metadata["namespace"], metadata["name"]), uid=metadata["uid"])

    def forget(self, key: Key, *, uid: str) -> None:
        """Likewise, by key."""
        known = self._zoos.get(key)
        if known is not None and known["metadata"]["uid"] == uid:
            del self._zoos[key]
            self._changed(key)

    def uids(self) -> set[str]:
        """The uids of all zoos."""
        return {zoo["metadata"]["uid"] for zoo in self._zoos.values()}

    def sweep(
        self,
        plural: str,
        namespace: str | None,
        *,
        listed: set[str],
        known_before: set[str],
        version: str | None = None,
    ) -> None:
        """Forget what was known before a complete list of a namespace, or of all, and is not in it."""
        for key, zoo in list(self._zoos.items()):
            uid = zoo["metadata"]["uid"]
            if namespace in (None, key[0]) and uid in known_before and uid not in listed:
                self.forget(key, uid=uid)


def _orders(zoo: Mapping[str, Any]) -> tuple[Any, ...]:
    metadata = zoo["metadata"]
    return metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp")
