"""The cache keeps the newest sight of everything, and lets nothing that is gone come back."""

from __future__ import annotations

from typing import Any

import pytest

import builders
from kubedet_operator.cache import Cache, Key

KEY = ("default", "demo")


@pytest.fixture
def changed() -> list[Key]:
    return []


@pytest.fixture
def cache(changed: list[Key]) -> Cache:
    return Cache(changed.append)


def job(version: int, *, uid: str = "job-1", **metadata: Any) -> dict[str, Any]:
    manifest = builders.make_manifest()
    manifest["metadata"] |= {"uid": uid, "resourceVersion": str(version), "managedFields": [{}], **metadata}
    return manifest


def pod(version: int, *, uid: str = "pod-1") -> dict[str, Any]:
    manifest = builders.make_pod(uid=uid)
    manifest["metadata"]["resourceVersion"] = str(version)
    return manifest


def test_older_news_is_passed_over_and_newer_news_is_told(cache: Cache, changed: list[Key]) -> None:
    cache.store_job(job(5))
    cache.store_job(job(4, generation=9))
    cache.store_job(job(5, generation=9))
    assert changed == [KEY]
    cache.store_job(job(10, generation=2))
    assert changed == [KEY, KEY]
    stored = cache.job(KEY)
    assert stored is not None
    assert stored["metadata"]["generation"] == 2
    assert "managedFields" not in stored["metadata"]


def test_a_deleted_object_is_not_brought_back_by_a_late_answer(cache: Cache) -> None:
    cache.store_job(job(5))
    cache.store_pod(pod(6))
    cache.drop_job(KEY, uid="job-1")
    cache.drop_pod(KEY, "demo-worker-0", uid="pod-1")
    cache.store_job(job(7))
    cache.store_pod(pod(8))
    assert cache.job(KEY) is None
    assert not cache.pods(KEY)


def test_a_late_deletion_does_not_take_the_successor_along(cache: Cache) -> None:
    cache.store_pod(pod(6, uid="pod-2"))
    cache.drop_pod(KEY, "demo-worker-0", uid="pod-1")
    assert [found.uid for found in cache.pods(KEY)] == ["pod-2"]


def test_a_sweep_drops_what_a_list_did_not_show_but_nothing_that_came_meanwhile(
    cache: Cache, changed: list[Key]
) -> None:
    cache.store_job(job(5))
    cache.store_pod(pod(6))
    known_before = cache.uids()
    cache.store_job(job(9, uid="job-2", name="other"))
    cache.sweep(jobs={"job-1"}, pods=set(), known_before=known_before)
    assert cache.job(KEY) is not None
    assert cache.job(("default", "other")) is not None
    assert not cache.pods(KEY)
    assert changed[-1] == KEY


def test_pods_that_belong_to_no_job_are_left_alone(cache: Cache, changed: list[Key]) -> None:
    stranger = pod(6)
    stranger["metadata"]["labels"] = {}
    cache.store_pod(stranger)
    assert changed == []
