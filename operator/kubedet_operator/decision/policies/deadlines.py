"""What happens at a time rather than at an event: deadlines of unfinished jobs, the end of finished ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from kubedet_operator.api.conditions import ConditionType, Reason, find_condition
from kubedet_operator.api.types import DetectionJobSpec
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import DeleteJob, Draft
from kubedet_trainer.contract.times import parse_time


def judge(facts: Facts, draft: Draft) -> Draft:
    """Fail a job whose time is over; delete one that has been finished for long enough."""
    if facts.job is None:
        return draft
    spec = facts.job.spec
    if draft.finished:
        return draft if facts.violations else _delete_in_time(facts, draft, spec.ttlSecondsAfterFinished)
    if draft.status.activeSince is None or spec.suspend:
        return draft
    draft = _limit_activity(facts, draft, spec)
    return draft if draft.finished else _limit_start(facts, draft, spec)


def _limit_activity(facts: Facts, draft: Draft, spec: DetectionJobSpec) -> Draft:
    limit = spec.activeDeadlineSeconds
    if limit is None or draft.status.activeSince is None:
        return draft
    left = timedelta(seconds=limit - draft.status.activeSeconds)
    deadline = parse_time(draft.status.activeSince) + left
    if facts.now < deadline:
        return draft.check(deadline)
    return draft.end(
        ConditionType.FAILED,
        reason=Reason.DEADLINE_EXCEEDED,
        message=f"the job was active for {limit} s, the limit of spec.activeDeadlineSeconds; a job with the "
        "same checkpoint.storageUri continues from its newest checkpoint",
    )


def _limit_start(facts: Facts, draft: Draft, spec: DetectionJobSpec) -> Draft:
    limit = spec.preRunningDeadlineSeconds
    since = draft.status.activeSince
    if limit is None or since is None or _has_run(draft, since):
        return draft
    deadline = parse_time(since) + timedelta(seconds=limit)
    if facts.now < deadline:
        return draft.check(deadline)
    initialized = find_condition(draft.status.conditions, ConditionType.INITIALIZED)
    return draft.end(
        ConditionType.FAILED,
        reason=Reason.PRE_RUNNING_DEADLINE_EXCEEDED,
        message=f"not all workers ran within {limit} s, the limit of spec.preRunningDeadlineSeconds: "
        f"{initialized.message if initialized else 'the reason is unknown'}",
    )


def _has_run(draft: Draft, since: str) -> bool:
    """Whether the workers have run since the job became active: they do, or ceased to after that."""
    running = find_condition(draft.status.conditions, ConditionType.RUNNING)
    if running is None:
        return False
    return running.status == "True" or parse_time(running.lastTransitionTime) > parse_time(since)


def _delete_in_time(facts: Facts, draft: Draft, seconds: int | None) -> Draft:
    ended, uid = draft.status.completionTime, facts.metadata.uid
    if seconds is None or ended is None or uid is None:
        return draft
    due = parse_time(ended) + timedelta(seconds=seconds)
    if facts.now < due:
        return draft.check(due)
    return replace(draft, deletions=(*draft.deletions, DeleteJob(uid=uid)))
