"""How a zoo is reconciled against an API server that misbehaves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from kubedet_operator.api import names
from kubedet_operator.cluster import errors
from kubedet_operator.cluster.cache import Cache, Key
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.events import Events, Occurrence
from kubedet_operator.control.workqueue import WorkQueue
from kubedet_operator.control.zoos import ZooReconciler
from kubedet_operator.settings import OperatorSettings
from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics
from zoo_simulation import make_zoo, turn

KEY = ("default", "zoo")
RETINA = "retinanet_r50_fpn_1x"
JOB = ("default", names.row_job_name("zoo", RETINA, 0))
NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


class FakeCluster:
    """Records what is asked of it, and answers or fails as told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failures: dict[str, errors.OperatorError] = {}
        self.created: list[dict[str, Any]] = []
        self.others: dict[str, dict[str, Any]] = {}
        """What `read_job` and `read_zoo` answer."""
        self._version = 100

    async def write_status(self, zoo: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
        self._ask("status")
        return self._stored({**zoo, "status": dict(status)})

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        kind = "job" if manifest["kind"] == "DetectionJob" else "page"
        self._ask("create" if kind == "job" else "create page")
        self.created.append(
            self._stored(
                {
                    **manifest,
                    "metadata": {
                        **manifest["metadata"],
                        "uid": f"{kind}-1",
                        "generation": 1,
                        "creationTimestamp": "2026-01-01T01:00:00Z",
                    },
                }
            )
        )
        return self.created[-1]

    async def suspend_job(self, namespace: str, name: str, *, uid: str, suspend: bool) -> dict[str, Any]:
        self._ask(f"suspend {suspend}")
        return self._stored(self.others[name])

    async def read_job(self, namespace: str, name: str) -> dict[str, Any]:
        self._ask("read job")
        return self._stored(self.others[name])

    async def read_pod(self, namespace: str, name: str) -> dict[str, Any]:
        self._ask("read pod")
        return self._stored(self.others[name])

    async def read_zoo(self, namespace: str, name: str) -> dict[str, Any]:
        self._ask("read zoo")
        return self._stored(self.others[name])

    async def delete(self, plural: str, namespace: str, name: str, *, uid: str, force: bool = False) -> None:
        self._ask(f"delete {plural} {uid}")

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what in self.failures:
            raise self.failures.pop(what)

    def _stored(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self._version += 1
        return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self._version)}}


class RecordedEvents(Events):
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def record(self, subject: Mapping[str, Any], occurrence: Occurrence) -> None:
        self.told.append((subject["kind"], occurrence.reason))


class World:
    """A reconciler with its surroundings."""

    def __init__(self) -> None:
        self.cluster, self.events = FakeCluster(), RecordedEvents()
        self.queue: WorkQueue[Key] = WorkQueue()
        self.cache = Cache(lambda _: None, lambda _: None, self.queue.add)
        self.reconciler = ZooReconciler(
            cast(Cluster, self.cluster),
            self.cache,
            self.queue,
            metrics=Metrics(),
            health=Health(),
            events=self.events,
            settings=OperatorSettings(),
            clock=lambda: NOW,
        )

    def apply(self, version: int = 1, **spec: Any) -> dict[str, Any]:
        zoo = make_zoo(**spec)
        zoo["metadata"] |= {"uid": "zoo-1", "generation": version, "resourceVersion": str(version)}
        known = self.cache.zoos.zoo(KEY)
        zoo["status"] = known["status"] if known else {}
        self.cache.zoos.store(names.ZOO_PLURAL, zoo)
        return zoo

    async def settle(self) -> None:
        while len(self.queue):
            key = await self.queue.get()
            try:
                await self.reconciler.reconcile(key)
            finally:
                self.queue.done(key)

    def status(self) -> dict[str, Any]:
        return dict((self.cache.zoos.zoo(KEY) or {})["status"])


@pytest.fixture
async def world() -> World:
    return World()


async def test_the_status_is_written_before_a_job_is_created_and_again_when_it_is_seen(world: World) -> None:
    world.apply()
    await world.settle()
    assert world.cluster.asked == ["status", "create", "status"]
    assert world.status()["rows"][0]["phase"] == "Running"
    assert world.events.told == [("ModelZoo", "JobsExist")]
    await world.settle()
    assert world.cluster.asked == ["status", "create", "status"]


async def test_a_status_that_somebody_else_changed_voids_the_plan(world: World) -> None:
    zoo = world.apply()
    world.cluster.failures["status"] = errors.Conflict("update modelzoos: changed")
    world.cluster.others["zoo"] = zoo
    await world.settle()
    assert world.cluster.asked[:2] == ["status", "read zoo"]
    assert world.cluster.asked.count("create") == 1


async def test_a_zoo_that_is_gone_gets_no_job(world: World) -> None:
    world.apply()
    world.cluster.failures["status"] = errors.NotFound("update modelzoos: not found")
    await world.settle()
    assert world.cluster.asked == ["status"]
    assert world.cache.zoos.zoo(KEY) is None


