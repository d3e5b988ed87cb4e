"""The cache keeps the newest sight of everything, and lets nothing that is gone come back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

import builders
from kubedet_operator.api import names
from kubedet_operator.children.service import build_service
from kubedet_operator.cluster.cache import Cache, Key, read_shape
from kubedet_trainer import contract

KEY = ("default", "demo")


@pytest.fixture
def changed() -> list[Key]:
    return []


@pytest.fixture
def cache(changed: list[Key]) -> Cache:
    return Cache(changed.append, changed.append)


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


def test_late_news_of_an_earlier_job_of_that_name_does_not_replace_the_new_one(cache: Cache) -> None:
    cache.store_job(job(9, uid="new"))
    assert not cache.store_job(job(7, uid="old"))
    cache.drop_job(KEY, uid="old")
    stored = cache.job(KEY)
    assert stored is not None
    assert stored["metadata"]["uid"] == "new"


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
    cache.sweep(names.PLURAL, None, listed={"job-1"}, known_before=known_before)
    cache.sweep("pods", "elsewhere", listed=set(), known_before=known_before)
    assert cache.pods(KEY)
    cache.sweep("pods", "default", listed=set(), known_before=known_before)
    assert cache.job(KEY) is not None
    assert cache.job(("default", "other")) is not None
    assert not cache.pods(KEY)
    assert changed[-1] == KEY


def test_pods_that_no_job_owns_are_left_alone_whatever_their_labels(cache: Cache, changed: list[Key]) -> None:
    stranger = pod(6)
    for owners in ([], [{"kind": "ReplicaSet", "apiVersion": "apps/v1", "name": "demo", "controller": True}]):
        stranger["metadata"]["ownerReferences"] = owners
        cache.store_pod(stranger)
    owned = pod(7, uid="pod-2")
    owned["metadata"]["name"] = "something-else"
    cache.store_pod(owned)
    assert changed == []
    assert cache.lost_children() == []


def test_a_pod_that_leaves_the_selector_comes_back_with_its_label(cache: Cache) -> None:
    cache.store("pods", pod(6))
    cache.drop("pods", pod(8))
    cache.store("pods", pod(7))
    assert not cache.pods(KEY)
    cache.store("pods", pod(9))
    assert [found.uid for found in cache.pods(KEY)] == ["pod-1"]


def test_a_list_without_a_pod_does_not_bury_it_for_ever(cache: Cache) -> None:
    cache.store("pods", pod(6))
    cache.sweep("pods", None, listed=set(), known_before=cache.uids(), version="8")
    cache.store("pods", pod(8))
    assert not cache.pods(KEY)
    cache.store("pods", pod(9))
    assert cache.pods(KEY)


def test_a_child_whose_owner_is_taken_away_is_no_child_any_more(cache: Cache, changed: list[Key]) -> None:
    cache.store("pods", pod(6))
    cache.store("services", service(7))
    for plural, orphan in (("pods", pod(8)), ("services", service(9))):
        del orphan["metadata"]["ownerReferences"]
        cache.store(plural, orphan)
    assert not cache.pods(KEY)
    assert cache.service(KEY) is None
    assert changed == [KEY] * 4


def test_a_foreign_service_of_a_job_s_name_and_labels_is_none_of_the_job_s(cache: Cache) -> None:
    foreign = service(3)
    foreign["metadata"]["name"] = "other"
    cache.store_service(foreign)
    nobody_s = service(4, uid="service-2")
    del nobody_s["metadata"]["ownerReferences"]
    cache.store_service(nobody_s)
    assert cache.service(KEY) is None


@pytest.mark.parametrize(
    "oddity",
    [
        {"annotations": {names.GENERATION: "9" * 5000}},
        {"labels": {names.ATTEMPT: "9" * 63}},
        {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 2**62},
        {"deletionTimestamp": "292277026596-12-04T15:30:07Z"},
        {"resourceVersion": "9" * 5000},
    ],
)
def test_a_pod_with_odd_metadata_is_read_like_any_other(cache: Cache, oddity: dict[str, Any]) -> None:
    odd = pod(6)
    odd["metadata"] |= oddity
    cache.store_pod(odd)
    assert [found.uid for found in cache.pods(KEY)] == ["pod-1"]


def test_an_object_that_cannot_be_read_is_counted_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    unreadable: list[str] = []
    cache = Cache(lambda _: None, lambda _: None, unreadable=unreadable.append)
    broken = {**pod(6), "status": {"conditions": 5}}
    cache.store("pods", broken)
    cache.store("pods", broken)
    cache.store("pods", pod(7, uid="pod-2"))
    assert unreadable == ["pods", "pods"]
    assert [line for line in caplog.messages if "cannot be read" in line] == [
        "pods default/demo-worker-0 cannot be read and is ignored: "
        "TypeError(\"'int' object is not iterable\")"
    ]
    assert [found.uid for found in cache.pods(KEY)] == ["pod-2"]


def test_what_the_operator_writes_itself_is_no_news_however_it_is_heard_of(
    cache: Cache, changed: list[Key]
) -> None:
    cache.store_job(job(5, generation=1))
    changed.clear()
    with cache.writing(KEY, {"phase": "Running"}):
        cache.store_job({**job(6, generation=1), "status": {"phase": "Running"}})
        assert changed == []
        cache.store_job({**job(7, generation=1), "status": {"phase": "Failed"}})
        assert changed == [KEY]
    cache.store_job({**job(8, generation=2), "status": {"phase": "Failed"}})
    assert changed == [KEY, KEY]


def service(version: int, *, uid: str = "service-1", port: int = 9091) -> dict[str, Any]:
    found = build_service(builders.make_job(metrics={"port": port}))
    found["metadata"] |= {"uid": uid, "resourceVersion": str(version)}
    return found


def test_a_service_that_somebody_edits_or_deletes_is_noticed(cache: Cache, changed: list[Key]) -> None:
    cache.store_service(service(3))
    wanted = read_shape(service(1))
    changed.clear()
    further = service(4)
    further["spec"]["ports"].append({"name": "debug", "port": 1, "targetPort": 1, "protocol": "TCP"})
    cache.store_service(further)
    shape = cache.service(KEY)
    assert shape is not None
    assert shape.serves(wanted)
    cache.store_service(service(5, port=1234))
    shape = cache.service(KEY)
    assert shape is not None
    assert not shape.serves(wanted)
    cache.drop_service(KEY, uid="service-1")
    assert cache.service(KEY) is None
    assert changed == [KEY, KEY, KEY]


def test_children_whose_job_is_gone_or_another_one_are_lost(cache: Cache) -> None:
    cache.store_pod(pod(6))
    cache.store_service(service(7))
    assert [child.plural for child in cache.lost_children()] == ["pods", "services"]
    cache.store_job(job(8, uid=builders.UID))
    assert cache.lost_children() == []
    cache.store_job(job(9, uid="successor"))
    assert len(cache.lost_children()) == 2


def test_the_last_words_of_a_worker_are_kept_unless_older_than_what_is_known(cache: Cache) -> None:
    def end(version: int, *, uid: str, time: str, iteration: int) -> None:
        last = contract.Progress(
            stage=contract.Stage.CHECKPOINTING, iteration=iteration, lastProgressTime=time
        )
        message = contract.dump_termination_message(
            failure=contract.Failure(exitCode=143, reason="TerminatedSaved", message="stopped as asked"),
            progress=contract.without_none(asdict(contract.ProgressRecord(progress=last))),
        )
        ended = builders.make_pod(uid=uid, phase="Failed", exit_code=143, message=message)
        ended["metadata"]["resourceVersion"] = str(version)
        cache.store_pod(ended)

    end(5, uid="pod-1", time="2026-01-01T00:05:00Z", iteration=80)
    assert cache.progress[KEY].progress.iteration == 80
    end(6, uid="pod-2", time="2026-01-01T00:04:00Z", iteration=60)
    assert cache.progress[KEY].progress.iteration == 80
    end(7, uid="pod-3", time="2026-01-01T00:06:00Z", iteration=123)
    assert cache.progress[KEY].progress.iteration == 123
