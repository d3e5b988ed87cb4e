"""When the table is done: no training is left, or none can begin any more."""

from __future__ import annotations

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.api.zoo_status import RunPhase
from kubedet_operator.decision.zoo.facts import ZooFacts
from kubedet_operator.decision.zoo.plan import ZooDraft

_SHOWN = 5
"""Failed rows that the condition names."""


def judge(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """Turn Running, Complete and Failed. All of them turn back when there is something to train again."""
    existing = sum(not child.ended for child in facts.children.values())
    draft = draft.turn(
        ConditionType.RUNNING,
        existing > 0,
        reason=Reason.JOBS_EXIST if existing else Reason.NO_JOB_EXISTS,
        message=f"{existing} of at most {facts.spec.parallelism} jobs have not ended"
        if existing
        else "no job is unfinished",
    )
    phases = draft.phases()
    complete = phases == {RunPhase.SUCCEEDED} and not existing
    failed = not existing and RunPhase.FAILED in phases and not _can_go_on(facts, phases)
    draft = draft.turn(
        ConditionType.COMPLETE,
        complete,
        reason=Reason.ROWS_COMPLETE if complete else Reason.NOT_FINISHED,
        message="every row has its results" if complete else "not every row has its results",
    )
    draft = draft.turn(
        ConditionType.FAILED,
        failed,
        reason=Reason.ROWS_FAILED if failed else Reason.NOT_FAILED,
        message=_describe_failures(draft) if failed else "rows are still to be trained, or all went well",
    )
    ended = draft.status.completionTime or draft.now
    return draft.change(completionTime=ended if complete or failed else None)


def _can_go_on(facts: ZooFacts, phases: set[RunPhase]) -> bool:
    open_phases = phases - {RunPhase.SUCCEEDED, RunPhase.FAILED}
    return bool(open_phases) and facts.spec.failurePolicy == "Continue"


def _describe_failures(draft: ZooDraft) -> str:
    failed = [(key, run) for key, run in draft.runs.items() if run.phase is RunPhase.FAILED]
    shown = [f"{recipe}: {run.message}" for (recipe, _), run in failed[:_SHOWN]]
    more = [f"{len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    return "; ".join([*shown, *more]) + "; delete the job of a row to train it again"
