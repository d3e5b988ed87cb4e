"""Zoos and their jobs in the cache: who is told of what, and what is found without a search."""

from __future__ import annotations

from typing import Any

import pytest

import builders
from kubedet_operator.api import names
from kubedet_operator.cluster.cache import Cache, Key
from zoo_simulation import make_zoo

JOB = ("default", "zoo-ssd")


class Told:
    """A cache, and whom it has told."""

    def __init__(self) -> None:
        self.jobs: list[Key] = []
        self.zoos: list[Key] = []
        self.cache = Cache(self.jobs.append, lambda _: None, self.zoos.append)

    def zoo_changes(self) -> int:
        """How often the zoo was told of since the last time."""
        assert set(self.zoos) <= {("default", "zoo")}
        count = len(self.zoos)
        self.zoos.clear()
        return count


@pytest.fixture
def told() -> Told:
    return Told()


def _job(version: int, *, uid: str = "job-1", owner: str | None = "zoo-1", **status: Any) -> dict[str, Any]:
    manifest = builders.make_manifest(name="zoo-ssd")
    manifest["metadata"] |= {
        "uid": uid,
        "generation": 1,
        "resourceVersion": str(version),
        "annotations": {names.ZOO_HASH: "h", "kubectl.kubernetes.io/last-applied-configuration": "long"},
    }
    if owner:
        reference = {"kind": "ModelZoo", "name": "zoo", "uid": owner, "controller": True}
        manifest["metadata"]["ownerReferences"] = [reference]
    return {**manifest, "status": status}


def test_a_zoo_is_told_of_its_jobs_when_they_come_turn_and_go(told: Told) -> None:
    told.cache.store_job(_job(1))
    assert told.zoo_changes() == 1
    told.cache.store_job(_job(2, conditions=[{"type": "Complete", "status": "True"}]))
    assert told.zoo_changes() == 1
    told.cache.drop_job(JOB, uid="job-1")
    assert told.zoo_changes() == 1


def test_progress_of_its_jobs_is_no_news_for_a_zoo(told: Told) -> None:
    told.cache.store_job(_job(1))
    told.zoo_changes()
    told.cache.store_job(_job(2, progress={"percentage": 50}))
    assert told.zoo_changes() == 0


def test_the_operator_s_own_write_of_a_job_is_news_for_its_zoo(told: Told) -> None:
    told.cache.store_job(_job(1))
    told.zoo_changes()
    told.jobs.clear()
    written = _job(2, conditions=[{"type": "Failed", "status": "True"}])
    with told.cache.writing(JOB, written["status"]):
        told.cache.store_job(written)
    assert (told.jobs, told.zoo_changes()) == ([], 1)


def test_jobs_are_found_by_the_uid_of_their_zoo(told: Told) -> None:
    told.cache.store_job(_job(1))
    assert told.cache.relations.owned("zoo-1") == {JOB}
    told.cache.store_job(_job(2, uid="job-2", owner="zoo-2"))
    assert (told.cache.relations.owned("zoo-1"), told.cache.relations.owned("zoo-2")) == (set(), {JOB})
    told.cache.drop_job(JOB, uid="job-2")
    assert told.cache.relations.owned("zoo-2") == set()


def test_of_the_metadata_only_what_relates_a_job_to_its_zoo_is_kept(told: Told) -> None:
    told.cache.store_job(_job(1))
    kept = (told.cache.job(JOB) or {})["metadata"]
    assert kept["annotations"] == {names.ZOO_HASH: "h"}
    assert kept["ownerReferences"][0]["uid"] == "zoo-1"
    told.cache.store_job(_job(1, uid="job-3", owner=None) | {"metadata": _job(9, owner=None)["metadata"]})
    assert "annotations" not in (told.cache.job(JOB) or {})["metadata"]


def test_a_job_that_waits_for_another_is_told_of_its_end(told: Told) -> None:
    waiting = builders.make_manifest(name="fast", dataset={"proposals": {"fromJob": "zoo-ssd"}})
    waiting["metadata"] |= {"uid": "fast", "generation": 1, "resourceVersion": "1"}
    told.cache.store_job(waiting)
    told.cache.store_job(_job(2))
    told.jobs.clear()
    written = _job(3, conditions=[{"type": "Complete", "status": "True"}])
    with told.cache.writing(JOB, written["status"]):
        told.cache.store_job(written)
    assert told.jobs == [("default", "fast")]
    told.cache.drop_job(("default", "fast"), uid="fast")
    told.jobs.clear()
    told.cache.store_job(_job(4))
    assert ("default", "fast") not in told.jobs


def test_older_news_of_a_zoo_and_that_of_an_earlier_one_is_passed_over(told: Told) -> None:
    zoos = told.cache.zoos
    for version, uid in ((5, "zoo-2"), (3, "zoo-1")):
        manifest = make_zoo()
        manifest["metadata"] |= {"uid": uid, "generation": 1, "resourceVersion": str(version)}
        zoos.store(names.ZOO_PLURAL, manifest)
    assert zoos.uids() == {"zoo-2"}
    zoos.drop(names.ZOO_PLURAL, {"metadata": {"namespace": "default", "name": "zoo", "uid": "zoo-1"}})
    assert zoos.zoo(("default", "zoo")) is not None
    zoos.sweep(names.ZOO_PLURAL, None, listed=set(), known_before={"zoo-2"})
    assert zoos.zoos() == []
