"""The cache knows which nodes have broken several jobs, in whatever order they come, and after a restart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import builders
from kubedet_operator.cluster import evidence
from kubedet_operator.cluster.cache import Cache
from kubedet_operator.decision.evidence import judge_node, read_evidence

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def _cache() -> Cache:
    return Cache(lambda _: None, lambda _: None)


def _failure(node: str, minutes: int) -> dict[str, Any]:
    """A hang on `node` so long ago."""
    time = (NOW - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
    return {"time": time, "class": "Application", "reason": "Hang", "node": node, "exitCode": 152}


def _job(name: str, *history: dict[str, Any], version: int = 1, uid: str = "") -> dict[str, Any]:
    manifest = builders.make_manifest(name=name)
    manifest["metadata"] |= {"uid": uid or f"uid-{name}", "generation": 1, "resourceVersion": str(version)}
    return {**manifest, "status": {"failureHistory": list(history)}}


def _suspects(cache: Cache, minutes: float = 0) -> dict[str, int]:
    return {node.name: node.failures for node in cache.evidence.suspects(NOW + timedelta(minutes=minutes))}


def test_the_third_job_makes_a_node_suspect_and_it_is_one_until_its_time_is_over() -> None:
    cache = _cache()
    for number, minutes in enumerate((50, 40)):
        cache.store_job(_job(f"job-{number}", _failure("gpu-7", minutes)))
        assert _suspects(cache) == {}
    cache.store_job(_job("job-2", _failure("gpu-8", 2), _failure("gpu-7", 1)))
    assert _suspects(cache) == {"gpu-7": 3}
    assert _suspects(cache, 9.9) == {"gpu-7": 3}
    assert _suspects(cache, 10) == {}


def test_one_job_that_fails_three_times_on_a_node_is_one_job() -> None:
    cache = _cache()
    cache.store_job(_job("job", *(_failure("gpu-7", minutes) for minutes in (1, 2, 3))))
    assert _suspects(cache) == {}


def test_a_newer_failure_prolongs_the_time() -> None:
    cache = _cache()
    for number in range(3):
        cache.store_job(_job(f"job-{number}", _failure("gpu-7", 50)))
    assert _suspects(cache, 15) == {}
    cache = _cache()
    for number in range(3):
        cache.store_job(_job(f"job-{number}", _failure("gpu-7", 50)))
    assert _suspects(cache) == {"gpu-7": 3}
    for number in range(3):
        cache.store_job(_job(f"job-{number}", _failure("gpu-7", 20), version=2))
    assert _suspects(cache, 15) == {"gpu-7": 3}


def test_what_a_job_no_longer_tells_and_what_is_deleted_counts_no_more() -> None:
    cache = _cache()
    for number in range(4):
        cache.store_job(_job(f"job-{number}", _failure("gpu-7", number)))
    assert _suspects(cache) == {"gpu-7": 4}
    cache.store_job(_job("job-0", version=2))
    assert _suspects(cache) == {"gpu-7": 3}
    cache.drop_job(("default", "job-1"), uid="uid-job-1")
    assert _suspects(cache) == {}
    cache.store_job(_job("job-1", _failure("gpu-7", 0), version=5, uid="another"))
    assert _suspects(cache) == {"gpu-7": 3}


def test_an_operator_that_starts_or_has_been_away_knows_the_same_as_one_that_saw_all() -> None:
    jobs = [
        _job(f"job-{number}", _failure("gpu-7", number), _failure(f"gpu-{number % 2}", 3 + number))
        for number in range(6)
    ]
    witness, newcomer = _cache(), _cache()
    for job in jobs:
        empty = {**job, "metadata": {**job["metadata"], "resourceVersion": "0"}, "status": {}}
        witness.store_job(empty)
        witness.evidence.suspects(NOW)
        witness.store_job(job)
    for job in reversed(jobs):
        newcomer.store_job(job)
    assert witness.evidence.suspects(NOW) == newcomer.evidence.suspects(NOW)
    assert _suspects(newcomer) == {"gpu-7": 6, "gpu-0": 3, "gpu-1": 3}


def test_events_that_tell_of_no_failure_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, read, judged = _cache(), [], []

    def count(manifest: Any) -> Any:
        read.append(manifest)
        return read_evidence(manifest)

    def count_judged(*arguments: Any, **options: Any) -> Any:
        judged.append(arguments)
        return judge_node(*arguments, **options)

    monkeypatch.setattr(evidence, "read_evidence", count)
    monkeypatch.setattr(evidence, "judge_node", count_judged)
    for number in range(3):
        cache.store_job(_job(f"job-{number}", _failure("gpu-7", 1)))
    assert len(read) == 3
    for version in range(2, 50):
        job = _job("job-0", _failure("gpu-7", 1), version=version)
        job["status"]["progress"] = {"iteration": version}
        cache.store_job(job)
        assert _suspects(cache) == {"gpu-7": 3}
    assert (len(read), len(judged)) == (3, 1)
