"""What to do about one job: an ordered chain of policies from facts to a plan. Pure; the time is a fact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from kubedet_operator.api import conditions, names
from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.api.status import (
    Condition,
    DetectionJobStatus,
    Display,
    RestartCounts,
    WorkerCounts,
    dump_status,
    format_seconds,
    keep_unknown,
)
from kubedet_operator.children import environment, placement
from kubedet_operator.children.children import build_children
from kubedet_operator.children.storage import with_proposals
from kubedet_operator.decision.facts import Facts, is_newer
from kubedet_operator.decision.objects import is_ahead
from kubedet_operator.decision.plan import Action, ApplyChild, DeletePod, Draft, Plan
from kubedet_operator.decision.policies import (
    accounting,
    cleanup,
    completion,
    correction,
    deadlines,
    elastic,
    exclusion,
    images,
    lost,
    proposals,
    queue,
    restart,
    startup,
    straggler,
    suspend,
    twins,
    validity,
)
from kubedet_operator.settings import OperatorSettings
from kubedet_trainer.contract import ProgressRecord
from kubedet_trainer.contract.times import format_time, parse_time

Policy = Callable[[Facts, Draft], Draft]

POLICIES: tuple[Policy, ...] = (
    correction.judge,
    validity.judge,
    twins.judge,
    elastic.judge,
    completion.judge,
    restart.judge,
    suspend.judge,
    exclusion.judge,
    queue.judge,
    startup.judge,
    proposals.judge,
    deadlines.judge,
    cleanup.judge,
    lost.judge,
    straggler.judge,
    accounting.judge,
)
"""In this order: each one sees what the ones before it have decided."""

REPAIR_SECONDS = 600
"""How often an unfinished job is looked at though nothing has happened, to repair what others have broken."""

_AT_FIRST = (
    (ConditionType.SUSPENDED, Reason.NOT_SUSPENDED, "spec.suspend is false"),
    (ConditionType.QUOTA_RESERVED, Reason.NO_QUEUE, "no worker has been created yet"),
    (ConditionType.INITIALIZED, Reason.WAITING_FOR_PODS, "no worker has started yet"),
    (ConditionType.RUNNING, Reason.WORKERS_NOT_RUNNING, "no worker is ready yet"),
    (ConditionType.RESTARTING, Reason.AS_EXPECTED, "no worker has failed"),
    (ConditionType.DEGRADED, Reason.AS_EXPECTED, "nothing to do"),
    (ConditionType.COMPLETE, Reason.NOT_FINISHED, "the job has not finished"),
    (ConditionType.FAILED, Reason.NOT_FAILED, "the job has not failed"),
)


def decide(facts: Facts, settings: OperatorSettings) -> Plan:
    """The status of the job, the children to apply and delete, and when to decide again."""
    if facts.job is not None and facts.job.spec.managedBy != names.MANAGED_BY:
        return Plan(status=facts.written_status)
    draft = _begin(facts)
    for policy in POLICIES:
        draft = policy(facts, draft)
    draft = images.unify(facts, draft, settings)
    wary = exclusion.avoid_suspects(facts, draft)
    creations = _create_missing(facts, wary, settings)
    if creations:
        status = wary.status
        draft = wary.change(
            startTime=status.startTime or draft.now,
            activeSince=status.activeSince or draft.now,
            training=facts.training,
        )
    return Plan(
        status=keep_unknown(dump_status(_complete_status(facts, draft, creations)), facts.written_status),
        preparations=tuple(action for action in creations if _goes_first(action)),
        actions=(*_deletions(facts, draft), *(action for action in creations if not _goes_first(action))),
        next_check_seconds=_next_check(facts, draft),
    )


def confess(manifest: Mapping[str, Any], *, problem: str, now: datetime) -> dict[str, Any]:
    """The status of a job that cannot be decided about, because of a bug: as it is, and Degraded."""
    status = manifest.get("status") or {}
    known = [item for item in status.get("conditions") or () if item["type"] != ConditionType.DEGRADED]
    told = Condition(
        type=ConditionType.DEGRADED.value,
        status="True",
        reason=Reason.NOT_RECONCILED.value,
        message=f"a bug of the operator keeps it from reconciling this job: {problem}; "
        "the pods continue, and the operator retries with growing delays",
        lastTransitionTime=format_time(now),
    )
    return {**status, "conditions": [*known, dump_status(told)]}


def _begin(facts: Facts) -> Draft:
    """The draft before any policy: the status as it was, with what the trainer says about itself."""
    # Pods that are gone need no mark any more; the cache is complete before the first decision.
    present = {pod.uid for pod in facts.pods}
    charged = tuple(uid for uid in facts.status.chargedPods if uid in present)
    draft = Draft(
        status=replace(facts.status, chargedPods=charged),
        now=format_time(facts.now),
        generation=facts.metadata.generation,
    )
    known = {condition.type for condition in draft.status.conditions}
    for condition_type, reason, message in _AT_FIRST:
        if condition_type not in known:
            draft = draft.turn(condition_type, False, reason=reason, message=message)
    if facts.progress is not None and not draft.finished:
        draft = replace(draft, status=_report(draft.status, facts.progress, now=facts.now))
    return draft


def _report(status: DetectionJobStatus, record: ProgressRecord, *, now: datetime) -> DetectionJobStatus:
    """`status` with the trainer's own words, unless they are older than what is known."""
    restarts = status.restarts or RestartCounts()
    if record.processRestarts > restarts.process:
        status = replace(status, restarts=replace(restarts, process=record.processRestarts))
    known = status.progress
    if known and known.lastProgressTime and is_ahead(parse_time(known.lastProgressTime), now=now):
        known = None  # of a clock that was wrong
    if not is_newer(record.progress, known):
        return status
    return replace(status, progress=record.progress, checkpoint=record.checkpoint or status.checkpoint)