async def test_a_job_of_somebody_else_is_not_touched(world: World) -> None:
    world.apply()
    world.cluster.failures["create"] = errors.Conflict("create detectionjobs: exists")
    other = {**make_zoo(), "kind": "DetectionJob", "status": {}, "spec": {}}
    other["metadata"] = {"name": JOB[1], "namespace": "default", "uid": "other"}
    world.cluster.others[JOB[1]] = other
    await world.settle()
    assert world.cluster.asked == ["status", "create", "read job", "status"]
    reasons = {item["type"]: item["reason"] for item in world.status()["conditions"]}
    assert reasons["Degraded"] == "NameTaken"


async def test_a_refused_job_is_told_and_tried_again(world: World) -> None:
    world.apply()
    world.cluster.failures["create"] = errors.Rejected("create detectionjobs: quota")
    with pytest.raises(errors.Rejected):
        await world.settle()
    world.queue.add(KEY)
    await world.settle()
    assert world.cluster.asked == ["status", "create", "status", "create", "status"]
    assert {item["type"]: item["status"] for item in world.status()["conditions"]}["Degraded"] == "False"


async def test_suspension_goes_by_the_job_that_is_meant(world: World) -> None:
    world.apply()
    await world.settle()
    job = dict(world.cache.job(JOB) or {})
    world.cluster.others[JOB[1]] = {**job, "spec": {**job["spec"], "suspend": True}}
    world.apply(200, suspend=True)
    await world.settle()
    assert "suspend True" in world.cluster.asked


async def test_rows_that_end_are_told(world: World) -> None:
    world.apply()
    await world.settle()
    job = dict(world.cache.job(JOB) or {})
    job["metadata"] = {**job["metadata"], "resourceVersion": "500"}
    job["status"] = {"results": {"boxAP": 35.0}, "completionTime": "2026-01-01T00:00:00Z"}
    turn(job, "Complete", "True")
    world.cache.store_job(job)
    await world.settle()
    assert [reason for _, reason in world.events.told] == ["JobsExist", "RowSucceeded", "RowsComplete"]


async def _complete(world: World) -> None:
    """The only row's job ends well."""
    world.apply()
    await world.settle()
    job = dict(world.cache.job(JOB) or {})
    job["metadata"] = {**job["metadata"], "resourceVersion": "500"}
    job["status"] = {"results": {"boxAP": 35.0}, "completionTime": "2026-01-01T00:00:00Z"}
    turn(job, "Complete", "True")
    world.cache.store_job(job)
    world.cluster.asked.clear()
    await world.settle()


def _page_condition(world: World) -> tuple[str, str]:
    (found,) = [item for item in world.status()["conditions"] if item["type"] == "PageWritten"]
    return found["status"], found["reason"]


async def test_the_page_is_written_by_a_pod_that_is_deleted_when_it_has_ended(world: World) -> None:
    await _complete(world)
    assert world.cluster.asked == ["status", "create page"]
    pod = world.cluster.created[-1]
    ended = {**pod, "status": {"phase": "Succeeded"}}
    ended["metadata"] = {**pod["metadata"], "resourceVersion": "900"}
    world.cache.store("pods", ended)
    await world.settle()
    assert world.cluster.asked[2:4] == ["status", "delete pods page-1"]
    assert _page_condition(world) == ("True", "RowsShown")
    world.cache.drop("pods", ended)
    world.cluster.asked.clear()
    await world.settle()
    assert world.cluster.asked == []


async def test_a_pod_of_the_page_that_a_list_does_not_show_is_forgotten(world: World) -> None:
    await _complete(world)
    assert world.cache.pages.pod(KEY, uid="zoo-1") is not None
    assert world.cache.pages.pod(KEY, uid="zoo-0") is None
    known = world.cache.uids()
    assert "page-1" in known
    world.cache.sweep("pods", None, listed=set(), known_before=known)
    assert world.cache.pages.pod(KEY, uid="zoo-1") is None


async def test_a_refused_page_is_told_and_troubles_no_row(world: World) -> None:
    world.cluster.failures["create page"] = errors.Rejected("create pods: quota")
    await _complete(world)
    assert _page_condition(world) == ("False", "ChildRejected")
    conditions = {item["type"]: item["status"] for item in world.status()["conditions"]}
    assert (conditions["Complete"], conditions["Degraded"]) == ("True", "False")


async def test_a_pod_of_somebody_else_that_has_the_name_is_told_and_left_alone(world: World) -> None:
    metadata = {"name": "zoo-page", "namespace": "default", "uid": "other"}
    world.cluster.others["zoo-page"] = {"metadata": metadata}
    world.cluster.failures["create page"] = errors.Conflict("create pods: exists")
    await _complete(world)
    assert _page_condition(world) == ("False", "ChildRejected")
    assert not any(asked.startswith("delete") for asked in world.cluster.asked)


async def test_a_deleted_zoo_does_nothing_and_is_forgotten(world: World) -> None:
    zoo = world.apply()
    zoo["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "2"}
    world.cache.zoos.store(names.ZOO_PLURAL, zoo)
    await world.settle()
    world.cache.zoos.drop(names.ZOO_PLURAL, zoo)
    await world.settle()
    assert world.cluster.asked == []
