"""What is left of a finished job: unless it says otherwise pods that have ended, for their logs."""

from __future__ import annotations

from dataclasses import replace

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import DeletePod, Draft
from kubedet_operator.decision.pods import PodFacts

_ENDS = {
    ConditionType.RUNNING: Reason.WORKERS_NOT_RUNNING,
    ConditionType.RESTARTING: Reason.RECOVERED,
    ConditionType.DEGRADED: Reason.AS_EXPECTED,
}


def judge(facts: Facts, draft: Draft) -> Draft:
    """Delete the pods of a job that has ended, as cleanPodPolicy says, the rendezvous last."""
    if not draft.finished:
        return draft
    for condition_type, reason in _ENDS.items():
        if draft.holds(condition_type):
            draft = draft.turn(condition_type, False, reason=reason, message="the job has ended")
    policy = facts.job.spec.cleanPodPolicy if facts.job else "Running"
    if policy == "None":
        return draft
    workers = [
        pod for pod in facts.workers if not pod.deleting and (not pod.ended or pod.lingers or policy == "All")
    ]
    others = [pod for pod in facts.pods if pod not in facts.workers and not pod.deleting]
    # Workers that still run save their state, and meet at the rendezvous until they have.
    chosen = workers if any(not pod.ended for pod in facts.workers) else [*workers, *others]
    unwanted = tuple(DeletePod(name=pod.name, uid=pod.uid) for pod in chosen if not _explains(pod, draft))
    return replace(draft, deletions=draft.deletions + unwanted)


def _explains(pod: PodFacts, draft: Draft) -> bool:
    """Whether somebody who asks why the job failed needs this pod's log: it is not deleted.

    One that a sidecar keeps running would hold its GPUs for ever.
    """
    cause = draft.status.lastFailure
    return bool(
        not pod.lingers
        and draft.holds(ConditionType.FAILED)
        and pod.phase == "Failed"
        and cause
        and cause.pod == pod.name
    )
