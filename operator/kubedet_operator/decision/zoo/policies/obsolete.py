"""Jobs that train what the table does not ask for any more."""

from __future__ import annotations

from kubedet_operator.decision.zoo.facts import ChildFacts, ZooFacts
from kubedet_operator.decision.zoo.plan import DeleteRowJob, ZooDraft


def judge(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """Delete jobs of rows that mean something else by now, and unfinished ones of rows that are gone."""
    unwanted = (
        DeleteRowJob(name=child.name, uid=child.uid)
        for child in facts.children.values()
        if not child.deleting and _is_obsolete(facts, child)
    )
    return draft.act(*unwanted)


def _is_obsolete(facts: ZooFacts, child: ChildFacts) -> bool:
    row = facts.row_of(child)
    return not child.ended if row is None else not facts.is_current(child, row)
