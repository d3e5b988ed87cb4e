"""Pods of lost nodes: nobody is left there to end them, so that they would hold their names for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import DeletePod, Draft
from kubedet_operator.decision.pods import PodFacts

EVICTED_FROM_LOST_NODE = "DeletionByTaintManager"
"""Why Kubernetes ends the pods of a node that it has not heard of for as long as they tolerate that."""

PATIENCE_SECONDS = 30
"""How long after its grace a pod may still be there."""


def judge(facts: Facts, draft: Draft) -> Draft:
    """Force away what has outlived its grace on a node that Kubernetes has given up."""
    for pod in facts.pods:
        due = end_of_patience(pod)
        if due is None:
            continue
        if facts.now < due:
            draft = draft.check(due)
        else:
            forced = DeletePod(name=pod.name, uid=pod.uid, force=True)
            draft = replace(draft, deletions=(*draft.deletions, forced))
    return draft


def end_of_patience(pod: PodFacts) -> datetime | None:
    """When a pod of a node that Kubernetes has given up is forced away; None for any other pod."""
    if pod.disruption != EVICTED_FROM_LOST_NODE or pod.gone_by is None or pod.ended:
        return None
    return pod.gone_by + timedelta(seconds=PATIENCE_SECONDS)
