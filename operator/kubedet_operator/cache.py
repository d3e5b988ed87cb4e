"""What the watches have told: jobs without their managed fields, and a few fields of each pod."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kubedet_operator.facts import PodFacts, parse_pod
from kubedet_trainer.contract import ProgressRecord

Key = tuple[str, str]
"""Namespace and name of a job."""

REMEMBERED_DELETIONS = 10_000
"""Uids of deleted objects that late answers must not bring back."""

_JOB_METADATA = ("name", "namespace", "uid", "generation", "resourceVersion", "creationTimestamp")


class Cache:
    """The world as far as it is known. Every change names the job it concerns to `changed`."""

    def __init__(self, changed: Callable[[Key], None]) -> None:
        self._changed = changed
        self._jobs: dict[Key, dict[str, Any]] = {}
        self._pods: dict[Key, dict[str, PodFacts]] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self.progress: dict[Key, ProgressRecord] = {}
        """The newest answer of rank 0 of every job that answers."""

    def jobs(self) -> list[dict[str, Any]]:
        """The manifests of all jobs, for metrics; never needed for a single event."""
        return list(self._jobs.values())

    def job_keys(self) -> list[Key]:
        """The keys of all jobs."""
        return list(self._jobs)

    def job(self, key: Key) -> dict[str, Any] | None:
        """The manifest of a job, or None if there is none. Not to be changed."""
        return self._jobs.get(key)

    def pods(self, key: Key) -> Iterable[PodFacts]:
        """The pods that carry the name of a job."""
        return tuple(self._pods.get(key, {}).values())

    def store_job(self, manifest: Mapping[str, Any]) -> None:
        """Take in a job as an event, a list or the answer to a write shows it; older news is passed over."""
        metadata = manifest["metadata"]
        key = (metadata["namespace"], metadata["name"])
        known = self._jobs.get(key)
        if metadata["uid"] in self._gone:
            return
        is_same = known is not None and known["metadata"]["uid"] == metadata["uid"]
        if known is not None and is_same and _version(known["metadata"]) >= _version(metadata):
            return
        kept = {field: metadata[field] for field in _JOB_METADATA if field in metadata}
        if "deletionTimestamp" in metadata:
            kept["deletionTimestamp"] = metadata["deletionTimestamp"]
        self._jobs[key] = {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "metadata": kept,
            "spec": manifest.get("spec") or {},
            "status": manifest.get("status") or {},
        }
        self._changed(key)

    def drop_job(self, key: Key, *, uid: str) -> None:
        """Forget a job that is gone, unless another one has its name by now."""
        self._bury(uid)
        known = self._jobs.get(key)
        if known is not None and known["metadata"]["uid"] == uid:
            del self._jobs[key]
            self.progress.pop(key, None)
            self._changed(key)

    def store_pod(self, manifest: Mapping[str, Any]) -> None:
        """Take in a pod likewise."""
        pod = parse_pod(manifest)
        if pod is None or pod.uid in self._gone:
            return
        key = (manifest["metadata"]["namespace"], pod.job)
        known = self._pods.setdefault(key, {})
        previous = known.get(pod.name)
        is_same = previous is not None and previous.uid == pod.uid
        if previous is not None and is_same and previous.resource_version >= pod.resource_version:
            return
        known[pod.name] = pod
        self._changed(key)

    def drop_pod(self, key: Key, name: str, *, uid: str) -> None:
        """Forget a pod that is gone, unless another one has its name by now."""
        self._bury(uid)
        known = self._pods.get(key, {})
        if name in known and known[name].uid == uid:
            del known[name]
            if not known:
                del self._pods[key]
            self._changed(key)

    def sweep(self, *, jobs: set[str], pods: set[str], known_before: Iterable[str]) -> None:
        """Forget what a complete list did not show: uids of `known_before` that are not in it.

        A watch that had to start over never tells what was deleted in between.
        """
        candidates = set(known_before)
        for key, job in list(self._jobs.items()):
            uid = job["metadata"]["uid"]
            if uid in candidates and uid not in jobs:
                self.drop_job(key, uid=uid)
        for key, known in list(self._pods.items()):
            for pod in list(known.values()):
                if pod.uid in candidates and pod.uid not in pods:
                    self.drop_pod(key, pod.name, uid=pod.uid)

    def uids(self) -> set[str]:
        """The uids of everything that is known."""
        jobs = {job["metadata"]["uid"] for job in self._jobs.values()}
        return jobs | {pod.uid for known in self._pods.values() for pod in known.values()}

    def _bury(self, uid: str) -> None:
        self._gone[uid] = None
        if len(self._gone) > REMEMBERED_DELETIONS:
            self._gone.popitem(last=False)


def _version(metadata: Mapping[str, Any]) -> int:
    """The resource version as a number: larger is newer within one cluster."""
    text = str(metadata.get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0