def _deletions(facts: Facts, draft: Draft) -> tuple[Action, ...]:
    """Pods whose end is recorded, and those that policies want to delete as well."""
    accounted = (
        DeletePod(name=pod.name, uid=pod.uid)
        for pod in facts.pods
        if pod.uid in draft.status.chargedPods and not pod.deleting
    )
    return tuple(dict.fromkeys((*accounted, *draft.deletions)))


def _create_missing(facts: Facts, draft: Draft, settings: OperatorSettings) -> tuple[ApplyChild, ...]:
    """The children to apply: pods that do not exist, and those that are looked at together with them."""
    if draft.finished or facts.job is None or not draft.indices:
        return ()
    if draft.create_from is not None and draft.create_from > facts.now:
        return ()
    # Two attempts must never train together: the new one waits until the last pod of the old one has ended.
    if any(not pod.ended and pod.attempt < draft.status.attempt for pod in facts.workers):
        return ()
    taken = {pod.name for pod in facts.pods} | facts.occupied
    has_peers = environment.has_peers(facts.job.spec)
    free = ((index, _free_name(facts, index, has_peers)) for index in draft.indices)
    workers = {index: name for index, name in free if name is not None and name not in taken}
    lacks_rendezvous = has_peers and names.rendezvous_name(facts.metadata.name) not in taken
    if not workers and not lacks_rendezvous and not facts.repair:
        return ()
    children = build_children(
        with_proposals(facts.job, draft.status.proposals),
        attempt=draft.status.attempt,
        settings=settings,
        workers=workers,
        excluded=draft.status.excludedNodes,
        cause=_restart_cause(draft),
    )
    return tuple(
        ApplyChild(manifest=child)
        for child in children
        if child["kind"] != "Pod" or child["metadata"]["name"] not in taken
    )


def _free_name(facts: Facts, index: int, has_peers: bool) -> str | None:
    """What worker `index` may be called that is to be created; None if it is there already.

    Where others train meanwhile, it is created while the one before still ends, under its other name: the
    rendezvous lets it take part after that one has left. The only worker waits, and so does a new attempt.
    """
    name, spare = (
        build(facts.metadata.name, index) for build in (names.worker_name, names.spare_worker_name)
    )
    known = [pod for pod in facts.workers if pod.index == index]
    if not known:
        return name
    are_ending = all(pod.deleting and not pod.ended for pod in known)
    if not are_ending or not has_peers:
        return None
    return spare if name in {pod.name for pod in known} else name


def _restart_cause(draft: Draft) -> str | None:
    restarting = conditions.find_condition(draft.status.conditions, ConditionType.RESTARTING)
    if restarting is None or restarting.status != "True":
        return None
    return f"{restarting.reason}: {restarting.message}"


def _goes_first(action: ApplyChild) -> bool:
    return bool(action.manifest["kind"] == placement.POD_GROUP)


def _complete_status(facts: Facts, draft: Draft, creations: Iterable[ApplyChild]) -> DetectionJobStatus:
    """The final status: what is counted and derived, over what the policies decided.

    Workers that are created right after it is written count already: another write would only say so.
    """
    created = sum(
        child.manifest["metadata"]["labels"][names.APP_COMPONENT] == names.WORKER for child in creations
    )
    status = draft.status
    workers = facts.workers
    ready = sum(pod.ready and pod.active for pod in workers)
    processes = facts.progress.worldSize if facts.progress and ready else 0
    restarts = status.restarts or RestartCounts()
    if facts.job is None and status.workers is not None:
        desired = status.workers.desired  # another version of the operator could read the spec
    else:
        desired = len(draft.indices)
    return replace(
        status,
        observedGeneration=facts.metadata.generation,
        phase=conditions.derive_phase(status.conditions).value,
        reason=_reason(status),
        selector=names.worker_selector(facts.metadata.name),
        restarts=replace(restarts, total=restarts.application + restarts.infrastructure),
        workers=WorkerCounts(
            desired=0 if draft.finished else desired,
            active=sum(pod.active for pod in workers) + created,
            ready=ready,
            succeeded=sum(pod.phase == "Succeeded" for pod in workers),
            failed=sum(pod.phase == "Failed" for pod in workers),
            worldSize=processes,
        ),
        display=_display(facts, draft),
    )


def _display(facts: Facts, draft: Draft) -> Display:
    progress = draft.status.progress
    remaining = progress.estimatedRemainingSeconds if progress and not draft.finished else None
    well = sum((pod.ready and pod.active) or pod.phase == "Succeeded" for pod in facts.workers)
    return Display(
        workers=f"{well}/{facts.job.spec.worker.replicas}" if facts.job else None,
        progress=f"{progress.percentage}%" if progress else None,
        remaining=format_seconds(remaining) if remaining is not None else None,
    )


def _reason(status: DetectionJobStatus) -> str | None:
    reason = conditions.derive_reason(status.conditions)
    if reason == Reason.PERMANENT_FAILURE and status.lastFailure:
        return status.lastFailure.reason  # the phase says already that it is permanent
    return reason


def _next_check(facts: Facts, draft: Draft) -> float | None:
    if draft.check_at is None:
        return None if draft.finished else REPAIR_SECONDS
    # A check in the past means that its moment has come and gone unused: it must not become a busy loop.
    seconds = max((draft.check_at - facts.now).total_seconds(), 0.5)
    return seconds if draft.finished else min(seconds, REPAIR_SECONDS)
