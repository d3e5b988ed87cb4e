"""One image for all pods of an attempt: agents and rendezvous of two versions need not understand each other.

After an upgrade running pods keep their image. Once one of them must be replaced, all of them are.
"""

from __future__ import annotations

from kubedet_operator.api import names
from kubedet_operator.api.conditions import ConditionType, Reason
from kubedet_operator.children.environment import has_peers
from kubedet_operator.children.workers import image_of
from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft
from kubedet_operator.settings import OperatorSettings


def unify(facts: Facts, draft: Draft, settings: OperatorSettings) -> Draft:
    """Begin a new attempt where a new pod would have another image than those that it is to work with."""
    if draft.finished or facts.job is None or not draft.indices or not has_peers(facts.job.spec):
        return draft
    if draft.create_from is not None and draft.create_from > facts.now:
        return draft
    present = [pod for pod in facts.pods if draft.counts_on(pod)]
    image = image_of(facts.job.spec.worker, settings)
    others = [pod for pod in present if pod.image not in (None, image)]
    is_whole = any(pod.component == names.RENDEZVOUS for pod in present) and set(draft.indices) <= {
        pod.index for pod in present
    }
    if is_whole or not others:
        return draft
    draft = draft.renew(facts.pods)
    if draft.holds(ConditionType.RESTARTING):
        return draft
    return draft.turn(
        ConditionType.RESTARTING,
        True,
        reason=Reason.RESIZED,
        message=f"new pods have the image {image}, those that run have {others[0].image}: all workers save "
        "their state and restart",
    )
