"""What the watches have told: jobs without their managed fields, a few fields of each pod and Service."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kubedet_operator.api import names
from kubedet_operator.cluster.evidence import NodeEvidence
from kubedet_operator.cluster.isolation import Isolation
from kubedet_operator.cluster.pages import Pages
from kubedet_operator.cluster.relations import Relations, read_relations
from kubedet_operator.cluster.zoos import Zoos
from kubedet_operator.decision.facts import is_newer
from kubedet_operator.decision.objects import read_owner, read_version
from kubedet_operator.decision.pods import PodFacts, parse_pod, read_termination
from kubedet_trainer.contract import ProgressRecord

Key = tuple[str, str]
"""Namespace and name of a job."""

REMEMBERED_DELETIONS = 10_000
"""Uids of deleted objects that late answers must not bring back."""

_NO_JOB: Mapping[str, Any] = {"metadata": {"uid": None}}
_JOB_METADATA = ("name", "namespace", "uid", "generation", "resourceVersion", "creationTimestamp")


@dataclass(frozen=True)
class ServiceShape:
    """What the operator has decided about a Service, and somebody else may have changed."""

    job_uid: str | None
    selector: tuple[tuple[str, str], ...]
    headless: bool
    early: bool
    """Whether it resolves pods that are not ready."""
    ports: frozenset[tuple[Any, ...]]

    def serves(self, wanted: ServiceShape) -> bool:
        """Whether it is as wanted; further ports do no harm."""
        return replace(self, ports=wanted.ports) == wanted and self.ports >= wanted.ports


class Child(NamedTuple):
    """A pod or a Service, and the job it was made for."""

    plural: str
    key: Key
    name: str
    uid: str
    job_uid: str | None


class _Service(NamedTuple):
    name: str
    uid: str
    version: int
    shape: ServiceShape


def read_shape(service: Mapping[str, Any]) -> ServiceShape:
    """The shape of a Service, as it was built or as the API server has it."""
    spec = service.get("spec") or {}
    return ServiceShape(
        job_uid=owner.uid if (owner := read_owner(service["metadata"])) else None,
        selector=tuple(sorted((spec.get("selector") or {}).items())),
        headless=spec.get("clusterIP") == "None",
        early=bool(spec.get("publishNotReadyAddresses")),
        ports=frozenset(
            tuple(port.get(field) for field in ("name", "port", "targetPort", "protocol"))
            for port in spec.get("ports") or ()
        ),
    )


class Cache:
    """The world as far as it is known, and whom changes of it are told to.

    `job_changed` is called with the key of a job that is new, gone or given other orders; `pods_changed` with
    that of one whose children are not as they were. What the operator has written itself is no news.
    `zoo_changed` is called with the key of a zoo that is not as it was, or whose jobs are not.
    """

    def __init__(
        self,
        job_changed: Callable[[Key], None],
        pods_changed: Callable[[Key], None],
        zoo_changed: Callable[[Key], None] = lambda _: None,
        unreadable: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`unreadable` is called with the kind of each object that cannot be read."""
        self._job_changed = job_changed
        self._pods_changed = pods_changed
        self._isolated = Isolation(unreadable)
        self._writing: dict[Key, Mapping[str, Any]] = {}
        self._jobs: dict[Key, dict[str, Any]] = {}
        self._pods: dict[Key, dict[str, PodFacts]] = {}
        self._services: dict[Key, _Service] = {}
        self._gone: OrderedDict[str, int | None] = OrderedDict()
        self.zoos = Zoos(zoo_changed, self._isolated)
        self.pages = Pages(zoo_changed)
        self.relations = Relations(zoo_changed, job_changed)
        self.evidence = NodeEvidence()
        self.progress: dict[Key, ProgressRecord] = {}
        """The newest answer of rank 0 of every job that answers, or what it left behind."""

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

    def service(self, key: Key) -> ServiceShape | None:
        """What the Service of a job is like, or None if there is none."""
        known = self._services.get(key)
        return known.shape if known else None

    @contextmanager
    def writing(self, key: Key, status: Mapping[str, Any]) -> Iterator[None]:
        """While this lasts, a job that shows `status` is no news: its watch may be faster than the answer."""
        self._writing[key] = status
        try:
            yield
        finally:
            del self._writing[key]

    def store(self, plural: str, manifest: Mapping[str, Any]) -> bool:
        """Take in an object of a kind that is watched; whether it is news of a job.

        One that cannot be read is passed over and told of.
        """
        with self._isolated(plural, manifest):
            if plural == names.PLURAL:
                return self.store_job(manifest)
            (self.store_pod if plural == "pods" else self.store_service)(manifest)
        return False

    def drop(self, plural: str, manifest: Mapping[str, Any]) -> None:
        """Forget an object of a kind that is watched: it is gone, or has left the selector of the watch.

        News that is newer than this brings it back: only what is deleted has none.
        """
        with self._isolated(plural, manifest):
            metadata = manifest["metadata"]
            namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
            self.pages.forget(uid)
            if plural == names.PLURAL:
                self.drop_job((namespace, name), uid=uid)
            elif owner := read_owner(metadata):
                self._drop(plural, (namespace, owner.name), name, uid, read_version(metadata))

    def _drop(self, plural: str, key: Key, name: str, uid: str, version: int | None) -> None:
        if plural == names.PLURAL:
            self.drop_job(key, uid=uid)
        elif plural == "services":
            self.drop_service(key, uid=uid, version=version)
        else:
            self.drop_pod(key, name, uid=uid, version=version)

    def store_job(self, manifest: Mapping[str, Any]) -> bool:
        """Take in a job as an event, a list or the answer to a write shows it; whether it was news.

        Older news is passed over, that of an earlier job of the same name included: kopf tells of each object
        in order, but not of different ones.
        """
        metadata = manifest["metadata"]
        key = (metadata["namespace"], metadata["name"])
        known = self._jobs.get(key)
        if self._is_gone(metadata):
            return False
        if known is not None and read_version(known["metadata"]) >= read_version(metadata):
            return False
        is_same = known is not None and known["metadata"]["uid"] == metadata["uid"]
        kept = {field: metadata[field] for field in _JOB_METADATA if field in metadata}
        kept |= read_relations(metadata)
        if "deletionTimestamp" in metadata:
            kept["deletionTimestamp"] = metadata["deletionTimestamp"]
        stored = {
            "apiVersion": manifest["apiVersion"],
            "kind": manifest["kind"],
            "metadata": kept,
            "spec": manifest.get("spec") or {},
            "status": manifest.get("status") or {},
        }
        self._jobs[key] = stored
        self.relations.note(key, known, stored)
        self.evidence.note(key, known, stored)
        if known is None or not is_same or not self._is_own_write(key, known, stored):
            self._job_changed(key)
        return True

    def _is_own_write(self, key: Key, known: Mapping[str, Any], stored: dict[str, Any]) -> bool:
        before, after = known["metadata"], stored["metadata"]
        if any(before.get(field) != after.get(field) for field in ("generation", "deletionTimestamp")):
            return False
        stored["spec"] = known["spec"]  # of the same generation: one copy is enough
        return bool(stored["status"] in (known["status"], self._writing.get(key)))

    def drop_job(self, key: Key, *, uid: str) -> None:
        """Forget a job that is gone, unless another one has its name by now."""
        self._bury(uid, None)
        known = self._jobs.get(key)
        if known is not None and known["metadata"]["uid"] == uid:
            del self._jobs[key]
            self.relations.note(key, known, None)
            self.evidence.note(key, known, None)
            self.progress.pop(key, None)
            self._job_changed(key)

    def store_pod(self, manifest: Mapping[str, Any]) -> None:
        """Take in a pod likewise."""
        if self._is_gone(manifest["metadata"]) or self.pages.store(manifest):
            return
        pod = parse_pod(manifest)
        if pod is None:
            self._disown("pods", manifest["metadata"])
            return
        key = (manifest["metadata"]["namespace"], pod.job)
        known = self._pods.setdefault(key, {})
        previous = known.get(pod.name)
        is_same = previous is not None and previous.uid == pod.uid
        if previous is not None and is_same and previous.resource_version >= pod.resource_version:
            return
        known[pod.name] = pod
        self._note_progress(key, pod)
        if previous is None or pod != replace(previous, resource_version=pod.resource_version):
            self._pods_changed(key)

    def _note_progress(self, key: Key, pod: PodFacts) -> None:
        """Take in what a worker left behind: its last checkpoint comes when it can no longer be asked."""
        record, known = read_termination(pod).progress, self.progress.get(key)
        if record is not None and is_newer(record.progress, known.progress if known else None):
            self.progress[key] = record

    def drop_pod(self, key: Key, name: str, *, uid: str, version: int | None = None) -> None:
        """Forget a pod that is gone, unless another one has its name by now.

        With `version`, it may still exist: what is newer brings it back.
        """
        self._bury(uid, version)
        known = self._pods.get(key, {})
        if name in known and known[name].uid == uid:
            del known[name]
            if not known:
                del self._pods[key]
            self._pods_changed(key)

    def store_service(self, manifest: Mapping[str, Any]) -> None:
        """Take in a Service likewise."""
        metadata = manifest["metadata"]
        if self._is_gone(metadata):
            return
        owner = read_owner(metadata)
        if owner is None or metadata["name"] != names.service_name(owner.name):
            self._disown("services", metadata)
            return
        key = (metadata["namespace"], owner.name)
        known = self._services.get(key)
        version = read_version(metadata)
        if known is not None and known.uid == metadata["uid"] and known.version >= version:
            return
        shape = read_shape(manifest)
        self._services[key] = _Service(metadata["name"], metadata["uid"], version, shape)
        if known is None or known.shape != shape:
            self._pods_changed(key)

    def drop_service(self, key: Key, *, uid: str, version: int | None = None) -> None:
        """Forget a Service likewise."""
        self._bury(uid, version)
        if key in self._services and self._services[key].uid == uid:
            del self._services[key]
            self._pods_changed(key)

    def uids(self) -> set[str]:
        """The uids of everything that is known."""
        kinds = (names.PLURAL, "pods", "services")
        pages = {uid for _, uid in self.pages.identities()}
        return pages | {uid for plural in kinds for _, _, uid in self._identities(plural)}

    def sweep(
        self,
        plural: str,
        namespace: str | None,
        *,
        listed: set[str],
        known_before: set[str],
        version: str | None = None,
    ) -> None:
        """Forget what of a kind was known before a complete list of a namespace, or of all, and is not in it.

        A watch that had to start over never tells what was deleted in between. `version` is the list's:
        what it does not show may also have left the selector.
        """
        seen = read_version({"resourceVersion": version}) if version else None
        for key, name, uid in list(self._identities(plural)):
            if namespace in (None, key[0]) and uid in known_before and uid not in listed:
                self._drop(plural, key, name, uid, seen)
        for key, uid in list(self.pages.identities()) if plural == "pods" else ():
            if namespace in (None, key[0]) and uid in known_before and uid not in listed:
                self.pages.forget(uid)

    def _identities(self, plural: str) -> Iterator[tuple[Key, str, str]]:
        """The job, name and uid of everything that is known of a kind."""
        if plural == names.PLURAL:
            yield from ((key, key[1], job["metadata"]["uid"]) for key, job in self._jobs.items())
        elif plural == "services":
            yield from ((key, service.name, service.uid) for key, service in self._services.items())
        else:
            yield from ((key, pod.name, pod.uid) for key, pods in self._pods.items() for pod in pods.values())

    def lost_children(self) -> list[Child]:
        """Pods and Services of jobs that are not known any more."""
        pods = (
            Child("pods", key, pod.name, pod.uid, pod.job_uid)
            for key, known in self._pods.items()
            for pod in known.values()
            if not pod.deleting
        )
        services = (
            Child("services", key, service.name, service.uid, service.shape.job_uid)
            for key, service in self._services.items()
        )
        return [
            child
            for child in (*pods, *services)
            if child.job_uid != (self._jobs.get(child.key) or _NO_JOB)["metadata"]["uid"]
        ]

    def _disown(self, plural: str, metadata: Mapping[str, Any]) -> None:
        """Forget a child that has lost its owner; it still exists, but is no job's."""
        for key, name, uid in list(self._identities(plural)):
            if uid == metadata["uid"]:
                self._drop(plural, key, name, uid, read_version(metadata))

    def _bury(self, uid: str, version: int | None) -> None:
        """Let no late answer bring back an object that is gone; or none up to `version`."""
        self._gone[uid] = version
        if len(self._gone) > REMEMBERED_DELETIONS:
            self._gone.popitem(last=False)

    def _is_gone(self, metadata: Mapping[str, Any]) -> bool:
        if metadata["uid"] not in self._gone:
            return False
        version = self._gone[metadata["uid"]]
        return version is None or read_version(metadata) <= version
