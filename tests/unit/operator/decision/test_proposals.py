"""A job that takes the proposals of another one waits for them, and then keeps to what it has found."""

from __future__ import annotations

from typing import Any

import pytest

import builders
from kubedet_operator.decision.plan import ApplyChild, Plan
from world import condition, created, decide_on

DATASET = {"storageUri": "synthetic://shapes", "proposals": {"fromJob": "rpn"}}
CHECKPOINT = {"storageUri": "s3://state/rpn", "secretRef": {"name": "minio"}}
COMPLETE = {"type": "Complete", "status": "True"}
FAILED = {"type": "Failed", "status": "True"}
DONE = {"conditions": [COMPLETE], "results": {"ar1000": 60.0, "proposalsUri": "s3://state/rpn/proposals"}}


def _decide(rpn: dict[str, Any] | None, **what: Any) -> Plan:
    """The decision about a job that takes the proposals of a job with such a status."""
    source = None
    if rpn is not None:
        source = {**builders.make_manifest(name="rpn", checkpoint=CHECKPOINT), "status": rpn}
    return decide_on(source=source, dataset=DATASET, **what)


@pytest.mark.parametrize(
    ("rpn", "said"),
    [
        (None, "does not exist yet"),
        ({}, "has not ended yet"),
        ({"conditions": [FAILED]}, "failed; delete it and create it again"),
        ({"conditions": [COMPLETE], "results": {}}, "has written no proposals; create it again with"),
    ],
)
def test_it_has_no_pod_before_the_proposals_are_there_and_says_why(
    rpn: dict[str, Any] | None, said: str
) -> None:
    plan = _decide(rpn)
    assert not created(plan)
    assert "startTime" not in plan.status
    status, reason, message = condition(plan, "Initialized")
    assert (status, reason) == ("False", "WaitingForProposals")
    assert message.startswith("job rpn, whose proposals this job takes, ")
    assert said in message
    assert condition(plan, "Failed")[0] == "False"


def test_it_starts_with_them_and_reaches_them_as_that_job_did() -> None:
    plan = _decide(DONE)
    taken = {"storageUri": "s3://state/rpn/proposals", "secretRef": {"name": "minio"}}
    assert plan.status["proposals"] == taken
    (pod,) = (action.manifest for action in plan.actions if isinstance(action, ApplyChild))
    variables = {item["name"]: item for item in pod["spec"]["containers"][0]["env"]}
    assert variables["KUBEDET_PROPOSALS_URI"]["value"] == taken["storageUri"]
    key = variables["KUBEDET_PROPOSALS_SECRET_KEY"]["valueFrom"]["secretKeyRef"]
    assert (key["name"], key["key"]) == ("minio", "secretKey")


def test_it_keeps_to_them_when_that_job_is_gone() -> None:
    started = _decide(DONE).status
    plan = _decide(None, status=started)
    assert created(plan) == {"demo-worker-0"}
    assert plan.status["proposals"] == started["proposals"]
