"""The pods that write the pages of zoos, as the watch of all pods has told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from kubedet_operator.cluster.relations import Key
from kubedet_operator.decision.pods import PodFacts
from kubedet_operator.decision.zoo.facts import parse_page_pod


class Pages:
    """At most one pod for each zoo."""

    def __init__(self, changed: Callable[[Key], None]) -> None:
        """`changed` is called with the key of a zoo whose pod is new, gone or not as it was."""
        self._changed = changed
        self._pods: dict[Key, PodFacts] = {}

    def pod(self, key: Key, *, uid: str) -> PodFacts | None:
        """The pod of the zoo with this uid; one of an earlier zoo of the same name is not its own."""
        pod = self._pods.get(key)
        return pod if pod is not None and pod.job_uid == uid else None

    def store(self, manifest: Mapping[str, Any]) -> bool:
        """Take in a pod; False for one that writes no page. Older news is passed over."""
        pod = parse_page_pod(manifest)
        if pod is None:
            return False
        key = (manifest["metadata"]["namespace"], pod.job)
        known = self._pods.get(key)
        if known is not None and known.resource_version >= pod.resource_version:
            return True
        self._pods[key] = pod
        if known is None or replace(known, resource_version=pod.resource_version) != pod:
            self._changed(key)
        return True

    def forget(self, uid: str) -> None:
        """Forget a pod that is gone."""
        for key, pod in list(self._pods.items()):
            if pod.uid == uid:
                del self._pods[key]
                self._changed(key)

    def identities(self) -> Iterator[tuple[Key, str]]:
        """The zoo and the uid of every pod."""
        return ((key, pod.uid) for key, pod in self._pods.items())
