"""Two workers of one index: when the second one may come, and what happens when both work."""

from __future__ import annotations

from typing import Any

import pytest

import world
from kubedet_operator.api import names
from kubedet_operator.decision.pods import PodFacts

TWO = {"replicas": 2, "gpus": 0}
GONE_BY = "2026-01-01T01:02:00Z"
LEAVING = "uid-1"


def _leaving(**fields: Any) -> PodFacts:
    return world.pod(1, deletion_timestamp=GONE_BY, uid=LEAVING, **fields)


def _created(*pods: PodFacts, status: dict[str, Any] | None = None, **spec: Any) -> set[str]:
    charged = {"chargedPods": [LEAVING], **(status or {})}
    plan = world.decide_on(*pods, status=charged, **{"worker": TWO, **spec})
    return world.created(plan) - {"demo-workers"}


def test_worker_is_replaced_under_its_other_name_while_it_still_ends() -> None:
    others = (world.pod(0), world.rendezvous())
    assert _created(*others, _leaving()) == {"demo-worker-1-b"}
    assert _created(*others, _leaving(name="demo-worker-1-b")) == {"demo-worker-1"}
    successor = world.pod(1, name="demo-worker-1-b", uid="uid-b")
    assert _created(*others, _leaving(), successor) == set()
    assert _created(*others, successor) == set(), "a worker keeps the name that it has"


def test_nothing_is_replaced_before_it_is_charged() -> None:
    plan = world.decide_on(world.pod(0), world.rendezvous(), _leaving(), worker=TWO)
    assert plan.status["chargedPods"] == []
    assert world.created(plan) <= {"demo-workers"}


@pytest.mark.parametrize("how", [{"phase": "Failed", "exit_code": 143}, {"attempt": 0}])
def test_what_has_ended_and_what_is_of_an_older_attempt_is_waited_for(how: dict[str, Any]) -> None:
    status = {"attempt": 1} if "attempt" in how else {}
    others = (world.pod(0, attempt=status.get("attempt", 0)), world.rendezvous())
    assert _created(*others, _leaving(**how), status=status) == set()


def test_the_only_worker_has_nobody_that_would_keep_two_apart() -> None:
    gone = world.pod(0, deletion_timestamp=GONE_BY, uid=LEAVING)
    assert _created(gone, worker={"replicas": 1, "gpus": 0}) == set()


def test_the_older_one_of_two_that_work_stays() -> None:
    twin = world.pod(1, name=names.spare_worker_name("demo", 1), uid="uid-b")
    plan = world.decide_on(world.pod(0), world.pod(1), twin, world.rendezvous(), worker=TWO)
    assert world.deleted(plan) == {"uid-b"}
    assert plan.status["restarts"]["total"] == 0
