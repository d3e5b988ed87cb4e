"""Whether a queue holds the workers back, as Kueue does until there is quota for them."""

from __future__ import annotations

from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft


def judge(facts: Facts, draft: Draft) -> Draft:
    """Turn QuotaReserved by the gates of the pods."""
    if draft.finished or facts.job is None or facts.job.spec.suspend:
        return draft
    queue = facts.job.spec.schedulingPolicy.queue
    workers = [pod for pod in facts.workers if draft.counts_on(pod)]
    gated = sum(pod.gated for pod in workers)
    waits = bool(gated or (queue and not workers))
    if waits:
        reason = Reason.WAITING_FOR_QUOTA
        where = f" in queue {queue}" if queue else ""
        message = f"{gated} of {len(draft.indices)} workers wait{where} for quota"
    elif queue:
        reason, message = Reason.ADMITTED, f"no worker waits in queue {queue}"
    else:
        reason, message = Reason.NO_QUEUE, "the job waits in no queue"
    return draft.turn(ConditionType.QUOTA_RESERVED, not waits, reason=reason, message=message)
