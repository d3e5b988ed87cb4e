"""How many workers there should be now, and which.

An elastic job changes its size while it trains. It stops the workers with the highest indices first, and the
others continue without them. If no node has room for a worker, the job gives it up while enough others train,
and tries again later. Like further workers it joins after a delay and with the next checkpoint, because every
worker that joins sets the training back to the newest one. Any other job, and one whose workers a queue
admits as a group, restarts with all of its workers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.api.policies import ElasticPolicy
from kubedet_operator.api.status import ElasticStatus
from kubedet_operator.children.environment import has_peers
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.objects import end_of_wait
from kubedet_operator.decision.plan import Draft
from kubedet_operator.decision.pods import PodFacts
from kubedet_trainer.contract.times import parse_time

PLACEMENT_SECONDS = 60
"""How long the scheduler may look for a node while other workers can train without that one."""


def judge(facts: Facts, draft: Draft) -> Draft:
    """Decide which workers should exist, and have the others leave."""
    if draft.finished or facts.job is None or facts.job.spec.suspend:
        return draft
    policy = facts.job.spec.elasticPolicy
    wanted = facts.job.spec.worker.replicas
    size = draft.status.workers.desired if draft.status.workers else 0
    whole = _describe(policy, wanted)
    before = draft.status.elastic
    if size and facts.spec_changed and _bounds(before) != _bounds(whole):
        # The workers know the bounds of their number since they were started.
        draft = _restart_all(facts, draft, "spec.elasticPolicy has changed")
    elif policy is not None and not facts.grouped:
        return _resize(facts, draft, policy, before or ElasticStatus(replicas=wanted))
    elif size not in (0, wanted):
        draft = _restart_all(facts, draft, f"spec.worker.replicas changed from {size} to {wanted}")
    return replace(draft.change(elastic=whole), indices=tuple(range(wanted)))


def _describe(policy: ElasticPolicy | None, wanted: int) -> ElasticStatus | None:
    """The status of a job that has all of its workers; None for one that is not elastic."""
    if policy is None:
        return None
    return ElasticStatus(
        replicas=wanted,
        minReplicas=policy.minReplicas,
        maxReplicas=policy.maxReplicas,
        batch=policy.batch,
    )


def _bounds(status: ElasticStatus | None) -> tuple[object, ...]:
    return (status.minReplicas, status.maxReplicas, status.batch) if status else ()


def _restart_all(facts: Facts, draft: Draft, why: str) -> Draft:
    """Begin a new attempt; the rendezvous pod ends too where a single worker needs none."""
    keeps_rendezvous = facts.job is None or has_peers(facts.job.spec)
    return draft.renew(facts.workers if keeps_rendezvous else facts.pods).turn(
        ConditionType.RESTARTING,
        True,
        reason=Reason.RESIZED,
        message=f"{why}: all workers save their state and restart",
    )


def _resize(facts: Facts, draft: Draft, policy: ElasticPolicy, known: ElasticStatus) -> Draft:
    wanted = facts.job.spec.worker.replicas if facts.job else 0
    workers = [pod for pod in facts.workers if draft.counts_on(pod)]
    leaving = [pod for pod in workers if (pod.index or 0) >= wanted]
    staying = [pod for pod in workers if pod not in leaving]
    draft = draft.retire(leaving)
    absent = {index for index in known.absent if index < wanted}
    since = known.since
    if not any(pod.ready for pod in staying) or wanted < known.replicas:
        absent = set()  # nothing is interrupted, or those who leave make room
    elif added := set(range(known.replicas, wanted)):
        absent |= added
        since = draft.now
    draft, given_up = _give_up(facts, draft, policy, staying)
    if given_up:
        absent |= given_up
        since = draft.now
    elif absent:
        draft, joins = _may_join(facts.now, draft, policy, parse_time(since or draft.now))
        absent = set() if joins else absent
    size = _describe(policy, wanted)
    if size is not None and absent:
        size = replace(size, absent=tuple(sorted(absent)), since=since)
    indices = tuple(index for index in range(wanted) if index not in absent)
    return replace(draft.change(elastic=size), indices=indices)


def _give_up(
    facts: Facts, draft: Draft, policy: ElasticPolicy, workers: Iterable[PodFacts]
) -> tuple[Draft, set[int]]:
    """Give up workers that no node has room for, while enough others train."""
    known = list(workers)
    if sum(pod.ready for pod in known) < policy.minReplicas:
        return draft, set()
    given_up = []
    for pod in known:
        if pod.unscheduled is None or pod.node is not None or pod.index is None:
            continue
        patience_ends = pod.created + timedelta(seconds=PLACEMENT_SECONDS)
        if facts.now >= patience_ends:
            given_up.append(pod)
        else:
            draft = draft.check(patience_ends)
    return draft.retire(given_up), {pod.index for pod in given_up if pod.index is not None}


def _may_join(now: datetime, draft: Draft, policy: ElasticPolicy, since: datetime) -> tuple[Draft, bool]:
    """Whether absent workers may come now; if the delay is what they wait for, ask again after it."""
    due = end_of_wait(since, policy.scaleUpDelaySeconds, now=now)
    if due is not None:
        return draft.check(due), False
    checkpoint = draft.status.checkpoint
    return draft, checkpoint is not None and not parse_time(checkpoint.time) <= since <= now
