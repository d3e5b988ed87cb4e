"""Which failures are restarted, how often, and after what delay.

Failures that happen together are one incident and are charged once, to the earliest of them that was not
merely left by its peers. The charge and the uids of the incident's pods are written in one status update
before any of the pods is deleted, so that an operator that is restarted at any point neither counts a failure
twice nor forgets one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

from kubedet_operator.api import names
from kubedet_operator.api.conditions import ConditionType, Reason, find_condition
from kubedet_operator.api.policies import FailurePolicy
from kubedet_operator.api.status import HISTORY_LENGTH, FailureRecord, RestartCounts
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.failures import PodFailure, read_failure
from kubedet_operator.decision.objects import end_of_wait
from kubedet_operator.decision.plan import Draft
from kubedet_trainer.contract import ExitCode, FailureClass
from kubedet_trainer.contract.times import format_time, parse_time

INCIDENT_SECONDS = 2
"""How long the endings of peers are waited for before the root cause of an incident is chosen."""

LEAST_WITHOUT_PROGRESS = 3
"""Failures without a newer checkpoint that a job may have unless it says otherwise."""

FIRST_DELAY_SECONDS = 10
LONGEST_DELAY_SECONDS = 360
CALM_SECONDS = 600
"""A failure this long after the end of the last delay starts a new series, which begins without a delay."""


def judge(facts: Facts, draft: Draft) -> Draft:
    """Charge new failures and replace the pods that show them, or fail the job."""
    if draft.finished or facts.job is None:
        return draft
    incident, consequences = _incident(facts, draft)
    if consequences:
        draft = _replace_pods(facts, draft, consequences)
    if incident:
        settled = min(failure.time for failure in incident) + timedelta(seconds=INCIDENT_SECONDS)
        dated = any(failure.is_dated for failure in incident)
        if dated and facts.now < settled and len(facts.workers) > 1:
            return replace(draft, create_from=settled).check(settled)
        draft = _charge(facts, draft, incident)
    return draft if draft.finished else _recover(facts, draft)


def delay_seconds(history: Sequence[FailureRecord]) -> int:
    """Seconds between the newest failure in `history` (newest first) and its restart: 0, 10, 20, ... 360.

    A series of failures ends with a long calm, and with a newer checkpoint.
    """
    series = 1
    calm = timedelta(seconds=CALM_SECONDS + LONGEST_DELAY_SECONDS)
    for newer, older in pairwise(history):
        has_progressed = (newer.checkpointIteration or 0) > (older.checkpointIteration or 0)
        if has_progressed or parse_time(newer.time) - parse_time(older.time) > calm:
            break
        series += 1
    return 0 if series == 1 else min(FIRST_DELAY_SECONDS * 2 ** (series - 2), LONGEST_DELAY_SECONDS)


def _incident(facts: Facts, draft: Draft) -> tuple[list[PodFailure], list[PodFailure]]:
    """The failures that nobody has been charged with yet, the earliest first; and those that follow from
    the failure that was charged last."""
    rules = facts.job.spec.failurePolicy.rules if facts.job else ()
    found = [
        read_failure(pod, rules=rules, now=facts.now)
        for pod in facts.pods
        if pod.uid not in draft.status.chargedPods
    ]
    failures = sorted((failure for failure in found if failure), key=lambda failure: failure.time)
    consequences = [failure for failure in failures if _is_consequence(failure, draft)]
    return [failure for failure in failures if failure not in consequences], consequences


def _is_consequence(failure: PodFailure, draft: Draft) -> bool:
    """Whether the pod only noticed late what has been charged: it was there already, and its peers went."""
    cause = draft.status.lastFailure
    if cause is None or not draft.holds(ConditionType.RESTARTING):
        return False
    left_alone = failure.charged_to is FailureClass.PEER or failure.exit_code == ExitCode.RENDEZVOUS_LOST
    return left_alone and failure.pod.created < parse_time(cause.time)


def _root_cause(incident: Sequence[PodFailure]) -> PodFailure:
    """The failure that explains the others. A pod whose peer failed is no cause while there is any other."""
    own = [failure for failure in incident if failure.charged_to is not FailureClass.PEER]
    permanent = [failure for failure in own if failure.charged_to is FailureClass.PERMANENT]
    if own:
        return (permanent or own)[0]
    # Whatever the peers saw fail is gone without a trace: a disruption, which has a bound as well.
    return replace(incident[0], charged_to=FailureClass.INFRASTRUCTURE)


def _charge(facts: Facts, draft: Draft, incident: Sequence[PodFailure]) -> Draft:
    cause = _root_cause(incident)
    counts = _counts(draft, cause)
    record = _record(cause, counts)
    draft = draft.change(
        lastFailure=replace(record, lastLines=cause.last_lines),
        failureHistory=(record, *draft.status.failureHistory)[:HISTORY_LENGTH],
        restarts=counts,
    )
    if verdict := _verdict(facts, cause, counts):
        reason, message = verdict
        return draft.end(ConditionType.FAILED, reason=reason, message=message)
    draft = _replace_pods(facts, draft, incident)
    lost = cause.charged_to is FailureClass.INFRASTRUCTURE
    budget = (
        f"{counts.infrastructure} of at most {_policy(facts).maxInfrastructureRestarts} after disruptions"
        if lost
        else f"{counts.applicationWithoutProgress} of at most {_backoff_limit(facts)} "
        "without a newer checkpoint"
    )
    delay = delay_seconds(draft.status.failureHistory)
    return draft.turn(
        ConditionType.RESTARTING,
        True,
        reason=Reason.WORKER_LOST if lost else Reason.WORKER_FAILED,
        message=f"{_describe(cause)}; restarts {f'after {delay} s' if delay else 'without delay'} ({budget})",
    )


def _counts(draft: Draft, cause: PodFailure) -> RestartCounts:
    """The counts with `cause` charged."""
    counts = draft.status.restarts or RestartCounts()
    newest = draft.status.checkpoint.iteration if draft.status.checkpoint else 0
    if newest > counts.checkpointIteration:
        counts = replace(counts, withoutProgress=0, applicationWithoutProgress=0, checkpointIteration=newest)
    if cause.charged_to is FailureClass.PERMANENT:
        return counts
    if not cause.from_outside:
        counts = replace(counts, withoutProgress=counts.withoutProgress + 1)
    if cause.charged_to is FailureClass.INFRASTRUCTURE:
        return replace(counts, infrastructure=counts.infrastructure + 1)
    without_progress = counts.applicationWithoutProgress + 1
    return replace(counts, application=counts.application + 1, applicationWithoutProgress=without_progress)


def _policy(facts: Facts) -> FailurePolicy:
    return facts.job.spec.failurePolicy if facts.job else FailurePolicy()


def _backoff_limit(facts: Facts) -> int:
    return facts.job.spec.backoffLimit if facts.job else 0


def _verdict(facts: Facts, cause: PodFailure, counts: RestartCounts) -> tuple[Reason, str] | None:
    """Why the job fails now, or None if the failure is restarted."""
    limit, policy = _backoff_limit(facts), _policy(facts)
    if cause.charged_to is FailureClass.PERMANENT:
        return Reason.PERMANENT_FAILURE, _describe(cause)
    if cause.charged_to is FailureClass.APPLICATION and counts.applicationWithoutProgress > limit:
        return Reason.BACKOFF_LIMIT_EXCEEDED, (
            f"{counts.applicationWithoutProgress} failures without a newer checkpoint in between, "
            f"spec.backoffLimit is {limit}; the last: {_describe(cause)}"
        )
    allowed = policy.stopAfterNoProgressRestarts
    if allowed is None:
        allowed = max(LEAST_WITHOUT_PROGRESS, limit)
    if not cause.from_outside and counts.withoutProgress > allowed:
        return Reason.NO_PROGRESS, (
            f"{counts.withoutProgress} failures without a newer checkpoint in between, "
            f"spec.failurePolicy.stopAfterNoProgressRestarts is {allowed}; the last: {_describe(cause)}"
        )
    if counts.infrastructure > policy.maxInfrastructureRestarts:
        return Reason.TOO_MANY_DISRUPTIONS, (
            f"{counts.infrastructure} restarts after disruptions, "
            f"spec.failurePolicy.maxInfrastructureRestarts is {policy.maxInfrastructureRestarts}; "
            f"the last: {_describe(cause)}"
        )
    return None


def _replace_pods(facts: Facts, draft: Draft, failures: Sequence[PodFailure]) -> Draft:
    """Replace the failed pods, in a new attempt if none of the others can continue."""
    draft = draft.retire(failure.pod for failure in failures)
    failed_worker = any(failure.pod.component == names.WORKER for failure in failures)
    if (facts.grouped and failed_worker) or not any(draft.counts_on(pod) for pod in facts.workers):
        # Nobody is left to rejoin: a new attempt gets a rendezvous id that no earlier ending can have closed.
        return draft.renew(facts.workers)
    return draft


def _recover(facts: Facts, draft: Draft) -> Draft:
    """Say from when on missing pods are created; end the restart once the workers train again."""
    condition = find_condition(draft.status.conditions, ConditionType.RESTARTING)
    if condition is None or condition.status != "True":
        return draft
    since = parse_time(condition.lastTransitionTime)
    history = draft.status.failureHistory
    if history and condition.reason != Reason.RESIZED:
        failed = parse_time(history[0].time)
        create_from = end_of_wait(failed, delay_seconds(history), now=facts.now)
        if create_from is not None:
            return replace(draft, create_from=create_from).check(create_from)
        since = max(since, failed)
    workers = [pod for pod in facts.workers if pod.uid not in draft.status.chargedPods and not pod.deleting]
    if not set(draft.indices) <= {pod.index for pod in workers}:
        return draft
    if not all(pod.ready or pod.phase == "Succeeded" for pod in workers):
        return draft
    progress = facts.progress.progress if facts.progress else None
    last_step = progress.lastProgressTime if progress else None
    if last_step is not None and parse_time(last_step) <= since <= facts.now:
        return draft
    return draft.turn(
        ConditionType.RESTARTING, False, reason=Reason.RECOVERED, message="all workers train again"
    )


def _record(cause: PodFailure, counts: RestartCounts) -> FailureRecord:
    return FailureRecord(
        time=format_time(cause.time),
        class_=cause.charged_to.value,
        reason=cause.reason,
        pod=cause.pod.name,
        node=cause.pod.node,
        rank=cause.rank,
        exitCode=cause.exit_code,
        message=cause.message,
        rule=cause.rule,
        checkpointIteration=counts.checkpointIteration or None,
    )


def _describe(cause: PodFailure) -> str:
    what = "rendezvous pod" if cause.pod.component == names.RENDEZVOUS else "worker"
    code = f", exit code {cause.exit_code}" if cause.exit_code is not None else ""
    rank = f", rank {cause.rank}" if cause.rank is not None else ""
    rule = f", rule {cause.rule}" if cause.rule else ""
    return f"{what} {cause.pod.name} ({cause.reason}{code}{rank}{rule}): {cause.message}"
