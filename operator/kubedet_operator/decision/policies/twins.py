"""One worker for each index: what an operator created that did not know of another one is taken back."""

from __future__ import annotations

from kubedet_operator.decision.facts import Facts
from kubedet_operator.decision.plan import Draft
from kubedet_operator.decision.pods import PodFacts


def judge(facts: Facts, draft: Draft) -> Draft:
    """Have all but the oldest end of the workers that have one index and are not ending anyway."""
    if draft.finished:
        return draft
    working = sorted(filter(draft.counts_on, facts.workers), key=lambda pod: (pod.created, pod.name))
    oldest: dict[int | None, PodFacts] = {}
    return draft.retire(pod for pod in working if oldest.setdefault(pod.index, pod) is not pod)
