"""Suspension, beyond what the scenarios show."""

from __future__ import annotations

from datetime import timedelta

import world

TWO = {"replicas": 2, "gpus": 0}
STARTED = {"startTime": "2026-01-01T00:00:00Z", "activeSince": "2026-01-01T00:00:00Z"}


def test_the_pods_are_marked_before_they_are_told_and_a_new_attempt_begins_once() -> None:
    pods = (world.pod(0), world.pod(1), world.rendezvous())
    first = world.decide_on(*pods, suspend=True, worker=TWO, status=STARTED)
    assert first.status["chargedPods"] == ["uid-0", "uid-1"]
    assert world.deleted(first) == {"uid-0", "uid-1"}
    assert (first.status["attempt"], first.status["activeSeconds"]) == (1, 3600)
    again = world.decide_on(*pods, suspend=True, worker=TWO, status=first.status)
    assert again.status["attempt"] == 1
    assert world.deleted(again) == {"uid-0", "uid-1"}


def test_a_failure_before_the_suspension_is_charged_and_one_during_it_is_not() -> None:
    crashed = world.pod(exit_code=139)
    charged = world.decide_on(crashed, suspend=True, status=STARTED)
    assert charged.status["restarts"]["application"] == 1
    assert world.condition(charged, "Restarting")[0] == "False"
    told = world.decide_on(world.pod(), suspend=True, status=STARTED)
    saved = world.decide_on(crashed, suspend=True, status=told.status)
    assert saved.status["restarts"]["application"] == 0


def test_a_permanent_failure_ends_a_suspended_job_too() -> None:
    plan = world.decide_on(world.pod(exit_code=65), suspend=True, status=STARTED)
    assert world.condition(plan, "Failed")[1] == "PermanentFailure"


def test_the_delays_of_failures_are_over_after_a_suspension() -> None:
    failed = world.decide_on(world.pod(exit_code=139, ended=world.NOW), status=STARTED).status
    suspended = world.decide_on(status=failed, suspend=True).status
    assert suspended["phase"] == "Suspended"
    later = world.NOW + timedelta(seconds=1)
    assert world.created(world.decide_on(status=suspended, now=later))


def test_nothing_is_new_to_a_job_that_stays_suspended() -> None:
    plan = world.decide_on(suspend=True)
    again = world.decide_on(suspend=True, status=plan.status, now=world.NOW + timedelta(days=1))
    assert (again.status, again.actions) == (plan.status, ())


def test_another_controller_s_job_keeps_the_status_that_this_one_gave_it() -> None:
    theirs = {"invented": {"by": "them"}}
    plan = world.decide_on(world.pod(exit_code=139), managedBy="example.com/other", status=theirs)
    assert (plan.status, plan.actions, plan.next_check_seconds) == (theirs, (), None)
