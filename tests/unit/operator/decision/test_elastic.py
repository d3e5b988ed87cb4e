"""The size of jobs, beyond what the scenarios show."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import world
from scenario import ELASTIC, NO_GPU

STARTED = {"minReplicas": 1, "maxReplicas": 4, "batch": "KeepGlobal"}
HOUR_AGO = "2026-01-01T00:00:00Z"


def _status(**elastic: Any) -> dict[str, Any]:
    return {
        "workers": {"desired": 2},
        "startTime": HOUR_AGO,
        "elastic": {"replicas": 2, **STARTED, **elastic},
    }


def _spec(replicas: int) -> dict[str, Any]:
    return {**ELASTIC, "worker": {"replicas": replicas, "gpus": 0}}


def test_a_second_wish_for_more_begins_the_delay_anew() -> None:
    pods = (world.pod(0), world.pod(1), world.rendezvous())
    first = world.decide_on(*pods, status=_status(), **_spec(3))
    assert first.next_check_seconds == 100
    later = world.NOW + timedelta(seconds=60)
    second = world.decide_on(*pods, status=first.status, now=later, **_spec(4))
    assert second.status["elastic"]["absent"] == [2, 3]
    assert second.next_check_seconds == 100


def test_those_who_leave_make_room_for_one_that_had_no_place() -> None:
    pods = (world.pod(0), world.pod(2), world.rendezvous())
    status = _status(replicas=3, absent=[1], since=HOUR_AGO)
    plan = world.decide_on(*pods, status=status, **_spec(2))
    assert world.deleted(plan) == {"uid-2"}
    assert "demo-worker-1" in world.created(plan)


def test_a_worker_is_not_given_up_while_too_few_others_train() -> None:
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_GPU}
    homeless = world.pod(1, phase="Pending", node=None, ready=False, conditions=[said])
    pods = (world.pod(0), homeless, world.rendezvous())
    spec = {**_spec(2), "elasticPolicy": {"minReplicas": 2, "maxReplicas": 4}}
    plan = world.decide_on(*pods, status=_status(minReplicas=2), **spec)
    assert world.deleted(plan) == set()
    assert plan.status["workers"]["desired"] == 2
    given_up = world.decide_on(*pods, status=_status(), **_spec(2))
    assert world.deleted(given_up) == {"uid-1"}
    assert given_up.status["elastic"]["absent"] == [1]


def test_the_scale_subresource_sees_the_workers_that_are_there() -> None:
    plan = world.decide_on(world.pod(0), world.pod(1), world.rendezvous(), status=_status(), **_spec(2))
    assert plan.status["workers"]["active"] == 2
    assert plan.status["selector"] == "kubedet.dev/job-name=demo,app.kubernetes.io/component=worker"
