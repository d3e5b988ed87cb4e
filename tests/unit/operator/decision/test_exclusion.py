"""Excluded nodes, beyond what the scenarios show."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import world

EARLIER = {
    "time": "2026-01-01T00:55:00Z",
    "class": "Application",
    "reason": "Hang",
    "node": "node-0",
    "exitCode": 152,
}


def _excluded(*history: dict[str, Any], code: int = 152, **spec: Any) -> list[dict[str, Any]]:
    failed = world.pod(exit_code=code, ended=world.NOW)
    return list(world.decide_on(failed, status={"failureHistory": history}, **spec).status["excludedNodes"])


def test_the_evidence_is_in_the_status() -> None:
    (found,) = _excluded(EARLIER)
    assert (found["name"], found["mode"], found["failures"]) == ("node-0", "Preferred", 2)
    assert found["reason"] == "Hang"
    assert "2 failures within 3600 s; the last: pod demo-worker-0" in found["message"]
    assert found["until"] == "2026-01-01T02:00:00Z"


@pytest.mark.parametrize(
    "other",
    [
        {"node": "node-1"},
        {"time": "2025-12-31T23:59:00Z"},
        {"exitCode": 143},
        {"exitCode": 137, "reason": "OOMKilled"},
    ],
)
def test_what_does_not_speak_against_the_node_does_not_count(other: dict[str, Any]) -> None:
    assert _excluded({**EARLIER, **other}) == []


def test_the_program_s_own_failures_never_exclude_a_node() -> None:
    assert _excluded(EARLIER, code=137) == []


@pytest.mark.parametrize(
    ("exclusion", "excluded"),
    [({"afterFailures": 3}, False), ({"afterFailures": 1}, True), ({"ttlSeconds": 0}, False)],
)
def test_the_job_says_when(exclusion: dict[str, int], excluded: bool) -> None:
    assert bool(_excluded(EARLIER, failurePolicy={"nodeExclusion": exclusion})) == excluded


def test_a_node_is_listed_once_and_looked_at_again_when_its_time_is_over() -> None:
    before = {"name": "node-0", "mode": "Preferred", "reason": "Hang", "until": "2026-01-01T01:00:09Z"}
    failed = world.pod(exit_code=153, ended=world.NOW)
    plan = world.decide_on(failed, status={"excludedNodes": [before]})
    assert [node["mode"] for node in plan.status["excludedNodes"]] == ["Required"]
    quiet = world.decide_on(world.pod(), status={"excludedNodes": [before]})
    assert quiet.next_check_seconds == 9
    over = world.decide_on(
        world.pod(), status={"excludedNodes": [before]}, now=world.NOW + timedelta(seconds=9)
    )
    assert over.status["excludedNodes"] == []
