"""Deadlines and the time to live, beyond what the scenarios show."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import builders
import world
from kubedet_operator.decision.plan import DeleteJob

HOUR_AGO = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ({"activeDeadlineSeconds": 3700}, 100),
        ({"activeDeadlineSeconds": 3900}, 300),
        ({"activeDeadlineSeconds": 90000}, 600),
        ({}, 600),
    ],
)
def test_the_job_is_looked_at_when_its_deadline_is_due(spec: dict[str, Any], seconds: float) -> None:
    status = {"activeSince": HOUR_AGO, "startTime": HOUR_AGO}
    assert world.decide_on(world.pod(), status=status, **spec).next_check_seconds == seconds


def test_time_before_a_suspension_counts() -> None:
    status = {"activeSince": HOUR_AGO, "activeSeconds": 100, "startTime": HOUR_AGO}
    plan = world.decide_on(world.pod(), status=status, activeDeadlineSeconds=3700)
    assert world.condition(plan, "Failed")[:2] == ("True", "DeadlineExceeded")
    assert plan.status["activeSeconds"] == 3700
    assert "activeSince" not in plan.status
    assert world.deleted(plan) == {"uid-0"}


def test_a_finished_job_with_a_time_to_live_is_looked_at_then_however_late_that_is() -> None:
    done = world.decide_on(world.pod(exit_code=0, message=world.RESULTS), ttlSecondsAfterFinished=7200)
    assert done.next_check_seconds == 7200
    late = world.decide_on(
        status=done.status, ttlSecondsAfterFinished=7200, now=world.NOW + timedelta(seconds=7200)
    )
    assert late.actions == (DeleteJob(uid=builders.UID),)


def test_a_job_that_breaks_a_rule_is_never_deleted_by_a_field_of_it() -> None:
    plan = world.decide_on(ttlSecondsAfterFinished=-5)
    assert world.condition(plan, "Failed")[1] == "InvalidSpec"
    assert plan.actions == ()
    assert plan.next_check_seconds is None
