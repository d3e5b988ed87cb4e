"""Which trainings begin: as many as may run at once, in the order of the table."""

from __future__ import annotations

from datetime import timedelta

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.api.zoo_status import RunPhase
from kubedet_operator.children.rows import build_row_job
from kubedet_operator.decision.zoo.facts import ZooFacts
from kubedet_operator.decision.zoo.plan import CreateJob, ZooDraft

TAKEN_SECONDS = 10
"""How often it is looked whether a name is free again: a job of somebody else tells no zoo that it goes."""

_WITHOUT_JOB = (RunPhase.PENDING, RunPhase.WAITING)


def judge(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """Create jobs for trainings that have none, unless a failure stops the table or it is suspended."""
    draft = _complain(facts, draft)
    stopped = facts.spec.failurePolicy == "Stop" and RunPhase.FAILED in draft.phases()
    if stopped or not draft.may_create:
        return draft
    # A job that is being deleted counts until it is gone.
    slots = facts.spec.parallelism - sum(not child.ended for child in facts.children.values())
    creations: list[CreateJob] = []
    rows = {row.recipe: row for row in facts.parsed.rows}
    for (recipe, seed), run in draft.runs.items():
        if len(creations) >= slots:
            break
        if run.phase is RunPhase.PENDING and run.job not in facts.children and run.job not in facts.occupied:
            assert facts.parsed.document is not None
            row = rows[recipe]
            made = draft.runs[row.source, 0].results if row.source else None
            job = build_row_job(
                facts.parsed.document,
                row,
                seed=seed,
                attempt=run.attempts + 1,
                proposals=made.proposalsUri if made else None,
            )
            creations.append(CreateJob(manifest=job))
    if creations:
        draft = draft.change(startTime=draft.status.startTime or draft.now)
    return draft.act(*creations)


def _complain(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """Say what keeps a job from being created."""
    wanted = {run.job for run in draft.runs.values() if run.phase in _WITHOUT_JOB}
    taken = sorted(wanted & facts.occupied)
    if facts.rejection:
        return draft.turn(
            ConditionType.DEGRADED,
            True,
            reason=Reason.CHILD_REJECTED,
            message=f"the API server refuses a job of this zoo: {facts.rejection}; correct spec.template, or "
            "the namespace's quota and policies; the operator retries with growing delays",
        )
    if taken:
        draft = draft.check(facts.now + timedelta(seconds=TAKEN_SECONDS))
        return draft.turn(
            ConditionType.DEGRADED,
            True,
            reason=Reason.NAME_TAKEN,
            message=f"jobs that do not belong to this zoo have the names of its rows: "
            f"{', '.join(taken[:5])}; delete them, or give the zoo another name",
        )
    return draft.turn(ConditionType.DEGRADED, False, reason=Reason.AS_EXPECTED, message="nothing to do")
