"""What is deleted some time after its end: jobs whose figures are in the status, and the zoo itself."""

from __future__ import annotations

from datetime import timedelta

from kubedet_operator.decision.zoo.facts import ChildFacts, ZooFacts
from kubedet_operator.decision.zoo.plan import DeleteRowJob, DeleteZoo, ZooDraft
from kubedet_trainer.contract.times import parse_time


def judge(facts: ZooFacts, draft: ZooDraft) -> ZooDraft:
    """Delete what has outlived its ttlSecondsAfterFinished."""
    for child in facts.children.values():
        row = facts.row_of(child)
        if row is None or row.ttl_seconds is None or not _is_recorded(facts, child, row.hash):
            continue
        assert child.completion_time is not None
        due = parse_time(child.completion_time) + timedelta(seconds=row.ttl_seconds)
        if facts.now < due:
            draft = draft.check(due)
        else:
            draft = draft.act(DeleteRowJob(name=child.name, uid=child.uid))
    ttl, ended, uid = facts.spec.ttlSecondsAfterFinished, draft.status.completionTime, facts.metadata.uid
    if ttl is None or ended is None or uid is None or draft.awaits_page:
        return draft
    due = parse_time(ended) + timedelta(seconds=ttl)
    return draft.check(due) if facts.now < due else draft.act(DeleteZoo(uid=uid))


def _is_recorded(facts: ZooFacts, child: ChildFacts, row_hash: str) -> bool:
    """Whether the status, as it is stored, has what the job has reached: nothing is lost with it."""
    if child.deleting or not child.ended or child.completion_time is None or child.hash != row_hash:
        return False
    return facts.known_run(child.recipe, child.seed, hash=row_hash).phase == child.phase
