"""What the seconds of a job's life go into, so that they add up to it across restarts of anything.

How long the job waits, starts, restarts or rests is seen from outside: the time from one turn to the next.
While the workers run, rank 0 counts, and what it has counted since its last report is booked. There is no
other clock: the sum of what is booked is the time since the job's creation that is accounted for. An operator
that dies between a decision and its status books the same again, and one that was away all that it missed.

Nothing is ever taken back, so that Prometheus sees counters. Training that turns out to be in vain stays
training; `lost` is the time in which it is done again, and what a worker that died can no longer report.

The account changes only together with what is written anyway: a condition, or rank 0's report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from kubedet_operator.api.conditions import ConditionType, Reason, find_condition
from kubedet_operator.api.status import TimeAccount
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft
from kubedet_trainer.contract import Progress, TimePhase, TimeSpent
from kubedet_trainer.contract.times import parse_time

RUNNING = "running"
"""The workers run: rank 0 says what the time goes into."""
ENDED = "ended"
"""The job's life is over, unless its spec is corrected before it has trained."""

_WITHOUT_GPUS = (TimePhase.PENDING, TimePhase.SUSPENDED)
_WITHOUT_PLACE = (Reason.UNSCHEDULABLE, Reason.CLAIM_NOT_FOUND, Reason.CHILD_REJECTED)


def judge(facts: Facts, draft: Draft) -> Draft:
    """Book what is known by now, after all other policies have said what the job is up to."""
    known, created = draft.status.time or TimeAccount(), facts.metadata.creationTimestamp
    if created is None or (known.phase == ENDED and draft.finished):
        return draft
    if known.phase == ENDED:  # the spec was corrected: the job has waited for that
        known = replace(known, phase=TimePhase.PENDING.value)
    phase, reached = _phase(draft, known.phase), _reached(facts, draft, known)
    end = parse_time(draft.status.completionTime) if draft.status.completionTime else facts.now
    left = _left(known.seconds, created=created, now=end)
    spent: Mapping[str, float] = {}
    if known.phase == RUNNING:
        spent = _share_out(facts, draft, known, left=left, after=phase)
    elif phase != known.phase:
        # All of it, also what a worker has counted already: it was exposed so.
        spent = {known.phase: left}
    seconds = _sum(known.seconds, spent) if spent else known.seconds
    begins = _begins(draft, known, phase)
    account = TimeAccount(phase=phase, begins=begins, seconds=seconds, reached=reached)
    return draft.change(
        time=account,
        gpuSeconds=_gpu_seconds(facts, spent),
        progress=_with_goodput(draft.status.progress, seconds),
    )


def _gpu_seconds(facts: Facts, spent: Mapping[str, float]) -> float | None:
    """With what the `spent` seconds add: they passed with the workers that the status has known until now."""
    workers, known = facts.status.workers, facts.status.gpuSeconds
    gpus = facts.job.spec.worker.gpus if facts.job else 0
    if not spent or workers is None or not gpus:
        return known
    held = sum(value for phase, value in spent.items() if phase not in _WITHOUT_GPUS)
    return round((known or 0.0) + held * workers.active * gpus, 3)


def seconds_by_phase(manifest: Mapping[str, Any], *, now: datetime) -> dict[str, float]:
    """The account in a job's manifest carried on to `now`, as far as that is certain; none: no account.

    What rank 0 is doing is known once it has reported it.
    """
    account = (manifest.get("status") or {}).get("time")
    if account is None:
        return {}
    # All of them, so that Prometheus sees what the first booking of each adds.
    seconds = {**dict.fromkeys(map(str, TimePhase), 0.0), **(account.get("seconds") or {})}
    phase = account.get("phase", TimePhase.PENDING.value)
    created = manifest["metadata"]["creationTimestamp"]
    if phase not in (RUNNING, ENDED):
        seconds[phase] = seconds.get(phase, 0.0) + _left(seconds, created=created, now=now)
    return seconds


def _phase(draft: Draft, before: str) -> str:
    """What the time goes into from now on."""
    if draft.finished:
        return ENDED
    suspended = find_condition(draft.status.conditions, ConditionType.SUSPENDED)
    if suspended is not None and suspended.status == "True":
        return TimePhase.SUSPENDED.value
    if suspended is not None and suspended.reason == Reason.SUSPENDING:
        return before  # the workers save, and report that with their end
    if draft.holds(ConditionType.RUNNING):
        return RUNNING
    if draft.holds(ConditionType.RESTARTING) or before in (RUNNING, TimePhase.RESTARTING):
        return TimePhase.RESTARTING.value
    initialized = find_condition(draft.status.conditions, ConditionType.INITIALIZED)
    without_place = initialized is not None and initialized.reason in _WITHOUT_PLACE
    if without_place or not draft.holds(ConditionType.QUOTA_RESERVED):
        return TimePhase.PENDING.value
    return TimePhase.STARTING.value


