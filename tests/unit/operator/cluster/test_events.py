"""The story that Events tell: few, counted up, dropped rather than waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from kubedet_operator.cluster import errors, events
from kubedet_operator.cluster.client import Cluster
from kubedet_operator.cluster.events import Events, Occurrence, compare_statuses
from kubedet_operator.telemetry.health import Health
from kubedet_operator.telemetry.metrics import Metrics

JOB = {
    "kind": "DetectionJob",
    "metadata": {"name": "demo", "namespace": "n", "uid": "u", "resourceVersion": "7"},
}
STARTED = Occurrence(warning=False, reason="WorkersRunning", message="2 of 2 workers are ready")


class Recorder:
    """Keeps the Events that are written."""

    def __init__(self) -> None:
        self.written: list[Mapping[str, Any]] = []
        self.changed: list[tuple[str, Mapping[str, Any]]] = []
        self.forgotten = False

    async def write_event(self, event: Mapping[str, Any]) -> None:
        self.written.append(event)

    async def repeat_event(self, namespace: str, name: str, change: Mapping[str, Any]) -> None:
        if self.forgotten:
            raise errors.NotFound("expired")
        self.changed.append((name, change))


def status(restarts: int = 0, failure: dict[str, Any] | None = None, **conditions: str) -> dict[str, Any]:
    return {
        "conditions": [
            {"type": kind, "status": value, "reason": f"{kind}{value}", "message": "because"}
            for kind, value in conditions.items()
        ],
        "restarts": {"application": restarts, "infrastructure": 0},
        **({"lastFailure": failure} if failure else {}),
    }


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, status(Running="False", Failed="False"), []),
        (status(Running="False"), status(Initialized="True", Running="True"), ["RunningTrue"]),
        (status(Running="True"), status(Running="False", Complete="True"), ["CompleteTrue"]),
        (status(Degraded="True"), status(Degraded="False"), ["DegradedFalse"]),
        (status(Running="True"), status(Running="False"), []),
        (
            status(Running="True"),
            status(1, {"reason": "Killed", "pod": "demo-worker-0"}, Running="False", Restarting="True"),
            ["Killed"],
        ),
    ],
)
def test_a_change_is_told_by_what_matters_most_of_it(
    before: dict[str, Any], after: dict[str, Any], told: list[str]
) -> None:
    assert [occurrence.reason for occurrence in compare_statuses(before, after)] == told


SLOW = {"rank": 3, "pod": "demo-worker-1", "node": "gpu-7", "ratio": 1.8, "since": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, SLOW, ["StragglerFound"]),
        (SLOW, {**SLOW, "ratio": 2.5}, []),
        (SLOW, {**SLOW, "rank": 2}, []),
        (SLOW, {**SLOW, "pod": "demo-worker-2"}, ["StragglerFound"]),
        (SLOW, None, []),
    ],
    ids=["found", "slower", "another rank", "another worker", "over"],
)
def test_a_straggler_is_told_of_once_for_each_worker(
    before: dict[str, Any] | None, after: dict[str, Any] | None, told: list[str]
) -> None:
    statuses = [{**status(), **({"straggler": slow} if slow else {})} for slow in (before, after)]
    found = list(compare_statuses(*statuses))
    assert [occurrence.reason for occurrence in found] == told
    for occurrence in found:
        assert occurrence.warning
        assert "rank 3 in demo-worker-" in occurrence.message
        assert "on gpu-7, whose forward passes take 1.8 times" in occurrence.message


async def _record(recorder: Recorder, times: int, until: int, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    monkeypatch.setattr(events, "PER_SECOND", 10_000.0)
    metrics = Metrics()
    found = Events(cast(Cluster, recorder), metrics=metrics, health=Health())
    for _ in range(times):
        found.record(JOB, STARTED)
    running = asyncio.create_task(found.run())
    while len(recorder.written) + len(recorder.changed) < until:
        await asyncio.sleep(0.001)
    running.cancel()
    return metrics


async def test_the_same_thing_again_is_counted_in_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    await _record(recorder, 3, 3, monkeypatch)
    (event,) = recorder.written
    assert event["involvedObject"]["uid"] == "u"
    assert event["message"] == STARTED.message
    assert [change["count"] for _, change in recorder.changed] == [2, 3]


async def test_an_event_that_has_expired_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    recorder.forgotten = True
    await _record(recorder, 2, 2, monkeypatch)
    assert [event["count"] for event in recorder.written] == [1, 1]


async def test_what_is_too_much_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CAPACITY", 2)
    recorder = Recorder()
    metrics = await _record(recorder, 5, 2, monkeypatch)
    assert metrics.registry.get_sample_value("kubedet_operator_events_dropped_total") == 3
