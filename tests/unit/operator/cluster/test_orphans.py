"""Children of lost jobs go; those of jobs that the cache merely does not know yet stay."""

from __future__ import annotations

from typing import Any, cast

import builders
from kubedet_operator.cluster import errors, orphans
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.cluster.client import Cluster


class FakeCluster:
    """Knows one job, and records what is deleted."""

    def __init__(self, uid: str | None) -> None:
        self.uid = uid
        self.deleted: list[tuple[str, str, str]] = []

    async def read_job(self, namespace: str, name: str) -> dict[str, Any]:
        if self.uid is None:
            raise errors.NotFound("gone")
        return {"metadata": {"uid": self.uid}}

    async def delete(self, plural: str, namespace: str, name: str, *, uid: str) -> None:
        self.deleted.append((plural, name, uid))


async def _sweep(uid: str | None) -> list[tuple[str, str, str]]:
    cache = Cache(lambda _: None, lambda _: None)
    cache.store_pod(builders.make_pod())
    cluster = FakeCluster(uid)
    await orphans.sweep(cast(Cluster, cluster), cache)
    return cluster.deleted


async def test_the_pod_of_a_job_that_is_gone_is_deleted() -> None:
    assert await _sweep(None) == [("pods", "demo-worker-0", "pod-uid")]


async def test_the_pod_of_an_earlier_job_of_the_same_name_is_deleted() -> None:
    assert await _sweep("successor") == [("pods", "demo-worker-0", "pod-uid")]


async def test_the_pod_of_a_job_that_the_cache_does_not_know_yet_stays() -> None:
    assert await _sweep(builders.UID) == []
