"""Clocks that are an hour wrong, or are set by an hour: nothing waits for them or ends by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

import world
from kubedet_operator.decision.objects import CLOCK_SECONDS, end_of_wait
from kubedet_trainer import contract
from kubedet_trainer.contract.times import format_time, parse_time

HOUR = timedelta(hours=1)
TWO = {"worker": {"replicas": 2, "gpus": 0}}


def _progress(
    iteration: int, *, at: datetime, counted: float, since: str = "2026-01-01T00:00:01.000Z"
) -> contract.ProgressRecord:
    spent = contract.TimeSpent(since=since, iterations=iteration, seconds={"training": counted})
    progress = contract.Progress(
        stage=contract.Stage.TRAINING,
        iteration=iteration,
        totalIterations=1000,
        lastProgressTime=format_time(at),
        time=spent,
    )
    saved = contract.CheckpointStatus(
        latest=f"s3://c/step-{iteration}",
        iteration=iteration,
        time=format_time(at),
        sizeBytes=1,
        saveSeconds=1.0,
        stallSeconds=0.1,
    )
    return contract.ProgressRecord(progress=progress, checkpoint=saved)


def _iteration(record: contract.ProgressRecord, status: Mapping[str, Any], now: datetime) -> int:
    plan = world.decide_on(world.pod(), status=status, progress=record, now=now)
    assert plan.status["checkpoint"]["iteration"] == plan.status["progress"]["iteration"]
    return int(plan.status["progress"]["iteration"])


@pytest.mark.parametrize("wrong", [-HOUR, HOUR])
def test_a_failure_on_a_node_whose_clock_is_wrong_is_charged_at_once_and_dated_when_it_was_seen(
    wrong: timedelta,
) -> None:
    ended = world.pod(1, exit_code=139, ended=world.NOW - timedelta(seconds=1) + wrong)
    fresh = replace(ended, created=world.NOW - timedelta(minutes=5))
    plan = world.decide_on(world.pod(0), fresh, world.rendezvous(), **TWO)
    assert world.deleted(plan) == {"uid-1"}
    assert plan.status["lastFailure"]["time"] == format_time(world.NOW)


def test_peers_of_a_failure_are_waited_for_though_its_node_is_a_second_ahead() -> None:
    ended = world.pod(1, exit_code=139, ended=world.NOW + timedelta(seconds=1))
    plan = world.decide_on(world.pod(0), ended, world.rendezvous(), **TWO)
    assert world.deleted(plan) == set()
    assert plan.next_check_seconds is not None
    later = world.NOW + timedelta(seconds=plan.next_check_seconds + 1)
    assert world.deleted(world.decide_on(world.pod(0), ended, world.rendezvous(), now=later, **TWO)) == {
        "uid-1"
    }


def test_a_restart_does_not_wait_for_a_clock_that_was_set_back() -> None:
    first = world.decide_on(world.pod(exit_code=139, ended=world.NOW))
    second = world.decide_on(world.pod(uid="uid-1", exit_code=139, ended=world.NOW), status=first.status)
    assert world.created(world.decide_on(status=second.status)) == set()  # the delay of the second failure
    before = world.NOW - HOUR
    assert world.created(world.decide_on(status=second.status, now=before)) == {"demo-worker-0"}


def test_a_restart_ends_though_the_clock_was_set_back_since() -> None:
    failed = world.decide_on(world.pod(exit_code=139))
    assert world.condition(failed, "Restarting")[0] == "True"
    before = world.NOW - HOUR
    record = _progress(3, at=before, counted=5.0)
    plan = world.decide_on(world.pod(uid="new"), status=failed.status, progress=record, now=before)
    assert world.condition(plan, "Restarting")[:2] == ("False", "Recovered")


def test_progress_of_a_worker_whose_clock_was_set_back_is_taken() -> None:
    known = world.decide_on(world.pod(), progress=_progress(50, at=world.NOW, counted=100.0)).status
    after = world.NOW + timedelta(seconds=10)
    assert _iteration(_progress(55, at=after - HOUR, counted=110.0), known, after) == 55


def test_last_words_that_come_late_hide_no_progress_whatever_their_clock() -> None:
    known = world.decide_on(world.pod(), progress=_progress(50, at=world.NOW, counted=100.0)).status
    after = world.NOW + timedelta(seconds=10)
    assert _iteration(_progress(45, at=after + HOUR, counted=90.0), known, after) == 50


def test_progress_replaces_what_a_clock_has_dated_an_hour_ahead() -> None:
    known = world.decide_on(world.pod(), progress=_progress(50, at=world.NOW + HOUR, counted=100.0)).status
    after = world.NOW + timedelta(seconds=10)
    other = _progress(40, at=after, counted=3.0, since="2026-01-01T00:59:00.000Z")
    assert _iteration(other, known, after) == 40


def test_a_finished_job_does_not_wait_for_other_workers_by_a_clock_that_is_ahead() -> None:
    done = world.pod(0, exit_code=0, message=world.RESULTS, ended=world.NOW + HOUR)
    plan = world.decide_on(done, world.pod(1), world.rendezvous(), **TWO)
    assert world.condition(plan, "Complete")[0] == "True"


def test_an_absent_worker_joins_though_the_clock_was_set_back() -> None:
    spec: dict[str, Any] = {
        "worker": {"replicas": 3, "gpus": 0},
        "checkpoint": {"storageUri": "s3://checkpoints/x"},
        "elasticPolicy": {"minReplicas": 1, "maxReplicas": 3},
    }
    pods = (world.pod(0), world.pod(1), world.rendezvous())
    started = dict(world.decide_on(*pods, world.pod(2), **spec).status)
    started["elastic"] = {**started["elastic"], "absent": [2], "since": format_time(world.NOW)}
    before = world.NOW - HOUR
    record = _progress(3, at=before, counted=5.0)
    plan = world.decide_on(*pods, status=started, progress=record, now=before, **spec)
    assert world.created(plan) >= {"demo-worker-2"}


@pytest.mark.parametrize(
    ("since", "ends"),
    [(-30, None), (-29, 1), (0, 30), (CLOCK_SECONDS, 30 + CLOCK_SECONDS), (CLOCK_SECONDS + 1, None)],
)
def test_a_wait_is_over_when_its_time_has_passed_or_cannot_have_begun(since: int, ends: int | None) -> None:
    found = end_of_wait(world.NOW + timedelta(seconds=since), 30, now=world.NOW)
    assert found == (None if ends is None else world.NOW + timedelta(seconds=ends))


def test_a_deadline_is_counted_from_what_the_same_clock_has_written() -> None:
    started = world.decide_on(activeDeadlineSeconds=600).status
    assert parse_time(started["activeSince"]) == world.NOW
    nearly = world.decide_on(
        world.pod(), status=started, now=world.NOW + timedelta(seconds=599), activeDeadlineSeconds=600
    )
    assert world.condition(nearly, "Failed")[0] == "False"