def _begins(draft: Draft, known: TimeAccount, phase: str) -> str:
    """Restarting ends for the job with its pods being back; its time does with rank 0 being so far."""
    if phase == TimePhase.RESTARTING or draft.holds(ConditionType.RESTARTING):
        return TimePhase.RESTARTING.value
    return known.begins if phase == RUNNING else TimePhase.STARTING.value


def _share_out(
    facts: Facts, draft: Draft, known: TimeAccount, *, left: float, after: str
) -> Mapping[str, float]:
    """What the `left` seconds went into, of which some may stay for the next report."""
    report, is_first = _news(facts.status.progress, draft.status.progress)
    if report is None and after == RUNNING:
        return {}
    seconds = dict(report.seconds) if report else {}
    fresh = _reached(facts, draft, known) - _scaled(
        known.reached, facts.status.progress, draft.status.progress
    )
    if report and report.iterations > fresh:
        training = seconds.get(TimePhase.TRAINING, 0.0)
        seconds[TimePhase.TRAINING] = training * fresh / report.iterations
        seconds[TimePhase.LOST] = training - seconds[TimePhase.TRAINING]
    begins = TimePhase.RESTARTING.value if TimePhase.RESTARTING in seconds else known.begins
    started = seconds.pop(TimePhase.STARTING, 0.0)
    counted = started + sum(seconds.values())
    unreported = max(0.0, left - counted)
    seconds[begins] = seconds.get(begins, 0.0) + started
    seconds = {phase: value * min(1.0, left / counted) for phase, value in seconds.items() if value}
    if after != RUNNING:
        phase = _unreported(draft, after)
        seconds[phase] = seconds.get(phase, 0.0) + unreported
    elif is_first:  # what came before this rank 0
        seconds[begins] = seconds.get(begins, 0.0) + unreported
    return seconds


def _unreported(draft: Draft, after: str) -> str:
    """What the time between the last report of a run and its end went into."""
    if after == TimePhase.SUSPENDED:
        return after
    if draft.holds(ConditionType.COMPLETE):
        return TimePhase.EVALUATING.value
    restarting = find_condition(draft.status.conditions, ConditionType.RESTARTING)
    if after == TimePhase.RESTARTING and restarting is not None and restarting.reason == Reason.RESIZED:
        return after
    return TimePhase.LOST.value


def _news(known: Progress | None, newest: Progress | None) -> tuple[TimeSpent | None, bool]:
    """What rank 0 has counted since it was `known`, and whether it is another one that counts."""
    before, after = (progress.time if progress else None for progress in (known, newest))
    if after is None or after == before:
        return None, False
    if before is None or before.since != after.since:
        return after, True
    seconds = {
        phase: max(0.0, value - before.seconds.get(phase, 0.0)) for phase, value in after.seconds.items()
    }
    iterations = max(0, after.iterations - before.iterations)
    return replace(after, iterations=iterations, seconds=seconds), False


def _reached(facts: Facts, draft: Draft, known: TimeAccount) -> int:
    newest = draft.status.progress
    reached = _scaled(known.reached, facts.status.progress, newest)
    return max(reached, newest.iteration) if newest else reached


def _scaled(iterations: int, known: Progress | None, newest: Progress | None) -> int:
    """Iterations done, in iterations of now: with another batch there are more or fewer of them."""
    if not known or not newest or not known.totalIterations or not newest.totalIterations:
        return iterations
    return iterations * newest.totalIterations // known.totalIterations


def _with_goodput(progress: Progress | None, seconds: Mapping[str, float]) -> Progress | None:
    """Rank 0 knows the goodput of its own time only."""
    total = sum(seconds.values())
    if progress is None or not total:
        return progress
    percent = round(100 * seconds.get(TimePhase.TRAINING, 0.0) / total)
    return replace(progress, goodputPercent=percent)


def _left(seconds: Mapping[str, float], *, created: str, now: datetime) -> float:
    """Seconds since the creation that are not accounted for."""
    return max(0.0, (now - parse_time(created)).total_seconds() - sum(seconds.values()))


def _sum(known: Mapping[str, float], spent: Mapping[str, float]) -> dict[str, float]:
    total = {
        str(phase): round(known.get(phase, 0.0) + spent.get(phase, 0.0), 3) for phase in (*known, *spent)
    }
    return {phase: seconds for phase, seconds in total.items() if seconds}
