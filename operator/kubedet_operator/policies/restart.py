"""Which failures are restarted, how often, and after what delay.

Failures that happen together are one incident and are charged once, to the earliest of them that was not
merely left by its peers. The charge and the uids of the incident's pods are written in one status update
before any of the pods is deleted, so that an operator that is restarted at any point neither counts a failure
twice nor forgets one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

from kubedet_operator.api import names
from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.api.status import HISTORY_LENGTH, FailureRecord, RestartCounts
from kubedet_operator.facts import Facts, PodFacts, format_time, parse_time
from kubedet_operator.failures import PodFailure, read_failure
from kubedet_operator.plan import DeletePod, Draft
from kubedet_trainer.contract import FailureClass

SETTLE_SECONDS = 2
"""How long the endings of peers are waited for before the root cause of an incident is chosen."""

INFRASTRUCTURE_LIMIT = 100
"""Restarts after disruptions until the job fails: nothing is repeated for ever."""

FIRST_DELAY_SECONDS = 10
LONGEST_DELAY_SECONDS = 360
CALM_SECONDS = 600
"""A failure this long after the end of the last delay starts a new series, which begins without a delay."""


def judge(facts: Facts, draft: Draft) -> Draft:
    """Charge new failures and replace the pods that show them, or fail the job."""
    if draft.finished or facts.job is None:
        return draft
    # Pods that are gone need no mark any more; the cache is complete before the first decision.
    present = {pod.uid for pod in facts.pods}
    charged = tuple(uid for uid in draft.status.chargedPods if uid in present)
    draft = draft.change(chargedPods=charged)
    incident = _incident(facts, charged)
    if incident:
        settled = min(failure.time for failure in incident) + timedelta(seconds=SETTLE_SECONDS)
        if facts.now < settled and len(facts.workers) > 1:
            return replace(draft, create_from=settled).check(settled)
        draft = _charge(facts, draft, incident)
    return draft if draft.finished else _replace_pods(facts, draft)


def delay_seconds(history: Sequence[FailureRecord]) -> int:
    """Seconds between the newest failure in `history` (newest first) and its restart: 0, 10, 20, ... 360."""
    series = 1
    calm = timedelta(seconds=CALM_SECONDS + LONGEST_DELAY_SECONDS)
    for newer, older in pairwise(history):
        if parse_time(newer.time) - parse_time(older.time) > calm:
            break
        series += 1
    return 0 if series == 1 else min(FIRST_DELAY_SECONDS * 2 ** (series - 2), LONGEST_DELAY_SECONDS)


def _incident(facts: Facts, charged: Sequence[str]) -> list[PodFailure]:
    """The failures that nobody has been charged with yet, the earliest first."""
    found = [read_failure(pod, now=facts.now) for pod in facts.pods if pod.uid not in charged]
    return sorted((failure for failure in found if failure), key=lambda failure: failure.time)


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
    record = _record(cause)
    counts = _counts(draft, cause)
    draft = draft.change(
        lastFailure=record,
        failureHistory=(record, *draft.status.failureHistory)[:HISTORY_LENGTH],
        restarts=counts,
    )
    if verdict := _verdict(facts, cause, counts):
        reason, message = verdict
        return draft.end(ConditionType.FAILED, reason=reason, message=message)
    replaced = {failure.pod.uid for failure in incident}
    attempt = draft.status.attempt
    if not any(pod.active for pod in facts.workers):
        # Nobody is left to rejoin: a new attempt gets a rendezvous id that no earlier ending can have closed.
        attempt += 1
        replaced |= {pod.uid for pod in facts.workers}
    draft = draft.change(attempt=attempt, chargedPods=(*draft.status.chargedPods, *sorted(replaced)))
    lost = cause.charged_to is FailureClass.INFRASTRUCTURE
    budget = (
        f"{counts.infrastructure} of at most {INFRASTRUCTURE_LIMIT} restarts after disruptions"
        if lost
        else f"{counts.withoutProgress} of at most {_backoff_limit(facts)} without a newer checkpoint"
    )
    delay = delay_seconds(draft.status.failureHistory)
    return draft.turn(
        ConditionType.RESTARTING,
        True,
        reason=Reason.WORKER_LOST if lost else Reason.WORKER_FAILED,
        message=f"{_describe(cause)}; restarted {f'after {delay} s' if delay else 'at once'} ({budget})",
    )


def _counts(draft: Draft, cause: PodFailure) -> RestartCounts:
    """The counts with `cause` charged."""
    counts = draft.status.restarts or RestartCounts()
    newest = draft.status.checkpoint.iteration if draft.status.checkpoint else 0
    if newest > counts.checkpointIteration:
        counts = replace(counts, withoutProgress=0, checkpointIteration=newest)
    if cause.charged_to is FailureClass.INFRASTRUCTURE:
        return replace(counts, infrastructure=counts.infrastructure + 1)
    if cause.charged_to is FailureClass.APPLICATION:
        return replace(counts, application=counts.application + 1, withoutProgress=counts.withoutProgress + 1)
    return counts


def _backoff_limit(facts: Facts) -> int:
    return facts.job.spec.backoffLimit if facts.job else 0


def _verdict(facts: Facts, cause: PodFailure, counts: RestartCounts) -> tuple[Reason, str] | None:
    """Why the job fails now, or None if the failure is restarted."""
    limit = _backoff_limit(facts)
    if cause.charged_to is FailureClass.PERMANENT:
        return Reason.PERMANENT_FAILURE, _describe(cause)
    if cause.charged_to is FailureClass.APPLICATION and counts.withoutProgress > limit:
        return Reason.BACKOFF_LIMIT_EXCEEDED, (
            f"{counts.withoutProgress} failures without a newer checkpoint between them, "
            f"spec.backoffLimit is {limit}; the last one: {_describe(cause)}"
        )
    if counts.infrastructure > INFRASTRUCTURE_LIMIT:
        return Reason.TOO_MANY_DISRUPTIONS, (
            f"{counts.infrastructure} restarts after disruptions; the last one: {_describe(cause)}"
        )
    return None


def _replace_pods(facts: Facts, draft: Draft) -> Draft:
    """Delete the charged pods, and say from when on missing ones are created."""
    deletions = tuple(
        DeletePod(name=pod.name, uid=pod.uid)
        for pod in facts.pods
        if pod.uid in draft.status.chargedPods and not pod.deleting
    )
    draft = replace(draft, deletions=draft.deletions + deletions)
    history = draft.status.failureHistory
    if not history or not draft.holds(ConditionType.RESTARTING):
        return draft
    create_from = parse_time(history[0].time) + timedelta(seconds=delay_seconds(history))
    if create_from > facts.now:
        return replace(draft, create_from=create_from).check(create_from)
    return _recover(facts, draft, since=parse_time(history[0].time))


def _recover(facts: Facts, draft: Draft, *, since: datetime) -> Draft:
    """End the restart once every worker is back, and the training goes on where that can be seen."""
    workers = _current(facts)
    if facts.job is None or len(workers) < facts.job.spec.worker.replicas:
        return draft
    if not all(pod.ready or pod.phase == "Succeeded" for pod in workers):
        return draft
    progress = facts.progress.progress if facts.progress else None
    last_step = progress.lastProgressTime if progress else None
    if last_step is not None and parse_time(last_step) <= since:
        return draft
    return draft.turn(
        ConditionType.RESTARTING, False, reason=Reason.RECOVERED, message="every worker is back"
    )


def _current(facts: Facts) -> list[PodFacts]:
    return [pod for pod in facts.workers if pod.uid not in facts.status.chargedPods and not pod.deleting]


def _record(cause: PodFailure) -> FailureRecord:
    return FailureRecord(
        time=format_time(cause.time),
        class_=cause.charged_to.value,
        reason=cause.reason,
        pod=cause.pod.name,
        node=cause.pod.node,
        rank=cause.rank,
        exitCode=cause.exit_code,
        message=cause.message,
    )


def _describe(cause: PodFailure) -> str:
    what = "rendezvous pod" if cause.pod.component == names.RENDEZVOUS else "worker"
    code = f", exit code {cause.exit_code}" if cause.exit_code is not None else ""
    rank = f", rank {cause.rank}" if cause.rank is not None else ""
    return f"{what} {cause.pod.name} ({cause.reason}{code}{rank}): {cause.message}"
